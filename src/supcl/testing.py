"""A battery of checks for a supervised contrastive loss of anyone's: what it computes, and where it breaks.

    from supcl.testing import check_loss

    report = check_loss(their_loss, like="supcon")     # a function or a module, loss(embeddings, labels) -> scalar
    print(report)                                      # one sentence for each check
    report.raise_if_wrong()

    python -m supcl.testing package.module:loss --like supcon      # prints the report; 1 on exit if something is wrong

Values are compared with a double loop over Python floats, written below from the printed formulas. It shares no line with
supcl.losses, which is checked by this battery like any other loss. Where the values are not the formula's, the loop is
repeated with the conventions that released code is known for, and the one that fits is named.
"""

import argparse
import copy
import functools
import importlib
import inspect
import itertools
import math
import numbers
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Verdict = Literal["ok", "differs", "wrong", "not run"]

CLOSE = 1e-5  # relative; float32 keeps it, and no two conventions come so near to one another
CLOSE_GRADIENT = 1e-4  # relative to the largest entry, against differences of the loop
CLOSE_HALF = 0.05  # relative; half precision that is summed with care stays far below
COMMON_TEMPERATURES = (0.1, 0.07, 0.5, 0.05, 0.2, 0.3, 0.01, 1.0)
OTHER_TEMPERATURE, LOW_TEMPERATURE = 0.3, 0.01
DIMENSIONS = 5


class Finding(NamedTuple):
    """The result of one check. "differs" is a choice that one should know of; "wrong" is a defect."""

    check: str
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Report:
    """The findings on a loss: iterate over them, print them, or raise if one is wrong."""

    loss: str
    like: str
    findings: tuple[Finding, ...]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __str__(self) -> str:
        lines = [f"{finding.verdict:8} {finding.check:16} {finding.sentence}" for finding in self]
        return "\n".join([f"{self.loss}, checked as {self.like}", *lines])

    @property
    def wrong(self) -> list[Finding]:
        return [finding for finding in self if finding.verdict == "wrong"]

    def raise_if_wrong(self) -> None:
        """Raises AssertionError with the sentences of all checks that found a defect."""
        if self.wrong:
            sentences = [finding.sentence for finding in self.wrong]
            raise AssertionError("\n".join([f"{self.loss}, checked as {self.like}, is wrong:", *sentences]))


def check_loss(
    loss: Callable[..., Tensor],
    like: str = "supcon",
    *,
    temperature: float | None = None,
    views: bool | None = None,
    **settings: float,
) -> Report:
    """Checks a loss against the formula of `like` and reports what it does; the loss itself is left as it is.

    loss         called as loss(embeddings (N, D), labels (N,)), for "genscl" as loss(embeddings, label_distributions (N, C)),
                 for "clce" as loss(logits (N, C), embeddings, labels). It returns a scalar.
    like         "supcon", "schane", "clce", "genscl" or "tcl".
    temperature  that of the loss. None reads its attribute or argument `temperature` or `tau`, and else tries common ones.
    views        whether embeddings are taken as (B, V, D), as SupContrast does. None tries (N, D) first, then (N, 1, D).
    settings     hardness, weight, k1 and k2, where the formula has them; by default as the loss states, or as supcl does.

    Raises ValueError for an unknown `like` or a temperature too low for the loop, and TypeError for an unknown setting. A loss
    that fails is a finding, not an error.
    """
    if like not in FORMULAS:
        raise ValueError(f"like is {like!r}; expected one of {', '.join(FORMULAS)}.")
    defaults = FORMULAS[like].settings
    if unknown := set(settings) - set(defaults):
        raise TypeError(f"{like} has no setting {', '.join(sorted(unknown))}; expected one of {', '.join(defaults) or 'none'}.")
    settings = {name: settings.get(name, _stated(loss, name, default=value)) for name, value in defaults.items()}
    if temperature is None:
        temperature = _stated(loss, "temperature", "tau")
    if temperature is not None and not _fits_float64(temperature, settings):
        raise ValueError(f"temperature is {temperature:g}; expected > 0, and so much that the loop's exponentials fit a float64.")
    theirs = _Theirs(loss, like, bool(views))
    try:
        if views is None:
            theirs = _with_views_if_needed(theirs)
        values = [theirs.value(batch) for batch in _value_batches()]
    except Exception as error:  # whatever their code raises
        return Report(_name(loss), like, (Finding("call", "wrong", f"The loss cannot be called: {_first_line(error)}"),))
    convention, findings = _recognise(theirs, values, temperature, settings)
    for check in (_gradient, _shuffled_labels, _order, _label_names, _scale, _views, _degenerate, _precision, _low_temperature):
        try:
            findings += check(theirs, convention)
        except Exception as error:  # whatever their code raises
            name = check.__name__.strip("_").replace("_", " ")
            findings.append(Finding(name, "wrong", f"The loss fails on this check's batch: {_first_line(error)}"))
    return Report(_name(loss), like, tuple(findings))


# Batches


@dataclass(frozen=True)
class _Batch:
    """z (N, D) of unit length, labels y (N,), label distributions q (N, C) and logits (N, C), in float64."""

    z: Tensor
    y: Tensor
    q: Tensor
    logits: Tensor

    def __getitem__(self, rows: Any) -> "_Batch":
        return _Batch(self.z[rows], self.y[rows], self.q[rows], self.logits[rows])


def _batch(labels: list[int], soft: bool = False) -> _Batch:
    """Always the same rows for the same number of labels. Soft distributions have something of every class."""
    draw = torch.Generator().manual_seed(len(labels))
    z = torch.randn(len(labels), DIMENSIONS, generator=draw, dtype=torch.float64)
    y = torch.tensor(labels, dtype=torch.long)
    classes = max(labels, default=0) + 1
    q = torch.nn.functional.one_hot(y, classes).double()
    if soft:
        q = q + torch.rand(q.shape, generator=draw, dtype=torch.float64)
        q = q / q.sum(1, keepdim=True)
    logits = torch.randn(len(labels), classes, generator=draw, dtype=torch.float64)
    return _Batch(torch.nn.functional.normalize(z, dim=1), y, q, logits)


def _value_batches() -> list[_Batch]:
    """Of other sizes than those of other checks: a mask kept while the size is the same shows in _shuffled_labels alone."""
    labels = ([0, 0, 1, 1, 1, 0, 2, 2], [0, 1, 0, 1, 0, 1, 0, 1, 0], [2, 2, 2, 2, 2, 0, 0, 0, 1, 1, 0, 2])
    return [_batch(row, soft=True) for row in labels]


# The loop


@dataclass(frozen=True)
class _Convention:
    """What a loss computes: the temperature, a choice of each alternative, the settings, and a factor over all."""

    temperature: float
    choice: dict[str, str]
    settings: dict[str, float]
    reduction: str = "mean"
    alone: str = "left out"
    factor: float = 1.0


class _Pairs(NamedTuple):
    """One anchor: similarities s to all rows, degrees d by which they are positive, and who the others are."""

    i: int
    s: list[float]
    d: list[float]
    others: list[int]
    positives: list[int]
    negatives: list[int]


def _loop(like: str, batch: _Batch, convention: _Convention) -> float:
    """The loss of a batch by the printed formula, or with the conventions given. Rows are scaled to unit length."""
    rows = [[x / (math.hypot(*row) or 1.0) for x in row] for row in batch.z.tolist()]
    y, q = batch.y.tolist(), batch.q.tolist()
    terms, weights, n = [], [], len(rows)
    for i in range(n):
        s = [_dot(rows[i], row) / convention.temperature for row in rows]
        others = [j for j in range(n) if j != i]
        if like == "genscl":
            d = [_dot(q[i], other) / (math.hypot(*q[i]) * math.hypot(*other)) for other in q]
        else:
            d = [float(y[i] == other) for other in y]
        pairs = _Pairs(i, s, d, others, [j for j in others if d[j] > 0], [j for j in others if d[j] == 0])
        if pairs.positives:
            weights.append(len(pairs.positives) if convention.reduction == "pairs" else 1)
            terms.append(weights[-1] * FORMULAS[like].term(pairs, convention))
    counted = sum(weights) if convention.alone == "left out" else n
    contrastive = sum(terms) / (1 if convention.reduction == "sum" else counted or 1)
    if like != "clce":
        return convention.factor * contrastive
    losses = [math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(batch.logits.tolist(), y, strict=True)]
    cross_entropy = sum(losses) / (1 if convention.reduction == "sum" else n or 1)
    weight = convention.settings["weight"]
    if convention.choice["weight"] == "cross-entropy":
        weight = 1 - weight
    return convention.factor * ((1 - weight) * cross_entropy + weight * contrastive)


def _supcon_term(pairs: _Pairs, convention: _Convention) -> float:
    """-1/|P| sum_p log( exp(s_p) / sum_a exp(s_a) ), Khosla et al., 2020, Eq. 2; with "in" the mean is inside, Eq. 3."""
    s, choice = pairs.s, convention.choice
    positives = pairs.positives + [pairs.i] * (choice["own"] == "as a positive")
    base = sum(math.exp(s[n]) for n in pairs.negatives) + math.exp(s[pairs.i]) * (choice["own"] != "left out")
    every_positive = sum(math.exp(s[p]) for p in pairs.positives)
    shares = []
    for p in positives:
        extra = {"all": every_positive, "one positive": math.exp(s[p]), "no positive": 0.0}[choice["denominator"]]
        if base + extra == 0:
            return 0.0  # no negative, and no positive in the denominator
        shares.append(math.exp(s[p]) / (base + extra))
    if choice["form"] == "out":
        return -sum(map(math.log, shares)) / len(positives)
    return -math.log(sum(shares) / (len(positives) if choice["form"] == "in" else 1))


def _genscl_term(pairs: _Pairs, convention: _Convention) -> float:
    """-sum_j d_j log( exp(s_j) / sum_a exp(s_a) ) / sum_j d_j, Kim et al., 2022, released code."""
    s, choice = pairs.s, convention.choice
    total = sum(math.exp(s[a]) for a in pairs.others) + math.exp(s[pairs.i]) * (choice["own"] == "in the denominator")
    weight = sum(pairs.d[j] for j in pairs.others) if choice["prefactor"] == "similarities" else len(pairs.others)
    return -sum(pairs.d[j] * (s[j] - math.log(total)) for j in pairs.others) / weight


def _schane_term(pairs: _Pairs, convention: _Convention) -> float:
    """-log( m / (m + R) ), m the mean of exp(s_p), R the sum of w_n exp(s_n), where w_n ~ exp(beta s_n) averages one."""
    s, choice, beta = pairs.s, convention.choice, convention.settings["hardness"]
    if choice["weights"] == "cosines":
        beta *= convention.temperature  # exp(beta cos): no temperature inside the weights
    positive = sum(math.exp(s[p]) for p in pairs.positives)
    own = math.exp(s[pairs.i]) * (choice["own"] == "in the denominator")
    rest = own
    if pairs.negatives:
        mean_weight = sum(math.exp(beta * s[n]) for n in pairs.negatives) / len(pairs.negatives)
        weighted = pairs.others if choice["weights"] == "positives too" else pairs.negatives
        rest += sum(math.exp(beta * s[j]) / mean_weight * math.exp(s[j]) for j in weighted)
    if choice["positives"] == "mean":
        return math.log1p(rest / (positive / len(pairs.positives)))
    return math.log(len(pairs.positives)) + math.log1p(rest / positive)


def _tcl_term(pairs: _Pairs, convention: _Convention) -> float:
    """-1/|P| sum_p log( exp(s_p) / D ), D = sum_p exp(s_p) + k1 sum_p exp(-cos_p) + k2 sum_n exp(s_n), released code."""
    s, choice, k1, k2 = pairs.s, convention.choice, convention.settings["k1"], convention.settings["k2"]
    scale = convention.temperature if choice["k1"] == "cosines" else 1.0
    total = sum(math.exp(s[p]) + k1 * math.exp(-s[p] * scale) for p in pairs.positives)
    total += k2 * sum(math.exp(s[n]) for n in pairs.negatives)
    total += math.exp(s[pairs.i]) * (choice["own"] == "in the denominator")
    return sum(math.log(total) - s[p] for p in pairs.positives) / len(pairs.positives)


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


class _Formula(NamedTuple):
    """alternatives: by topic, what may be chosen, the formula's own first, and a verdict and a sentence on each other."""

    term: Callable[[_Pairs, _Convention], float]
    alternatives: dict[str, dict[str, tuple[Verdict, str]]]
    settings: dict[str, float] = {}


_FORMULA = ("ok", "")
_OWN: dict[str, tuple[Verdict, str]] = {
    "left out": _FORMULA,
    "in the denominator": ("wrong", "The anchor is not removed from the denominator: its similarity to itself is counted there."),
}
_SCHANE: dict[str, dict[str, tuple[Verdict, str]]] = {
    "positives": {
        "mean": _FORMULA,
        "sum": ("differs", "Positives are summed in the denominator, where SCHaNe's released code takes their mean."),
    },
    "weights": {
        "negatives": _FORMULA,
        "cosines": (
            "differs",
            "The weights of negatives come from bare cosines; in the released code a temperature divides them.",
        ),
        "positives too": ("wrong", "The weighted sum in the denominator runs over positives too, not over negatives alone."),
    },
    "own": _OWN,
}
FORMULAS = {
    "supcon": _Formula(
        _supcon_term,
        {
            "form": {
                "out": _FORMULA,
                "in": ("differs", "The mean over positives is inside the logarithm: L_in (Eq. 3), not L_out (Eq. 2)."),
                "in, summed": ("differs", "Positives are summed inside the logarithm: L_in (Eq. 3) without its mean."),
            },
            "denominator": {
                "all": _FORMULA,
                "one positive": ("differs", "The denominator has the negatives and one positive at a time, not all positives."),
                "no positive": ("differs", "The denominator has the negatives alone; the formula has positives there too."),
            },
            "own": _OWN | {"as a positive": ("wrong", "The anchor is not removed: it counts as a positive of its own.")},
        },
    ),
    "schane": _Formula(_schane_term, _SCHANE, {"hardness": 1.0}),
    "clce": _Formula(
        _schane_term,
        _SCHANE
        | {
            "weight": {
                "contrastive": _FORMULA,
                "cross-entropy": ("differs", "The weight multiplies the cross-entropy; here it multiplies the contrastive loss."),
            }
        },
        {"hardness": 1.0, "weight": 0.9},
    ),
    "genscl": _Formula(
        _genscl_term,
        {
            "prefactor": {
                "similarities": _FORMULA,
                "count": (
                    "differs",
                    "Terms are divided by the number of the others, not by the sum of their label similarities.",
                ),
            },
            "own": _OWN,
        },
    ),
    "tcl": _Formula(
        _tcl_term,
        {
            "k1": {
                "cosines": _FORMULA,
                "similarities": (
                    "differs",
                    "A temperature divides the cosines in the sum of k1; in the released code none does.",
                ),
            },
            "own": _OWN,
        },
        {"k1": 5000.0, "k2": 1.0},
    ),
}
REDUCTIONS = {
    "mean": "",
    "sum": "Anchors are summed; the formula takes their mean.",
    "pairs": "The mean is over positive pairs, so anchors weigh by their number of positives; the formula weighs all alike.",
}
FACTORS: dict[str, Callable[[float], float]] = {
    "1": lambda temperature: 1.0,
    "temperature / 0.07": lambda temperature: temperature / 0.07,
    "temperature": lambda temperature: temperature,
    "1 / temperature": lambda temperature: 1 / temperature,
}


# Their loss


@dataclass(frozen=True)
class _Theirs:
    """Their loss as a function of a batch."""

    loss: Callable[..., Tensor]
    like: str
    views: bool

    def __call__(self, batch: _Batch, z: Tensor | None = None) -> Tensor:
        """A scalar. z replaces the batch's embeddings, in any precision; raises TypeError if anything else is returned."""
        z = batch.z if z is None else z
        rows = z[:, None] if self.views and z.ndim == 2 else z
        second = batch.q.to(z.dtype) if self.like == "genscl" else batch.y
        value = self.loss(batch.logits.to(z.dtype), rows, second) if self.like == "clce" else self.loss(rows, second)
        if not torch.is_tensor(value) or value.numel() != 1:
            returned = f"a tensor of shape {tuple(value.shape)}" if torch.is_tensor(value) else f"{type(value).__name__}"
            raise TypeError(f"it returns {returned}; expected a tensor with one number.")
        return value.reshape(())

    def value(self, batch: _Batch, z: Tensor | None = None) -> float:
        return float(self(batch, z).detach())

    def gradient(self, batch: _Batch, z: Tensor | None = None) -> Tensor:
        """(N, D), with respect to embeddings before they are scaled to unit length, whoever scales them."""
        leaf = (batch.z if z is None else z).clone().requires_grad_()
        value = self(batch, torch.nn.functional.normalize(leaf, dim=-1))
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)
        return gradient

    def at(self, temperature: float) -> "_Theirs":
        """The same loss at another temperature; raises LookupError if no attribute or argument sets one."""
        for name in ("temperature", "tau"):
            if isinstance(getattr(self.loss, name, None), numbers.Real):
                other = copy.deepcopy(self.loss)  # a shallow copy shares bound methods with the original
                setattr(other, name, temperature)
                return replace(self, loss=other)
            if name in _parameters(self.loss):
                return replace(self, loss=functools.partial(self.loss, **{name: temperature}))
        raise LookupError("no attribute or argument sets the temperature")


def _with_views_if_needed(theirs: _Theirs) -> _Theirs:
    """Rows (N, D) if the loss takes them, else (N, 1, D). If it takes neither, the error is that of rows."""
    try:
        theirs(_batch([0, 0, 1, 1]))
    except Exception:  # whatever their code raises
        with_views = replace(theirs, views=True)
        try:
            with_views(_batch([0, 0, 1, 1]))
        except Exception:
            return theirs
        return with_views
    return theirs


def _fits_float64(temperature: float, settings: dict[str, float]) -> bool:
    """Whether exp((1 + hardness) / temperature), the largest exponential in the loop, does."""
    return temperature > 0 and (1 + settings.get("hardness", 0.0)) / temperature < math.log(sys.float_info.max) - 10


def _stated(loss: Callable[..., Tensor], *names: str, default: float | None = None) -> float | None:
    """The number under one of these names: an attribute of a module, or the default of a function's argument."""
    for name in names:
        value = getattr(loss, name, None)
        if value is None and name in _parameters(loss):
            value = _parameters(loss)[name].default
        if isinstance(value, numbers.Real) or (torch.is_tensor(value) and value.numel() == 1):
            return float(value)
    return default


def _parameters(loss: Callable[..., Tensor]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(loss).parameters)
    except (TypeError, ValueError):  # built-in functions have no signature
        return {}


def _name(loss: Callable[..., Tensor]) -> str:
    return getattr(loss, "__qualname__", None) or " ".join(repr(loss).split())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _difference(a: float, b: float) -> float:
    """Relative; infinite where one is not finite."""
    return abs(a - b) / max(abs(b), 1e-3) if math.isfinite(a) and math.isfinite(b) else math.inf


# The checks


def _recognise(
    theirs: _Theirs, values: list[float], stated: float | None, settings: dict[str, float]
) -> tuple[_Convention | None, list[Finding]]:
    """The convention with the fewest deviations that gives their values on all batches, up to a factor; findings on it."""
    batches = _value_batches()
    formula = FORMULAS[theirs.like]
    temperatures = COMMON_TEMPERATURES
    if stated is not None:  # else it may be ignored, applied twice, or multiplied by
        temperatures = tuple(dict.fromkeys((stated, 1.0, stated**2, 1 / stated, *COMMON_TEMPERATURES)))
    choices = [dict(zip(formula.alternatives, names, strict=True)) for names in itertools.product(*formula.alternatives.values())]
    candidates = [
        _Convention(temperature, choice, settings, reduction)
        for temperature, choice, reduction in itertools.product(temperatures, choices, REDUCTIONS)
        if _fits_float64(temperature, settings)
    ]
    fitting = [replace(c, factor=factor) for c in candidates if (factor := _factor(theirs.like, batches, values, c)) is not None]
    if not fitting:
        expected = _loop(theirs.like, batches[0], candidates[0])
        sentence = (
            f"The values fit neither the formula nor any of {len(candidates)} variants tried: on {len(batches[0].y)} rows yours "
            f"gives {values[0]:.6g}, the formula at temperature {candidates[0].temperature:g} {expected:.6g}."
        )
        return None, [Finding("values", "wrong", sentence)]
    convention = min(fitting, key=lambda c: _deviations(c, stated, formula))
    largest = max(_difference(v, _loop(theirs.like, b, convention)) for v, b in zip(values, batches, strict=True))
    findings = _named(convention, stated, formula) + _named_factor(theirs, convention)
    but = " with the conventions named below" if findings else ""
    sentence = f"Equal to the double loop at temperature {convention.temperature:g}{but}, to within {largest:.0e}."
    return convention, [Finding("values", "ok", sentence), *findings]


def _factor(like: str, batches: list[_Batch], values: list[float], convention: _Convention) -> float | None:
    """By what their values are a multiple of the loop's, if it is the same on all batches."""
    factors = []
    for batch, value in zip(batches, values, strict=True):
        expected = _loop(like, batch, convention)
        if not math.isfinite(value) or expected == 0:
            return None
        factors.append(value / expected)
        if factors[0] <= 0 or _difference(factors[-1], factors[0]) > CLOSE:
            return None
    return 1.0 if abs(factors[0] - 1) < CLOSE else factors[0]


def _deviations(convention: _Convention, stated: float | None, formula: _Formula) -> int:
    chosen = sum(value != next(iter(formula.alternatives[topic])) for topic, value in convention.choice.items())
    elsewhere = stated is not None and convention.temperature != stated
    return chosen + elsewhere + (convention.reduction != "mean") + (convention.factor != 1)


def _named(convention: _Convention, stated: float | None, formula: _Formula) -> list[Finding]:
    findings = []
    if stated is not None and convention.temperature != stated:
        sentence = f"The values are those of temperature {convention.temperature:g}, while the loss states {stated:g}."
        findings.append(Finding("temperature", "wrong", sentence))
    for topic, value in convention.choice.items():
        verdict, sentence = formula.alternatives[topic][value]
        if verdict != "ok":
            findings.append(Finding(topic, verdict, sentence))
    if convention.reduction != "mean":
        findings.append(Finding("reduction", "differs", REDUCTIONS[convention.reduction]))
    return findings


def _named_factor(theirs: _Theirs, convention: _Convention) -> list[Finding]:
    """At a second temperature as well, if it can be set: temperature / 0.07 is 1 at SupContrast's default."""
    measured = {convention.temperature: convention.factor}
    if (other := _at(theirs, convention, OTHER_TEMPERATURE)) is not None:
        measured[OTHER_TEMPERATURE] = other
    fits = lambda factor: all(_difference(value, factor(t)) < CLOSE for t, value in measured.items())  # noqa: E731
    name = next((name for name, factor in FACTORS.items() if fits(factor)), None)
    if name == "1":
        return []
    numbers = " and ".join(f"{value:.4g} at temperature {t:g}" for t, value in measured.items())
    what = f"{name}, which is {numbers}" if name else numbers
    return [Finding("factor", "differs", f"Yours is ours times {what}; it scales the gradient likewise.")]


def _at(theirs: _Theirs, convention: _Convention, temperature: float) -> float | None:
    """The factor at another temperature; None if it cannot be set there, or setting it is not all that is needed."""
    batches = _value_batches()
    try:
        other = theirs.at(temperature)
        values = [other.value(batch) for batch in batches]
    except Exception:  # whatever their code raises
        return None
    return _factor(theirs.like, batches, values, replace(convention, temperature=temperature, factor=1.0))


def _gradient(theirs: _Theirs, convention: _Convention | None) -> list[Finding]:
    if convention is None:
        return [Finding("gradient", "not run", "The gradient was not compared, as the values fit no convention.")]
    batch, step = _batch([0, 1, 1, 0, 1, 2, 2], soft=True), 1e-6
    expected = torch.zeros_like(batch.z)
    for i, d in itertools.product(*map(range, batch.z.shape)):
        moved = torch.zeros_like(batch.z)
        moved[i, d] = step
        ahead, behind = (_loop(theirs.like, replace(batch, z=batch.z + sign * moved), convention) for sign in (1, -1))
        expected[i, d] = (ahead - behind) / (2 * step)
    error = float((theirs.gradient(batch) - expected).abs().max() / expected.abs().max())
    if error <= CLOSE_GRADIENT:
        return [Finding("gradient", "ok", f"Equal to finite differences of the loop, to within {error:.0e}.")]
    sentence = f"The gradient is not that of the value: against finite differences it is off by {error:.1%} of the largest entry."
    return [Finding("gradient", "wrong", sentence)]


def _shuffled_labels(theirs: _Theirs, convention: _Convention | None) -> list[Finding]:
    """Twice the same embeddings: a mask kept because the batch size is the same gives the same value twice."""
    first = _batch([0, 0, 1, 1, 2, 2, 0, 1, 2, 0])
    shuffled = replace(first, y=first.y.roll(1), q=first.q.roll(1, 0))
    if _difference(theirs.value(first), theirs.value(shuffled)) < CLOSE:
        sentence = (
            "Shuffled labels change nothing while the batch size stays: the loss keeps the mask of an earlier batch "
            "(as in google-research/syn-rep-learn#3), or ignores labels."
        )
        return [Finding("shuffled labels", "wrong", sentence)]
    return [Finding("shuffled labels", "ok", "Labels shuffled in a batch of the same size are noticed.")]


def _order(theirs: _Theirs, convention: _Convention | None) -> list[Finding]:
    batch = _batch([0, 0, 1, 2, 1, 2, 0, 1, 2, 1, 0], soft=True)
    before, after = theirs.value(batch), theirs.value(batch[torch.arange(len(batch.y) - 1, -1, -1)])
    return _same("order", before, after, "The order of rows does not matter.", "The order of rows")


def _label_names(theirs: _Theirs, convention: _Convention | None) -> list[Finding]:
    """Classes 0, 1, 2 become 2, 0, 1, so that logits and distributions still have their columns."""
    batch = _batch([0, 0, 1, 1, 2, 2, 2, 1, 0, 1, 2, 0, 1])
    renamed = _Batch(batch.z, (batch.y + 2) % 3, batch.q.roll(2, 1), batch.logits.roll(2, 1))
    if theirs.like not in ("clce", "genscl"):  # labels may be any integers
        renamed = replace(renamed, y=1_000_000 - 7 * renamed.y)
    before, after = theirs.value(batch), theirs.value(renamed)
    return _same("label names", before, after, "Other names for the classes change nothing.", "Naming the classes differently")


def _same(check: str, before: float, after: float, ok: str, what: str) -> list[Finding]:
    if _difference(after, before) < CLOSE:
        return [Finding(check, "ok", ok)]
    return [Finding(check, "wrong", f"{what} changes the loss from {before:.6g} to {after:.6g}.")]


def _scale(theirs: _Theirs, convention: _Convention | None) -> list[Finding]:
    batch = _batch([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1])
    scale = torch.linspace(0.5, 2, len(batch.y), dtype=torch.float64)[:, None]
    if _difference(theirs.value(batch, scale * batch.z), theirs.value(batch)) < CLOSE:
        return [Finding("scale", "ok", "Embeddings of any length are scaled to unit length inside.")]
    sentence = "Embeddings are not normalised: their length acts as a temperature, so scale the rows to unit length first."
    return [Finding("scale", "differs", sentence)]


def _views(theirs: _Theirs, convention: _Convention | None) -> list[Finding]:
    """(B, 2, D) with labels (B,), for losses that take views."""
    if not theirs.views or convention is None or theirs.like in ("clce", "genscl"):
        return []
    rows, labels = _batch([0, 1, 2, 0, 1] * 2), torch.tensor([0, 1, 2, 0, 1])
    value = theirs.value(replace(rows, y=labels), torch.stack((rows.z[:5], rows.z[5:]), 1))
    ok = "Two views of an image count as two rows with its label."
    return _same("views", _loop(theirs.like, rows, convention), value, ok, "Giving rows as two views (B, 2, D)")


def _degenerate(theirs: _Theirs, convention: _Convention | None) -> list[Finding]:
    batches = {
        "lone anchors": ("A batch with two anchors that have no positive", _batch([0, 0, 1, 1, 0, 2, 1, 0, 1, 0, 1, 1, 0, 0, 3])),
        "no positives": ("A batch without any positive", _batch([0, 1, 2, 3, 4])),
        "one class": ("A batch of one class", _batch([0] * 6)),
        "one row": ("A batch of one row", _batch([0])),
        "empty": ("An empty batch", _batch([])),
    }
    return [_on_batch(theirs, convention, check, what, batch) for check, (what, batch) in batches.items()]


def _on_batch(theirs: _Theirs, convention: _Convention | None, check: str, what: str, batch: _Batch) -> Finding:
    try:
        value, gradient = theirs.value(batch), theirs.gradient(batch)
    except Exception as error:  # whatever their code raises: it is loud, so the user knows
        return Finding(check, "differs", f"{what} is refused: {_first_line(error)}")
    if not math.isfinite(value):
        return Finding(check, "wrong", f"{what} gives {value}, which spoils every weight at the next step.")
    if not gradient.isfinite().all():
        return Finding(check, "wrong", f"{what} gives {value:.6g}, but a gradient with NaN or infinite entries.")
    if convention is None:
        return Finding(check, "ok", f"{what} gives a finite loss and gradient.")
    left_out = _loop(theirs.like, batch, convention)
    as_zero = _loop(theirs.like, batch, replace(convention, alone="0"))
    if abs(value - left_out) < CLOSE * max(1, abs(left_out)):
        return Finding(check, "ok", f"{what} gives {value:.6g}, as the formula does for the anchors that have a positive.")
    if abs(value - as_zero) < CLOSE * max(1, abs(as_zero)):
        sentence = f"{what} gives {value:.6g}, not {left_out:.6g}: an anchor without a positive counts as 0 in the mean."
        return Finding(check, "differs", sentence)
    return Finding(check, "differs", f"{what} gives {value:.6g}, where the formula gives {left_out:.6g}.")


PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def _precision(theirs: _Theirs, convention: _Convention | None) -> list[Finding]:
    return [_in_precision(theirs, dtype, str(dtype).removeprefix("torch."), "") for dtype in PRECISIONS]


def _low_temperature(theirs: _Theirs, convention: _Convention | None) -> list[Finding]:
    if convention is None or _at(theirs, convention, OTHER_TEMPERATURE) is None:
        sentence = "A low temperature was not tried: the loss has no attribute or argument that sets it, or not that alone."
        return [Finding("low temperature", "not run", sentence)]
    return [
        _in_precision(theirs.at(LOW_TEMPERATURE), dtype, "low temperature", f" at temperature {LOW_TEMPERATURE:g}")
        for dtype in PRECISIONS
    ]


def _in_precision(theirs: _Theirs, dtype: torch.dtype, check: str, where: str) -> Finding:
    """Against their own value of the same rounded embeddings in float64, so that rounding the input is no error of theirs."""
    batch = _batch([0, 0, 1, 1, 2, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 1])
    z, what = batch.z.to(dtype), f"{str(dtype).removeprefix('torch.')}{where}"
    try:
        exact, value, gradient = theirs.value(batch, z.double()), theirs.value(batch, z), theirs.gradient(batch, z)
    except Exception as error:  # whatever their code raises: it is loud, so the user knows
        return Finding(check, "differs", f"In {what} the loss is refused: {_first_line(error)}")
    if not math.isfinite(value) or not gradient.isfinite().all():
        which = f"loss is {value}" if not math.isfinite(value) else "gradient has NaN or infinite entries"
        return Finding(check, "wrong", f"In {what} the {which}: an exponential overflows, or all of a sum underflow.")
    error = _difference(value, exact)
    if error > CLOSE_HALF:
        return Finding(check, "wrong", f"In {what} the loss is {value:.4g} where float64 gives {exact:.4g}: off by {error:.1%}.")
    return Finding(check, "ok", f"In {what} the loss is within {error:.1g} of float64, relatively, and its gradient is finite.")


# The command


def main(arguments: list[str] | None = None) -> int:
    """Prints the report on the loss named on the command line. Returns 1 if something is wrong, else 0."""
    parser = argparse.ArgumentParser(prog="python -m supcl.testing", description="Check a supervised contrastive loss.")
    parser.add_argument("loss", help="package.module:name of a function, a module's instance, or a class that needs no arguments")
    parser.add_argument("--like", choices=list(FORMULAS), default="supcon", help="the formula to compare with (default: supcon)")
    parser.add_argument("--temperature", type=float, help="that of the loss, where it does not state one")
    parser.add_argument("--views", action="store_true", default=None, help="the loss takes (B, V, D)")
    options = parser.parse_args(arguments)
    module, _, name = options.loss.partition(":")
    try:
        loss = functools.reduce(getattr, name.split("."), importlib.import_module(module))
        loss = loss() if isinstance(loss, type) else loss
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        parser.error(f"{options.loss!r} gives no loss ({_first_line(error)}); expected package.module:loss.")
    try:
        report = check_loss(loss, options.like, temperature=options.temperature, views=options.views)
    except ValueError as error:
        parser.error(str(error))
    print(report)
    return int(bool(report.wrong))


if __name__ == "__main__":
    sys.exit(main())
