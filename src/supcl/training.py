"""One training loop for every method. A method is an objective: a function of the model's outputs and the batch."""

import math
import time
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, momentum=0.9),
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
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
    mix=None,
    on_epoch=None,
):
    """Train model in place for `epochs` passes; return the mean loss of each, and the seconds that all steps took.

    objective  (Outputs, Batch) -> scalar loss.
    images     (N, ...) tensor of any type that `view` takes; labels (N,) integers.
    view       images (B, ...) -> inputs of the model; called once for each of the `views` views of a batch.
    optimizer  a name in OPTIMIZERS.
    mix        (inputs (B, ...), labels (B,)) -> (inputs, label_distributions (B, C)), once per view; None leaves images
               alone and labels one-hot.
    on_epoch   called with (epoch from 1, model in eval mode) after each epoch.

    One-cycle schedule of the learning rate (10 % warm-up, then cosine). An epoch has N // batch_size steps, at least one; the
    images left over sit out until the next shuffle. Order depends on the seed alone, so methods are compared on the same
    batches. Raises Diverged at the first loss that is not finite.
    """
    steps = max(len(images) // batch_size, 1)
    optimizer = OPTIMIZERS[optimizer](model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps * epochs + 1, pct_start=0.1, cycle_momentum=False
    )
    order = torch.Generator().manual_seed(seed)
    losses, seconds = [], 0.0
    for epoch in range(1, epochs + 1):
        model.train()
        total, start = 0.0, time.perf_counter()
        chosen_images = torch.randperm(len(images), generator=order)[: steps * batch_size].split(batch_size)
        for step, chosen in enumerate(chosen_images, 1 + steps * (epoch - 1)):
            batch = make_batch(images[chosen], labels[chosen], view, views, mix, classes=model.classifier.out_features)
            loss = objective(model(batch.inputs), batch)
            if not math.isfinite(loss.item()):
                raise Diverged(loss.item(), step, learning_rate)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds += time.perf_counter() - start
        losses.append(total / steps)
        if on_epoch:
            on_epoch(epoch, model.eval())
    model.eval()
    return losses, seconds


def make_batch(images, labels, view, views, mix, classes):
    """V views of B images as one Batch; each view is augmented and mixed on its own."""
    inputs, distributions = [], []
    for _ in range(views):
        x, q = view(images), F.one_hot(labels, classes).float()
        if mix:
            x, q = mix(x, labels)
        inputs.append(x)
        distributions.append(q)
    return Batch(torch.cat(inputs), labels.repeat(views), torch.cat(distributions))
