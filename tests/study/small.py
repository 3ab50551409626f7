"""A training run small enough to be repeated many times, in float64 and without batch norm: what does not depend on how it is
computed can be compared to the last digits."""

import torch
import torch.nn.functional as F
from torch import nn

from study.training.loop import train
from study.training.model import Model
from supcl.losses import clce_loss, genscl_loss, schane_loss, supcon_loss

CLASSES = 4


def cross_entropy(outputs, batch):
    return F.cross_entropy(outputs.logits, batch.labels)


def supcon(outputs, batch):
    z, labels = outputs.projection, batch.labels
    return supcon_loss(z, labels, temperature=0.2, **batch.contrasts(z, labels))


def schane(outputs, batch):
    z, labels = outputs.projection, batch.labels
    return schane_loss(z, labels, temperature=0.4, hardness=1.5, **batch.contrasts(z, labels))


def clce(outputs, batch):
    z, labels = outputs.embedding, batch.labels
    return clce_loss(outputs.logits, z, labels, weight=0.7, positives="sum", **batch.contrasts(z, labels))


def genscl(outputs, batch):
    """With two kinds of labels, as with a teacher."""
    z, soft = outputs.projection, (3 * batch.inputs[:, :CLASSES]).softmax(1)
    kinds = (batch.label_distributions, soft)
    return sum(genscl_loss(z, q, temperature=0.3, **batch.contrasts(z, q)) for q in kinds)


OBJECTIVES = {"CE": cross_entropy, "SupCon": supcon, "SCHaNe": schane, "CLCE": clce, "GenSCL": genscl}


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


def train_small(objective, dropout=0.0, points=None, **changes):
    """(model, losses) after a short run on points (x, labels)."""
    model = new_model(dropout)
    x, labels = points or data()
    how = {"view": same, "views": 2, "epochs": 2, "batch_size": 12, "learning_rate": 0.3, "weight_decay": 0.01, "seed": 0}
    losses, _ = train(model, objective, x, labels, **(how | {"optimizer": "sgd"} | changes))
    return model, losses


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
