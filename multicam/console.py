"""What the command prints: tables, trees, progress, and errors in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from multicam.errors import MulticamError

if TYPE_CHECKING:
    from multicam.layers import FeatureMap

Item = TypeVar("Item")

BAD_INPUT = 2
"""Exit code for input that cannot be used, as for wrong usage."""


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn exceptions into one line on stderr and exit code 2; with `debug`, let them pass."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            raise
        message = " ".join(str(error).split())
        if not isinstance(error, MulticamError):
            message = f"{type(error).__name__}: {message} (--debug shows where)"
        typer.echo(f"error: {message}", err=True)
        raise typer.Exit(BAD_INPUT) from None


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say on a terminal's stderr what is being done for so long."""
    with Console(stderr=True).status(what):
        yield


def progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """Go through items behind a progress bar, where there are several and a terminal."""
    from rich.progress import track

    console = Console(stderr=True)
    silent = len(items) < 2 or not console.is_terminal
    return track(items, what, console=console, transient=True, disable=silent)


def show(thing: Table | Tree | Text | str) -> None:
    """Print to stdout; file names and labels are never read as markup."""
    Console(markup=False, highlight=False).print(thing)


def table(*columns: str, numbers: Sequence[str] = (), whole: Sequence[str] = ()) -> Table:
    """An empty table that folds what is too long for the terminal, and cuts nothing.

    Args:
        columns: their headers.
        numbers: the headers among them with numbers below, to be set to the right.
        whole: the headers among them with names below, to be kept on one line.
    """
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for column in columns:
        numeric = column in numbers
        made.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric or column in whole,
        )
    return made


def layer_tree(model: str, maps: Sequence[FeatureMap], chosen: str) -> Tree:
    """Feature maps by their dotted names, with shapes.

    Args:
        model: what to call the root.
        maps: the feature maps.
        chosen: name of the one to mark.
    """
    tree = Tree(Text(model, style="bold"))
    nodes = {"": tree}
    for one in sorted(maps, key=lambda one: _running_order(one.name, maps)):
        parent, _, _ = one.name.rpartition(".")
        nodes[one.name] = _node(nodes, parent).add(_described(one, chosen))
    return tree


def _running_order(name: str, maps: Sequence[FeatureMap]) -> tuple[int, int]:
    """Children run before their parent is ready; print the parent before the first of them."""
    family = [i for i, one in enumerate(maps) if f"{one.name}.".startswith(f"{name}.")]
    return min(family), name.count(".")


def _node(nodes: dict[str, Tree], name: str) -> Tree:
    if name not in nodes:
        parent, _, _ = name.rpartition(".")
        nodes[name] = _node(nodes, parent).add(Text(name, style="dim"))
    return nodes[name]


def _described(one: FeatureMap, chosen: str) -> Text:
    size = " x ".join(map(str, one.grid))
    text = Text.assemble((one.name or "(the model itself)", "cyan"), f"  {one.kind}  {one.shape}")
    text.append(f"  {size}", style="green")
    if one.name == chosen:
        text.append("  <- chosen", style="bold red")
    elif not one.candidate:
        text.append("  only by name", style="dim")
    return text
