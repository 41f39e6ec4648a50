"""What a user gets who installs multicam: names, files, nothing loaded too early."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path
from zipfile import ZipFile

import pytest

import multicam

ROOT = Path(__file__).parents[1]

PUBLIC_NAMES = [
    "METHODS",
    "Augmented",
    "CaptionLogProb",
    "ClassLogProb",
    "ClassLogit",
    "ConceptLogProb",
    "ConceptLogit",
    "CrossCheck",
    "DetectionScore",
    "Difference",
    "EmbeddingSimilarity",
    "Explanation",
    "FeatureMap",
    "FinerCAM",
    "InputError",
    "InputGradients",
    "Layer",
    "LayerError",
    "MissingExtraError",
    "MulticamError",
    "Negative",
    "PerSample",
    "PhraseLogProb",
    "PhraseLogit",
    "RegionMean",
    "Smoothed",
    "TargetError",
    "TokenLogProb",
    "TokenLogit",
    "TopClass",
    "UnreachedError",
    "WordContributions",
    "__version__",
    "crosscheck",
    "deconvnet",
    "explain",
    "explain_layers",
    "feature_maps",
    "fuse",
    "grad_cam",
    "guided_backprop",
    "guided_grad_cam",
    "token_grid",
    "word_contributions",
]

LOADED_ON_USE = ["captum", "cv2", "gradio", "matplotlib", "ray", "torchvision", "transformers"]

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def python(code: str, *args: str, cwd: Path, path: Path | None = None) -> str:
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what a wheel, built from a copy of the sources, installs."""
    sources, built, unpacked = (tmp_path_factory.mktemp(n) for n in ("sources", "built", "site"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for name in ("multicam", "tasks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=ignored)
    python(BUILD, str(built), cwd=sources)
    (wheel,) = built.glob("*.whl")
    ZipFile(wheel).extractall(unpacked)
    return unpacked


def files(package: Path) -> set[str]:
    folders = os.walk(package, followlinks=True)
    found = (
        Path(folder, name).relative_to(package) for folder, _, names in folders for name in names
    )
    return {
        path.as_posix()
        for path in found
        if "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def metadata(installed: Path) -> Distribution:
    (folder,) = installed.glob("*.dist-info")
    return Distribution.at(folder)


def test_the_public_names_are_these() -> None:
    assert multicam.__all__ == PUBLIC_NAMES


def test_every_public_name_exists_and_no_other_is_visible() -> None:
    visible = {
        name
        for name, value in vars(multicam).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert visible == set(PUBLIC_NAMES) - {"__version__"}


def test_import_multicam_loads_no_heavy_library() -> None:
    code = f"import sys, multicam; print([name for name in {LOADED_ON_USE} if name in sys.modules])"
    assert python(code, cwd=ROOT) == "[]"


def test_import_multicam_adds_less_than_a_fifth_of_a_second_to_import_torch() -> None:
    code = (
        "import time, torch; start = time.process_time(); import multicam; "
        "print(time.process_time() - start)"
    )
    assert float(python(code, cwd=ROOT)) < 0.2


def test_the_wheel_holds_every_file_of_the_package_and_no_other(installed: Path) -> None:
    in_wheel = files(installed / "multicam")
    assert in_wheel == files(ROOT / "multicam")
    assert {"py.typed", "photos/cat.jpg", "tasks/__init__.py"} <= in_wheel
    assert {"templates/report.html.jinja", "templates/report.js"} <= in_wheel
    assert {"web/templates/page.css", "web/templates/words.js"} <= in_wheel


def test_the_wheel_installs_no_other_package(installed: Path) -> None:
    (metadata_folder,) = installed.glob("*.dist-info")
    assert {path.name for path in installed.iterdir()} == {"multicam", metadata_folder.name}


def test_the_wheel_has_the_version_of_the_package(installed: Path) -> None:
    assert metadata(installed).version == multicam.__version__


def test_the_command_of_the_wheel_can_be_loaded(installed: Path) -> None:
    (command,) = metadata(installed).entry_points
    assert (command.group, command.name) == ("console_scripts", "multicam")
    assert callable(command.load())


def test_outside_the_repository_tasks_exists_only_as_multicam_tasks(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "import importlib.util, multicam.tasks; "
        "print(importlib.util.find_spec('tasks'), multicam.tasks.__file__)"
    )
    expected = installed / "multicam" / "tasks" / "__init__.py"
    assert python(code, cwd=tmp_path, path=installed) == f"None {expected}"
