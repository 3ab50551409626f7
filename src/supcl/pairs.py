"""Anchors and their contrasts: checked, scaled to unit length, and reduced over the pairs that a loss asks for.

Pairs knows for each anchor its others (every contrast but the anchor itself), its positives and its negatives. A loss asks
`reduce` for log-sum-exps and means over them, joins these to a term for each anchor, and takes the `mean` over anchors.

Two engines stand behind `reduce`. The readable one is `_reduce_block` below: plain torch, a block of anchors at a time, which
is computed again for the gradient, so that memory stays linear in N. It runs on every device and has every derivative. The
tiled one (tiled.py) is several times faster on a CPU and has first derivatives only.
"""

import contextlib
import math
import numbers
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from supcl import tiled
from supcl.tiled import LOWEST, NO_SIMILARITY, NOTHING

Engine = Literal["auto", "readable", "tiled"]

LARGEST = 1e30  # exponents stay below this in size, far from LOWEST
TILE = 512  # rows of a tile: a few tiles fit a processor's cache
ENTRIES = 2**23  # similarities in a block of the readable engine: 32 MB in float32


class LogSumExp(NamedTuple):
    """log sum_j exp(factor s_ij) over the others, positives or negatives j of anchor i; LOWEST if it has none."""

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
    positives            (N,) the number |P(i)| of each anchor's positives, or sum_j c_ij; `reduce` counts them.
    negatives            (N,) the number |N(i)| of its negatives.
    """

    def __init__(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        temperature: float,
        contrasts: Tensor | None,
        contrast_labels: Tensor | None,
        offset: int | None,
        engine: Engine,
        block: int | None,
        soft: bool = False,
    ):
        _check_settings(temperature, engine, block)
        name, contrast_name = ("label_distributions", "contrast_distributions") if soft else ("labels", "contrast_labels")
        rows_of_labels = _distributions if soft else _classes
        _check_embeddings("embeddings", embeddings, "(N, D), or (B, V, D) for V views of B images,", (2, 3))
        self.anchors = self.contrasts = _unit_rows("embeddings", embeddings.flatten(0, -2))
        if contrasts is not None:
            _check_contrasts(contrasts, self.anchors, offset)
            self.contrasts = _unit_rows("contrasts", contrasts).to(self.anchors.dtype)
        elif offset is not None:
            raise ValueError(f"offset is {offset!r} but contrasts is None; expected contrasts with the anchors among them.")
        if (contrast_labels is None) != (contrasts is None):
            given, missing = ("contrasts", contrast_name) if contrast_labels is None else (contrast_name, "contrasts")
            raise ValueError(f"{missing} is None but {given} is given; expected both or neither.")
        self.labels = self.contrast_labels = rows_of_labels(name, labels, "embeddings", embeddings)
        if contrasts is not None:
            self.contrast_labels = rows_of_labels(contrast_name, contrast_labels, "contrasts", contrasts)
            _check_same_labels(self.labels, self.contrast_labels, offset)
        self.temperature = temperature
        self.symmetric = contrasts is None  # anchors are each other's contrasts
        self.offset = 0 if self.symmetric else offset  # anchor i is row offset + i of contrasts; None: it is not among them
        self._own = 0 if self.offset is None else 1  # how many contrasts an anchor itself is
        self.tiled = self._takes_tiles(engine, block or TILE)
        self.block = block or (TILE if self.tiled else max(1, ENTRIES // max(1, len(self.contrasts))))

    @property
    def negatives(self) -> Tensor:
        return len(self.contrasts) - self._own - self.positives

    def reduce(self, *terms: LogSumExp | Mean) -> list[Tensor]:
        """Each term for each anchor, (N,)."""
        for term in terms:
            if isinstance(term, LogSumExp) and abs(term.factor) > LARGEST * self.temperature:
                raise ValueError(
                    f"A factor of {term.factor:g} over a temperature of {self.temperature:g} is beyond {LARGEST:g}, more than "
                    "float32 can hold; expected a higher temperature or less hardness."
                )
        if len(self.contrasts) == 0:
            values, self.positives = [0 * self.anchors.sum(1)] * len(terms), self.anchors.new_zeros(len(self.anchors))
        else:
            with _full_precision(self.anchors.device):
                *values, self.positives = self._reduce_tiles(terms) if self.tiled else self._reduce_blocks(terms)
        return values

    def mean(self, per_anchor: Tensor) -> Tensor:
        """The mean over the anchors that have a positive, and 0 if no anchor has one."""
        without_positive = self.positives <= NO_SIMILARITY
        return per_anchor.masked_fill(without_positive, 0).sum() / (~without_positive).sum().clamp(min=1)

    def _reduce_block(self, terms, anchors, labels, first):
        """The terms of B anchors, which start at row `first`, and their positives: (B,) each."""
        s = anchors / self.temperature @ self.contrasts.T  # (B, M)
        itself = self._itself(len(anchors), first)  # (B, M) bool
        without = {"others": itself}  # pairs that a relation leaves out, (B, M) bool
        if labels.ndim == 2:
            c = (labels @ self.contrast_labels.T).masked_fill(itself, 0)  # (B, M)
            positives = c.sum(1)
        else:
            same = labels[:, None] == self.contrast_labels  # (B, M) bool
            without.update({"positives": ~same | itself, "negatives": same})
            positives = same.sum(1, dtype=s.dtype) - self._own
        values = []
        for term in terms:
            if isinstance(term, Mean):
                attraction = c * s if labels.ndim == 2 else s.masked_fill(without["positives"], 0)  # c_ij s_ij
                values.append(attraction.sum(1) / positives.clamp(min=NO_SIMILARITY))
            else:
                exponent = s if term.factor == 1 else term.factor * s
                largest = exponent.detach().masked_fill(without[term.over], LOWEST).amax(1, keepdim=True)  # (B, 1)
                exponent = (exponent - largest).masked_fill(without[term.over], NOTHING)  # largest off, or exp() overflows
                values.append(exponent.exp().sum(1).log() + largest.squeeze(1))
        return *values, positives

    def _itself(self, rows, first):
        """Which contrasts are the anchors themselves: (B, M) bool."""
        itself = torch.zeros(rows, len(self.contrasts), dtype=torch.bool, device=self.contrasts.device)
        if self.offset is not None:
            itself.diagonal(first + self.offset).fill_(True)
        return itself

    def _reduce_blocks(self, terms):
        """The terms of all anchors and their positives, (N,) each. A block is computed again for its gradient."""
        if len(self.anchors) <= self.block:
            return self._reduce_block(terms, self.anchors, self.labels, 0)
        starts = range(0, len(self.anchors), self.block)
        blocks = zip(self.anchors.split(self.block), self.labels.split(self.block), starts, strict=True)
        if torch.compiler.is_compiling() or _has_values(self.anchors):
            results = [checkpoint(self._reduce_block, terms, *block, use_reentrant=False) for block in blocks]
        else:  # torch.func refuses checkpoints
            results = [self._reduce_block(terms, *block) for block in blocks]
        return [torch.cat(parts) for parts in zip(*results, strict=True)]

    def _reduce_tiles(self, terms):
        """The same as _reduce_blocks from tiled.py, which takes log-sum-exps and the mean apart."""
        log_sum_exps = [tuple(term) for term in terms if isinstance(term, LogSumExp)]
        logs, mean, positives = tiled.reduce(self, log_sum_exps, mean=len(log_sum_exps) < len(terms))
        logs = iter(logs)
        return *(mean if isinstance(term, Mean) else next(logs) for term in terms), positives

    def _takes_tiles(self, engine, tile):
        """Whether tiles are asked for, or pay: on a CPU, for more than one of them."""
        large = max(len(self.anchors), len(self.contrasts)) > tile
        if engine == "readable" or (engine == "auto" and not (large and self.anchors.device.type == "cpu")):
            return False
        refusal = None
        if not (_has_values(self.anchors) and _has_values(self.contrasts)):
            refusal = "torch.compile, torch.export or a transform of torch.func"
        elif self.labels.requires_grad or self.contrast_labels.requires_grad:
            refusal = "a gradient with respect to label distributions"
        if engine == "tiled" and refusal:
            raise ValueError(f'engine is "tiled", which does not support {refusal}; expected engine="readable" or "auto".')
        return not refusal


def _classes(name, labels, of, embeddings):
    """Checked integer labels, one for each row of embeddings: (N,) int64."""
    if labels is None and embeddings.ndim == 2:
        raise ValueError(
            f"{name} is None but {of} has shape {tuple(embeddings.shape)}; expected views (B, V, D) where there are no labels. "
            "With two views of each image, (B, D) each, write torch.stack((first, second), 1)."
        )
    if labels is None:  # each image is a class of its own
        labels = torch.arange(len(embeddings), device=embeddings.device)
    if torch.is_tensor(labels) and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if not torch.is_tensor(labels) or labels.ndim != 1 or labels.is_complex():
        raise ValueError(f"{name} has {_found(labels)}; expected (N,) integers. For label distributions use genscl_loss.")
    if labels.is_floating_point():
        raise ValueError(f"{name} has {_found(labels)}; expected (N,) integers. If these number classes, write {name}.long().")
    if len(labels) != len(embeddings):
        hint = f" With two views per image, repeat the labels: {name}.repeat(2)." if len(embeddings) == 2 * len(labels) else ""
        rows = f"{len(embeddings)} rows.{hint}" if embeddings.ndim == 2 else f"{len(embeddings)} images; expected one for each."
        raise ValueError(f"{name} has {len(labels)} entries but {of} has {rows}")
    return _for_each_view(labels.long(), embeddings)


def rows_of_logits(logits: Tensor, labels: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Checked logits (N, C) in float32 or float64, and their labels (N,)."""
    rows = embeddings.shape[:-1]
    if not torch.is_tensor(logits) or logits.shape[:-1] not in (rows, (rows.numel(),)) or not logits.is_floating_point():
        raise ValueError(
            f"logits has {_found(logits)}; expected ({rows.numel()}, classes) floating point, a row for each embedding."
        )
    labels, logits = _classes("labels", labels, "embeddings", embeddings), _upcast(logits.flatten(0, -2))
    if _reads_freely(labels):
        lowest, highest = (bound.item() for bound in labels.aminmax())
        if lowest < 0 or highest >= logits.shape[1]:
            raise ValueError(f"labels go from {lowest} to {highest}; expected 0 to {logits.shape[1] - 1}, the columns of logits.")
    _check_finite("logits", logits)
    return logits, labels


def check_choice(name: str, value: str, choices: dict[str, str]) -> None:
    """Refuses a value that is none of the choices, which are given with their meaning."""
    if value not in choices:
        expected = " or ".join(f'"{choice}" ({meaning})' for choice, meaning in choices.items())
        raise ValueError(f"{name} is {value!r}; expected {expected}.")


def check_number(name: str, value: float, expected: str, fits: Callable[[float], bool]) -> None:
    """Refuses what is not a finite number that fits."""
    if not isinstance(value, numbers.Real):
        raise ValueError(f"{name} is {value!r} of type {type(value).__name__}; expected {expected}.")
    if not (-math.inf < value < math.inf and fits(value)):
        raise ValueError(f"{name} is {value}; expected {expected}.")


def _check_settings(temperature, engine, block):
    check_number("temperature", temperature, "a number > 0, for example 0.1", lambda t: t > 0)
    check_choice("engine", engine, {"auto": "the faster one that fits", "readable": "plain torch", "tiled": "fast on a CPU"})
    if block is not None and not (isinstance(block, int) and block > 0):
        raise ValueError(f"block is {block!r}; expected a whole number > 0, or None to have it chosen.")
    if torch.jit.is_tracing():
        raise RuntimeError("torch.jit.trace would keep what depends on this batch; use torch.export.export or torch.compile.")


def _check_embeddings(name, x, expected, axes):
    if not torch.is_tensor(x) or x.ndim not in axes or x.shape[-1] == 0 or not x.is_floating_point():
        integers = torch.is_tensor(x) and not x.is_floating_point() and not x.is_complex()
        hint = f" Write {name}.float()." if integers else ""
        raise ValueError(f"{name} has {_found(x)}; expected {expected} floating point.{hint}")


def _check_contrasts(contrasts, anchors, offset):
    _check_embeddings("contrasts", contrasts, "(M, D)", (2,))
    if contrasts.shape[1] != anchors.shape[1]:
        raise ValueError(f"contrasts has {contrasts.shape[1]} columns; expected {anchors.shape[1]}, as embeddings.")
    last = len(contrasts) - len(anchors)
    if offset is not None and not (isinstance(offset, int) and 0 <= offset <= last):
        raise ValueError(
            f"offset is {offset!r} with {len(anchors)} embeddings and {len(contrasts)} contrasts; expected a whole "
            f"number from 0 to {last}, or None where embeddings are not among contrasts."
        )


def _check_same_labels(labels, contrast_labels, offset):
    if labels.ndim == 2 and labels.shape[1] != contrast_labels.shape[1]:
        columns = contrast_labels.shape[1]
        raise ValueError(
            f"contrast_distributions has {columns} columns; expected {labels.shape[1]}, those of label_distributions."
        )
    if offset is None or labels.ndim == 2 or not _reads_freely(labels):
        return
    if not labels.equal(contrast_labels[offset : offset + len(labels)]):
        raise ValueError(
            f"contrast_labels from row {offset} on differ from labels; expected the same, as offset says that "
            "embeddings are these rows of contrasts."
        )


def _check_finite(name, x):
    if not _reads_freely(x) or math.isfinite(x.detach().sum()):  # one pass; the sum of finite numbers may overflow, so look again
        return
    if others := int((~x.isfinite()).sum()):
        raise ValueError(f"{name} has {others} entries that are NaN or infinite; expected finite numbers.")


def _distributions(name, q, of, embeddings):
    """Checked distributions, one for each row of embeddings, scaled to unit length: (N, C)."""
    if not torch.is_tensor(q) or q.ndim != 2 or len(q) != len(embeddings) or q.shape[1] == 0 or q.is_complex():
        raise ValueError(
            f"{name} has {_found(q)}; expected ({len(embeddings)}, classes) real numbers, a row for each of {of}. "
            "With integer labels: torch.nn.functional.one_hot(labels, classes)."
        )
    if _reads_freely(q) and q.amin().item() < 0:
        raise ValueError(f"{name} has negative entries; expected probabilities (logits need a softmax).")
    return _for_each_view(_unit_rows(name, q).to(_upcast(embeddings).dtype), embeddings)


def _for_each_view(labels, embeddings):
    return labels if embeddings.ndim == 2 else labels.repeat_interleave(embeddings.shape[1], 0)


def _unit_rows(name, x):
    """x (N, D) with rows of length one, in float32 or float64. A row of zeros stays zero."""
    x = _upcast(x)
    largest = x.detach().abs().amax(1, keepdim=True)  # (N, 1)
    if _reads_freely(x) and not math.isfinite(largest.amax()):
        _check_finite(name, x)
    # Squares of huge and tiny numbers do not fit. Dividing by a power of two changes no digit.
    x = x / largest.masked_fill(largest == 0, 1).log2().floor().exp2()
    return x / x.square().sum(1, keepdim=True).clamp(min=0.25).sqrt()  # clamps rows of zeros alone: others are at least 1 long


def _upcast(x):
    return x if x.dtype == torch.float64 else x.float()


def _has_values(x):
    """Whether x holds numbers of its own, as it does not under torch.compile, torch.export and transforms of torch.func."""
    if torch.compiler.is_compiling():
        return False
    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return True


def _reads_freely(x):
    """Whether there are values of x to look at without waiting for a device."""
    return x.device.type == "cpu" and x.numel() > 0 and _has_values(x)


def _full_precision(device):
    """A context in which autocast does not lower the precision of matrix products."""
    if device.type in ("cpu", "cuda", "mps", "xpu"):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def _found(x):
    return f"shape {tuple(x.shape)} and dtype {x.dtype}" if torch.is_tensor(x) else f"type {type(x).__name__}"
