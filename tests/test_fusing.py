"""Maps of several layers put together."""

from __future__ import annotations

import networks
import pytest
import torch
from torch import Tensor

from multicam import ClassLogit, Explanation, InputError, explain, explain_layers, fuse
from multicam.explanation import FUSIONS

FINE = torch.tensor([[2.0, -1.0], [0.0, 1.0]])
OTHER = torch.tensor([[-2.0, -4.0], [1.0, 4.0]])


def explanation(maps: Tensor, layer: str = "a") -> Explanation:
    maps = maps if maps.ndim > 2 else maps[None, None]
    labels = tuple(("label",) * maps.shape[1] for _ in maps)
    return Explanation(maps, torch.zeros(maps.shape[:2]), labels, layer, "gradcam", {})


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [[0.25, -0.75], [0.125, 0.75]]),
        ("maximum", [[1.0, -0.5], [0.25, 1.0]]),
        ("product", [[0.0, -0.5], [0.0, 0.5]]),
    ],
)
def test_normalised_maps_are_fused_place_by_place(how: str, expected: list[list[float]]) -> None:
    found = fuse([explanation(FINE), explanation(OTHER, "b")], how)
    assert found.maps[0, 0].tolist() == expected
    assert found.layer == "a + b"


def test_the_mean_is_the_default() -> None:
    both = [explanation(FINE), explanation(OTHER)]
    assert torch.equal(fuse(both).maps, fuse(both, "mean").maps)


@pytest.mark.parametrize("how", ["maximum", "product"])
def test_what_speaks_for_the_score_is_fused_by_itself(how: str) -> None:
    maps = torch.randn(3, 2, 2, 4, 4)
    signed = fuse([explanation(one) for one in maps], how).maps.relu()
    peaks = maps.abs().amax(dim=(3, 4), keepdim=True)
    positive = FUSIONS[how]((maps / peaks).relu())
    torch.testing.assert_close(signed, positive)


def test_three_layers_agree_only_where_all_have_one_sign() -> None:
    signs = torch.tensor([[1.0, -1.0, 1.0, 0.5], [1.0, -1.0, -1.0, 1.0], [0.5, -0.5, 1.0, -1.0]])
    found = fuse([explanation(one[None]) for one in signs], "product")
    assert found.maps.flatten().tolist() == [0.5, -0.5, 0.0, 0.0]


@pytest.mark.parametrize("how", FUSIONS)
def test_grids_of_other_sizes_are_resized_to_the_finest(how: str) -> None:
    coarse = explanation(torch.tensor([[2.0, -2.0]]))
    found = fuse([coarse, explanation(FINE)], how)
    even = explanation(torch.tensor([[2.0, -2.0], [2.0, -2.0]]))
    torch.testing.assert_close(found.maps, fuse([even, explanation(FINE)], how).maps)


@pytest.mark.parametrize("how", FUSIONS)
def test_one_explanation_is_only_normalised(how: str) -> None:
    assert torch.equal(fuse([explanation(OTHER)], how).maps, explanation(OTHER).normalized())


@pytest.mark.parametrize("how", FUSIONS)
@pytest.mark.parametrize("method", ["gradcam", "reciprocam"])
def test_explain_fuses_a_list_of_layers(method: str, how: str) -> None:
    model, signal = networks.ConvNet(), torch.randn(2, 2, 6, 6)
    layers = ["first", "second"]
    found = explain(model, signal, ClassLogit(1), layer=layers, method=method, fusion=how)
    apart = explain_layers(model, signal, ClassLogit(1), layers=layers, method=method)
    assert torch.equal(found.maps, fuse(apart, how).maps)
    assert torch.equal(found.scores, apart[0].scores)


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(InputError, match="'sum'; there are mean, maximum, product"):
        fuse([explanation(FINE)], "sum")


@pytest.mark.parametrize("shape", [(2, 1, 2, 2), (1, 2, 2, 2), (1, 1, 4), (1, 1, 2, 2, 2)])
def test_explanations_of_something_else_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"maps of shapes \(1, 1, 2, 2\), \(.*\) cannot be fused"):
        fuse([explanation(FINE), explanation(torch.ones(shape))])
