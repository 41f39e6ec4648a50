"""Tables on the screen, or in Markdown for the docs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def show(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool
) -> None:
    if markdown:
        table = [columns, ["---"] * len(columns), *rows]
        print(f"**{title}**\n", *(f"| {' | '.join(row)} |" for row in table), "", sep="\n")
        return
    grid = Table(*columns, title=title, title_justify="left")
    for row in rows:
        grid.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(grid)
