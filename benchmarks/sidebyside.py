"""Times of several libraries in one run, called in turn: in each round once, in random order.

`take_times` has a process for each library, so that none profits from memory that another has
grown. `take_times_together` has all of them in each process, so that none has the luck of one
that lies better in memory, which is what tells libraries apart that do equal work.
"""

from __future__ import annotations

import gc
import math
import os
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

Run = Callable[[], Tensor]
"""One call of a library, which gives its maps (batch, target, height, width)."""

Make = Callable[[], Run]
"""Prepares the calls of a library, in its own process; a function that can be pickled."""

Seconds = dict[str, list[float]]
"""What each call of each library took, in rounds."""

MAX_SECONDS = 20.0  # a library that took this long in all is not called again
MIN_CALLS = 2
HEAPS: dict[str, dict[str, str]] = {
    "kept": {
        "MALLOC_MMAP_THRESHOLD_": str(2**32 - 1),
        "MALLOC_TRIM_THRESHOLD_": str(2**34),
        "MALLOC_TOP_PAD_": str(2**28),
    },
    "plain": {},
}
"""What glibc does with memory that is freed while times are taken: keep it, or, as it comes, give
large tensors back, so that who makes more of them waits for more page faults."""


def take_times(
    makers: Mapping[str, Make],
    rounds: int,
    threads: int,
    *,
    once_above: float = math.inf,
    differ: Collection[str] = (),
    heap: str = "kept",
    processes: int = 1,
) -> Seconds:
    """The seconds of each call, in interleaved rounds after a warm-up.

    Args:
        makers: by the library's name; "forward" gives no maps, and those of all others
            must agree with those of "multicam".
        rounds: calls of each library that is not too slow for so many.
        threads: of the processor, for each.
        once_above: a library whose first call takes more seconds is not called again.
        differ: the libraries whose maps are known to be others.
        heap: of each process, one of `HEAPS`.
        processes: of each library, one after the other, which share the rounds: where a process
            lies in memory makes it up to 12 % faster or slower for as long as it lives.

    Returns:
        Seconds by library; none of one that failed, as where memory ends.
    """
    taken: Seconds = {name: [] for name in makers}
    with _environment(HEAPS[heap]):
        for share in _shares(rounds, processes):
            some = _in_new_processes(makers, share, threads, once_above, differ)
            for name, seconds in some.items():
                taken[name] += seconds
    return taken


def _in_new_processes(
    makers: Mapping[str, Make],
    rounds: int,
    threads: int,
    once_above: float,
    differ: Collection[str],
) -> Seconds:
    taken: Seconds = {name: [] for name in makers}
    lines: dict[str, Connection] = {}
    maps: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, make in makers.items():
            line = _started(stack, make, threads, once_above)
            with suppress(EOFError):
                seconds, found = line.recv()
                maps[name] = torch.from_numpy(found)
                if seconds > once_above:
                    taken[name].append(seconds)
                else:
                    lines[name] = line
        for name in [name for name in maps if name not in {"forward", *differ}]:
            _must_agree(name, maps[name], maps["multicam"])
        order = random.Random(0)
        for _ in range(rounds):
            for name in order.sample(list(lines), len(lines)):
                if len(taken[name]) < MIN_CALLS or sum(taken[name]) < MAX_SECONDS:
                    lines[name].send(True)
                    taken[name].append(lines[name].recv())
    return taken


def take_times_together(
    makers: Mapping[str, Make],
    rounds: int,
    threads: int,
    *,
    differ: Collection[str] = (),
    heap: str = "kept",
    processes: int = 1,
) -> Seconds:
    """The same as `take_times`, with all libraries in each process, each called in every round."""
    taken: Seconds = {name: [] for name in makers}
    with ExitStack() as stack:
        stack.enter_context(_environment(HEAPS[heap]))
        for share in _shares(rounds, processes):
            pool = stack.enter_context(get_context("spawn").Pool(1))
            some, maps = pool.apply(_rounds, (dict(makers), share, threads))
            for name, seconds in some.items():
                taken[name] += seconds
                if name not in {"forward", *differ}:
                    _must_agree(name, *(torch.from_numpy(maps[one]) for one in (name, "multicam")))
    return taken


def times_of(own: Sequence[float], base: Sequence[float]) -> float:
    """How many times as long as another call of the same round, in the median of the rounds.

    Where they were not called in the same rounds, their medians are compared.
    """
    if len(own) != len(base):
        return median(own) / median(base)
    return median(ours / theirs for ours, theirs in zip(own, base, strict=True))


def _shares(rounds: int, processes: int) -> list[int]:
    """How many of the rounds each process makes."""
    ends = [rounds * number // processes for number in range(processes + 1)]
    return [end - start for start, end in pairwise(ends)]


def _rounds(
    makers: dict[str, Make], rounds: int, threads: int
) -> tuple[Seconds, dict[str, np.ndarray]]:
    """The seconds of each call after a warm-up, and the maps of a call."""
    torch.set_num_threads(threads)
    runs = {name: make() for name, make in makers.items()}
    maps = {name: run().clone().numpy() for name, run in runs.items() for _ in range(2)}
    order, taken = random.Random(0), {name: list[float]() for name in runs}
    for _ in range(rounds):
        for name in order.sample(list(runs), len(runs)):
            taken[name].append(_timed(runs[name])[0])
    return taken, maps


def _started(stack: ExitStack, make: Make, threads: int, once_above: float) -> Connection:
    """A line to a library in a process of its own."""
    line, far = get_context("spawn").Pipe()
    worker = get_context("spawn").Process(
        target=_serve, args=(far, make, threads, once_above), daemon=True
    )
    worker.start()
    far.close()  # so that the line ends with the worker
    stack.callback(worker.terminate)
    return line


def _serve(line: Connection, make: Make, threads: int, once_above: float) -> None:
    """The first call and its maps, a warm-up if that was fast, then seconds when asked."""
    torch.set_num_threads(threads)
    run = make()
    seconds, maps = _timed(run)
    if seconds <= once_above:
        maps = run()
    line.send((seconds, maps.clone().numpy()))
    while seconds <= once_above and line.recv():
        line.send(_timed(run)[0])


def _timed(run: Run) -> tuple[float, Tensor]:
    gc.collect()
    start = time.perf_counter()
    maps = run()
    return time.perf_counter() - start, maps


def _must_agree(name: str, maps: Tensor, ours: Tensor) -> None:
    """Maps of our size must be equal; a peer may rescale and enlarge its own, but not else."""
    peak = ours.amax(dim=(2, 3))
    if maps.shape == ours.shape:
        apart = (maps - ours).abs().amax(dim=(2, 3)) / peak.clamp(min=1e-3 * peak.max().item())
        agree = apart < 1e-3
    else:
        large = nn.functional.interpolate(ours, maps.shape[2:], mode="bilinear").flatten(2)
        pairs = (m - m.mean(dim=2, keepdim=True) for m in (maps.flatten(2), large))
        agree = (torch.cosine_similarity(*pairs, dim=2) > 0.99) | (peak == 0)
    if not (agree.all() and peak.any()):
        raise SystemExit(f"{name} gives other maps than multicam")


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
