"""What all runs of a profile share, and the model that it stands for."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from study import data
from study.paths import existing
from study.runs.shared import images_of
from study.training.compute import LAPTOP, Compute, place
from study.training.model import Architecture, ImageEncoder, Model, architecture
from study.training.optimisation import OPTIMIZERS
from study.writing import whole


@dataclass(frozen=True)
class Recipe:
    """How the whole encoder is fine-tuned, by all methods alike. The first four: see Optimisation."""

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


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all runs of one regime share."""

    regime: str = "fine-tuning"  # or "scratch": a small network without pre-trained weights, on all training images
    shared: str  # folder of the arrays that 01_data writes
    dataset: str
    encoder: Architecture | str  # also a mapping, see model.architecture; a timm name stays one
    weights: str  # "package", "hub", "none" or a file
    image_size: int  # pixels a side
    subset: int | None = None  # images of each class that runs on all images train on, always the same; None: all there are
    batch_size: int  # images a step; each gives two views
    weight_decay: float
    recipe: Recipe = Recipe()  # also a mapping of its fields
    compute: Compute = LAPTOP  # as recipe

    def __post_init__(self):
        if self.regime not in ("fine-tuning", "scratch"):
            raise ValueError(f'regime is {self.regime!r}; expected "fine-tuning" or "scratch".')
        object.__setattr__(self, "shared", str(self.shared))
        readers = {"encoder": architecture, "recipe": lambda given: Recipe(**given), "compute": lambda given: Compute(**given)}
        for name, read in readers.items():
            if isinstance(getattr(self, name), dict):  # as notebooks have it; read, it can be a key of a cache
                object.__setattr__(self, name, read(getattr(self, name)))


def new_model(setup):
    """A model on images with setup's encoder and fresh heads."""
    shape = architecture(setup.encoder)
    encoder = ImageEncoder(shape, setup.weights)
    heads = {name: getattr(shape, name) for name in ("projection_dim", "hidden", "classifier_scale")}
    return Model(encoder, encoder.dim, classes=len(images_of(setup.dataset).classes), **heads)


@lru_cache(1)
def frozen_maps(setup, images):
    """What the frozen stages of setup's encoder make of images (N, C, H, W) uint8. They are the same in every run of a setup, so
    a process that evaluates several runs computes them once."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        encoder = ImageEncoder(architecture(setup.encoder), setup.weights).eval().to(place(setup.compute).device)
        parts = [data.plain(part, setup.image_size).to(encoder.mean.device) for part in images.split(125)]
        return torch.cat([encoder.frozen(part) for part in parts])


def save_model(model, path):
    """Write the weights of a model to path, for load_model."""
    with whole(path) as unfinished, unfinished.open("wb") as file:  # of an open file: a path's name would go into it
        torch.save(model.state_dict(), file)


def load_model(setup, path):
    """The model whose weights were saved at path, in eval mode. It stays in memory and is made without touching torch's random
    numbers, so an objective may ask for it at every step and a run does not depend on who asked first."""
    return _model(setup, path, existing(path, "cross_entropy").stat().st_mtime_ns)


@lru_cache(2)
def _model(setup, path, _):
    with torch.random.fork_rng(devices=[]):
        model = new_model(setup)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.to(place(setup.compute).device).eval()
