"""How much memory a call takes: measured in a process of its own (Linux)."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Found = TypeVar("Found")


def in_a_fresh_process(function: Callable[..., Found], *args: Any) -> Found:
    """What a function returns in a process that ran nothing before.

    Raises:
        BrokenProcessPool: the process was killed, as the system does when memory ends.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def growth(run: Callable[[], Any]) -> int:
    """Bytes by which a call raises the resident memory at its peak."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # reset VmHWM
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def saved_for_backward(model: nn.Module, run: Callable[[], Any]) -> int:
    """Most bytes that the graphs of a call keep at a time, beside the model's own tensors."""
    saved = _Saved(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        run()
    return saved.peak


def mebibytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"


def _resident(field: str) -> int:
    """VmRSS, memory now, or VmHWM, its peak since the last reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class _Saved:
    """Counts the bytes that graphs keep for backward, beside the model's own tensors."""

    def __init__(self, model: nn.Module) -> None:
        own = [*model.parameters(), *model.buffers()]
        self.ignored = {tensor.untyped_storage().data_ptr() for tensor in own}
        self.holders: Counter[int] = Counter()
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> _Held:
        return _Held(self, tensor)

    def change(self, tensor: Tensor, by: int) -> None:
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self.ignored:
            return
        before = self.holders[key]
        self.holders[key] = before + by
        if 0 in (before, before + by):
            self.now += by * storage.nbytes()
            self.peak = max(self.peak, self.now)


class _Held:
    """One saved tensor, counted for as long as a graph holds it."""

    def __init__(self, saved: _Saved, tensor: Tensor) -> None:
        self.saved, self.tensor = saved, tensor.detach()  # or it would hold its own graph
        saved.change(tensor, +1)

    def __del__(self) -> None:
        self.saved.change(self.tensor, -1)
