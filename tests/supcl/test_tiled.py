"""The tiled sums over pairs against torch.logsumexp and means of the whole matrix, at every tile size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supcl import tiled
from supcl.pairs import Pairs
from supcl.tiled import BOUNDED, LOWEST

TERMS = [("others", 1.0), ("positives", 1), ("positives", -0.3), ("negatives", 2.0), ("negatives", 0.0)]


def whole_matrix(anchors, labels, temperature, contrasts=None, contrast_labels=None, offset=None):
    """The same as tiled.reduce from N x M matrices."""
    if contrasts is None:
        contrasts, contrast_labels, offset = anchors, labels, 0
    s = anchors @ contrasts.T / temperature
    itself = torch.zeros_like(s, dtype=torch.bool)
    if offset is not None:
        itself[torch.arange(len(anchors)), torch.arange(len(anchors)) + offset] = True
    if labels.ndim == 2:
        c = (labels @ contrast_labels.T).masked_fill(itself, 0)
        terms, left_out = TERMS[:1], {"others": itself}
    else:
        same = labels[:, None] == contrast_labels
        terms, left_out = TERMS, {"others": itself, "positives": ~same | itself, "negatives": same}
        c = (same & ~itself).to(s.dtype)
    logs = [(factor * s).masked_fill(left_out[over], -torch.inf).logsumexp(1).clamp(min=LOWEST) for over, factor in terms]
    return torch.stack([*logs, (c * s).sum(1) / c.sum(1).clamp(min=1e-10), c.sum(1)])


def in_tiles(anchors, labels, temperature, contrasts=None, contrast_labels=None, offset=None, block=None, terms=TERMS):
    pairs = Pairs(
        anchors,
        labels,
        temperature,
        contrasts,
        contrast_labels,
        offset,
        "tiled",
        block,
        soft=labels is not None and labels.ndim == 2,
    )
    logs, mean, positives = tiled.reduce(pairs, terms[:1] if labels.ndim == 2 else terms, mean=True)
    return torch.stack([*logs, mean, positives])


def points(n, dim=3, seed=0, dtype=torch.float64):
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=1, keepdim=True)).to(dtype)


def tangent(gradient, x):
    """A gradient without its part along x, which normalisation removes."""
    return gradient - (gradient * x).sum(1, keepdim=True) * x


def random_labels(n, classes, seed=0):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def distributions(n, seed=0):
    return points(n, 4, seed).abs()


def assert_same(anchors, labels, block, temperature, contrasts=None, **settings):
    """Values, and gradients of a weighted sum of those over at least one pair."""
    inputs = [x.clone().requires_grad_() for x in (anchors, contrasts) if x is not None]
    more = (inputs[1] if contrasts is not None else None,)
    result = in_tiles(inputs[0], labels, temperature, *more, **settings, block=block)
    expected = whole_matrix(inputs[0], labels, temperature, *more, **settings)
    lonely = expected[-1] < 1e-10  # without a positive there is no mean
    torch.testing.assert_close(result[-2][~lonely], expected[-2][~lonely], rtol=1e-11, atol=1e-13 / temperature)
    rows = [*range(len(result) - 2), -1]
    torch.testing.assert_close(result[rows], expected[rows], rtol=1e-11, atol=1e-11)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights[:, lonely] = 0
    weights = weights.masked_fill(expected == LOWEST, 0)[:-1]
    ours, theirs = (
        torch.autograd.grad((weights * x[:-1]).sum(), inputs, allow_unused=True, materialize_grads=True)
        for x in (result, expected)
    )
    for gradient, exact, x in zip(ours, theirs, inputs, strict=True):
        torch.testing.assert_close(gradient, tangent(exact, x), rtol=1e-9, atol=1e-10 / temperature)


@given(
    n=st.integers(1, 12),
    classes=st.integers(1, 5),
    seed=st.integers(0, 99),
    block=st.integers(1, 13),
    temperature=st.sampled_from([0.001, 0.02, 0.025, 0.1, 1, 10]),
)
def test_symmetric_pairs_are_the_whole_matrix(n, classes, seed, block, temperature):
    assert_same(points(n, seed=seed), random_labels(n, classes, seed), block, temperature)
    assert_same(points(n, seed=seed), distributions(n, seed), block, temperature)


@given(
    n=st.integers(1, 8),
    more=st.integers(0, 5),
    offset=st.one_of(st.none(), st.integers(0, 5)),
    classes=st.integers(1, 5),
    seed=st.integers(0, 99),
    block=st.integers(1, 14),
    temperature=st.sampled_from([0.02, 0.5]),
)
def test_pairs_with_contrasts_are_the_whole_matrix(n, more, offset, classes, seed, block, temperature):
    m = n + more
    offset = None if offset is None else min(offset, more)
    contrasts, anchors = points(m, seed=seed), points(n, seed=seed + 1)
    for contrast_labels, labels in [
        (random_labels(m, classes, seed), random_labels(n, classes, seed + 1)),
        (distributions(m, seed), distributions(n, seed + 1)),
    ]:
        if offset is not None:
            labels = contrast_labels[offset : offset + n]
        assert_same(anchors, labels, block, temperature, contrasts, contrast_labels=contrast_labels, offset=offset)


def test_more_rows_than_the_default_tile():
    n = 512 + 3
    assert_same(points(n), random_labels(n, 7), None, 0.1)
    assert_same(points(n), distributions(n), None, 0.1)


def test_many_rows_are_added_up_without_losing_digits():
    x, labels = points(50_000, dtype=torch.float32).abs(), torch.zeros(50_000, dtype=torch.int64)
    pairs = Pairs(x, labels, 1.0, None, None, None, "tiled", None)
    exact = pairs.anchors.double()
    expected = ((exact * exact.sum(0)).sum(1) - exact.square().sum(1)) / 49_999
    torch.testing.assert_close(tiled._mean_positive(pairs, torch.full((50_000,), 49_999.0)).double(), expected, rtol=1e-6, atol=0)


@pytest.fixture
def visited(monkeypatch):
    """Shapes of the tiles of s that are computed, in their order."""
    shapes, addmm = [], torch.addmm

    def spy(s, *matrices, **settings):
        shapes.append(tuple(s.shape))
        return addmm(s, *matrices, **settings)

    monkeypatch.setattr(torch, "addmm", spy)
    return shapes


def log_sum_exps(labels, terms, block):
    pairs = Pairs(points(len(labels)), labels, 1.0, None, None, None, "tiled", block)
    return tiled.reduce(pairs, terms, mean=False)


@pytest.mark.parametrize("block, tiles", [(1, 9), (2, 3), (3, 3), (100, 1)])
def test_tiles_are_at_most_as_large_as_given_and_visited_only_with_pairs(block, tiles, visited):
    log_sum_exps(torch.tensor([0, 1, 0, 2, 1, 2]), [("positives", 1)], block)
    assert max(max(shape) for shape in visited) <= block
    assert len(visited) == tiles  # only those with pairs of one class


@pytest.mark.parametrize(
    "sizes, block, expected",
    [
        ([2, 2, 2], 5, [4, 2]),  # a block ends with a class
        ([2, 2, 2], 2, [2, 2, 2]),
        ([3, 3], 4, [3, 3]),
        ([2, 3, 1], 4, [4, 2]),  # unless half a tile would stay empty
        ([9], 4, [4, 4, 1]),
        ([1, 5, 1, 5], 8, [7, 5]),
    ],
)
def test_blocks_end_with_a_class_where_that_leaves_them_more_than_half_full(sizes, block, expected, visited):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    log_sum_exps(labels.flip(0), TERMS[1:], block)
    assert visited == [(a, b) for i, a in enumerate(expected) for b in expected[i:]]


@pytest.mark.parametrize("exponent", [BOUNDED, BOUNDED + 1e-6, 1000, 1e5])
@pytest.mark.parametrize("sign", [1, -1])
def test_float32_neither_over_nor_underflows_at_any_scale(exponent, sign):
    x = points(7, dtype=torch.float32)
    x, labels = torch.cat((x, -x, x)).requires_grad_(), torch.arange(21)
    pairs = Pairs(x, labels, 1 / exponent, None, None, None, "tiled", 4)
    (result,), _, _ = tiled.reduce(pairs, [("others", sign)], mean=False)
    s = (sign * exponent * (x.detach().double() @ x.detach().double().T)).fill_diagonal_(-torch.inf)
    torch.testing.assert_close(result.double(), s.logsumexp(1), rtol=2e-6, atol=1e-6 * exponent)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_sum_over_no_pair_is_the_lowest_and_stops_every_gradient(temperature):
    x = points(3).requires_grad_()
    pairs = Pairs(x, torch.tensor([0, 1, 2]), temperature, None, None, None, "tiled", None)
    (result,), _, _ = tiled.reduce(pairs, [("positives", 1)], mean=False)
    assert (result == LOWEST).all()
    (gradient,) = torch.autograd.grad(result, x, torch.full_like(result, torch.nan))
    assert (gradient == 0).all()


def test_second_derivatives_are_refused_with_what_to_ask_for():
    x = points(3).requires_grad_()
    value = in_tiles(x, torch.tensor([0, 0, 1]), 0.1)[0].sum()
    with pytest.raises(
        RuntimeError, match=r'^Second derivatives need engine="readable"; the tiled engine has the first alone\.$'
    ):
        torch.autograd.grad(value, x, create_graph=True)
