"""Pictures of what a network goes by: two classes in one photo, every class, confusions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from multicam import Difference
from multicam.geometry import Geometry
from multicam.guided import guided_grad_cam
from multicam.images import ImageSource, load
from multicam.overlay import colors
from multicam.tasks.classification import Classification

SIDE = 2.0
"""Inches of a panel's longer side."""

BARS = 6
"""Classes whose probability is shown."""


def two_classes(task: Classification, photo: ImageSource, pair: Sequence[int]) -> Figure:
    """A photo and the maps of two classes; below them the probabilities and Guided Grad-CAM."""
    found = task.explain(photo, list(pair))
    inputs, (shown,) = task.prepare(photo)
    targets = [task.target(index) for index in pair]
    guided = guided_grad_cam(task.model, inputs, targets, layer=task.layer)
    drawn, panels = grid(2, 3, shown.image.size, 1.5 * SIDE)
    show(panels[0, 0], np.asarray(shown.image), "photo")
    probabilities(panels[1, 0], task, photo, pair)
    for column, index in enumerate(pair):
        above, below = panels[:, column + 1]
        show(above, found.overlay(target=column), f"Grad-CAM: {task.names[index]}")
        picture = on_grey(guided.image(target=column), shown.geometry)
        show(below, picture, f"Guided Grad-CAM: {task.names[index]}")
    legend(drawn, panels, "jet", ("nothing", "most"), "speaks for the class")
    return drawn


def on_grey(picture: np.ndarray, geometry: Geometry) -> np.ndarray:
    """What the network saw, laid where it lies on the photo; grey around it."""
    values = picture.astype(np.float32)
    channels = [geometry.place(values[:, :, channel]) for channel in range(3)]
    return np.nan_to_num(np.stack(channels, axis=2), nan=128).astype(np.uint8)


def probabilities(
    panel: Axes, task: Classification, photo: ImageSource, pair: Sequence[int]
) -> None:
    """The probabilities of two classes, and of the likeliest others, as bars."""
    shares = task.probabilities(photo)[0]
    likeliest = dict.fromkeys([*pair, *shares.argsort(descending=True).tolist()])
    shown = sorted(list(likeliest)[:BARS], key=lambda index: -shares[index])
    tints = ["steelblue" if index in pair else "lightgrey" for index in shown]
    bars = panel.barh([task.names[index] for index in shown], shares[shown].tolist(), color=tints)
    panel.bar_label(bars, [f"{shares[index]:.1%}" for index in shown], padding=3, fontsize=9)
    panel.set_axis_on()
    panel.invert_yaxis()
    panel.set_xlim(0, 1.25)
    panel.set_xticks([])
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.tick_params("y", length=0, labelsize=9)
    panel.set_title("what the network says", fontsize=9)


def every_class(task: Classification, photos: Sequence[Path]) -> Figure:
    """One photo of each class with its map, in the order of the classes."""
    across = 3 if len(photos) <= 9 else 5
    rows = -(-len(photos) // across)
    drawn, panels = grid(rows, 2 * across, load(photos[0]).size, SIDE * 0.8)
    pairs = panels.reshape(-1, 2)
    for index, photo in enumerate(photos):
        found = task.explain(photo, index)
        show(pairs[index, 0], np.asarray(found.photos[0].image), task.names[index])
        share = task.probabilities(photo)[0, index]
        show(pairs[index, 1], found.overlay(), f"{share:.0%}")
    legend(drawn, panels, "jet", ("nothing", "most"), "speaks for the photo's class")
    return drawn


def confusions(task: Classification, wrong: Sequence[tuple[Path, int, int]]) -> Figure:
    """What spoke for the class that was said, for the right one, and for one against the other.

    Args:
        task: the network with the names of its classes.
        wrong: photos, each with the right class and the one that the network says.
    """
    drawn, panels = grid(len(wrong), 4, load(wrong[0][0]).size, SIDE)
    for row, (photo, right, said) in zip(panels, wrong, strict=True):
        targets = [task.target(said), task.target(right)]
        found = task.explain(photo, [*targets, Difference(*targets)])
        shares = task.probabilities(photo)[0]
        names = [f"{task.names[index]}: {shares[index]:.0%}" for index in (said, right)]
        show(row[0], np.asarray(found.photos[0].image), f"{task.names[right]}")
        show(row[1], found.overlay(), f"said: {names[0]}")
        show(row[2], found.overlay(target=1), f"right: {names[1]}")
        show(row[3], found.overlay(target=2, style="signed"), "one against the other")
    legend(
        drawn, panels, "diverging", ("the right one", "what was said"), "last column: speaks for"
    )
    legend(drawn, panels, "jet", ("nothing", "most"), "speaks for the class")
    return drawn


def grid(rows: int, columns: int, size: tuple[int, int], side: float) -> tuple[Figure, np.ndarray]:
    """Panels without axes, (row, column), in the proportions of a photo of this size."""
    width, height = (side * length / max(size) for length in size)
    drawn = Figure(
        (columns * (width + 0.1), rows * (height + 0.3) + 0.6), 120, layout="constrained"
    )
    drawn.get_layout_engine().set(h_pad=0.08)
    panels = drawn.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    return drawn, panels


def show(panel: Axes, picture: np.ndarray, title: str) -> None:
    panel.imshow(picture)
    panel.set_title(title, fontsize=9, parse_math=False)


def legend(
    drawn: Figure, panels: np.ndarray, colormap: str, ends: tuple[str, str], what: str
) -> None:
    """The colours and what they stand for, below these panels."""
    mapping = ScalarMappable(cmap=ListedColormap(colors(colormap) / 255))
    bar = drawn.colorbar(
        mapping, ax=panels, orientation="horizontal", fraction=0.03, pad=0.02, aspect=40, shrink=0.6
    )
    bar.set_ticks([0, 1], labels=list(ends), fontsize=8)
    bar.set_label(f"{what} (each panel on its own scale)", fontsize=9)
    bar.outline.set_visible(False)
