"""The report in one file: what it says, and what it does in a browser without a network."""

from __future__ import annotations

import io
import re
import shutil
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from torch import Tensor
from torch.nn import functional
from typer.testing import CliRunner

from multicam import CrossCheck, Explanation, InputError, WordContributions
from multicam.cli import app
from multicam.exhibits import LONGEST_SIDE
from multicam.geometry import Geometry, Photo
from multicam.overlay import paint
from multicam.report import page
from multicam.tints import Tint

CHROMIUM = shutil.which("chromium")
SCRIPT = "<script>document.title = 'taken over'</script>"
NASTY = [
    SCRIPT,
    '"><img src=x onerror="document.title=1">',
    "</style></svg></title>--><b>",
    "' autofocus onfocus='document.title=1",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;&amp;",
    "‮right to left‬",
    "\ud800",
]


def peak(row: int, column: int, side: int = 6) -> Tensor:
    """A map with its largest value in one place, and speaking against in the opposite one."""
    values = torch.zeros(side, side)
    values[row, column] = 1.0
    values[side - 1 - row, side - 1 - column] = -0.5
    return values


MAPS = torch.stack([peak(0, 0), peak(5, 5), peak(0, 5)])[None]


def picture(size: tuple[int, int] = (96, 64)) -> Image.Image:
    ramp = np.linspace(40, 200, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    return Image.fromarray(ramp).convert("RGB")


def explanation(
    labels: Sequence[str] = ("a", "brown", "dog"), maps: Tensor = MAPS, **changes: Any
) -> Explanation:
    photo = picture()
    fields: dict[str, Any] = {
        "maps": maps,
        "scores": torch.arange(1.0, maps.shape[1] + 1).repeat(len(maps), 1),
        "labels": (tuple(labels),) * len(maps),
        "layer": "encoder.bn2",
        "method": "gradcam",
        "versions": {"multicam": "1.2", "torch": "3.4"},
        "photos": (Photo(photo, Geometry.whole((64, 96))),) * len(maps),
        "notes": (tuple(f"p = 0.{n + 1}" for n in range(maps.shape[1])),) * len(maps),
        "model": "Captioner",
    }
    return Explanation(**(fields | changes))


def contributions(words: Sequence[str]) -> WordContributions:
    scores = torch.linspace(-1, 2, len(words))[None]
    return WordContributions(tuple(words), scores, ("cat",), "gradient x input")


class Read(HTMLParser):
    """The text of a page, the tags in it, and what these point to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    handle_startendtag = handle_starttag

    def handle_data(self, data: str) -> None:
        self.text += data

    def uris(self, kind: str) -> list[bytes]:
        prefix = f"data:{kind};base64,"
        found = [value for _, value in self.attributes if value and value.startswith(prefix)]
        return [b64decode(value.removeprefix(prefix)) for value in found]


def pixels(encoded: bytes, mode: str) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert(mode))


# What it says


def test_a_report_tells_scores_places_and_how_the_maps_were_made() -> None:
    read = Read(page(explanation()))
    for expected in (
        "p = 0.1, score 1. Strongest at the upper left",
        "Speaks against it at the lower right.",
        "Captioner",
        "encoder.bn2",
        "6 x 6 places",
        "1.2",
        "UTC",
    ):
        assert expected in read.text
    described = [value for name, value in read.attributes if name == "aria-label" and value]
    assert any(
        one.startswith("The map of dog on the photo.") and "upper right" in one for one in described
    )


def test_a_photo_is_in_it_once_and_each_map_twice() -> None:
    read = Read(page(explanation()))
    assert len(read.uris("image/jpeg")) == 1
    assert len(read.uris("image/png")) == 2 * 3


def test_a_batch_shows_each_sample() -> None:
    maps = torch.cat([MAPS, -MAPS])
    read = Read(page(explanation(maps=maps)))
    assert len(read.uris("image/jpeg")) == 2
    assert {"Photo 1", "Photo 2"} <= {line.strip() for line in read.text.splitlines()}


def test_a_map_that_says_nothing_gives_its_reason() -> None:
    maps = torch.stack([torch.zeros(4, 4), -torch.rand(4, 4), torch.full((4, 4), torch.nan)])[None]
    found = explanation(maps=maps)
    read = Read(page(found))
    assert len(found.silent) == 3
    for reason in found.silent.values():
        assert f"This map says nothing ({reason})." in read.text
    assert len(read.uris("image/png")) == 1  # what speaks against the second


def test_the_words_of_a_question_have_their_shares() -> None:
    read = Read(page(explanation(), words=contributions(["what", "animal", "this"])))
    assert re.search(r"what\s+-1\.00\s+animal\s+\+0\.50\s+this\s+\+2\.00", read.text)
    assert "gradient x input" in read.text
    classes = [value for name, value in read.attributes if name == "class"]
    assert {"shade-5", "shade-12", "shade-20"} <= set(classes)


def test_each_map_has_the_figures_of_the_comparison_with_captum() -> None:
    theirs = MAPS.clone()
    theirs[0, 1] *= 1.5
    check = CrossCheck(MAPS, theirs, (("a", "brown", "dog"),), "encoder.bn2")
    read = Read(page(explanation(), checks=[check]))
    assert read.text.count("same") == 2 + 1  # and the title of the table
    assert read.text.count("DIFFERENT") == 1
    assert "3.3e-01" in read.text
    assert "Captum" not in Read(page(explanation())).text


def test_large_photos_are_scaled_down() -> None:
    large = Photo(picture((2400, 1200)), Geometry.whole((1200, 2400)))
    (photo,) = Read(page(explanation(photos=(large,)))).uris("image/jpeg")
    assert pixels(photo, "RGB").shape == (LONGEST_SIDE // 2, LONGEST_SIDE, 3)


def test_the_photo_can_be_given() -> None:
    bare = explanation(photos=())
    with pytest.raises(InputError, match="made from tensors; pass the image to show it on"):
        page(bare)
    assert len(Read(page(bare, picture())).uris("image/jpeg")) == 1
    two = explanation(maps=torch.cat([MAPS, MAPS]), photos=())
    assert len(Read(page(two, [picture(), picture()])).uris("image/jpeg")) == 2
    with pytest.raises(InputError, match=r"1 image\(s\) were given for 2 sample\(s\)"):
        page(two, picture())


def test_a_map_without_two_dimensions_is_refused() -> None:
    with pytest.raises(InputError, match=r"a map over \(5,\) places does not lie on a photo"):
        page(explanation(maps=torch.rand(1, 3, 5)))


# The colours on the photo


@pytest.mark.parametrize("style", ["heat", "signed"])
@pytest.mark.parametrize("box", [(0, 0, 96, 64), (24, 0, 60, 64), (96, -10, 0, 74)])
def test_the_colours_are_those_of_an_overlay(style: str, box: tuple[float, ...]) -> None:
    torch.manual_seed(1)
    coarse = functional.interpolate(torch.randn(1, 1, 3, 3), (6, 6), mode="bilinear")
    left, top, right, bottom = box
    photo = Photo(picture(), Geometry((64, 96), (left, top, right, bottom)))
    found = explanation(["a"], coarse, photos=(photo,))
    tint = Tint.of(found.maps[0, 0].numpy(), photo.geometry)
    uri = tint.heat if style == "heat" else tint.signed
    assert uri is not None
    layer = pixels(b64decode(uri.partition(",")[2]), "RGBA").astype(np.float64)
    x, y, width, height = (round(edge) for edge in tint.part)
    with Image.fromarray(layer.astype(np.uint8)) as image:
        layer = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float64)
    expected = np.asarray(photo.image, np.float64).copy()
    opacity = 0.6 * layer[..., 3:] / 255
    seen = expected[y : y + height, x : x + width]
    seen[:] = (1 - opacity) * seen + opacity * layer[..., :3]
    painted = paint(np.asarray(photo.image), found.placed(), style=style, opacity=0.6)
    assert np.abs(painted - expected).mean() < 2
    assert np.abs(painted - expected).max() < 30


def test_what_the_model_saw_is_outlined_if_it_is_a_part() -> None:
    half = Photo(picture(), Geometry((64, 96), (0, 0, 48, 64)))
    assert "inside the dashed line" in Read(page(explanation(photos=(half,)))).text
    assert "dashed" not in Read(page(explanation())).text


@pytest.mark.parametrize(
    ("place", "name"),
    [((0, 0), "upper left"), ((0, 3), "top"), ((3, 5), "right"), ((2, 3), "centre")],
)
def test_places_have_names(place: tuple[int, int], name: str) -> None:
    tint = Tint.of(peak(*place).numpy(), Geometry.whole((300, 300)))
    assert tint.whereabouts.startswith(f"Strongest at the {name}; ")


def test_places_are_those_of_the_photo_and_not_of_the_part_seen() -> None:
    tint = Tint.of(peak(0, 0).numpy(), Geometry((300, 300), (200, 200, 300, 300)))
    assert tint.whereabouts.startswith("Strongest at the lower right; over half of that on 1% ")


# What it keeps out


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=20, deadline=None)
def test_any_text_stays_text(first: str, second: str) -> None:
    plain, found = (
        Read(page(explanation(labels, MAPS[:, :2]), words=contributions(labels)))
        for labels in ("ab", [first, second])
    )
    assert found.tags == plain.tags
    assert [name for name, _ in found.attributes] == [name for name, _ in plain.attributes]


@pytest.mark.parametrize("text", NASTY)
def test_markup_in_any_field_stays_text(text: str) -> None:
    check = CrossCheck(MAPS, MAPS, ((text,) * 3,), text)
    words = replace(contributions([text] * 3), labels=(text,), method=text)
    changes: dict[str, Any] = {
        "layer": text,
        "method": text,
        "model": text,
        "versions": {text: text},
    }
    nasty = explanation([text] * 3, notes=((text,) * 3,), **changes)
    plain = replace(nasty, notes=(("a",) * 3,), labels=(("a",) * 3,))
    found = Read(page(nasty, words=words, checks=[check]))
    expected = Read(page(plain, words=contributions("abc"), checks=[check]))
    assert found.tags == expected.tags
    assert [name for name, _ in found.attributes] == [name for name, _ in expected.attributes]
    assert text in found.text


# The file


def test_a_report_replaces_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    explanation().report(path)
    assert path.read_text("utf-8").startswith("<!doctype html>\n<html lang=")
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(InputError, match="pass the image"):
        explanation(photos=()).report(path)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder .*missing of a.html does not exist; make"):
        explanation().report(tmp_path / "missing" / "a.html")
    with pytest.raises(InputError, match=r"cannot be written .*directory"):
        explanation().report(tmp_path)
    with pytest.raises(InputError, match="html cannot be written"):
        explanation().report(tmp_path / f"{'a' * 300}.html")


# By the commands


@pytest.mark.parametrize(
    ("command", "report", "expected"),
    [
        (["classify", "cat", "--classes", "tabby,lynx"], "cat.html", ["tabby", "lynx"]),
        (
            ["caption", "cat", "--caption", "a cat", "--words", "cat"],
            "cat.caption.html",
            ["cat", "p = "],
        ),
        (
            ["ask", "cat", "what animal is this?", "--top", "1"],
            "cat.answer.html",
            ["animal", "gradient x input"],
        ),
    ],
)
def test_a_command_writes_a_report_beside_the_figure_and_names_it(
    photos: dict[str, Path], tmp_path: Path, command: list[str], report: str, expected: list[str]
) -> None:
    name, photo, *options = command
    given = [name, str(photos[photo]), *options, "--out", str(tmp_path), "--report"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert report in result.stdout
    read = Read((tmp_path / report).read_text("utf-8"))
    for text in (*expected, "The same maps from Captum"):
        assert text in read.text
    assert "DIFFERENT" not in read.text


def test_a_report_of_another_method_holds_no_comparison_and_replaces_no_file(
    photos: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "cat.layercam.html").write_text("mine")
    options = ["--classes", "tabby", "--method", "layercam", "--out", str(tmp_path), "--report"]
    result = CliRunner().invoke(app, ["classify", str(photos["cat"]), *options])
    assert result.exit_code == 0, result.output
    assert "Captum" not in (tmp_path / "cat.layercam-2.html").read_text("utf-8")
    assert (tmp_path / "cat.layercam.html").read_text() == "mine"


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; apt-get install chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


class Opened:
    """A report in a browser without a network, with what it asked for and complained of."""

    def __init__(self, browser: Browser, path: Path, part: str = "", **options: Any) -> None:
        self.page: Page = browser.new_context(offline=True, **options).new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url[:40]))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri() + part)

    def shown(self) -> str:
        """The map on the photo: what is drawn, and what is said of it."""
        href = self.page.locator(".stage .map").get_attribute("href")
        said = self.page.locator(".chosen").inner_text()
        pressed = self.page.locator("button[aria-pressed=true]").inner_text()
        assert said.startswith(pressed)
        return f"{pressed} {href}"

    def colours(self) -> bytes:
        return self.page.locator(".stage svg").screenshot()


@pytest.fixture
def caption(browser: Browser, tmp_path: Path) -> Iterator[Opened]:
    """The report of a caption with a script in it."""
    explanation(["a", "brown", SCRIPT]).report(tmp_path / "caption.html")
    opened = Opened(browser, tmp_path / "caption.html")
    yield opened
    opened.page.context.close()


def test_pointing_at_a_word_shows_its_map(caption: Opened) -> None:
    assert caption.shown() == "a #map-0-0"
    first = caption.colours()
    caption.page.get_by_role("button", name="brown").hover()
    assert caption.shown() == "brown #map-0-1"
    assert caption.colours() != first
    caption.page.get_by_role("button", name="a", exact=True).hover()
    assert caption.shown() == "a #map-0-0"
    assert caption.colours() == first


def test_tapping_a_word_shows_its_map(browser: Browser, tmp_path: Path) -> None:
    explanation().report(tmp_path / "caption.html")
    phone: dict[str, Any] = {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
    }
    opened = Opened(browser, tmp_path / "caption.html", **phone)
    opened.page.get_by_role("button", name="dog").tap()
    assert opened.shown() == "dog #map-0-2"


def test_a_link_to_a_map_opens_with_it(browser: Browser, tmp_path: Path) -> None:
    explanation(maps=torch.cat([MAPS, MAPS])).report(tmp_path / "two.html")
    opened = Opened(browser, tmp_path / "two.html", "#1-2")
    shown = opened.page.locator(".stage .map")
    assert [one.get_attribute("href") for one in shown.all()] == ["#map-0-0", "#map-1-2"]


def test_the_keyboard_goes_from_word_to_word(caption: Opened) -> None:
    keyboard = caption.page.keyboard
    caption.page.get_by_role("slider").focus()
    keyboard.press("Tab")
    keyboard.press("Tab")
    assert caption.shown() == "brown #map-0-1"
    keyboard.press("ArrowRight")
    assert caption.shown() == f"{SCRIPT} #map-0-2"
    keyboard.press("ArrowRight")
    assert caption.shown() == f"{SCRIPT} #map-0-2"
    keyboard.press("ArrowUp")
    assert caption.shown() == "brown #map-0-1"
    keyboard.press("Home")
    assert caption.shown() == "a #map-0-0"
    keyboard.press("End")
    assert caption.shown() == f"{SCRIPT} #map-0-2"
    outline = "getComputedStyle(document.activeElement).outlineWidth"
    assert caption.page.evaluate(outline) == "3px"


def test_a_screen_reader_is_told_what_is_shown(caption: Opened) -> None:
    caption.page.get_by_role("button", name="brown").focus()
    said = "Strongest at the lower right"
    assert said in caption.page.locator("[aria-live=polite]").inner_text()
    shown = caption.page.locator(".stage").get_by_role("img")
    assert str(shown.get_attribute("aria-label")).startswith("The map of brown. ")
    assert said in str(shown.get_attribute("aria-label"))


def test_opacity_and_style_change_the_colours(caption: Opened) -> None:
    pictures = [caption.colours()]
    slider = caption.page.get_by_role("slider", name="Opacity")
    slider.fill("20")
    assert caption.page.locator("output").inner_text() == "20 %"
    pictures.append(caption.colours())
    caption.page.get_by_label("for and against").check()
    assert slider.input_value() == "80"
    pictures.append(caption.colours())
    slider.fill("0")
    pictures.append(caption.colours())
    assert len(set(pictures)) == 4
    caption.page.get_by_label("what speaks for it").check()
    assert slider.input_value() == "20"
    assert caption.colours() == pictures[1]


def test_a_script_in_a_caption_is_shown_as_text_and_nothing_is_requested(caption: Opened) -> None:
    caption.page.get_by_role("button", name=SCRIPT).hover()
    assert SCRIPT in caption.page.locator(".chosen").inner_text()
    assert "taken over" not in caption.page.title().replace(SCRIPT, "")
    assert caption.page.locator("script").count() == 1
    assert caption.complaints == []
    assert [url for url in caption.requests if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in caption.requests) == 1


def test_the_policy_stops_what_is_not_the_pages_own(caption: Opened) -> None:
    caption.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken over'";
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:9/pixel.png";
            document.body.append(script, image);
        }"""
    )
    caption.page.wait_for_timeout(100)
    assert caption.page.title() != "taken over"
    assert len(caption.complaints) == 2
    assert all("Content Security Policy" in one for one in caption.complaints)


def test_without_scripts_every_map_can_be_seen(browser: Browser, tmp_path: Path) -> None:
    explanation().report(tmp_path / "caption.html")
    opened = Opened(browser, tmp_path / "caption.html", java_script_enabled=False)
    maps = opened.page.locator("ol.maps li")
    assert maps.count() == 3
    assert all(one.locator("svg").is_visible() for one in maps.all())
    assert "score 3" in maps.nth(2).inner_text()
    assert opened.page.get_by_role("button").count() == 0
    before = maps.first.locator("svg").screenshot()
    opened.page.get_by_label("for and against").check()
    assert maps.first.locator("svg").screenshot() != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_keeps_people_out_and_nothing_is_wider_than_the_screen(
    browser: Browser, tmp_path: Path, scheme: str, width: int
) -> None:
    long = "word " * 50 + "x" * 750
    silent = torch.cat([MAPS[:, :2], torch.zeros(1, 1, 6, 6)], dim=1)
    half = Photo(picture(), Geometry((64, 96), (0, 0, 48, 64)))
    found = explanation(["a", long, "nothing"], torch.cat([MAPS, silent]), photos=(half,) * 2)
    check = CrossCheck(MAPS, MAPS, (("a", long, "nothing"),), "encoder.bn2")
    found.report(tmp_path / "a.html", words=contributions(["is", "this", long]), checks=[check])
    screen: dict[str, Any] = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    opened = Opened(browser, tmp_path / "a.html", **screen)
    opened.page.get_by_role("button", name="nothing").first.focus()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    violations = Axe().run(opened.page).response["violations"]
    assert [(one["id"], one["impact"], one["help"]) for one in violations] == []
