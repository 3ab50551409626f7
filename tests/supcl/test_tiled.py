"""The log-sum-exp over pairs against torch.logsumexp of the whole matrix, at every tile size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from supcl.pairwise import FITS, default_tile, pair_logsumexp, positive_sum, similarity_sums

TERMS = [("others", 1.0), ("positives", 1), ("positives", -0.3), ("negatives", 2.0), ("negatives", 0.0)]


def dense(anchors, terms, *, temperature=1.0, labels=None, contrasts=None, contrast_labels=None, offset=None):
    if contrasts is None:
        contrasts, contrast_labels, offset = anchors, labels, 0
    s = anchors @ contrasts.T / temperature
    itself = torch.zeros_like(s, dtype=torch.bool)
    if offset is not None:
        itself[torch.arange(len(anchors)), torch.arange(len(anchors)) + offset] = True
    same = torch.zeros_like(itself) if labels is None else labels[:, None] == contrast_labels
    left_out = {"others": itself, "positives": ~same | itself, "negatives": same}
    return torch.stack([(factor * s).masked_fill(left_out[over], -torch.inf).logsumexp(1) for over, factor in terms])


def points(n, dim=3, seed=0, dtype=torch.float64):
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=1, keepdim=True)).to(dtype)


def random_labels(n, classes, seed=0):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def assert_same(anchors, terms, tile, contrasts=None, **settings):
    """Values, and gradients of a weighted sum of those that are finite."""
    inputs = [x.clone().requires_grad_() for x in (anchors, contrasts) if x is not None]
    found, expected = (
        f(inputs[0], terms, contrasts=inputs[1] if contrasts is not None else None, **settings, **extra)
        for f, extra in [(pair_logsumexp, {"tile": tile}), (dense, {})]
    )
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [
        torch.autograd.grad((weights * x)[expected.isfinite()].sum(), inputs, allow_unused=True, materialize_grads=True)
        for x in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@given(
    n=st.integers(1, 12),
    classes=st.integers(1, 5),
    seed=st.integers(0, 99),
    tile=st.integers(1, 13),
    temperature=st.sampled_from([0.001, 0.02, 0.025, 0.1, 1, 10]),
    terms=st.lists(st.sampled_from(TERMS), min_size=1, max_size=5),
)
def test_symmetric_pairs_are_the_whole_matrix(n, classes, seed, tile, temperature, terms):
    assert_same(points(n, seed=seed), terms, tile, temperature=temperature, labels=random_labels(n, classes, seed))


@given(
    n=st.integers(1, 8),
    more=st.integers(0, 5),
    offset=st.one_of(st.none(), st.integers(0, 5)),
    classes=st.integers(1, 5),
    seed=st.integers(0, 99),
    tile=st.integers(1, 14),
    temperature=st.sampled_from([0.02, 0.5]),
)
def test_pairs_with_contrasts_are_the_whole_matrix(n, more, offset, classes, seed, tile, temperature):
    m = n + more
    offset = None if offset is None else min(offset, more)
    contrasts, contrast_labels = points(m, seed=seed), random_labels(m, classes, seed)
    anchors, labels = points(n, seed=seed + 1), random_labels(n, classes, seed + 1)
    if offset is not None:
        labels = contrast_labels[offset : offset + n]
    settings = {"temperature": temperature, "labels": labels, "contrast_labels": contrast_labels, "offset": offset}
    assert_same(anchors, TERMS, tile, contrasts, **settings)
    assert_same(anchors, TERMS[:1], tile, contrasts, temperature=temperature, offset=offset)


@given(
    n=st.integers(1, 8),
    more=st.one_of(st.none(), st.integers(0, 5)),
    seed=st.integers(0, 99),
    tile=st.integers(1, 14),
    temperature=st.sampled_from([0.02, 0.5]),
)
def test_attraction_of_similar_labels_is_that_of_the_whole_matrix(n, more, seed, tile, temperature):
    a, terms, settings = points(n, seed=seed).requires_grad_(), [("others", 1), ("others", 2)], {}
    c = torch.rand(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = a
    if more is None:
        c = c + c.T
    else:
        x = points(n + more, seed=seed + 1).requires_grad_()
        c, settings = torch.cat((c, c[:, :1].expand(n, more)), 1), {"contrasts": x, "offset": more // 2}
    lse, attraction = pair_logsumexp(a, terms, temperature=temperature, tile=tile, label_similarity=c, **settings)
    expected = (c * (a @ x.T)).sum(1) / temperature
    torch.testing.assert_close(attraction, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(lse, pair_logsumexp(a, terms, temperature=temperature, tile=tile, **settings), rtol=0, atol=0)
    share = torch.linspace(-1, 1, n, dtype=torch.float64)
    inputs = [a] if more is None else [a, x]
    finite = lse.isfinite()
    ours = torch.autograd.grad((share * attraction).sum() + (share * lse)[finite].sum(), inputs)
    theirs = torch.autograd.grad(
        (share * expected).sum() + (share * dense(a, terms, temperature=temperature, **settings))[finite].sum(), inputs
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_more_rows_than_the_default_tile():
    n = default_tile(torch.device("cpu")) + 3
    assert_same(points(n), TERMS, None, labels=random_labels(n, 7), temperature=0.1)


def test_temperature_is_1_by_default():
    assert_same(points(5), TERMS[:1], None)


def test_positive_sum_adds_many_rows_without_losing_digits():
    x, classes = points(50_000, dtype=torch.float32).abs().requires_grad_(), torch.zeros(50_000, dtype=torch.int64)
    found = positive_sum(x, classes, x, classes, 1)
    expected = (x.double() * x.double().sum(0)).sum(1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient.double(), 2 * x.detach().double().sum(0).expand(x.shape), rtol=1e-6, atol=0)


@pytest.mark.parametrize("own", [None, slice(2, 8)])
def test_similarity_sums_are_those_of_the_whole_matrix(own):
    a, x, q, p = (
        v.requires_grad_() for v in (points(6), points(9, seed=1), points(6, 4, seed=2).abs(), points(9, 4, seed=3).abs())
    )
    weights = torch.ones(6, 9, dtype=torch.float64)
    if own:
        weights[torch.arange(6), torch.arange(6) + own.start] = 0
        with torch.no_grad():
            x[own], p[own] = a, q
    expected = ((q @ p.T * weights).sum(1), (q @ p.T * (a @ x.T) * weights).sum(1))
    found = similarity_sums(a, q, x, p, own)
    torch.testing.assert_close(found, expected)
    share = torch.linspace(-1, 1, 6, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((share * (total.log() + pull)).sum(), (a, x, q, p)) for total, pull in (found, expected))
    for gradient, exact, rows in zip(ours, theirs, (a, x, q, p), strict=True):
        if rows is x:  # the part along an own contrast is left out
            gradient, exact = (g - (g * x).sum(1, keepdim=True) * x for g in (gradient, exact))
        torch.testing.assert_close(gradient, exact)


@pytest.mark.parametrize("wanted", [1, 3])
def test_labels_of_one_side_alone_may_need_a_gradient(wanted):
    inputs = [points(6), points(6, 4, seed=2).abs(), points(9, seed=1), points(9, 4, seed=3).abs()]
    inputs[wanted].requires_grad_()
    a, q, x, p = inputs
    (found,) = torch.autograd.grad(similarity_sums(a, q, x, p)[1].sum(), inputs[wanted])
    (expected,) = torch.autograd.grad((q @ p.T * (a @ x.T)).sum(), inputs[wanted])
    torch.testing.assert_close(found, expected)


@pytest.fixture
def visited(monkeypatch):
    """Shapes of the tiles of s that are computed, in their order."""
    shapes, addmm = [], torch.addmm

    def spy(s, *matrices, **settings):
        shapes.append(tuple(s.shape))
        return addmm(s, *matrices, **settings)

    monkeypatch.setattr(torch, "addmm", spy)
    return shapes


@pytest.mark.parametrize("tile, tiles", [(1, 9), (2, 3), (3, 3), (100, 1)])
def test_tiles_are_at_most_as_large_as_given_and_visited_only_with_pairs(tile, tiles, visited):
    pair_logsumexp(points(6), [("positives", 1)], labels=torch.tensor([0, 1, 0, 2, 1, 2]), tile=tile)
    assert max(max(shape) for shape in visited) <= tile
    assert len(visited) == tiles  # only those with pairs of one class


@pytest.mark.parametrize(
    "sizes, tile, expected",
    [
        ([2, 2, 2], 5, [4, 2]),  # a block ends with a class
        ([2, 2, 2], 2, [2, 2, 2]),
        ([3, 3], 4, [3, 3]),
        ([2, 3, 1], 4, [4, 2]),  # unless half a tile would stay empty
        ([9], 4, [4, 4, 1]),
        ([1, 5, 1, 5], 8, [7, 5]),
    ],
)
def test_blocks_end_with_a_class_where_that_leaves_them_more_than_half_full(sizes, tile, expected, visited):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    pair_logsumexp(points(len(labels)), TERMS[1:], labels=labels.flip(0), tile=tile)
    assert visited == [(a, b) for i, a in enumerate(expected) for b in expected[i:]]


def test_default_tile_is_larger_off_the_cpu():
    assert default_tile(torch.device("cpu")) == 512 and default_tile(torch.device("cuda")) == 4096


@pytest.mark.parametrize("exponent", [FITS, FITS + 1e-6, 1000, 1e5])
@pytest.mark.parametrize("sign", [1, -1])
def test_float32_neither_over_nor_underflows_at_any_scale(exponent, sign):
    x = points(7, dtype=torch.float32)
    x = torch.cat((x, -x, x)).requires_grad_()
    found = pair_logsumexp(x, [("others", sign)], temperature=1 / exponent, tile=4)
    expected = dense(x.detach().double(), [("others", sign)], temperature=1 / exponent)
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-6 * exponent)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_sum_over_no_pair_is_minus_infinity_and_stops_every_gradient(temperature):
    x = points(3).requires_grad_()
    found = pair_logsumexp(x, [("positives", 1)], labels=torch.tensor([0, 1, 2]), temperature=temperature)
    assert (found == -torch.inf).all()
    (gradient,) = torch.autograd.grad(found, x, torch.full_like(found, torch.nan))
    assert (gradient == 0).all()


def test_precision_is_kept_under_autocast():
    x = points(8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pair_logsumexp(x, TERMS[:1]), *similarity_sums(x, x, x, x)
    expected = pair_logsumexp(x, TERMS[:1]), *similarity_sums(x, x, x, x)
    assert all(ours.dtype == torch.float32 and ours.equal(theirs) for ours, theirs in zip(found, expected, strict=True))


def test_vmap_and_second_derivatives_are_refused():
    classes, q = torch.zeros(3, dtype=torch.int64), points(3)
    functions = [
        lambda x: pair_logsumexp(x, TERMS[:1]),
        lambda x: positive_sum(x, classes, x, classes, 1),
        lambda x: similarity_sums(x, q, x, q)[1],
    ]
    for function in functions:
        for transform in (torch.func.vmap(function), torch.func.grad(lambda x: function(x[0]).sum())):  # noqa: B023
            with pytest.raises(RuntimeError, match="functorch transforms"):
                transform(points(6).view(2, 3, 3))
        x = points(3).requires_grad_()
        with pytest.raises(
            RuntimeError, match=r"^Second derivatives of sums over pairs are not supported; expected create_graph=False\.$"
        ):
            torch.autograd.grad(function(x).sum(), x, create_graph=True)
