"""Which click of a tab runs what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.helpers import Examples

from multicam.errors import InputError
from multicam.report import page as report_of
from multicam.web.drawing import AS_STYLE, Look, drawn, hint
from multicam.web.uploads import in_sentences, read_photo
from multicam.web.views import Found, Kind

KEPT = 1800
"""Seconds that what was found for a visitor is kept after it was last made."""

ON_MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 2}
"""At most one for each of two cores at a time; the others wait in the queue."""

_DRAWING: dict[str, Any] = {"concurrency_id": "drawing", "concurrency_limit": 2}

_SAVE = """
(html) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([html], { type: "text/html" }));
  link.download = "multicam.html";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
"""
"""Hands a page to the visitor as a file; none of it is stored on the server."""


@dataclass(frozen=True)
class Tab:
    """The parts of a tab that events join.

    Attributes:
        kind: of what it explains.
        explain: the view behind it.
        photo: where a photo is dropped.
        fields: what else the view is given, in its order.
        button: starts it.
        examples: start it too.
        how: method and layer: changing one runs the model again.
        look: style, colour map and opacity: these do not.
        result: where it is drawn.
        report: makes the report.
    """

    kind: Kind
    explain: Callable[..., Found]
    photo: gr.Image
    fields: Sequence[Component]
    button: gr.Button
    examples: Examples
    how: tuple[gr.Dropdown, gr.Dropdown]
    look: tuple[gr.Radio, gr.Dropdown, gr.Slider]
    result: gr.HTML
    report: gr.Button


def wired(tab: Tab, *also: Callable[..., Any]) -> Tab:
    """Join a tab's events.

    Args:
        tab: its parts.
        also: events that start it beside its button and its examples.
    """
    found = gr.State(None, time_to_live=KEPT)
    given = [tab.photo, *tab.fields, *tab.how, *tab.look]
    run: dict[str, Any] = {
        "fn": _explained(tab.explain),
        "inputs": given,
        "outputs": [found, tab.result, tab.report],
        "preprocess": False,  # photos are decoded by read_photo, which has limits
        "show_progress_on": tab.result,
        **ON_MODEL,
    }
    gr.on([tab.button.click, *also], **run, api_name=tab.kind, scroll_to_output=True)
    tab.examples.load_input_event.then(**run, api_visibility="private", scroll_to_output=True)
    again = {**run, "fn": _again(run["fn"]), "inputs": [found, *given]}
    gr.on([one.input for one in tab.how], **again, api_visibility="private")
    _wire_look(tab, found)
    _wire_report(tab, found)
    return tab


def _wire_look(tab: Tab, found: gr.State) -> None:
    style, colormap, opacity = tab.look
    gr.on(
        [style.input, colormap.input, opacity.release],
        _drawn_again(tab.kind),
        [found, *tab.look],
        tab.result,
        preprocess=False,
        show_progress="hidden",
        api_name=f"{tab.kind}_look",
        **_DRAWING,
    )


def _wire_report(tab: Tab, found: gr.State) -> None:
    written = gr.Textbox(visible=False)
    made = tab.report.click(
        _reported,
        found,
        written,
        show_progress_on=tab.report,
        api_name=f"{tab.kind}_report",
        **_DRAWING,
    )
    made.success(None, written, js=_SAVE)


def _explained(explain: Callable[..., Found]) -> Callable[..., tuple[Found, str, Any]]:
    @in_sentences
    def explained(photo: Any, *given: Any) -> tuple[Found, str, Any]:
        *fields, method, layer, style, colormap, opacity = given
        look = Look(style, colormap or AS_STYLE, opacity)
        found = explain(read_photo(photo), *fields, method=method, layer=layer)
        return found, drawn(found, look), gr.Button(interactive=True)

    return explained


def _again(explained: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a visitor who has seen a result; nothing for others."""

    def again(found: Found | None, *given: Any) -> Any:
        return gr.skip() if found is None else explained(*given)

    return again


def _drawn_again(kind: Kind) -> Callable[..., str]:
    """Draws what was found; the hint where nothing was, or where it is no longer kept."""

    @in_sentences
    def again(found: Found | None, style: str, colormap: str | None, opacity: float) -> str:
        look = Look(style, colormap or AS_STYLE, opacity)
        return hint(kind) if found is None else drawn(found, look)

    return again


@in_sentences
def _reported(found: Found | None) -> str:
    if found is None:
        raise InputError("There is nothing to report yet; explain a photo first")
    return report_of(found.explanation, words=found.words)
