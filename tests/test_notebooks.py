"""The notebooks in examples/ run from the first cell to the last, and end as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

pytestmark = pytest.mark.usefixtures("importable")


def run(name: str, folder: Path) -> Any:
    """The notebook, run in a kernel of its own, with its outputs."""
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(notebook: Any) -> int:
    """How many outputs of a notebook are or hold a picture."""
    shown = [output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs]
    return sum("image/png" in data or "<img" in data.get("text/html", "") for data in shown)


def test_grad_cam_by_hand_is_the_map_of_explain(tmp_path: Path) -> None:
    notebook = run("grad_cam_step_by_step.ipynb", tmp_path)
    compared = printed(code_cells(notebook)[-2]).splitlines()
    assert float(compared[0].removeprefix("largest difference: ")) < 1e-5
    assert compared[1] == "The map made by hand is the map of multicam.explain."
    assert pictures(notebook) == 7


def test_captions_questions_and_a_score_of_ones_own_are_explained(tmp_path: Path) -> None:
    notebook = run("captions_and_questions.ipynb", tmp_path)
    cells = code_cells(notebook)
    assert "'cat': '100%'" in printed(cells[3])
    assert "some cat 10." in printed(cells[-1])
    assert printed(cells[-1]).endswith("a score of your own: explained.\n")
    assert pictures(notebook) == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_first_cell_installs_nothing_where_multicam_is(path: Path) -> None:
    first = code_cells(nbformat.read(path, as_version=4))[0]
    assert first.source.splitlines()[2:] == [
        'if find_spec("multicam") is None:',
        '    %pip install --quiet "multicam-xai[demo]"',
    ]


def test_every_notebook_is_run() -> None:
    assert [path.name for path in NOTEBOOKS] == [
        "captions_and_questions.ipynb",
        "grad_cam_step_by_step.ipynb",
    ]
