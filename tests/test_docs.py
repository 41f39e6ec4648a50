"""The Python code in README.md and docs/ runs as it stands, page by page.

Blocks marked `python` run; code of other libraries is marked `py` and does not.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import multicam

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, page.name, "exec", dont_inherit=True), names)
