"""Runs: train on a draw of images or on frozen features, evaluate, and give the rows of the long table.

A run is described by a Run, so that every method is trained and tested by the same code; the notebooks only choose
objectives and settings. Runs are independent and on the CPU each uses one thread, so results do not depend on the number of
cores.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config

from study.data import sets as data
from study.paths import existing
from study.probes import evaluation
from study.tables import images_in_words, interval
from study.training.compute import LAPTOP, Compute, launch, place
from study.training.loop import OPTIMIZERS, Diverged, train
from study.training.model import Architecture, ImageEncoder, Model, architecture, feature_encoder

ON_FEATURES = {"optimizer": "adamw"}  # how an MLP is trained, unless a run says otherwise
COLUMNS = ["method", "variant", "dataset", "shots", "seed", "metric", "value", "seconds", "settings"]


@dataclass(frozen=True)
class Recipe:
    """How the whole encoder is fine-tuned, by all methods alike. The first four: see training.train."""

    optimizer: str = "adamw"
    warm_up: float = 0.1
    final: float = 4e-6
    layer_decay: float | None = None
    augmentation: str = "crop"  # a name in data.AUGMENTATIONS

    def __post_init__(self):
        for name, allowed in (("optimizer", OPTIMIZERS), ("augmentation", data.AUGMENTATIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"recipe has {name} {getattr(self, name)!r}; expected one of {', '.join(allowed)}.")
        if not (0 <= self.warm_up < 1 and 0 < self.final <= 1):
            raise ValueError(f"recipe has warm_up {self.warm_up} and final {self.final}; expected shares below 1, final above 0.")


@dataclass(frozen=True)
class Setup:
    """What all runs of a profile share."""

    shared: str  # folder written by 01_data
    dataset: str
    encoder: Architecture | str  # also a mapping, see encoder.architecture; a timm name stays one
    weights: str  # "package", "hub", "none" or a file
    image_size: int  # pixels a side
    batch_size: int  # images a step; each gives two views
    weight_decay: float
    recipe: Recipe = Recipe()  # also a mapping of its fields
    compute: Compute = LAPTOP  # as recipe

    def __post_init__(self):
        readers = {"encoder": architecture, "recipe": lambda given: Recipe(**given), "compute": lambda given: Compute(**given)}
        for name, read in readers.items():
            if isinstance(getattr(self, name), dict):  # as notebooks have it; read, it can be a key of a cache
                object.__setattr__(self, name, read(getattr(self, name)))


@dataclass(frozen=True)
class Run:
    """One training run and its evaluation.

    objective    (Outputs, Batch) -> loss.
    shots        images per class to fine-tune the whole encoder on, or "full": on all training images. 0: an MLP on the frozen
                 features of all training images.
    classifier   "own": the model's linear classifier, trained by the objective. "probe": a linear classifier fitted
                 afterwards on the frozen encoder, the second stage of two-stage methods.
    evaluate_on  "validation" for tuning, "test" for reporting.
    mix          see training.train.
    optimizer    see training.train. None: the setup's for the whole encoder, "adamw" on features.
    queue_size   see training.train, as for momentum.
    draw         (splits: name -> indices, labels (N,) of all training images, seed) -> (indices (n,), labels (n,)): the images to
                 train on and what the run is told of them. None: the draw of this seed with `shots` of each class, or all
                 training images. Evaluation is on images of the classes among these labels.
    augment      (size, flips) -> a function of a batch, for fine-tuning; None: the setup's.
    also         (Trained, inputs (M, ...), labels (M,)) -> {metric: value}, more to measure on the evaluated images.
    watch        the same on validation images after every epoch; its metrics are called "<name>, epoch <n>" in the table.
    settings     the method's own, for the record; with learning_rate, epochs and the rest they go into the table.
    curve        also record accuracy of the nearest neighbours on validation images after every epoch of fine-tuning.
    keep         also return the embeddings of the evaluated images, and the model.
    """

    method: str
    variant: str
    objective: Callable
    shots: int | str
    seed: int
    learning_rate: float
    epochs: int
    classifier: str = "own"
    evaluate_on: str = "test"
    mix: Callable | None = None
    optimizer: str | None = None
    batch_size: int | None = None
    queue_size: int = 0
    momentum: float = 0.999
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
            ("optimizer", self.optimizer, (None, *OPTIMIZERS)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {allowed}.")
        if self.shots != "full" and not isinstance(self.shots, int | np.integer):
            raise ValueError(f'shots is {self.shots!r}; expected a number of images per class, 0 or "full".')


@dataclass(frozen=True)
class Trained:
    """The model of a run, and what reads it out: what `also` and `watch` get."""

    run: Run
    setup: Setup
    model: torch.nn.Module  # in eval mode
    prepare: Callable  # images or features as `inputs` below -> what the model takes
    inputs: torch.Tensor  # (N, ...), or ImageFiles, it was trained on; of more than 5,000 with frozen features about so many
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
    """Outcomes of all runs, in their order; prints a line as each one ends. On the CPU they go side by side, one on each core;
    on a GPU, or where several processes share each run, one after another. Where torchrun has started this process with others,
    outcomes are the main one's; the others get None for each."""
    outcomes = []
    for outcome in _executed(runs, setup):
        outcomes.append(outcome)
        if outcome:
            print(_progress_line(len(outcomes), len(runs), outcome), flush=True)
    return outcomes


def _executed(runs, setup):
    if not setup.compute.runs_share_cores:
        yield from (launch(execute, run, setup, compute=setup.compute) for run in runs)
        return
    with parallel_config("loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=-1, return_as="generator")(delayed(execute)(run, setup) for run in runs)


def execute(run, setup):
    """Train and evaluate one run, on the CPU with one thread. The same run gives the same numbers.

    Test images are sealed while a model is trained, and for a run judged on validation images to its end. A run that diverges
    has the accuracy of always naming the first class, and a metric `diverged_at_step`. None in processes but the main one.
    """
    if setup.compute.runs_share_cores:
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
        predictions = np.stack([outcome.predictions for outcome in group])
        arrays[f"predictions_{shots}"] = predictions.astype(np.min_scalar_type(predictions.max()))
        arrays |= {f"embedding_{shots}": o.embeddings[:2000].astype(np.float16) for o in group if o.run.seed == 0}
        mean, low, high = interval([outcome.metrics["accuracy"] for outcome in group])
        means[images_in_words(shots)] = {"accuracy": mean, "low": low, "high": high, "seeds": len(group)}
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
    """Embeddings (N, D) float16 of images (N, C, H, W), or N ImageFiles, by the untrained-here encoder, at size x size pixels, on
    all cores or on the GPU."""
    if not setup.compute.runs_share_cores:
        return _features_of(images, setup, size)
    with parallel_config("loky", inner_max_num_threads=1):
        chunks = Parallel(n_jobs=-1)(delayed(_features_of)(part, setup, size) for part in images.split(2500))
    return np.concatenate(chunks)


def frozen_batch(setup, size, seed=0):
    """Indices (size,) of random training images, their frozen features (size, D) less the mean of all, and labels (size,)."""
    (features, _), part = _features(setup.dataset, setup.shared), _splits(setup.shared)["train"]
    chosen = part[torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:size]]
    return chosen, features[chosen].float() - features[part].float().mean(0), _images(setup.dataset).train_labels[chosen]


def _features_of(images, setup, size):
    if setup.compute.runs_share_cores:
        torch.set_num_threads(1)
    torch.manual_seed(0)  # with weights "none", every part needs the same encoder
    model = new_model(setup).to(place(setup.compute).device).eval()
    embeddings, _ = evaluation.outputs_of(model, images, partial(data.plain, size=size))
    return embeddings.astype(np.float16)


def table(outcomes, setup):
    """The long table: one row per run and metric."""
    rows = []
    for outcome in outcomes:
        run = outcome.run
        record = asdict(setup)
        del record["shared"], record["dataset"], record["compute"]
        recipe = record.pop("recipe")
        record |= (
            (recipe if run.shots else ON_FEATURES)
            | run.settings
            | {key: getattr(run, key) for key in ("learning_rate", "epochs", "classifier")}
        )
        record |= {"batch_size": run.batch_size or setup.batch_size, "evaluate_on": run.evaluate_on}
        record["optimizer"] = run.optimizer or record["optimizer"]
        compute = replace(setup.compute, checkpoints=None)
        if compute != LAPTOP:
            record["compute"] = {name: value for name, value in asdict(compute).items() if value != getattr(LAPTOP, name)}
        if run.queue_size:
            record |= {"queue_size": run.queue_size, "momentum": run.momentum}
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


def choose(trials, setup):
    """(the best of the trials, their outcomes). Where all have the same settings, and so one variant, there is nothing to choose:
    the first is returned and none is run."""
    if len({trial.variant for trial in trials}) == 1:
        return trials[0], []
    outcomes = run_all(trials, setup)
    return best_trial(outcomes), outcomes


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
    shape = architecture(setup.encoder)
    encoder = ImageEncoder(shape, setup.weights)
    heads = {name: getattr(shape, name) for name in ("projection_dim", "hidden", "classifier_scale")}
    return Model(encoder, encoder.dim, classes=len(_images(setup.dataset).classes), **heads)


@lru_cache(2)
def load_model(setup, path):
    """The model whose weights were saved at path, in eval mode. Kept in memory and drawn without touching torch's random
    numbers, so an objective may ask for it at every step and a run does not depend on who asked first."""
    existing(path, "02_cross_entropy")
    with torch.random.fork_rng(devices=[]):
        model = new_model(setup)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.to(place(setup.compute).device).eval()


def draw_name(shots, seed):
    """Name of a few-shot draw in splits.npz; "train", which holds them all, for shots "full"."""
    return "train" if shots == "full" else f"draw_{shots}_{seed}"


def _fine_tune(run, setup):
    images, splits = _images(setup.dataset), _splits(setup.shared)
    chosen, labels = _drawn(run, splits, images.train_labels, draw_name(run.shots, run.seed))
    train_images, validation = images.train_images[chosen], splits["validation"][:1000]
    trained = Trained(run, setup, new_model(setup), partial(data.plain, size=setup.image_size), train_images, labels.numpy())
    how = asdict(setup.recipe)
    augment = data.AUGMENTATIONS[how.pop("augmentation")]
    held_back = images.train_images[validation], images.train_labels[validation]
    how |= {"view": (run.augment or augment)(setup.image_size, images.flips), "views": 2}
    return _finish(trained, (train_images, labels), how, validation=held_back, test=images.test)


def _train_on_features(run, setup):
    (features, test), images = _features(setup.dataset, setup.shared), _images(setup.dataset)
    splits = _splits(setup.shared)
    chosen, y = _drawn(run, splits, images.train_labels, "train")
    x, hidden, validation = features[chosen], 256, splits["validation"]
    model = Model(feature_encoder(x.shape[1], hidden), hidden, classes=len(images.classes))
    sample = x[:5000].float()
    center, scale = sample.mean(0), sample.std()  # one scale: rare features divided by their own would dwarf the others

    def view(batch):
        return (batch.float() - center.to(batch.device)) / scale.to(batch.device)

    some = slice(None, None, max(len(x) // 5000, 1))  # for neighbours and probe, about 5,000 images say as much
    trained = Trained(run, setup, model, view, x[some], y[some].numpy())
    held_back = features[validation], images.train_labels[validation]
    return _finish(trained, (x, y), ON_FEATURES | {"view": view, "views": 1}, validation=held_back, test=test)


def _drawn(run, splits, labels, name):
    if run.draw:
        return run.draw(splits, labels, run.seed)
    return splits[name], labels[splits[name]]


def _finish(trained, drawn, how, validation, test):
    """Train the new model of `trained` on drawn (images, labels), with `how` for training.train, then measure it."""
    run, compute, records, diverged = trained.run, trained.setup.compute, [], {}
    if run.optimizer:
        how = how | {"optimizer": run.optimizer}

    def on_epoch(epoch, _):
        now, seen = replace(trained), {}  # without what was computed from the model of an earlier epoch
        if run.curve:
            seen["curve"] = evaluation.accuracy(_neighbours(now, now.outputs(validation[0])[0]), validation[1])
        if run.watch:
            seen["metrics"] = {
                f"{name}, epoch {epoch}": np.asarray(value).item() for name, value in run.watch(now, *validation).items()
            }
        return seen

    with test.sealed("training"):
        try:
            losses, seconds = train(
                trained.model, run.objective, *drawn, epochs=run.epochs,
                batch_size=run.batch_size or trained.setup.batch_size, learning_rate=run.learning_rate,
                weight_decay=trained.setup.weight_decay, seed=run.seed, mix=run.mix,
                on_epoch=on_epoch if run.curve or run.watch else None, records=records, queue_size=run.queue_size,
                momentum=run.momentum, compute=compute, checkpoint=_checkpoint(run, trained.setup), **how,
            )  # fmt: skip
        except Diverged as error:
            losses, seconds = [], 0.0
            diverged["diverged_at_step"] = error.step
    if place(compute).rank:
        return None
    curve = [] if diverged or not run.curve else [seen["curve"] for seen in records]
    metrics = {name: value for seen in records for name, value in seen.get("metrics", {}).items()} | diverged
    if run.evaluate_on == "test":
        kept, measured, predictions = _measure(trained, *test.open("the final evaluation of a run"), diverged)
    else:
        with test.sealed("a run that is judged on validation images"):
            kept, measured, predictions = _measure(trained, *validation, diverged)
    kept = {"embeddings": kept, "model": trained.model.cpu()} if run.keep else {}
    return Outcome(run, measured | metrics, seconds, losses, curve, predictions, **kept)


def _checkpoint(run, setup):
    """Where the checkpoint of a run goes, if it is kept: the name says which run, and then stands for its settings."""
    if not setup.compute.checkpoints:
        return None
    values = {part.name: getattr(run, part.name) for part in fields(run)} | asdict(setup)
    known = {name: value for name, value in values.items() if not callable(value) and name not in ("shared", "compute")}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:10]
    name = re.sub(r"[^\w.]+", "-", f"{run.method} {run.variant} {run.shots} {run.seed} {digest}")
    return Path(setup.compute.checkpoints) / f"{name}.pt"


def _measure(trained, inputs, labels, diverged):
    """Embeddings, metrics and predictions, on images of the classes trained on; of a trial only the accuracy that it is chosen
    by."""
    run = trained.run
    seen = torch.from_numpy(np.isin(labels, trained.labels))
    inputs, labels = inputs[seen], labels[seen].numpy()
    if diverged:
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
    size = images_in_words(run.shots or "all")
    accuracy = f"{outcome.metrics['accuracy']:5.1f} % on {run.evaluate_on}"
    diverged = f", DIVERGED at step {step}" if (step := outcome.metrics.get("diverged_at_step")) else ""
    return f"{done:3d}/{total} {run.method} {run.variant}, {size}, seed {run.seed}: {accuracy}{diverged}"


@lru_cache(1)
def _images(dataset):
    return data.load(dataset)


@lru_cache(1)
def _splits(shared):
    with np.load(existing(Path(shared) / "splits.npz", "01_data")) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@lru_cache(1)
def _features(dataset, shared):
    """Frozen features of the training images, and of the test images with their labels, held out as these are."""
    paths = (existing(Path(shared) / f"features_{part}.npy", "01_data") for part in ("train", "test"))
    train, test = (torch.from_numpy(np.load(path)) for path in paths)
    return train, data.HeldOut(test, _images(dataset).test.open("labels of their features")[1])
