"""Learning rates by layer and along the schedule."""

import numpy as np
import pytest
import torch
from small import cross_entropy, train_with

from study.training import optimisation
from study.training.model import ImageEncoder, Model
from study.training.optimisation import parameter_groups


def build(encoder, classes=4):
    torch.manual_seed(0)
    body = ImageEncoder(encoder, "none")
    return Model(body, body.dim, classes)


# Learning rates by layer


def test_each_layer_learns_at_a_share_of_the_next_and_vectors_do_not_decay():
    model = build({"name": "beit3_base_patch16_224", "depth": 3, "img_size": 32})
    groups = parameter_groups(model, learning_rate=0.5, weight_decay=0.1, layer_decay=0.65)
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(of) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        layer = name.removeprefix("encoder.backbone.")
        below = 4 - int(layer.split(".")[1]) - 1 if layer.startswith("blocks") else 0  # three blocks, then norm and heads
        below = 4 if layer.startswith(("patch_embed", "pos_embed", "cls_token")) else below
        group = of[id(parameter)]
        assert group["lr"] == pytest.approx(0.5 * 0.65**below), name
        vector = parameter.ndim <= 1 or layer in ("pos_embed", "cls_token")
        assert group["weight_decay"] == (0 if vector else 0.1), name


def recorded(monkeypatch, **changes):
    """Learning rates (steps, groups) of 40 steps of training."""
    rates = []

    class Recording(torch.optim.SGD):
        def step(self):
            rates.append([group["lr"] for group in self.param_groups])
            super().step()

    monkeypatch.setitem(optimisation.OPTIMIZERS, "recording", Recording)
    images, labels = torch.rand(80, 3, 16, 16), torch.arange(80) % 4
    settings = {
        "view": lambda x: x,
        "views": 1,
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 0.01,
        "weight_decay": 0.0,
    } | changes
    model = build({"name": "test_resnet"})
    train_with(model, cross_entropy, images, labels, seed=0, optimizer="recording", **settings)
    return np.array(rates)


def test_the_schedule_is_two_half_cosines_from_a_25th_to_the_highest_and_to_the_last(monkeypatch):
    rates = recorded(monkeypatch, warm_up=0.25, final=0.1)[:, 0]
    steps, top = np.arange(40), 0.25 * 41 - 1
    rising = 0.01 / 25 + (0.01 - 0.01 / 25) * (1 - np.cos(np.pi * steps / top)) / 2
    falling = 0.001 + (0.01 - 0.001) * (1 + np.cos(np.pi * (steps - top) / (40 - top))) / 2  # the 41st step would have 0.001
    assert np.allclose(rates, np.where(steps < top, rising, falling), rtol=1e-9)


def test_the_default_schedule_is_the_one_cycle_schedule_to_the_bit(monkeypatch):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=41, pct_start=0.1, cycle_momentum=False)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert recorded(monkeypatch)[:, 0].tolist() == expected


def test_all_layers_keep_their_share_along_the_schedule(monkeypatch):
    rates = recorded(monkeypatch, layer_decay=0.5)
    assert rates.shape[1] > 4
    assert np.allclose(rates / rates[:, -1:], (rates / rates[:, -1:])[0]) and rates.min() < 0.1 * rates[:, -1].min()
