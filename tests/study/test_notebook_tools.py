"""An executed notebook is the same whenever it runs."""

import nbformat

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
