"""The site of the docs is built without a warning, and asks nothing of other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")

ROOT = Path(__file__).parents[1]
LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=\"?([^\s\">]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "not included in the" not in built.stderr, built.stderr
    return folder


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    loaded = {
        address
        for page in site.rglob("*.html")
        for address in LOADED.findall(page.read_text(encoding="utf-8"))
    }
    assert "assets/site.css" in loaded
    assert [one for one in loaded if re.match(r"(?:https?:)?//", one)] == []


def test_links_to_files_outside_docs_lead_to_pages_of_the_site(site: Path) -> None:
    page = (site / "tutorial-captioning.html").read_text(encoding="utf-8")
    assert 'href="examples/caption.py.html"' in page
    assert 'href="tasks/weights/captioner.html"' in page
    contributing = (site / "CONTRIBUTING.html").read_text(encoding="utf-8")
    assert 'href="add-a-target.html"' in contributing
    script = (site / "examples" / "caption.py.html").read_text(encoding="utf-8")
    assert "captioning.load()" in re.sub(r"<[^>]+>", "", script)


def test_a_notebook_can_be_downloaded_from_the_site(site: Path) -> None:
    name = "grad_cam_step_by_step.ipynb"
    assert f'href="examples/{name}"' in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "examples" / name).read_bytes() == (ROOT / "examples" / name).read_bytes()


def test_docstrings_become_pages_with_their_examples(site: Path) -> None:
    page = (site / "api" / "explain.html").read_text(encoding="utf-8")
    assert 'id="multicam.explain"' in page
    assert "&gt;&gt;&gt; " in page.partition("Examples:")[2]


def test_the_search_works_without_a_server(site: Path) -> None:
    """Its index is a script, and the worker that reads it has a replacement."""
    assert "randomisation check" in (site / "search" / "search_index.js").read_text("utf-8")
    assert 'src="assets/iframe-worker.js"' in (site / "index.html").read_text(encoding="utf-8")
