"""Run again only what comes after a layer.

A forward pass is recorded once. In a replay, each call of a module that was over before the
layer's gives what it gave then, the layer gives another output, and what comes after runs as
it always does, be it modules or plain operations between them. What a skip connection brings
past the layer comes from those calls, and from the inputs.

A replay is right where what ran before the layer leaves nothing behind but its outputs. That
is not taken for granted: `Rescoring` holds each replay against the recorded pass.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from multicam.capture import first_tensor
from multicam.errors import LayerError, UnreachedError
from multicam.forward import Forward
from multicam.layers import Located, advice
from multicam.rows import copied

Answers: TypeAlias = Mapping[int, Callable[[], Any]]
"""What calls of a module give without running, by number of the call."""

_one_at_a_time = threading.RLock()
"""Held by the thread that replays; else two would take each other's answers for the model."""


@dataclass(frozen=True, eq=False)
class Recording:
    """What a forward pass gave.

    Attributes:
        output: of the model.
        layer: the module whose output is to be replaced.
        gave: what the chosen call of the layer gave.
        call: number of that call.
        call_in_replay: the same where the calls inside of those `before` do not happen.
        before: what calls gave that were over before it, by module and number in a replay;
            those inside of such a call are left out.
    """

    output: Any
    layer: nn.Module
    gave: Any
    call: int
    call_in_replay: int
    before: Mapping[nn.Module, Mapping[int, Any]]

    @property
    def activations(self) -> Tensor:
        """The tensor in what the layer gave."""
        found = first_tensor(self.gave)
        assert found is not None
        return found


def record(forward: Forward, layer: Located) -> Recording:
    """Run the model once and keep what is needed to run it again from the layer on.

    Raises:
        UnreachedError: the layer does not run.
        LayerError: the layer runs more often than was said, or gives no tensor.
    """
    recorder = _Recorder(layer.module, _number(forward, layer))
    with ExitStack() as hooks:
        for module in forward.model.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hooks.enter_context(module.register_forward_pre_hook(recorder.begins))
                hooks.enter_context(module.register_forward_hook(recorder.ends))
        output = forward()
    _check(forward, layer, recorder)
    return recorder.recording(output)


def replay(
    forward: Forward, recording: Recording, changed: Any, shaped: Callable[[Any], Any]
) -> Any:
    """Run what comes after the layer, with another output of it.

    Args:
        forward: the model, with inputs of the batch size that `changed` has.
        recording: of a forward pass.
        changed: what the layer gives.
        shaped: from what a call gave when it was recorded to what it gives now, in a batch
            of that size.

    Returns:
        The model's output.

    Raises:
        LayerError: the model did not come by the layer.
    """
    answers: dict[nn.Module, dict[int, Callable[[], Any]]] = {
        module: {number: partial(shaped, gave) for number, gave in calls.items()}
        for module, calls in recording.before.items()
    }
    return _run(forward, recording.layer, recording.call_in_replay, changed, answers)


def rerun(forward: Forward, recording: Recording, changed: Any) -> Any:
    """Run the whole model, with another output of the layer; see `replay`."""
    return _run(forward, recording.layer, recording.call, changed, {})


def _run(
    forward: Forward,
    layer: nn.Module,
    number: int,
    changed: Any,
    answers: dict[nn.Module, dict[int, Callable[[], Any]]],
) -> Any:
    asked: list[int] = []

    def answer() -> Any:
        asked.append(number)
        return changed

    answers.setdefault(layer, {})[number] = answer
    with _one_at_a_time, ExitStack() as changes:
        # Encoder layers of torch.nn call no part of themselves unless one of them has a hook.
        changes.enter_context(layer.register_forward_hook(lambda *_: None))
        for module, given in answers.items():
            changes.enter_context(_answering(module, given))
        output = forward()
    if not asked:
        raise LayerError(
            "the layer did not run again on the same input; call model.eval(), or make what is "
            "random in the model repeat itself"
        )
    return output


@contextmanager
def _answering(module: nn.Module, answers: Answers) -> Iterator[None]:
    """Let some calls of a module in this thread give an answer without running.

    `_call_impl` is what a call of a module runs, with its hooks: those ran when the answer
    was recorded. `Module.compile` holds it under the other name.
    """
    attributes = vars(module)
    name = "_call_impl" if module._compiled_call_impl is None else "_compiled_call_impl"
    own, original = attributes.get(name), getattr(module, name)
    owner, numbers = threading.get_ident(), count()

    def call(*args: Any, **kwargs: Any) -> Any:
        answer = answers.get(next(numbers)) if threading.get_ident() == owner else None
        return original(*args, **kwargs) if answer is None else answer()

    attributes[name] = call
    try:
        yield
    finally:
        if own is None:
            del attributes[name]
        else:
            attributes[name] = own


@dataclass
class _Call:
    """A call of a module that a replay makes, too."""

    module: nn.Module
    gave: Any = None
    over: bool = False


@dataclass
class _Recorder:
    """Hooks that note the calls of a forward pass until that of the layer is over.

    Attributes:
        layer: the module.
        call: the number of its call.
        runs: how often it was called.
        found: whether that call is over; then it is the last of `calls`.
        calls: in the order in which they began, without those inside of one that is over.
    """

    layer: nn.Module
    call: int
    runs: int = 0
    found: bool = False
    calls: list[_Call] = field(default_factory=list)
    _running: list[int] = field(default_factory=list)
    _wanted: _Call | None = None
    _owner: int = field(default_factory=threading.get_ident)

    def begins(self, module: nn.Module, _args: Any) -> None:
        if threading.get_ident() != self._owner:
            return
        if not self.found:
            self._running.append(len(self.calls))
            self.calls.append(_Call(module))
        if module is self.layer:
            if self.runs == self.call:
                self._wanted = self.calls[-1]
            self.runs += 1

    def ends(self, module: nn.Module, _args: Any, output: Any) -> None:
        if self.found or threading.get_ident() != self._owner:
            return
        position = self._running.pop()
        del self.calls[position + 1 :]
        ended = self.calls[position]
        ended.gave, ended.over = copied(output), True
        self.found = ended is self._wanted

    def recording(self, output: Any) -> Recording:
        *earlier, chosen = self.calls
        before: dict[nn.Module, dict[int, Any]] = defaultdict(dict)
        numbers = Counter[nn.Module]()
        for one in earlier:
            if one.over:
                before[one.module][numbers[one.module]] = one.gave
            numbers[one.module] += 1
        return Recording(
            output, self.layer, chosen.gave, self.call, numbers[self.layer], dict(before)
        )


def _number(forward: Forward, layer: Located) -> int:
    """The number of the chosen call, counted from 0; one from the end takes a pass to count."""
    if layer.call is None or layer.call >= 0:
        return layer.call or 0
    owner, runs = threading.get_ident(), []

    def ends(*_: Any) -> None:
        if threading.get_ident() == owner:
            runs.append(layer)

    with layer.module.register_forward_hook(ends):
        forward()
    return layer.call + len(runs)


def _check(forward: Forward, layer: Located, recorder: _Recorder) -> None:
    """Raise an error unless the chosen call of the layer was recorded."""
    name, runs = layer.name, recorder.runs
    if runs == 0:
        raise UnreachedError(
            f"layer {name!r} does not run in this forward pass; {advice(forward, name)}"
        )
    if layer.call is None and runs > 1:
        raise LayerError(
            f"layer {name!r} runs {runs} times in one forward pass; choose a call with "
            f"Layer({name!r}, call=0) to call={runs - 1}"
        )
    if not recorder.found:
        raise LayerError(f"layer {name!r} runs {runs} times, so it has no call {layer.call}")
    gave = recorder.calls[-1].gave
    if first_tensor(gave) is None:
        raise LayerError(
            f"layer {name!r} gives no floating-point tensor but {type(gave).__name__}; choose one "
            "that gives a feature map (`multicam.feature_maps` lists them)"
        )
