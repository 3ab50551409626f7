"""The runs of a cell as the arrays that study.analysis.inference takes. A cell is a regime and a number of labels, such as
"fine-tuning/20" or "scratch/full"; an arm is a method in it, or a variant of one, with the settings among which it is tuned."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from study.analysis.inference import Arm
from study.methods import METHODS
from study.paths import existing
from study.runs.results import read_runs
from study.tables import with_settings


@dataclass(frozen=True)
class Source:
    """Runs that belong to an arm: those of a variant in the notebook called key, with these settings. A setting may be a function
    of its column that says which rows count."""

    key: str
    variant: str = "trial"
    settings: dict = field(default_factory=dict)


def _crossed(place, hard, weight=0.9):
    """Cells of 04's crossed design: where the loss acts, whether its negatives are weighted, its weight beside cross-entropy."""
    hardness = (lambda column: column > 0) if hard else 0.0
    return (Source("schane", "crossed", {"applied_to": place, "hardness": hardness, "weight": weight}),)


ARMS = {method.name: (Source(method.key),) for method in METHODS.values()} | {  # as notebooks/claims.yaml describes them
    "CE with GenSCL's tricks": (Source("cross_entropy"), Source("cross_entropy", "MixUp-CutMix, teacher")),
    "SupCon with L_in": (Source("supcon", "form in"),),
    "SupCon with one positive": (Source("supcon", "sweep positives", {"positives": 1}),),
    "SupCon at temperature 0.1": (Source("supcon", "sweep temperature", {"temperature": 0.1}),),
    "SupCon at temperature 0.5": (Source("supcon", "sweep temperature", {"temperature": 0.5}),),
    "hard negatives on the projection": _crossed("projection", hard=True),
    "even negatives on the projection": _crossed("projection", hard=False),
    "hard negatives on the embedding": _crossed("embedding", hard=True),
    "even negatives on the embedding": _crossed("embedding", hard=False),
    "hard negatives on the projection, alone": _crossed("projection", hard=True, weight=1.0),
    "GenSCL with mixing": (Source("genscl", "mixing"),),
    "GenSCL with a shuffled teacher": (Source("genscl", "shuffled teacher"),),
}


@dataclass(frozen=True)
class Results:
    """What the notebooks left in the folder `results`, as far as cells need it."""

    folder: Path
    dataset: str

    @cached_property
    def labels(self):
        """(M,) of the test images."""
        with np.load(existing(self.folder / "data" / "test.npz", "data")) as file:
            return file["labels"]

    def runs(self, key):
        runs = with_settings(read_runs(existing(self.folder / key / "runs.csv", key)))
        return runs[(runs.dataset == self.dataset) & (runs.trained_on != "features")]

    def floors(self, shots):
        """{name: (draws, M) whether a floor is right on each test image}, for a number of images per class or "full"."""
        arrays = self.predictions("data")
        right = arrays[f"predictions_floor_{shots}"] == self.labels  # (floors, draws, M)
        return dict(zip(arrays["floors"].tolist(), right, strict=True))

    def registered(self, key):
        """{id: digest} of the claims that were written down before the runs of a notebook."""
        return json.loads(existing(self.folder / key / "registered.json", key).read_text())

    def predictions(self, key):
        with np.load(existing(self.folder / key / "predictions.npz", key)) as file:
            return dict(file)


def read_arm(results, cell, name):
    """(seeds, validation (S, R), correct (S, R, M)) of an arm in a cell: accuracy on validation images and whether the linear
    probe is right on each test image, both as shares of 1, of its S settings on the R draws that all of them ran on.

    Raises ValueError where the arm has no runs in the cell.
    """
    parts = [part for source in ARMS[name] for part in _read_source(results, cell, source)]
    if not parts:
        raise ValueError(f"{name} has no runs in the cell {cell}; run the notebook {ARMS[name][0].key} with such.")
    seeds = sorted(set.intersection(*(set(part.index) for part, _ in parts)))
    validation = np.stack([part.loc[seeds] for part, _ in parts])
    predictions = np.stack([of_part[[part.index.get_loc(seed) for seed in seeds]] for part, of_part in parts])
    return seeds, validation / 100, predictions == results.labels


def _read_source(results, cell, source):
    """For each setting of a source in a cell: (validation accuracy by seed, predictions (R, M))."""
    regime, shots = cell.split("/")
    runs = results.runs(source.key)
    rows = runs[(runs.variant == source.variant) & (runs.metric == "validation_accuracy")]
    rows = with_labels(rows, shots).reset_index(drop=True)
    rows = rows[rows.regime == regime]
    for setting, value in source.settings.items():
        rows = rows[value(rows[setting]) if callable(value) else rows[setting] == value]
    if rows.empty:
        return []
    predictions = results.predictions(source.key)[f"{source.variant}_{shots}"]
    names = [name for name in rows.columns if name not in ("seed", "value", "seconds", "epoch")]
    groups = rows.astype({name: str for name in names}).groupby(names, sort=False, dropna=False)
    return [(pd.Series(group.value.to_numpy(), group.seed), predictions[group.index]) for _, group in groups]


def with_labels(runs, labels):
    """The runs on so many images per class, or "full", on all images."""
    return runs[runs.shots.isna() if labels == "full" else runs.shots == int(labels)]


def arms_of(results, cell, coefficients):
    """inference.Arms, a list, of {name: coefficient} on the draws that all of them ran on, and these draws' seeds."""
    read = {name: read_arm(results, cell, name) for name in coefficients}
    seeds = sorted(set.intersection(*(set(of_arm) for of_arm, _, _ in read.values())))
    arms = []
    for name, (own, validation, correct) in read.items():
        chosen = [own.index(seed) for seed in seeds]
        arms.append(Arm(validation[:, chosen], correct[:, chosen], coefficients[name]))
    return arms, seeds
