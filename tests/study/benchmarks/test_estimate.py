"""Counted operations and bytes against closed forms; hours and memory against arithmetic by hand."""

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from study import profiles
from study.benchmarks import estimate
from study.methods import METHODS
from study.paths import ROOT


def test_a_linear_layer_costs_two_operations_for_each_weight_and_row_and_twice_that_for_both_gradients():
    with torch.device("meta"):
        first, second, inputs = nn.Linear(30, 20), nn.Linear(20, 10, bias=False), torch.empty(7, 30)
    alone = estimate.cost(first, inputs)
    assert alone == (2 * 30 * 20, 2 * 2 * 30 * 20, 4 * 30)  # no gradient of the inputs is asked for; the inputs are kept
    both = estimate.cost(nn.Sequential(first, nn.ReLU(), second), inputs)
    assert both.forward == 2 * (30 * 20 + 20 * 10) and both.step == 2 * (2 * 30 * 20 + 3 * 20 * 10)
    assert both.activations == 4 * (30 + 20)  # the inputs, and the hidden layer once, though two operations need it


def test_a_convolution_costs_two_operations_for_each_weight_and_pixel():
    with torch.device("meta"):
        convolution, images = nn.Conv2d(3, 8, 3, padding=1), torch.empty(5, 3, 16, 16)
    assert estimate.cost(convolution, images).forward == 2 * 3 * 8 * 9 * 16 * 16


def test_an_encoder_costs_three_times_its_forward_pass_but_for_its_first_layer():
    each = estimate.cost(*estimate.image_model("resnet50", 224))
    assert each.forward / 2 == pytest.approx(4.1e9, rel=0.02)  # multiplications and additions, as timm has it for 224 pixels
    assert 2.9 < each.step / each.forward < 3


def part(**changes):
    """One notebook of two seeds and three epochs on 1,000 images, of which 100 are held back."""
    own = {
        "encoder": "test_vit", "image_size": 32, "batch_size": 50, "shots": ["full"], "seeds": [2], "epochs": [3],
        "trials": [1], "learning_rate": [0.1], "weight_decay": 0.1, "crop": [0.5], "temperature": [0.1], "recipe": {},
    }  # fmt: skip
    stages = {"data": {"validation_size": 100}, "supcon": own | changes}
    return profiles.Part("toy", "toys", 1000, stages)


def test_hours_and_memory_are_counts_times_costs():
    each = estimate.cost(*estimate.image_model("test_vit", 32))
    row = estimate.of_part(part())
    assert row["million_views"] == pytest.approx(2 * 3 * 900 * 2 / 1e6)
    assert row["gpu_hours"] == pytest.approx(2 * 3 * 900 * 2 * each.step / (0.3 * 312e12) / 3600)
    weights = sum(p.numel() for p in estimate.image_model("test_vit", 32)[0].parameters())
    assert row["gigabytes"] == pytest.approx((16 * weights + 2 * 50 * each.activations / 2) / 1e9)  # AdamW: four numbers a weight
    assert estimate.of_part(part(recipe={"optimizer": "momentum"}))["gigabytes"] == pytest.approx(
        row["gigabytes"] - 4e-9 * weights
    )


def test_every_setting_counts_once_for_each_seed():
    assert estimate.passes("supcon", part().stages) == (6, 0)
    assert estimate.passes("supcon", part(temperature=[0.1, 0.2], trials=[9]).stages) == (2 * 6, 0)
    assert estimate.passes("supcon", part(temperature=[0.1, 0.2], crop=[0.2, 0.5], trials=[3]).stages) == (3 * 6, 0)
    assert estimate.passes("supcon", part(temperature=0.2, trials=[9]).stages) == (6, 0)  # a number leaves no choice
    assert estimate.passes("supcon", part(shots=[20]).stages) == (0, 0)


def test_variants_and_teachers_count():
    own = part(
        label_smoothing=0.0, hardness=1.0, loss_weight=0.9, crossed_weights=[0.5, 0.9], crossed_seeds=1, same_view_seeds=1,
        sweep_weights=[0.0, 0.9, 1.0], sweep_seeds=5,
    ).stages["supcon"]  # fmt: skip
    stages = {"cross_entropy": own, "schane": own, "clce": own, "genscl": own}
    assert estimate.passes("cross_entropy", stages) == (3 * 2, 0)
    assert estimate.passes("schane", stages) == (3 * (2 + 8 + 1), 0)
    assert estimate.passes("clce", stages) == (3 * (2 + 2 * 2), 0)  # there are two seeds
    assert estimate.passes("genscl", stages) == (3 * 2, 3 * 2)


def test_as_many_variants_are_counted_as_the_notebooks_run():
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    stored = {path.parent.name: path for path in (ROOT / "results").glob("*/runs.csv")}
    for key in stored.keys() & {method.key for method in METHODS.values()}:
        runs = pd.read_csv(stored[key])
        few = runs[(runs.trained_on == "few-shot") & (runs.metric == "accuracy") & ~runs.variant.isin(["main", "trial"])]
        tried = runs[runs.variant == "trial"]
        again = few.merge(tried, on=["shots", "seed", "metric", "value", "seconds", "settings"])  # copies of runs of the grid
        assert len(few) - len(again) == estimate.variants(key, parameters[key]), key


def test_the_stored_estimates_are_those_of_the_profile():
    stored = pd.read_csv(ROOT / "results" / "estimates.csv")
    parts = profiles.read("paper")
    assert stored.part.tolist() == [part.name for part in parts]
    for row, part in zip(stored.to_dict("records"), parts, strict=True):
        if part.name in ("supcon-cifar-10", "genscl-cifar-100", "schane-cifar-fs", "schane-pets"):  # one of each group is enough
            now = estimate.of_part(part)
            names = ["part", "encoder"]
            assert [now.pop(name) for name in names] == [row.pop(name) for name in names]
            assert now == pytest.approx(row, rel=1e-3)
