"""docs/switching.md says what other libraries' lines become here: every row of its two tables is run.

pytorch-metric-learning runs itself. The arithmetic of the others is written anew below, pair by pair, from the sources that
the page names: the names and defaults are theirs, the code is not.
"""

import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses as metric_learning

from supcl import CLCELoss, GenSCLLoss, SCHaNeLoss, SupConLoss

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "switching.md").read_text()


def table(title):
    """Rows of cells of the table under a heading, in plain text."""
    lines = [line for line in PAGE.split(f"## {title}\n")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


LINES = {row[0]: row[1:] for row in table("The line")}
CHANGES = {row[0]: row[1:] for row in table("What else changes")}


# The other libraries, pair by pair


def mean(terms):
    terms = list(terms)
    return sum(terms) / len(terms)


def cross_entropies(anchors, contrasts, temperature, is_self, weight):
    """-sum_j w_ij log softmax_j(s_ij) / sum_j w_ij of each anchor, over the contrasts but itself; None where all w_ij are 0."""
    for i, anchor in enumerate(anchors):
        others = [j for j in range(len(contrasts)) if not is_self(i, j)]
        s = {j: anchor @ contrasts[j] / temperature for j in others}
        log_all = sum(s[j].exp() for j in others).log()
        total = sum(weight(i, j) for j in others)
        yield sum(weight(i, j) * (log_all - s[j]) for j in others) / total if total else None


class SupContrast:
    """`lonely` is what an anchor without a positive counts: 0 since pull request 142, NaN before."""

    lonely = 0.0

    def __init__(self, temperature=0.07, contrast_mode="all", base_temperature=0.07):
        self.temperature, self.mode, self.base = temperature, contrast_mode, base_temperature

    def __call__(self, features, labels=None):
        images = len(features)
        labels = torch.arange(images) if labels is None else labels
        contrasts = torch.cat(features.unbind(1))  # all images of the first view, then all of the second
        anchors = contrasts if self.mode == "all" else features[:, 0]
        same = lambda i, j: int(labels[i % images] == labels[j % images])  # noqa: E731
        terms = cross_entropies(anchors, contrasts, self.temperature, lambda i, j: i == j, same)
        return self.temperature / self.base * mean(self.lonely if term is None else term for term in terms)


class OldSupContrast(SupContrast):
    lonely = torch.nan


def simclr_loss_func(z, indexes, temperature=0.1):
    z = F.normalize(z, dim=-1)
    terms = []
    for i in range(len(z)):
        exp = {j: (z[i] @ z[j] / temperature).exp() for j in range(len(z)) if j != i}
        positive = sum((e for j, e in exp.items() if indexes[i] == indexes[j]), torch.zeros(()))
        terms.append(-(positive / sum(exp.values())).log())
    return mean(terms)


class NTXentLoss:
    def __init__(self, temperature=0.5):
        self.temperature = temperature

    def __call__(self, out0, out1):
        z, images = F.normalize(torch.cat((out0, out1)), dim=1), len(out0)
        other_view = lambda i, j: int(abs(i - j) == images)  # noqa: E731
        return mean(cross_entropies(z, z, self.temperature, lambda i, j: i == j, other_view))


class GenSupConLoss:
    def __init__(self, temperature=0.07, contrast_mode="all", base_temperature=0.07):
        self.temperature, self.mode, self.base = temperature, contrast_mode, base_temperature

    def __call__(self, features, labels):
        everything = self.mode == "all"  # else the first view against the second, and no anchor is among its contrasts
        anchors, contrasts = (torch.cat(features),) * 2 if everything else features
        q, p = (torch.cat(labels),) * 2 if everything else labels
        is_self = lambda i, j: everything and i == j  # noqa: E731
        cosine = lambda i, j: float(F.cosine_similarity(q[i], p[j], dim=0))  # noqa: E731
        terms = cross_entropies(anchors, contrasts, self.temperature, is_self, cosine)
        return self.temperature / self.base * mean(0.0 if term is None else term for term in terms)


def released_schane(features, tau_plus, batch_size, beta, estimator, temperature, labels=None):
    z, labels = torch.cat(features.unbind(1)), labels.repeat(features.shape[1])
    terms = []
    for i in range(len(z)):
        exp = {j: (z[i] @ z[j] / temperature).exp() for j in range(len(z)) if j != i}
        positive = [e for j, e in exp.items() if labels[i] == labels[j]]
        negative = [e for j, e in exp.items() if labels[i] != labels[j]]
        if not positive or not negative:
            return torch.tensor(torch.nan)  # the mean of nothing
        weights = [e**beta for e in negative] if estimator == "hard" else [torch.ones(())] * len(negative)
        against = sum(w / mean(weights) * e for w, e in zip(weights, negative, strict=True))
        terms.append(-(mean(positive) / (mean(positive) + against)).log())
    return mean(terms)


# The lines


class CrossBatchMemory(metric_learning.CrossBatchMemory):
    """One that has seen a batch already."""

    def __init__(self, *arguments):
        super().__init__(*arguments, memory_size=20)
        draw = torch.Generator().manual_seed(7)
        self(torch.randn(9, 5, generator=draw, dtype=torch.float64), torch.arange(9) % 3)


OURS = {"SupConLoss": SupConLoss, "SCHaNeLoss": SCHaNeLoss, "CLCELoss": CLCELoss, "GenSCLLoss": GenSCLLoss}
THEIRS = {
    "pytorch-metric-learning": vars(metric_learning),
    "SupContrast": {"SupConLoss": SupContrast},
    "solo-learn": {"simclr_loss_func": simclr_loss_func},
    "lightly": {"NTXentLoss": NTXentLoss},
    "GenSCL": {"GenSupConLoss": GenSupConLoss},
    "SCHaNe": {"SCHaNe": released_schane, "cross_entropy": F.cross_entropy},
}


def batch():
    """All that the lines name. Rows have unit length and a positive each: what else would differ is in the second table."""
    draw = torch.Generator().manual_seed(0)
    leaf = torch.randn(7, 2, 5, generator=draw, dtype=torch.float64).requires_grad_()
    features = F.normalize(leaf, dim=2)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    distributions0, distributions1 = torch.rand(2, 7, 3, generator=draw, dtype=torch.float64)
    return leaf, {
        "torch": torch,
        "dim": 5,
        "batch_size": 7,
        "features": features,
        "labels": labels,
        "embeddings": features[:, 0],
        "out0": features[:, 0],
        "out1": features[:, 1],
        "images": torch.arange(7),
        "positives": (torch.bincount(labels)[labels] - 1).double(),
        "distributions0": distributions0,
        "distributions1": distributions1,
        "queue": torch.randn(7, 5, generator=draw, dtype=torch.float64),
        "queue_labels": torch.arange(7) % 3,
        "logits": features[:, 0].repeat(2, 1)[:, :3],
        "CrossBatchMemory": CrossBatchMemory,
    }


@pytest.mark.parametrize("name", LINES)
def test_the_line_after_gives_what_the_line_before_gave(name):
    before, after, gave = LINES[name]
    leaf, names = batch()
    theirs = eval(before, THEIRS[name.split(",")[0].split(" with ")[0]] | names)
    ours = eval(gave, names | {"loss": eval(after, OURS | names)})
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in (ours, theirs)))


def test_the_page_has_a_line_for_every_library():
    assert {name.split(",")[0].split(" with ")[0] for name in LINES} == set(THEIRS)
    assert {name.removesuffix(" before 2024") for name in CHANGES} == set(THEIRS)


# What else changes: each library's loss of single rows (N, D) with labels (N,), and ours without a factor


def ours_in_total(z, labels, temperature):
    """L_in without the mean over positives, which solo-learn sums."""
    positives = (labels[:, None] == labels).sum(1) - 1
    return SupConLoss(temperature, form="in")(z, labels) - positives[positives > 0].log().mean()


def halves(x):
    return x[: len(x) // 2], x[len(x) // 2 :]


OF_ROWS = {
    "pytorch-metric-learning": (
        lambda z, y, t: metric_learning.SupConLoss(t)(z, y),
        lambda z, y, t: SupConLoss(t)(z, y),
        metric_learning.SupConLoss,
    ),
    "SupContrast": (lambda z, y, t: SupContrast(t)(z[:, None], y), lambda z, y, t: SupConLoss(t)(z, y), SupContrast),
    "SupContrast before 2024": (
        lambda z, y, t: OldSupContrast(t)(z[:, None], y),
        lambda z, y, t: SupConLoss(t)(z, y),
        OldSupContrast,
    ),
    "solo-learn": (lambda z, y, t: simclr_loss_func(z, y, t), ours_in_total, simclr_loss_func),
    "lightly": (lambda z, y, t: NTXentLoss(t)(*halves(z)), lambda z, y, t: SupConLoss(t)(*halves(z)), NTXentLoss),
    "GenSCL": (
        lambda z, y, t: GenSupConLoss(t)(halves(z), halves(F.one_hot(y).double())),
        lambda z, y, t: GenSCLLoss(t)(z, F.one_hot(y).double()),
        GenSupConLoss,
    ),
    "SCHaNe": (
        lambda z, y, t: released_schane(z[:, None], 0.1, len(z), 1.0, "hard", t, y),
        lambda z, y, t: SCHaNeLoss(t)(z, y),
        released_schane,
    ),
}
OUR_DEFAULT = {"GenSCL": GenSCLLoss, "SCHaNe": SCHaNeLoss}
Z = F.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64), dim=1)
PAIRS, ALONE, ONE_CLASS = torch.tensor([0, 1, 2, 3] * 2), torch.tensor([0, 1, 2, 0, 0, 1, 0, 1]), torch.zeros(8, dtype=torch.long)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_factor_on_the_loss_is_as_the_page_says(name, temperature):
    theirs, ours, _ = OF_ROWS[name]
    factor = eval(CHANGES[name][0], {"temperature": temperature})
    torch.testing.assert_close(factor * ours(Z, PAIRS, temperature), theirs(Z, PAIRS, temperature))


@pytest.mark.parametrize("name", CHANGES)
def test_the_default_temperatures_are_as_the_page_says(name):
    there, here = CHANGES[name][1:3]
    default = inspect.signature(OF_ROWS[name][2]).parameters["temperature"].default
    assert there == ("none" if default is inspect.Parameter.empty else str(default))
    assert here == str(OUR_DEFAULT.get(name, SupConLoss)().temperature)


@pytest.mark.parametrize("name", CHANGES)
def test_who_scales_embeddings_is_as_the_page_says(name):
    theirs, ours, _ = OF_ROWS[name]
    factor = eval(CHANGES[name][0], {"temperature": 0.5})
    torch.testing.assert_close(ours(3 * Z, PAIRS, 0.5), ours(Z, PAIRS, 0.5))
    assert torch.allclose(theirs(3 * Z, PAIRS, 0.5), factor * ours(Z, PAIRS, 0.5)) == (CHANGES[name][3] == "yes")


@pytest.mark.parametrize("name", CHANGES)
def test_an_anchor_without_a_positive_is_as_the_page_says(name):
    theirs, ours, function = OF_ROWS[name]
    factor = eval(CHANGES[name][0], {"temperature": 0.5})
    there, here = theirs(Z, ALONE, 0.5), factor * ours(Z, ALONE, 0.5)  # of eight rows one is alone
    if CHANGES[name][4] == "there is none":
        assert list(inspect.signature(function.__call__).parameters) == ["self", "out0", "out1"]  # no labels
        return
    expected = {"left out": here, "counts as 0": here * 7 / 8, "NaN": torch.nan, "infinite": torch.inf}[CHANGES[name][4]]
    torch.testing.assert_close(there, torch.as_tensor(expected, dtype=there.dtype), equal_nan=True)
    assert here.isfinite()


@pytest.mark.parametrize("name", [name for name in CHANGES if CHANGES[name][5] != "there is none"])
def test_a_batch_without_negatives_is_as_the_page_says(name):
    theirs, ours, _ = OF_ROWS[name]
    factor = eval(CHANGES[name][0], {"temperature": 0.5})
    there, here = theirs(Z, ONE_CLASS, 0.5), factor * ours(Z, ONE_CLASS, 0.5)
    expected = {"as here": here, "loss is 0": 0.0, "NaN": torch.nan}[CHANGES[name][5]]
    torch.testing.assert_close(torch.as_tensor(there), torch.as_tensor(expected, dtype=there.dtype), equal_nan=True)
    assert here.isfinite()


def test_exponentials_that_solo_learn_does_not_shift_overflow_below_the_stated_temperature():
    largest = torch.finfo(torch.float32).max
    assert torch.tensor(1 / 0.0113).exp() < largest < torch.tensor(1 / 0.01126, dtype=torch.float64).exp()
    assert SupConLoss(0.001, form="in")(Z.float(), PAIRS).isfinite()
