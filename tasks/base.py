"""What the tasks share: their protocol, and the way from photos to a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Protocol, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multicam.errors import InputError, MissingExtraError
from multicam.explainer import LayerLike
from multicam.explanation import Explanation
from multicam.geometry import Photo
from multicam.images import ImageSource
from multicam.methods import Method
from multicam.preprocessing import Transform, prepare

Images: TypeAlias = ImageSource | list[ImageSource] | tuple[ImageSource, ...]
"""One photo, or several for one batch."""

Layers: TypeAlias = LayerLike | Sequence[LayerLike]
"""A feature map, or several to be fused."""


class Task(Protocol):
    """Explains what a model says about photos.

    A task prepares the two ends of `multicam.explain`: photos become inputs, and
    names become targets. The explanation carries the photos, so that its maps can be
    shown on them.
    """

    @property
    def model(self) -> nn.Module:
        """The model that is explained."""
        ...

    def explain(
        self,
        images: Images,
        /,
        *,
        layer: Layers | None = None,
        method: str | Method | None = None,
    ) -> Explanation:
        """Explain what the model says by itself about one photo or several."""
        ...


def prepare_batch(
    images: Images, transform: Transform, model: nn.Module
) -> tuple[Float[Tensor, "batch channel height width"], tuple[Photo, ...]]:
    """Load photos and send them through the model's own preprocessing.

    Args:
        images: one photo, or a list or tuple of them, of any sizes.
        transform: the preprocessing.
        model: whose device and precision the batch takes.

    Returns:
        The batch, and each photo with the part of it that the model sees.

    Raises:
        InputError: an image cannot be read, the list is empty, or the preprocessing
            gives photos of different sizes.
    """
    sources = list(images) if isinstance(images, (list, tuple)) else [images]
    if not sources:
        raise InputError("the list of images is empty; give at least one")
    tensors, photos = zip(*(prepare(source, transform) for source in sources), strict=True)
    shapes = sorted({tuple(tensor.shape[1:]) for tensor in tensors})
    if len(shapes) > 1:
        listed = ", ".join(map(str, shapes))
        raise InputError(
            f"the transform gives these photos different shapes ({listed}), which make no batch; "
            "explain them one by one, or crop them to one size"
        )
    return like_parameters(model, torch.cat(tensors)), photos


def like_parameters(model: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs on the device and in the precision of the model's first floating parameter."""
    floating = (one for one in model.parameters() if one.is_floating_point())
    first = next(floating, None)
    return inputs if first is None else inputs.to(first.device, first.dtype)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards each module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def optional(module: str, *, package: str, extra: str) -> ModuleType:
    """Import a module that comes with an extra.

    Raises:
        MissingExtraError: it is not installed; the message holds the install command.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise MissingExtraError(package, extra) from error
