"""The benchmarks of answers, on photos and questions whose scores are known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import resnet18

from multicam.tasks.answerer import Head, Member
from multicam.tasks.questions import Reader
from multicam.tasks.vqa import VisualQuestionAnswering

QUESTIONS = [
    "is there a person in the photo?",
    "who is in the photo?",
    "where is the person?",
    "what color is the person?",
    "what is the person doing?",
]
WORDS = ["<pad>", "<unk>", *dict.fromkeys(" ".join(QUESTIONS).replace("?", "").split())]
ANSWERS = ["yes", "no", "2", "red", "garbage bin"]

Write = Callable[..., Path]
Table = dict[str, dict[str, str]]
"""Cells by row and column."""


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture
def vqa() -> ModuleType:
    return import_module("vqa")


@pytest.fixture
def occlusion() -> ModuleType:
    return import_module("occlusion")


@pytest.fixture
def answers() -> ModuleType:
    return import_module("grounding_answers")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes random weights, which may be made to say one answer whatever is asked."""

    def write(always: str | None = None, file: str = "vqa.safetensors") -> Path:
        folder = tmp_path / file
        folder.mkdir()
        head = Head(len(WORDS), len(ANSWERS), dropout=0.5)
        with torch.no_grad():
            for member in head.members:
                assert isinstance(member, Member)
                member.answers.bias[:] = torch.tensor([20.0 * (one == always) for one in ANSWERS])
        weights = {name: value.half().contiguous() for name, value in head.state_dict().items()}
        save_file(weights, folder / file)
        Reader.of_words(WORDS).tokenizer.save(str(folder / "vqa.vocabulary.json"))
        (folder / "vqa.answers.json").write_text(json.dumps(ANSWERS))
        return folder

    return write


def tables(printed: str) -> list[Table]:
    found = []
    for block in printed.split("**\n\n")[1:]:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        columns, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        found.append({row[0]: dict(zip(columns, row, strict=True)) for row in rows})
    return found


# Accuracy


@pytest.fixture
def data(tmp_path: Path, photos: dict[str, Path]) -> Path:
    """Two photos for each set; what is right about them is easily counted."""
    folder = tmp_path / "data"
    names = {"coco": ["000000000001.jpg", "000000000002.jpg"]}
    names |= {"daquar": ["a.jpg", "b.jpg"], "flickr8k": ["cat.jpg", "rocket.jpg"]}
    for collection, files in names.items():
        (folder / collection / "images").mkdir(parents=True)
        for file, photo in zip(files, ("cat", "rocket"), strict=True):
            (folder / collection / "images" / file).write_bytes(photos[photo].read_bytes())
    for split in ("train", "test"):
        (folder / "coco" / f"vqa_{split}.json").write_text(json.dumps(of_people(split)))
        (folder / "daquar" / f"vqa_{split}.json").write_text(json.dumps(OF_ROOMS))
    captions = {"cat.jpg": ["A cat sleeps .", "The cat is asleep ."], "rocket.jpg": ["A rocket ."]}
    about = {"captions": captions, "splits": {s: [*captions] for s in ("train", "dev", "test")}}
    (folder / "flickr8k" / "captions.json").write_text(json.dumps(about))
    return folder


def of_people(split: str) -> list[dict[str, Any]]:
    told = [
        (1, "is there a person?", "yes", ["yes"] * 2 + ["no"] * 8, "yes/no", "is there a"),
        (1, "is there a photo?", "no", ["yes"] + ["no"] * 9, "yes/no", "is there a"),
        (2, "where is the person?", "yes", ["yes"] * 10, "other", "where is the"),
    ]
    keys = ["image_id", "question", "answer", "answers", "answer_type", "question_type"]
    entries = [dict(zip(keys, one, strict=True)) for one in told]
    if split == "train":  # "no" is said more often, and nobody asks where
        return [entries[0], entries[1], entries[1]]
    return entries


OF_ROOMS = [
    {"image": "a.jpg", "question": "what is in the photo?", "answer": "garbage_bin"},
    {"image": "b.jpg", "question": "what is in it?", "answer": "garbage_bin"},
    {"image": "b.jpg", "question": "what color is it?", "answer": "red, light_blue"},
    {"image": "b.jpg", "question": "how many photos are there?", "answer": "2"},
]


def test_the_tables_say_who_answers_how_often_rightly(
    data: Path,
    write: Write,
    vqa: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {"--weights": write("yes"), "--blind": write("2", "vqa_blind.safetensors")}
    given = [str(part) for pair in ({"--data": data} | folders).items() for part in pair]
    monkeypatch.setattr("sys.argv", ["vqa.py", *given, "--markdown", "--threads", "1"])
    vqa.main()
    people, rooms, captions = tables(capsys.readouterr().out)
    assert people["all"]["questions"] == "3"
    assert people["all"]["with the image"] == "66.7 (50.0 to 100.0)"
    assert people["all"]["without the image"] == "0.0 (0.0 to 0.0)"
    assert people["all"]["gained by the image"] == "66.7 (50.0 to 100.0)"
    assert people["all"]["most frequent answer"] == "66.7 (0.0 to 100.0)"
    assert people["yes/no"]["with the image"] == "too few photos"
    assert list(rooms) == ["all", "object", "colour", "number"]
    assert rooms["all"]["without the image"].startswith("25.0 ")
    assert rooms["all"]["gained by the image"].startswith("-25.0 ")
    assert rooms["object"]["most frequent answer"] == "100.0 (100.0 to 100.0)"
    assert captions["is there"]["with the image"] == "50.0 (0.0 to 100.0)"


def test_a_model_without_the_image_that_is_not_there_has_no_column(
    data: Path,
    write: Write,
    vqa: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--data", str(data), "--weights", str(write("yes")), "--markdown", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["vqa.py", *given])
    vqa.main()
    printed = capsys.readouterr().out
    columns = ["answer", "questions", "with the image", "most frequent answer"]
    assert [list(table["all"]) for table in tables(printed)] == [columns] * 3
    assert "--blind names no vqa_blind.safetensors" in printed


def test_questions_of_one_photo_share_its_feature_map_and_are_answered_as_alone(
    photos: dict[str, Path], write: Write, vqa: ModuleType
) -> None:
    task: VisualQuestionAnswering = vqa.trained(write())
    for weights in task.model.get_submodule("head").parameters():
        weights.data *= 4  # small random ones always give one answer
    asked = [
        vqa.Question(photos[name], text, "yes", "", "")
        for text in [*QUESTIONS, "person?"]
        for name in ("cat", "rocket", "coffee")
    ]
    seen: list[int] = []
    stem = task.model.get_submodule("encoder.conv_stem")
    with stem.register_forward_hook(lambda module, args, output: seen.append(len(output))):
        said = vqa.answer({vqa.SEEING: task}, asked, 2, "questions")[vqa.SEEING]
    assert seen == [2, 1]
    assert said == [task.answer(one.photo, one.text) for one in asked]
    assert len(set(said)) > 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("2", "number"),
        ("red, light blue", "colour"),
        ("orange chair", "object"),
        ("2, chair", "object"),
        ("garbage bin", "object"),
    ],
)
def test_answers_about_rooms_are_told_apart(vqa: ModuleType, answer: str, kind: str) -> None:
    assert vqa.kind_of(answer) == kind


@pytest.mark.parametrize(("people", "score"), [(0, 0), (1, 1 / 3), (2, 2 / 3), (3, 1), (10, 1)])
def test_three_people_who_agree_are_enough(vqa: ModuleType, people: int, score: float) -> None:
    given = ("red",) * people + ("blue",) * (10 - people)
    question = vqa.Question(Path("a.jpg"), "what color?", "blue", "other", "what", given)
    assert question.right("red") == pytest.approx(score)


# Where answers point


def test_every_template_makes_a_question_about_every_category(answers: ModuleType) -> None:
    table = json.loads(answers.WORDS.read_text())
    for group in answers.TEMPLATES["groups"].values():
        assert set(group) <= set(table)
    for template, category in product(answers.TEMPLATES["templates"], table):
        question = answers.put(template["question"], category)
        assert question.endswith("?")
        assert "{" not in question
        assert set(template) <= {"question", "about", "except", "answer"}


@pytest.mark.parametrize(
    ("template", "category", "expected"),
    [
        ("is there a {} in the photo?", "dog", "is there a dog in the photo?"),
        ("is there a {} in the photo?", "umbrella", "is there an umbrella in the photo?"),
        ("is there a {} in the photo?", "skis", "are there skis in the photo?"),
        ("what color is the {}?", "scissors", "what color are the scissors?"),
        ("where is the {}?", "dining table", "where is the table?"),
    ],
)
def test_templates_are_put_in_english(
    answers: ModuleType, template: str, category: str, expected: str
) -> None:
    assert answers.put(template, category) == expected


@pytest.mark.parametrize(
    ("template", "categories", "expected"),
    [
        ({"about": ["animal"], "answer": "category"}, ["cat", "cup"], ["cat"]),
        ({"about": ["animal"], "answer": "category"}, ["cat", "dog"], []),
        ({"about": ["animal", "person"]}, ["cat", "dog", "cup"], ["cat", "dog"]),
        ({"except": ["person"]}, ["person", "cup"], ["cup"]),
        ({"answer": "yes"}, ["person", "cup"], ["person", "cup"]),
    ],
)
def test_what_is_to_be_named_is_alone_of_its_sort(
    answers: ModuleType, template: dict[str, Any], categories: list[str], expected: list[str]
) -> None:
    assert answers.asked_for(categories, template) == expected


@pytest.fixture
def boxes(tmp_path: Path, photos: dict[str, Path]) -> Path:
    """Two photos of one person each, as PATH holds them."""
    folder = tmp_path / "boxes" / "coco128"
    (folder / "images").mkdir(parents=True)
    found = {}
    for name, box in {"astronaut": [0.3, 0.0, 0.6, 0.5], "hopper": [0.3, 0.1, 0.7, 0.6]}.items():
        with Image.open(photos[name]) as photo:
            photo.resize((128, 120)).save(folder / "images" / f"{name}.jpg")
        found[f"{name}.jpg"] = [{"category": "person", "box": box}]
    (folder / "boxes.json").write_text(json.dumps(found))
    return folder.parent


def test_answers_are_scored_and_held_against_occlusion(
    boxes: Path, write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(boxes), "--weights", str(write("yes")), "--size", "96", "128"]
    monkeypatch.setattr("sys.argv", ["grounding.py", "--answers", "--markdown", *given])
    import_module("grounding").main()
    printed = capsys.readouterr().out
    assert "8 questions about 2 photos, made from 4 templates; 4 have a known answer" in printed
    assert "right are 0.50 (0.50 to 0.50) of these; 2 questions are left out" in printed
    assert "(what is the person wearing?)" in printed
    every, small, right, _, templates, occlusion = tables(printed)
    for table, count in ((every, "8 answers"), (right, "2 answers"), (small, "8 answers")):
        assert f"{count} of 2 photos" in printed
        assert [name for name in table if "other" not in name] == [
            "uniform map",
            "centre point",
            "input 96 x 96",
            "input 128 x 128",
        ]
        assert table["uniform map"]["box ratio: mean"] == "1.00 (1.00 to 1.00)"
    assert templates["is there a {} in the photo?"]["right"] == "1.00"
    assert templates["who is in the photo?"]["right"] == "0.00"
    assert templates["where is the {}?"]["right"] == ""
    assert list(occlusion) == ["input 96 x 96", "input 128 x 128"]
    assert all(row["left out"] == "0" for row in occlusion.values())


def test_photos_of_training_questions_can_be_left_out(answers: ModuleType, data: Path) -> None:
    assert answers.trained_on(data) == {"000000000001.jpg"}


def test_occlusion_maps_are_what_each_score_loses_with_a_square(occlusion: ModuleType) -> None:
    image, weights = torch.randn(1, 3, 16, 24), torch.randn(2, 3, 16, 24)

    def scores(images: Tensor) -> Tensor:
        return torch.einsum("bchw,schw->bs", images, weights) + 5

    found = occlusion.occlusion_maps(scores, image, (4, 3), batch=5)
    assert found.shape == (2, 4, 3)
    lost = (image * weights).sum(dim=1)
    for row, column in product(range(4), range(3)):
        top, left = 4 * row, 8 * column + 1  # squares of 4 x 6 around the centres
        expected = lost[:, top : top + 4, left : left + 6].sum(dim=(1, 2))
        assert found[:, row, column] == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1e9], 1),
        ([1, 2, 3, 4], [0, -1, -2, -9], -1),
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486833),
        ([1, 2, 3, 4], [2, 1, 4, 3], 0.6),
        ([1, 1, 1, 1], [1, 2, 3, 4], math.nan),
    ],
)
def test_rank_correlation_is_spearmans(
    occlusion: ModuleType, first: Sequence[float], second: Sequence[float], expected: float
) -> None:
    shaped = [np.array(values, dtype=float).reshape(2, 2) for values in (first, second)]
    assert occlusion.rank_correlation(*shaped) == pytest.approx(expected, nan_ok=True)


def test_the_control_draws_maps_of_other_photos() -> None:
    photos = [Path(name) for name in "aabbbc"]
    for own, others in zip(photos, import_module("pointing").drawn(photos), strict=True):
        assert len(others) == import_module("pointing").OTHERS
        assert all(photos[index] != own for index in others)


# Speed


def test_all_that_are_timed_give_the_same_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchcam", reason="it comes with the extra bench")
    speed, sidebyside = import_module("vqa_speed"), import_module("sidebyside")
    monkeypatch.setattr(speed, "ANSWERS", 3)
    case = speed.pose(speed.resnet_and_lstm(resnet18))
    maps = {name: adapter(case)() for name, adapter in speed.ADAPTERS.items() if name != "forward"}
    assert maps["multicam"].shape == (1, 3, 7, 7)
    for name, found in maps.items():
        sidebyside._must_agree(name, found, maps["multicam"])
