"""The five losses against loops over pairs, closed forms, each other, and batches that break naive versions."""

import functools
import inspect
import math
from typing import NamedTuple

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from supcl import losses
from supcl.losses import clce_loss, genscl_loss, schane_loss, supcon_loss, tcl_loss

# Every loss and form, called alike on supcl.losses and on the reference.
SUPCON = {
    f"supcon {form}": lambda source, z, b, form=form: source.supcon_loss(z, b.labels, temperature=b.temperature, form=form)
    for form in ("out", "in")
}
SCHANE = {
    f"schane {positives}": lambda source, z, b, positives=positives: source.schane_loss(
        z, b.labels, temperature=b.temperature, hardness=b.hardness, positives=positives
    )
    for positives in ("mean", "sum")
}
CLCE = {
    f"clce {positives}": lambda source, z, b, positives=positives: source.clce_loss(
        b.logits.to(z.dtype) if torch.is_tensor(z) else b.logits,
        z,
        b.labels,
        weight=0.7,
        temperature=b.temperature,
        hardness=b.hardness,
        positives=positives,
    )
    for positives in ("mean", "sum")
}
GENSCL = {"genscl": lambda source, z, b: source.genscl_loss(z, b.distributions, temperature=b.temperature)}
TCL = {"tcl": lambda source, z, b: source.tcl_loss(z, b.labels, temperature=b.temperature, k1=b.k1, k2=b.k2)}
EVERY_LOSS = SUPCON | SCHANE | CLCE | GENSCL | TCL


class Batch(NamedTuple):
    z: torch.Tensor  # (N, D) float64 of values that float32 holds exactly
    labels: torch.Tensor  # (N,)
    distributions: torch.Tensor  # (N, 4)
    logits: torch.Tensor  # (N, 4)
    temperature: float = 0.1
    hardness: float = 1.0
    k1: float = 5000.0
    k2: float = 1.0


def every(cases):
    return pytest.mark.parametrize("loss", cases.values(), ids=cases.keys())


@st.composite
def batches(draw, short_rows=True):
    n, dim, classes = draw(st.integers(2, 12)), draw(st.integers(2, 6)), draw(st.integers(1, 4))
    z = draw(arrays(np.float32, (n, dim), elements=st.floats(-2, 2, width=32, allow_subnormal=False)))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    # counts rather than floats: a cosine of 1e-60 is zero in float32 and not in the reference
    distributions = draw(arrays(np.int64, (n, 4), elements=st.integers(0, 5)))
    logits = draw(arrays(np.float32, (n, 4), elements=st.floats(-5, 5, width=32, allow_subnormal=False)))
    if not short_rows:  # a gradient grows with 1 / length
        z[np.abs(z).max(1) < 1e-3, 0] = 1
    return Batch(
        torch.from_numpy(z).double(),
        torch.from_numpy(labels),
        torch.from_numpy(distributions).double(),
        torch.from_numpy(logits).double(),
        draw(st.floats(0.01, 10)),
        draw(st.floats(0, 5)),
        draw(st.sampled_from([0.0, 1.0, 5000.0])),
        draw(st.sampled_from([0.0, 0.5, 1.0])),
    )


def random_batch(n=10, dim=5, labels=None, seed=0, **settings):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=rng) if labels is None else torch.as_tensor(labels)
    z, logits = torch.randn(len(labels), dim, generator=rng), torch.randn(len(labels), 4, generator=rng)
    distributions = torch.rand(len(labels), 4, generator=rng)
    return Batch(z.double(), labels, distributions.double(), logits.double(), **settings)


def close(value, expected, batch, dtype=torch.float64):
    """Equal to 1e-5 in float32 and 1e-10 in float64, plus the rounding of sums of exponentials and of their exponents, which
    are up to (1 + hardness) / temperature."""
    relative = {torch.float32: 1e-5, torch.float64: 1e-10}[dtype]
    rounding = 4 * torch.finfo(dtype).eps * (1 + (1 + batch.hardness) / batch.temperature)
    return float(value) == pytest.approx(float(expected), rel=relative, abs=rounding)


def value_and_gradient(loss, z, batch):
    z = z.clone().requires_grad_()
    value = loss(losses, z, batch)
    (gradient,) = torch.autograd.grad(value, z)
    return value.detach(), gradient


def with_settings(loss, **settings):
    """The same losses with more keywords, as a source."""

    class Source:
        def __getattr__(self, name):
            return functools.partial(getattr(losses, name), **settings)

    return lambda _, z, batch: loss(Source(), z, batch)


# The dense form, several blocks that are computed again, one tile, and several tiles
ENGINES = {
    "dense": {"engine": "readable"},
    "blocks": {"engine": "readable", "block": 2},
    "tile": {"engine": "tiled"},
    "tiles": {"engine": "tiled", "block": 2},
}
every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())


# Against the reference, and what must not matter


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@every(EVERY_LOSS)
@given(batch=batches(), engine=st.sampled_from(list(ENGINES.values())))
def test_loss_is_the_double_loop(loss, dtype, batch, engine):
    value = with_settings(loss, **engine)(losses, batch.z.to(dtype), batch)
    assert value.dtype == dtype and value.shape == ()
    assert close(value, loss(reference, batch.z, batch), batch, dtype)


@every(EVERY_LOSS)
@given(batch=batches(), seed=st.integers(0, 1000))
def test_order_of_rows_does_not_matter(loss, batch, seed):
    p = torch.randperm(len(batch.z), generator=torch.Generator().manual_seed(seed))
    moved = batch._replace(z=batch.z[p], labels=batch.labels[p], distributions=batch.distributions[p], logits=batch.logits[p])
    assert close(loss(losses, moved.z, moved), loss(losses, batch.z, batch), batch)


@pytest.mark.parametrize("names", [[3, 1, 0, 2], [-1, -100, 7, 2**40], [2**63 - 1, -(2**63), 2**62, 5]], ids=str)
@every(SUPCON | SCHANE)
@given(batch=batches())
def test_names_of_classes_do_not_matter(loss, names, batch):
    renamed = batch._replace(labels=torch.tensor(names)[batch.labels])
    assert close(loss(losses, batch.z, renamed), loss(losses, batch.z, batch), batch)


@given(batch=batches(), order=st.permutations(range(4)))
def test_order_of_classes_in_distributions_does_not_matter(batch, order):
    renamed = batch._replace(distributions=batch.distributions[:, order])
    assert close(GENSCL["genscl"](losses, batch.z, renamed), GENSCL["genscl"](losses, batch.z, batch), batch)


@every(SUPCON | SCHANE)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_integer_type_of_labels_does_not_matter(loss, dtype):
    batch = random_batch()
    assert loss(losses, batch.z, batch._replace(labels=batch.labels.to(dtype))) == loss(losses, batch.z, batch)


@every(EVERY_LOSS)
@given(batch=batches(), seed=st.integers(0, 1000))
def test_length_of_embeddings_does_not_matter(loss, batch, seed):
    lengths = 10 ** torch.empty(len(batch.z), 1).uniform_(-3, 3, generator=torch.Generator().manual_seed(seed)).double()
    assert close(loss(losses, batch.z * lengths, batch), loss(losses, batch.z, batch), batch)


@given(batch=batches(), seed=st.integers(0, 1000))
def test_length_of_label_distributions_does_not_matter(batch, seed):
    lengths = 10 ** torch.empty(len(batch.z), 1).uniform_(-3, 3, generator=torch.Generator().manual_seed(seed)).double()
    scaled = batch._replace(distributions=batch.distributions * lengths)
    assert close(GENSCL["genscl"](losses, batch.z, scaled), GENSCL["genscl"](losses, batch.z, batch), batch)


@every(EVERY_LOSS)
def test_memory_layout_does_not_matter(loss):
    batch = random_batch()
    strided = Batch(*(x.repeat_interleave(2, 0)[::2] for x in batch[:4]))
    strided = strided._replace(z=strided.z.T.contiguous().T)
    assert not strided.z.is_contiguous() and not strided.labels.is_contiguous()
    assert close(loss(losses, strided.z, strided), loss(losses, batch.z, batch), batch)


# Against each other


@given(batch=batches(), engines=st.tuples(*[st.sampled_from(list(ENGINES.values()))] * 2))
def test_genscl_on_one_hot_labels_is_supcon(batch, engines):
    one_hot = batch._replace(distributions=F.one_hot(batch.labels, 4))
    genscl, supcon = (with_settings(f, **e) for f, e in zip((GENSCL["genscl"], SUPCON["supcon out"]), engines, strict=True))
    assert close(genscl(losses, batch.z, one_hot), supcon(losses, batch.z, batch), batch)


@given(batch=batches())
def test_schane_of_sums_without_hardness_is_supcon_in(batch):
    easy = batch._replace(hardness=0.0)
    assert close(SCHANE["schane sum"](losses, batch.z, easy), SUPCON["supcon in"](losses, batch.z, batch), batch)


@given(batch=batches())
def test_supcon_in_is_at_most_supcon_out(batch):
    inside, outside = (supcon_loss(batch.z, batch.labels, temperature=batch.temperature, form=form) for form in ("in", "out"))
    assert inside <= outside + 1e-10 * abs(outside) + 1e-14 / batch.temperature


def test_supcon_in_is_below_supcon_out_when_positives_differ():
    batch = random_batch(labels=[0, 0, 0, 1, 1, 1])
    assert supcon_loss(batch.z, batch.labels, form="in") < supcon_loss(batch.z, batch.labels, form="out") - 0.1


@given(batch=batches())
def test_clce_of_weight_0_is_cross_entropy(batch):
    value = clce_loss(batch.logits, batch.z, batch.labels, weight=0)
    assert close(value, F.cross_entropy(batch.logits, batch.labels), batch)


@pytest.mark.parametrize("positives", ["mean", "sum"])
@given(batch=batches())
def test_clce_of_weight_1_is_schane(positives, batch):
    settings = {"temperature": batch.temperature, "hardness": batch.hardness, "positives": positives}
    value = clce_loss(batch.logits, batch.z, batch.labels, weight=1, **settings)
    assert value == schane_loss(batch.z, batch.labels, **settings)


def test_defaults_are_the_documented_ones():
    defaults = {
        supcon_loss: {"temperature": 0.1, "form": "out"},
        schane_loss: {"temperature": 0.5, "hardness": 1.0, "positives": "mean"},
        clce_loss: {"weight": 0.9, "temperature": 0.5, "hardness": 1.0, "positives": "mean"},
        genscl_loss: {"temperature": 0.1},
        tcl_loss: {"temperature": 0.1, "k1": 5000.0, "k2": 1.0},
    }
    batch = {"contrasts": None, "contrast_labels": None, "offset": None, "engine": "auto", "block": None}
    for loss, expected in defaults.items():
        parameters = inspect.signature(loss).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        others = batch | {"contrast_distributions": None}
        assert {name: value for name, value in found.items() if name not in others} == expected
        assert found.keys() - expected.keys() == {
            n.replace("contrast_labels", kind)
            for n in batch
            for kind in ["contrast_distributions" if loss is genscl_loss else "contrast_labels"]
        } and all(found[name] == batch.get(name) for name in found.keys() - expected.keys())


# Against closed forms


@every(SUPCON)
@pytest.mark.parametrize("labels", [[0, 0], [0] * 8, [0, 0, 1, 1, 1, 2, 2], [5, 5, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_supcon_of_equal_embeddings_is_log_of_the_others(loss, labels, temperature):
    z = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64).expand(len(labels), 3)
    batch = random_batch(labels=labels, temperature=temperature)
    assert loss(losses, z, batch).item() == pytest.approx(math.log(len(labels) - 1), abs=1e-12)


@every(SUPCON)
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_supcon_on_a_regular_simplex(loss, temperature):
    """An anchor with l of b rows in its class has log(l - 1 + (b - l) exp(-K / ((K - 1) temperature)))."""
    counts, b, k = [3, 2, 4, 1], 10, 4
    vertices = torch.eye(k, dtype=torch.float64) - 1 / k
    labels = torch.arange(k).repeat_interleave(torch.tensor(counts))
    per_class = {c: math.log(c - 1 + (b - c) * math.exp(-k / ((k - 1) * temperature))) for c in counts if c > 1}
    expected = sum(c * value for c, value in per_class.items()) / sum(per_class)  # the singleton has no positive
    value = loss(losses, vertices[labels], random_batch(labels=labels, temperature=temperature))
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "other, cosine",
    [
        *[(([0.7, 0.2, 0.1], other), c) for other, c in [([0.6, 0.3, 0.1], 0.983), ([0.9, 0.1, 0], 0.977)]],
        *[(([0.7, 0.2, 0.1], other), c) for other, c in [([0.1, 0.7, 0.2], 0.426), ([0.1, 0.2, 0.7], 0.333)]],
        *[(([0.6, 0, 0.4], other), c) for other, c in [([0.6, 0.4, 0], 0.692), ([0.5, 0.5, 0], 0.588)]],
        *[(([0.6, 0, 0.4], other), c) for other, c in [([0.2, 0.8, 0], 0.202), ([0.3, 0, 0.7], 0.838)]],
    ],
    ids=str,
)
def test_genscl_weighs_by_the_cosines_of_the_authors_figure(other, cosine):
    """Rows a, a, b with embeddings e1, e1, e2: the loss is log(e + 1) * 2/3 + log(2) / 3 - 2/3 / (1 + cosine)."""
    a, b = other
    z = torch.tensor([[1, 0], [1, 0], [0, 1]], dtype=torch.float64)
    value = genscl_loss(z, torch.tensor([a, a, b], dtype=torch.float64), temperature=1.0).item()
    found = 2 / 3 / (math.log(math.e + 1) * 2 / 3 + math.log(2) / 3 - value) - 1
    assert found == pytest.approx(cosine, abs=5.1e-4)  # the figure has three decimals


@pytest.mark.parametrize("hardness", [0, 1, 4])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_schane_of_two_orthogonal_classes_is_in_closed_form_whatever_the_hardness(hardness, temperature):
    """Three rows each on e1 and e2: all negatives are alike, so weights are one. R = 3, m = exp(1 / temperature)."""
    z, labels = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 1, 1, 1]], torch.tensor([0, 0, 0, 1, 1, 1])
    m = math.exp(1 / temperature)
    for positives, expected in {"mean": math.log(1 + 3 / m), "sum": math.log(1 + 3 / (2 * m)) + math.log(2)}.items():
        value = schane_loss(z, labels, temperature=temperature, hardness=hardness, positives=positives)
        assert value.item() == pytest.approx(expected, rel=1e-10)


@every(SCHANE)
def test_schane_grows_with_hardness_when_negatives_differ(loss):
    values = [loss(losses, b.z, b).item() for b in (random_batch(hardness=h) for h in (0, 0.25, 1, 2, 4))]
    assert all(easier < harder - 1e-3 for easier, harder in zip(values, values[1:], strict=False))


# Gradients


@pytest.mark.parametrize("form", ["out", "in"])
@given(batch=batches(short_rows=False))
def test_supcon_gradient_is_equation_4(form, batch):
    z = batch.z.clone().requires_grad_()
    supcon_loss(z, batch.labels, temperature=batch.temperature, form=form).backward()
    expected = reference.supcon_gradient(batch.z, batch.labels, temperature=batch.temperature, form=form)
    torch.testing.assert_close(z.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@every(EVERY_LOSS)
@pytest.mark.parametrize("labels", [None, [0, 0, 1, 2, 2, 2], [1, 1, 1, 1]], ids=["mixed", "a singleton", "one class"])
@pytest.mark.parametrize("temperature, hardness", [(0.1, 0.0), (0.5, 1.0), (0.5, 3.0)])
def test_gradient_is_the_finite_difference(loss, labels, temperature, hardness):
    batch = random_batch(6, 3, labels, temperature=temperature, hardness=hardness)
    assert torch.autograd.gradcheck(lambda z: loss(losses, z, batch), batch.z.clone().requires_grad_())


def test_gradients_reach_logits_and_label_distributions():
    batch = random_batch(6, 3)
    logits, distributions = batch.logits.clone().requires_grad_(), batch.distributions.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: clce_loss(x, batch.z, batch.labels), logits)
    assert torch.autograd.gradcheck(lambda q: genscl_loss(batch.z, q), distributions)
    mixed = lambda p: genscl_loss(batch.z[:2], batch.distributions[:2], contrasts=batch.z, contrast_distributions=p)  # noqa: E731
    assert torch.autograd.gradcheck(mixed, distributions)


# Degenerate batches

RANDOM = random_batch(8, 4).z
DEGENERATE = {
    "singletons among pairs": (RANDOM, [0, 0, 1, 2, 3, 3, 3, 3]),
    "no positives": (RANDOM[:4], [3, 1, 0, 2]),
    "one class": (RANDOM, [2] * 8),
    "two rows of a class": (RANDOM[:2], [1, 1]),
    "two rows of two classes": (RANDOM[:2], [1, 0]),
    "one row": (RANDOM[:1], [0]),
    "identical": (torch.ones(8, 4), [0, 0, 1, 1, 1, 2, 3, 3]),
    "identical positives, opposite negatives": (torch.tensor([1.0, 1, -1, -1])[:, None] * RANDOM[0], [0, 0, 1, 1]),
    "opposite positives, identical negatives": (torch.tensor([1.0, -1, 1, -1])[:, None] * RANDOM[0], [0, 0, 1, 1]),
    "opposite pair": (torch.tensor([1.0, -1])[:, None] * RANDOM[0], [0, 0]),
    "some zero rows": (RANDOM * torch.tensor([0.0, 1, 0, 1, 1, 1, 1, 1])[:, None], [0, 0, 1, 1, 1, 2, 2, 2]),
    "only zero rows": (torch.zeros(4, 4), [0, 0, 1, 1]),
    "one dimension": (torch.tensor([[2.0], [-3.0], [0.5], [-1.0]]), [0, 0, 1, 1]),
    "huge": (RANDOM * 1e30, [0, 0, 1, 1, 1, 2, 2, 2]),
    "tiny": (RANDOM * 1e-30, [0, 0, 1, 1, 1, 2, 2, 2]),
    "huge and tiny": (RANDOM * torch.tensor([1e30, 1e-30] * 4)[:, None], [0, 0, 1, 1, 1, 2, 2, 2]),
}


@every(EVERY_LOSS)
@every_engine
@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_batch_is_finite_and_agrees_with_the_reference(loss, temperature, case, engine):
    z, labels = DEGENERATE[case]
    batch = random_batch(labels=labels, temperature=temperature)._replace(distributions=F.one_hot(torch.tensor(labels), 4))
    value, gradient = value_and_gradient(with_settings(loss, **engine), z.float(), batch)
    assert value.isfinite() and gradient.isfinite().all()
    assert close(value, loss(reference, z.float().double(), batch), batch, torch.float32)


@every(SUPCON | SCHANE | GENSCL)
@pytest.mark.parametrize("labels", [[0], [1, 0], [3, 1, 0, 2]], ids=str)
def test_without_positives_the_loss_is_0_and_so_is_its_gradient(loss, labels):
    batch = random_batch(labels=labels)._replace(distributions=F.one_hot(torch.tensor(labels), 4))
    value, gradient = value_and_gradient(loss, batch.z, batch)
    assert value == 0 and (gradient == 0).all()


@every(SUPCON | SCHANE | GENSCL)
def test_singletons_are_left_out_of_the_mean(loss):
    """Rows of one class at one point, and singletons that are all as far from them: only how many are counted differs."""
    z = torch.eye(5, dtype=torch.float64)[[0, 0, 1, 2, 3]]
    batch = random_batch(labels=[0, 0, 1, 2, 3], temperature=1.0)._replace(distributions=torch.eye(4)[[0, 0, 1, 2, 3]])
    assert loss(losses, z, batch).item() == pytest.approx(math.log(math.e + 3) - 1)


@every(EVERY_LOSS)
@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2], [3, 1, 0, 2]], ids=str)
def test_singletons_get_finite_gradients_at_low_temperature(loss, labels):
    batch = random_batch(labels=labels, temperature=0.01)
    value, gradient = value_and_gradient(loss, batch.z.float(), batch)
    _, expected = value_and_gradient(loss, batch.z, batch)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@every_engine
def test_genscl_leaves_out_rows_without_a_distribution(engine):
    batch = random_batch(8, 4)
    distributions = batch.distributions.clone()
    distributions[[2, 5]] = 0
    batch = batch._replace(distributions=distributions)
    value, gradient = value_and_gradient(with_settings(GENSCL["genscl"], **engine), batch.z, batch)
    assert close(value, GENSCL["genscl"](reference, batch.z, batch), batch)
    assert gradient.isfinite().all() and (gradient[2] != 0).any()  # still a contrast of the others


@every_engine
def test_genscl_without_any_distribution_is_0_and_so_is_its_gradient(engine):
    batch = random_batch(4)._replace(distributions=torch.zeros(4, 4))
    value, gradient = value_and_gradient(with_settings(GENSCL["genscl"], **engine), batch.z, batch)
    assert value == 0 and (gradient == 0).all()


@every(EVERY_LOSS)
@pytest.mark.parametrize("temperature", [0.01, 0.05])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(loss, temperature, dtype):
    batch = random_batch(16, 8, temperature=temperature)
    batch = batch._replace(logits=batch.logits.to(dtype))
    value, gradient = value_and_gradient(loss, batch.z.to(dtype), batch)
    expected, expected_gradient = value_and_gradient(loss, batch.z.to(dtype).float(), batch)
    assert value.dtype == torch.float32 and value == expected
    assert gradient.dtype == dtype and gradient.isfinite().all() and torch.equal(gradient, expected_gradient.to(dtype))


@every(EVERY_LOSS)
@every_engine
def test_autocast_does_not_lower_the_precision(loss, engine):
    loss = with_settings(loss, **engine)
    batch = random_batch(16, 8, temperature=0.05)
    batch = batch._replace(logits=batch.logits.bfloat16())
    expected, expected_gradient = value_and_gradient(loss, batch.z.bfloat16(), batch)
    z = batch.z.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(losses, z, batch)
    value.backward()
    assert value.dtype == torch.float32 and value == expected and torch.equal(z.grad, expected_gradient)


@every(EVERY_LOSS)
@given(batch=batches(short_rows=False), engine=st.sampled_from(list(ENGINES.values())))
def test_float32_at_temperature_one_hundredth_is_the_double_loop(loss, batch, engine):
    cold = batch._replace(temperature=0.01)
    value, gradient = value_and_gradient(with_settings(loss, **engine), cold.z.float(), cold)
    assert close(value, loss(reference, cold.z, cold), cold, torch.float32)
    assert gradient.isfinite().all()


# Errors

Z, Y, Q = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2]), torch.rand(6, 4)
ERRORS = {
    "form": (
        lambda: supcon_loss(Z, Y, form="outside"),
        r'^form is \'outside\'; expected "out" \(log outside the mean, Eq. 2\) or "in" \(inside, Eq. 3\)\.$',
    ),
    "positives": (
        lambda: schane_loss(Z, Y, positives="max"),
        r'^positives is \'max\'; expected "mean" \(released SCHaNe\) or "sum" \(the other reading\)\.$',
    ),
    "hardness": (
        lambda: schane_loss(Z, Y, hardness=-1),
        r"^hardness is -1; expected a number >= 0, where 0 means no hard negatives\.$",
    ),
    "hardness nan": (lambda: schane_loss(Z, Y, hardness=math.nan), r"hardness is nan"),
    "weight above": (
        lambda: clce_loss(Q, Z, Y, weight=1.5),
        r"^weight is 1.5; expected 0 \(only cross-entropy\) to 1 \(only contrastive\)\.$",
    ),
    "weight below": (lambda: clce_loss(Q, Z, Y, weight=-0.1), r"weight is -0.1; expected 0"),
    "logits rows": (
        lambda: clce_loss(Q[:5], Z, Y),
        r"logits has shape \(5, 4\) and dtype torch.float32; expected \(6, classes\)",
    ),
    "logits axes": (lambda: clce_loss(Q[:, 0], Z, Y), r"logits has shape \(6,\) and .*expected \(6, classes\)"),
    "clce positives": (lambda: clce_loss(Q, Z, Y, positives="max"), r"positives is 'max'"),
    "labels float": (
        lambda: supcon_loss(Z, Y.float()),
        r"labels has shape \(6,\) and dtype torch.float32; expected \(N,\) integers\. .* write labels.long\(\)\.$",
    ),
    "labels axes": (
        lambda: schane_loss(Z, F.one_hot(Y)),
        r"^labels has shape \(6, 3\).*For label distributions use genscl_loss\.$",
    ),
    "labels few": (lambda: supcon_loss(Z, Y[:5]), r"labels has 5 entries but embeddings has 6 rows\.$"),
    "labels of one view": (
        lambda: supcon_loss(Z, Y[:3]),
        r"^labels has 3 entries .* 6 rows\. With two .*: labels.repeat\(2\)\.$",
    ),
    "distributions rows": (
        lambda: genscl_loss(Z, Q[:5]),
        r"label_distributions has shape \(5, 4\) and .*expected \(6, classes\)",
    ),
    "distributions axes": (lambda: genscl_loss(Z, Y), r"of embeddings\. With int.*one_hot\(labels, classes\)\.$"),
    "distributions negative": (lambda: genscl_loss(Z, Q - 1), r"negative entries; .*logits need a softmax"),
    "embeddings integer": (
        lambda: supcon_loss(Z.long(), Y),
        r"embeddings has shape \(6, 3\) and dtype torch.int64; .* floating point\. Write embeddings.float\(\)\.$",
    ),
    "embeddings axes": (
        lambda: supcon_loss(Z[:, 0], Y),
        r"^embeddings has shape \(6,\) and .*; expected \(N, D\), or \(B, V, D\) for V views of B images, floating point\.$",
    ),
    "genscl embeddings axes": (lambda: genscl_loss(Z[:, None, None], Q), r"embeddings has shape \(6, 1, 1, 3\)"),
    **{
        f"temperature {t} of {loss.__name__}": (lambda loss=loss, y=y, t=t: loss(Z, y, temperature=t), f"temperature is {t}; exp")
        for t in (0, -0.1, math.nan)
        for loss, y in [(supcon_loss, Y), (schane_loss, Y), (genscl_loss, Q), (tcl_loss, Y)]
    },
    "temperature infinite": (
        lambda: supcon_loss(Z, Y, temperature=math.inf),
        r"^temperature is inf; expected a number > 0, for example 0.1\.$",
    ),
    "temperature tensor": (lambda: supcon_loss(Z, Y, temperature=torch.ones(())), "temperature is .*expected a number"),
    "k1": (lambda: tcl_loss(Z, Y, k1=-1), r"^k1 is -1; expected a number >= 0\.$"),
    "k2": (lambda: tcl_loss(Z, Y, k2=-0.1), r"^k2 is -0.1; expected a number >= 0\.$"),
    "block": (lambda: supcon_loss(Z, Y, block=0), r"^block is 0; expected a whole number > 0, or None to have it chosen\.$"),
    "block fraction": (lambda: supcon_loss(Z, Y, block=2.0), r"block is 2.0; expected a whole number > 0"),
    "engine": (
        lambda: supcon_loss(Z, Y, engine="fast"),
        r"^engine is 'fast'; expected \"auto\" \(.*\) or \"readable\" \(plain torch\) or \"tiled\" \(.*\)\.$",
    ),
    "tiles and distributions": (
        lambda: genscl_loss(Z, Q.clone().requires_grad_(), engine="tiled"),
        r'^engine is "tiled", .* a gradient with respect to label distributions; expected engine="readable" or "auto"\.$',
    ),
    "hardness huge": (
        lambda: schane_loss(Z, Y, hardness=1e39),
        r"^A factor of 1e\+39 over a temperature of 0.5 is beyond 1e\+30, .* a higher temperature or less hardness\.$",
    ),
    "temperature text": (lambda: supcon_loss(Z, Y, temperature="0.1"), r"^temperature is '0.1' of type str; expected a number"),
    "no labels": (
        lambda: supcon_loss(Z),
        r"^labels is None but embeddings has shape \(6, 3\); expected views \(B, V, D\) .* torch.stack\(\(first.*\)\.$",
    ),
    "labels of every view": (
        lambda: supcon_loss(Z.view(3, 2, 3), Y),
        r"^labels has 6 entries but embeddings has 3 images; expected one for each\.$",
    ),
    "nan": (lambda: supcon_loss(Z / 0, Y), r"^embeddings has 18 entries that are NaN or infinite; expected finite numbers\.$"),
    "distributions nan": (lambda: genscl_loss(Z, Q * math.nan), "^label_distributions has 24 entries that are NaN"),
    "logits nan": (lambda: clce_loss(Q * math.nan, Z, Y), "^logits has 24 entries that are NaN"),
    "logits integer": (lambda: clce_loss(Q.long(), Z, Y), "logits has shape .* torch.int64; expected .* floating point"),
    "clce label above": (lambda: clce_loss(Q, Z, Y + 2), "labels go from 2 to 4; expected 0 to 3, the columns of logits"),
    "clce label below": (lambda: clce_loss(Q, Z, Y - 1), "labels go from -1 to 1; expected 0 to 3"),
    "embeddings list": (lambda: supcon_loss([[1.0]], Y), "embeddings has type list; expected"),
    "embeddings empty rows": (lambda: supcon_loss(Z[:, :0], Y), r"embeddings has shape \(6, 0\)"),
    "distributions complex": (lambda: genscl_loss(Z, Q + 0j), "label_distributions has shape .* torch.complex64; expected"),
    "labels complex": (lambda: supcon_loss(Z, Y + 0j), "labels has shape .* torch.complex64; expected"),
    "distributions no classes": (lambda: genscl_loss(Z, Q[:, :0]), r"label_distributions has shape \(6, 0\)"),
    "contrasts axes": (lambda: supcon_loss(Z, Y, contrasts=Y, contrast_labels=Y), r"^contrasts has shape \(6,\)"),
    "contrasts columns": (lambda: supcon_loss(Z, Y, contrasts=Q, contrast_labels=Y), "contrasts has 4 columns; expected 3"),
    "contrasts nan": (lambda: supcon_loss(Z, Y, contrasts=Z / 0, contrast_labels=Y), "^contrasts has 18 entries"),
    "no contrast_labels": (
        lambda: supcon_loss(Z, Y, contrasts=Z),
        r"^contrast_labels is None but contrasts is given; expected both or neither\.$",
    ),
    "no contrasts": (lambda: supcon_loss(Z, Y, contrast_labels=Y), "^contrasts is None but contrast_labels is given"),
    "contrast_labels few": (
        lambda: supcon_loss(Z, Y, contrasts=Z, contrast_labels=Y[1:]),
        "^contrast_labels has 5 entries but contrasts has 6 rows",
    ),
    "no contrast_distributions": (lambda: genscl_loss(Z, Q, contrasts=Z), "contrast_distributions is None but contrasts"),
    "contrast_distributions rows": (
        lambda: genscl_loss(Z, Q, contrasts=Z, contrast_distributions=Q[:5]),
        r"^contrast_distributions has shape \(5, 4\) .*a row for each of contrasts\.",
    ),
    "contrast_distributions classes": (
        lambda: genscl_loss(Z, Q, contrasts=Z, contrast_distributions=Q[:, 1:]),
        "contrast_distributions has 3 columns; expected 4",
    ),
    "offset without contrasts": (
        lambda: supcon_loss(Z, Y, offset=0),
        r"^offset is 0 but contrasts is None; expected contrasts with the anchors among them\.$",
    ),
    "offset above": (
        lambda: supcon_loss(Z, Y, contrasts=Z, contrast_labels=Y, offset=1),
        r"^offset is 1 with 6 embeddings and 6 contrasts; .* from 0 to 0, or None where embeddings are not among contrasts\.$",
    ),
    "offset below": (lambda: supcon_loss(Z, Y, contrasts=Z, contrast_labels=Y, offset=-1), "offset is -1 .*from 0 to 0"),
    "offset fraction": (lambda: supcon_loss(Z, Y, contrasts=Z, contrast_labels=Y, offset=0.0), "offset is 0.0 .*from 0 to 0"),
    "offset of others": (
        lambda: supcon_loss(Z, Y, contrasts=Z, contrast_labels=Y + 1, offset=0),
        r"^contrast_labels from row 0 on differ from labels; .* embeddings are these rows of contrasts\.$",
    ),
}


@pytest.mark.parametrize("call, message", ERRORS.values(), ids=ERRORS.keys())
def test_error_names_what_is_wrong_and_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Tiles, contrasts, modules, and torch's transformations


@every(EVERY_LOSS)
@pytest.mark.parametrize("engine", ["readable", "tiled"])
def test_block_and_contrasts_reach_the_work_on_pairs(loss, engine, monkeypatch):
    """As they change nothing but memory and time where contrasts are the batch, no other test of values would notice."""
    batch, seen = random_batch(), []
    reduce = losses.Pairs.reduce
    monkeypatch.setattr(losses.Pairs, "reduce", lambda pairs, *terms: seen.append(pairs) or reduce(pairs, *terms))
    key, labels = "contrast_labels", batch.labels
    if loss is EVERY_LOSS["genscl"]:
        key, labels = "contrast_distributions", batch.distributions
    with_settings(loss, engine=engine, block=3, contrasts=batch.z, offset=0, **{key: labels})(losses, batch.z, batch)
    (pairs,) = seen
    assert pairs.block == 3 and pairs.tiled == (engine == "tiled") and pairs.offset == 0 and not pairs.symmetric
    assert pairs.contrasts.shape == batch.z.shape


@every(EVERY_LOSS)
@given(batch=batches(short_rows=False), engine=st.sampled_from(["readable", "tiled"]), block=st.integers(1, 13))
def test_size_of_blocks_does_not_matter(loss, batch, engine, block):
    value, gradient = value_and_gradient(loss, batch.z, batch)
    value_blocks, gradient_blocks = value_and_gradient(with_settings(loss, engine=engine, block=block), batch.z, batch)
    assert close(value_blocks, value, batch)
    torch.testing.assert_close(gradient_blocks, gradient, rtol=1e-9, atol=1e-10 / batch.temperature)


@given(batch=batches())
def test_tcl_without_k1_is_supcon(batch):
    value = tcl_loss(batch.z, batch.labels, temperature=batch.temperature, k1=0, k2=1)
    assert close(value, supcon_loss(batch.z, batch.labels, temperature=batch.temperature), batch)


@every(EVERY_LOSS)
@pytest.mark.parametrize("temperature", [0.01, 0.5])
@pytest.mark.parametrize("block", [1, 3, 7, None])
@pytest.mark.parametrize("engine", ["readable", "tiled"])
def test_anchors_against_all_are_blocks_of_the_full_loss(loss, engine, block, temperature):
    """Chunks of anchors against all, each weighted by its number of anchors with a positive, give the loss and gradient."""
    batch = random_batch(11, 4, labels=[0, 0, 3, 1, 2, 1, 0, 2, 2, 1, 0], temperature=temperature)  # the third is alone
    value, expected = value_and_gradient(loss, batch.z, batch)
    z = batch.z.clone().requires_grad_()
    total = 0
    soft, clce = loss is EVERY_LOSS["genscl"], loss in CLCE.values()
    for rows, positives in [(slice(0, 4), 3), (slice(4, 5), 1), (slice(5, 11), 6)]:
        key, labels = ("contrast_distributions", batch.distributions) if soft else ("contrast_labels", batch.labels)
        chunk = Batch(*(x[rows] for x in batch[:4]), *batch[4:])
        count = len(chunk.z) if soft else positives
        part = with_settings(loss, engine=engine, block=block, contrasts=z, offset=rows.start, **{key: labels})(
            losses, z[rows], chunk
        )
        if clce:  # cross-entropy counts every row
            part = part - 0.3 * F.cross_entropy(chunk.logits, chunk.labels)
        total = total + part * count
    total = total / (11 if soft else 10)
    if clce:
        total = total + 0.3 * F.cross_entropy(batch.logits, batch.labels)
    (gradient,) = torch.autograd.grad(total, z)
    assert close(total.detach(), value, batch)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


@every_engine
@pytest.mark.parametrize("offset", [None, 0, 2])
@every(EVERY_LOSS)
def test_loss_against_contrasts_is_the_double_loop(loss, offset, engine):
    batch, queue = random_batch(5, 4, seed=1), random_batch(9, 4, seed=2)
    z, labels, distributions = queue.z.clone(), queue.labels.clone(), queue.distributions.clone()
    if offset is not None:
        rows = slice(offset, offset + 5)
        z[rows], labels[rows], distributions[rows] = batch.z, batch.labels, batch.distributions
    given_labels = {"contrast_distributions": distributions} if loss is EVERY_LOSS["genscl"] else {"contrast_labels": labels}
    value = with_settings(loss, **engine, contrasts=z, offset=offset, **given_labels)(losses, batch.z, batch)

    class Source:
        def __getattr__(self, name):
            return functools.partial(getattr(reference, name), contrasts=z, offset=offset, **given_labels)

    assert close(value, loss(Source(), batch.z, batch), batch)
    both = batch.z.clone().requires_grad_(), z.clone().requires_grad_()
    f = lambda x, c: with_settings(loss, **engine, contrasts=c, offset=offset, **given_labels)(losses, x, batch)  # noqa: E731
    if engine == ENGINES["dense"]:
        assert torch.autograd.gradcheck(f, both)
        return
    dense = with_settings(loss, **ENGINES["dense"], contrasts=both[1], offset=offset, **given_labels)(losses, both[0], batch)
    for gradient, expected in zip(*(torch.autograd.grad(value, both) for value in (f(*both), dense)), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@every_engine
@every(EVERY_LOSS)
def test_empty_queue_and_empty_batch_are_0(loss, engine):
    batch = random_batch(4)
    key = "contrast_distributions" if loss is EVERY_LOSS["genscl"] else "contrast_labels"
    labels = batch.distributions[:0] if loss is EVERY_LOSS["genscl"] else batch.labels[:0]
    value, gradient = value_and_gradient(with_settings(loss, **engine, contrasts=batch.z[:0], **{key: labels}), batch.z, batch)
    assert (value == 0 or loss in CLCE.values()) and (gradient == 0).all()
    nothing = Batch(*(x[:0] for x in batch[:4]))
    value, gradient = value_and_gradient(with_settings(loss, **engine), nothing.z, nothing)
    assert value == 0 and gradient.shape == nothing.z.shape
    labels = batch.distributions if loss is EVERY_LOSS["genscl"] else batch.labels
    of_a_queue = with_settings(loss, **engine, contrasts=batch.z, **{key: labels})
    assert value_and_gradient(of_a_queue, nothing.z, nothing)[0] == 0


@pytest.mark.usefixtures("compiler")
@every(EVERY_LOSS)
def test_compiled_loss_is_the_loss(loss):
    batch = random_batch()
    value, gradient = value_and_gradient(loss, batch.z, batch)
    compiled = torch.compile(loss, backend="aot_eager")
    compiled_value, compiled_gradient = value_and_gradient(compiled, batch.z, batch)
    torch.testing.assert_close((compiled_value, compiled_gradient), (value, gradient))


@every_engine
def test_genscl_of_nearly_no_similarity_keeps_its_precision(engine):
    """All the anchors share is a millionth: of a sum that holds themselves, float32 would lose it."""
    q = torch.eye(6) + 1e-6 * torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    batch = random_batch(6)._replace(distributions=q)
    value = with_settings(GENSCL["genscl"], **engine)(losses, batch.z.float(), batch)
    assert close(value, GENSCL["genscl"](reference, batch.z, batch), batch, torch.float32)


@every_engine
def test_genscl_anchor_of_no_similarity_has_no_positive(engine):
    q = torch.tensor([[0.6, 0.8, 0], [0, 0, 0.3], [0, 0, 0.9]])
    batch = random_batch(3)._replace(distributions=q)
    value = with_settings(GENSCL["genscl"], **engine)(losses, batch.z, batch)
    assert close(value, GENSCL["genscl"](reference, batch.z, batch), batch)
