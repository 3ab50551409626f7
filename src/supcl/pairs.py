"""Anchors and their contrasts: checked, scaled to unit length, and reduced over the pairs that a loss asks for.

Pairs knows for each anchor its others (every contrast but the anchor itself), its positives and its negatives. A loss asks
`reduce` for log-sum-exps and means over them, joins these to a term for each anchor, and takes the `mean` over anchors.

Two engines stand behind `reduce`. The readable one is `_reduce_block` below: plain torch, a block of anchors at a time, which
is computed again for the gradient, so that memory stays linear in N. It runs on every device and has every derivative. The
tiled one (tiled.py) is several times faster on a CPU and has first derivatives only.
"""

import contextlib
import functools
import math
import numbers
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from supcl import tiled

Engine = Literal["auto", "readable", "tiled"]

NO_SIMILARITY = 1e-10  # an anchor whose label is similar to no other by more than this in total has no positive
LARGEST = 1e30  # exponents up to this leave room for a mask in float32, which ends at 3e38
TILE = 512  # rows of a tile: a few tiles fit a processor's cache
ENTRIES = 2**23  # similarities in a block of the readable engine: 32 MB in float32


class LogSumExp(NamedTuple):
    """log sum_j exp(factor s_ij) over the others, positives or negatives j of anchor i; -inf if it has no negatives."""

    over: Literal["others", "positives", "negatives"]
    factor: float = 1


class Mean(NamedTuple):
    """sum_j c_ij s_ij / sum_j c_ij, where c_ij is 1 for positives j, or for soft labels the cosine of i's and j's."""

    over: Literal["positives"]


class Pairs:
    """Anchors (N, D) against contrasts (M, D), whose similarities are s_ij = z_i . z_j / temperature.

    The arguments are those of the losses. Labels are integers, or with `soft` distributions: then any two rows are positive
    to one another by a degree c_ij, the cosine of their distributions.

    anchors, contrasts   (N, D) and (M, D), rows of length one in float32 or float64. A row of zeros stays zero.
    labels               (N,) int64 or (N, C): a label for each anchor, where views of an image are anchors of their own.
    positives            (N,) the number |P(i)| of positives of each anchor, or sum_j c_ij.
    negatives            (N,) the number |N(i)| of its negatives.
    """

    def __init__(self, embeddings, labels, temperature, contrasts, contrast_labels, offset, engine, block, soft=False):
        _check_settings(temperature, engine, block)
        name, contrast_name = ("label_distributions", "contrast_distributions") if soft else ("labels", "contrast_labels")
        rows_of_labels = _distributions if soft else _classes
        _check_embeddings("embeddings", embeddings, "(N, D) or, for V views of B images, (B, V, D),", (2, 3))
        self.temperature, self.offset = temperature, offset
        self.symmetric = contrasts is None  # anchors are each other's contrasts
        self.anchors = self.contrasts = _unit_rows("embeddings", embeddings.flatten(0, -2))
        if self.symmetric:
            _check_no_contrasts(contrast_name, contrast_labels, offset)
            self.offset = 0  # anchor i is row offset + i of contrasts; None: anchors are not among contrasts
        else:
            _check_contrasts(contrasts, contrast_name, contrast_labels, offset, self.anchors)
            self.contrasts = _unit_rows("contrasts", contrasts).to(self.anchors.dtype)
        self.labels = self.contrast_labels = rows_of_labels(name, labels, "embeddings", embeddings, self.anchors.dtype)
        if not self.symmetric:
            self.contrast_labels = rows_of_labels(contrast_name, contrast_labels, "contrasts", contrasts, self.anchors.dtype)
            _check_same_labels(self.labels, self.contrast_labels, offset, contrast_name)
        self.tiled = self._takes_tiles(engine, block or TILE)
        self.block = block or (TILE if self.tiled else max(1, ENTRIES // max(1, len(self.contrasts))))
        self.positives = self._count_positives()
        self.has_positive = self.positives > NO_SIMILARITY

    @property
    def negatives(self) -> Tensor:
        return len(self.contrasts) - int(self.offset is not None) - self.positives

    def reduce(self, *terms: LogSumExp | Mean) -> tuple[Tensor, ...]:
        """Each term for each anchor, (N,). For an anchor without a positive every term is 0, and passes no gradient on."""
        for term in terms:
            if isinstance(term, LogSumExp) and abs(term.factor) > LARGEST * self.temperature:
                raise ValueError(
                    f"A factor of {term.factor:g} over a temperature of {self.temperature:g} is beyond {LARGEST:g}, more than "
                    "float32 can hold; expected a higher temperature or less hardness."
                )
        if len(self.contrasts) == 0:
            return (0 * self.anchors.sum(1),) * len(terms)
        positives = self.positives.masked_fill(~self.has_positive, 1)
        with _full_precision(self.anchors.device):
            if self.tiled:
                values = self._reduce_tiles(terms, positives)
            else:
                values = self._by_block(functools.partial(self._reduce_block, terms), positives)
        return values.masked_fill(~self.has_positive, 0).unbind()

    def mean(self, per_anchor: Tensor) -> Tensor:
        """The mean over the anchors that have a positive, and 0 if no anchor has one."""
        return per_anchor.masked_fill(~self.has_positive, 0).sum() / self.has_positive.sum().clamp(min=1)

    def _reduce_block(self, terms, anchors, labels, positives, first):
        """The terms of B anchors, which start at row `first`: (terms, B)."""
        s = anchors / self.temperature @ self.contrasts.T  # (B, M)
        itself = self._itself(anchors, first)  # (B, M) bool
        c = self._similarity_of_labels(labels)  # (B, M) bool, or float if soft
        without = {"others": itself}  # the pairs that a relation leaves out
        if c.dtype == torch.bool:
            without |= {"positives": ~c | itself, "negatives": c}
        values = []
        for term in terms:
            if isinstance(term, Mean):
                values.append((s * c.to(s.dtype).masked_fill(itself, 0)).sum(1) / positives)
            else:
                exponent = (term.factor * s).masked_fill(without[term.over], torch.finfo(s.dtype).min / 2)
                largest = exponent.detach().amax(1, keepdim=True)
                values.append((exponent - largest).exp().sum(1).log() + largest.squeeze(1))
            if term.over == "negatives":
                values[-1] = values[-1].masked_fill(c.all(1), -math.inf)
        return torch.stack(values)

    def _reduce_tiles(self, terms, positives):
        """The terms of all anchors at once, from tiled.py: (terms, N)."""
        log_sum_exps = iter(tiled.logsumexp(self, [term for term in terms if isinstance(term, LogSumExp)]))
        mean = None if all(isinstance(term, LogSumExp) for term in terms) else tiled.mean_positive(self, positives)
        return torch.stack([mean if isinstance(term, Mean) else next(log_sum_exps) for term in terms])

    def _similarity_of_labels(self, labels):
        """Whether labels are equal, (B, M) bool, or the cosines of distributions, (B, M)."""
        return labels[:, None] == self.contrast_labels if labels.ndim == 1 else labels @ self.contrast_labels.T

    def _itself(self, anchors, first):
        """Which contrast is the anchor itself: (B, M) bool."""
        columns = torch.arange(len(self.contrasts), device=anchors.device)
        if self.offset is None:
            return torch.zeros_like(columns, dtype=torch.bool).expand(len(anchors), -1)
        return torch.arange(len(anchors), device=anchors.device)[:, None] + (first + self.offset) == columns

    def _by_block(self, function, *columns):
        """function(anchors, labels, ..., first) of each block of anchors, joined; computed again for the gradient."""
        columns = self.anchors, self.labels, *columns
        if len(self.anchors) <= self.block:
            return function(*columns, 0)
        blocks = zip(*(x.split(self.block) for x in columns), range(0, len(self.anchors), self.block), strict=True)
        if not (torch.compiler.is_compiling() or _has_values(self.anchors)):  # torch.func does not recompute
            return torch.cat([function(*block) for block in blocks], -1)
        return torch.cat([checkpoint(function, *block, use_reentrant=False) for block in blocks], -1)

    def _count_positives(self):
        if self.labels.ndim == 1:
            ordered = self.contrast_labels.sort().values
            first, end = (torch.searchsorted(ordered, self.labels, right=right) for right in (False, True))
            return (end - first - int(self.offset is not None)).to(self.anchors.dtype)
        with _full_precision(self.anchors.device):
            if self.tiled:
                return tiled.total_similarity(self)
            return self._by_block(self._total_similarity)

    def _total_similarity(self, anchors, labels, first):
        """sum_j c_ij of a block of anchors: (B,)."""
        return self._similarity_of_labels(labels).masked_fill(self._itself(anchors, first), 0).sum(1)

    def _takes_tiles(self, engine, tile):
        soft_gradient = self.labels.requires_grad or self.contrast_labels.requires_grad
        refusal = None
        if not (_has_values(self.anchors) and _has_values(self.contrasts)):
            refusal = "torch.compile, torch.export or a transform of torch.func"
        elif soft_gradient:
            refusal = "a gradient with respect to label distributions"
        if engine == "tiled" and refusal:
            raise ValueError(f'engine is "tiled", which does not support {refusal}; expected engine="readable" or "auto".')
        large = max(len(self.anchors), len(self.contrasts)) > tile
        return engine == "tiled" or (engine == "auto" and large and not refusal and self.anchors.device.type == "cpu")


def check_choice(name, value, choices):
    if value not in choices:
        expected = " or ".join(f'"{choice}" ({meaning})' for choice, meaning in choices.items())
        raise ValueError(f"{name} is {value!r}; expected {expected}.")


def check_number(name, value, expected, fits):
    if not isinstance(value, numbers.Real):
        raise ValueError(f"{name} is {value!r} of type {type(value).__name__}; expected {expected}.")
    if not (-math.inf < value < math.inf and fits(value)):
        raise ValueError(f"{name} is {value}; expected {expected}.")


def rows_of_logits(logits, labels, embeddings):
    """Checked logits (N, C) in float32 or float64, and their labels (N,)."""
    rows = embeddings.shape[:-1]
    if (
        not torch.is_tensor(logits)
        or logits.ndim < 2
        or logits.shape[:-1] not in (rows, (rows.numel(),))
        or not logits.is_floating_point()
    ):
        raise ValueError(
            f"logits has {_found(logits)}; expected ({rows.numel()}, classes) floating point, a row for each embedding."
        )
    labels, logits = _classes("labels", labels, "embeddings", embeddings), _upcast(logits.flatten(0, -2))
    if _read_freely(labels) and ((labels < 0) | (labels >= logits.shape[1])).any():
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}; expected 0 to {logits.shape[1] - 1}, the columns of logits."
        )
    _check_finite("logits", logits)
    return logits, labels


def _check_settings(temperature, engine, block):
    check_number("temperature", temperature, "a number > 0, for example 0.1", lambda t: t > 0)
    check_choice("engine", engine, {"auto": "the faster that fits", "readable": "plain torch", "tiled": "fast on a CPU"})
    if block is not None and not (isinstance(block, int) and block > 0):
        raise ValueError(f"block is {block!r}; expected a whole number > 0, or None to have it chosen.")
    if torch.jit.is_tracing():
        raise RuntimeError("torch.jit.trace would fix what depends on this batch; use torch.export.export or torch.compile.")


def _check_embeddings(name, x, expected, axes):
    if not torch.is_tensor(x) or x.ndim not in axes or x.shape[-1] == 0 or x.is_complex():
        raise ValueError(f"{name} has {_found(x)}; expected {expected} floating point.")
    if not x.is_floating_point():
        raise ValueError(f"{name} has {_found(x)}; expected {expected} floating point. Write {name}.float().")


def _check_no_contrasts(name, contrast_labels, offset):
    if contrast_labels is not None:
        raise ValueError(f"contrasts is None but {name} is given; expected both or neither.")
    if offset is not None:
        raise ValueError(f"offset is {offset!r} but contrasts is None; expected contrasts with the anchors among them.")


def _check_contrasts(contrasts, name, contrast_labels, offset, anchors):
    _check_embeddings("contrasts", contrasts, "(M, D)", (2,))
    if contrasts.shape[1] != anchors.shape[1]:
        raise ValueError(f"contrasts has {contrasts.shape[1]} columns; expected {anchors.shape[1]}, as embeddings.")
    last = len(contrasts) - len(anchors)
    if offset is not None and not (isinstance(offset, int) and 0 <= offset <= last):
        raise ValueError(
            f"offset is {offset!r} with {len(anchors)} embeddings and {len(contrasts)} contrasts; expected a whole "
            f"number from 0 to {last}, or None where embeddings are not among contrasts."
        )
    if contrast_labels is None:
        raise ValueError(f"{name} is None but contrasts is given; expected both or neither.")


def _classes(name, labels, of, embeddings, _=None):
    """Checked integer labels, one for each row of embeddings: (N,) int64."""
    images, views = len(embeddings), embeddings.shape[1] if embeddings.ndim == 3 else 1
    if labels is None and embeddings.ndim == 3:
        labels = torch.arange(images, device=embeddings.device)
    if labels is None:
        raise ValueError(
            f"{name} is None but {of} has shape {tuple(embeddings.shape)}; expected views (B, V, D) where there are no labels. "
            "Of two views of each image, (B, D) each, write torch.stack((first, second), 1)."
        )
    if torch.is_tensor(labels) and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if not torch.is_tensor(labels) or labels.ndim != 1 or labels.is_complex():
        raise ValueError(f"{name} has {_found(labels)}; expected (N,) integers. For label distributions use genscl_loss.")
    if labels.is_floating_point():
        raise ValueError(f"{name} has {_found(labels)}; expected (N,) integers. If it numbers classes, write {name}.long().")
    if len(labels) != images:
        hint = f" With two views per image, repeat the labels: {name}.repeat(2)." if images == 2 * len(labels) else ""
        raise ValueError(f"{name} has {len(labels)} entries but {of} has {images} rows.{hint}")
    return labels.long().contiguous() if views == 1 else labels.long().repeat_interleave(views)


def _distributions(name, q, of, embeddings, dtype):
    """Checked distributions for each row of embeddings, scaled to unit length: (N, C)."""
    if not torch.is_tensor(q) or q.ndim != 2 or len(q) != len(embeddings) or q.shape[1] == 0 or q.is_complex():
        raise ValueError(
            f"{name} has {_found(q)}; expected ({len(embeddings)}, classes) real numbers, a row for each of {of}. "
            "With integer labels: torch.nn.functional.one_hot(labels, classes)."
        )
    if _read_freely(q) and q.numel() and q.amin().item() < 0:
        raise ValueError(f"{name} has negative entries; expected probabilities (logits need a softmax).")
    q = _unit_rows(name, q).to(dtype)
    return q if embeddings.ndim == 2 else q.repeat_interleave(embeddings.shape[1], 0)


def _check_same_labels(labels, contrast_labels, offset, contrast_name):
    if offset is None or labels.ndim == 2 or not _read_freely(labels):
        return
    if not labels.equal(contrast_labels[offset : offset + len(labels)]):
        raise ValueError(
            f"{contrast_name} from row {offset} on differ from labels; expected the same, as offset says that "
            "embeddings are these rows of contrasts."
        )


def _check_finite(name, x):
    if _read_freely(x) and not x.isfinite().all():
        raise ValueError(f"{name} has {int((~x.isfinite()).sum())} entries that are NaN or infinite; expected finite numbers.")


def _unit_rows(name, x):
    """x (N, D) with rows of length one, in float32 or float64. A row of zeros stays zero."""
    x = _upcast(x)
    largest = x.detach().abs().amax(1, keepdim=True)  # (N, 1)
    if _read_freely(x) and not largest.isfinite().all():
        _check_finite(name, x)
    # Squares of huge and tiny numbers do not fit. Dividing by a power of two changes no digit.
    x = x / largest.masked_fill(largest == 0, 1).log2().floor().exp2()
    squares = x.square().sum(1, keepdim=True)
    return x / squares.masked_fill(squares == 0, 0.25).sqrt()


def _upcast(x):
    return x if x.dtype == torch.float64 else x.float()


def _has_values(x):
    """Whether x holds numbers of its own, as it does not inside torch.compile, torch.export and torch.func."""
    if torch.compiler.is_compiling():
        return False
    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return True


def _read_freely(x):
    """Whether values of x can be looked at without waiting for a device."""
    return x.device.type == "cpu" and _has_values(x)


def _full_precision(device):
    """A context in which autocast does not lower the precision of matrix products."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def _found(x):
    return f"shape {tuple(x.shape)} and dtype {x.dtype}" if torch.is_tensor(x) else f"type {type(x).__name__}"
