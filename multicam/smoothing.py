"""Maps over noise: what stays when the image is disturbed a little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from multicam.errors import InputError
from multicam.explanation import Explanation, explanation_of
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
class Smoothed(Wrapper):
    """SmoothGrad for any method: the mean of its maps over noisy copies of the image.

        map = 1/n sum over copies i of the map of X + e_i
        e_i ~ N(0, s²),  s = std (max X - min X)

    Scores and labels are those of the image as it is, whose classes are also explained
    in the copies. All samples of a batch get the same noise, so that a batch gives what
    its samples give one by one.

    Smilkov et al., "SmoothGrad: removing noise by adding noise", arXiv 1706.03825, who
    smooth gradients by the image; there std is 0.1 to 0.2.

    Args:
        method: any method, by name or itself; it explains each copy.
        samples: n, 1 or more.
        std: standard deviation of the noise, as a share of the range of each image, 0 or
            more.
        seed: of the noise.

    Raises:
        InputError: there is no copy, or the noise is negative.

    Example:
        >>> from torchvision.models import resnet18
        >>> from multicam import explain
        >>> model, images = resnet18().eval(), torch.rand(2, 3, 64, 64)
        >>> smoothed = Smoothed("layercam", samples=2)
        >>> explain(model, images, layer="layer3", method=smoothed).method
        'smoothed layercam'
    """

    method: str | Method = "gradcam"
    samples: int = 8
    std: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_noise(self.samples, self.std)

    def explanations(self, case: Case, explain: Explain) -> tuple[Explanation, ...]:
        """See `Wrapper`."""
        scene = unchanged(case)
        copies = noisy(scene.image, self.samples, self.std, self.seed)
        forwards = (with_image(case.forward, copy) for copy in copies)
        steady = replace(case, targets=scene.targets)
        passes = list(of_each(steady, forwards, self.method, explain))
        return tuple(
            explanation_of(
                torch.stack([one.maps for one in found]).mean(dim=0),
                scene.scored,
                layer=found[0].layer,
                method=f"smoothed {found[0].method}",
            )
            for found in zip(*passes, strict=True)
        )


def noisy(
    image: Float[Tensor, "batch channel *size"], samples: int, std: float, seed: int
) -> Iterator[Float[Tensor, "batch channel *size"]]:
    """Copies of a batch with noise on them, the same for all of its images.

    Args:
        image: the batch.
        samples: number of copies.
        std: standard deviation of the noise, as a share of the range of each image.
        seed: of the noise.
    """
    random = torch.Generator().manual_seed(seed)
    values = image.detach().flatten(1)
    spans = values.amax(dim=1) - values.amin(dim=1)
    deviations = std * spans.reshape(-1, *[1] * (image.ndim - 1))
    for _ in range(samples):
        yield image + deviations * torch.randn(image.shape[1:], generator=random).to(image)


def check_noise(samples: int, std: float) -> None:
    """Refuse settings of noise that make no sense.

    Raises:
        InputError: there is no copy, or the noise is negative.
    """
    if samples < 1:
        raise InputError(f"samples={samples}: give 1 noisy copy of the image or more")
    if not 0 <= std < float("inf"):
        raise InputError(
            f"std={std}: give the noise as a share of the image's range, 0 or more, such as 0.1"
        )
