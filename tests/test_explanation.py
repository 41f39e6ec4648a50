from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from multicam import ClassLogit, Explanation, InputError, explain, fuse
from multicam.geometry import Geometry, Photo
from multicam.version import __version__

MAPS = torch.tensor([[1.0, -4.0], [2.0, 0.0]])
PICTURE = Image.fromarray(np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3))


def explanation(maps: Tensor = MAPS, photos: Sequence[Photo] = (), **changes: Any) -> Explanation:
    maps = maps if maps.ndim > 2 else maps[None, None]
    fields: dict[str, Any] = {
        "maps": maps,
        "scores": torch.zeros(maps.shape[:2]),
        "labels": tuple(tuple("abc"[: maps.shape[1]]) for _ in range(maps.shape[0])),
        "layer": "layer4",
        "method": "gradcam",
        "versions": {"multicam": "1", "torch": "2"},
        "photos": tuple(photos),
    }
    return Explanation(**(fields | changes))


def left_half() -> Photo:
    """A photo of 8 x 12 pixels, of which the model saw the left half."""
    return Photo(PICTURE, Geometry((8, 12), (0.0, 0.0, 6.0, 8.0)))


def test_heatmaps_keep_what_speaks_for_the_score() -> None:
    assert explanation().heatmaps()[0, 0].tolist() == [[1, 0], [2, 0]]


def test_normalized_maps_keep_their_sign_and_zeros() -> None:
    maps = torch.stack([MAPS, torch.zeros(2, 2)])[None]
    found = explanation(maps).normalized()[0]
    assert found.tolist() == [[[0.25, -1], [0.5, 0]], [[0, 0], [0, 0]]]


def test_resized_maps_have_half_pixel_centres() -> None:
    found = explanation(torch.tensor([[0.0, 4.0]])).resized((1, 4))
    assert found[0, 0].tolist() == [[0.0, 1.0, 3.0, 4.0]]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[0.0, 0.0]], "all zero: the score does not react to this layer"),
        ([[-1.0, 0.0]], "no positive value: nothing here speaks for the score"),
        ([[2.0, 2.0]], "constant: every place counts the same"),
        ([[1.0, float("nan")]], "not finite: the gradient or the activations overflowed"),
        ([[1.0, float("inf")]], "not finite: the gradient or the activations overflowed"),
    ],
)
def test_a_map_that_says_nothing_says_why(values: list[list[float]], reason: str) -> None:
    maps = torch.stack([torch.tensor([[1.0, 2.0]]), torch.tensor(values)])[:, None]
    found = explanation(maps)
    assert found.silent == {(1, 0): reason}
    assert reason in repr(found)


def test_a_map_that_speaks_is_not_silent() -> None:
    assert explanation().silent == {}
    assert "silent" not in repr(explanation())


def test_the_text_shows_shapes_and_labels() -> None:
    text = repr(explanation(torch.rand(6, 2, 3, 3)))
    assert "maps=(6, 2, 3, 3)" in text
    assert "labels='a, b; a, b; a, b; a, b; ...', layer='layer4', method='gradcam'" in text


def test_a_map_lies_where_the_model_looked() -> None:
    placed = explanation(photos=[left_half()]).placed()
    assert placed.shape == (8, 12)
    assert np.isnan(placed[:, 6:]).all()
    assert placed[[0, -1, 0, -1], [0, 0, 5, 5]].tolist() == [1, 2, -4, 0]


def test_without_photos_the_model_saw_the_whole_image_given() -> None:
    assert not np.isnan(explanation().placed(PICTURE)).any()


def test_another_image_of_the_same_size_keeps_the_place() -> None:
    found = explanation(photos=[left_half()]).placed(Image.new("RGB", (12, 8)))
    assert np.isnan(found[:, 6:]).all()


@pytest.mark.parametrize("view", ["placed", "overlay", "figure", "boxes"])
def test_a_view_without_a_photo_asks_for_the_image(view: str) -> None:
    with pytest.raises(InputError, match="made from tensors; pass the image to show it on"):
        getattr(explanation(), view)()


def test_a_map_over_one_or_three_dimensions_lies_on_no_photo() -> None:
    with pytest.raises(InputError, match=r"a map over \(5,\) places does not lie on a photo"):
        explanation(torch.rand(1, 1, 5)).placed(PICTURE)


def test_the_box_holds_the_largest_part_above_the_threshold() -> None:
    maps = torch.zeros(8, 12)
    maps[1:4, 2:5] = 1.0
    maps[6, 10] = 5.0
    found = explanation(maps)
    assert found.boxes(PICTURE) == [[(2.0, 1.0, 5.0, 4.0)]]
    assert found.boxes(PICTURE, threshold=0.5) == [[(10.0, 6.0, 11.0, 7.0)]]


def test_the_default_threshold_is_that_of_the_paper() -> None:
    maps = torch.zeros(8, 12)
    maps[1, 2:7] = torch.tensor([0.14, 0.16, 1.0, 0.16, 0.14])
    assert explanation(maps).boxes(PICTURE) == [[(3.0, 1.0, 6.0, 2.0)]]


def test_what_speaks_against_a_score_has_no_box() -> None:
    assert explanation(-MAPS.abs()).boxes(PICTURE) == [[None]]


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match=rf"threshold {threshold} is not in 0 <= threshold < 1"):
        explanation().boxes(PICTURE, threshold=threshold)


def test_an_overlay_leaves_what_the_model_did_not_see() -> None:
    painted = explanation(photos=[left_half()]).overlay()
    assert painted.shape == (8, 12, 3)
    assert np.array_equal(painted[:, 6:], np.asarray(PICTURE)[:, 6:])
    assert not np.array_equal(painted[:, :6], np.asarray(PICTURE)[:, :6])


def test_a_notebook_shows_a_picture_for_each_photo_else_the_text() -> None:
    shown = explanation(torch.rand(2, 1, 2, 2), [left_half(), left_half()])._repr_html_()
    assert shown.count('<img src="data:image/png;base64,') == 2
    escaped = explanation(layer="<layer>")._repr_html_()
    assert escaped.startswith("<pre>Explanation(")
    assert "&lt;layer&gt;" in escaped


def test_a_figure_is_drawn() -> None:
    assert isinstance(explanation(photos=[left_half()]).figure(style="signed"), Figure)


@pytest.mark.parametrize("photos", [[], [left_half()]], ids=["tensors", "photos"])
def test_what_is_saved_is_loaded_the_same(tmp_path: Path, photos: list[Photo]) -> None:
    original = explanation(torch.rand(1, 3, 4, 5), photos, labels=(("a", "b", "straße"),))
    original.save(tmp_path / "map.safetensors")
    loaded = Explanation.load(tmp_path / "map.safetensors")
    assert torch.equal(loaded.maps, original.maps)
    assert torch.equal(loaded.scores, original.scores)
    for name in ("labels", "layer", "method", "versions"):
        assert getattr(loaded, name) == getattr(original, name)
    assert [photo.geometry for photo in loaded.photos] == [photo.geometry for photo in photos]
    assert [photo.image.tobytes() for photo in loaded.photos] == [PICTURE.tobytes() for _ in photos]


def test_an_explanation_to_train_with_can_be_saved(tmp_path: Path) -> None:
    model = networks.Inplace().bfloat16().eval()
    images = networks.images().bfloat16()
    found = explain(model, images, ClassLogit(0), layer="conv", create_graph=True)
    found.save(tmp_path / "map")
    assert torch.equal(Explanation.load(tmp_path / "map").maps, found.maps)
    assert found.versions == {"multicam": __version__, "torch": torch.__version__}


def test_a_file_that_holds_no_explanation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a map")
    save_file({"weight": torch.ones(1)}, tmp_path / "weights")
    for name in ("text", "weights", "missing"):
        with pytest.raises(InputError, match=rf"{name} is not a saved explanation"):
            Explanation.load(tmp_path / name)


def test_fused_maps_are_the_mean_of_the_normalised_in_the_finest_grid() -> None:
    coarse, fine = explanation(torch.tensor([[2.0]])), explanation(MAPS, layer="layer3")
    found = fuse([coarse, fine])
    assert found.maps[0, 0].tolist() == [[0.625, 0.0], [0.75, 0.5]]
    assert found.layer == "layer4 + layer3"


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_maps_of_any_dimension_are_fused(dims: int) -> None:
    fine, coarse = torch.rand(1, 1, *[4] * dims), torch.rand(1, 1, *[2] * dims)
    assert fuse([explanation(coarse), explanation(fine)]).maps.shape == fine.shape


def test_nothing_to_fuse_is_refused() -> None:
    with pytest.raises(InputError, match="no explanations to fuse; give at least one layer"):
        fuse([])
