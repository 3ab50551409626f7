"""Which settings are tried, which of them is chosen on validation images, and which runs are then reported."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np

from study.methods import METHODS
from study.paths import existing
from study.runs.results import read_runs
from study.runs.run import Run, trained_on

OF_RUN = ("learning_rate", "weight_decay", "crop")  # settings that all methods share: fields of a Run


def alternatives(value):
    """A parameter's values to choose from: a list as it is, a number as the only one."""
    return value if isinstance(value, list) else [value]


def random_search(shared, own, trials, seed=0):
    """The settings to try, [{name: value}], at most `trials` of them and none twice.

    shared, own  {name: value or list of values}, of all methods and of one. All methods meet the shared values in the same random
                 order; a method's own are combined with them in an order of theirs.
    """
    shared, own = (_shuffled(values, seed) for values in (shared, own))
    cycle, count = math.lcm(len(shared), len(own)), min(trials, len(shared) * len(own))
    return [shared[j % len(shared)] | own[(j + j // cycle) % len(own)] for j in range(count)]


def _shuffled(values, seed):
    """Every combination of one value for each name, in random order."""
    combined = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*map(alternatives, values.values()))]
    return [combined[i] for i in np.random.default_rng(seed).permutation(len(combined))]


def trial_runs(method, shared, own, *, shots, seeds, epochs, trials, teacher=None):
    """The runs of a method (a methods.Method) from which settings are chosen and results are reported: every setting of a random
    search on every draw, so that what the choice of settings adds to an interval can be seen.

    shared, own                   see random_search; shared has the names OF_RUN.
    shots, seeds, epochs, trials  lists of one length: images per class; draws, from seed 0 on; epochs; settings tried.
    teacher                       (shots, seed) -> the `teacher` of a method that needs one.
    """
    runs = []
    for n, draws, passes, count in zip(shots, seeds, epochs, trials, strict=True):
        for settings, seed in itertools.product(random_search(shared, own, count), range(draws)):
            of_run = {name: settings[name] for name in OF_RUN}
            of_method = {name: value for name, value in settings.items() if name not in OF_RUN}
            fields = method.fields(**of_method | ({"teacher": teacher(n, seed)} if teacher else {}))
            first = {"curve": seed == 0, "keep": seed == 0}
            runs.append(Run(variant="trial", seed=seed, epochs=passes, **trained_on(n), **first, **of_run, **fields))
    return runs


def choose(outcomes):
    """{shots: the first run of the setting with the highest mean validation accuracy}, of the outcomes of trial_runs; the key is
    "full" for runs on all images. Test images have no say."""
    scores = {}
    for outcome in outcomes:
        of_shots = scores.setdefault(outcome.run.shots or "full", {})
        of_shots.setdefault(_choice(outcome.run), []).append((outcome.metrics["validation_accuracy"], outcome.run))
    best = {n: max(each.values(), key=lambda rows: np.mean([score for score, _ in rows])) for n, each in scores.items()}
    return {shots: rows[0][1] for shots, rows in best.items()}


def reported(outcomes):
    """The outcomes of the chosen settings, with the variant "main"."""
    best = {shots: _choice(run) for shots, run in choose(outcomes).items()}
    chosen = [outcome for outcome in outcomes if _choice(outcome.run) == best[outcome.run.shots or "full"]]
    return [replace(outcome, run=replace(outcome.run, variant="main")) for outcome in chosen]


def _choice(run):
    """What trials differ in, but for their seeds."""
    return json.dumps([getattr(run, name) for name in OF_RUN] + [run.settings], sort_keys=True)


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
    of_run = {name: record[name] for name in (*OF_RUN, "epochs")}
    images = trained_on("full" if row.trained_on == "full" else int(row.shots))
    fields = method.fields(**{name: record[name] for name in method.settings}) | {"classifier": record["classifier"]}
    return Run(variant="main", seed=0, **images, **of_run, **fields)


def change_settings(run, **changes):
    """The run with some settings of its objective changed, in the objective and in the record."""
    fields = METHODS[run.method].fields(**(run.settings | changes))
    return replace(run, objective=fields["objective"], settings=fields["settings"])
