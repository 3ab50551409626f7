"""What notebooks share: how they are run, teachers from a file."""

import nbformat
import pytest
import torch

from study import notebooks
from study.runs import Setup, load_model, new_model

SETUP = Setup("shared", "digits", "tf_efficientnet_lite0", "none", image_size=32, batch_size=4, weight_decay=0.0)


def test_a_loaded_model_is_the_saved_one_in_eval_mode(tmp_path):
    model = new_model(SETUP).eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    images = torch.rand(2, 1, 32, 32)
    loaded = load_model(SETUP, str(tmp_path / "model.pt"))
    assert not loaded.training
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    torch.save(new_model(SETUP).state_dict(), tmp_path / "model.pt")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_model(SETUP, str(tmp_path / "model.pt"))
    assert torch.equal(torch.rand(3), expected)


def test_a_missing_model_names_the_notebook_that_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="cross_entropy"):
        load_model(SETUP, str(tmp_path / "none.pt"))


def test_an_executed_notebook_does_not_tell_when_its_lines_were_printed(tmp_path):
    def executed(pause):
        cell = nbformat.v4.new_code_cell(f"import time\nfor i in range(2):\n    print(i, flush=True)\n    time.sleep({pause})")
        cell.metadata.tags = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=[cell])
        nbformat.write(notebook, tmp_path / "source.ipynb")
        notebooks.execute(tmp_path / "source.ipynb", tmp_path / "executed.ipynb", {})
        return nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells[0].outputs

    assert executed(0.5) == executed(0) == [nbformat.v4.new_output("stream", text="0\n1\n")]
