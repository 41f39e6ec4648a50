from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

from multicam.errors import InputError
from multicam.explanation import Explanation
from multicam.figures import figure
from multicam.geometry import Geometry, Photo
from multicam.images import load
from multicam.overlay import STYLES
from multicam.words import WordContributions


def explanation(
    photo: Image.Image, labels: list[str], maps: Tensor | None = None, crop: bool = False
) -> Explanation:
    size = photo.height, photo.width
    box = (0.25 * photo.width, 0.0, 0.75 * photo.width, float(photo.height))
    return Explanation(
        maps=torch.rand(1, len(labels), 7, 7) if maps is None else maps,
        scores=torch.arange(1.0, len(labels) + 1)[None],
        labels=(tuple(labels),),
        layer="features",
        method="gradcam",
        versions={},
        photos=(Photo(photo, Geometry(size, box) if crop else Geometry.whole(size)),),
    )


@pytest.fixture
def cat(photos: dict[str, Path]) -> Image.Image:
    return load(photos["cat"])


def pixels(drawn: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def words(drawn: Figure) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in drawn.findobj(Text))


@pytest.mark.parametrize("style", STYLES)
def test_a_figure_has_the_photo_a_panel_a_target_and_one_legend(
    cat: Image.Image, style: str
) -> None:
    drawn = figure(explanation(cat, ["tabby", "tiger cat"]), style=style)
    assert len(drawn.axes) == 1 + 2 + 1
    assert sum(bool(axes.get_xlabel()) for axes in drawn.axes) == 1
    said = words(drawn)
    for expected in ("photo", "tabby score 1", "tiger cat score 2", "speaks for the label"):
        assert expected in said
    shown = pixels(drawn)
    assert shown.shape[1] > 1200
    assert shown.std() > 10


def test_the_panels_show_the_photo_and_the_maps(cat: Image.Image) -> None:
    one = explanation(cat, ["tabby"])
    drawn = figure(one)
    original, overlaid = (axes.images[0].get_array() for axes in drawn.axes[:2])
    assert np.array_equal(np.asarray(original), np.asarray(cat))
    assert np.array_equal(np.asarray(overlaid), one.overlay())


@pytest.mark.parametrize("count", [1, 4, 5, 12, 14])
def test_no_title_is_cut_off_or_meets_another_panel(cat: Image.Image, count: int) -> None:
    long = "a cat with green eyes that looks past the camera at something we cannot see "
    labels = [long * (1 + number % 3) for number in range(count)]
    drawn = figure(explanation(cat, labels, crop=True))
    canvas: Any = FigureCanvasAgg(drawn)
    renderer = canvas.get_renderer()
    titles = [axes.title.get_window_extent(renderer) for axes in drawn.axes[:-1]]
    panels = [axes.get_window_extent(renderer) for axes in drawn.axes]
    assert len(titles) == count + 1
    for place, title in enumerate(titles):
        assert title.x0 >= 0
        assert title.y1 <= drawn.bbox.height
        assert title.x1 <= drawn.bbox.width
        assert not any(title.overlaps(other) for other in titles[:place])
        assert not any(title.overlaps(panel) for panel in panels)


def test_a_silent_map_gives_its_reason_in_words(cat: Image.Image) -> None:
    maps = torch.rand(1, 3, 7, 7)
    maps[0, 1] = -1 - maps[0, 1]
    maps[0, 2] = torch.nan
    one = explanation(cat, ["tabby", "dog", "cup"], maps)
    drawn = figure(one)
    assert len(one.silent) == 2
    for (_, target), reason in one.silent.items():
        assert reason in drawn.axes[1 + target].get_title().replace("\n", " ")
        shown = drawn.axes[1 + target].images[0].get_array()
        assert np.array_equal(np.asarray(shown), np.asarray(cat))
    assert "(" not in drawn.axes[1].get_title()


def test_a_label_with_dollar_signs_is_no_formula(cat: Image.Image) -> None:
    drawn = figure(explanation(cat, [r"from $5 to \frac $6"]))
    assert "from $5 to" in words(drawn)
    pixels(drawn)


def test_what_the_model_saw_is_outlined_if_it_is_a_part(cat: Image.Image) -> None:
    whole, part = (figure(explanation(cat, ["tabby"], crop=crop)) for crop in (False, True))
    assert "dashed" not in words(whole)
    assert "dashed: what the model saw" in words(part)
    assert not whole.axes[0].patches
    outline = part.axes[0].patches[0]
    left, right = (outline.get_window_extent().x0, outline.get_window_extent().x1)
    panel = part.axes[0].get_window_extent()
    assert (left - panel.x0) / panel.width == pytest.approx(0.25, abs=0.01)
    assert (right - panel.x0) / panel.width == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3), (2500, 1500)])
def test_photos_of_any_size_and_shape_make_a_figure(size: tuple[int, int]) -> None:
    drawn = figure(explanation(Image.new("RGB", size, "teal"), ["sea", "sky"]))
    assert max(pixels(drawn).shape) < 3000


def test_the_photo_can_be_given(cat: Image.Image, photos: dict[str, Path]) -> None:
    with_photo = explanation(cat, ["tabby"])
    bare = Explanation(
        with_photo.maps, with_photo.scores, with_photo.labels, "features", "gradcam", {}
    )
    assert np.array_equal(pixels(figure(bare, photos["cat"])), pixels(figure(with_photo)))


def test_without_a_photo_there_is_no_figure(cat: Image.Image) -> None:
    one = explanation(cat, ["tabby"])
    bare = Explanation(one.maps, one.scores, one.labels, "features", "gradcam", {})
    with pytest.raises(InputError, match="made from tensors; pass the image"):
        figure(bare)


def test_an_unknown_style_lists_the_choices(cat: Image.Image) -> None:
    with pytest.raises(InputError, match="no style is called 'fire'; there are heat, signed, spot"):
        figure(explanation(cat, ["tabby"]), style="fire")


# The words of a text below the maps


def shares(words: tuple[str, ...], *rows: tuple[str, list[float]]) -> WordContributions:
    labels, scores = zip(*rows, strict=True)
    return WordContributions(words, torch.tensor(scores), labels, "gradient x input")


def shaded(drawn: Figure) -> dict[str, tuple[float, ...]]:
    """The colour behind each word."""
    panel = drawn.axes[-2]
    boxes = [patch for patch in panel.patches if isinstance(patch, FancyBboxPatch)]
    texts = [text for text in panel.texts if not text.get_text().endswith((":", "scale)"))]
    return {
        text.get_text(): to_rgba(box.get_facecolor())
        for text, box in zip(texts, boxes, strict=True)
    }


def test_words_are_shaded_red_for_the_answer_and_blue_against_it(cat: Image.Image) -> None:
    text = shares(("what", "animal", "is"), ("cat", [-0.4, 0.8, 0.0]))
    found = shaded(figure(explanation(cat, ["cat"]), words=text))
    red, _, blue, _ = found["animal"]
    assert red > 2 * blue
    red, _, blue, _ = found["what"]
    assert blue > 1.2 * red
    assert min(found["is"]) > 0.9  # white


def test_each_answer_has_a_line_and_no_word_is_cut_off(cat: Image.Image) -> None:
    text = shares(
        tuple(f"word{number}" for number in range(30)),
        ("cat", [0.1] * 30),
        ("a dog rather than a cat", [-0.1] * 30),
    )
    drawn = figure(explanation(cat, ["cat", "dog"]), words=text)
    pixels(drawn)
    edges = drawn.bbox
    panel = drawn.axes[-2]
    assert [text.get_text() for text in panel.texts].count("word29") == 2
    assert {"cat:", "a dog rather than a cat:"} <= {text.get_text() for text in panel.texts}
    for one in panel.texts:
        box = one.get_window_extent()
        assert edges.x0 <= box.x0 < box.x1 <= edges.x1
        assert edges.y0 <= box.y0 < box.y1 <= edges.y1


def test_without_words_nothing_is_added(cat: Image.Image) -> None:
    plain = figure(explanation(cat, ["cat"]))
    with_words = figure(explanation(cat, ["cat"]), words=shares(("cat",), ("cat", [1.0])))
    assert len(with_words.axes) == len(plain.axes) + 1
    assert with_words.get_figheight() > plain.get_figheight()
