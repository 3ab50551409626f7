"""From cells to the two tables that others read: how accurate everything is, floors included, and a verdict on every claim."""

import numpy as np
import pandas as pd

from study.analysis import decisions
from study.analysis.cells import ARMS, arms_of, read_arm, with_labels
from study.analysis.inference import Arm, nested_bootstrap
from study.methods import METHODS
from study.registration import refuse_unregistered
from study.tables import interval

READ_OUTS = {"probe_accuracy": "linear probe", "accuracy": "own classifier", "neighbour_accuracy": "nearest neighbours"}
ACCURACY = ["data_set", "regime", "labels", "method", "read_out", "mean", "low", "high", "runs"]


def accuracy_table(results, cells, protocol):
    """A row for each method of each cell by each read-out, and for each floor, with ACCURACY as columns; accuracies in percent.

    By the linear probe a mean is cross-fitted, and its interval covers draws, the choice of settings and the test images; by the
    other read-outs, and for floors, it is the mean over draws with its t-interval, at the settings that the probe chose.
    """
    rows = []
    for cell in cells:
        regime, labels = cell.split("/")
        identity = [results.dataset, regime, labels]
        for name, method in METHODS.items():
            if not has_runs(results, cell, method):
                continue
            arms, seeds = arms_of(results, cell, {name: 1.0})
            effect = nested_bootstrap(arms, protocol["tuning_draws"])
            runs = arms[0].validation.size
            rows.append([*identity, name, READ_OUTS["probe_accuracy"], effect.estimate, *effect.interval(), runs])
            for metric in ("accuracy", "neighbour_accuracy"):
                values = _reported(results, cell, method, metric)
                if metric == "neighbour_accuracy" or method.classifier == "own":
                    rows.append([*identity, name, READ_OUTS[metric], *interval(values), len(values)])
        floors = results.floors(labels)
        rows += [[*identity, name, "as it is", *interval(100 * right.mean(1)), len(right)] for name, right in floors.items()]
    return pd.DataFrame(rows, columns=ACCURACY)


def differences_table(results, cells, protocol):
    """A row for each method but cross-entropy in each cell: its difference to tuned cross-entropy by the linear probe, in points,
    with its interval, standard error and p; beside it the accuracy of cross-entropy, and the best floor, in percent."""
    rows = []
    for cell in cells:
        floors = {name: 100 * right.mean() for name, right in results.floors(cell.split("/")[1]).items()}
        best = max(floors, key=floors.get)
        (reference,), _ = arms_of(results, cell, {"CE": 1.0})
        beside = {
            "ce": nested_bootstrap([reference], protocol["tuning_draws"]).estimate,
            "floor": best,
            "floor_accuracy": floors[best],
        }
        for name, method in METHODS.items():
            if name != "CE" and has_runs(results, cell, method):
                arms, _ = arms_of(results, cell, {name: 1.0, "CE": -1.0})
                effect = nested_bootstrap(arms, protocol["tuning_draws"])
                low, high = effect.interval()
                row = {"data_set": results.dataset, "cell": cell, "method": name, "effect": effect.estimate}
                rows.append(row | {"low": low, "high": high, "error": effect.error, "p": effect.p()} | beside)
    return pd.DataFrame(rows)


def claims_table(results, claims, protocol):
    """A row for each claim (study.registration.Claim) with its effect in points, its interval and its verdict: see
    decisions.verdict, and decisions.judge for `alone`. `floor` is the best floor of the cell, and `testable` says whether tuned
    cross-entropy clears it by more than its interval.

    Raises ValueError if a claim is younger than the runs that judge it, or an arm has no runs in the claim's cell.
    """
    judges = {claim.id: sorted({source.key for arm in claim.coefficients() for source in ARMS[arm]}) for claim in claims}
    registered = {key: results.registered(key) for key in sorted(set().union(*judges.values()))}
    refuse_unregistered(claims, registered, judges)
    testable = {cell: clears_floor(results, cell, protocol) for cell in dict.fromkeys(claim.cell for claim in claims)}
    rows = []
    for claim in claims:
        arms, seeds = arms_of(results, claim.cell, claim.coefficients())
        effect = nested_bootstrap(arms, protocol["tuning_draws"])
        low, high = effect.interval()
        floor, clears = testable[claim.cell]
        rows.append({
            "id": claim.id, "paper": claim.paper, "claim": claim.claim, "data_set": results.dataset, "cell": claim.cell,
            "family": claim.family, "reported": claim.reported, "margin": claim.margin, "estimate": effect.estimate,
            "low": low, "high": high, "draws": len(seeds), "settings": "/".join(str(len(arm.validation)) for arm in arms),
            "p": effect.p(), "p_equivalence": effect.p_equivalence(claim.margin),
            "p_smaller": 1.0 if claim.reported is None else effect.p_below(claim.reported), "floor": floor, "testable": clears,
        })  # fmt: skip
    return decisions.judge(pd.DataFrame(rows)).rename(columns={"estimate": "effect"})


def headline(differences, claims):
    """What `dvc metrics show` puts on one line: "CE 20", the accuracy of tuned cross-entropy with 20 labels per class, for every
    cell, and how many claims have each verdict. From differences_table and claims_table."""
    accuracies = {f"CE {row.cell.split('/')[1]}": round(row.ce, 2) for row in differences.itertuples()}
    return accuracies | {verdict: int((claims.verdict == verdict).sum()) for verdict in decisions.VERDICTS}


def clears_floor(results, cell, protocol):
    """(name of the cell's best floor, whether the interval of tuned cross-entropy's effect against it lies above 0)."""
    floors = results.floors(cell.split("/")[1])
    best = max(floors, key=lambda name: floors[name].mean())
    seeds, validation, correct = read_arm(results, cell, "CE")
    draws = np.resize(np.arange(len(floors[best])), max(seeds) + 1)  # all images are one draw, which every seed meets
    floor = Arm(np.zeros((1, len(seeds))), floors[best][draws[seeds]][None], -1.0)
    return best, bool(nested_bootstrap([Arm(validation, correct), floor], protocol["tuning_draws"]).interval()[0] > 0)


def has_runs(results, cell, method):
    regime, labels = cell.split("/")
    runs = with_labels(results.runs(method.key), labels)
    return bool(((runs.regime == regime) & (runs.variant == "trial")).any())


def _reported(results, cell, method, metric):
    """(R,) values of a metric of the method's reported runs in a cell."""
    regime, labels = cell.split("/")
    runs = with_labels(results.runs(method.key), labels)
    return runs.value[(runs.regime == regime) & (runs.variant == "main") & (runs.metric == metric)].to_numpy()
