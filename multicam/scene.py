"""What a gradient-free method works with: a pass that is over, and what it may change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multicam.errors import InputError, LayerError
from multicam.forward import Forward
from multicam.grids import infer_reshape
from multicam.layers import Located, advice
from multicam.replay import Recording, record
from multicam.rescoring import Rescoring, precise
from multicam.rows import copied, entries
from multicam.sites import ImageSite, LayerSite, Site, image_of
from multicam.targets import Scored, Target, evaluate, settled

MEMORY = 2**29
"""Bytes that the variants of one pass may take, by a rough estimate."""

MEMORY_OF_CPU = 2**27
"""The same where a CPU runs the whole model: its largest tensors then have at most 32 MiB.

glibc gives larger ones back to the system after each layer, and takes them anew.
"""


@dataclass(frozen=True, eq=False)
class Scene:
    """A forward pass that is over.

    Attributes:
        forward: the model and its inputs.
        output: of the model.
        targets: the K scores; what ranks classes is settled on this output.
        scored: their values.
        largest: entries of the largest tensor that the pass met.
        site: where activations can be changed; None for methods that change the image.
    """

    forward: Forward
    output: Any
    targets: tuple[Target, ...]
    scored: tuple[Scored, ...]
    largest: int
    site: LayerSite | None = None

    @property
    def scores(self) -> Float[Tensor, "target batch"]:
        """The scores as they are, in a precision fit for differences."""
        return precise(torch.stack([one.scores for one in self.scored]))

    @cached_property
    def activations(self) -> Float[Tensor, "batch channel *grid"]:
        """The feature map, channels first, in a precision fit for sums.

        Raises:
            InputError: the method said that it needs none.
        """
        return precise(self._layer_site.grid)

    @property
    def image(self) -> Float[Tensor, "batch channel *size"]:
        """The image among the inputs.

        Raises:
            InputError: there is none, or none of floating point.
        """
        return image_of(self.forward)

    def with_activations(self, chunk: int | None, progress: str | None) -> Rescoring:
        """Scores of changed activations: a variant is factors of them, see `LayerSite`.

        Args:
            chunk: variants in one pass; None bounds memory.
            progress: what a progress bar says; None shows none.
        """
        return self._at(self._layer_site, MEMORY, chunk, progress)

    def with_images(self, chunk: int | None, progress: str | None) -> Rescoring:
        """Scores of other images.

        Args:
            chunk: images in one pass; None bounds memory.
            progress: what a progress bar says; None shows none.
        """
        memory = MEMORY_OF_CPU if self.image.device.type == "cpu" else MEMORY
        return self._at(ImageSite(self.forward, self.image), memory, chunk, progress)

    def _at(self, site: Site, memory: int, chunk: int | None, progress: str | None) -> Rescoring:
        return Rescoring(
            site, self.output, self.targets, self.scored, self.largest, memory, chunk, progress
        )

    @property
    def _layer_site(self) -> LayerSite:
        if self.site is None:
            raise InputError("this method asks for a feature map; set needs_layer = True in it")
        return self.site


def run(forward: Forward, targets: Sequence[Target], layer: Located | None) -> Scene:
    """Run the model once.

    Args:
        forward: the model and its inputs.
        targets: the K scores.
        layer: the feature map; None for methods that change the image.

    Raises:
        LayerError: the layer does not run, or gives no grid.
        TargetError: a target does not give one finite score per sample.
        InputError: there is no image to change, or no sample.
    """
    unharmed = replace(forward, inputs=copied(forward.arguments))
    with _sizes(forward.model) as sizes:
        if layer is None:
            batch = _counted(image_of(forward))
            site, output = None, unharmed()
        else:
            site = _layer_site(forward, record(unharmed, layer), layer)
            batch = _counted(site.grid)
            output = site.recording.output
    steady = tuple(settled(target, output) for target in targets)
    scored = tuple(evaluate(target, output, batch) for target in targets)
    largest = max(entries(forward.arguments), *sizes)
    return Scene(forward, output, steady, scored, largest, site)


@contextmanager
def _sizes(model: nn.Module) -> Iterator[list[int]]:
    """Entries of the largest tensor that each call of a module gives."""
    sizes = [0]
    with ExitStack() as hooks:
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hook = module.register_forward_hook(lambda *call: sizes.append(entries(call[2])))
                hooks.enter_context(hook)
        yield sizes


def _layer_site(forward: Forward, recording: Recording, layer: Located) -> LayerSite:
    try:
        shape = tuple(recording.activations.shape)
        reshape = layer.reshape or infer_reshape(shape, forward.signal)
    except LayerError as error:
        message = f"layer {layer.name!r}: {error}; {advice(forward, layer.name)}"
        raise LayerError(message) from None
    return LayerSite(forward, recording, reshape)


def _counted(samples: Tensor) -> int:
    """The number of samples, at least one."""
    if len(samples) == 0:
        raise InputError("the batch is empty: there is nothing to explain")
    return len(samples)
