"""Settings are chosen on validation images; the reported runs have them, and change in one place at a time."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_runs import FEW, outcome

from study.methods import METHODS
from study.runs import (
    Run,
    alternatives,
    as_reported,
    best_trial,
    change_settings,
    choose,
    reported_runs,
    table,
    trained_on,
    trial_runs,
    tuning,
    write_runs,
)
from study.training.loop import Batch
from supcl.losses import clce_loss, supcon_loss

CHOSEN = {
    "CE": {"label_smoothing": 0.1},
    "SupCon": {"temperature": 0.3, "form": "in"},
    "SCHaNe": {"weight": 0.7, "temperature": 0.4, "hardness": 2.0, "positives": "mean", "applied_to": "projection"},
    "CLCE": {"weight": 0.2, "temperature": 0.6, "hardness": 0.5, "positives": "sum", "applied_to": "embedding"},
}


# Trials


def trial(temperature, seed, accuracy, **changes):
    run = replace(FEW, variant="trial", seed=seed, evaluate_on="validation", settings={"temperature": temperature}, **changes)
    return outcome(run, {"accuracy": accuracy})


def test_a_parameter_may_be_a_number_or_a_list_of_them():
    assert alternatives(0.1) == [0.1] and alternatives([0.1, 0.3]) == [0.1, 0.3]


def test_trials_are_every_learning_rate_with_every_value_on_every_draw_judged_on_validation_images():
    given = {"shots": 5, "epochs": 3, "seeds": [1000, 1001], "weight": 0.9, "hardness": [0.5, 1.0]}
    trials = trial_runs(METHODS["SCHaNe"], learning_rate=[0.1, 0.2], **given)
    assert [(run.learning_rate, run.settings["hardness"], run.seed) for run in trials] == [
        *[(0.1, 0.5, 1000), (0.1, 0.5, 1001), (0.1, 1.0, 1000), (0.1, 1.0, 1001)],
        *[(0.2, 0.5, 1000), (0.2, 0.5, 1001), (0.2, 1.0, 1000), (0.2, 1.0, 1001)],
    ]
    assert {(run.variant, run.evaluate_on, run.shots, run.epochs) for run in trials} == {("trial", "validation", 5, 3)}
    assert {run.settings["weight"] for run in trials} == {0.9} and trials[2].objective.keywords["hardness"] == 1.0
    given["hardness"] = 0.5
    assert len(trial_runs(METHODS["SCHaNe"], learning_rate=0.1, **given)) == 2  # numbers are alternatives to nothing


def test_best_trial_has_the_best_mean_over_seeds_not_the_best_run():
    rows = [(0.1, 0, 90), (0.2, 0, 70), (0.3, 0, 71), (0.1, 1, 40), (0.2, 1, 80), (0.3, 1, 70)]
    assert best_trial([trial(*row) for row in rows]).settings == {"temperature": 0.2}


def test_trials_of_one_setting_and_two_learning_rates_are_told_apart():
    outcomes = [trial(0.1, seed, 10 * rate + seed, learning_rate=rate) for rate in (1.0, 2.0) for seed in (0, 1)]
    assert best_trial(outcomes).learning_rate == 2.0


def test_best_trial_refuses_runs_on_the_test_set():
    seen = trial(0.2, 0, 70)
    seen.run = replace(seen.run, evaluate_on="test")
    with pytest.raises(ValueError, match="never chosen on test images"):
        best_trial([trial(0.1, 0, 90), seen])


def test_with_one_setting_there_is_nothing_to_choose_and_nothing_is_run(setup):
    trials = [trial(0.1, seed, 0).run for seed in (1000, 1001)]
    assert choose(trials, setup) == (trials[0], [])


def test_with_two_settings_the_better_is_chosen(setup, monkeypatch):
    outcomes = [trial(temperature, 1000, accuracy) for temperature, accuracy in [(0.1, 60), (0.3, 70)]]
    trials = [outcome.run for outcome in outcomes]
    monkeypatch.setattr(tuning, "run_all", lambda runs, setup: outcomes)
    assert choose(trials, setup) == (trials[1], outcomes)


# Reported runs


def test_reported_runs_are_the_best_settings_on_the_test_set_per_shots_and_seed():
    best = replace(FEW, variant="trial", evaluate_on="validation", seed=7, learning_rate=0.5)
    reported = reported_runs(best, shots=[5, "full"], seeds=[4, 1], epochs=[10, 30])
    assert [(run.trained_on, run.shots, run.seed, run.epochs) for run in reported] == [
        ("few-shot", 5, 0, 10),
        ("few-shot", 5, 1, 10),
        ("few-shot", 5, 2, 10),
        ("few-shot", 5, 3, 10),
        ("full", None, 0, 30),
    ]
    assert {(run.variant, run.evaluate_on, run.learning_rate) for run in reported} == {("main", "test", 0.5)}
    assert [run.keep for run in reported] == [True, False, False, False, True]
    assert [run.curve for run in reported] == [True, True, True, False, True]


@pytest.fixture
def results(tmp_path, setup):
    """Tables of runs with a trial and reported runs at two numbers of shots."""
    for method, own in CHOSEN.items():
        fields = METHODS[method].fields(**own) | {"classifier": "probe"}
        runs = [
            Run(variant=variant, seed=seed, learning_rate=rate, epochs=epochs, **trained_on(shots), **fields)
            for variant, shots, seed, rate, epochs in [
                *[("trial", 5, 1000, 0.9, 1), ("main", "full", 0, 0.1, 2), ("main", 20, 0, 0.1, 3), ("main", 5, 0, 0.1, 8)]
            ]
        ]
        write_runs(tmp_path / METHODS[method].key, table([outcome(run, {"accuracy": 70.0}) for run in runs], setup))
    return tmp_path


@pytest.fixture
def batch():
    torch.manual_seed(0)
    labels = torch.arange(12) % 4
    outputs = SimpleNamespace(embedding=torch.randn(12, 6), projection=torch.randn(12, 3), logits=torch.randn(12, 4))
    return outputs, Batch(torch.empty(12), labels, torch.empty(12, 4))


@pytest.mark.parametrize("method", CHOSEN)
def test_reported_run_has_the_chosen_settings_at_the_fewest_shots(results, method):
    run = as_reported(results, method)
    assert (run.method, run.trained_on, run.shots, run.seed) == (method, "few-shot", 5, 0)
    assert (run.learning_rate, run.epochs, run.classifier) == (0.1, 8, "probe")
    assert run.settings == CHOSEN[method] and run.evaluate_on == "test"


def test_a_reported_run_on_all_images_alone_is_found(tmp_path, setup):
    run = Run(variant="main", seed=0, learning_rate=0.1, epochs=2, **trained_on("full"), **METHODS["CE"].fields())
    write_runs(tmp_path / "cross_entropy", table([outcome(run, {"accuracy": 70.0})], setup))
    assert as_reported(tmp_path, "CE").trained_on == "full"


def test_objectives_are_the_losses_with_these_settings(results, batch):
    outputs, rows = batch
    by = {method: as_reported(results, method).objective(outputs, rows) for method in CHOSEN}
    log_p = outputs.logits.log_softmax(1)
    own = log_p[torch.arange(12), rows.labels]
    torch.testing.assert_close(by["CE"], -(0.9 * own + 0.1 * log_p.mean(1)).mean())
    torch.testing.assert_close(by["SupCon"], supcon_loss(outputs.projection, rows.labels, temperature=0.3, form="in"))
    for method, embeddings in [("SCHaNe", outputs.projection), ("CLCE", outputs.embedding)]:
        settings = {name: value for name, value in CHOSEN[method].items() if name != "applied_to"}
        torch.testing.assert_close(by[method], clce_loss(outputs.logits, embeddings, rows.labels, **settings))


def test_changed_settings_reach_the_objective_and_the_record(results, batch):
    run = change_settings(as_reported(results, "SupCon"), temperature=1.0)
    assert run.settings == {"temperature": 1.0, "form": "in"}
    outputs, rows = batch
    torch.testing.assert_close(
        run.objective(outputs, rows), supcon_loss(outputs.projection, rows.labels, temperature=1.0, form="in")
    )


def test_an_unknown_setting_is_refused_by_name(results):
    with pytest.raises(TypeError, match="SupCon has no setting hardness; expected temperature, form"):
        change_settings(as_reported(results, "SupCon"), hardness=1.0)


def test_a_missing_table_says_which_notebook_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="runs.csv is missing. The notebook clce writes it"):
        as_reported(tmp_path, "CLCE")


def test_a_method_that_needs_a_teacher_is_refused(tmp_path):
    with pytest.raises(ValueError, match="GenSCL needs a teacher of every draw"):
        as_reported(tmp_path, "GenSCL")
