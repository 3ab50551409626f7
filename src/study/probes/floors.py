"""Floors: accuracies that need no training of ours, from raw pixels or from an encoder as it came.

A comparison of methods that do not clear them says nothing about the methods. Each floor has one setting, chosen on validation
images; the classifiers are scikit-learn's.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from study import data
from study.probes.evaluation import accuracy, linear_probe

MOST = 20_000  # training images: with more, a fit takes longer than two minutes and more memory than a laptop has
CHOICE = 2000  # of them, at most, with which the setting is chosen
FILES_SIDE = 32  # pixels a side to which pictures in files are shrunk


@dataclass(frozen=True)
class Floor:
    fit: Callable  # (rows (N, D), labels (N,), setting) -> a classifier
    settings: tuple  # from which one is chosen; of equally good ones the first


@dataclass(frozen=True)
class Reading:
    """What a floor says of one draw."""

    name: str
    setting: float
    images: int  # it was fitted to
    predictions: np.ndarray  # (M,) of the test images
    seconds: float


def _logistic(rows, labels, strength):
    return LogisticRegression(C=strength, max_iter=1000).fit(rows, labels)


def _svm(rows, labels, strength):
    scale = 1 / (rows.shape[1] * rows.var())  # gamma="scale"; as a function the kernel is a product of matrices, hence fast
    return SVC(C=strength, kernel=partial(rbf_kernel, gamma=scale)).fit(rows, labels)


def _neighbours(rows, labels, k):
    return KNeighborsClassifier(min(k, len(rows)), algorithm="brute").fit(rows, labels)


ON_PIXELS = {
    "pixels, logistic regression": Floor(_logistic, (0.001, 0.01, 0.1, 1.0)),
    "pixels, SVM": Floor(_svm, (1.0, 3.0, 10.0)),
    "pixels, nearest neighbours": Floor(_neighbours, (1, 3, 5, 9)),
}
ON_EMBEDDINGS = {"untouched encoder": Floor(linear_probe, (1.0, 10.0, 100.0))}
FLOORS = ON_PIXELS | ON_EMBEDDINGS


def pixel_rows(images):
    """(N, D) float32 in 0..1 of images (N, C, H, W) uint8, or of N ImageFiles at FILES_SIDE pixels a side."""
    return data.pixels(images, FILES_SIDE).flatten(1).numpy().astype(np.float32) / 255


def in_random_order(indices):
    """At most MOST of indices (N,), the same for the same indices."""
    return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))[:MOST]]


def measure(floors, draws, validation, test):
    """For each draw the Readings of the floors {name: Floor}, in their order. Draws go side by side, each on one core.

    draws       list of (rows (N, D), labels (N,)) of training images, in an order without meaning: the setting is chosen with
                the first of them.
    validation  (rows, labels), on which each floor's setting is chosen.
    test        rows (M, D).
    """
    with parallel_config("loky", inner_max_num_threads=1):
        return Parallel(n_jobs=-1)(delayed(_of_draw)(floors, draw, validation, test) for draw in draws)


def _of_draw(floors, draw, validation, test):
    return [_reading(name, floor, *draw, validation, test) for name, floor in floors.items()]


def _reading(name, floor, rows, labels, validation, test):
    start = time.perf_counter()

    def score(setting):
        classifier = floor.fit(rows[:CHOICE], labels[:CHOICE], setting)
        return accuracy(classifier.predict(validation[0]), validation[1])

    setting = max(floor.settings, key=score)
    predictions = floor.fit(rows, labels, setting).predict(test)
    return Reading(name, setting, len(rows), predictions, time.perf_counter() - start)
