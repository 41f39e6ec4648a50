"""The layout of the page."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.helpers import Examples

from multicam.overlay import COLORMAPS, STYLES
from multicam.web import models, views
from multicam.web.drawing import AS_STYLE, hint
from multicam.web.events import KEPT, ON_MODEL, Tab, wired
from multicam.web.views import MOST, Kind

TITLE = """
<header class="mc-title">
  <h1>multicam</h1>
  <p>Which places in a photo made a model say what it said? Pick a task, then a photo.</p>
</header>
"""


def build(photos: Path) -> gr.Blocks:
    """The page.

    Args:
        photos: a folder with the bundled photos that Gradio may read.
    """
    page = gr.Blocks(title="multicam", analytics_enabled=False, delete_cache=(600, KEPT))
    with page:
        gr.HTML(TITLE)
        with gr.Tab("Classify"):
            classes = _classify_tab(photos)
        with gr.Tab("Caption") as caption:
            words = _caption_tab(photos)
        with gr.Tab("Ask") as ask:
            answers = _ask_tab(photos)
        page.load(_class_choices, None, [classes.fields[0], classes.how[1]], **_QUIET)
        caption.select(_layers(models.captioner_layers), None, words.how[1], **_QUIET)
        ask.select(_layers(models.answerer_layers), None, answers.how[1], **_QUIET)
    return page


_QUIET: dict[str, Any] = {**ON_MODEL, "show_progress": "hidden", "api_visibility": "private"}


def _classify_tab(photos: Path) -> Tab:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            photo = _photo()
            names = ("cat.jpg", "coffee.jpg", "rocket.jpg", "astronaut.jpg")
            examples = _examples([[str(photos / name)] for name in names], [photo])
            classes = gr.Dropdown(
                [],
                label="Classes",
                info="Choose or type some, or leave it empty for the most likely.",
                multiselect=True,
                max_choices=MOST,
                allow_custom_value=True,
            )
            top = gr.Slider(1, MOST, 3, step=1, label="How many of the most likely")
            button = gr.Button("Explain", variant="primary")
        rest = _result("classes", methods=models.methods())
    tab = Tab("classes", views.classify, photo, (classes, top), button, examples, **rest)
    return wired(tab, photo.upload)


def _caption_tab(photos: Path) -> Tab:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            photo = _photo()
            names = ("astronaut.jpg", "hopper.jpg", "cat.jpg", "coffee.jpg")
            examples = _examples([[str(photos / name)] for name in names], [photo])
            text = gr.Textbox(
                label="Caption",
                info="Leave it empty, and the model writes one.",
                placeholder="a woman in an orange suit",
            )
            button = gr.Button("Explain", variant="primary")
        script = (files("multicam.web") / "templates" / "words.js").read_text("utf-8")
        rest = _result("caption", methods=models.methods(without=["cam"]), script=script)
    tab = Tab("caption", views.caption, photo, (text,), button, examples, **rest)
    return wired(tab, photo.upload, text.submit)


def _ask_tab(photos: Path) -> Tab:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            photo = _photo()
            question = gr.Textbox(label="Question", placeholder="what animal is this?")
            answers = gr.Textbox(
                label="Answers",
                info="With commas between, or nothing for the model's own.",
                placeholder="cat, dog",
            )
            with gr.Row():
                this = gr.Textbox(label="What speaks for", placeholder="cat", min_width=120)
                other = gr.Textbox(label="rather than for", placeholder="dog", min_width=120)
            button = gr.Button("Ask", variant="primary")
            asked = [
                [str(photos / "cat.jpg"), "what animal is this?", "", "cat", "dog"],
                [str(photos / "astronaut.jpg"), "what is the woman wearing?", "", "", ""],
                [str(photos / "coffee.jpg"), "what is in the cup?", "coffee, milk", "", ""],
            ]
            examples = _examples(asked, [photo, question, answers, this, other])
        rest = _result("answers", methods=models.methods(without=["cam"]))
    fields = (question, answers, this, other)
    tab = Tab("answers", views.ask, photo, fields, button, examples, **rest)
    return wired(tab, question.submit, answers.submit)


def _photo() -> gr.Image:
    return gr.Image(label="Photo", type="filepath", sources=["upload"], height=240, buttons=[])


def _examples(rows: list[list[str]], inputs: list[Component]) -> Examples:
    columns = [0, 1][: len(inputs)]
    made: Examples = gr.Examples(rows, inputs, label="Examples to click", visible_columns=columns)
    return made


def _result(kind: Kind, *, methods: models.Choices, script: str | None = None) -> dict[str, Any]:
    """The column with the result, and below it what can be changed about it."""
    with gr.Column(scale=3, min_width=320):
        result = gr.HTML(hint(kind), js_on_load=script, elem_id=f"mc-{kind}", min_height=260)
        with gr.Accordion("How it looks, and how it is made", open=False):
            style = gr.Radio(list(STYLES), value="heat", label="Style")
            with gr.Row():
                names = [("as the style has it", AS_STYLE), *((name, name) for name in COLORMAPS)]
                colormap = gr.Dropdown(names, value=AS_STYLE, label="Colours")
                opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity")
            with gr.Row():
                method = gr.Dropdown(
                    [("the usual one", models.OWN), *methods],
                    value=models.OWN,
                    label="Method",
                    info="multicam methods explains each",
                )
                layer = gr.Dropdown(
                    [("the usual one", models.OWN)],
                    value=models.OWN,
                    label="Layer",
                    info="with channels x height x width of its maps",
                    allow_custom_value=True,
                )
        report = gr.Button("Report in one file", interactive=False, size="sm")
    return {
        "how": (method, layer),
        "look": (style, colormap, opacity),
        "result": result,
        "report": report,
    }


def _class_choices() -> tuple[Any, Any]:
    names = list(models.classifier().names)
    return gr.Dropdown(choices=names), gr.Dropdown(choices=models.classifier_layers())


def _layers(choices: Callable[[], models.Choices]) -> Callable[[], Any]:
    return lambda: gr.Dropdown(choices=choices())
