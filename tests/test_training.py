"""The training scripts, on a few photos."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from multicam.tasks.captioner import Decoder
from multicam.tasks.vocabulary import Vocabulary

pytestmark = pytest.mark.usefixtures("importable")

ROOT = Path(__file__).parents[1]
CAPTIONS = {
    "cat.jpg": ["A cat looks up .", "A striped cat ."],
    "coffee.jpg": ["A cup of coffee .", "A cup on a table ."],
    "rocket.jpg": ["A rocket on a stage .", "A white rocket ."],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = tmp_path / "data" / "flickr8k" / "images"
    images.mkdir(parents=True)
    for name in CAPTIONS:
        with Image.open(str(files("multicam") / "photos" / name)) as photo:
            photo.resize((224, 224)).save(images / name)
    about = {"captions": CAPTIONS, "splits": {"train": list(CAPTIONS)}}
    (images.parent / "captions.json").write_text(json.dumps(about))
    return tmp_path / "data"


def command(data: Path, out: Path, cache: Path) -> list[str]:
    script = str(ROOT / "examples" / "train_captioner.py")
    settings = [
        "--epochs",
        "8",
        "--batch",
        "3",
        "--least",
        "1",
        "--threads",
        "1",
        "--critical-batch",
        "2",
    ]
    paths = ["--data", str(data), "--out", str(out), "--cache", str(cache)]
    return [sys.executable, script, *paths, *settings]


def test_a_captioner_is_trained_and_an_interrupted_run_ends_the_same(
    data: Path, tmp_path: Path
) -> None:
    cache, straight, resumed = (tmp_path / name for name in ("cache", "straight", "resumed"))
    done = subprocess.run(command(data, straight, cache), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines() if "loss" in line]
    assert losses[-1] < losses[0]
    assert "self-critical epoch 1" in done.stdout
    checkpoint, later = sorted(cache.glob("*.checkpoint.pt"), key=lambda path: len(path.name))
    checkpoint.unlink()
    later.unlink()

    running = subprocess.Popen(command(data, resumed, cache), stdout=subprocess.DEVNULL)
    while not checkpoint.exists():
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert torch.load(checkpoint, weights_only=True)["epochs"] < 8
    again = subprocess.run(command(data, resumed, cache), capture_output=True, text=True)
    assert "Going on after epoch" in again.stdout

    weights, expected = (
        load_file(folder / "captioner.safetensors") for folder in (resumed, straight)
    )
    assert all(torch.equal(value, weights[name]) for name, value in expected.items())
    vocabulary = Vocabulary.from_file(straight / "captioner.vocabulary.json")
    assert vocabulary.spell(vocabulary.encode("A striped cat.")) == "a striped cat"
    Decoder(len(vocabulary), 512, 0.5).load_state_dict(weights)
