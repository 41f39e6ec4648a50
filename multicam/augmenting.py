"""Maps over flipped and resized copies of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from multicam.errors import InputError
from multicam.explanation import Explanation
from multicam.resizing import resized
from multicam.wrapping import (
    Case,
    Explain,
    Method,
    Wrapper,
    of_each,
    unchanged,
    with_image,
)


@dataclass(frozen=True)
class Augmented(Wrapper):
    """The mean of a method's maps over flipped and resized copies of the image.

    Each map is flipped back, and resized to the grid that the image gives as it is. Scores
    and labels are those of the image as it is, whose classes are also explained in the
    copies. A network that averages over its places gives larger copies smaller values, so
    that they count less.

    Flips do not suit what depends on left and right, such as the answers to some
    questions; scales need a model that takes other sizes, and no `Layer` whose `reshape`
    is made for one size.

    Args:
        method: any method, by name or itself; it explains each copy.
        flips: whether each copy is also explained from right to left.
        scales: sizes of the copies, as factors above 0; the image as it is counts where 1 is
            among them.

    Raises:
        InputError: there is no scale, or one is not above 0.

    Example:
        >>> from torchvision.models import resnet18
        >>> from multicam import explain
        >>> model, images = resnet18().eval(), torch.rand(2, 3, 64, 64)
        >>> augmented = Augmented("layercam", scales=(1.0, 1.25))
        >>> explain(model, images, layer="layer3", method=augmented).maps.shape
        torch.Size([2, 1, 4, 4])
    """

    method: str | Method = "gradcam"
    flips: bool = True
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if not self.scales:
            raise InputError("scales is empty; give (1.0,) for the size of the image")
        for scale in self.scales:
            if not 0 < scale < float("inf"):
                raise InputError(f"scale {scale} is not above 0; 1.25 is a quarter larger")

    def explanations(self, case: Case, explain: Explain) -> tuple[Explanation, ...]:
        """See `Wrapper`; the image as it is goes first, since it sets layers and grids."""
        scene = unchanged(case)
        turns = (False, True) if self.flips else (False,)
        wanted = [_Copy(*each) for each in product(self.scales, turns)]
        copies = list(dict.fromkeys([_Copy(), *wanted]))
        forwards = (with_image(case.forward, copy.of(scene.image)) for copy in copies)
        steady = replace(case, targets=scene.targets)
        passes = list(of_each(steady, forwards, self.method, explain))
        return tuple(
            replace(
                plain,
                maps=_mean([one.maps for one in found], copies, wanted),
                method=f"augmented {plain.method}",
            )
            for plain, found in zip(passes[0], zip(*passes, strict=True), strict=True)
        )


@dataclass(frozen=True)
class _Copy:
    """An image at another size, read from right to left or as it is."""

    scale: float = 1.0
    flipped: bool = False

    def of(self, image: Float[Tensor, "batch channel *size"]) -> Tensor:
        """The copy, which the model may change."""
        size = [max(1, round(side * self.scale)) for side in image.shape[2:]]
        return self._turned(resized(image, size)).clone()

    def laid_back(self, maps: Tensor, grid: Sequence[int]) -> Tensor:
        """Its maps, at the places of the image as it is."""
        return resized(self._turned(maps), grid)

    def _turned(self, values: Tensor) -> Tensor:
        return values.flip(-1) if self.flipped else values


def _mean(
    maps: Sequence[Float[Tensor, "batch target *_"]],
    copies: Sequence[_Copy],
    wanted: Sequence[_Copy],
) -> Float[Tensor, "batch target *grid"]:
    """The mean over the copies that are wanted, on the grid of the first."""
    grid = maps[0].shape[2:]
    pairs = zip(copies, maps, strict=True)
    return torch.stack([copy.laid_back(one, grid) for copy, one in pairs if copy in wanted]).mean(0)
