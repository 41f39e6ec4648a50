"""Maps over flipped and resized copies of the image."""

from __future__ import annotations

from typing import Any

import networks
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from multicam import ClassLogit, InputError, TopClass, explain, explain_layers
from multicam.augmenting import Augmented
from multicam.smoothing import Smoothed


def network(dims: int = 2) -> networks.ConvNet:
    return networks.ConvNet(dims).double()


def signal(batch: int = 2, grid: tuple[int, ...] = (8, 10)) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(batch, 2, *grid, dtype=torch.float64, generator=random)


def at(image: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(image, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam", "occlusion"])
def test_maps_of_the_flipped_image_are_flipped_back(method: str) -> None:
    model, image = network(), signal()
    options: dict[str, Any] = {"layer": "second", "method": method}
    plain = explain(model, image, ClassLogit(1), **options).maps
    mirrored = explain(model, image.flip(3), ClassLogit(1), **options).maps.flip(3)
    assert not torch.allclose(plain, mirrored)
    found = explain(model, image, ClassLogit(1), layer="second", method=Augmented(method))
    torch.testing.assert_close(found.maps, (plain + mirrored) / 2)
    assert found.method == f"augmented {method}"


@pytest.mark.parametrize("method", ["hirescam", "occlusion"])
def test_maps_of_resized_images_come_back_to_the_grid_of_the_image(method: str) -> None:
    model, image = network(), signal()
    options: dict[str, Any] = {"layer": "second", "method": method}
    plain = explain(model, image, ClassLogit(1), **options).maps
    larger = explain(model, at(image, (12, 15)), ClassLogit(1), **options).maps
    assert larger.shape[2:] == (12, 15)
    augmented = Augmented(method, flips=False, scales=(1.0, 1.5))
    found = explain(model, image, ClassLogit(1), layer="second", method=augmented)
    torch.testing.assert_close(found.maps, (plain + at(larger, (8, 10))) / 2)


def test_flips_and_scales_are_combined() -> None:
    model, image = network(), signal()
    each = []
    for size in [(8, 10), (4, 5)]:
        for mirror in (False, True):
            copy = at(image, size).flip(3) if mirror else at(image, size)
            maps = explain(model, copy, ClassLogit(0), layer="second").maps
            each.append(at(maps.flip(3) if mirror else maps, (8, 10)))
    augmented = Augmented(flips=True, scales=(1.0, 0.5))
    found = explain(model, image, ClassLogit(0), layer="second", method=augmented)
    torch.testing.assert_close(found.maps, torch.stack(each).mean(dim=0))


def test_the_image_as_it_is_counts_only_where_its_scale_is_given() -> None:
    model, image = network(), signal()
    smaller = explain(model, at(image, (4, 5)), ClassLogit(0), layer="second").maps
    augmented = Augmented(flips=False, scales=(0.5,))
    found = explain(model, image, ClassLogit(0), layer="second", method=augmented)
    torch.testing.assert_close(found.maps, at(smaller, (8, 10)))
    assert torch.equal(found.scores, explain(model, image, ClassLogit(0), layer="second").scores)


def test_the_map_of_a_mirror_image_is_the_mirrored_map() -> None:
    model, image = network(), signal()
    found = explain(model, image, ClassLogit(1), layer="second", method=Augmented()).maps
    mirrored = explain(model, image.flip(3), ClassLogit(1), layer="second", method=Augmented())
    torch.testing.assert_close(found, mirrored.maps.flip(3))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_it_works_in_any_dimension(dims: int) -> None:
    model, image = network(dims), signal(grid=(6, 4, 5)[:dims])
    augmented = Augmented(scales=(1.0, 1.5))
    found = explain(model, image, ClassLogit(1), layer="second", method=augmented)
    assert found.maps.shape == (2, 1, *image.shape[2:])
    assert found.maps.flatten(1).any(dim=1).all()


def test_copies_are_explained_for_the_class_of_the_image_as_it_is() -> None:
    model, image, augmented = network(), signal(8), Augmented(scales=(0.25, 1.0))
    with torch.no_grad():
        model.head.bias.sub_(model(image).mean(dim=0))  # logits close to each other
    classes = model(image).argmax(dim=1)
    assert (model(at(image, (2, 2))).argmax(dim=1) != classes).any()
    found = explain(model, image, TopClass(), layer="second", method=augmented)
    expected = explain(model, image, ClassLogit(classes.tolist()), layer="second", method=augmented)
    assert torch.equal(found.maps, expected.maps)
    assert found.labels == expected.labels


def test_several_layers_share_the_copies() -> None:
    model, image, augmented = network(), signal(), Augmented(scales=(1.0, 1.25))
    both = explain_layers(model, image, ClassLogit(0), layers=["first", "second"], method=augmented)
    for one in both:
        alone = explain(model, image, ClassLogit(0), layer=one.layer, method=augmented)
        torch.testing.assert_close(one.maps, alone.maps)


def test_wrappers_go_into_each_other() -> None:
    model, image = network(), signal()
    nested = Smoothed(Augmented("layercam"), samples=1, std=0)
    found = explain(model, image, ClassLogit(0), layer="second", method=nested)
    expected = explain(model, image, ClassLogit(0), layer="second", method=Augmented("layercam"))
    torch.testing.assert_close(found.maps, expected.maps)
    assert found.method == "smoothed augmented layercam"


def test_the_model_stays_as_it_was() -> None:
    model = networks.Inplace().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain(model, networks.images(), layer="conv", method=Augmented(scales=(1.0, 1.25)))
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("method", ["gradcam++", "reciprocam"])
def test_the_same_maps_come_every_time(method: str) -> None:
    model, image, augmented = network(), signal(), Augmented(method, scales=(1.0, 1.25))
    first, second = (
        explain(model, image, ClassLogit(0), layer="second", method=augmented).maps
        for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((), r"scales is empty; give \(1.0,\) for the size of the image"),
        ((1.0, 0), "scale 0 is not above 0"),
        ((-1.0,), "scale -1.0 is not above 0"),
        ((float("nan"),), "scale nan is not above 0"),
    ],
)
def test_scales_that_make_no_sense_are_refused(scales: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmented("gradcam", scales=scales)


def test_inputs_without_an_image_are_refused() -> None:
    with pytest.raises(InputError, match="no image is among the inputs"):
        explain(network(), torch.randn(2, 4), ClassLogit(0), layer="second", method=Augmented())
