"""The first principal component of feature maps, for a whole batch at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def first_principal_map(
    values: Float[Tensor, "batch channel *grid"],
) -> Float[Tensor, "batch *grid"]:
    """Feature maps projected on their first component: A v_1 of A = U S Vᵀ, not centred.

    A has one row per place and one column per channel. Of the two signs that v_1 may have,
    it gets the one in which its entries sum to a positive number: then the map correlates
    with the sum of the channels, since over all places their product is s_1² times that
    sum. Where it is below 1e-3, as good as 0, the map's largest magnitude is positive: the
    channels of a layer norm sum to 0 at every place.

    Args:
        values: feature maps, such as activations.

    Returns:
        Signed maps, computed in float32 at least; zeros where all values are.
    """
    matrices = values.flatten(2).to(torch.promote_types(values.dtype, torch.float32))
    component = _first_component(matrices)
    places = (component.unsqueeze(1) @ matrices).squeeze(1)
    extreme = places.gather(1, places.abs().argmax(dim=1, keepdim=True))
    towards = component.sum(dim=1, keepdim=True)
    sign = torch.where(towards.abs() > 1e-3, towards, extreme)
    oriented = torch.where(sign < 0, -places, places)
    return oriented.reshape(values.shape[0], *values.shape[2:])


def _first_component(
    matrices: Float[Tensor, "batch channel place"],
) -> Float[Tensor, "batch channel"]:
    """The v_1 of each A = matrixᵀ, of length 1; any vector where A is zero.

    It comes from the smaller of the two Gram matrices: at 2048 channels and 49 places from
    an eigenproblem of size 49. Squares cost the small singular values their digits, not the
    first. Values are scaled before, so that no square overflows or underflows, and what is
    not finite is left to show in the map.
    """
    peaks = matrices.detach().abs().amax(dim=(1, 2), keepdim=True)
    scaled = (matrices / peaks).nan_to_num(0, 0, 0)
    channels, places = scaled.shape[1:]
    if channels <= places:
        return _top_eigenvector(scaled @ scaled.mT)
    first = _top_eigenvector(scaled.mT @ scaled)
    return torch.nn.functional.normalize((scaled @ first.unsqueeze(2)).squeeze(2), dim=1)


def _top_eigenvector(grams: Float[Tensor, "batch size size"]) -> Float[Tensor, "batch size"]:
    vectors: Tensor = torch.linalg.eigh(grams).eigenvectors
    return vectors[..., -1]
