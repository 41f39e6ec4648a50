"""Starting and stopping the page."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
from gradio.themes.base import Base
from gradio.themes.default import Default
from gradio.themes.utils import colors
from gradio.themes.utils.fonts import LocalFont
from starlette.middleware import Middleware

from multicam.errors import InputError
from multicam.web.models import photo
from multicam.web.page import build
from multicam.web.shield import Shield
from multicam.web.uploads import MAX_BYTES

LOOPBACK = "127.0.0.1"

WAITING = 100
"""Requests that wait for a model at once; more are told that the queue is full."""

VISITORS = 100
"""Visitors whose results are kept, up to 5 MB for each; the one who came first gives way."""

EXAMPLES = ("cat.jpg", "coffee.jpg", "rocket.jpg", "astronaut.jpg", "hopper.jpg")


def serve(host: str = LOOPBACK, port: int | None = None) -> None:
    """Serve the page until Ctrl+C, or until the process is told to end.

    Args:
        host: the address to listen on; "0.0.0.0" lets others in.
        port: None takes the first free one from 7860 on.

    Raises:
        InputError: the port is taken, or the address is not one of this machine.
    """
    ended = threading.Event()
    with running(host, port) as url, suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        print(f"multicam is at {url}, until Ctrl+C", flush=True)
        ended.wait()


@contextmanager
def running(host: str = LOOPBACK, port: int | None = None) -> Iterator[str]:
    """The page is served inside the block; see `serve`.

    Yields:
        Its address.
    """
    _check_free(host, port)
    with _folder_for_files() as folder:
        page = build(folder)
        page.queue(max_size=WAITING, api_open=False)
        _, url, _ = _launched(page, host, port)
        try:
            yield url
        finally:
            page.close(verbose=False)


def _check_free(host: str, port: int | None) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        raise InputError(f"the page cannot listen on {where} ({error})") from error


def _launched(page: gr.Blocks, host: str, port: int | None) -> tuple[object, str, object]:
    """Nothing but the page: no link to share, no traffic counts, no history, no paths."""
    launched: tuple[object, str, object] = page.launch(
        server_name=host,
        server_port=port,
        theme=_theme(),
        css=_template("page.css"),
        js=_template("page.js"),
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        share=False,
        allowed_paths=[],
        max_file_size=MAX_BYTES,
        state_session_capacity=VISITORS,
        app_kwargs={"middleware": [Middleware(Shield)], "docs_url": None, "redoc_url": None},
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    return launched


def _template(name: str) -> str:
    return (files("multicam.web") / "templates" / name).read_text("utf-8")


def _theme() -> Base:
    """Gradio's own, quieter and with more contrast; the font comes with Gradio."""
    theme = Default(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.slate,
        font=[
            LocalFont("Source Sans Pro", weights=(400, 700)),
            "system-ui",
            "sans-serif",
        ],
    )
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        color_accent="*primary_600",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        input_placeholder_color="*neutral_500",
    )


@contextmanager
def _folder_for_files() -> Iterator[Path]:
    """A folder for uploads and reports that no other program shares, with the examples.

    Gradio serves whatever lies in its folder for files; by default, all of its pages on a
    machine have the same one.
    """
    names = ("GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE")
    before = {name: os.environ.get(name) for name in names}
    with TemporaryDirectory(prefix="multicam-", ignore_cleanup_errors=True) as folder:
        for name in EXAMPLES:
            (Path(folder) / name).write_bytes(photo(name))
        os.environ.update(dict.fromkeys(names, folder))
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
