"""Pages of the site for files outside docs/, so that links to them work there as on GitHub.

A page in docs/ may link to `../examples/ask.py`, and CONTRIBUTING.md to `docs/design.md`.
Here the files outside get a place on the site, under their path in the repository, and
links are turned from one arrangement to the other.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "examples/space/README.md",
    "multicam/photos/README.md",
    "tasks/weights/*.md",
)
SCRIPTS = ("examples/*.py", "benchmarks/*.py")
DOWNLOADS = ("examples/*.ipynb",)

LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")
"""The file in a Markdown link; no address, and no place on the same page."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ to those of the site."""
    for path in _found(PAGES):
        files.append(File.generated(config, _place(path), content=(ROOT / path).read_text("utf-8")))
    for path in _found(SCRIPTS):
        files.append(File.generated(config, _place(path), content=_listing(path)))
    for path in _found(DOWNLOADS):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between places on the site."""
    here = posixpath.dirname(page.file.src_uri)
    home = here if page.file.generated_by else posixpath.join("docs", here)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, link[1]))
        return posixpath.relpath(_place(target), here or ".")

    return LINK.sub(moved, markdown)


def _found(patterns: tuple[str, ...]) -> list[str]:
    found = (path for pattern in patterns for path in sorted(ROOT.glob(pattern)))
    return [path.relative_to(ROOT).as_posix() for path in found]


def _place(path: str) -> str:
    """Where a file of the repository stands on the site; a folder has its README there."""
    if path == "README.md":
        return "index.md"
    if (ROOT / path / "README.md").is_file():
        return f"{path}/README.md"
    script = f"{path}.md" if path.endswith(".py") else path
    return posixpath.relpath(script, "docs") if script.startswith("docs/") else script


def _listing(path: str) -> str:
    code = (ROOT / path).read_text("utf-8")
    return f"# {path}\n\n```sh\npython {path}\n```\n\n````py\n{code}````\n"
