"""The benchmark of methods: whom it times, and how it stops.

The processes that it starts import this module, which therefore imports little by itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

MAPS = torch.arange(4.0).reshape(1, 1, 2, 2)


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))


def quick() -> Callable[[], Tensor]:
    return lambda: MAPS


def slow() -> Callable[[], Tensor]:
    def run() -> Tensor:
        time.sleep(1)
        return MAPS

    return run


def other() -> Callable[[], Tensor]:
    return lambda: MAPS.flip(3)


def killed() -> Callable[[], Tensor]:
    os._exit(9)


def allocated() -> int:
    growth: Callable[[Callable[[], Tensor]], int] = import_module("memory").growth
    return growth(lambda: torch.ones(2**24))


def test_calls_are_compared_round_by_round_or_by_medians_where_rounds_differ() -> None:
    times_of = import_module("sidebyside").times_of
    assert times_of([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == 3
    assert times_of([6.0], [1.0, 4.0, 2.0]) == 3
    assert times_of([1.0, 6.0, 9.0], [2.0]) == 3


def test_a_slow_library_is_called_once_and_one_that_is_killed_not_at_all() -> None:
    makers = {"multicam": quick, "other": other, "slow": slow, "killed": killed}
    take_times = import_module("sidebyside").take_times
    taken = take_times(makers, 3, 1, once_above=0.5, differ=["other"])
    assert {name: len(seconds) for name, seconds in taken.items()} == {
        "multicam": 3,
        "other": 3,
        "slow": 1,
        "killed": 0,
    }
    assert taken["slow"][0] > 1


def test_the_rounds_are_shared_among_new_processes() -> None:
    taken = import_module("sidebyside").take_times(
        {"multicam": quick, "other": other}, 5, 1, differ=["other"], heap="plain", processes=2
    )
    assert {name: len(seconds) for name, seconds in taken.items()} == {"multicam": 5, "other": 5}


def test_libraries_that_run_together_take_the_rounds_together() -> None:
    take_times = import_module("sidebyside").take_times_together
    taken = take_times({"multicam": quick, "other": other}, 3, 1, differ=["other"], processes=2)
    assert {name: len(seconds) for name, seconds in taken.items()} == {"multicam": 3, "other": 3}
    with pytest.raises(SystemExit, match="other gives other maps than multicam"):
        take_times({"multicam": quick, "other": other}, 1, 1)


def test_a_library_of_other_maps_stops_the_benchmark() -> None:
    take_times = import_module("sidebyside").take_times
    with pytest.raises(SystemExit, match="other gives other maps than multicam"):
        take_times({"multicam": quick, "other": other}, 1, 1)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="it takes Linux")
def test_memory_is_that_of_the_call() -> None:
    grown = import_module("memory").in_a_fresh_process(allocated)
    assert 2**26 <= grown < 2**27


def test_peers_give_the_maps_that_the_benchmark_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchcam", reason="it comes with the extra bench")
    from torchvision.models import resnet18

    cases, sidebyside = import_module("method_cases"), import_module("sidebyside")
    model, images = resnet18().eval(), torch.randn(1, 3, 64, 64)
    monkeypatch.setattr(import_module("gradcam"), "network", lambda batch: (model, images))
    index = cases.highest_class(1)
    for method in set(cases.SHARED) - {"scorecam", "sscam", "iscam"}:
        case = cases.OnResNet(method, "layer4", 1, index)
        ours = case.make("multicam")()
        for peer, known in cases.PEERS.items():
            if method in known:
                theirs = case.make(peer)()
                assert theirs.shape[:2] == ours.shape[:2] == (1, 1)
                if method not in cases.OTHER_MAPS[peer]:
                    sidebyside._must_agree(f"{method} of {peer}", theirs, ours)


def test_every_method_of_a_peer_is_one_of_ours() -> None:
    pytest.importorskip("torchcam", reason="it comes with the extra bench")
    from multicam import METHODS

    cases = import_module("method_cases")
    for peer, known in cases.PEERS.items():
        assert set(known) <= set(METHODS)
        assert cases.OTHER_MAPS[peer] <= set(known)
