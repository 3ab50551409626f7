"""What the losses accept, which engine runs, that engines agree, and torch's own features on the readable one."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from supcl import pairs as pairs_module
from supcl.losses import clce_loss, genscl_loss, schane_loss, supcon_loss, tcl_loss
from supcl.pairs import Pairs

N, D, CLASSES = 12, 5, 4
DRAW = torch.Generator().manual_seed(0)
Z = torch.randn(N, D, generator=DRAW, dtype=torch.float64)
Z[3] = 0  # a row without a direction
Y = torch.randint(CLASSES, (N,), generator=DRAW)
Y[:3] = torch.tensor([0, 0, 9])  # the third is alone
Q = torch.rand(N, CLASSES, generator=DRAW, dtype=torch.float64)
LOGITS = torch.randn(N, 10, generator=DRAW, dtype=torch.float64)
LOSSES = {
    "supcon out": lambda z, y=Y, **settings: supcon_loss(z, y, **settings),
    "supcon in": lambda z, y=Y, **settings: supcon_loss(z, y, form="in", **settings),
    "schane mean": lambda z, y=Y, **settings: schane_loss(z, y, **settings),
    "schane sum": lambda z, y=Y, **settings: schane_loss(z, y, positives="sum", **settings),
    "clce": lambda z, y=Y, **settings: clce_loss(LOGITS.to(z.device, z.dtype), z, y, **settings),
    "genscl": lambda z, y=Q, **settings: genscl_loss(z, y.to(z.device), **settings),
    "tcl": lambda z, y=Y, **settings: tcl_loss(z, y, **settings),
}
LABELLED = {name: loss for name, loss in LOSSES.items() if name != "genscl"}
BLOCKS = [None, 5]  # the whole matrix at once, and block by block


def every(cases):
    return pytest.mark.parametrize("loss", cases.values(), ids=cases.keys())


def gradient(loss, z, **settings):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(z, **settings), z)[0]


# Engines


@given(
    n=st.integers(2, 40),
    dim=st.integers(1, 9),
    classes=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    temperature=st.floats(0.02, 5),
    hardness=st.floats(0, 4),
    contrasts=st.sampled_from(["batch", "queue", "among"]),
    blocks=st.tuples(st.integers(1, 41), st.integers(1, 41)),
    seed=st.integers(0, 999),
)
def test_engines_agree_in_values_and_gradients(n, dim, classes, dtype, temperature, hardness, contrasts, blocks, seed):
    draw = torch.Generator().manual_seed(seed)
    others, offset = n + 7, 3
    x = torch.randn(others, dim, generator=draw, dtype=torch.float64).to(dtype)
    labels = torch.randint(classes, (others,), generator=draw)
    soft = torch.rand(others, classes, generator=draw, dtype=torch.float64).to(dtype)
    rows = slice(offset, offset + n)
    for loss, y, name, settings in [
        (supcon_loss, labels, "contrast_labels", {"form": "out"}),
        (supcon_loss, labels, "contrast_labels", {"form": "in"}),
        (schane_loss, labels, "contrast_labels", {"hardness": hardness, "positives": "mean"}),
        (schane_loss, labels, "contrast_labels", {"hardness": hardness, "positives": "sum"}),
        (tcl_loss, labels, "contrast_labels", {"k1": 10.0, "k2": 0.5}),
        (genscl_loss, soft, "contrast_distributions", {}),
    ]:
        results = []
        for engine, block in zip(("readable", "tiled"), blocks, strict=True):
            anchors, queue = x[rows].clone().requires_grad_(), x.clone().requires_grad_()
            more = {} if contrasts == "batch" else {"contrasts": queue, name: y}
            if contrasts == "among":
                more["offset"] = offset
            value = loss(anchors, y[rows], temperature=temperature, engine=engine, block=block, **settings, **more)
            inputs = [anchors] if contrasts == "batch" else [anchors, queue]
            results.append((value.detach(), *torch.autograd.grad(value, inputs)))
        scale = (1 + hardness) / temperature
        relative, rounding = (1e-4, 2e-6 * scale) if dtype == torch.float32 else (1e-9, 1e-14 * scale)
        assert results[0][0].dtype == results[1][0].dtype == dtype
        torch.testing.assert_close(results[1][0], results[0][0], rtol=relative, atol=rounding)
        for ours, theirs in zip(results[1][1:], results[0][1:], strict=True):
            shortest = x.norm(dim=1).amin().item()  # a gradient grows with 1 / length
            torch.testing.assert_close(ours, theirs, rtol=10 * relative, atol=10 * rounding * scale / min(1, shortest))


@pytest.mark.parametrize(
    "rows, contrasts, settings, tiles",
    [
        (512, None, {}, False),  # one block
        (513, None, {}, True),
        (2, 513, {}, True),
        (513, None, {"engine": "readable"}, False),
        (2, None, {"engine": "tiled"}, True),
        (5, None, {"block": 4}, True),
        (4, None, {"block": 4}, False),
    ],
)
def test_auto_takes_tiles_on_a_cpu_for_more_than_one_block(rows, contrasts, settings, tiles):
    settings = {"engine": "auto", "block": None} | settings
    x, c = torch.ones(rows, 2), None if contrasts is None else torch.ones(contrasts, 2)
    labels = None if c is None else torch.zeros(contrasts, dtype=torch.int64)
    pairs = Pairs(x, torch.zeros(rows, dtype=torch.int64), 1.0, c, labels, None, settings["engine"], settings["block"])
    assert pairs.tiled == tiles


def test_auto_is_readable_off_the_cpu_and_for_gradients_of_distributions():
    x, y = torch.ones(600, 2), torch.zeros(600, dtype=torch.int64)
    assert not Pairs(x.to("meta"), y.to("meta"), 1.0, None, None, None, "auto", None).tiled
    q = torch.rand(600, 3)
    assert Pairs(x, q, 1.0, None, None, None, "auto", None, soft=True).tiled
    assert not Pairs(x, q.requires_grad_(), 1.0, None, None, None, "auto", None, soft=True).tiled


def test_memory_of_a_block_is_bounded_whatever_the_number_of_contrasts():
    for m in (1000, 100_000):
        pairs = Pairs(torch.ones(9, 1), torch.arange(9), 1.0, torch.ones(m, 1), torch.zeros(m).long(), None, "readable", None)
        assert pairs.block >= 1 and pairs.block * m <= pairs_module.ENTRIES


# Inputs


@every(LOSSES)
def test_views_of_images_are_rows_with_one_label(loss):
    rows = torch.arange(N // 2).repeat_interleave(2)
    y = Q[: N // 2] if loss is LOSSES["genscl"] else Y[: N // 2] % 2
    expected = loss(Z, y[rows])
    assert loss(Z.view(N // 2, 2, D), y) == expected
    assert loss(Z.view(N // 2, 2, D), y if y.ndim == 2 else y[:, None]) == expected


@every(LABELLED)
def test_labels_may_be_a_column(loss):
    assert loss(Z, Y[:, None]) == loss(Z, Y)


@every({name: loss for name, loss in LABELLED.items() if name != "clce"})
def test_without_labels_each_image_is_a_class(loss):
    assert loss(Z.view(4, 3, D), None) == loss(Z, torch.arange(4).repeat_interleave(3))


def test_supcon_without_labels_is_the_loss_of_simclr():
    first, second = Z[: N // 2] + 1, Z[N // 2 :] + 1
    z = F.normalize(torch.cat((first, second)), dim=1)
    s = (z @ z.T / 0.5).fill_diagonal_(-math.inf)
    expected = F.cross_entropy(s, torch.arange(N).roll(N // 2))
    torch.testing.assert_close(supcon_loss(torch.stack((first, second), 1), temperature=0.5), expected)


def test_logits_of_views_may_have_an_axis_of_views():
    y = Y[: N // 2] % 2
    expected = clce_loss(LOGITS, Z, y.repeat_interleave(2))
    assert clce_loss(LOGITS, Z.view(N // 2, 2, D), y) == expected
    assert clce_loss(LOGITS.view(N // 2, 2, 10), Z.view(N // 2, 2, D), y) == expected


# Derivatives and torch's transformations, on the readable engine


@pytest.mark.parametrize("block", BLOCKS)
@every(LOSSES)
def test_second_derivatives_are_finite_differences_of_the_first(loss, block):
    z = Z + 0.1 * torch.eye(N, D, dtype=torch.float64)  # no row of zeros, where there are no finite differences
    assert torch.autograd.gradgradcheck(lambda x: loss(x, temperature=0.5, engine="readable", block=block), z.requires_grad_())


def test_second_derivatives_reach_contrasts_and_distributions():
    q = Q.clone().requires_grad_()
    f = lambda z, c, p: genscl_loss(z, Q[:5], contrasts=c, contrast_distributions=p, temperature=0.5)  # noqa: E731
    z = Z + 0.1 * torch.eye(N, D, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(f, (z[:5].clone().requires_grad_(), z.clone().requires_grad_(), q))


@every(LOSSES)
def test_second_derivatives_in_tiles_are_refused_with_what_to_ask_for(loss):
    z = Z.clone().requires_grad_()
    with pytest.raises(RuntimeError, match='^Second derivatives need engine="readable"'):
        torch.autograd.grad(loss(z, engine="tiled"), z, create_graph=True)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("block", BLOCKS)
@every(LOSSES)
def test_compiled_whole_the_loss_is_the_same(loss, block):
    torch._dynamo.reset()
    compiled = torch.compile(lambda z: loss(z, block=block), fullgraph=True, backend="aot_eager")
    z = Z.clone().requires_grad_()
    value = compiled(z)
    torch.testing.assert_close((value, torch.autograd.grad(value, z)[0]), (loss(Z), gradient(loss, Z)))


@pytest.mark.parametrize("block", BLOCKS)
@every(LOSSES)
def test_exported_the_loss_is_the_same(loss, block):
    class Module(torch.nn.Module):
        def forward(self, z):
            return loss(z, block=block)

    torch.testing.assert_close(torch.export.export(Module(), (Z,), strict=False).module()(Z), loss(Z))


@pytest.mark.parametrize("block", BLOCKS)
@every(LOSSES)
def test_functional_derivatives_are_those_of_autograd(loss, block):
    f = lambda z: loss(z, block=block)  # noqa: E731
    expected = gradient(loss, Z)
    torch.testing.assert_close(torch.func.grad(f)(Z), expected)
    torch.testing.assert_close(torch.func.jacrev(f)(Z), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of torch.jit.script
        hessian = torch.func.hessian(f)(Z)
    exact = torch.autograd.functional.hessian(lambda z: loss(z, engine="readable"), Z)
    assert hessian.isfinite().all()
    torch.testing.assert_close(hessian, exact)


@pytest.mark.parametrize("block", BLOCKS)
@every(LOSSES)
def test_vmapped_the_loss_is_that_of_each_batch(loss, block):
    batches = torch.stack((Z, Z.flip(0), Z.roll(1, 1)))
    f = lambda z: loss(z, block=block)  # noqa: E731
    torch.testing.assert_close(torch.func.vmap(f)(batches), torch.stack([loss(z) for z in batches]))
    gradients = torch.stack([gradient(loss, z) for z in batches])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(f))(batches), gradients)


def test_labels_may_be_vmapped():
    batches, labels, soft = torch.stack((Z, Z.flip(0))), torch.stack((Y, Y.roll(1))), torch.stack((Q, Q.roll(1, 0)))
    for loss, y in ((supcon_loss, labels), (schane_loss, labels), (tcl_loss, labels), (genscl_loss, soft)):
        expected = torch.stack([loss(*batch) for batch in zip(batches, y, strict=True)])
        torch.testing.assert_close(torch.func.vmap(loss)(batches, y), expected)
        torch.testing.assert_close(torch.func.vmap(loss, (None, 0))(Z, y), torch.stack([loss(Z, labels) for labels in y]))


@pytest.mark.parametrize("transform", ["vmap", "grad", "compile"])
def test_tiles_are_refused_under_transforms_with_what_to_ask_for(transform, request):
    if transform == "compile":
        request.getfixturevalue("compiler")
    f = lambda z: supcon_loss(z, Y, engine="tiled")  # noqa: E731
    with pytest.raises(Exception, match='engine is "tiled", which does not support torch.compile.*engine="readable"'):
        if transform == "vmap":
            torch.func.vmap(f)(Z[None])
        elif transform == "grad":
            torch.func.grad(f)(Z)
        else:
            torch.compile(f, backend="eager")(Z)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tracing_is_refused_with_what_to_use():
    with pytest.raises(RuntimeError, match="torch.jit.trace would .*; use torch.export.export or torch.compile"):
        torch.jit.trace(lambda z: supcon_loss(z, Y), (Z,))


@pytest.mark.skipif(
    torch.__version__.startswith(("2.5.", "2.6.")),
    reason="FakeTensorMode of this torch aborts on CUDA tensors where there is no GPU",
)
@pytest.mark.parametrize("block", BLOCKS)
@every(LOSSES)
def test_no_value_is_read_on_an_accelerator(loss, block):
    """Tensors of FakeTensorMode have no values: whatever would wait for a GPU to read one is an error there."""
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no GPU
        z = torch.randn(N, D, device="cuda", requires_grad=True)
        y = torch.rand(N, CLASSES, device="cuda") if loss is LOSSES["genscl"] else torch.randint(4, (N,), device="cuda")
        logits = torch.randn(N, 10, device="cuda")
        function = (lambda z, y, **settings: clce_loss(logits, z, y, **settings)) if loss is LOSSES["clce"] else loss
        name = "contrast_distributions" if loss is LOSSES["genscl"] else "contrast_labels"
        assert function(z, y, block=block).device.type == "cuda"
        assert function(z, y, block=block, contrasts=z, offset=0, **{name: y}).device.type == "cuda"
        assert function(z.view(N // 2, 2, D), y[: N // 2], block=block).device.type == "cuda"


# Precision


def written_out(loss, z, y, temperature):
    """The losses with N x N matrices, from their formulas: the yardstick of what float32 can give."""
    z = F.normalize(z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool)
    c = F.normalize(y, dim=1) @ F.normalize(y, dim=1).T if y.ndim == 2 else (y[:, None] == y).to(z.dtype)
    positive = c.masked_fill(itself, 0)
    t = positive / positive.sum(1, keepdim=True)
    s = z @ z.T / temperature
    largest = s.detach().amax(1, keepdim=True)
    e = (s - largest).exp()
    if loss == "in":
        total = (e * positive).sum(1)
        return -(total / (total + (e * (1 - c)).sum(1))).log().mean()
    d = (e * ~itself).sum(1)
    if loss == "tcl":
        d = d + 5000 * ((-z @ z.T).exp() * positive).sum(1) * (-largest[:, 0]).exp()
    return -(t * (s - largest - d.log()[:, None])).sum(1).mean()


CORNERS = [
    (loss, n, dim, classes, spread, temperature)
    for loss in ("out", "in", "tcl", "peaked", "nearly one-hot")
    for n, dim, classes in ((64, 128, 10), (256, 128, 2), (520, 16, 10))
    for spread in (5, 0.3, 0.03)  # of a class, where centres are about one apart in each direction
    for temperature in (0.1, 0.016)
]


@pytest.mark.parametrize("loss, n, dim, classes, spread, temperature", CORNERS)
def test_float32_gradients_are_as_exact_as_the_formula_written_out(loss, n, dim, classes, spread, temperature):
    """Peaked teachers, low temperatures, tight clusters and two classes: against float64, the error of either engine is at most
    three times that of matrices in float32 (which element is furthest off is chance), or a few last digits."""
    draw = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % classes
    z = torch.randn(classes, dim, generator=draw)[labels] + spread * torch.randn(n, dim, generator=draw)
    peak = {"peaked": 5, "nearly one-hot": 20}.get(loss)
    y = (peak * F.one_hot(labels, classes) + torch.randn(n, classes, generator=draw)).softmax(1) if peak else labels
    function = {"out": LOSSES["supcon out"], "in": LOSSES["supcon in"], "tcl": tcl_loss}.get(loss, genscl_loss)

    def off(gradient, exact):
        return ((gradient.double() - exact).norm() / exact.norm()).item()

    as_float = lambda z: y.to(z.dtype) if y.ndim == 2 else y  # noqa: E731
    exact = gradient(lambda z: function(z, as_float(z), temperature=temperature, engine="readable"), z.double())
    if exact.norm() < 1e-10:  # a loss that is zero to float32
        return
    yardstick = off(gradient(lambda z: written_out(loss, z, as_float(z), temperature), z), exact)
    for settings in (
        {"engine": "readable"},
        {"engine": "readable", "block": 100},
        {"engine": "tiled"},
        {"engine": "tiled", "block": 50},
    ):
        assert off(gradient(lambda z, s=settings: function(z, y, temperature=temperature, **s), z), exact) <= 3 * yardstick + 1e-6
