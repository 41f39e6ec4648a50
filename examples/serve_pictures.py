"""Pictures of each tab of `multicam serve`, taken with Debian's Chromium.

    python examples/serve_pictures.py --out docs/images

Needs the extra test (for Playwright) and a `chromium` on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTH, HEIGHT = 1280, 720


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("multicam-out"))
    parser.add_argument("--width", type=int, default=WIDTH, help="of the window, in pixels")
    parser.add_argument("--dark", action="store_true", help="as in a dark browser")
    parser.add_argument("--url", help="of a page that is served; without it, one is")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with served(given.url) as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_page(
            viewport={"width": given.width, "height": HEIGHT},
            color_scheme="dark" if given.dark else "light",
        )
        page.goto(url)
        for tab in ("classify", "caption", "ask"):
            show(page, tab)
            page.screenshot(path=given.out / f"serve-{tab}.png", full_page=True)
            print(given.out / f"serve-{tab}.png")


@contextmanager
def served(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    from multicam.web.serving import running

    with running() as own:
        yield own


def show(page: Page, tab: str) -> None:
    """Click a tab's first example; in a caption, point at the woman."""
    page.get_by_role("tab", name=tab, exact=False).click()
    if tab == "caption":
        page.get_by_label("Caption").locator("visible=true").last.fill(
            "a smiling woman in an orange suit holds a helmet"
        )
    page.locator(".gallery-item:visible, tbody tr:visible").first.click()
    page.locator(".mc-legend:visible").wait_for(timeout=60_000)
    if tab == "caption":
        page.get_by_role("button", name="woman", exact=True).hover()
    page.wait_for_timeout(500)


if __name__ == "__main__":
    main()
