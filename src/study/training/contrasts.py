"""What anchors are contrasted with beyond their own process's batch: embeddings of other processes, and a queue of past ones."""

import copy

import torch
import torch.distributed as dist
import torch.nn.functional as F

from study.training.compute import embed


def gathered(x, processes):
    """x (n, ...) of all processes, in their order: (processes * n, ...). Gradients flow back to each process's own."""
    if processes == 1:
        return x
    # what torch names in place of its deprecated torch.distributed.nn.functional.all_gather; slow to load
    from torch.distributed._functional_collectives import all_gather_single, wait_tensor

    return wait_tensor(all_gather_single(x.contiguous(), 0, dist.group.WORLD))


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
        z, y = gathered(embeddings, self.place.processes), gathered(labels, self.place.processes)
        batch = len(y)
        if self.queue:
            past_z, past_y = self.queue.past(embeddings, labels)
            z, y = torch.cat((z, past_z)), torch.cat((y, past_y))
        if self.place.processes > 1:
            _check_anchors(y, batch, self.place.processes)
        name = "contrast_labels" if labels.ndim == 1 else "contrast_distributions"
        return {"contrasts": z, name: y, "offset": self.place.rank * len(embeddings)}


class Queue:
    """The newest `size` embeddings by a momentum encoder, with their labels (MoCo, He et al., 2020, Alg. 1).

    After each step of the model, weights of the encoder become momentum * own + (1 - momentum) * the model's, and its embeddings
    of the step's inputs, of all processes, join the queue, which is empty at first. In later steps they are contrasts, positives
    as well as negatives. A loss that the objective computes second, or on other labels, has a queue of its own.

    size      > 0, in embeddings: an image gives one for each view.
    momentum  from 0 to below 1.
    """

    def __init__(self, model, size, momentum, compute, place):
        if not (type(size) is int and size > 0):
            raise ValueError(f"queue_size is {size!r}; expected a whole number > 0, or 0 for no queue.")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum!r}; expected 0 to below 1, for example 0.999.")
        self.model, self.size, self.momentum, self.compute, self.place = model, size, momentum, compute, place
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
                f"queue_size is {self.size} but the objective asked for no contrasts; give its loss **batch.contrasts(...)."
            )
        for own, theirs in zip(self.encoder.parameters(), self.model.parameters(), strict=True):
            own.lerp_(theirs, 1 - self.momentum)
        outputs = self.encoder.outputs(embed(self.encoder.encoder, inputs, self.compute))
        new = [(getattr(outputs, name), labels) for name, labels in self.asked]
        self.entries = [tuple(map(self._newest, *pair)) for pair in zip(self.entries, new, strict=True)]

    def _newest(self, past, own):
        return torch.cat((past, gathered(own, self.place.processes)))[-self.size :]

    def state_dict(self):
        return {"encoder": self.encoder.state_dict(), "entries": self.entries}

    def load_state_dict(self, state):
        self.encoder.load_state_dict(state["encoder"])
        self.entries = [tuple(x.to(self.place.device) for x in pair) for pair in state["entries"]]


def _check_anchors(labels, batch, processes):
    """labels (M,) or distributions (M, C) of all contrasts, the first `batch` of them also anchors, process after process."""
    if labels.ndim == 1:
        _, numbers, counts = labels.unique(return_inverse=True, return_counts=True)
        has_positive = counts[numbers[:batch]] > 1
    else:
        q = F.normalize(labels.double())
        has_positive = q[:batch] @ q.sum(0) > 1 + 1e-9  # similarity to itself is 1
    anchors = has_positive.view(processes, -1).sum(1).tolist()
    if len(set(anchors)) > 1:
        raise ValueError(
            f"of {batch // processes} anchors in each of {processes} processes {', '.join(map(str, anchors))} have a positive; "
            "expected as many in each. Take two views of every image, or one process."
        )
