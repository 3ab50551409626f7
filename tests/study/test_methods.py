"""A method as reported is what its notebook chose, and changes in one place at a time."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from study import methods
from study import runs as experiment
from study.training.loop import Batch
from supcl.losses import clce_loss, supcon_loss

CHOSEN = {
    "CE": {"label_smoothing": 0.1},
    "SupCon": {"temperature": 0.3, "form": "in"},
    "SCHaNe": {"weight": 0.7, "temperature": 0.4, "hardness": 2.0, "positives": "mean", "applied_to": "projection"},
    "CLCE": {"weight": 0.2, "temperature": 0.6, "hardness": 0.5, "positives": "sum", "applied_to": "embedding"},
}


@pytest.fixture
def results(tmp_path):
    """Tables of runs as experiment.table writes them: a trial and reported runs at two numbers of shots."""
    for method, own in CHOSEN.items():
        rows = []
        for variant, shots, seed, rate, epochs in [("trial", 5, 1000, 0.9, 1), ("main", 20, 0, 0.1, 3), ("main", 5, 0, 0.1, 8)]:
            settings = own | {"learning_rate": rate, "epochs": epochs, "classifier": "probe", "image_size": 32}
            rows.append([method, variant, "digits", shots, seed, "accuracy", 70.0, 1.0, json.dumps(settings)])
        path = tmp_path / methods.STAGES[method] / "runs.csv"
        path.parent.mkdir()
        pd.DataFrame(rows, columns=experiment.COLUMNS).to_csv(path, index=False)
    return tmp_path


@pytest.fixture
def batch():
    torch.manual_seed(0)
    labels = torch.arange(12) % 4
    outputs = SimpleNamespace(embedding=torch.randn(12, 6), projection=torch.randn(12, 3), logits=torch.randn(12, 4))
    return outputs, Batch(torch.empty(12), labels, torch.empty(12, 4))


@pytest.mark.parametrize("method", methods.STAGES)
def test_reported_run_has_the_chosen_settings_at_the_fewest_shots(results, method):
    run = methods.as_reported(results, method)
    assert (run.method, run.shots, run.seed, run.learning_rate, run.epochs, run.classifier) == (method, 5, 0, 0.1, 8, "probe")
    assert run.settings == CHOSEN[method] and run.evaluate_on == "test"


def test_objectives_are_the_losses_with_these_settings(results, batch):
    outputs, rows = batch
    by = {method: methods.as_reported(results, method).objective(outputs, rows) for method in methods.STAGES}
    log_p = outputs.logits.log_softmax(1)
    own = log_p[torch.arange(12), rows.labels]
    torch.testing.assert_close(by["CE"], -(0.9 * own + 0.1 * log_p.mean(1)).mean())
    torch.testing.assert_close(by["SupCon"], supcon_loss(outputs.projection, rows.labels, temperature=0.3, form="in"))
    for method, embeddings in [("SCHaNe", outputs.projection), ("CLCE", outputs.embedding)]:
        settings = {name: value for name, value in CHOSEN[method].items() if name != "applied_to"}
        torch.testing.assert_close(by[method], clce_loss(outputs.logits, embeddings, rows.labels, **settings))


def test_changed_settings_reach_the_objective_and_the_record(results, batch):
    run = methods.with_settings(methods.as_reported(results, "SupCon"), temperature=1.0)
    assert run.settings == {"temperature": 1.0, "form": "in"}
    outputs, rows = batch
    torch.testing.assert_close(
        run.objective(outputs, rows), supcon_loss(outputs.projection, rows.labels, temperature=1.0, form="in")
    )


def test_an_unknown_setting_is_refused_by_name(results):
    with pytest.raises(TypeError, match="SupCon has no setting hardness; expected temperature, form"):
        methods.with_settings(methods.as_reported(results, "SupCon"), hardness=1.0)


def test_a_missing_table_says_which_notebook_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="clce/runs.csv is missing. clce writes it"):
        methods.as_reported(tmp_path, "CLCE")
