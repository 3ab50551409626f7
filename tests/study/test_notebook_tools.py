"""An executed notebook is the same whenever it runs."""

from pathlib import Path

import nbformat
import pytest

from study import notebooks


def test_an_executed_notebook_does_not_tell_when_its_lines_were_printed(tmp_path):
    def executed(pause):
        cell = nbformat.v4.new_code_cell(f"import time\nfor i in range(2):\n    print(i, flush=True)\n    time.sleep({pause})")
        cell.metadata.tags = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=[cell])
        nbformat.write(notebook, tmp_path / "source.ipynb")
        notebooks.execute(tmp_path / "source.ipynb", tmp_path / "executed.ipynb", {})
        return nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells[0].outputs

    assert executed(0.5) == executed(0) == [nbformat.v4.new_output("stream", text="0\n1\n")]


def test_a_notebook_that_fails_leaves_the_earlier_one_and_says_where_its_outputs_are(tmp_path):
    cells = [nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("print('before')"), nbformat.v4.new_code_cell("1 / 0")]
    cells[0].metadata.tags = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "source.ipynb")
    (tmp_path / "executed.ipynb").write_text("earlier")
    with pytest.raises(Exception, match="ZeroDivisionError") as raised:
        notebooks.execute(tmp_path / "source.ipynb", tmp_path / "executed.ipynb", {})
    (note,) = raised.value.__notes__
    failed = Path(note.rpartition(": ")[2])
    assert "before" in failed.read_text() and (tmp_path / "executed.ipynb").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["executed.ipynb", "source.ipynb"]


def test_an_executed_notebook_has_progress_lines_without_what_depends_on_the_clock(tmp_path):
    cell = nbformat.v4.new_code_cell("print('  1/2 CE  [ends about 12:30]')")
    cell.metadata.tags = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "source.ipynb")
    notebooks.execute(tmp_path / "source.ipynb", tmp_path / "executed.ipynb", {})
    (output,) = nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells[0].outputs
    assert output.text == "  1/2 CE\n"
