"""Which runs count: trials on validation images, the best of them, and the runs that are reported with its settings."""

import itertools
import json
from dataclasses import replace

import numpy as np

from study.methods import METHODS
from study.paths import existing
from study.runs.execution import run_all
from study.runs.results import read_runs
from study.runs.run import Run, trained_on


def alternatives(value):
    """A parameter's values to choose from: a list as it is, a number as the only one."""
    return value if isinstance(value, list) else [value]


def trial_runs(method, *, learning_rate, shots, epochs, seeds, **settings):
    """The runs by which settings of a methods.Method are chosen: on every seed's draw, judged on validation images.

    What is given as a list is tried, each value with each of the others; seeds is always a list.
    """
    tried = itertools.product(alternatives(learning_rate), *map(alternatives, settings.values()), seeds)
    return [
        Run(
            variant="trial", seed=seed, learning_rate=rate, epochs=epochs, evaluate_on="validation", **trained_on(shots),
            **method.fields(**dict(zip(settings, values, strict=True))),
        )
        for rate, *values, seed in tried
    ]  # fmt: skip


def choose(trials, setup):
    """(the best of the trials, their outcomes). Where all have the same settings there is nothing to choose: the first is
    returned and none is run."""
    if len({_choice(trial) for trial in trials}) == 1:
        return trials[0], []
    outcomes = run_all(trials, setup)
    return best_trial(outcomes), outcomes


def best_trial(outcomes):
    """The run whose settings have the highest mean validation accuracy over their seeds. Refuses runs that saw the test set."""
    if any(outcome.run.evaluate_on != "validation" for outcome in outcomes):
        raise ValueError("best_trial takes runs with evaluate_on='validation': settings are never chosen on test images.")
    scores = {}
    for outcome in outcomes:
        scores.setdefault(_choice(outcome.run), []).append((outcome.metrics["accuracy"], outcome.run))
    best = max(scores.values(), key=lambda trials: np.mean([accuracy for accuracy, _ in trials]))
    return best[0][1]


def _choice(run):
    """What trials differ in, but for their seeds."""
    return run.learning_rate, json.dumps(run.settings, sort_keys=True)


def reported_runs(best, shots, seeds, epochs):
    """The runs that count: best's settings on the test set, for each number of shots its number of seeds and epochs, from
    seed 0 on. Seed 0 keeps its embeddings; the first three record a validation curve."""
    return [
        replace(best, variant="main", seed=seed, epochs=e, evaluate_on="test", curve=seed < 3, keep=seed == 0, **trained_on(n))
        for n, count, e in zip(shots, seeds, epochs, strict=True)
        for seed in range(count)
    ]


def as_reported(results, method):
    """The reported Run of a method, seed 0, at its smallest number of shots (all images count as more than any number), with the
    settings that its notebook chose. Others are made from it: replace(as_reported(results, "CE"), variant="noise", seed=3, ...);
    change_settings changes settings of the objective itself. Raises ValueError for a method that needs a teacher."""
    method = METHODS[method]
    if method.needs_teacher:
        raise ValueError(f"{method.name} needs a teacher of every draw, which a table of runs does not hold; make its runs anew.")
    runs = read_runs(existing(f"{results}/{method.key}/runs.csv", method.key))
    reported = runs[(runs.method == method.name) & (runs.variant == "main") & (runs.seed == 0)]
    row = reported.sort_values("shots", kind="stable").iloc[0]  # blank shots come last
    record = json.loads(row.settings)
    of_run = {name: record[name] for name in ("learning_rate", "epochs")}
    images = trained_on("full" if row.trained_on == "full" else int(row.shots))
    fields = method.fields(**{name: record[name] for name in method.settings}) | {"classifier": record["classifier"]}
    return Run(variant="main", seed=0, **images, **of_run, **fields)


def change_settings(run, **changes):
    """The run with some settings of its objective changed, in the objective and in the record."""
    fields = METHODS[run.method].fields(**(run.settings | changes))
    return replace(run, objective=fields["objective"], settings=fields["settings"])
