"""What anchors are contrasted with beyond their own process's batch: embeddings of other processes, and a queue of past ones."""

import copy
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F

from study.training.compute import embed


def gathered(x, world_size):
    """x (n, ...) of all processes, in their order: (world_size * n, ...). Gradients flow back to each process's own."""
    return x if world_size == 1 else _Gather.apply(x)


class _Gather(torch.autograd.Function):
    """Every process's loss depends on the rows of all, so a process's rows get the sum of what all of them say."""

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


class Pool:
    """Contrasts of a step: the embeddings of all processes, then those of a Queue.

    A process computes the loss of its own anchors against all contrasts. The gradient of the mean of these losses over processes,
    which DistributedDataParallel takes, is that of one process with the whole batch.
    """

    def __init__(self, place, queue=None):
        self.place, self.queue = place, queue

    def of(self, outputs):
        """The pool of a step, with its outputs by the model."""
        if self.queue:
            self.queue.begin(outputs)
        return self

    def contrasts(self, embeddings, labels):
        """Arguments of a loss: contrasts (M, D), contrast_labels (M,) or contrast_distributions (M, C), and offset.

        embeddings  (n, D), with a queue one of the step's outputs as the objective was given them; labels (n,) integers or
                    (n, C) distributions.
        Raises ValueError where processes differ in how many of their anchors have a positive, as the mean of their losses would
        then not be the loss of the whole batch. Two views of every image always leave every anchor one.
        """
        z, y = gathered(embeddings, self.place.world_size), gathered(labels, self.place.world_size)
        batch = len(y)
        if self.queue:
            past_z, past_y = self.queue.past(embeddings, labels)
            z, y = torch.cat((z, past_z)), torch.cat((y, past_y))
        if self.place.world_size > 1:
            check_anchors(y, batch, self.place.world_size)
        name = "contrast_labels" if labels.ndim == 1 else "contrast_distributions"
        return {"contrasts": z, name: y, "offset": self.place.rank * len(embeddings)}


@dataclass(frozen=True)
class QueueSettings:
    """size > 0, in embeddings: an image gives one for each view. momentum from 0 to below 1. Raises ValueError for others."""

    size: int
    momentum: float = 0.999

    def __post_init__(self):
        if not (type(self.size) is int and self.size > 0):
            raise ValueError(f"size of the queue is {self.size!r}; expected a whole number > 0. For no queue, leave it out.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum of the queue is {self.momentum!r}; expected 0 to below 1, for example 0.999.")


class Queue:
    """The newest `size` embeddings by a momentum encoder, with their labels (MoCo, He et al., 2020, Alg. 1).

    After each step of the model, weights of the encoder become momentum * own + (1 - momentum) * the model's, and its embeddings
    of the step's inputs, of all processes, join the queue, which is empty at first. In later steps they are contrasts, positives
    as well as negatives. A loss that the objective computes second, or on other labels, has a queue of its own.

    """

    def __init__(self, model, settings, compute, place):
        self.model, self.settings, self.compute, self.place = model, settings, compute, place
        self.encoder = copy.deepcopy(model).requires_grad_(False).train()
        self.entries = []  # of each of the objective's losses, oldest first: (embeddings (n, D), labels (n,) or (n, C))

    def begin(self, outputs):
        self.outputs, self.asked = outputs, []  # (name of the output, labels) of each of the objective's losses

    def past(self, embeddings, labels):
        """Queued embeddings and labels for the loss that the objective is about to compute."""
        names = [name for name, x in vars(self.outputs).items() if x is embeddings]
        if not names:
            raise ValueError(
                "contrasts with a queue was given other embeddings than the model's; expected outputs.embedding or "
                "outputs.projection."
            )
        self.asked.append((names[0], labels))
        if len(self.asked) > len(self.entries):
            self.entries.append((embeddings.detach()[:0], labels[:0]))
        return self.entries[len(self.asked) - 1]

    @torch.no_grad()
    def update(self, inputs):
        """After a step of the model on inputs."""
        if not self.asked:
            raise ValueError(
                f"there is a queue of {self.settings.size} but the objective asked for no contrasts; give its loss "
                "**batch.contrasts(...)."
            )
        for own, theirs in zip(self.encoder.parameters(), self.model.parameters(), strict=True):
            own.lerp_(theirs, 1 - self.settings.momentum)
        outputs = self.encoder.outputs(embed(self.encoder.encoder, inputs, self.compute))
        new = [(getattr(outputs, name), labels) for name, labels in self.asked]
        self.entries = [tuple(map(self._newest, *pair)) for pair in zip(self.entries, new, strict=True)]

    def _newest(self, past, own):
        return torch.cat((past, gathered(own, self.place.world_size)))[-self.settings.size :]

    def state_dict(self):
        return {"encoder": self.encoder.state_dict(), "entries": self.entries}

    def load_state_dict(self, state):
        self.encoder.load_state_dict(state["encoder"])
        self.entries = [tuple(x.to(self.place.device) for x in pair) for pair in state["entries"]]


def check_anchors(labels, batch, world_size):
    """labels (M,) or distributions (M, C) of all contrasts, the first `batch` of them also anchors, process after process."""
    if labels.ndim == 1:
        _, numbers, counts = labels.unique(return_inverse=True, return_counts=True)
        has_positive = counts[numbers[:batch]] > 1
    else:
        q = F.normalize(labels.double())
        has_positive = q[:batch] @ q.sum(0) > 1 + 1e-9  # similarity to itself is 1
    anchors = has_positive.view(world_size, -1).sum(1).tolist()
    if len(set(anchors)) > 1:
        raise ValueError(
            f"of {batch // world_size} anchors in each of {world_size} processes {', '.join(map(str, anchors))} have a positive; "
            "expected as many in each. Take two views of every image, or one process."
        )
