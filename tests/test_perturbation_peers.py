"""The maps of pytorch-grad-cam and torchcam without gradients, or where they differ.

Maps are compared after ReLU and min-max normalisation, which is what the peers return.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from networks import images
from torch import Tensor, nn
from torch.nn.functional import interpolate

from multicam import ClassLogit, explain
from multicam.masks import scaled as masks_of
from multicam.perturbation import ISCAM, SSCAM, Perturbation

CLASS = 1


def network(*, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Features of eight channels, pooled to 2 x 2, and logits that are above 0.

    Args:
        stride: 1 keeps the size of the image, 2 halves it.
        relu: whether the features end in one.
    """
    torch.manual_seed(7)
    features = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(6, 8, 3, stride, padding=1),
        nn.ReLU() if relu else nn.Tanh(),
    )
    linear = nn.Linear(8 * 4, 4)
    with torch.no_grad():
        linear.weight.mul_(20)
        linear.bias.add_(10)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), linear).eval()


def ours(model: nn.Module, method: str | Perturbation) -> Tensor:
    """Our signed maps."""
    return explain(model, images(), ClassLogit(CLASS), layer="0", method=method).maps[:, 0]


def from_pytorch_grad_cam(model: nn.Sequential, name: str) -> Tensor:
    """The maps that a class of pytorch-grad-cam returns, at the size of the image."""
    peer = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    with getattr(peer, name)(model, [model[0]]) as extractor:
        maps = extractor(images(), [targets.ClassifierOutputTarget(CLASS)] * 2)
    return torch.from_numpy(maps)


def from_torchcam(model: nn.Sequential, name: str, **options: Any) -> Tensor:
    """The maps that a class of torchcam makes."""
    peer = pytest.importorskip("torchcam.methods", reason="torchcam is not installed")
    with getattr(peer, name)(model, "0", **options) as extractor:
        maps: Tensor = extractor(CLASS, model(images()), normalized=False)[0]
    return scaled(maps.detach())


def scaled(maps: Tensor) -> Tensor:
    """Each map from 0 to 1."""
    lowest, highest = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - lowest) / (highest - lowest)


def shown(maps: Tensor) -> Tensor:
    """What the peers return of signed maps."""
    return scaled(maps.relu())


def score_cam(model: nn.Sequential, masks: Tensor, strengths: Sequence[float] = (1.0,)) -> Tensor:
    """Score-CAM with other masks, (batch, channel, height, width)."""
    with torch.no_grad():
        activations = model[0](images())
        scores = torch.zeros(masks.shape[:2])
        for strength in strengths:
            for channel in range(masks.shape[1]):
                seen = images() * strength * masks[:, channel : channel + 1]
                scores[:, channel] += model(seen)[:, CLASS] / len(strengths)
        return torch.einsum("bk,bkhw->bhw", scores.softmax(dim=1), activations)


def each_scaled(channels: Tensor) -> Tensor:
    return masks_of(channels.flatten(0, 1).unsqueeze(1)).reshape(channels.shape)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_score_cam_is_equal_to_both_at_the_size_of_the_image() -> None:
    model = network()
    found = shown(ours(model, "scorecam"))
    assert_same(found, from_pytorch_grad_cam(model, "ScoreCAM"))
    assert_same(found, from_torchcam(model, "ScoreCAM"))


def test_score_cam_of_torchcam_scales_before_it_enlarges() -> None:
    model = network(stride=2)
    with torch.no_grad():
        small = each_scaled(model[0](images()))
    masks = interpolate(small, size=(16, 16), mode="bilinear", align_corners=False)
    peer = from_torchcam(model, "ScoreCAM")
    assert_same(shown(score_cam(model, masks)), peer)
    assert (shown(ours(model, "scorecam")) - peer).abs().max() > 1e-3
    assert_same(shown(score_cam(model, each_scaled(masks))), shown(ours(model, "scorecam")))


def test_score_cam_of_pytorch_grad_cam_enlarges_with_the_corners_aligned() -> None:
    model = network(stride=2)
    with torch.no_grad():
        activations = model[0](images())
    large = interpolate(activations, size=(16, 16), mode="bilinear", align_corners=True)
    cv2 = pytest.importorskip("cv2")
    maps = score_cam(model, each_scaled(large)).relu()
    expected = torch.stack(
        [torch.from_numpy(cv2.resize(one.numpy(), (16, 16))) for one in scaled(maps)]
    )
    peer = from_pytorch_grad_cam(model, "ScoreCAM")
    assert_same(scaled(expected), peer)
    enlarged = torch.stack(
        [
            torch.from_numpy(cv2.resize(one.numpy(), (16, 16)))
            for one in shown(ours(model, "scorecam"))
        ]
    )
    assert (scaled(enlarged) - peer).abs().max() > 1e-3


def test_is_cam_of_torchcam_adds_the_strengths_up() -> None:
    model = network()
    with torch.no_grad():
        masks = each_scaled(model[0](images()))
    peer = from_torchcam(model, "ISCAM", num_samples=4)
    summed = [i * (i + 1) / 2 / 4 for i in (1, 2, 3, 4)]
    assert_same(shown(score_cam(model, masks, summed)), peer)
    assert (shown(ours(model, ISCAM(steps=4))) - peer).abs().max() > 1e-3
    whole = [i / 4 for i in (1, 2, 3, 4)]
    assert_same(shown(score_cam(model, masks, whole)), shown(ours(model, ISCAM(steps=4))))


def test_ss_cam_is_equal_to_torchcam_without_noise() -> None:
    """With noise, of which torchcam draws more, the two only tend to the same map."""
    model = network()
    peer = from_torchcam(model, "SSCAM", num_samples=2, std=1e-8)
    assert_same(shown(ours(model, SSCAM(samples=2, std=0.0))), peer)


def test_ablation_cam_is_equal_to_pytorch_grad_cam_after_a_relu() -> None:
    model = network()
    assert (model(images())[:, CLASS] > 0).all()
    assert_same(shown(ours(model, "ablationcam")), from_pytorch_grad_cam(model, "AblationCAM"))


def test_ablation_cam_of_pytorch_grad_cam_sets_channels_far_below_zero_without_a_relu() -> None:
    """Each channel of a pass 1e7 below the one before it."""
    model = network(relu=False)
    peer = from_pytorch_grad_cam(model, "AblationCAM")
    with torch.no_grad():
        activations = model[0](images())
        scores = model(images())[:, CLASS]
        weights, least = [], activations.amin(dim=(1, 2, 3))[:, None, None]
        for channel in range(8):
            ablated, least = activations.clone(), least - 1e7
            ablated[:, channel] = least
            weights.append((scores - model[1:](ablated)[:, CLASS]) / scores)
    maps = torch.einsum("kb,bkhw->bhw", torch.stack(weights), activations)
    assert_same(shown(maps), peer)
    assert (shown(ours(model, "ablationcam")) - peer).abs().max() > 1e-3
