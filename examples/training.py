"""What the training scripts share: feature maps that are computed once, and checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from multicam.tasks import backbone


def feature_maps(photos: Sequence[Path], cache: Path, *, mirrored: bool = False) -> np.ndarray:
    """The encoder's output for photos, (photo, 1280, 7, 7) in half precision, from the cache."""
    if not cache.exists():
        network = backbone.pretrained()
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".part.npy")
        shape = (len(photos), 1280, 7, 7)
        found = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
        for first in track(range(0, len(photos), 32), f"feature maps: {cache.stem}"):
            batch = np.stack([read(photo) for photo in photos[first : first + 32]])
            pixels = (torch.from_numpy(batch).permute(0, 3, 1, 2).float() - 127) / 128
            with torch.inference_mode():
                maps = backbone.features(network, pixels.flip(3) if mirrored else pixels)
            found[first : first + 32] = maps.half().numpy()
        found.flush()
        partial.rename(cache)
    return np.load(cache, mmap_mode="r")


def read(path: Path) -> np.ndarray:
    """The pixels of a photo, squeezed to the encoder's square."""
    with Image.open(path) as image:
        square = (backbone.SIZE, backbone.SIZE)
        return np.asarray(image.convert("RGB").resize(square, Image.Resampling.BICUBIC))


class Checkpoint:
    """What a run has learned so far; another run with the same settings goes on from it.

    Args:
        options: what the script was called with.
        name: of what is trained.
        settings: the options that the result depends on.
    """

    def __init__(self, options: argparse.Namespace, name: str, settings: Sequence[str]) -> None:
        values = (f"{setting}={getattr(options, setting):g}" for setting in settings)
        self.path: Path = options.cache / f"{name}-{'-'.join(values)}.checkpoint.pt"

    def resume(self, *parts: Any) -> int:
        """Put the parts back to where they were; the number of epochs that are done."""
        if not self.path.exists():
            return 0
        kept = torch.load(self.path, weights_only=True)
        for part, state in zip(parts, kept["states"], strict=True):
            part.load_state_dict(state)
        print(f"Going on after epoch {kept['epochs']} of {self.path}")
        return int(kept["epochs"])

    def save(self, epochs: int, *parts: Any) -> None:
        """Keep the parts' states, in one step."""
        partial = self.path.with_suffix(".part")
        torch.save({"epochs": epochs, "states": [part.state_dict() for part in parts]}, partial)
        partial.rename(self.path)
