from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from served import Served, serving

os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches the network
settings.register_profile("same every time", derandomize=True)
settings.load_profile("same every time")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each, for the scripts that tests start as well
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
else:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts that a test starts find multicam here, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page of `multicam serve`, in a process of its own."""
    with serving(tmp_path_factory.mktemp("served")) as page:
        yield page


@pytest.fixture(scope="session")
def photos() -> dict[str, Path]:
    """The bundled photos by name: cat, coffee, astronaut, rocket, hopper."""
    folder = Path(__file__).parents[1] / "multicam" / "photos"
    return {path.stem: path for path in sorted(folder.glob("*.jpg"))}
