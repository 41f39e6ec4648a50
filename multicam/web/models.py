"""The bundled models, each loaded once and shared by all visitors, and their layers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Generic, TypeVar, cast

from torch import Tensor, nn

from multicam.layers import FeatureMap, feature_maps
from multicam.methods import LISTED, takes_many_passes
from multicam.tasks import captioning, classification, vqa
from multicam.tasks.captioning import Captioning
from multicam.tasks.classification import Classification
from multicam.tasks.vqa import VisualQuestionAnswering

T = TypeVar("T")

Choices = list[tuple[str, str]]
"""What a list shows, and what it stands for."""

OWN = ""
"""Stands for the layer or the method that a task uses by itself."""


class Once(Generic[T]):
    """A value that is made when it is first asked for, by one thread, and then kept."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._lock = threading.Lock()

    def __call__(self) -> T:
        """The value."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
        return self._made[0]


classifier: Once[Classification] = Once(classification.load)
captioner: Once[Captioning] = Once(captioning.load)
answerer: Once[VisualQuestionAnswering] = Once(vqa.load)


def photo(name: str) -> bytes:
    """A bundled photo."""
    return (files("multicam") / "photos" / name).read_bytes()


def methods(without: Sequence[str] = ()) -> Choices:
    """The methods that take a moment and not minutes.

    Args:
        without: names to leave out.
    """
    cheap = [name for name in LISTED if not takes_many_passes(name)]
    return [(name, name) for name in cheap if name not in without]


def layers(
    task: Classification | Captioning | VisualQuestionAnswering,
    encoder: nn.Module,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Choices:
    """The task's own layer, and the stages of its encoder, the last one first, with their shapes.

    Args:
        task: whose `prepare` gives the input.
        encoder: the part of its model that holds feature maps.
        forward: what encodes photos, where the model itself needs more than these.
    """
    inputs, _ = task.prepare(photo("cat.jpg"))
    maps = feature_maps(task.model, inputs, forward)
    own = next(one for one in maps if one.name == task.layer)
    chosen = (f"{_described(own)} (usual)", OWN)
    others = [one for one in _stages(maps, task.model, encoder) if one is not own]
    return [chosen, *((_described(one), one.name) for one in reversed(others))]


def _stages(maps: Sequence[FeatureMap], model: nn.Module, encoder: nn.Module) -> list[FeatureMap]:
    """Those of the encoder's children, or of the steps where a child is a sequence of these."""
    children = list(encoder.children())
    steps = [step for child in children if isinstance(child, nn.Sequential) for step in child]
    wanted = [child for child in children if not isinstance(child, nn.Sequential)] + steps
    modules = dict(model.named_modules())
    return [one for one in maps if one.candidate and any(modules[one.name] is w for w in wanted)]


def _described(one: FeatureMap) -> str:
    height, width = one.grid
    return f"{one.name}, {one.shape[1]} x {height} x {width}"


classifier_layers = Once(lambda: layers(classifier(), classifier().model))
captioner_layers = Once(lambda: _encoder_layers(captioner()))
answerer_layers = Once(lambda: _encoder_layers(answerer()))


def _encoder_layers(task: Captioning | VisualQuestionAnswering) -> Choices:
    forward = cast("Callable[[Tensor], Tensor]", task.model.encode)
    return layers(task, task.model.get_submodule("encoder"), forward)
