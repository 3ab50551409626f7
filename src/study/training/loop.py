"""One training loop for every method. A method is an objective: a function of the model's outputs and the batch."""

import math
import time
from dataclasses import asdict
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


class History(NamedTuple):
    losses: list  # the mean loss of each epoch
    seconds: float  # that all steps took
    records: list  # what on_epoch returned, epoch by epoch; empty without it


def train(
    model,
    objective,
    images,
    labels,
    optimisation,
    *,
    view,
    views,
    seed,
    mix=None,
    on_epoch=None,
    queue=None,
    compute=LAPTOP,
    checkpoint=None,
):
    """Train model in place, and return its History.

    objective     (Outputs, Batch) -> scalar loss. Contrastive losses in it take **batch.contrasts(embeddings, labels).
    images        (N, ...) tensor of any type that `view` takes, or ImageFiles; labels (N,) integers.
    optimisation  an Optimisation.
    view          images (B, ...) -> inputs of the model; called once for each of the `views` views of a batch. See
                  pictures.batches.
    mix           (inputs (B, ...), labels (B,)) -> (inputs, label_distributions (B, C)), once per view; None leaves images
                  alone and labels one-hot.
    on_epoch      called with (epoch from 1, model in eval mode) after each epoch, in the main process; returns what is to be
                  recorded of it, numbers or dictionaries of them.
    queue         None, or the QueueSettings of a contrasts.Queue.
    compute       a Compute. Where several processes make this call, each takes its share of every batch, with random numbers of
                  its own to augment and mix it, and all end with the same weights.
    checkpoint    path of a file that is written after every epoch. If it is there, training goes on from it, to the same numbers
                  as if it had never stopped.

    The order of the images depends on the seed alone, so methods are compared on the same batches. Raises Diverged at the first
    loss that is not finite.
    """
    here, rows, epochs = place(compute), min(optimisation.batch_size, len(images)), optimisation.epochs
    steps = len(images) // rows
    model.to(here.device)
    optimizer = optimisation.new_optimizer(model)
    schedule = optimisation.new_schedule(optimizer, steps * epochs)
    learner = _Learner(model, objective, optimizer, schedule, queue, compute, here)
    if here.world_size > 1:
        torch.manual_seed(int(np.random.SeedSequence([seed, here.rank]).generate_state(1)[0]))
    settings = {"images": len(images), "views": views, "seed": seed} | asdict(optimisation) | {"queue": queue and asdict(queue)}
    settings |= {"device": here.device.type, "world_size": here.world_size}
    settings |= {"precision": compute.precision, "chunk": compute.chunk}
    saved = Checkpoint(checkpoint, here, settings, learner.parts)
    losses, seconds, records = saved.load() or ([], 0.0, [])
    order = islice(enumerate(_shares(len(images), rows, epochs, seed, here), 1), steps * len(losses), None)
    stream = batches(images, labels, order, view, views, seed, here.device, compute.workers)
    for epoch in range(len(losses) + 1, epochs + 1):
        model.train()
        total, start = 0.0, time.perf_counter()
        for step, (inputs, batch_labels) in enumerate(islice(stream, steps), 1 + steps * (epoch - 1)):
            batch = make_batch(inputs, batch_labels, mix, classes=model.classifier.out_features)
            loss, value = learner.loss(batch)
            if not math.isfinite(value):
                raise Diverged(value, step, optimisation.learning_rate)
            learner.update(loss, batch)
            total += value
        seconds += time.perf_counter() - start
        losses.append(total / steps)
        if on_epoch and here.rank == 0:
            records.append(on_epoch(epoch, model.eval()))
        saved.save((losses, seconds, records))
    if here.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
    model.eval()
    return History(losses, seconds, records)


class _Learner:
    """The two halves of a step, and all that it changes: `parts`."""

    def __init__(self, model, objective, optimizer, schedule, queue, compute, here):
        self.module, self.objective, self.here = training_module(model, compute, here), objective, here
        self.optimizer, self.schedule = optimizer, schedule
        self.scaler = torch.amp.GradScaler(here.device.type, enabled=compute.precision == "fp16")  # otherwise it does nothing
        self.queue = Queue(model, queue, compute, here) if queue else None
        self.pool = Pool(here, self.queue) if queue or here.world_size > 1 else None
        self.parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "scaler": self.scaler}
        if self.queue:
            self.parts["queue"] = self.queue

    def loss(self, batch):
        """The loss of this process's anchors, to be differentiated, and its mean over processes, a number."""

        def loss_of(outputs):
            return self.objective(outputs, batch._replace(pool=self.pool.of(outputs)) if self.pool else batch)

        loss = self.module(batch.inputs, loss_of)
        mean = loss.detach()
        if self.here.world_size > 1:
            mean = mean / self.here.world_size
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
    if rows % here.world_size:
        raise ValueError(f"a step has {rows} images; expected a multiple of {here.world_size}, the number of processes.")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(n, generator=generator)[: n // rows * rows].split(rows):
            yield chosen[here.rank :: here.world_size]


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
