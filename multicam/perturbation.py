"""The gradient-free family: how do scores change when activations or images do?

Each method is a small object with its settings, and gives signed maps of the same kind as
the weightings: positive where the place speaks for the score. A is the feature map, X the
image, y the score; the index k is of channels. Methods that change activations run again
only what comes after the layer (`replay`). "Peers" are pytorch-grad-cam 1.5.7 and torchcam
0.5.0; where one is not mentioned, it does not have the method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from multicam.errors import InputError
from multicam.masks import RandomMasks, bells, products, scaled, windows
from multicam.resizing import resized
from multicam.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Perturbation(ABC):
    """A method that changes something and looks at the scores.

    Attributes:
        needs_layer: whether it explains by a feature map; others explain by the image.

    Args:
        chunk: how many changed inputs, or changed activations, go through the model in one
            pass; None bounds memory. Maps do not depend on it.
        progress: what a progress bar says, on a terminal; None shows none.

    Raises:
        InputError: a setting is out of range.
    """

    needs_layer: ClassVar[bool] = True

    chunk: int | None = None
    progress: str | None = None

    def __post_init__(self) -> None:
        if self.chunk is not None:
            _check_count("chunk", self.chunk)

    @abstractmethod
    def maps(self, scene: Scene) -> Float[Tensor, "batch target *grid"]:
        """Signed maps: positive where the place speaks for the score."""


@dataclass(frozen=True)
class AblationCAM(Perturbation):
    """Ablation-CAM: channels weighted by how much the score drops without them.

        weight_k = y - y_k, with y_k the score where A_k is zero  (equation 3, without / y)
        map      = sum over channels of weight_k A_k              (equation 4, before its ReLU)

    The paper divides each weight by y, which scales a map as a whole, and turns its sign
    where the score is negative, such as a log-probability; here weights stay in units of
    the score. Tokens that stand for no place, such as class tokens, keep all channels.

    Desai and Ramaswamy, "Ablation-CAM", WACV 2020.

    Peers: pytorch-grad-cam divides by y. Where the smallest activation is not 0, as it is
    after a ReLU, it sets channels not to zero but to 1e7, 2e7, 3e7 and so on below it. It
    ablates class tokens, too.
    """

    def maps(self, scene: Scene) -> Float[Tensor, "batch target *grid"]:
        """See `Perturbation`."""
        activations = scene.activations
        channels, *grid = activations.shape[1:]

        def without(_: int, numbers: Tensor) -> Tensor:
            factors = activations.new_ones(len(numbers), channels, *[1] * len(grid))
            factors[torch.arange(len(numbers)), numbers] = 0
            return factors

        ablated = scene.with_activations(self.chunk, self.progress)(channels, without)
        return _weighted_sum(scene.scores - ablated, activations)


@dataclass(frozen=True)
class ReciproCAM(Perturbation):
    """Recipro-CAM: the score that the activations around one place reach alone.

        map at p = y(A G_p) - y(0)

    with G_p a bell of 3 places in each direction around p. The score of nothing, the same
    for all places, is subtracted, which gives the map a sign; the paper scales scores to 0
    to 1 instead.

    Byun and Lee, "Recipro-CAM", arXiv 2209.14074, section 3.
    """

    def maps(self, scene: Scene) -> Float[Tensor, "batch target *grid"]:
        """See `Perturbation`."""
        grid = scene.activations.shape[2:]
        tables = [bells(side) for side in grid]

        def around(_: int, numbers: Tensor) -> Tensor:
            """Number 0 is nothing, number p + 1 what is around place p."""
            kept = products(tables, (numbers - 1).clamp(min=0))
            kept[numbers == 0] = 0
            return kept.unsqueeze(1).to(scene.activations)

        alone = scene.with_activations(self.chunk, self.progress)(1 + grid.numel(), around)
        return torch.unflatten((alone[1:] - alone[0]).permute(2, 1, 0), 2, grid)


@dataclass(frozen=True)
class ScoreCAM(Perturbation):
    """Score-CAM: channels weighted by the scores of the image that each lets through.

        M_k      = A_k enlarged to the image, scaled to 0 to 1        (equations 4 and 5)
        weight_k = softmax over channels of the score of X M_k        (equation 3; the score
                   of the baseline is the same for all and falls out of the softmax)
        map      = sum over channels of weight_k A_k                  (before its ReLU)

    Wang et al., "Score-CAM", arXiv 1910.01279.

    Peers: the same where the feature map has the size of the image. Else torchcam scales
    before it enlarges, so that masks need not reach 0 and 1, and pytorch-grad-cam enlarges
    with the centres of the outermost places on the edges of the image.
    """

    def maps(self, scene: Scene) -> Float[Tensor, "batch target *grid"]:
        """See `Perturbation`."""
        image, activations = scene.image, scene.activations
        _check_same_axes(image, activations)
        variations = self._variations(image)
        channels, repeats = activations.shape[1], len(variations)

        def through(sample: int, numbers: Tensor) -> Tensor:
            channel = activations[sample, numbers // repeats].unsqueeze(1)
            masks = scaled(resized(channel, image.shape[2:]))
            return image[sample] * self._varied(masks, variations[numbers % repeats]).to(image)

        scores = scene.with_images(self.chunk, self.progress)(channels * repeats, through)
        weights = torch.unflatten(scores, 0, (channels, repeats)).mean(dim=1).softmax(dim=0)
        return _weighted_sum(weights, activations)

    def _variations(self, image: Tensor) -> Float[Tensor, "variation 1 *size"]:
        """In which each mask is scored; a mask's weight comes from the mean of its scores."""
        return image.new_ones(1, *[1] * (image.ndim - 1))

    def _varied(self, masks: Tensor, variations: Tensor) -> Tensor:
        """Masks, each in one of the variations."""
        return masks * variations


@dataclass(frozen=True)
class SSCAM(ScoreCAM):
    """Smoothed Score-CAM: each mask is scored several times, with noise on it.

        weight_k = softmax over channels of the mean over e of the score of X (M_k + e)
        e ~ N(0, std²) at each pixel

    All channels share their noise, which makes their scores easier to compare.

    Wang et al., "SS-CAM", arXiv 2006.14255, equations 5 and 6 (noise on the maps).

    Peers: torchcam draws anew for each channel.

    Args:
        samples: how often each channel is scored.
        std: standard deviation of the noise, in units of a mask, which goes from 0 to 1.
        seed: of the noise.
    """

    samples: int = 35
    std: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("samples", self.samples)
        if not 0 <= self.std < float("inf"):
            raise InputError(f"std={self.std}: give 0 or more, in units of a mask from 0 to 1")

    def _variations(self, image: Tensor) -> Float[Tensor, "variation 1 *size"]:
        random = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.samples, 1, *image.shape[2:], generator=random)
        return self.std * noise.to(image)

    def _varied(self, masks: Tensor, variations: Tensor) -> Tensor:
        return masks + variations


@dataclass(frozen=True)
class ISCAM(ScoreCAM):
    """Integrated Score-CAM: each mask is scored at several strengths, from weak to whole.

        weight_k = softmax over channels of the mean over i = 1..N of the score of X M_k i/N

    Naidu et al., "IS-CAM", arXiv 2010.03023.

    Peers: torchcam adds the strengths up, i (i + 1) / 2N for i/N, which goes far beyond the
    whole mask.

    Args:
        steps: N.
    """

    steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("steps", self.steps)

    def _variations(self, image: Tensor) -> Float[Tensor, "variation 1 *size"]:
        strengths = torch.arange(1, self.steps + 1).to(image) / self.steps
        return strengths.reshape(-1, *[1] * (image.ndim - 1))


@dataclass(frozen=True)
class Occlusion(Perturbation):
    """Occlusion: how much the score drops when a grey square hides a part of the image.

    A place gets the mean drop over the squares that cover it. Zeiler and Fergus,
    "Visualizing and Understanding Convolutional Networks", arXiv 1311.2901, section 4.2.

    Args:
        window: side of the square, in pixels; None takes an eighth of the shorter side.
        stride: between squares, in pixels; None takes half a window.
        fill: what the square holds, in the model's units; 0 is the mean of images that
            were normalised.
    """

    needs_layer: ClassVar[bool] = False

    window: int | None = None
    stride: int | None = None
    fill: float = 0.0

    def maps(self, scene: Scene) -> Float[Tensor, "batch target *grid"]:
        """See `Perturbation`."""
        image = scene.image
        tables = self._squares(image.shape[2:])
        counts = [len(table) for table in tables]

        def occluded(sample: int, numbers: Tensor) -> Tensor:
            hidden = products(tables, numbers).unsqueeze(1).to(image)
            return image[sample] * (1 - hidden) + self.fill * hidden

        scores = scene.with_images(self.chunk, self.progress)(prod(counts), occluded)
        total = torch.unflatten(scene.scores - scores, 0, counts)
        with _full_precision(total):
            for table in tables:
                total = torch.tensordot(total.movedim(0, -1), table.to(total), dims=1)
        covers = products([table.sum(dim=0, keepdim=True) for table in tables], torch.tensor([0]))
        return total.transpose(0, 1) / covers.to(total)

    def _squares(self, size: torch.Size) -> list[Float[Tensor, "square side"]]:
        """Where squares hide the image along each axis."""
        window = max(1, min(size) // 8) if self.window is None else self.window
        stride = max(1, window // 2) if self.stride is None else self.stride
        if not 0 < window <= min(size):
            raise InputError(
                f"a window of {window} does not fit an image of {tuple(size)} pixels; choose 1 "
                f"to {min(size)}"
            )
        if not 0 < stride <= window:
            raise InputError(
                f"with a stride of {stride}, windows of {window} leave gaps; choose 1 to {window}"
            )
        return [windows(side, window, stride) for side in size]


@dataclass(frozen=True)
class RISE(Perturbation):
    """RISE: the mean of random masks, weighted by the scores of the image behind them.

        map = mean over masks M of (score of X M - mean score) M / p

    The mean score is subtracted from each, which changes a map by a constant where there
    are many masks, lowers its noise, and gives it a sign: positive where seeing the place
    raises the score.

    Petsiuk et al., "RISE", arXiv 1806.07421, equation 6.

    Args:
        masks: how many, 2 or more.
        cells: of a mask before it is enlarged, on each side.
        keep: p, the probability that a cell is kept, between 0 and 1.
        seed: of the masks.
    """

    needs_layer: ClassVar[bool] = False

    masks: int = 1000
    cells: int = 7
    keep: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks < 2:
            raise InputError(f"masks={self.masks}: give 2 or more; 1000 is common")
        _check_count("cells", self.cells)
        if not 0 < self.keep < 1:
            raise InputError(f"keep={self.keep}: give a probability between 0 and 1, such as 0.5")

    def maps(self, scene: Scene) -> Float[Tensor, "batch target *grid"]:
        """See `Perturbation`."""
        image = scene.image
        masks = RandomMasks.drawn(self.masks, self.cells, self.keep, image.shape[2:], self.seed).to(
            image.device
        )

        def behind(sample: int, numbers: Tensor) -> Tensor:
            return image[sample] * masks(numbers).unsqueeze(1).to(image)

        rescoring = scene.with_images(self.chunk, self.progress)
        scores = rescoring(self.masks, behind)
        weights = (scores - scores.mean(dim=0)) / (self.masks * self.keep)
        parts = [
            _weighted_sum(weights[numbers], masks(numbers).unsqueeze(0))
            for numbers in torch.split(torch.arange(self.masks), 64)
        ]
        return torch.stack(parts).sum(dim=0)


def _weighted_sum(
    weights: Float[Tensor, "channel target batch"], maps: Float[Tensor, "_ channel *grid"]
) -> Float[Tensor, "batch target *grid"]:
    """Channels times weights; maps of one sample serve for all."""
    with _full_precision(maps):
        summed = weights.permute(2, 1, 0).to(maps) @ maps.flatten(2)
    return torch.unflatten(summed, 2, maps.shape[2:])


def _full_precision(values: Tensor) -> torch.autocast:
    """Sums are not a part of the model, which may run under autocast."""
    return torch.autocast(values.device.type, enabled=False)


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name}={value}: give 1 or more")


def _check_same_axes(image: Tensor, activations: Tensor) -> None:
    if len(image) != len(activations) or image.ndim != activations.ndim:
        raise InputError(
            f"the feature map {tuple(activations.shape)} does not lie on the image "
            f"{tuple(image.shape)}: as many samples and dimensions are needed; choose another "
            "layer, or a method that does not enlarge its map, such as ablationcam"
        )
