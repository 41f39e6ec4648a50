"""Where variants of a sample take its place: in the activations of a layer, or as the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from multicam.errors import InputError, LayerError
from multicam.forward import Forward
from multicam.grids import Reshape
from multicam.replay import Recording, replay, rerun
from multicam.rows import copied, rows_of

INNERMOST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""How images and volumes lie in memory place by place, by their number of dimensions."""

RunRows: TypeAlias = Callable[[int, Tensor], Any]
"""(sample, variants of it) -> output of the model, with a row for each variant."""

RunBatch: TypeAlias = Callable[[Tensor], Any]
"""(a variant of each sample) -> output of the model for the batch."""

Shaped: TypeAlias = Callable[[Any], Any]
"""From tensors of the batch to those that a pass needs, such as rows of one sample."""


@runtime_checkable
class Site(Protocol):
    """Where variants of a sample take its place, and how the model runs with them."""

    @property
    def batch(self) -> int:
        """Number of samples."""
        ...

    @property
    def row_runs(self) -> Sequence[RunRows]:
        """Ways to run several variants of a sample in one pass, the cheapest first."""
        ...

    @property
    def batch_runs(self) -> Sequence[RunBatch]:
        """Ways to run one variant of each sample; the last one runs the whole model."""
        ...

    def original(self, sample: int) -> Tensor:
        """The variant that changes nothing, (1, ...)."""
        ...


@dataclass(frozen=True, eq=False)
class LayerSite:
    """The activations of a layer; a variant is factors of them, places that share one are 1 wide.

    Args:
        forward: the model and its inputs.
        recording: of a pass.
        reshape: from the layer's output to a grid. What the grid leaves out, such as class
            tokens, stays as it is.
    """

    forward: Forward
    recording: Recording
    reshape: Reshape

    @cached_property
    def grid(self) -> Float[Tensor, "batch channel *grid"]:
        """The activations, channels first."""
        return self.reshape(self.recording.activations)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.grid)

    @property
    def row_runs(self) -> tuple[RunRows, ...]:
        """From the layer on, for any model and for one that writes in place; the whole model."""
        return self._replay_rows, self._replay_copies, self._rerun_rows

    @property
    def batch_runs(self) -> tuple[RunBatch, ...]:
        """From the layer on; the whole model."""
        return partial(self._replay, copied), partial(self._rerun, copied)

    def original(self, sample: int) -> Float[Tensor, "1 1 *grid"]:
        """One factor of 1 for all."""
        return self.grid.new_ones(1, *[1] * (self.grid.ndim - 1))

    def _replay_rows(self, sample: int, factors: Tensor) -> Any:
        return self._replay(self._rows(sample, factors), factors)

    def _replay_copies(self, sample: int, factors: Tensor) -> Any:
        rows = self._rows(sample, factors)
        return self._replay(lambda tree: copied(rows(tree)), factors)

    def _rerun_rows(self, sample: int, factors: Tensor) -> Any:
        rows = self._rows(sample, factors)
        return self._rerun(lambda tree: copied(rows(tree)), factors)

    def _rows(self, sample: int, factors: Tensor) -> Shaped:
        return partial(rows_of, batch=self.batch, sample=sample, count=len(factors))

    def _replay(self, shaped: Shaped, factors: Tensor) -> Any:
        forward = replace(self.forward, inputs=shaped(self.forward.arguments))
        return replay(forward, self.recording, self._changed(shaped, factors), shaped)

    def _rerun(self, shaped: Shaped, factors: Tensor) -> Any:
        forward = replace(self.forward, inputs=shaped(self.forward.arguments))
        return rerun(forward, self.recording, self._changed(shaped, factors))

    def _changed(self, shaped: Shaped, factors: Tensor) -> Any:
        """What the layer gives, its activations times factors."""

        def change(leaf: Any) -> Any:
            value = shaped(leaf)
            if leaf is not self.recording.activations:
                return value
            return value * _laid_out(factors.to(value), value, self.reshape)

        return pytree.tree_map(change, self.recording.gave)


@dataclass(frozen=True, eq=False)
class ImageSite:
    """The image among the inputs; a variant is an image.

    Args:
        forward: the model and its inputs.
        image: one of them, (batch, channel, *size).
    """

    forward: Forward
    image: Tensor

    @property
    def batch(self) -> int:
        """Number of samples."""
        return len(self.image)

    @property
    def row_runs(self) -> tuple[RunRows, ...]:
        """The whole model, as nothing comes before the image; first with channels innermost.

        A CPU convolves several such images faster. A model that takes views of its features
        may refuse them.
        """
        innermost = INNERMOST.get(self.image.ndim) if self.image.device.type == "cpu" else None
        if innermost is None:
            return (self._run_rows,)
        return partial(self._run_rows, memory_format=innermost), self._run_rows

    @property
    def batch_runs(self) -> tuple[RunBatch, ...]:
        """The whole model."""
        return (partial(self._run, copied),)

    def original(self, sample: int) -> Float[Tensor, "1 channel *size"]:
        """The image of a sample."""
        return self.image[sample : sample + 1]

    def _run_rows(
        self,
        sample: int,
        images: Tensor,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Any:
        rows = partial(rows_of, batch=self.batch, sample=sample, count=len(images))
        images = images.to(memory_format=memory_format)
        return self._run(lambda tree: copied(rows(tree)), images)

    def _run(self, shaped: Shaped, images: Tensor) -> Any:
        def change(leaf: Any) -> Any:
            return images if leaf is self.image else shaped(leaf)

        inputs = pytree.tree_map(change, self.forward.arguments)
        return replace(self.forward, inputs=inputs)()


def image_of(forward: Forward) -> Float[Tensor, "batch channel *size"]:
    """The image among the inputs: the first tensor whose shape is `Forward.signal`.

    Raises:
        InputError: there is none, or none of floating point.
    """
    leaves = pytree.tree_leaves(forward.arguments)
    images = [x for x in leaves if isinstance(x, Tensor) and tuple(x.shape) == forward.signal]
    if not images:
        raise InputError(
            "no image is among the inputs, and this method changes the image; it needs a "
            "floating-point tensor (batch, channel, height, width), or of another number of "
            "dimensions after the channels"
        )
    for image in images:
        if image.is_floating_point():
            return image
    raise InputError(
        f"the image is of {images[0].dtype}, and a method that changes it needs floating-point "
        "values; convert it before the model"
    )


def _laid_out(factors: Tensor, activations: Tensor, reshape: Reshape) -> Tensor:
    """Factors of the grid as factors of the layer's output; 1 for what the grid leaves out.

    A grid that is rearranged activations has a gradient that lays it back.

    Raises:
        LayerError: the grid is more than activations in another order.
    """
    if reshape(activations) is activations:
        return factors
    with torch.enable_grad():
        zeros = torch.zeros_like(activations).requires_grad_()
        grid = reshape(zeros)
    wanted = factors.expand_as(grid)
    (change,) = torch.autograd.grad(grid, zeros, wanted - 1)
    laid_out = 1 + change
    if not torch.allclose(reshape(laid_out), wanted):
        raise LayerError(
            "the layer's reshape computes new values, and a method that changes activations "
            "needs one that only puts them in another order, such as token_grid"
        )
    return laid_out
