"""What notebooks share: how they are run, sentences from differences, plain lines."""

import nbformat
import pandas as pd

from study import figures, notebooks, tables


def test_differences_are_counted_by_their_intervals():
    differences = pd.DataFrame({"low": [0.1, -2.0, -1.0, float("nan")], "high": [1.0, -0.1, 1.0, float("nan")]})
    words = tables.tally_in_words(differences, "mixtures")
    assert words == "of 4 mixtures, 1 are higher, 1 are lower and 2 cannot be told apart"


def test_lines_are_named_at_their_ends():
    fig = figures.lines([1, 2, 4], {"rising": [0, 1, 2], "falling": [2, 1, 0]}, "x", "y", log=True)
    assert {text.get_text() for text in fig.axes[0].texts} == {"rising", "falling"}


def test_an_executed_notebook_does_not_tell_when_its_lines_were_printed(tmp_path):
    def executed(pause):
        cell = nbformat.v4.new_code_cell(f"import time\nfor i in range(2):\n    print(i, flush=True)\n    time.sleep({pause})")
        cell.metadata.tags = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=[cell])
        nbformat.write(notebook, tmp_path / "source.ipynb")
        notebooks.execute(tmp_path / "source.ipynb", tmp_path / "executed.ipynb", {})
        return nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells[0].outputs

    assert executed(0.5) == executed(0) == [nbformat.v4.new_output("stream", text="0\n1\n")]
