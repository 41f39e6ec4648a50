"""The page in Debian's Chromium: from a click to a changed picture."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio", reason="the page needs the extra demo")
pytest.importorskip("playwright", reason="playwright drives the browser")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from served import Served

CHROMIUM = shutil.which("chromium")
SLOW = 60_000  # ms: models are loaded at the first click, on a machine that may be busy

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    """The page, of which no request leaves the machine and no script fails."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(SLOW)
    expect.set_options(timeout=SLOW)
    hosts: set[str | None] = set()
    failures: list[str] = []
    opened.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    opened.on("pageerror", lambda error: failures.append(str(error)))
    opened.goto(served.url)
    yield opened
    opened.close()
    assert hosts <= {"127.0.0.1", None}  # None: what a data: or blob: address holds
    assert not failures


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def click_example(page: Page, number: int = 0) -> None:
    page.locator(".gallery-item:visible, tbody tr:visible").nth(number).click()


def pictures(page: Page) -> list[str | None]:
    """The addresses of the maps that can be seen."""
    return [one.get_attribute("src") for one in maps(page).all()]


def maps(page: Page) -> Locator:
    return page.locator(".mc-panel img:visible")


def open_settings(page: Page) -> None:
    page.get_by_role("button", name="How it looks, and how it is made").locator(
        "visible=true"
    ).click()


def test_the_first_view_says_what_to_do(page: Page) -> None:
    expect(page.get_by_text("Click one of the example photos")).to_be_visible()
    expect(page.locator(".gallery-item:visible")).to_have_count(4)


def test_an_example_is_classified_and_other_looks_and_layers_change_its_pictures(
    page: Page,
) -> None:
    click_example(page)
    expect(maps(page)).to_have_count(3)
    first = pictures(page)
    open_settings(page)
    page.get_by_label("signed").locator("visible=true").check()
    expect(page.get_by_text("against", exact=True)).to_be_visible()
    signed = pictures(page)
    assert not set(first) & set(signed)
    page.get_by_label("Layer").locator("visible=true").click()
    page.get_by_role("option", name="blocks.4, 112 x 14 x 14").click()
    expect(page.get_by_text("gradcam on blocks.4.")).to_be_visible()
    assert not set(signed) & set(pictures(page))


def test_classes_that_are_typed_are_explained(page: Page) -> None:
    click_example(page)
    expect(maps(page)).to_have_count(3)
    field = page.get_by_label("Classes").locator("visible=true")
    field.fill("espresso")
    field.press("Enter")
    page.get_by_role("button", name="Explain").locator("visible=true").click()
    expect(maps(page)).to_have_count(1)
    expect(page.locator(".mc-panel strong:visible")).to_have_text("espresso")


def test_a_word_of_a_caption_shows_its_map_when_it_is_pointed_at_or_has_the_focus(
    page: Page,
) -> None:
    open_tab(page, "Caption")
    click_example(page)
    words = page.locator(".mc-word")
    expect(words.last).to_be_visible()
    whole = pictures(page)
    words.nth(1).hover()
    expect(words.nth(1)).to_have_attribute("aria-pressed", "true")
    pointed = pictures(page)
    assert len(whole) == len(pointed) == 1
    assert pointed != whole
    words.nth(1).focus()
    page.keyboard.press("Tab")
    expect(words.nth(2)).to_have_attribute("aria-pressed", "true")
    focused = pictures(page)
    assert focused not in (whole, pointed)


def test_other_colours_keep_the_word_that_was_chosen(page: Page) -> None:
    open_tab(page, "Caption")
    click_example(page)
    word = page.locator(".mc-word").nth(1)
    expect(word).to_be_visible()
    word.click()
    before = pictures(page)
    open_settings(page)
    page.get_by_label("spotlight").locator("visible=true").check()
    expect(page.get_by_text("dim: little")).to_be_visible()
    expect(word).to_have_attribute("aria-pressed", "true")
    assert len(pictures(page)) == 1
    assert pictures(page) != before


def test_a_question_has_a_map_for_each_answer_and_shaded_words(page: Page) -> None:
    open_tab(page, "Ask")
    click_example(page)
    expect(maps(page)).to_have_count(4)
    expect(page.get_by_text("cat rather than dog").first).to_be_visible()
    expect(page.locator(".mc-shaded:visible")).to_have_count(4 * 4)
    before = pictures(page)
    click_example(page, 2)
    expect(maps(page)).to_have_count(2)
    assert not set(before) & set(pictures(page))


def test_a_text_with_the_name_of_a_photo_is_refused_in_a_sentence(
    page: Page, tmp_path: Path
) -> None:
    (tmp_path / "notes.jpg").write_text("these are no pixels")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "notes.jpg")
    expect(page.get_by_text("notes.jpg cannot be used")).to_be_visible()
    expect(page.get_by_text("Traceback")).to_have_count(0)


def test_a_photo_of_200_megabytes_is_refused_in_a_sentence(page: Page, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(200_000_000)
    page.locator("input[type=file]").first.set_input_files(large)
    expect(page.get_by_text("exceed the maximum allowed size of 20")).to_be_visible()


def test_a_report_is_downloaded_and_opens_without_a_network(
    browser: Browser, page: Page, tmp_path: Path
) -> None:
    open_tab(page, "Caption")
    click_example(page)
    expect(page.locator(".mc-word").last).to_be_visible()
    with page.expect_download() as started:
        page.get_by_role("button", name="Report in one file").locator("visible=true").click()
    path = tmp_path / started.value.suggested_filename
    started.value.save_as(path)
    assert path.suffix == ".html"
    offline = browser.new_context(offline=True)
    report = offline.new_page()
    report.goto(path.as_uri())
    expect(report.get_by_text(page.locator(".mc-word").nth(1).inner_text()).first).to_be_visible()
    offline.close()


@pytest.mark.parametrize("tab", ["Classify", "Caption", "Ask"])
def test_an_automatic_check_of_accessibility_finds_nothing_serious(page: Page, tab: str) -> None:
    open_tab(page, tab)
    click_example(page)
    expect(page.locator(".mc-legend:visible")).to_be_visible()
    page.wait_for_timeout(500)  # for what fades in
    found = Axe().run(page).response["violations"]
    serious = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
    assert not serious


@pytest.mark.parametrize("tab", ["Classify", "Caption", "Ask"])
def test_nothing_is_wider_than_a_phone(page: Page, tab: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    open_tab(page, tab)
    click_example(page)
    expect(page.locator(".mc-legend:visible")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_pictures_of_the_docs_can_be_taken_again(
    served: Served, tmp_path: Path, importable: None
) -> None:
    script = Path(__file__).parents[1] / "examples" / "serve_pictures.py"
    command = [sys.executable, str(script), "--out", str(tmp_path), "--url", served.url]
    subprocess.run(command, check=True, timeout=120)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"serve-classify.png", "serve-caption.png", "serve-ask.png"}
