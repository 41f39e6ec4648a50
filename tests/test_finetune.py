"""The script that fine-tunes on folders of photos, on textures that are drawn here."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parents[1] / "examples"
TRAINED, TESTED = 8, 3
PICTURES = {"two_classes.png", "every_class.png"}


@pytest.fixture(autouse=True)
def beside_the_examples(importable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def draw(kind: str, generator: np.random.Generator) -> Image.Image:
    """Brown furrows, or grey houses on green."""
    picture = np.empty((48, 64, 3))
    if kind == "field":
        waves = np.sin(np.arange(64) * generator.uniform(0.5, 0.9))
        picture[:] = np.array([150, 110, 70]) + 40 * waves[:, np.newaxis]
    else:
        picture[:] = (60, 130, 50)
        for top in range(2, 48, 12):
            for left in range(int(generator.integers(4)), 60, 12):
                picture[top : top + 7, left : left + 7] = generator.uniform(130, 220)
    noisy = picture + generator.normal(0, 8, picture.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def fill(folder: Path, count: int, seed: int, suffix: str = "png") -> None:
    generator = np.random.default_rng(seed)
    for kind in ("field", "village"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            draw(kind, generator).save(folder / kind / f"{kind}{number}.{suffix}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    fill(folder / "train", TRAINED, seed=1)
    fill(folder / "test", TESTED, seed=2)
    shutil.copy(folder / "test" / "field" / "field0.png", folder / "test" / "village")  # a trap
    return folder


def command(data: Path, out: Path, *more: str) -> list[str]:
    script = str(EXAMPLES / "finetune_and_explain.py")
    settings = ["--epochs", "6", "--views", "3", "--turned", "--threads", "1"]
    return [sys.executable, script, "--data", str(data), "--out", str(out), *settings, *more]


def test_scenes_are_learned_and_explained_and_an_interrupted_run_ends_the_same(
    data: Path, tmp_path: Path
) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    started = command(data, straight, "--classes", "Field", "village")
    done = subprocess.run(started, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "fine-tuned: accuracy on 7 test photos 85.7 %" in done.stdout
    assert "95 % interval 48.7 % to 97.4 %" in done.stdout
    assert re.search(r"took \d+\.\d minutes", done.stdout)
    assert "1 x village taken for field" in done.stdout
    for name in (*PICTURES, "confusions.png"):
        with Image.open(straight / name) as picture:
            assert min(picture.size) > 200
            assert np.asarray(picture).std() > 20

    running = subprocess.Popen(command(data, resumed), stdout=subprocess.DEVNULL)
    while not list(resumed.glob("cache/*.checkpoint.pt")):
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    (checkpoint,) = resumed.glob("cache/*.checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["epochs"] < 6
    again = subprocess.run(command(data, resumed), capture_output=True, text=True)
    assert "Going on after epoch" in again.stdout, again.stderr
    weights, expected = (load_file(one / "network.safetensors") for one in (resumed, straight))
    assert all(torch.equal(value, weights[name]) for name, value in expected.items())
    with safe_open(straight / "network.safetensors", framework="pt") as file:
        assert file.metadata()["classes"] == '["field", "village"]'


def test_folders_of_classes_alone_are_split_by_the_seed(tmp_path: Path) -> None:
    fill(tmp_path, 10, seed=3, suffix="tif")
    (tmp_path / "field" / "Thumbs.db").touch()
    (tmp_path / "readme.txt").touch()
    read = import_module("scenes").read
    scenes, same, other = read(tmp_path, 0), read(tmp_path, 0), read(tmp_path, 1)
    assert scenes.classes == ("field", "village")
    assert scenes.test.answers == (0, 0, 1, 1)
    assert scenes.train.answers == (0,) * 8 + (1,) * 8
    assert not set(scenes.train.photos) & set(scenes.test.photos)
    assert scenes == same
    assert scenes.test != other.test
    assert scenes.fingerprint == same.fingerprint != other.fingerprint


def test_a_view_is_the_same_every_time_and_another_for_each_number(data: Path) -> None:
    view = import_module("scenes").View
    photo = data / "train" / "village" / "village0.png"
    plain, mirrored, crop, turned = (
        view(number, turned=number == 3, seed=0).of(photo, 5) for number in range(4)
    )
    assert torch.equal(plain.flip(2), mirrored)
    assert torch.equal(crop, view(2, turned=False, seed=0).of(photo, 5))
    assert not torch.equal(crop, view(2, turned=False, seed=1).of(photo, 5))
    assert not torch.equal(crop, view(2, turned=False, seed=0).of(photo, 6))
    assert len({one.numpy().tobytes() for one in (plain, mirrored, crop, turned)}) == 4


@pytest.mark.parametrize("right", [0, 361, 420])
def test_the_interval_of_an_accuracy_is_wilsons(right: int) -> None:
    expected = import_module("scipy.stats").binomtest(right, 420).proportion_ci(method="wilson")
    assert import_module("finetune").wilson(right, 420) == pytest.approx(expected, abs=1e-4)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line that the script prints before it ends with exit code 2."""
    main: Any = import_module("finetune_and_explain").main
    sys.argv = ["finetune_and_explain.py", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_used_is_refused_in_a_sentence(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    assert "there is no folder nowhere" in refused(capsys, "--data", "nowhere")
    alone = tmp_path / "alone"
    shutil.copytree(data / "train" / "field", alone / "field")
    assert "it holds only 'field'" in refused(capsys, "--data", str(alone))
    assert "it holds none" in refused(capsys, "--data", str(alone / "field"))
    untested = tmp_path / "untested"
    shutil.copytree(data / "train", untested / "train")
    assert "no folder `test`" in refused(capsys, "--data", str(untested))
    shutil.copytree(data / "test" / "field", untested / "test" / "field")
    shutil.copytree(data / "test" / "field", untested / "test" / "lake")
    given = refused(capsys, "--data", str(untested))
    assert given.endswith("hold different classes: lake, village")
    given = refused(capsys, "--data", str(data), "--classes", "field", "vilage")
    assert "no class is called 'vilage'; the nearest are village" in given
    given = refused(capsys, "--data", str(data), "--photo", "nothing.png")
    assert "nothing.png" in given
    given = refused(capsys, "--data", str(data), "--size", "32")
    assert "--size 32 is too small for a map; 64 is the least" in given
    assert not list(tmp_path.glob("multicam-out"))


def test_an_unreadable_photo_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    fill(tmp_path / "data", 3, seed=4)
    for damaged in (tmp_path / "data" / "village").iterdir():
        damaged.write_text("no picture")
    folders = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert "village" in refused(capsys, *folders, "--threads", "1")
    assert not list((tmp_path / "out").glob("**/*.safetensors"))
