"""The page without a browser: what its tabs compute, what it refuses, who gets which answer."""

from __future__ import annotations

import re
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from multicam import InputError, LayerError, TargetError
from multicam.cli import app
from multicam.images import load
from multicam.tasks import classification

gradio = pytest.importorskip("gradio", reason="the page needs the extra demo")

from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402
from served import ROOT, Served  # noqa: E402

from multicam.web import models, views  # noqa: E402
from multicam.web.drawing import Look, drawn  # noqa: E402
from multicam.web.uploads import MAX_BYTES, in_sentences, listed, read_photo, text  # noqa: E402
from multicam.web.views import Found  # noqa: E402

PLAIN: dict[str, Any] = {"method": "gradcam", "layer": ""}
HEAT = Look("heat", "", 0.6)
HOW = ("gradcam", "", "heat", "", 0.6)
"""What follows the fields of a tab in a request: method, layer, style, colours, opacity."""


@pytest.fixture(scope="module")
def caption(photos: dict[str, Path]) -> Found:
    return views.caption(load(photos["astronaut"]), "", **PLAIN)


@pytest.fixture(scope="module")
def enormous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of 30,000 x 30,000 pixels in 110 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    side = 30_000
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + side // 8)))
    path = tmp_path_factory.mktemp("enormous") / "enormous.png"
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def uploaded(path: Path) -> dict[str, str]:
    """What Gradio says of an upload."""
    return {"path": str(path), "orig_name": path.name}


# What the tabs compute


def test_classify_explains_the_named_classes_with_their_probabilities(
    photos: dict[str, Path],
) -> None:
    found = views.classify(load(photos["cat"]), ["Egyptian cat", "tabby"], 3, **PLAIN)
    expected = classification.load().explain(photos["cat"], ["Egyptian cat", "tabby"])
    assert found.explanation.labels == expected.labels
    assert (found.explanation.maps == expected.maps).all()
    assert all(note.endswith("%") for note in found.explanation.notes[0])


def test_classify_explains_as_many_of_the_most_likely_classes_as_are_asked_for(
    photos: dict[str, Path],
) -> None:
    assert len(views.classify(load(photos["cat"]), [], 5, **PLAIN).explanation.labels[0]) == 5


def test_caption_has_a_map_for_every_word_and_for_the_whole(caption: Found) -> None:
    *words, whole = caption.explanation.labels[0]
    assert " ".join(word.split(" (")[0] for word in words) == whole
    assert len(words) > 3
    assert ">a (2)<" not in drawn(caption, HEAT).partition("mc-stage")[0]


def test_ask_holds_two_answers_against_each_other_and_shades_the_words(
    photos: dict[str, Path],
) -> None:
    cat = load(photos["cat"])
    found = views.ask(cat, "what animal is this?", "cat, dog", "cat", "dog", **PLAIN)
    assert len(found.explanation.labels[0]) == 3
    assert found.words is not None
    assert found.words.words == ("what", "animal", "is", "this")


@pytest.mark.filterwarnings("ignore:the model has never seen")
def test_ask_names_the_words_that_the_model_has_never_seen(photos: dict[str, Path]) -> None:
    found = views.ask(load(photos["cat"]), "what zyzzyva is this?", "", "", "", **PLAIN)
    assert found.unknown == ("zyzzyva",)
    assert "never seen: zyzzyva" in drawn(found, HEAT)


def test_the_layers_to_choose_from_can_be_explained_and_say_their_shapes(
    photos: dict[str, Path],
) -> None:
    (own, stands_for), *others = models.classifier_layers()
    assert (own, stands_for) == ("bn2, 1280 x 7 x 7 (usual)", "")
    assert len(others) > 5
    for label, name in others[::4]:
        channels, height, width = map(int, re.findall(r"\d+", label.removeprefix(name))[:3])
        found = views.classify(load(photos["cat"]), [], 1, method="gradcam", layer=name)
        assert found.explanation.maps.shape == (1, 1, height, width)
        assert channels > 1


def test_the_other_tasks_offer_the_layers_of_their_encoders_after_their_own() -> None:
    assert models.captioner_layers()[0] == ("decoder.places, 512 x 14 x 14 (usual)", "")
    assert models.answerer_layers()[0] == ("head.places, 960 x 14 x 14 (usual)", "")
    for choices in (models.captioner_layers(), models.answerer_layers()):
        assert all(name.startswith("encoder.") for _, name in choices[1:])
        assert len(choices) - 1 == len(models.classifier_layers())


def test_a_photo_is_kept_in_the_size_of_the_screen_with_its_maps_in_place(
    photos: dict[str, Path],
) -> None:
    large = load(photos["cat"]).resize((1804, 1200))
    exact = classification.load().explain(large, [281])
    found = views.classify(large, ["tabby"], 1, **PLAIN).explanation
    assert found.photos[0].image.size == (720, 479)
    small = np.asarray(Image.fromarray(exact.placed()).resize((720, 479)))
    kept = found.placed()
    inside = np.isfinite(small) & np.isfinite(kept)
    assert inside.mean() > 0.4  # the model sees the middle
    assert np.abs(small - kept)[inside].max() < 0.02 * np.abs(kept[inside]).max()


# How it is drawn


def test_another_look_is_drawn_from_the_same_maps(caption: Found) -> None:
    looks = [
        HEAT,
        Look("heat", "", 0.3),
        Look("heat", "viridis", 0.6),
        Look("signed", "", 0.6),
        Look("spotlight", "", 0.6),
    ]
    assert len({drawn(caption, look) for look in looks}) == len(looks)


def test_what_visitors_write_stands_in_the_page_as_text(caption: Found) -> None:
    label = '<script>alert(1)</script>" onload="alert(2)'
    labels = (label, *caption.explanation.labels[0][1:])
    wild = replace(caption, explanation=replace(caption.explanation, labels=(labels,)))
    html = drawn(wild, HEAT)
    assert "<script" not in html
    assert '" onload="' not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#34; onload=&#34;alert(2)" in html


def test_a_map_that_says_nothing_says_why(caption: Found) -> None:
    maps = caption.explanation.maps.clone()
    maps[0, 0] = 0
    html = drawn(replace(caption, explanation=replace(caption.explanation, maps=maps)), HEAT)
    assert "all zero" in html


# What is refused


def test_a_text_with_the_name_of_a_photo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("these are no pixels")
    with pytest.raises(InputError, match=r"notes\.jpg cannot be used: .* is not an image"):
        read_photo(uploaded(tmp_path / "notes.jpg"))


def test_a_photo_of_900_million_pixels_is_refused_before_it_is_decoded(enormous: Path) -> None:
    start = time.process_time()
    with pytest.raises(InputError, match=r"30000 x 30000 = 900,000,000 pixels") as caught:
        read_photo(uploaded(enormous))
    assert time.process_time() - start < 0.5
    assert "multicam.images" not in str(caught.value)  # that is for those who write Python


@pytest.mark.parametrize("nothing", [None, {}, {"path": None}])
def test_no_photo_is_answered_with_what_to_do(nothing: dict[str, Any] | None) -> None:
    with pytest.raises(InputError, match="There is no photo yet; drop one"):
        read_photo(nothing)


def test_long_texts_and_long_lists_are_refused() -> None:
    with pytest.raises(InputError, match=r"The question has 1,001 characters; at most 1,000"):
        text("a" * 1001, "The question")
    with pytest.raises(InputError, match="Answers: 9 were given; give up to 8"):
        listed("a,b,c,d,e,f,g,h,i", "Answers", 8)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"layer": "blocks.77"}, LayerError, "no layer is called 'blocks.77'"),
        ({"method": "gradcamera"}, InputError, "no method is called 'gradcamera'"),
    ],
)
def test_a_layer_or_method_that_does_not_exist_is_named(
    photos: dict[str, Path], given: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        views.classify(load(photos["cat"]), [], 1, **{**PLAIN, **given})


@pytest.mark.parametrize("top", [0, 9, "all", None])
def test_a_number_of_classes_that_cannot_be_shown_is_refused(
    photos: dict[str, Path], top: object
) -> None:
    with pytest.raises(InputError, match="choose 1 to 8"):
        views.classify(load(photos["cat"]), [], top, **PLAIN)


def test_one_answer_is_not_held_against_nothing(photos: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="give the other one, or neither"):
        views.ask(load(photos["cat"]), "what animal is this?", "", "cat", "", **PLAIN)


def test_errors_reach_visitors_as_sentences_that_hold_no_markup() -> None:
    @in_sentences
    def refuse() -> None:
        raise TargetError("no class is called '<img src=x>'\n  in this model")

    with pytest.raises(gradio.Error) as caught:
        refuse()
    assert caught.value.message == "No class is called '&lt;img src=x&gt;' in this model"


def test_what_went_wrong_inside_is_not_told_to_visitors() -> None:
    @in_sentences
    def fail() -> None:
        raise RuntimeError("/home/secret")

    with pytest.raises(gradio.Error) as caught:
        fail()
    assert caught.value.message == "Something went wrong here, and has been written down"


def test_a_model_is_loaded_once_however_many_ask_at_the_same_time() -> None:
    made = []

    def make() -> int:
        time.sleep(0.05)
        made.append(threading.get_ident())
        return 7

    once = models.Once(make)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: once(), range(8))) == [7] * 8
    assert len(made) == 1


def test_the_command_says_what_to_install_where_gradio_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 2
    assert "pip install 'multicam-xai[demo]'" in result.stderr


# The server


def test_a_port_that_is_taken_is_one_line(served: Served) -> None:
    result = CliRunner().invoke(app, ["serve", "--port", port_of(served)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the page cannot listen on 127.0.0.1, port ")
    assert result.stderr.count("\n") == 1


def test_an_address_of_another_machine_is_one_line() -> None:
    result = CliRunner().invoke(app, ["serve", "--host", "192.0.2.1"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the page cannot listen on 192.0.2.1 ")


def test_it_listens_on_the_loopback_address_alone(served: Served) -> None:
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("this system has no /proc/net/tcp")
    port = f"{int(port_of(served)):04X}"
    listening = [line.split()[1] for line in table.read_text().splitlines() if " 0A " in line]
    assert [one for one in listening if one.endswith(f":{port}")] == [f"0100007F:{port}"]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "%2Fetc%2Fpasswd",
        str(ROOT / "pyproject.toml"),
        "pyproject.toml",
        "multicam/web/page.py",
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        "https://example.com/",
    ],
)
def test_no_file_of_the_server_can_be_read_and_none_from_elsewhere(
    served: Served, path: str
) -> None:
    for route in ("gradio_api/file=", "gradio_api/proxy=", "static/", "assets/", "svelte/"):
        answer = httpx.get(f"{served.url}{route}{path}")
        assert 400 <= answer.status_code < 500, f"{route}{path}: {answer.status_code}"
        assert "root:" not in answer.text
        assert "multicam-xai" not in answer.text


def test_browsers_are_told_to_load_nothing_from_elsewhere(served: Served) -> None:
    headers = httpx.get(served.url).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_200_megabytes_are_refused_with_a_sentence_and_the_server_goes_on(
    served: Served, photos: dict[str, Path]
) -> None:
    files = {"files": ("large.jpg", bytes(200_000_000), "image/jpeg")}
    answer = httpx.post(f"{served.url}gradio_api/upload", files=files, timeout=60)
    assert answer.status_code == 413
    assert answer.text == "This file is too large: photos may have up to 20 MB."
    files = {"files": ("less.jpg", bytes(MAX_BYTES + 1), "image/jpeg")}
    assert httpx.post(f"{served.url}gradio_api/upload", files=files, timeout=60).status_code == 413
    assert "cat" in classes(visitor(served), photos["cat"], ["tiger cat"])


def test_a_body_of_unknown_length_is_refused(served: Served) -> None:
    def endless() -> Iterator[bytes]:
        yield bytes(1000)

    answer = httpx.post(f"{served.url}gradio_api/queue/join", content=endless())
    assert answer.status_code == 411


def test_wrong_photos_are_refused_with_a_sentence_and_the_server_goes_on(
    served: Served, photos: dict[str, Path], enormous: Path, tmp_path: Path
) -> None:
    client = visitor(served)
    notes = tmp_path / "notes.jpg"
    notes.write_text("these are no pixels")
    with pytest.raises(AppError, match="is not an image"):
        classes(client, notes, [])
    with pytest.raises(AppError, match="over the limit of 40,000,000"):
        classes(client, enormous, [])
    with pytest.raises(AppError, match="There is no photo yet"):
        client.predict(None, [], 3, *HOW, api_name="/classes")
    with pytest.raises(AppError, match="No class"):
        classes(client, photos["cat"], ["<b>qqqq</b>"])
    assert "tiger cat" in classes(client, photos["cat"], ["tiger cat"])


def test_a_photo_that_nobody_uploaded_is_refused_with_a_sentence(served: Served) -> None:
    for path in ("/etc/passwd", str(ROOT / "multicam" / "photos" / "cat.jpg")):
        record = {"path": path, "meta": {"_type": "gradio.FileData"}}
        call = f"{served.url}gradio_api/call/classes"
        event = httpx.post(call, json={"data": [record, [], 3, *HOW]}).json()["event_id"]
        answer = httpx.get(f"{call}/{event}", timeout=60).text
        assert answer.startswith("event: error")
        assert "was not uploaded by a user" in answer


def test_twenty_visitors_with_five_requests_each_get_their_own_answers(
    served: Served, photos: dict[str, Path]
) -> None:
    names = ["tiger cat", "espresso", "tabby", "goldfish", "missile"]

    def visit(number: int) -> list[bool]:
        client = visitor(served)
        mine, next_one = names[number % 5], names[(number + 1) % 5]
        photo = photos[("cat", "coffee", "rocket", "astronaut")[number % 4]]
        style = ("heat", "signed")[number % 2]
        first = labels(classes(client, photo, [mine]))
        looked = labels(client.predict(style, "", 0.2, api_name="/classes_look"))
        report = client.predict(api_name="/classes_report")
        second = labels(classes(client, photo, [mine, next_one]))
        again = labels(client.predict("spotlight", "", 0.2, api_name="/classes_look"))
        full = {name: one for name in names for one in [models.classifier().names[index(name)]]}
        return [
            first == [full[mine]],
            looked == [full[mine]],
            full[mine] in report and full[next_one] not in report,
            second == [full[mine], full[next_one]],
            again == second,
        ]

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(visit, range(20)))
    assert answers == [[True] * 5] * 20


def test_a_visitor_who_has_asked_nothing_sees_nothing_of_others(
    served: Served, photos: dict[str, Path]
) -> None:
    first, second = visitor(served), visitor(served)
    assert labels(classes(first, photos["cat"], ["tabby"]))
    assert not labels(str(second.predict("heat", "", 0.5, api_name="/classes_look")))
    with pytest.raises(AppError, match="There is nothing to report yet"):
        second.predict(api_name="/classes_report")


def visitor(served: Served) -> Client:
    return Client(served.url, verbose=False, httpx_kwargs={"timeout": 60})


def classes(client: Client, photo: Path, names: list[str]) -> str:
    """The HTML of the classes of a photo."""
    answer = client.predict(handle_file(photo), names, 3, *HOW, api_name="/classes")
    return str(answer[0] if isinstance(answer, (list, tuple)) else answer)


def port_of(served: Served) -> str:
    return str(httpx.URL(served.url).port)


def labels(html: str) -> list[str]:
    return re.findall(r"<strong>(.*?)</strong>", html)


def index(name: str) -> int:
    return models.classifier().index(name)
