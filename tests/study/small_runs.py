"""Runs on scikit-learn's digits that take a second, and outcomes written by hand."""

import numpy as np
from small import cross_entropy, supcon

from study import data
from study.runs import Outcome, Run, Setup, draw_name

FEW = Run(
    method="SupCon", variant="plain", objective=supcon, trained_on="few-shot", shots=5, seed=0, learning_rate=0.003, epochs=2,
    classifier="probe", settings={"temperature": 0.1},
)  # fmt: skip
FEATURES = Run(
    method="CE", variant="plain", objective=cross_entropy, trained_on="features", seed=0, learning_rate=0.01, epochs=2,
    batch_size=50,
)  # fmt: skip


def write_arrays(folder):
    """What 01_data writes, of the digits: five images per class in each of two draws, pixels in the place of features."""
    digits = data.load("digits")
    train_part, validation = data.split_validation(digits.train_labels, 200, seed=0)
    draws = {draw_name(5, seed): data.few_shot_draw(digits.train_labels, train_part, 5, seed) for seed in (0, 1)}
    np.savez(folder / "splits.npz", train=train_part[:500], validation=validation, **draws)
    for part, images in [("train", digits.train_images), ("test", digits.test.open("test")[0])]:
        np.save(folder / f"features_{part}.npy", images.flatten(1).numpy().astype(np.float16))


def new_setup(folder, **changes):
    fields = {"shared": folder, "dataset": "digits", "encoder": "test_resnet", "weights": "none", "image_size": 32}
    return Setup(**(fields | {"batch_size": 32, "weight_decay": 0.01} | changes))


def outcome(run, metrics=None, **fields):
    defaults = {"seconds": 0.0, "losses": [], "curve": [], "predictions": np.zeros(3, int)}
    return Outcome(run, metrics or {}, **(defaults | fields))
