"""Who is measured: the losses and other implementations of them, each as one forward and backward pass over a batch."""

import contextlib
import logging
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss

from study.benchmarks import dense
from supcl import losses

DIM, CLASSES = 128, 100  # what the targets are stated for

OURS, DENSE, COMPILED, PEER, FLOOR = "ours", "dense", "dense, compiled", "pytorch-metric-learning", "three matrix products"
FUSED = "linear_cross_entropy"
# How each loss is called in a module that has it, ours or the dense one, with its settings written out.
CALLS = {
    "SupCon": lambda module, batch: module.supcon_loss(batch.embeddings, batch.labels, temperature=0.1),
    "SCHaNe": lambda module, batch: module.schane_loss(batch.embeddings, batch.labels, temperature=0.5, hardness=1.0),
    "CLCE": lambda module, batch: module.clce_loss(batch.logits, batch.embeddings, batch.labels, weight=0.9, temperature=0.5),
    "GenSCL": lambda module, batch: module.genscl_loss(batch.embeddings, batch.distributions, temperature=0.1),
}
# float32 multiplies in full; tf32 lets a GPU round factors to 10 bits; under the others embeddings come in half precision, and
# the pass runs under autocast, as in mixed-precision training.
PRECISIONS = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Batch(NamedTuple):
    embeddings: torch.Tensor  # (N, D)
    logits: torch.Tensor  # (N, C)
    labels: torch.Tensor  # (N,), each class at least twice
    distributions: torch.Tensor  # (N, C), each a mix of two classes


def make_batch(n, dim=DIM, classes=CLASSES, seed=0, device="cpu", precision="float32"):
    """Random embeddings with balanced labels in random order, the same on every device."""
    draw = torch.Generator().manual_seed(seed)
    classes = min(classes, n // 2)
    labels = (torch.arange(n) % classes)[torch.randperm(n, generator=draw)]
    mixed = 0.7 * F.one_hot(labels, classes) + 0.3 * F.one_hot(labels.roll(1), classes)
    embeddings, logits = torch.randn(n, dim, generator=draw), torch.randn(n, classes, generator=draw)
    dtype = PRECISIONS[precision] or torch.float32
    return Batch(embeddings.to(device, dtype), logits.to(device, dtype), labels.to(device), mixed.to(device))


@contextlib.contextmanager
def at_precision(name, device):
    """Passes inside run at one of PRECISIONS."""
    dtype, before = PRECISIONS[name], torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        with torch.autocast(device, dtype, enabled=dtype is not None):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def contestant(implementation, loss="SupCon"):
    """A function of a batch that runs one forward and backward pass. FLOOR only multiplies: similarities, and their products
    with the embeddings for the two sides of each pair, the least that a dense pass does. PEER and FUSED have SupCon alone."""
    if implementation == FLOOR:
        return _three_products
    if implementation == PEER:
        peer = SupConLoss(temperature=0.1)
        return partial(_forward_backward, lambda batch: peer(batch.embeddings, batch.labels))
    if implementation == FUSED:
        return partial(_forward_backward, lambda batch: fused_supcon_loss(batch.embeddings, batch.labels, temperature=0.1))
    call = partial(CALLS[loss], {OURS: losses, DENSE: dense, COMPILED: dense}[implementation])
    return partial(_forward_backward, _compiled(call) if implementation == COMPILED else call)


def fused_supcon_loss(embeddings, labels, *, temperature):
    """SupCon through PyTorch's linear_cross_entropy, which never holds the N x N matrix. Every anchor needs a positive.

    Cross-entropy of row i with target i is e_i = log sum_a exp(s_ia) - s_ii over all rows a, i itself included. Without it,

        log sum_{a in A(i)} exp(s_ia) = s_ii + e_i + log(1 - exp(-e_i)),

    where the last logarithm loses digits if s_ii outweighs all others, at a low temperature.
    """
    z = F.normalize(embeddings, dim=1)
    rows, options = torch.arange(len(z), device=z.device), torch.nn.LinearCrossEntropyOptions()
    e = F.linear_cross_entropy(z, z / temperature, rows, reduction="none", options=options)  # (N,)
    itself = z.square().sum(1) / temperature  # s_ii, which is 1 / temperature
    log_others = itself + e + (-torch.expm1(-e)).log()
    classes = int(labels.amax()) + 1
    sums = z.new_zeros(classes, z.shape[1]).index_add(0, labels, z)  # (C, D)
    positives = labels.bincount(minlength=classes)[labels] - 1
    mean_positive = ((z * sums[labels]).sum(1) / temperature - itself) / positives
    return (log_others - mean_positive).mean()


def problem(implementation):
    """Why an implementation does not run here, in a line; None if it does."""
    if implementation == FUSED and not hasattr(F, "linear_cross_entropy"):
        return f"torch {torch.__version__} does not have it"
    return compiler_problem() if implementation == COMPILED else None


def compiler_problem():
    """Why torch.compile does not work here, in a line; None if it does."""
    try:
        _compiled(lambda x: x + 1)(torch.ones(2))
    except Exception as error:  # whatever is missing, a compiler or Python's headers
        return str(error).strip().splitlines()[0]
    return None


def _compiled(function):
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it would warn that there is no GPU
    return torch.compile(function, dynamic=True)  # compiled once for all sizes


def _forward_backward(loss, batch):
    leaves = {name: getattr(batch, name).detach().requires_grad_() for name in ("embeddings", "logits")}
    loss(batch._replace(**leaves)).backward()


def _three_products(batch):
    z = batch.embeddings
    s = z @ z.T
    s @ z, s.T @ z
