"""The result: signed maps with what is needed to read them, and views that show them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from io import BytesIO
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from multicam.errors import InputError
from multicam.resizing import resized
from multicam.targets import Scored
from multicam.version import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from multicam.crosscheck import CrossCheck
    from multicam.geometry import Photo
    from multicam.images import ImageSource
    from multicam.words import WordContributions

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps that say which places made each score what it is.

    Attributes:
        maps: signed and not normalised, float32, (batch, target, height, width) in
            cells of the feature map, on the model's device.
        scores: (batch, target).
        labels: `labels[sample][target]` names the score.
        layer: name of the feature map.
        method: name of the method.
        versions: of multicam and torch.
        photos: the original of each sample and the part of it that the model saw;
            empty where `explain` was given tensors.
        notes: `notes[sample][target]` says in a few words how high the score is.
        model: name of the model's class.
    """

    maps: Float[Tensor, "batch target *grid"]
    scores: Float[Tensor, "batch target"]
    labels: tuple[tuple[str, ...], ...]
    layer: str
    method: str
    versions: Mapping[str, str]
    photos: tuple[Photo, ...] = field(default=(), repr=False)
    notes: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    model: str = ""

    def __repr__(self) -> str:
        """One line with the shapes, the labels and what a map fails to say."""
        labels = "; ".join(", ".join(row) for row in self.labels[:4])
        labels += "; ..." if len(self.labels) > 4 else ""
        silent = f", silent={self.silent}" if self.silent else ""
        return (
            f"Explanation(maps={tuple(self.maps.shape)}, labels={labels!r}, "
            f"layer={self.layer!r}, method={self.method!r}{silent})"
        )

    @property
    def silent(self) -> dict[tuple[int, int], str]:
        """The maps that say nothing: (sample, target) to the reason."""
        reasons = {}
        for sample, row in enumerate(self.maps.detach()):
            for target, values in enumerate(row):
                if reason := _reason_for_silence(values):
                    reasons[sample, target] = reason
        return reasons

    def heatmaps(self) -> Float[Tensor, "batch target *grid"]:
        """What speaks for each score: ReLU of the maps, equation 2 of the Grad-CAM paper."""
        return self.maps.relu()

    def normalized(self) -> Float[Tensor, "batch target *grid"]:
        """The signed maps, each divided by its own largest magnitude: -1 to 1.

        This hides how strong one map is beside another. A map of zeros stays so.
        """
        peaks = self.maps.abs().flatten(2).amax(dim=2)
        peaks = peaks.reshape(*peaks.shape, *[1] * (self.maps.ndim - 2))
        return self.maps / torch.where(peaks > 0, peaks, 1)

    def resized(self, size: tuple[int, int]) -> Float[Tensor, "batch target height width"]:
        """The signed maps at another size, bilinear, half-pixel centres.

        Args:
            size: (height, width) in pixels.
        """
        return torch.nn.functional.interpolate(
            self.maps, size=size, mode="bilinear", align_corners=False
        )

    def photo(self, image: ImageSource | None = None, *, sample: int = 0) -> Photo:
        """The photo of a sample, with the part of it that the model saw.

        Args:
            image: as in `placed`.
            sample: which one of the batch.

        Raises:
            InputError: there is no photo, or the image cannot be read.
        """
        from multicam.geometry import Geometry, Photo
        from multicam.images import load

        if image is not None:
            loaded = load(image)
            if self.photos and self.photos[sample].image.size == loaded.size:
                return Photo(loaded, self.photos[sample].geometry)
            return Photo(loaded, Geometry.whole((loaded.height, loaded.width)))
        if not self.photos:
            raise InputError("this explanation was made from tensors; pass the image to show it on")
        return self.photos[sample]

    def placed(
        self, image: ImageSource | None = None, *, sample: int = 0, target: int = 0
    ) -> Float[np.ndarray, "height width"]:
        """The signed map laid on the photo where the model looked.

        Args:
            image: the photo, for explanations that carry none; the model is then
                taken to have seen the whole of it.
            sample: which one of the batch.
            target: which one of its targets.

        Returns:
            (height, width) of the photo; NaN where the model did not look.

        Raises:
            InputError: there is no photo, or the map has not two dimensions.
        """
        if self.maps.ndim != 4:
            raise InputError(
                f"a map over {tuple(self.maps.shape[2:])} places does not lie on a photo; "
                "that takes (height, width)"
            )
        values = self.maps[sample, target].detach().float().cpu().numpy()
        return self.photo(image, sample=sample).geometry.place(values)

    def boxes(
        self, image: ImageSource | None = None, *, threshold: float = 0.15
    ) -> list[list[Box | None]]:
        """A box around what speaks for each score, in pixels of the photo.

        The heatmap is cut at `threshold` times its maximum, and the box holds the
        largest connected part: section 4.1 of the Grad-CAM paper.

        Args:
            image: as in `placed`.
            threshold: as a fraction of the maximum, 0 to 1.

        Returns:
            `boxes[sample][target]` as (left, top, right, bottom); None where no value
            is positive.

        Raises:
            InputError: the threshold is not between 0 and 1.
        """
        if not 0 <= threshold < 1:
            raise InputError(f"threshold {threshold} is not in 0 <= threshold < 1")
        samples, targets = self.maps.shape[:2]
        return [
            [
                _box(self.placed(image, sample=sample, target=target), threshold)
                for target in range(targets)
            ]
            for sample in range(samples)
        ]

    def overlay(
        self,
        image: ImageSource | None = None,
        *,
        sample: int = 0,
        target: int = 0,
        style: str = "heat",
        **options: Any,
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The map painted over the photo, in the photo's own size.

        Args:
            image: as in `placed`.
            sample: which one of the batch.
            target: which one of its targets.
            style: "heat", "signed" or "spotlight".
            options: of the style, such as `colormap` and `opacity`; see `multicam.overlay`.

        Returns:
            RGB, (height, width, 3), uint8.
        """
        from multicam.overlay import paint

        photo = self.photo(image, sample=sample)
        values = self.placed(image, sample=sample, target=target)
        return paint(np.asarray(photo.image), values, style=style, **options)

    def figure(
        self,
        image: ImageSource | None = None,
        *,
        sample: int = 0,
        style: str = "heat",
        words: WordContributions | None = None,
    ) -> Figure:
        """The photo and one map per target, side by side, with scores and a legend.

        With `words`, the text below them with its words shaded.
        """
        from multicam.figures import figure

        return figure(self, image, sample=sample, style=style, words=words)

    def report(
        self,
        path: str | PathLike[str],
        image: ImageSource | Sequence[ImageSource] | None = None,
        *,
        words: WordContributions | None = None,
        checks: Sequence[CrossCheck] = (),
    ) -> None:
        """Write one HTML file with everything inside, to be looked at in a browser.

        It has the photo and every map, heat or signed, by the label that is pointed at;
        scores and notes; and how the maps were made. A file that exists is replaced.

        Args:
            path: of the file, in a folder that exists.
            image: as in `placed`; for a batch without photos a list, one for each sample.
                Photos of more than 1,024 pixels a side are scaled down for the report.
            words: what the words of a question contributed, to be shown shaded.
            checks: results of `multicam.crosscheck`, whose figures are to be shown.

        Raises:
            InputError: there is no photo, or the file cannot be written.
        """
        from multicam.report import report

        report(self, path, image, words=words, checks=checks)

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything, the photos as PNG among it, to one safetensors file."""
        from safetensors.torch import save_file

        about = {
            "labels": self.labels,
            "notes": self.notes,
            "layer": self.layer,
            "method": self.method,
            "model": self.model,
            "versions": dict(self.versions),
            "boxes": [photo.geometry.box for photo in self.photos],
        }
        tensors = {"maps": self.maps.detach().contiguous(), "scores": self.scores.detach()}
        for index, photo in enumerate(self.photos):
            tensors[f"photo.{index}"] = torch.frombuffer(_png(photo.image), dtype=torch.uint8)
        save_file(tensors, path, metadata={"multicam": json.dumps(about)})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Explanation:
        """Read what `save` wrote; the tensors are on the CPU.

        Raises:
            InputError: the file is missing, or not an explanation.
        """
        from safetensors import SafetensorError, safe_open

        from multicam.geometry import Geometry, Photo
        from multicam.images import load

        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["multicam"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path} is not a saved explanation ({error})") from error
        photos = []
        for index, box in enumerate(about.pop("boxes")):
            image = load(tensors[f"photo.{index}"].numpy().tobytes())
            photos.append(Photo(image, Geometry((image.height, image.width), tuple(box))))
        return cls(
            maps=tensors["maps"],
            scores=tensors["scores"],
            labels=tuple(tuple(row) for row in about.pop("labels")),
            notes=tuple(tuple(row) for row in about.pop("notes", ())),
            photos=tuple(photos),
            **about,
        )

    def _repr_html_(self) -> str:
        """The figure of each sample, for notebooks; the text where there is no photo."""
        if not self.photos:
            return f"<pre>{escape(repr(self))}</pre>"
        figures = (self.figure(sample=sample) for sample in range(len(self.photos)))
        encoded = (b64encode(_figure_png(figure)).decode() for figure in figures)
        return "".join(f'<img src="data:image/png;base64,{data}">' for data in encoded)


def explanation_of(
    maps: Float[Tensor, "batch target *grid"], scored: Sequence[Scored], *, layer: str, method: str
) -> Explanation:
    """An explanation of the scores that targets gave; these keep a graph where maps do."""
    scores = torch.stack([one.scores for one in scored], dim=1)
    return Explanation(
        maps=maps.float(),
        scores=scores if maps.requires_grad else scores.detach(),
        labels=tuple(zip(*(one.labels for one in scored), strict=True)),
        notes=tuple(zip(*(one.notes for one in scored), strict=True)),
        layer=layer,
        method=method,
        versions=versions(),
    )


def _agreed(layers: Float[Tensor, "layer *maps"]) -> Float[Tensor, "*maps"]:
    """The product where all layers have one sign, with that sign; 0 elsewhere."""
    return layers.relu().prod(dim=0) - (-layers).relu().prod(dim=0)


FUSIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "mean": lambda layers: layers.mean(dim=0),
        "maximum": lambda layers: layers.amax(dim=0),
        "product": _agreed,
    }
)
"""Ways to fuse the normalised maps of layers, (layer, ...), place by place."""


def fuse(explanations: Sequence[Explanation], how: str = "mean") -> Explanation:
    """One explanation from those of several layers.

    Each map is divided by its own largest magnitude, since gradients of different
    layers have different scales, and resized to the finest of the grids. Then, for each
    place, with m_l the value of layer l from -1 to 1:

        mean      1/L sum over l of m_l
        maximum   max over l of m_l: where one layer at least speaks for the score
        product   prod over l of |m_l|, with their sign: where all layers agree; else 0

    pytorch-grad-cam takes the mean, torchcam the maximum, both after a ReLU.

    Args:
        explanations: of the same inputs and targets.
        how: a name in `FUSIONS`.

    Returns:
        Signed maps in -1 to 1; the layers' names joined by " + ".

    Raises:
        InputError: there is nothing to fuse, the fusion is unknown, or the explanations
            are not of the same samples and targets.
    """
    if not explanations:
        raise InputError("no explanations to fuse; give at least one layer")
    if how not in FUSIONS:
        raise InputError(f"no fusion is called {how!r}; there are {', '.join(FUSIONS)}")
    if len({(one.maps.shape[:2], one.maps.ndim) for one in explanations}) > 1:
        shapes = ", ".join(str(tuple(one.maps.shape)) for one in explanations)
        raise InputError(
            f"maps of shapes {shapes} cannot be fused; they need the same samples and targets, "
            "and a grid of as many dimensions"
        )
    first = explanations[0]
    finest = max((one.maps.shape[2:] for one in explanations), key=lambda grid: grid.numel())
    layers = [resized(one.normalized(), finest) for one in explanations]
    return replace(
        first,
        maps=FUSIONS[how](torch.stack(layers)),
        layer=" + ".join(one.layer for one in explanations),
    )


def _reason_for_silence(values: Tensor) -> str | None:
    if not values.isfinite().all():
        return "not finite: the gradient or the activations overflowed"
    if not values.any():
        return "all zero: the score does not react to this layer"
    if not (values > 0).any():
        return "no positive value: nothing here speaks for the score"
    if values.min() == values.max():
        return "constant: every place counts the same"
    return None


def _box(values: np.ndarray, threshold: float) -> Box | None:
    import cv2

    heat = np.nan_to_num(values, nan=0.0)
    if heat.max() <= 0:
        return None
    mask = (heat > threshold * heat.max()).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    left, top, width, height, _ = max(stats[1:], key=lambda part: part[cv2.CC_STAT_AREA])
    return float(left), float(top), float(left + width), float(top + height)


def _figure_png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _png(image: Image) -> bytearray:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return bytearray(buffer.getvalue())
