import numpy as np
import pytest
from small_runs import new_setup, write_arrays

from study import data
from study.runs import draw_name


@pytest.fixture(scope="session")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    write_arrays(folder)
    return new_setup(folder)


@pytest.fixture(scope="session")
def vit_setup(tmp_path_factory):
    """Of mappings, with 100 training images."""
    folder = tmp_path_factory.mktemp("vit")
    labels = data.load("digits").train_labels
    train_part, validation = data.split_validation(labels, 1247, seed=0)
    draws = {draw_name(2, 0): data.few_shot_draw(labels, train_part, 2, 0)}
    np.savez(folder / "splits.npz", train=train_part, validation=validation, **draws)
    return new_setup(
        folder, image_size=16, batch_size=50, weight_decay=0.05,
        encoder={"name": "test_vit", "global_pool": "avg", "drop_path_rate": 0.15, "classifier_scale": 0.001, "hidden": [16],
                 "projection_dim": 8},
        recipe={"optimizer": "momentum", "warm_up": 0.2, "final": 0.01, "layer_decay": 0.65, "augmentation": "simclr"},
    )  # fmt: skip
