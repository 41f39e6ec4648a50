from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
from typer.testing import CliRunner, Result

from multicam import METHODS, InputError, __version__
from multicam.cli import QUESTIONS, Style, app
from multicam.overlay import STYLES
from multicam.pictures import file_name, open_new


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A folder with a small random ViT whose processor gives it the size that it wants."""
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        id2label={0: "cat", 1: "cup"},
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    processor(32).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def processor(side: int) -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": side, "width": side})


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command, root = [sys.executable, *arguments], Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def error(result: Result) -> str:
    """The one line on stderr of a run that refused its input."""
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.strip()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What it finds


def test_demo_names_the_photos_and_writes_their_pictures(tmp_path: Path) -> None:
    result = run("demo", "--out", tmp_path / "pictures")
    assert result.exit_code == 0, result.output
    written = names(tmp_path / "pictures")
    assert len(written) == 4 * (3 + 1) + 2 + len(QUESTIONS)
    assert {"cat.tiger_cat.png", "coffee.espresso.png", "rocket.figure.png"} < set(written)
    assert {"astronaut.caption.png", "hopper.caption.png", "cat.answer.png"} < set(written)
    for name in written:
        assert name in result.stdout  # whole, although the terminal is narrow
    assert "Egyptian cat" in result.stdout
    assert str(tmp_path / "pictures") in "".join(result.stdout.split("\n"))
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_classify_explains_the_classes_asked_for(photos: dict[str, Path], tmp_path: Path) -> None:
    result = run("classify", photos["cat"], "--classes", "egyptian, 282", "--style", "signed")
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "multicam-out") == [
        "cat.egyptian_cat.png",
        "cat.figure.png",
        "cat.tiger_cat.png",
    ]
    with Image.open(tmp_path / "multicam-out" / "cat.tiger_cat.png") as overlay:
        assert overlay.size == (451, 300)


def test_ask_explains_the_best_answers_and_the_words_of_the_question(
    photos: dict[str, Path], tmp_path: Path
) -> None:
    result = run("ask", photos["cat"], "what animal is this?")
    assert result.exit_code == 0, result.output
    first = next(line for line in result.stdout.splitlines() if "cat.jpg" in line)
    assert first.split()[-3] == "cat"
    assert result.stdout.count("%") == 3
    assert names(tmp_path / "multicam-out") == ["cat.answer.png"]
    run("ask", photos["cat"], "what animal is this?")
    assert names(tmp_path / "multicam-out") == ["cat.answer-2.png", "cat.answer.png"]


def test_ask_holds_answers_against_each_other(photos: dict[str, Path], tmp_path: Path) -> None:
    options = ["--answers", "cat, dog", "--contrast", "cat", "dog", "--style", "signed"]
    result = run("ask", photos["cat"], "what animal is this?", *options, "--out", "why")
    assert result.exit_code == 0, result.output
    assert "cat rather than dog" in " ".join(result.stdout.split())
    assert names(tmp_path / "why") == ["cat.answer.png"]


def test_ask_names_the_words_that_the_model_has_never_seen(photos: dict[str, Path]) -> None:
    result = run("ask", photos["cat"], "what zorb is this?", "--top", "1")
    assert result.exit_code == 0, result.output
    assert "The model has never seen these words: zorb" in result.stdout
    assert "Warning" not in result.output


def test_caption_explains_every_word_of_the_captioners_own(
    photos: dict[str, Path], tmp_path: Path
) -> None:
    result = run("caption", photos["astronaut"], photos["cat"], "--beam", "2")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "multicam-out"
    assert names(folder) == ["astronaut.caption.png", "cat.caption.png"]
    assert "astronaut.jpg" in result.stdout
    assert " man " in result.stdout


def test_caption_explains_the_phrases_asked_for(photos: dict[str, Path], tmp_path: Path) -> None:
    options = ["--caption", "A man in an orange suit", "--words", "orange suit, man"]
    result = run("caption", photos["astronaut"], *options, "--out", "words", "--style", "signed")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert any(line[:2] == ["orange", "suit"] and float(line[2]) < 1 for line in lines)
    assert names(tmp_path / "words") == ["astronaut.caption.png"]
    run("caption", photos["astronaut"], *options, "--out", "words")
    assert names(tmp_path / "words") == ["astronaut.caption-2.png", "astronaut.caption.png"]


def test_classify_takes_a_model_a_layer_and_the_number_of_classes(
    photos: dict[str, Path], tmp_path: Path, vit: Path
) -> None:
    layer = "vit.layers.0"
    options = ["--model", f"hf:{vit}", "--top", "1", "--out", "maps"]
    result = run("classify", photos["cat"], photos["coffee"], *options, "--layer", layer)
    assert result.exit_code == 0, result.output
    assert len(names(tmp_path / "maps")) == 4


def test_a_map_that_says_nothing_is_told(photos: dict[str, Path], vit: Path) -> None:
    # A ViT reads only the class token of its last block: no place has a gradient.
    options = ["--model", f"hf:{vit}", "--classes", "cup", "--layer", "vit.layers.1"]
    result = run("classify", photos["cat"], *options)
    assert result.exit_code == 0, result.output
    assert "cat.jpg, cup: this map says nothing (all zero" in " ".join(result.stdout.split())


def test_files_in_the_folder_are_not_overwritten(photos: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat.tabby.png").write_text("mine")
    run("classify", photos["cat"], "--classes", "tabby", "--out", out)
    result = run("classify", photos["cat"], "--classes", "tabby", "--out", out)
    assert result.exit_code == 0, result.output
    assert (out / "cat.tabby.png").read_text() == "mine"
    assert names(out) == [
        "cat.figure-2.png",
        "cat.figure.png",
        "cat.tabby-2.png",
        "cat.tabby-3.png",
        "cat.tabby.png",
    ]
    assert "cat.tabby-3.png" in result.stdout


def test_a_new_file_takes_the_first_free_name(tmp_path: Path) -> None:
    opened = [open_new(tmp_path, "cat", ".png") for _ in range(3)]
    for file in opened:
        file.close()
    assert [Path(file.name).name for file in opened] == ["cat.png", "cat-2.png", "cat-3.png"]


@pytest.mark.parametrize(
    ("label", "name"),
    [("Egyptian cat", "egyptian_cat"), ("a/b\\c: d", "a_b_c_d"), ("…", "class"), ("Käse", "käse")],
)
def test_a_label_becomes_a_file_name(label: str, name: str) -> None:
    assert file_name(label) == name


def test_check_agrees_with_captum(photos: dict[str, Path]) -> None:
    result = run("check", photos["cat"], photos["coffee"], "--top", "1")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("same") == 2
    assert "espresso" in result.stdout
    assert "bn2" in result.stdout


def test_check_knows_the_methods_that_captum_has(photos: dict[str, Path]) -> None:
    result = run("check", photos["cat"], "--top", "1", "--method", "hirescam")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("same") == 1
    message = error(run("check", photos["cat"], "--top", "1", "--method", "layercam"))
    assert "no method 'layercam' to compare with; it has gradcam and hirescam" in message


def test_layers_marks_the_one_that_is_used() -> None:
    result = run("layers")
    assert result.exit_code == 0, result.output
    chosen = [line for line in result.stdout.splitlines() if "<- chosen" in line]
    assert len(chosen) == 1
    assert "bn2  BatchNormAct2d  (1, 1280, 7, 7)" in chosen[0]
    assert "blocks.5.3" in result.stdout


def test_layers_reads_the_tokens_of_a_vit(vit: Path) -> None:
    result = run("layers", "--model", f"hf:{vit}")
    assert result.exit_code == 0, result.output
    assert "(1, 17, 16)  4 x 4" in result.stdout


def test_methods_are_listed_with_their_costs_and_papers() -> None:
    result = run("methods")
    assert result.exit_code == 0, result.output
    words = result.stdout.split()
    assert set(METHODS) <= set(words)  # whole, although the terminal is narrow
    assert {"1610.02391", "replays"} <= set(words)
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "picture"),
    [
        (["classify", "cat", "--classes", "tabby"], "tabby"),
        (["caption", "cat", "--caption", "a cat", "--words", "cat"], "caption"),
        (["ask", "cat", "what animal is this?", "--top", "1"], "answer"),
    ],
)
def test_maps_are_made_by_the_method_asked_for(
    photos: dict[str, Path], tmp_path: Path, command: list[str], picture: str
) -> None:
    name, photo, *options = command
    for method in ([], ["--method", "reciprocam"]):
        result = run(name, photos[photo], *options, *method, "--out", "maps")
        assert result.exit_code == 0, result.output
    assert f"cat.reciprocam.{picture}.png" in result.stdout
    by_gradients, by_places = (
        (tmp_path / "maps" / f"{stem}.{picture}.png").read_bytes()
        for stem in ("cat", "cat.reciprocam")
    )
    assert by_gradients != by_places


def test_slow_methods_say_on_a_terminal_how_far_they_are(
    photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = photos["cat"], photos["coffee"]
    options = "--top", "1", "--method", "reciprocam"
    assert run("classify", *given, *options).stderr == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = run("classify", *given, *options).stderr
    assert "cat.jpg" in shown
    assert "coffee.jpg" in shown


def test_a_shell_completes_the_names_of_methods() -> None:
    words = {"COMP_WORDS": "multicam ask --method eigen", "COMP_CWORD": "3"}
    environment = {"_MULTICAM_COMPLETE": "complete_bash", **words}
    result = CliRunner().invoke(app, env=environment, prog_name="multicam")
    assert result.stdout.split() == ["eigencam", "eigengradcam"]


def test_the_version_and_help_are_printed() -> None:
    assert run("--version").stdout == f"multicam {__version__}\n"
    for command in ["classify", "caption", "ask", "layers", "methods", "check", "demo"]:
        result = run(command, "--help")
        assert result.exit_code == 0
        assert f"multicam {command}" in result.stdout


def test_the_styles_are_those_of_the_overlays() -> None:
    assert {style.value for style in Style} == set(STYLES)


def test_the_command_loads_nothing_that_its_help_does_not_need() -> None:
    heavy = "{'captum', 'cv2', 'matplotlib', 'timm', 'torchvision', 'transformers'}"
    code = f"import sys, multicam.cli; print({heavy} & set(sys.modules))"
    assert python("-c", code).stdout == "set()\n"


def test_the_module_runs_as_a_program() -> None:
    done = python("-m", "multicam.cli", "classify", "missing.jpg")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: missing.jpg does not exist")


# Bad input


def test_a_missing_file_is_one_line() -> None:
    assert "missing.jpg does not exist" in error(run("classify", "missing.jpg"))
    assert "missing.jpg does not exist" in error(run("check", "missing.jpg"))


def test_a_file_that_is_no_image_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.jpg").write_text("not a picture\n" * 9)
    assert "empty" in error(run("classify", "empty.jpg"))
    assert "notes.jpg" in error(run("classify", "notes.jpg"))
    assert not (tmp_path / "multicam-out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "1000"], "class 1000 is not in a model of 1000 classes (0 to 999)"),
        (
            ["--classes", "expreso"],
            "no class of 1000 is called 'expreso'; the nearest are 'espresso'",
        ),
        (["--classes", "retriever"], "'retriever' fits 5 classes: 'flat-coated retriever' (205), "),
        (["--classes", "tabby,"], "no class of 1000 is called ''"),
        (["--layer", "blocks.66"], "no layer is called 'blocks.66'; feature maps to choose from: "),
        (["--model", "resnet50"], "perhaps torchvision:resnet50"),
    ],
)
def test_bad_options_are_one_line(
    photos: dict[str, Path], tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in error(run("classify", photos["cat"], *options))
    assert not (tmp_path / "multicam-out").exists()


@pytest.mark.parametrize(
    "command", [["classify", "x.jpg"], ["caption", "x.jpg"], ["ask", "x.jpg", "what?"], ["demo"]]
)
def test_an_unknown_method_is_one_line(command: list[str]) -> None:
    message = error(run(*command, "--method", "grad-cam"))
    assert "no method is called 'grad-cam'; try gradcam" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([""], "the question '' holds no word; ask something"),
        (["what " * 500], "the question has 500 tokens, and the model reads 26"),
        (["what is this", "--answers", "zorb"], "'zorb' is not among the"),
        (["what is this", "--answers", "dog,dog"], "the answer 'dog' is given twice"),
        (["what is this", "--contrast", "cat", "catt"], "the nearest are: cat"),
        (["what is this", "--layer", "conv9"], "no layer is called 'conv9'"),
        (["what is this", "--model", "vilt"], "no model for questions is called 'vilt'; give hf:"),
    ],
)
def test_bad_questions_and_answers_are_one_line(
    photos: dict[str, Path], options: list[str], message: str
) -> None:
    assert message in error(run("ask", photos["cat"], *options))
    assert "missing.jpg does not exist" in error(run("ask", "missing.jpg", "what is this"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--caption", "a dgo"], "the word 'dgo' is not in the captioner's vocabulary of 2923"),
        (["--caption", ""], "the caption '' holds no word"),
        (["--caption", "a dog", "--words", "cat"], "'cat' is not in the caption 'a dog'"),
        (["--beam", "0"], "beam=0: give 1 (greedy) or more"),
        (["--layer", "encoder.bn9"], "no layer is called 'encoder.bn9'; feature maps to choose"),
        (["--model", "blip"], "no captioner is called 'blip'; give hf:NAME_OR_FOLDER"),
    ],
)
def test_bad_options_of_captions_are_one_line(
    photos: dict[str, Path], tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in error(run("caption", photos["cat"], *options))
    assert "missing.jpg does not exist" in error(run("caption", "missing.jpg"))
    assert not (tmp_path / "multicam-out").exists()


def test_what_was_done_before_an_error_is_told(photos: dict[str, Path], tmp_path: Path) -> None:
    result = run("classify", photos["coffee"], "missing.jpg")
    assert "missing.jpg does not exist" in error(result)
    assert "espresso" in result.stdout
    assert len(names(tmp_path / "multicam-out")) == 4


def test_a_folder_that_is_a_file_is_one_line(photos: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "FileExistsError" in error(run("classify", photos["cat"], "--out", "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_model_that_raises_is_one_line(photos: dict[str, Path], vit: Path) -> None:
    processor(48).save_pretrained(vit)
    message = error(run("classify", photos["cat"], "--model", f"hf:{vit}"))
    assert message.startswith("error: ValueError: Input image size (48*48)")
    assert message.endswith("(--debug shows where)")


def test_debug_shows_the_traceback() -> None:
    result = run("classify", "missing.jpg", "--debug")
    assert isinstance(result.exception, InputError)
    assert result.stderr == ""
