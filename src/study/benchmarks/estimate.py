"""What a profile would cost on a GPU: python -m study.benchmarks.estimate [PROFILE] writes results/estimates.csv.

Operations and memory are counted on tensors without content; hours follow from them and the assumptions below. Nothing is
measured.
"""

import math
import sys
from typing import NamedTuple

import pandas as pd
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from study import profiles
from study.methods import METHODS
from study.paths import ROOT
from study.runs import alternatives
from study.runs.tuning import OF_RUN
from study.training.model import ImageEncoder, Model, Outputs, architecture
from study.writing import whole

PEAK = 312e12  # operations a second: an NVIDIA A100 in 16 bits, dense, by its data sheet
UTILISATION = 0.3  # share of it that training reaches: our assumption
ACTIVATION = 0.5  # bytes of activations in 16 bits, against those counted in 32
STATES = {"adamw": 2, "momentum": 1, "sgd": 1, "lars": 1, "rmsprop": 2}  # numbers that an optimiser keeps for each parameter
VIEWS = 2  # of each image in a step


class Cost(NamedTuple):
    forward: float  # operations of the forward pass
    step: float  # operations of forward and backward pass
    activations: float  # bytes that the forward pass leaves for the backward pass, in float32


def cost(model, inputs):
    """Cost of a training step of model on inputs, per row of them."""
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    storages = {}  # by address: several tensors may share one, and while it is held here no other gets its address

    def remember(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage
        return tensor

    with FlopCounterMode(display=False) as counted, saved_tensors_hooks(remember, lambda tensor: tensor):
        outputs = model(inputs)
        if isinstance(outputs, Outputs):
            outputs = torch.cat((outputs.projection, outputs.logits), dim=1)  # both heads, whose work comes with the asking
        forward = counted.get_total_flops()
        outputs.sum().backward()
    n = len(inputs)
    return Cost(forward / n, counted.get_total_flops() / n, sum(storage.nbytes() for storage in storages.values()) / n)


def image_model(encoder, image_size, classes=100):
    """(a Model without content, two images for it). The number of classes hardly matters to its cost."""
    with torch.device("meta"):
        shape = architecture(encoder)
        backbone = ImageEncoder(shape, "none")
        model = Model(backbone, backbone.dim, classes, shape.projection_dim, shape.hidden)
        return model.train(), torch.empty(2, 3, image_size, image_size)


def passes(key, notebooks):
    """(passes over its training images that a notebook's runs on the whole encoder make, those of a teacher beside them).

    notebooks: {key: parameters} of a part. Counted are the runs of every setting and the variants on all images, and the
    episodes' runs on all images of the base classes; left out are runs on few images, on frozen features or of the small network
    from scratch, and evaluation.
    """
    p, methods = notebooks[key], {method.key: method for method in METHODS.values()}
    if key == "transfer":
        return sum(notebooks[method]["epochs"][0] for method in methods if method in notebooks) * p["class_splits"], 0
    if key not in methods or p["shots"][0] != "full":
        return 0, 0
    method = methods[key]
    values = [alternatives(p[name]) for name in {*OF_RUN, method.tried, *method.settings} & p.keys()]
    tried = min(p["trials"][0], math.prod(map(len, values))) * p["seeds"][0]
    with_teacher = tried if method.needs_teacher else 0
    return (tried + variants(key, p)) * p["epochs"][0], with_teacher * p["epochs"][0]


def variants(key, p):
    """Runs on the images of the reported ones that a notebook with parameters p makes beside the settings that it tries."""
    if key == "schane":  # two places, two hardnesses and every weight; and one crop in place of two
        draws = min(p["crossed_seeds"], p["seeds"][0])
        return 4 * len(p["crossed_weights"]) * draws + min(p["same_view_seeds"], p["seeds"][0])
    if key == "clce":  # every weight but the chosen one
        return (len(p["sweep_weights"]) - 1) * min(p["sweep_seeds"], p["seeds"][0])
    return 0


def of_part(part):
    """A row of the table for a profiles.Part."""
    settings = next(parameters for parameters in part.stages.values() if "recipe" in parameters)  # the same in all but epochs
    model, images = image_model(settings["encoder"], settings["image_size"])
    each, batch = cost(model, images), settings["batch_size"]
    counts = [passes(key, part.stages) for key in part.stages]
    own, by_teachers = (sum(of_all) * VIEWS * part.trained_on for of_all in zip(*counts, strict=True))
    seconds = (own * each.step + by_teachers * each.forward) / (PEAK * UTILISATION)
    numbers = 2 + STATES[settings["recipe"].get("optimizer", "adamw")]  # of a parameter: itself, its gradient, the optimiser's
    weights = sum(parameter.numel() for parameter in model.parameters())
    memory = 4 * numbers * weights + each.activations * ACTIVATION * VIEWS * batch
    return {
        "part": part.name, "encoder": architecture(settings["encoder"]).name, "pixels": settings["image_size"],
        "million_views": own / 1e6, "gpu_hours": seconds / 3600, "batch": batch, "gigabytes": memory / 1e9,
    }  # fmt: skip


def main(profile="paper"):
    table = pd.DataFrame([of_part(part) for part in profiles.read(profile)])
    with whole(ROOT / "results" / "estimates.csv") as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.4g", lineterminator="\n")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
