"""Runs: train on a draw of images or on frozen features, evaluate, and give the rows of the long table.

A run is described by a Run, so that every method is trained and tested by the same code; the notebooks only choose
objectives and settings. Runs are independent and each uses one thread, so results do not depend on the number of cores.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config

from supcl import data, evaluation
from supcl.encoder import ImageEncoder, Model, feature_encoder
from supcl.tables import interval
from supcl.training import OPTIMIZERS, Diverged, train

COLUMNS = ["method", "variant", "dataset", "shots", "seed", "metric", "value", "seconds", "settings"]


@dataclass(frozen=True)
class Setup:
    """What all runs of a profile share."""

    shared: str  # folder written by 01_data
    dataset: str
    encoder: str  # a timm name
    weights: str  # "package", "hub", "none" or a file
    image_size: int  # pixels a side
    batch_size: int  # images a step; each gives two views
    weight_decay: float


@dataclass(frozen=True)
class Run:
    """One training run and its evaluation.

    objective    (Outputs, Batch) -> loss.
    shots        images per class to fine-tune the whole encoder on; 0: an MLP on the frozen features of all training images.
    classifier   "own": the model's linear classifier, trained by the objective. "probe": a linear classifier fitted
                 afterwards on the frozen encoder, the second stage of two-stage methods.
    evaluate_on  "validation" for tuning, "test" for reporting.
    mix          see training.train.
    optimizer    see training.train.
    draw         (splits: name -> indices, labels (N,) of all training images, seed) -> (indices (n,), labels (n,)): the images to
                 train on and what the run is told of them. None: the draw of this seed with `shots` of each class, or all
                 training images. Evaluation is on images of the classes among these labels.
    augment      (size, flips) -> a function of a batch, for fine-tuning; None: data.Augment.
    also         (Trained, inputs (M, ...), labels (M,)) -> {metric: value}, more to measure on the evaluated images.
    watch        the same on validation images after every epoch; its metrics are called "<name>, epoch <n>" in the table.
    settings     the method's own, for the record; with learning_rate, epochs and the rest they go into the table.
    curve        also record accuracy of the nearest neighbours on validation images after every epoch of fine-tuning.
    keep         also return the embeddings of the evaluated images, and the model.
    """

    method: str
    variant: str
    objective: Callable
    shots: int
    seed: int
    learning_rate: float
    epochs: int
    classifier: str = "own"
    evaluate_on: str = "test"
    mix: Callable | None = None
    optimizer: str = "adamw"
    batch_size: int | None = None
    draw: Callable | None = None
    augment: Callable | None = None
    also: Callable | None = None
    watch: Callable | None = None
    settings: dict = field(default_factory=dict)
    curve: bool = False
    keep: bool = False

    def __post_init__(self):
        for name, value, allowed in (
            ("classifier", self.classifier, ("own", "probe")),
            ("evaluate_on", self.evaluate_on, ("validation", "test")),
            ("optimizer", self.optimizer, tuple(OPTIMIZERS)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {allowed}.")


@dataclass(frozen=True)
class Trained:
    """The model of a run, and what reads it out: what `also` and `watch` get."""

    run: Run
    setup: Setup
    model: torch.nn.Module  # in eval mode
    prepare: Callable  # images or features as `inputs` below -> what the model takes
    inputs: torch.Tensor  # (N, ...) that it was trained on; about 5,000 of them where there are more, on frozen features
    labels: np.ndarray  # (N,) as it was told

    def outputs(self, inputs):
        """Embeddings (M, D) and logits (M, C) of inputs, as numpy arrays."""
        return evaluation.outputs_of(self.model, inputs, self.prepare)

    @cached_property
    def embeddings(self):
        """(N, D) of `inputs`."""
        return self.outputs(self.inputs)[0]

    @cached_property
    def probe(self):
        return evaluation.linear_probe(self.embeddings, self.labels)

    def probabilities(self, inputs):
        """(M, C) by the run's classifier, a column for each class, of classes it was not told of 0 or nearly 0."""
        embeddings, logits = self.outputs(inputs)
        if self.run.classifier == "own":
            return torch.from_numpy(logits).softmax(1).numpy()
        p = np.zeros_like(logits)
        p[:, self.probe.classes_] = self.probe.predict_proba(embeddings)
        return p


@dataclass
class Outcome:
    run: Run
    metrics: dict  # name -> value
    seconds: float  # of training
    losses: list  # per epoch
    curve: list  # validation accuracy per epoch, in percent; empty unless run.curve
    predictions: np.ndarray  # (N,) of the evaluated images
    embeddings: np.ndarray | None = None  # (N, D) of the same, with run.keep
    model: torch.nn.Module | None = None  # in eval mode, with run.keep


def run_all(runs, setup):
    """Outcomes of all runs, in their order, computed on all cores; prints a line as each one ends."""
    outcomes = []
    with parallel_config("loky", inner_max_num_threads=1):
        for outcome in Parallel(n_jobs=-1, return_as="generator")(delayed(execute)(run, setup) for run in runs):
            outcomes.append(outcome)
            print(_progress_line(len(outcomes), len(runs), outcome), flush=True)
    return outcomes


def execute(run, setup):
    """Train and evaluate one run with one thread. The same run gives the same numbers.

    Test images are sealed while a model is trained, and for a run judged on validation images to its end. A run that diverges
    has the accuracy of always naming the first class, and a metric `diverged_at_step`.
    """
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    return (_fine_tune if run.shots else _train_on_features)(run, setup)


def reported_runs(best, shots, seeds, epochs):
    """The runs that count: best's settings on the test set, for each number of shots its number of seeds and epochs, from
    seed 0 on. Seed 0 keeps its embeddings; the first three record a validation curve."""
    return [
        replace(best, variant="main", shots=n, seed=seed, epochs=e, evaluate_on="test", curve=seed < 3, keep=seed == 0)
        for n, count, e in zip(shots, seeds, epochs, strict=True)
        for seed in range(count)
    ]


def write_results(folder, stage, setup, outcomes):
    """Write what later stages read: runs/, curves/ and metrics/ (small text), and embeddings/ (arrays), all named by stage.

    embeddings/<stage>.npz holds, of the reported runs, predictions_<shots> (seeds, N) and, of seed 0, embedding_<shots>
    (up to 2,000, D) of the first test images, as float16. Returns the long table.
    """
    folder, long = Path(folder), write_runs(folder, stage, setup, outcomes)
    for name in ("curves", "metrics", "embeddings"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    curves(outcomes).to_csv(folder / "curves" / f"{stage}.csv", index=False, float_format="%.6g", lineterminator="\n")

    arrays, means = {}, {}
    main = [outcome for outcome in outcomes if outcome.run.variant == "main"]
    for shots in dict.fromkeys(outcome.run.shots for outcome in main):
        group = [outcome for outcome in main if outcome.run.shots == shots]
        arrays[f"predictions_{shots}"] = np.stack([outcome.predictions for outcome in group]).astype(np.uint8)
        arrays |= {f"embedding_{shots}": o.embeddings[:2000].astype(np.float16) for o in group if o.run.seed == 0}
        mean, low, high = interval([outcome.metrics["accuracy"] for outcome in group])
        means[f"{shots} per class"] = {"accuracy": mean, "low": low, "high": high, "seeds": len(group)}
    np.savez_compressed(folder / "embeddings" / f"{stage}.npz", **arrays)
    (folder / "metrics" / f"{stage}.json").write_text(json.dumps({main[0].run.method: means}, indent=2) + "\n")
    return long


def write_runs(folder, stage, setup, outcomes):
    """Write the long table of outcomes to runs/<stage>.csv, and return it."""
    return _write_table(Path(folder) / "runs" / f"{stage}.csv", table(outcomes, setup))


def write_checks(folder, stage, rows):
    """Write checks/<stage>.csv, what a notebook measured without training a model, and return it: rows of (check, seed, value),
    where `check` says what the value is and its unit, and `seed` which batch it was measured on."""
    return _write_table(Path(folder) / "checks" / f"{stage}.csv", pd.DataFrame(rows, columns=["check", "seed", "value"]))


def _write_table(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, lineterminator="\n")
    return frame


def extract_features(images, setup, size):
    """Embeddings (N, D) float16 of images (N, 1, H, W) by the untrained-here encoder, at size x size pixels, on all cores."""
    with parallel_config("loky", inner_max_num_threads=1):
        chunks = Parallel(n_jobs=-1)(delayed(_features_of)(part, setup, size) for part in images.split(2500))
    return np.concatenate(chunks)


def frozen_batch(setup, size, seed=0):
    """Indices (size,) of random training images, their frozen features (size, D) less the mean of all, and labels (size,)."""
    (features, _), part = _features(setup.dataset, setup.shared), _splits(setup.shared)["train"]
    chosen = part[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:size]]
    return chosen, features[chosen].float() - features[part].float().mean(0), _images(setup.dataset).train_labels[chosen]


def _features_of(images, setup, size):
    torch.set_num_threads(1)
    torch.manual_seed(0)  # with weights "none", every part needs the same encoder
    embeddings, _ = evaluation.outputs_of(new_model(setup).eval(), images, partial(data.plain, size=size))
    return embeddings.astype(np.float16)


def table(outcomes, setup):
    """The long table: one row per run and metric."""
    rows = []
    for outcome in outcomes:
        run = outcome.run
        record = asdict(setup) | run.settings | {key: getattr(run, key) for key in ("learning_rate", "epochs", "classifier")}
        record |= {"batch_size": run.batch_size or setup.batch_size, "evaluate_on": run.evaluate_on, "optimizer": run.optimizer}
        del record["shared"], record["dataset"]
        for metric, value in outcome.metrics.items():
            identity = [run.method, run.variant, setup.dataset, run.shots or "all", run.seed, metric, value]
            rows.append([*identity, round(outcome.seconds, 2), json.dumps(record, sort_keys=True)])
    return pd.DataFrame(rows, columns=COLUMNS)


def curves(outcomes):
    """Training curves, one row per run and epoch: loss, and validation accuracy where it was recorded."""
    rows = [
        [o.run.method, o.run.variant, o.run.shots or "all", o.run.seed, epoch, loss, accuracy]
        for o in outcomes
        for epoch, (loss, accuracy) in enumerate(zip(o.losses, o.curve or [None] * len(o.losses), strict=True), 1)
    ]
    return pd.DataFrame(rows, columns=["method", "variant", "shots", "seed", "epoch", "loss", "validation_accuracy"])


def best_trial(outcomes):
    """The run whose settings have the highest mean validation accuracy over their seeds. Refuses runs that saw the test set."""
    if any(outcome.run.evaluate_on != "validation" for outcome in outcomes):
        raise ValueError("best_trial takes runs with evaluate_on='validation': settings are never chosen on test images.")
    scores = {}
    for outcome in outcomes:
        run = outcome.run
        scores.setdefault(run.variant, []).append((outcome.metrics["accuracy"], run))
    best = max(scores.values(), key=lambda trials: np.mean([accuracy for accuracy, _ in trials]))
    return best[0][1]


def new_model(setup):
    """A model on images with setup's encoder and fresh heads."""
    encoder = ImageEncoder(setup.encoder, setup.weights)
    return Model(encoder, encoder.dim, classes=len(_images(setup.dataset).classes))


@lru_cache(2)
def load_model(setup, path):
    """The model whose weights were saved at path, in eval mode. Kept in memory and drawn without touching torch's random
    numbers, so an objective may ask for it at every step and a run does not depend on who asked first."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is missing. 02_cross_entropy writes it: run that notebook with the same seeds first.")
    with torch.random.fork_rng(devices=[]):
        model = new_model(setup)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def draw_name(shots, seed):
    """Name of a few-shot draw in splits.npz."""
    return f"draw_{shots}_{seed}"


def _fine_tune(run, setup):
    images, splits = _images(setup.dataset), _splits(setup.shared)
    chosen, labels = _drawn(run, splits, images.train_labels, draw_name(run.shots, run.seed))
    train_images, validation = images.train_images[chosen], splits["validation"][:1000]
    trained = Trained(run, setup, new_model(setup), partial(data.plain, size=setup.image_size), train_images, labels.numpy())
    view = (run.augment or data.Augment)(setup.image_size, images.flips)
    held_back = images.train_images[validation], images.train_labels[validation]
    return _finish(trained, (train_images, labels), view, views=2, validation=held_back, test=images.test)


def _train_on_features(run, setup):
    (features, test), images = _features(setup.dataset, setup.shared), _images(setup.dataset)
    splits = _splits(setup.shared)
    chosen, y = _drawn(run, splits, images.train_labels, "train")
    x, hidden, validation = features[chosen], 256, splits["validation"]
    model = Model(feature_encoder(x.shape[1], hidden), hidden, classes=len(images.classes))
    sample = x[:5000].float()
    center, scale = sample.mean(0), sample.std()  # one scale: rare features divided by their own would dwarf the others

    def view(batch):
        return (batch.float() - center) / scale

    some = slice(None, None, max(len(x) // 5000, 1))  # for neighbours and probe, about 5,000 images say as much
    trained = Trained(run, setup, model, view, x[some], y[some].numpy())
    held_back = features[validation], images.train_labels[validation]
    return _finish(trained, (x, y), view, views=1, validation=held_back, test=test)


def _drawn(run, splits, labels, name):
    if run.draw:
        return run.draw(splits, labels, run.seed)
    return splits[name], labels[splits[name]]


def _finish(trained, drawn, view, views, validation, test):
    """Train the new model of `trained` on drawn (images, labels), then measure it."""
    run, curve, metrics = trained.run, [], {}

    def on_epoch(epoch, _):
        now = replace(trained)  # without what was computed from the model of an earlier epoch
        if run.curve:
            curve.append(evaluation.accuracy(_neighbours(now, now.outputs(validation[0])[0]), validation[1]))
        if run.watch:
            metrics.update({f"{name}, epoch {epoch}": value for name, value in run.watch(now, *validation).items()})

    with test.sealed("training"):
        try:
            losses, seconds = train(
                trained.model, run.objective, *drawn, view=view, views=views, epochs=run.epochs,
                batch_size=run.batch_size or trained.setup.batch_size, learning_rate=run.learning_rate,
                weight_decay=trained.setup.weight_decay, seed=run.seed, optimizer=run.optimizer, mix=run.mix,
                on_epoch=on_epoch if run.curve or run.watch else None,
            )  # fmt: skip
        except Diverged as error:
            losses, seconds, curve = [], 0.0, []
            metrics["diverged_at_step"] = error.step
    if run.evaluate_on == "test":
        kept, measured, predictions = _measure(trained, *test.open("the final evaluation of a run"), metrics)
    else:
        with test.sealed("a run that is judged on validation images"):
            kept, measured, predictions = _measure(trained, *validation, metrics)
    kept = {"embeddings": kept, "model": trained.model} if run.keep else {}
    return Outcome(run, measured | metrics, seconds, losses, curve, predictions, **kept)


def _measure(trained, inputs, labels, so_far):
    """Embeddings, metrics and predictions, on images of the classes trained on; of a trial only the accuracy that it is chosen
    by."""
    run = trained.run
    seen = torch.from_numpy(np.isin(labels, trained.labels))
    inputs, labels = inputs[seen], labels[seen].numpy()
    if "diverged_at_step" in so_far:
        predictions = np.full_like(labels, trained.labels.min())
        return None, {"accuracy": evaluation.accuracy(predictions, labels)}, predictions
    embeddings, logits = trained.outputs(inputs)
    predictions = logits.argmax(1) if run.classifier == "own" else trained.probe.predict(embeddings)
    metrics = {"accuracy": evaluation.accuracy(predictions, labels)}
    if run.evaluate_on == "test":
        metrics["probe_accuracy"] = evaluation.accuracy(trained.probe.predict(embeddings), labels)
        metrics["neighbour_accuracy"] = evaluation.accuracy(_neighbours(trained, embeddings), labels)
        metrics |= evaluation.geometry(embeddings, labels)
    return embeddings, metrics | (run.also(trained, inputs, labels) if run.also else {}), predictions


def _neighbours(trained, embeddings):
    return evaluation.nearest_neighbours(trained.embeddings, trained.labels, embeddings)


def _progress_line(done, total, outcome):
    run = outcome.run
    size = f"{run.shots} per class" if run.shots else "all images"
    accuracy = f"{outcome.metrics['accuracy']:5.1f} % on {run.evaluate_on}"
    diverged = f", DIVERGED at step {step}" if (step := outcome.metrics.get("diverged_at_step")) else ""
    return f"{done:3d}/{total} {run.method} {run.variant}, {size}, seed {run.seed}: {accuracy}{diverged}"


@lru_cache(1)
def _images(dataset):
    return data.load(dataset)


@lru_cache(1)
def _splits(shared):
    with np.load(_written_by_01_data(shared, "splits.npz")) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@lru_cache(1)
def _features(dataset, shared):
    """Frozen features of the training images, and of the test images with their labels, held out as these are."""
    train, test = (torch.from_numpy(np.load(_written_by_01_data(shared, f"features_{part}.npy"))) for part in ("train", "test"))
    return train, data.HeldOut(test, _images(dataset).test.open("labels of their features")[1])


def _written_by_01_data(shared, name):
    path = Path(shared) / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. 01_data writes it: run that notebook with the same `results` first.")
    return path
