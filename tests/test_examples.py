from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"

TRAINING = {  # in test_training.py and test_finetune.py
    "derive_questions.py",
    "derived_rooms.py",
    "derived_words.py",
    "finetune.py",
    "finetune_and_explain.py",
    "scene_figures.py",
    "scenes.py",
    "train_captioner.py",
    "train_vqa.py",
    "training.py",
}

BROWSER = {"serve_pictures.py"}  # in test_web_browser.py


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))


def run(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_classify_says_where_the_cats_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("classify.py")
    assert "Egyptian cat: logit 9." in capsys.readouterr().out
    with Image.open(tmp_path / "egyptian_cat.png") as overlay:
        assert overlay.size == (451, 300)
    assert (tmp_path / "cat.png").exists()


def test_what_makes_a_collage_similar_to_coffee_is_the_coffee(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = run("custom_target.py")
    heat = example["alike"].heatmaps()[0, 0]
    assert heat[4:].mean() > 2 * heat[:3].mean()
    tabby, espresso = example["regions"].heatmaps()[0]
    assert tabby[:3].mean() > 2 * tabby[4:].mean()
    assert espresso[4:].mean() > 2 * espresso[:3].mean()
    assert "similarity 0." in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"similarity.png", "regions.png"}


def test_the_words_of_a_caption_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = run("caption.py")
    assert example["told"].labels == (("smiling woman", "suit"),)
    assert example["anyone"].scores.item() > example["woman"].scores.item()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(example["said"].labels[0])
    assert all(": p = " in line for line in printed)
    assert {path.name for path in tmp_path.iterdir()} == {
        "caption.png",
        "phrases.png",
        "person.png",
    }


def test_a_captioner_of_ones_own_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = run("caption_your_own_model.py")
    assert example["explanation"].maps.shape == (1, 8, 7, 7)
    assert example["checked"].max_rel <= 1e-5
    assert "8 maps; largest difference from Captum" in capsys.readouterr().out
    assert (tmp_path / "own_caption.png").exists()


def test_an_answer_and_the_words_of_its_question_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = run("ask.py")
    assert example["found"].labels[0][0] == "cat"
    assert example["found"].labels[0][-1] == "cat rather than dog"
    assert example["given"].labels == (("yes", "no"),)
    assert capsys.readouterr().out.startswith("cat: ")
    assert {path.name for path in tmp_path.iterdir()} == {"animal.png", "yes_or_no.png"}


def test_a_model_of_ones_own_that_answers_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = run("ask_your_own_model.py")
    assert example["found"].maps.shape == (1, 4, 7, 7)
    assert example["checked"].max_rel <= 1e-5
    assert "4 maps; largest difference from Captum" in capsys.readouterr().out
    assert (tmp_path / "own_answer.png").exists()


def test_four_photos_are_shown_with_their_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["four_classes.py"])
    example = run("four_classes.py")
    assert not any(one.silent for one in example["found"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in printed] == list(example["CLASSES"].values())
    assert all(float(line.split()[-1]) > 0.1 for line in printed)
    assert (tmp_path / "four_classes.png").exists()


def test_two_things_in_one_photo_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(EXAMPLES.parent / "multicam" / "photos" / "astronaut.jpg")
    given = ["cat_and_dog.py", photo, "--classes", "space shuttle", "crash helmet"]
    monkeypatch.setattr(sys, "argv", given)
    run("cat_and_dog.py")
    assert capsys.readouterr().out == "space shuttle and crash helmet: two_classes.png\n"
    with Image.open(tmp_path / "two_classes.png") as picture:
        assert min(picture.size) > 400


def test_random_weights_change_grad_cam_and_not_guided_backpropagation(
    photos: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["randomization_check.py", str(photos["coffee"])])
    found = run("randomization_check.py")["correlations"]
    assert found["Grad-CAM"]["trained"] == pytest.approx([1.0])
    assert abs(found["Grad-CAM"]["head"][0]) < 0.7
    assert found["guided backpropagation"]["head"][0] > 0.95
    assert abs(found["guided backpropagation"]["stem"][0]) < 0.5
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| block ") for line in printed) == 7
    assert (tmp_path / "randomization.png").exists()


def test_methods_are_compared_in_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["gradcam", "layercam", "reciprocam"]
    monkeypatch.setattr(sys, "argv", ["compare_methods.py", "--methods", *methods])
    together = run("compare_methods.py")["together"]
    assert together.labels == (tuple(methods),)
    assert together.maps.shape == (1, 3, 224, 224)
    assert not together.silent
    assert "space shuttle by 3 methods" in capsys.readouterr().out
    assert (tmp_path / "methods.png").exists()


@pytest.mark.parametrize(
    ("name", "found", "shape"),
    [
        ("clip_similarity.py", "similar", (1, 2, 6, 6)),
        ("segmentation.py", "explained", (1, 2, 8, 8)),
        ("detection.py", "explained", (1, 1, 10, 10)),
    ],
)
def test_other_outputs_are_explained(name: str, found: str, shape: tuple[int, ...]) -> None:
    explanation = run(name)[found]
    assert explanation.maps.shape == shape
    assert not explanation.silent


def test_feature_maps_of_any_kind_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    run("any_feature_map.py")
    lines = capsys.readouterr().out.splitlines()
    shapes = ["(1, 2, 60)", "(1, 2, 2, 8, 8)", "(1, 2, 3, 3)", "(1, 2, 3, 3)"]
    assert [line.partition(", maps ")[2] for line in lines] == shapes


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "caption.py",
        "caption_your_own_model.py",
        "classify.py",
        "compare_methods.py",
        "custom_target.py",
        "segmentation.py",
        "detection.py",
        "clip_similarity.py",
        "any_feature_map.py",
        "ask.py",
        "ask_your_own_model.py",
        "cat_and_dog.py",
        "four_classes.py",
        "randomization_check.py",
        *BROWSER,
        *TRAINING,
    }
