"""Made-up runs of every method, in the form of the long table."""

import json

import numpy as np
import pandas as pd

from study.methods import METHODS

GAIN = {name: k / 10 for k, name in enumerate(METHODS)} | {"CE": 0, "SupCon": -1, "SCHaNe": 2, "CLCE": 1}
METRICS = ["accuracy", "within_class_cosine", "between_class_cosine", "isotropy", "simplex_distance"]
COLUMNS = [
    "method", "variant", "regime", "trained_on", "dataset", "shots", "seed", "epoch", "metric", "value", "seconds", "settings",
]  # fmt: skip
SETTINGS = {
    "encoder": "small", "weights": "none", "image_size": 8, "batch_size": 50, "weight_decay": 0.1, "epochs": 5,
    "evaluate_on": "test",
}  # fmt: skip


def rows(method, variant="main", shots=(20, 100), seeds=3, gain=0.0, **settings):
    """Rows of one method in its own notebook, fine-tuned: accuracy, by either read-out, 70 + seed + gain + shots / 10, on
    features (shots None) 80; seconds 2 + gain."""
    text = json.dumps(SETTINGS | settings)
    lines = [
        [method, variant, "fine-tuning", "few-shot" if n else "features", "digits", n, seed, None, metric,
         70 + seed + gain + n / 10 if n else 80, 2 + gain, text, METHODS[method].key]
        for n in shots
        for seed in range(seeds)
        for metric in (*METRICS, "probe_accuracy")
    ]  # fmt: skip
    table = pd.DataFrame(lines, columns=[*COLUMNS, "notebook"])
    return table.astype({"shots": "Int64", "epoch": "Int64"})


def reported():
    """The reported runs of every method."""
    return pd.concat([rows(method, gain=GAIN[method]) for method in METHODS], ignore_index=True)


def curves():
    lines = [
        [method, "main", "fine-tuning", "few-shot", shots, seed, epoch, (1 + seed) * 4.0 / epoch,
         50.0 + epoch if seed < 2 else np.nan]
        for method in METHODS
        for shots in (20, 100)
        for seed in range(3)
        for epoch in (1, 2, 4)
    ]  # fmt: skip
    columns = ["method", "variant", "regime", "trained_on", "shots", "seed", "epoch", "loss", "validation_accuracy"]
    return pd.DataFrame(lines, columns=columns)
