"""`multicam serve` in a process of its own, for the tests of the page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

START = """
import sys
from multicam.cli import main

def watch(event, given):
    if event == "socket.connect" and given[1][0] not in ("127.0.0.1", "::1", "localhost"):
        with open(calls, "a") as file:
            print(given[1], file=file)

calls = sys.argv.pop()
sys.addaudithook(watch)
main()
"""
"""The command, with a note of every connection to another machine."""


@dataclass(frozen=True)
class Served:
    """A page that is being served.

    Attributes:
        url: its address, with a slash at the end.
        log: what the process printed as errors.
    """

    url: str
    log: Path


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """The page is served inside the block, and calls no other machine meanwhile.

    Args:
        folder: for the log and the notes.
    """
    log, calls = folder / "log.txt", folder / "calls.txt"
    command = [sys.executable, "-c", START, "serve", str(calls)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert "multicam is at http://127.0.0.1:" in said, log.read_text()
            yield Served(said.split()[3].rstrip(","), log)
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert not calls.exists(), calls.read_text()
