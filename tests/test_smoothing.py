"""Maps over noisy copies of the image."""

from __future__ import annotations

from typing import Any

import answerers
import captioners
import networks
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from multicam import ClassLogit, InputError, TopClass, explain, explain_layers
from multicam.smoothing import Smoothed, noisy
from multicam.targets import Target
from multicam.tasks.captioning import Captioning
from multicam.tasks.classification import Classification
from multicam.tasks.vqa import VisualQuestionAnswering

PHOTO = Image.linear_gradient("L").convert("RGB").resize((48, 36))


def network() -> networks.ConvNet:
    return networks.ConvNet().double()


def signal(batch: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(3)
    return torch.randn(batch, 2, 8, 9, dtype=torch.float64, generator=random)


def undecided(model: networks.ConvNet, image: Tensor) -> None:
    """Bring the logits so close to each other that the image decides which is the highest."""
    with torch.no_grad():
        model.head.bias.sub_(model(image).mean(dim=0))


@pytest.mark.parametrize("method", ["gradcam", "layercam", "reciprocam", "occlusion"])
def test_the_map_is_the_mean_of_those_of_noisy_copies(method: str) -> None:
    model, image, target = network(), signal(), [ClassLogit(1), ClassLogit([0, 2])]
    copies = noisy(image, 3, 0.2, 7)
    each = [explain(model, one, target, layer="second", method=method).maps for one in copies]
    smoothed = Smoothed(method, samples=3, std=0.2, seed=7)
    found = explain(model, image, target, layer="second", method=smoothed)
    torch.testing.assert_close(found.maps, sum(each) / 3)
    assert found.method == f"smoothed {method}"


def test_scores_and_labels_are_of_the_image_as_it_is() -> None:
    model, image = network(), signal()
    targets: list[Target] = [ClassLogit(0), TopClass()]
    plain = explain(model, image, targets, layer="second")
    found = explain(model, image, targets, layer="second", method=Smoothed(std=1.0))
    assert torch.equal(found.scores, plain.scores)
    assert (found.labels, found.notes, found.layer) == (plain.labels, plain.notes, plain.layer)


def test_copies_are_explained_for_the_class_of_the_image_as_it_is() -> None:
    model, image, smoothed = network(), signal(8), Smoothed(std=2.0)
    undecided(model, image)
    classes = model(image).argmax(dim=1)
    assert any((model(copy).argmax(dim=1) != classes).any() for copy in noisy(image, 8, 2.0, 0))
    found = explain(model, image, layer="second", method=smoothed)
    expected = explain(model, image, ClassLogit(classes.tolist()), layer="second", method=smoothed)
    assert torch.equal(found.maps, expected.maps)


def test_noise_is_a_share_of_the_range_of_each_image_and_the_same_for_all() -> None:
    image = torch.stack([torch.linspace(0, 1, 1200), torch.linspace(-20, 20, 1200)])
    image = image.reshape(2, 3, 20, 20)
    added = torch.stack([copy - image for copy in noisy(image, 20, 0.1, 0)])
    assert added[:, 0].std().item() == pytest.approx(0.1, rel=0.02)
    assert added[:, 0].mean().item() == pytest.approx(0, abs=0.002)
    torch.testing.assert_close(added[:, 1], 40 * added[:, 0], rtol=1e-4, atol=1e-4)
    assert not torch.equal(added[0], added[1])


def test_the_seed_decides_the_map() -> None:
    model, image = network(), signal()
    maps = [
        explain(model, image, ClassLogit(1), layer="second", method=Smoothed(seed=seed)).maps
        for seed in (1, 1, 2)
    ]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_the_random_state_of_the_user_stays() -> None:
    before = torch.get_rng_state()
    explain(network(), signal(), ClassLogit(1), layer="second", method=Smoothed())
    drawn = torch.get_rng_state()
    torch.set_rng_state(before)
    network()
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_batch_gives_what_its_images_give_one_by_one() -> None:
    model, image, smoothed = network(), signal(), Smoothed("hirescam", samples=2)
    together = explain(model, image, ClassLogit(0), layer="first", method=smoothed).maps
    alone = [
        explain(model, one[None], ClassLogit(0), layer="first", method=smoothed).maps
        for one in image
    ]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("method", ["gradcam", "rise", Smoothed("gradcam", std=0.0)])
def test_without_noise_it_is_the_method_itself(method: Any) -> None:
    model, image = network(), signal()
    plain = explain(model, image, ClassLogit(2), layer="second", method=method)
    found = explain(
        model, image, ClassLogit(2), layer="second", method=Smoothed(method, samples=2, std=0)
    )
    torch.testing.assert_close(found.maps, plain.maps)


def test_several_layers_share_the_copies() -> None:
    model, image, smoothed = network(), signal(), Smoothed(samples=2)
    both = explain_layers(model, image, ClassLogit(0), layers=["first", "second"], method=smoothed)
    for one in both:
        alone = explain(model, image, ClassLogit(0), layer=one.layer, method=smoothed)
        torch.testing.assert_close(one.maps, alone.maps)


def test_without_a_layer_the_last_is_found() -> None:
    found = explain(network(), signal(), ClassLogit(0), method=Smoothed(samples=2))
    assert found.layer == "second"
    assert explain(network(), signal(), method=Smoothed("occlusion")).layer == "the image"


def test_other_inputs_stay() -> None:
    model, ids = networks.Asked(), torch.tensor([[1, 2], [3, 4]])
    inputs = {"pixel_values": networks.images(), "input_ids": ids}
    smoothed = Smoothed(samples=2)
    found = explain(model, inputs, ClassLogit(0), layer="image.2", method=smoothed)
    copies = noisy(inputs["pixel_values"], 2, 0.1, 0)
    each = [explain(model, (one, ids), ClassLogit(0), layer="image.2").maps for one in copies]
    torch.testing.assert_close(found.maps, sum(each) / 2)


@pytest.mark.parametrize(
    "explained",
    [
        lambda method: Classification(networks.Inplace(), captioners.transform).explain(
            PHOTO, [0, 3], layer="conv", method=method
        ),
        lambda method: Captioning(
            captioners.Attentive(), captioners.transform, captioners.vocabulary
        ).explain(PHOTO, "a dog runs", layer="cnn.3", method=method),
        lambda method: VisualQuestionAnswering(
            answerers.Stacked(), answerers.transform, answerers.reader, answerers.ANSWERS
        ).explain(PHOTO, "what is the dog holding", layer="cnn.3", method=method),
    ],
    ids=["classification", "captioning", "answering"],
)
def test_it_works_in_each_task(explained: Any) -> None:
    torch.manual_seed(4)
    plain = explained("gradcam")
    torch.manual_seed(4)
    found = explained(Smoothed("gradcam", samples=2, std=0.0))
    torch.testing.assert_close(found.maps, plain.maps)
    assert (found.labels, found.notes) == (plain.labels, plain.notes)


def test_the_model_stays_as_it_was() -> None:
    model = networks.Inplace().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explain(model, networks.images(), layer="conv", method=Smoothed(samples=2))
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_smoothed_maps_can_be_trained_with() -> None:
    model = network()
    found = explain(model, signal(), layer="second", method=Smoothed(samples=2), create_graph=True)
    torch.autograd.backward(found.maps.square().sum() + found.scores.sum())
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples=0: give 1 noisy copy of the image or more"),
        ({"std": -0.1}, "std=-0.1: give the noise as a share of the image's range, 0 or more"),
        ({"std": float("nan")}, "std=nan: give the noise"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Smoothed("gradcam", **settings)


def test_inputs_without_an_image_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 2, 2)), nn.Flatten())
    with pytest.raises(InputError, match="no image is among the inputs"):
        explain(model, torch.randn(2, 4), ClassLogit(0), layer="1", method=Smoothed())


def test_an_image_of_bytes_is_refused() -> None:
    class Bytes(networks.ConvNet):
        def forward(self, signal: Tensor) -> Tensor:
            return super().forward(signal.float())

    with pytest.raises(InputError, match=r"the image is of torch.uint8, .* convert it before"):
        explain(Bytes(), signal().byte(), ClassLogit(0), layer="second", method=Smoothed())


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(InputError, match="the batch is empty: there is nothing to explain"):
        explain(network(), signal(0), ClassLogit(0), layer="second", method=Smoothed())
