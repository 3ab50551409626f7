"""What every run reads: the images, and the arrays that 01_data wrote. A process reads each once."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from study import data
from study.paths import existing


@lru_cache(1)
def images_of(dataset):
    return data.load(dataset)


def splits_of(shared):
    """{name: indices} of the training and the validation part and of every draw: see draw_name."""
    return _splits(*_version(existing(Path(shared) / "splits.npz", "data")))


@lru_cache(1)
def _splits(path, _):
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def features_of(dataset, shared):
    """Frozen features of the training images, and of the test images with their labels, held out as these are."""
    paths = [existing(Path(shared) / f"features_{part}.npy", "data") for part in ("train", "test")]
    return _features(dataset, *map(_version, paths))


@lru_cache(1)
def _features(dataset, *versions):
    train, test = (torch.from_numpy(np.load(path)) for path, _ in versions)
    return train, data.HeldOut(test, images_of(dataset).test.open("labels of their features")[1])


def _version(path):
    """The path and when it was written: a process that lives long reads it again when it has changed."""
    return path, path.stat().st_mtime_ns


def draw_name(shots, seed):
    """Name of a few-shot draw in splits.npz; "train", which holds them all, for shots "full"."""
    return "train" if shots == "full" else f"draw_{shots}_{seed}"
