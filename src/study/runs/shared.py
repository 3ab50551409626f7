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


@lru_cache(1)
def splits_of(shared):
    """{name: indices} of the training and the validation part and of every draw: see draw_name."""
    with np.load(existing(Path(shared) / "splits.npz", "data")) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@lru_cache(1)
def features_of(dataset, shared):
    """Frozen features of the training images, and of the test images with their labels, held out as these are."""
    paths = (existing(Path(shared) / f"features_{part}.npy", "data") for part in ("train", "test"))
    train, test = (torch.from_numpy(np.load(path)) for path in paths)
    return train, data.HeldOut(test, images_of(dataset).test.open("labels of their features")[1])


def draw_name(shots, seed):
    """Name of a few-shot draw in splits.npz; "train", which holds them all, for shots "full"."""
    return "train" if shots == "full" else f"draw_{shots}_{seed}"
