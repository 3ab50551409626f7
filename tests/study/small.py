"""A training run small enough to be repeated many times, in float64 and without batch norm: what does not depend on how it is
computed can be compared to the last digits."""

from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import nn

from study.methods import METHODS
from study.training.loop import train
from study.training.model import Model
from study.training.optimisation import Optimisation
from supcl.losses import schane_loss

CLASSES = 4


def cross_entropy(outputs, batch):
    return F.cross_entropy(outputs.logits, batch.labels)


def schane(outputs, batch):
    """The contrastive loss alone."""
    z, labels = outputs.projection, batch.labels
    return schane_loss(z, labels, temperature=0.4, hardness=1.5, **batch.contrasts(z, labels))


def soft_labels(batch):
    """A teacher."""
    return (3 * batch.inputs[:, :CLASSES]).softmax(1)


def objective_of(name):
    """A method's, with a teacher if it needs one."""
    method = METHODS[name]
    return method.fields(**({"teacher": soft_labels} if method.needs_teacher else {}))["objective"]


OBJECTIVES = {name: objective_of(name) for name in METHODS}
supcon, clce, genscl = (OBJECTIVES[name] for name in ("SupCon", "CLCE", "GenSCL"))


def data(n=24):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.arange(n) % CLASSES


def new_model(dropout=0.0):
    torch.manual_seed(0)
    return Model(nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Dropout(dropout)), 10, CLASSES, projection_dim=5).double()


def same(x):
    return x


def mixed(x, labels):
    """Mixes each image by itself, so that it does not matter which others a process has."""
    share = x[:, :1].sigmoid()
    return x, share * F.one_hot(labels, CLASSES) + (1 - share) * F.one_hot((labels + 1) % CLASSES, CLASSES)


def train_with(model, objective, images, labels, **settings):
    """train, with the fields of its Optimisation among the settings."""
    own = {part.name: settings.pop(part.name) for part in fields(Optimisation) if part.name in settings}
    return train(model, objective, images, labels, Optimisation(**own), **settings)


def train_small(objective, dropout=0.0, points=None, records=None, **changes):
    """(model, losses) after a short run on points (x, labels); records takes what on_epoch returned."""
    model = new_model(dropout)
    x, labels = points or data()
    settings = {"view": same, "views": 2, "epochs": 2, "batch_size": 12, "learning_rate": 0.3, "weight_decay": 0.01, "seed": 0}
    history = train_with(model, objective, x, labels, **(settings | {"optimizer": "sgd"} | changes))
    if records is not None:
        records[:] = history.records
    return model, history.losses


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def largest_difference(one, other):
    """Of two dictionaries of tensors or None, as a share of the largest entry in one."""
    assert one.keys() == other.keys()
    assert all((one[name] is None) == (other[name] is None) for name in one)
    pairs = [(one[name], other[name]) for name in one if one[name] is not None]
    return max((a - b).abs().max() for a, b in pairs).item() / max(a.abs().max() for a, _ in pairs).item()
