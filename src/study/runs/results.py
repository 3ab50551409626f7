"""What a notebook's runs leave in results/<key>/ for the stages after it, small enough for Git.

runs.csv         the long table, a row per run and metric, with COLUMNS.
                 regime is that of the Setup, "fine-tuning" or "scratch". trained_on is "few-shot" (`shots` training images of
                 each class), "full" (all training images, or the Setup's `subset` of them) or "features" (an MLP on frozen
                 features); shots is blank but for "few-shot". variant is a name without numbers: the numbers are in settings,
                 one JSON object, which study.tables.with_settings spreads into columns. epoch is blank, or that of a metric
                 measured after every epoch.
curves.csv       a row per epoch of each reported run, with CURVE_COLUMNS; validation_accuracy is blank where it was not recorded.
predictions.npz  <variant>_<shots> (runs, N): the class that the linear probe of each run on the whole encoder gives to each test
                 image, in the smallest unsigned integers; a row for each run of this variant, in the order of runs.csv; <shots>
                 is "full" for runs on all images. embedding_<shots>, for the first number of shots alone: float16 (at most 2,000,
                 at most 50), the embeddings of the first test images by the reported run of seed 0, at unit length, rotated onto
                 their principal directions (not centred, so that cosines stay what they are).
registered.json  {id: digest} of the claims that were written down before all of these runs: see study.registration.
checks.csv       what a notebook measured without training a model: check, seed, value.

01_data writes floors (see study.probes.floors) into the same two files. In the long table, method is the floor's name, variant is
"floor", and the settings hold the floor's own setting and the number of images that it was fitted to. In its predictions.npz,
predictions_floor_<shots> is (floors, seeds, N), and `floors` has their names (floors,).
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from study.probes.evaluation import accuracy, unit_rows
from study.probes.floors import ON_EMBEDDINGS
from study.registration import common
from study.runs.execution import optimisation_settings
from study.runs.run import trained_on
from study.runs.shared import images_of
from study.training.compute import LAPTOP
from study.writing import whole, write_text

COLUMNS = [
    "method", "variant", "regime", "trained_on", "dataset", "shots", "seed", "epoch", "metric", "value", "seconds", "settings",
]  # fmt: skip
CURVE_COLUMNS = ["method", "variant", "regime", "trained_on", "shots", "seed", "epoch", "loss", "validation_accuracy"]
MAP_IMAGES, MAP_DIMENSIONS = 2000, 50  # of embedding_<shots>


def write_results(folder, *parts):
    """Write runs.csv, curves.csv, predictions.npz and registered.json. Returns the long table.

    parts  (setup, outcomes) for each regime.
    """
    long = write_runs(folder, pd.concat([table(outcomes, setup) for setup, outcomes in parts], ignore_index=True))
    outcomes = [outcome for _, of_part in parts for outcome in of_part]
    with whole(Path(folder) / "curves.csv") as unfinished:
        curves(parts).to_csv(unfinished, index=False, float_format="%.6g", lineterminator="\n")
    with whole(Path(folder) / "predictions.npz") as unfinished:
        np.savez_compressed(unfinished, **_arrays(outcomes))
    registered = common([outcome.registered for outcome in outcomes])
    write_text(Path(folder) / "registered.json", json.dumps(registered, indent=1, sort_keys=True) + "\n")
    return long


def write_runs(folder, frame):
    """Write a long table to runs.csv, and return it."""
    return _write(Path(folder) / "runs.csv", frame)


def write_checks(folder, rows):
    """Write checks.csv, what a notebook measured without training a model, and return it: rows of (check, seed, value), where
    `check` says what the value is and its unit, and `seed` which batch it was measured on."""
    return _write(Path(folder) / "checks.csv", pd.DataFrame(rows, columns=["check", "seed", "value"]))


def write_floors(folder, readings, labels, setup, side):
    """Write runs.csv and predictions.npz of floors, and return the long table.

    readings  {(shots, seed): list of study.probes.floors.Reading}, the same floors for each.
    labels    (N,) of the test images; side: pixels a side, of the images whose pixels were taken.
    """
    rows, arrays = [], {}
    for (shots, seed), of_draw in readings.items():
        images = trained_on(shots)
        for r in of_draw:
            regime = "scratch" if images["trained_on"] == "full" else "fine-tuning"  # of the methods that meet these images
            identity = [r.name, "floor", regime, images["trained_on"], setup.dataset, images["shots"], seed, None]
            settings = json.dumps(_floor_settings(r, setup, side), sort_keys=True)
            rows.append([*identity, "accuracy", accuracy(r.predictions, labels), round(r.seconds, 2), settings])
        arrays.setdefault(f"predictions_floor_{shots}", []).append([r.predictions for r in of_draw])
        arrays["floors"] = [r.name for r in of_draw]
    of_type = np.min_scalar_type(max(labels))
    arrays = {k: v if k == "floors" else np.array(v, of_type).swapaxes(0, 1) for k, v in arrays.items()}
    with whole(Path(folder) / "predictions.npz") as unfinished:
        np.savez_compressed(unfinished, **arrays)
    return write_runs(folder, pd.DataFrame(rows, columns=COLUMNS).astype({"shots": "Int64", "epoch": "Int64"}))


def _floor_settings(reading, setup, side):
    """What the columns of a run's settings are of a floor: without an encoder where it has pixels, and without training."""
    record = {"encoder": "none", "weights": "none", "image_size": side}
    if reading.name in ON_EMBEDDINGS:
        record = {"encoder": _encoder_of(setup), "weights": setup.weights, "image_size": setup.image_size}
    untrained = {"learning_rate": None, "epochs": 0, "batch_size": None, "evaluate_on": "test"}
    own = {"pixels": images_of(setup.dataset).source, "floor_setting": reading.setting, "floor_images": reading.images}
    return record | untrained | own


def read_runs(path):
    """A long table as it was written: shots and epoch are whole numbers or blank."""
    return pd.read_csv(path, dtype={"shots": "Int64", "epoch": "Int64"})


def table(outcomes, setup):
    """The long table: one row per run and metric, one more for each epoch of a metric that was measured after every epoch."""
    rows = []
    for outcome in outcomes:
        values = [(None, name, value) for name, value in outcome.metrics.items()]
        values += [(e, name, v) for name, each in outcome.epoch_metrics.items() for e, v in enumerate(each, 1)]
        run, settings = outcome.run, json.dumps(settings_of(outcome.run, setup), sort_keys=True)
        identity = [run.method, run.variant, setup.regime, run.trained_on, setup.dataset, run.shots, run.seed]
        rows += [[*identity, epoch, name, value, round(outcome.seconds, 2), settings] for epoch, name, value in values]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"shots": "Int64", "epoch": "Int64"})


def settings_of(run, setup):
    """{name: value} of all that a run was made with, its own settings among the rest."""
    record = {name: getattr(setup, name) for name in ("weights", "image_size")} | optimisation_settings(run, setup)
    record["pixels"] = images_of(setup.dataset).source
    record["encoder"] = _encoder_of(setup)
    record |= {"classifier": run.classifier, "evaluate_on": run.evaluate_on}
    if run.trained_on != "features":
        record["augmentation"] = setup.recipe.augmentation
    if run.trained_on == "full" and setup.subset:
        record["subset"] = setup.subset
    if run.crop is not None:
        record["crop"] = run.crop
    compute = replace(setup.compute, checkpoints=None)
    if compute != LAPTOP:
        record["compute"] = {name: value for name, value in asdict(compute).items() if value != getattr(LAPTOP, name)}
    if run.queue:
        record |= {"queue_size": run.queue.size, "momentum": run.queue.momentum}
    return record | run.settings


def _encoder_of(setup):
    return setup.encoder if isinstance(setup.encoder, str) else asdict(setup.encoder)


def curves(parts):
    """Training curves of the reported runs among parts, as in write_results: a row per run and epoch with its loss, and with its
    validation accuracy where that was recorded."""
    rows = [
        [o.run.method, o.run.variant, setup.regime, o.run.trained_on, o.run.shots, o.run.seed, epoch, loss, accuracy]
        for setup, outcomes in parts
        for o in outcomes
        if o.run.variant == "main"
        for epoch, (loss, accuracy) in enumerate(zip(o.losses, o.curve or [None] * len(o.losses), strict=True), 1)
    ]
    return pd.DataFrame(rows, columns=CURVE_COLUMNS).astype({"shots": "Int64"})


def _arrays(outcomes):
    """The arrays of predictions.npz."""
    groups, arrays = {}, {}
    for outcome in outcomes:
        if outcome.run.trained_on != "features" and outcome.run.evaluate_on == "test":
            groups.setdefault((outcome.run.variant, outcome.run.shots or "full"), []).append(outcome)
    for (variant, shots), group in groups.items():
        predictions = np.stack([outcome.predictions for outcome in group])
        arrays[f"{variant}_{shots}"] = predictions.astype(np.min_scalar_type(predictions.max()))
    first = next(shots for variant, shots in groups if variant == "main")
    of_first_seed = [outcome.embeddings for outcome in groups["main", first] if outcome.run.seed == 0]
    return arrays | {f"embedding_{first}": principal(z[:MAP_IMAGES]) for z in of_first_seed if z is not None}


def principal(embeddings, dimensions=MAP_DIMENSIONS):
    """Embeddings (N, D) at unit length, rotated onto their principal directions: (N, at most `dimensions`) float16. Directions
    are those of the rows as they are, not centred; the sign of each is such that its largest entry is positive."""
    _, _, directions = np.linalg.svd(z := unit_rows(embeddings.astype(np.float64)), full_matrices=False)
    directions = directions[:dimensions]
    largest = np.take_along_axis(directions, abs(directions).argmax(1, keepdims=True), axis=1)
    return (z @ (directions * np.sign(largest)).T).astype(np.float16)


def _write(path, frame):
    with whole(path) as unfinished:
        frame.to_csv(unfinished, index=False, lineterminator="\n")
    return frame
