"""The versions that a result was made with."""

from __future__ import annotations

import torch

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of multicam and torch, to be kept with a result."""
    return {"multicam": __version__, "torch": torch.__version__}
