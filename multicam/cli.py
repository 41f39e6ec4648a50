"""The command `multicam`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from multicam.commands import (
    Asked,
    How,
    Said,
    Wanted,
    ask_photos,
    caption_photos,
    check_photos,
    classify_photos,
    serve_page,
    show_layers,
    show_methods,
)
from multicam.console import one_line_errors, working
from multicam.methods import LISTED
from multicam.tasks import captioning, classification, vqa
from multicam.version import __version__

PHOTOS = ("cat.jpg", "coffee.jpg", "astronaut.jpg", "rocket.jpg")
"""The bundled photos that are classified, in `multicam/photos`."""

PEOPLE = ("astronaut.jpg", "hopper.jpg")
"""Those that are captioned: the bundled captioner knows people best."""

QUESTIONS = (
    ("cat.jpg", "what animal is this?"),
    ("astronaut.jpg", "what is the woman wearing?"),
)
"""What is asked about which photo."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Style(StrEnum):
    """How a map is painted on its photo."""

    heat = "heat"
    signed = "signed"
    spotlight = "spotlight"


def _listed() -> list[tuple[str, str]]:
    """What a shell completes `--method` to."""
    return [(name, listed.summary) for name, listed in LISTED.items()]


ImageArgument = Annotated[
    list[str], typer.Argument(metavar="IMAGE", help="Photos: JPEG, PNG, WebP, TIFF, ...")
]
ClassesOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Classes, with commas between: names, parts of names that fit one class only, or "
        "indices. Without it, the classes that the model ranks highest.",
    ),
]
TopOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="How many of the highest classes.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="torchvision:NAME, timm:NAME or hf:NAME_OR_FOLDER. Without it, the bundled "
        "EfficientNet-Lite0.",
    ),
]
LayerOption = Annotated[
    str | None,
    typer.Option(
        metavar="LAYER",
        help="Dotted name of the feature map; see [b]multicam layers[/b]. Without it, the last "
        "one that the scores depend on.",
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD",
        autocompletion=_listed,
        help="How the map is made: [b]multicam methods[/b] lists them, with what each costs. "
        "Without it, gradcam; for words and answers of the bundled models, hirescam.",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Folder for the pictures, made if missing. No file is overwritten: where a name is "
        "taken, a number is added (cat.tabby-2.png).",
    ),
]
StyleOption = Annotated[
    Style,
    typer.Option(
        metavar="STYLE",
        help="heat: colours over the photo. signed: what speaks for and what against. "
        "spotlight: what matters stays sharp, the rest is dim.",
    ),
]
ReportOption = Annotated[
    bool,
    typer.Option(
        "--report",
        help="Also write NAME.html: one file that shows every map by the word that is pointed at.",
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"multicam {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _multicam(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Which places in an image made a model's score what it is? Grad-CAM on real photos.

    Start with [b]multicam demo[/b].
    """


@app.command()
def classify(
    images: ImageArgument,
    classes: ClassesOption = None,
    top: TopOption = 3,
    model: ModelOption = None,
    layer: LayerOption = None,
    method: MethodOption = None,
    out: OutOption = Path("multicam-out"),
    style: StyleOption = Style.heat,
    report: ReportOption = False,
    debug: DebugOption = False,
) -> None:
    """Name what is in photos, and show where each class comes from.

    [b]Examples[/b]

      multicam classify cat.jpg

      multicam classify *.jpg --classes "boxer,tiger cat" --style spotlight

      multicam classify dog.jpg --model torchvision:resnet50 --out maps

      multicam classify dog.jpg --method layercam --layer blocks.4
    """
    with one_line_errors(debug):
        how = How(out, style.value, layer, method, report)
        classify_photos(_load(model), _named(images), Wanted(classes, top), how)


@app.command()
def caption(
    images: ImageArgument,
    caption: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The caption to explain. Without it, the model's own."),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Words or phrases of the caption, with commas between. Without it, every word.",
        ),
    ] = None,
    beam: Annotated[
        int, typer.Option(metavar="N", help="Sequences kept while searching; 1 is greedy.")
    ] = 5,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="hf:NAME_OR_FOLDER. Without it, the bundled CNN-LSTM."),
    ] = None,
    layer: LayerOption = None,
    method: MethodOption = None,
    out: OutOption = Path("multicam-out"),
    style: StyleOption = Style.heat,
    report: ReportOption = False,
    debug: DebugOption = False,
) -> None:
    """Say in a sentence what is in photos, and show where each word comes from.

    [b]Examples[/b]

      multicam caption dog.jpg

      multicam caption dog.jpg --caption "a brown dog runs" --words "brown dog,runs"

      multicam caption dog.jpg --report

      multicam caption dog.jpg --model hf:Salesforce/blip-image-captioning-base
    """
    with one_line_errors(debug):
        how = How(out, style.value, layer, method, report)
        caption_photos(_load_captioner(model), _named(images), Said(caption, words, beam), how)


@app.command()
def ask(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A photo: JPEG, PNG, ...")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotation marks.")],
    answers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Answers to explain, with commas between. Without it, those of the model.",
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many of the model's answers.")
    ] = 3,
    contrast: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B", help="Two answers: also show what speaks for A rather than for B."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="hf:NAME_OR_FOLDER. Without it, the bundled CNN-LSTM."),
    ] = None,
    layer: LayerOption = None,
    method: MethodOption = None,
    out: OutOption = Path("multicam-out"),
    style: StyleOption = Style.heat,
    report: ReportOption = False,
    debug: DebugOption = False,
) -> None:
    """Answer a question about a photo; show what in the photo and in the question gave the answer.

    [b]Examples[/b]

      multicam ask cat.jpg "what animal is this?"

      multicam ask dog.jpg "what is the dog holding?" --contrast frisbee ball

      multicam ask dog.jpg "is the dog running?" --answers yes,no --style signed
    """
    with one_line_errors(debug):
        how = How(out, style.value, layer, method, report)
        photos = [(Path(image).name, image, Asked(question, answers, top, contrast))]
        ask_photos(_load_answerer(model), photos, how)


@app.command()
def demo(
    method: MethodOption = None,
    out: OutOption = Path("multicam-demo"),
    style: StyleOption = Style.heat,
    debug: DebugOption = False,
) -> None:
    """Classify, caption and question bundled photos with the bundled networks, and explain it all.

    [b]Example[/b]

      multicam demo --out pictures
    """
    with one_line_errors(debug):
        how = How(out, style.value, method=method)
        photos = [(name, _bundled(name)) for name in PHOTOS]
        classify_photos(_load(None), photos, Wanted(), how)
        people = [(name, _bundled(name)) for name in PEOPLE]
        caption_photos(_load_captioner(None), people, Said(), how)
        asked = [(name, _bundled(name), Asked(question)) for name, question in QUESTIONS]
        ask_photos(_load_answerer(None), asked, how)


@app.command()
def serve(
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            metavar="N",
            help="Where the page is. Without it, the first free one from 7860 on.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(metavar="HOST", help="The address to listen on; 0.0.0.0 lets others in."),
    ] = "127.0.0.1",
    debug: DebugOption = False,
) -> None:
    """Show all three tasks on a web page, until Ctrl+C.

    [b]Examples[/b]

      multicam serve

      multicam serve --port 8000
    """
    with one_line_errors(debug):
        serve_page(host, port)


@app.command()
def layers(model: ModelOption = None, debug: DebugOption = False) -> None:
    """List the feature maps of a model, and mark the one that is used unless you name one.

    Each line: the name for --layer, the kind of layer, its shape, the map's grid.

    [b]Examples[/b]

      multicam layers

      multicam layers --model torchvision:resnet50
    """
    with one_line_errors(debug):
        show_layers(_load(model), _bundled("cat.jpg"))


@app.command()
def methods() -> None:
    """List the methods for --method: what a map shows, what it costs, who published it.

    [b]Examples[/b]

      multicam methods

      multicam classify cat.jpg --method layercam
    """
    show_methods()


@app.command()
def check(
    images: ImageArgument,
    classes: ClassesOption = None,
    top: TopOption = 3,
    model: ModelOption = None,
    layer: LayerOption = None,
    method: MethodOption = None,
    debug: DebugOption = False,
) -> None:
    """Compute the same maps with Captum, which has Grad-CAM and HiResCAM, and compare.

    Exit code 1 where a map differs by more than 0.0001 of its largest value.

    [b]Example[/b]

      multicam check cat.jpg --model torchvision:resnet50 --layer layer3
    """
    with one_line_errors(debug):
        agree = check_photos(_load(model), _named(images), Wanted(classes, top), layer, method)
    if not agree:
        raise typer.Exit(1)


def main() -> None:
    """Run the command."""
    app(prog_name="multicam")


def _named(paths: list[str]) -> list[tuple[str, str]]:
    return [(Path(path).name, path) for path in paths]


def _bundled(photo: str) -> bytes:
    return (files("multicam") / "photos" / photo).read_bytes()


def _load(model: str | None) -> classification.Classification:
    with _loading(model):
        return classification.load(model)


def _load_captioner(model: str | None) -> captioning.Captioning:
    with _loading(model):
        return captioning.load(model)


def _load_answerer(model: str | None) -> vqa.VisualQuestionAnswering:
    with _loading(model):
        return vqa.load(model)


@contextmanager
def _loading(model: str | None) -> Iterator[None]:
    if model is not None and model.startswith("hf:"):
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    with working("loading the model"):
        yield


if __name__ == "__main__":
    main()
