"""The pages keep their word: code runs, links lead somewhere, pictures have their commands.

Blocks of code marked `python` run, page by page; code of other libraries is marked `py`
and does not.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import multicam

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
PICTURES = DOCS / "images"

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]+\]\(([^)]+)\)")
COMMANDS = re.compile(r"^```sh\n(.*?)^```|`((?:multicam|python|make) [^`]+)`", re.M | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)[^)]*\)")


class Network(nn.Module):
    """What the pages assume of a user's model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"stage4": nn.Conv2d(3, 8, 3, stride=4)})
        self.layer4 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 300)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.layer4(self.encoder["stage4"](images))
        logits = self.head(features.mean((2, 3)))
        return {"logits": logits, "damage": logits, "clouds": features[:, 0], "density": features}


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def sections(page: Path) -> list[str]:
    """The parts of a page from heading to heading."""
    return re.split(r"^#+ ", text(page), flags=re.MULTILINE)


def commands(section: str) -> str:
    return "\n".join(block or inline for block, inline in COMMANDS.findall(section))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if BLOCK.search(text(page))],
    ids=lambda page: page.name,
)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {
        "__name__": page.stem,
        "model": Network().eval(),
        "images": torch.rand(2, 3, 48, 48),
        "photo": Path(multicam.__file__).parent / "photos" / "cat.jpg",
    }
    for block in BLOCK.findall(text(page)):
        exec(compile(block, page.name, "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    missing = [link for link in LINK.findall(text(page)) if not (page.parent / link).exists()]
    assert missing == []


def test_every_picture_has_the_command_that_made_it_beside_it() -> None:
    """A command of the same section names the photo or what else the picture is called by."""
    alone = [
        f"{page.name}: {picture}"
        for page in PAGES
        for section in sections(page)
        for picture in PICTURE.findall(section)
        if not any(word in commands(section) for word in re.split(r"[._-]", Path(picture).stem))
    ]
    assert alone == []


def test_every_stored_picture_is_on_a_page() -> None:
    shown = {
        (page.parent / picture).resolve()
        for page in PAGES
        for picture in PICTURE.findall(text(page))
    }
    assert {path for path in PICTURES.iterdir() if path not in shown} == set()


def test_every_example_is_listed() -> None:
    stored = {path.name for path in (ROOT / "examples").glob("*.*")}
    links = map(Path, LINK.findall(text(DOCS / "examples.md")))
    assert {link.name for link in links if link.parent == Path("../examples")} == stored
