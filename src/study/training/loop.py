"""One training loop for every method. A method is an objective: a function of the model's outputs and the batch."""

import math
import time
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from study.data.pictures import batches
from study.training.checkpoint import Checkpoint
from study.training.compute import LAPTOP, place, training_module
from study.training.contrasts import Pool, Queue


def lars(parameters, **how):
    """You et al. (2017): each layer's step in proportion to its weights, for batches of thousands."""
    from timm.optim import Lars  # here, not above: see encoder.ImageEncoder

    return Lars(parameters, momentum=0.9, **how)


OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, momentum=0.9),
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "momentum": partial(torch.optim.SGD, momentum=0.9),  # SupCon's and GenSCL's released code
    "lars": lars,
}


class Diverged(FloatingPointError):
    """A loss that is not finite, at `step` (from 1) of training."""

    def __init__(self, loss, step, learning_rate):
        super().__init__(loss, step, learning_rate)
        self.loss, self.step, self.learning_rate = loss, step, learning_rate

    def __str__(self):
        return f"loss is {self.loss} at step {self.step} with learning rate {self.learning_rate}."


class Batch(NamedTuple):
    inputs: torch.Tensor  # (V * B, ...) what the encoder sees: V views of B images, view after view
    labels: torch.Tensor  # (V * B,) of the images before any mixing
    label_distributions: torch.Tensor  # (V * B, C) one-hot, or as `mix` made them
    pool: Pool | None = None  # embeddings of other processes and of a queue

    def contrasts(self, embeddings, labels):
        """What a loss of these embeddings and labels, or label distributions, takes as further arguments so that anchors also
        meet embeddings of other processes and of a queue: see Pool.contrasts. Nothing where there are none of these."""
        return self.pool.contrasts(embeddings, labels) if self.pool else {}


def train(
    model,
    objective,
    images,
    labels,
    *,
    view,
    views,
    epochs,
    batch_size,
    learning_rate,
    weight_decay,
    seed,
    optimizer="adamw",
    warm_up=0.1,
    final=4e-6,
    layer_decay=None,
    mix=None,
    on_epoch=None,
    records=None,
    queue_size=0,
    momentum=0.999,
    compute=LAPTOP,
    checkpoint=None,
):
    """Train model in place for `epochs` passes; return the mean loss of each, and the seconds that all steps took.

    objective    (Outputs, Batch) -> scalar loss. Contrastive losses in it take **batch.contrasts(embeddings, labels).
    images       (N, ...) tensor of any type that `view` takes, or ImageFiles; labels (N,) integers.
    view         images (B, ...) -> inputs of the model; called once for each of the `views` views of a batch. See images.batches.
    optimizer    a name in OPTIMIZERS.
    warm_up      share of the steps in which the learning rate rises, from a 25th of its highest value.
    final        the last learning rate, as a share of the highest.
    layer_decay  see parameter_groups; None: one learning rate and weight decay for all parameters.
    mix          (inputs (B, ...), labels (B,)) -> (inputs, label_distributions (B, C)), once per view; None leaves images
                 alone and labels one-hot.
    on_epoch     called with (epoch from 1, model in eval mode) after each epoch, in the main process.
    records      list that takes what on_epoch returns, numbers or dictionaries of them. A run that goes on from a checkpoint
                 finds there those of earlier epochs.
    queue_size   0, or the size of a contrasts.Queue with this `momentum`.
    compute      a Compute. Where several processes make this call, each takes its share of every batch, with random numbers of
                 its own to augment and mix it, and all end with the same weights.
    checkpoint   path of a file that is written after every epoch. If it is there, training goes on from it, to the same numbers
                 as if it had never stopped.

    The learning rate has a one-cycle schedule (warm-up and decay are both half a cosine). An epoch has N // batch_size steps, at
    least one; the images left over sit out until the next shuffle. Order depends on the seed alone, so methods are compared on
    the same batches. Raises Diverged at the first loss that is not finite.
    """
    here, rows, records = place(compute), min(batch_size, len(images)), [] if records is None else records
    steps = len(images) // rows
    settings = {"images": len(images), "views": views, "epochs": epochs, "batch_size": batch_size, "seed": seed}
    settings |= {"learning_rate": learning_rate, "weight_decay": weight_decay, "optimizer": optimizer, "warm_up": warm_up}
    settings |= {"final": final, "layer_decay": layer_decay, "queue_size": queue_size, "momentum": momentum}
    settings |= {"device": here.device.type, "processes": here.processes, "precision": compute.precision, "chunk": compute.chunk}
    model.to(here.device)
    parameters = parameter_groups(model, learning_rate, weight_decay, layer_decay) if layer_decay else model.parameters()
    optimizer = OPTIMIZERS[optimizer](parameters, lr=learning_rate, weight_decay=weight_decay)
    schedule = _one_cycle(optimizer, steps * epochs, warm_up, final)
    learner = _Learner(model, objective, optimizer, schedule, queue_size, momentum, compute, here)
    if here.processes > 1:
        torch.manual_seed(int(np.random.SeedSequence([seed, here.rank]).generate_state(1)[0]))
    saved = Checkpoint(checkpoint, here, settings, learner.parts)
    losses, seconds, records[:] = saved.load() or ([], 0.0, [])
    order = islice(enumerate(_shares(len(images), rows, epochs, seed, here), 1), steps * len(losses), None)
    made = batches(images, labels, order, view, views, seed, here.device, compute.workers)
    for epoch in range(len(losses) + 1, epochs + 1):
        model.train()
        total, start = 0.0, time.perf_counter()
        for step, (inputs, told) in enumerate(islice(made, steps), 1 + steps * (epoch - 1)):
            batch = make_batch(inputs, told, mix, classes=model.classifier.out_features)
            loss, value = learner.loss(batch)
            if not math.isfinite(value):
                raise Diverged(value, step, learning_rate)
            learner.update(loss, batch)
            total += value
        seconds += time.perf_counter() - start
        losses.append(total / steps)
        if on_epoch and here.rank == 0:
            records.append(on_epoch(epoch, model.eval()))
        saved.save((losses, seconds, records))
    if here.processes > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
    model.eval()
    return losses, seconds


def _one_cycle(optimizer, steps, warm_up, final):
    highest = [group["lr"] for group in optimizer.param_groups]
    how = {"pct_start": warm_up, "final_div_factor": 1 / (25 * final), "cycle_momentum": False}
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, highest, total_steps=steps + 1, **how)


def parameter_groups(model, learning_rate, weight_decay, layer_decay):
    """Parameters of a Model on an ImageEncoder for an optimiser, each group with its `lr` and `weight_decay`.

    The last layer of the encoder and the heads learn at learning_rate, each layer before at layer_decay times the rate of the
    one after it. Weights of one dimension (biases, norms) and those that the encoder names, such as position embeddings, do not
    decay. Both as timm has it from BEiT's fine-tuning code.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay  # here, not above: see encoder.ImageEncoder

    backbone, heads = model.encoder.backbone, torch.nn.ModuleList([model.projection, model.classifier])
    named = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    groups = param_groups_layer_decay(backbone, weight_decay, named, layer_decay=layer_decay)
    groups += param_groups_weight_decay(heads, weight_decay)
    return [
        {"params": group["params"], "weight_decay": group["weight_decay"], "lr": learning_rate * group.get("lr_scale", 1.0)}
        for group in groups
    ]


class _Learner:
    """The two halves of a step, and all that it changes: `parts`."""

    def __init__(self, model, objective, optimizer, schedule, queue_size, momentum, compute, here):
        self.module, self.objective, self.here = training_module(model, compute, here), objective, here
        self.optimizer, self.schedule = optimizer, schedule
        self.scaler = torch.amp.GradScaler(here.device.type, enabled=compute.precision == "fp16")  # otherwise it does nothing
        self.queue = Queue(model, queue_size, momentum, compute, here) if queue_size else None
        self.pool = Pool(here, self.queue) if queue_size or here.processes > 1 else None
        self.parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": self.scaler}
        if self.queue:
            self.parts["queue"] = self.queue

    def loss(self, batch):
        """The loss of this process's anchors, to be differentiated, and its mean over processes, a number."""

        def loss_of(outputs):
            return self.objective(outputs, batch._replace(pool=self.pool.of(outputs)) if self.pool else batch)

        loss = self.module(batch.inputs, loss_of)
        mean = loss.detach()
        if self.here.processes > 1:
            mean = mean / self.here.processes
            dist.all_reduce(mean)
        return loss, mean.item()

    def update(self, loss, batch):
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.queue:
            self.queue.update(batch.inputs)


def _shares(n, rows, epochs, seed, here):
    """Yield the indices of this process's share of each step's images: every epoch whole batches of `rows` of a permutation of
    n."""
    if rows % here.processes:
        raise ValueError(f"a step has {rows} images; expected a multiple of {here.processes}, the number of processes.")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(n, generator=generator)[: n // rows * rows].split(rows):
            yield chosen[here.rank :: here.processes]


def make_batch(views, labels, mix, classes):
    """Views (B, ...) of the images with labels (B,) as one Batch. Where views is an iterator, each is made and mixed before the
    next."""
    inputs, distributions = [], []
    for x in views:
        q = F.one_hot(labels, classes).float()
        if mix:
            x, q = mix(x, labels)
        inputs.append(x)
        distributions.append(q)
    return Batch(torch.cat(inputs), labels.repeat(len(inputs)), torch.cat(distributions))
