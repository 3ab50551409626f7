"""Settings are chosen on validation images; the runs that tried them are the reported ones, and change in one place at a time."""

import json
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
    change_settings,
    choose,
    random_search,
    reported,
    table,
    trained_on,
    trial_runs,
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

SHARED = {"learning_rate": [0.1, 0.2], "weight_decay": [0.01, 0.05], "crop": [0.25, 0.5, 0.75]}


def test_a_parameter_may_be_a_number_or_a_list_of_them():
    assert alternatives(0.1) == [0.1] and alternatives([0.1, 0.3]) == [0.1, 0.3]


def test_a_random_search_tries_each_setting_once_until_there_are_no_more():
    settings = random_search(SHARED, {"temperature": [0.1, 0.3], "form": "out"}, trials=100)
    assert len(settings) == len({json.dumps(each, sort_keys=True) for each in settings}) == 24
    assert all(each["form"] == "out" for each in settings) and len({each["temperature"] for each in settings[:2]}) == 2
    assert random_search(SHARED, {"temperature": [0.1, 0.3], "form": "out"}, trials=5) == settings[:5]
    assert random_search({"learning_rate": 0.1}, {"temperature": 0.2}, trials=5) == [{"learning_rate": 0.1, "temperature": 0.2}]


def test_all_methods_meet_the_shared_values_in_the_same_order():
    orders = [
        [[each[name] for name in SHARED] for each in random_search(SHARED, own, trials=7)]
        for own in ({"temperature": [0.1, 0.3]}, {"weight": [0.5, 0.7, 0.9], "hardness": 1.0})
    ]
    assert orders[0] == orders[1] and len({tuple(each) for each in orders[0]}) == 7


def test_every_setting_runs_on_every_draw_and_is_tested():
    given = {"shots": [5, "full"], "seeds": [3, 2], "epochs": [8, 4], "trials": [4, 2]}
    runs = trial_runs(METHODS["SCHaNe"], SHARED, {"hardness": [0.5, 1.0], "weight": 0.7}, **given)
    assert [(run.trained_on, run.shots, run.seed, run.epochs) for run in runs] == [
        *[("few-shot", 5, seed, 8) for _ in range(4) for seed in range(3)],
        *[("full", None, seed, 4) for _ in range(2) for seed in range(2)],
    ]
    assert {(run.variant, run.evaluate_on) for run in runs} == {("trial", "test")}
    searched = random_search(SHARED, {"hardness": [0.5, 1.0], "weight": 0.7}, trials=4)
    for run, settings in zip(runs[:12:3], searched, strict=True):
        assert {name: getattr(run, name) for name in SHARED} == {name: settings[name] for name in SHARED}
        assert run.settings["hardness"] == run.objective.keywords["hardness"] == settings["hardness"]
        assert run.settings["weight"] == 0.7 and "crop" not in run.settings
    assert all(run.keep == (run.seed == 0) for run in runs)


def test_a_method_that_needs_a_teacher_gets_that_of_its_shots_and_draw():
    given = {"shots": [5, 20], "seeds": [2, 1], "epochs": [1, 1], "trials": [1, 1]}
    runs = trial_runs(METHODS["GenSCL"], SHARED, {"temperature": 0.1}, **given, teacher=lambda shots, seed: (shots, seed))
    assert [run.objective.keywords["teacher"] for run in runs] == [(5, 0), (5, 1), (20, 0)]
    assert all("teacher" not in run.settings for run in runs)


# The choice


def trial(temperature, seed, accuracy, **changes):
    """Its test accuracy says the opposite of its validation accuracy."""
    run = replace(FEW, **({"variant": "trial", "seed": seed, "settings": {"temperature": temperature}} | changes))
    return outcome(run, {"validation_accuracy": accuracy, "accuracy": 100 - accuracy, "probe_accuracy": 100 - accuracy})


def test_the_setting_with_the_best_mean_over_draws_is_chosen_not_the_best_run_and_test_images_have_no_say():
    rows = [(0.1, 0, 90), (0.2, 0, 70), (0.3, 0, 71), (0.1, 1, 40), (0.2, 1, 80), (0.3, 1, 70)]
    outcomes = [trial(*row) for row in rows]
    assert choose(outcomes) == {5: outcomes[1].run}


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "crop"])
def test_settings_that_differ_only_in_what_methods_share_are_told_apart(name):
    outcomes = [trial(0.1, seed, 10 * value + seed, **{name: value}) for value in (1.0, 2.0) for seed in (0, 1)]
    assert getattr(choose(outcomes)[5], name) == 2.0


def test_each_number_of_shots_has_a_choice_of_its_own():
    whole = {"trained_on": "full", "shots": None}
    rows = [(0.1, 60, {}), (0.3, 70, {}), (0.1, 80, whole), (0.3, 75, whole)]
    outcomes = [trial(temperature, 0, accuracy, **changes) for temperature, accuracy, changes in rows]
    assert choose(outcomes) == {5: outcomes[1].run, "full": outcomes[2].run}
    assert [o.run.settings["temperature"] for o in reported(outcomes)] == [0.3, 0.1]


def test_the_reported_runs_are_those_of_the_chosen_setting_and_are_not_run_again():
    outcomes = [trial(temperature, seed, 10 * temperature + seed) for temperature in (0.1, 0.3, 0.2) for seed in (0, 1)]
    main = reported(outcomes)
    assert [(o.run.variant, o.run.seed, o.run.settings["temperature"]) for o in main] == [("main", 0, 0.3), ("main", 1, 0.3)]
    assert [o.metrics for o in main] == [o.metrics for o in outcomes[2:4]]
    assert {o.run.variant for o in outcomes} == {"trial"}


# Runs made from reported ones


@pytest.fixture
def results(tmp_path, setup):
    """Tables of runs with a trial and reported runs at two numbers of shots."""
    for method, own in CHOSEN.items():
        fields = METHODS[method].fields(**own) | {"classifier": "probe"}
        runs = [
            Run(variant=variant, seed=seed, learning_rate=rate, crop=0.25, epochs=epochs, **trained_on(shots), **fields)
            for variant, shots, seed, rate, epochs in [
                *[("trial", 5, 0, 0.9, 1), ("main", "full", 0, 0.1, 2), ("main", 20, 0, 0.1, 3), ("main", 5, 0, 0.1, 8)]
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
    assert (run.weight_decay, run.crop) == (0.01, 0.25)
    assert run.settings == CHOSEN[method] and run.evaluate_on == "test"


def test_a_reported_run_on_all_images_alone_is_found(tmp_path, setup):
    run = Run(variant="main", seed=0, learning_rate=0.1, crop=0.5, epochs=2, **trained_on("full"), **METHODS["CE"].fields())
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
