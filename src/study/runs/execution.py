"""Run after run, side by side: train on a draw of images or on frozen features, then measure.

Runs are independent and on the CPU each uses one thread, so results do not depend on the number of cores.
"""

import hashlib
import json
import re
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config

from study import data
from study.probes import evaluation
from study.progress import Progress
from study.registration import registered_now
from study.runs import cache
from study.runs.run import Outcome, Run, Trained
from study.runs.setup import new_model
from study.runs.shared import draw_name, features_of, images_of, splits_of
from study.tables import images_in_words
from study.training.compute import launch, one_core, place
from study.training.loop import Diverged, train
from study.training.model import Model, feature_encoder
from study.training.optimisation import Optimisation

ON_FEATURES = {"optimizer": "adamw"}  # how an MLP is trained, unless a run says otherwise
HIDDEN = 256  # units of that MLP


def run_all(runs, setup):
    """Outcomes of all runs, in their order; prints a line as each one ends. On the CPU they go side by side, one on each core,
    and are taken from the cache if it has them; on a GPU, or where several processes share each run, they go one after another.
    Where torchrun has started this process with others, outcomes are the main one's; the others get None for each."""
    entries, outcomes = cache.look_up(runs, setup), []
    progress = Progress(missing=sum(entry.outcome is None for entry in entries))
    for entry, outcome in zip(entries, _executed(entries, setup), strict=True):
        outcomes.append(outcome)
        if outcome:
            remark = progress.remark(entry.outcome is not None, entry.why_not)
            print(_progress_line(len(outcomes), len(runs), outcome) + remark, flush=True)
    return outcomes


def _executed(entries, setup):
    """Outcomes in the order of the cache's entries; those that it has not are executed."""
    missing = [entry for entry in entries if entry.outcome is None]
    if not setup.compute.runs_share_cores:
        yield from (launch(execute, entry.run, setup, compute=setup.compute) for entry in missing)
        return
    with parallel_config("loky", inner_max_num_threads=1):
        fresh = Parallel(n_jobs=-1, return_as="generator")(delayed(execute_and_keep)(e.run, setup, e.file) for e in missing)
        yield from (next(fresh) if entry.outcome is None else entry.outcome for entry in entries)


def execute_and_keep(run, setup, file):
    """execute, with the outcome stored in the cache at once; file None: it is not."""
    outcome = execute(run, setup)
    if file:
        cache.store(file, outcome)
    return outcome


def execute(run, setup):
    """Train and evaluate one run, on the CPU with one thread. The same run gives the same numbers.

    Test images are sealed while a model is trained, and for a run judged on validation images to its end. A run that diverges
    has the accuracy of always naming the first class, and a metric `diverged_at_step`. None in processes but the main one.
    """
    with torch.random.fork_rng(devices=[]), one_core(setup.compute):  # where one process does all, its numbers go on as they were
        torch.manual_seed(run.seed)
        return (_train_on_features if run.trained_on == "features" else _fine_tune)(run, setup)


def optimisation_settings(run, setup):
    """Fields of the run's Optimisation: its own, or else the recipe's."""
    common = asdict(setup.recipe) if run.trained_on != "features" else dict(ON_FEATURES)
    common.pop("augmentation", None)
    own = {"learning_rate": run.learning_rate, "epochs": run.epochs, "batch_size": run.batch_size or setup.batch_size}
    decay = setup.weight_decay if run.weight_decay is None else run.weight_decay
    return common | own | {"weight_decay": decay, "optimizer": run.optimizer or common["optimizer"]}


def _fine_tune(run, setup):
    images, splits = images_of(setup.dataset), splits_of(setup.shared)
    if run.trained_on == "full" and setup.subset:
        splits = splits | {"train": data.few_shot_draw(images.train_labels, splits["train"], setup.subset, seed=0)}
    name = "train" if run.trained_on == "full" else draw_name(run.shots, run.seed)
    chosen, labels = _draw(run, splits, images.train_labels, name)
    train_images, validation = images.train_images[chosen], _validation_images(splits, run.seed)
    prepare, some = partial(data.plain, size=setup.image_size), _some(train_images, 10_000)
    trained = Trained(run, setup, new_model(setup), prepare, train_images[some], labels[some].numpy())
    augment = run.augment or data.AUGMENTATIONS[setup.recipe.augmentation]
    strength = {} if run.crop is None else {"smallest": run.crop}
    views = {"view": augment(setup.image_size, images.flips, **strength), "views": 2}
    held_back = images.train_images[validation], images.train_labels[validation]
    return _train_and_measure(trained, (train_images, labels), views, validation=held_back, test=images.test)


def _validation_images(splits, seed):
    """Indices of 1,000 validation images. Each draw has its own: images that all draws share would choose alike on all of them,
    and the interval of a difference would not see it."""
    held_back = splits["validation"]
    return held_back[torch.randperm(len(held_back), generator=torch.Generator().manual_seed(seed))[:1000].sort().values]


def _train_on_features(run, setup):
    (features, test), images = features_of(setup.dataset, setup.shared), images_of(setup.dataset)
    splits = splits_of(setup.shared)
    chosen, y = _draw(run, splits, images.train_labels, "train")
    x, validation = features[chosen], splits["validation"]
    model = Model(feature_encoder(x.shape[1], HIDDEN), HIDDEN, classes=len(images.classes))
    sample = x[:5000].float()
    center, scale = sample.mean(0), sample.std()  # one scale: rare features divided by their own would dwarf the others

    def view(batch):
        return (batch.float() - center.to(batch.device)) / scale.to(batch.device)

    some = _some(x, 5000)
    trained = Trained(run, setup, model, view, x[some], y[some].numpy())
    held_back = features[validation], images.train_labels[validation]
    return _train_and_measure(trained, (x, y), {"view": view, "views": 1}, validation=held_back, test=test)


def _some(images, count):
    """A slice of about `count` of the images, all where there are fewer: for neighbours and probe so many say as much."""
    return slice(None, None, max(len(images) // count, 1))


def _draw(run, splits, labels, name):
    """Indices and labels of the images to train on."""
    if run.draw:
        return run.draw({part: splits[part] for part in ("train", "validation")}, labels, run.seed)
    return splits[name], labels[splits[name]]


def _train_and_measure(trained, draw, views, validation, test):
    """Train the new model of `trained` on draw (images, labels), then measure it."""
    run, setup = trained.run, trained.setup

    def on_epoch(epoch, _):
        now, record = replace(trained), {}  # without what was computed from the model of an earlier epoch
        if run.curve:
            record["curve"] = evaluation.accuracy(now.neighbours(now.outputs(validation[0])[0]), validation[1])
        if run.epoch_metrics:
            record["metrics"] = {name: np.asarray(value).item() for name, value in run.epoch_metrics(now, *validation).items()}
        return record

    losses, seconds, records, diverged = [], 0.0, [], {}
    with test.sealed("training"):
        try:
            losses, seconds, records = train(
                trained.model, run.objective, *draw, Optimisation(**optimisation_settings(run, setup)), **views, seed=run.seed,
                mix=run.mix, on_epoch=on_epoch if run.curve or run.epoch_metrics else None, queue=run.queue,
                compute=setup.compute, checkpoint=_checkpoint(run, setup),
            )  # fmt: skip
        except Diverged as error:
            diverged["diverged_at_step"] = error.step
    if place(setup.compute).rank:
        return None
    with test.sealed("a measurement on validation images"):
        measured = _measure(trained, *validation, diverged, trained.outputs) if run.evaluate_on == "validation" else None
        validation_accuracy = measured[1]["probe_accuracy"] if measured else _probe_accuracy(trained, *validation, diverged)
    embeddings, metrics, predictions = measured or _measure(
        trained, *test.open("the final evaluation of a run"), diverged, trained.test_outputs
    )
    metrics |= {"validation_accuracy": validation_accuracy}
    curve = [record["curve"] for record in records if run.curve]
    names = records[0].get("metrics", {}) if records else {}
    epoch_metrics = {name: [record["metrics"][name] for record in records] for name in names}
    more = {"embeddings": embeddings, "model": trained.model.cpu()} if run.keep else {}
    more["registered"] = registered_now()
    return Outcome(run, metrics | diverged, seconds, losses, curve, predictions, epoch_metrics, **more)


def _checkpoint(run, setup):
    """Where the checkpoint of a run goes, if there is to be one: the name says which run, and then stands for its settings."""
    if not setup.compute.checkpoints:
        return None
    values = {part.name: getattr(run, part.name) for part in fields(Run)} | asdict(setup)
    stated = {name: value for name, value in values.items() if not callable(value) and name not in ("shared", "compute")}
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True, default=str).encode()).hexdigest()[:10]
    drawn_from = run.shots if run.trained_on == "few-shot" else run.trained_on
    name = re.sub(r"[^\w.]+", "-", f"{run.method} {run.variant} {drawn_from} {run.seed} {digest}")
    return Path(setup.compute.checkpoints) / f"{name}.pt"


def _measure(trained, inputs, labels, diverged, outputs):
    """Embeddings, metrics, and predictions by the probe, on images of the classes trained on."""
    run, (inputs, labels) = trained.run, _familiar(trained, inputs, labels)
    if diverged:
        predictions = np.full_like(labels, trained.labels.min())
        names = ("accuracy", "probe_accuracy", "neighbour_accuracy")
        return None, dict.fromkeys(names, evaluation.accuracy(predictions, labels)), predictions
    embeddings, logits = outputs(inputs)
    predictions = trained.probe.predict(embeddings)
    metrics = {
        "accuracy": evaluation.accuracy(logits.argmax(1) if run.classifier == "own" else predictions, labels),
        "probe_accuracy": evaluation.accuracy(predictions, labels),
        "neighbour_accuracy": evaluation.accuracy(trained.neighbours(embeddings), labels),
    }
    metrics |= evaluation.geometry(embeddings, labels)
    return embeddings, metrics | (run.extra_metrics(trained, inputs, labels) if run.extra_metrics else {}), predictions


def _probe_accuracy(trained, inputs, labels, diverged):
    inputs, labels = _familiar(trained, inputs, labels)
    predictions = np.full_like(labels, trained.labels.min()) if diverged else trained.probe.predict(trained.outputs(inputs)[0])
    return evaluation.accuracy(predictions, labels)


def _familiar(trained, inputs, labels):
    """Inputs and labels, as an array, of the classes trained on."""
    familiar = torch.from_numpy(np.isin(labels, trained.labels))
    return (inputs if familiar.all() else inputs[familiar]), labels[familiar].numpy()


def _progress_line(done, total, outcome):
    run = outcome.run
    size = images_in_words(run.trained_on, run.shots)
    accuracy = f"{outcome.metrics['probe_accuracy']:5.1f} % on {run.evaluate_on}"
    diverged = f", DIVERGED at step {step}" if (step := outcome.metrics.get("diverged_at_step")) else ""
    return f"{done:3d}/{total} {run.method} {run.variant}, {size}, seed {run.seed}: {accuracy}{diverged}"
