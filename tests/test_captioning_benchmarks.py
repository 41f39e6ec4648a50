"""The benchmark of captions, on photos whose references are known."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

from multicam.tasks import captioning

pytestmark = pytest.mark.usefixtures("importable")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "captioning.py"
PHOTOS = ("astronaut.jpg", "cat.jpg", "coffee.jpg")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits: references that the captioner itself wrote, and ones about something else."""
    folder = tmp_path_factory.mktemp("data")
    images = folder / "flickr8k" / "images"
    images.mkdir(parents=True)
    task, captions = captioning.load(), {}
    for name in PHOTOS:
        with Image.open(str(files("multicam") / "photos" / name)) as photo:
            photo.resize((224, 224)).save(images / name)
        said = task.caption(images / name, beam=1)
        captions[name] = ["Nothing like it !", f"{said.capitalize()} ."]
    captions["other.jpg"] = ["Colourless green ideas sleep furiously ."]
    Image.new("RGB", (224, 224)).save(images / "other.jpg")
    about = {"captions": captions, "splits": {"test": PHOTOS, "dev": ["other.jpg", *PHOTOS]}}
    (images.parent / "captions.json").write_text(json.dumps(about))
    return folder


def printed(data: Path, *options: str) -> list[list[str]]:
    command = [sys.executable, str(SCRIPT), "--data", str(data), "--markdown", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_captions_that_are_the_references_score_one(data: Path) -> None:
    rows = printed(data, "--beam", "2")
    greedy = dict(zip(rows[0], rows[2], strict=True))
    for score in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert greedy[score] == "1.000"
    assert [row[0] for row in rows[2:4]] == ["greedy", "beam 2, length 0.7"]
    assert [row[0] for row in rows[6:]] == list(PHOTOS)


def test_a_caption_unlike_its_references_lowers_the_scores(data: Path) -> None:
    rows = printed(data, "--beam", "1", "--split", "dev", "--samples", "1")
    greedy = dict(zip(rows[0], rows[2], strict=True))
    assert 0.5 < float(greedy["BLEU-1"]) < 1
    assert 0.5 < float(greedy["ROUGE-L"]) < 1
    assert len(rows) == 3 + 3


def test_all_that_are_timed_give_the_same_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchcam", reason="it comes with the extra bench")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    speed, sidebyside = import_module("captioning_speed"), import_module("sidebyside")
    case = speed.prepared("the bundled captioner")
    maps = {name: adapter(case)() for name, adapter in speed.ADAPTERS.items() if name != "forward"}
    assert maps["multicam"].shape == (1, 16, 14, 14)
    for name, found in maps.items():
        sidebyside._must_agree(name, found, maps["multicam"])
