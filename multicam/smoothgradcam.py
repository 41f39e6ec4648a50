"""Smooth Grad-CAM++: the weights of Grad-CAM++ from gradients over noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from multicam.derivatives import differentiated, reached
from multicam.errors import UnreachedError
from multicam.explanation import Explanation, explanation_of
from multicam.layers import Located, locate
from multicam.sites import image_of
from multicam.smoothing import check_noise, noisy
from multicam.targets import settled
from multicam.weighting import FeatureMaps, Maps, grad_cam
from multicam.wrapping import Case, Explain, Wrapper, with_image


@dataclass(frozen=True)
class SmoothGradCAMPlusPlus(Wrapper):
    """Smooth Grad-CAM++: Grad-CAM++ with the gradients of noisy copies of the image.

        D_p      = mean over noisy copies of G^p, for p = 1, 2, 3
        alpha    = D_2 / (2 D_2 + S_k D_3)
        weight_k = sum over places of alpha ReLU(D_1)
        map      = sum over channels of weight_k A_k

    A and its sums over places S_k are of the image as it is. The paper has D_1 for the
    numerator of alpha; this is D_2, as in Grad-CAM++, of which the method is meant to be
    the mean: without noise it gives the map of Grad-CAM++. As there, the factor exp(score)
    of the derivatives is left out, which here would give each copy a weight of its own.
    Where positive and negative gradients of a place cancel in the denominator, alpha is
    0; near to that it is large.

    Omeiza et al., "Smooth Grad-CAM++", arXiv 1908.01224.

    Peers: torchcam has D_2 in the numerator too, but the sum of A_k D_3 for S_k D_3, and
    for D_1 the gradient of the last copy alone; its noise is in units of the model's
    input. pytorch-grad-cam does not have it.

    Args:
        samples: noisy copies, 1 or more.
        std: standard deviation of the noise, as a share of the range of each image, 0 or
            more.
        seed: of the noise.

    Raises:
        InputError: there is no copy, or the noise is negative.
    """

    samples: int = 8
    std: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_noise(self.samples, self.std)

    def explanations(self, case: Case, explain: Explain) -> tuple[Explanation, ...]:
        """See `Wrapper`."""
        image = image_of(case.forward)
        given = case.layers or [one.layer for one in explain(case, grad_cam)]
        layers = [locate(case.forward, layer) for layer in given]
        graph = case.create_graph
        with differentiated(case.forward, case.targets, layers, record=graph, twice=graph) as (
            output,
            spots,
            scored,
            _,
        ):
            steady = replace(case, targets=[settled(one, output) for one in case.targets])
        moments = self._moments(steady, layers, image)
        with torch.set_grad_enabled(graph), torch.autocast(image.device.type, enabled=False):
            return tuple(
                explanation_of(
                    _maps(spot.grid(spot.activations), moments[number :: len(spots)]),
                    scored,
                    layer=spot.name,
                    method="smoothgradcam++",
                )
                for number, spot in enumerate(spots)
            )

    def _moments(self, case: Case, layers: Sequence[Located], image: Tensor) -> list[Tensor]:
        """D_1, D_2 and D_3 of each target by each layer."""
        nothing = torch.zeros((), device=image.device)
        totals = [(nothing, nothing, nothing)] * (len(case.targets) * len(layers))
        for copy in noisy(image, self.samples, self.std, self.seed):
            found = _gradients(replace(case, forward=with_image(case.forward, copy)), layers)
            totals = [_plus(total, one) for total, one in zip(totals, found, strict=True)]
        return [torch.stack(total) / self.samples for total in totals]


def smooth_grad_cam_plus_plus(
    activations: FeatureMaps, moments: Float[Tensor, "3 batch channel *grid"]
) -> Maps:
    """The map of `SmoothGradCAMPlusPlus`.

    Args:
        activations: the feature map A.
        moments: D_1, D_2 and D_3.

    Returns:
        Signed maps.
    """
    first, second, third = moments.flatten(3)
    sums = activations.flatten(2).sum(dim=2, keepdim=True)
    denominators = 2 * second + sums * third
    alphas = second / denominators.masked_fill(denominators == 0, torch.inf)
    weights = (alphas * first.relu()).sum(dim=2)
    return torch.einsum("bk,bk...->b...", weights, activations)


def _plus(total: tuple[Tensor, Tensor, Tensor], gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the first three powers, of one more gradient."""
    first, second, third = total
    square = gradient * gradient
    return first + gradient, second + square, third + square * gradient


def _maps(
    activations: FeatureMaps, by_target: Sequence[Tensor]
) -> Float[Tensor, "batch target *grid"]:
    found = [smooth_grad_cam_plus_plus(activations, moments) for moments in by_target]
    return torch.stack(found, dim=1)


def _gradients(case: Case, layers: Sequence[Located]) -> list[Tensor]:
    """G of each target by each layer, with all of the pass recorded where it has to be."""
    try:
        return _recorded(case, layers, record=case.create_graph)
    except UnreachedError:
        return _recorded(case, layers, record=True)


def _recorded(case: Case, layers: Sequence[Located], *, record: bool) -> list[Tensor]:
    with differentiated(
        case.forward,
        case.targets,
        layers,
        record=record,
        twice=case.create_graph,
        vectorize=case.vectorize,
    ) as (_, spots, scored, gradients):
        return [
            spot.grid(reached(spot, gradient, one.labels[0]))
            for one, found in zip(scored, gradients, strict=True)
            for spot, gradient in zip(spots, found, strict=True)
        ]
