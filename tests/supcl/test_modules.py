"""The modules: settings as attributes, the forms of call of other libraries, and what torch expects of a module."""

import copy
import inspect
import pickle

import pytest
import torch
from pytorch_metric_learning import losses as metric_learning
from pytorch_metric_learning.miners import TripletMarginMiner
from pytorch_metric_learning.utils import loss_and_miner_utils

import supcl
from supcl import (
    CLCELoss,
    GenSCLLoss,
    SCHaNeLoss,
    SupConLoss,
    TCLLoss,
    clce_loss,
    genscl_loss,
    schane_loss,
    supcon_loss,
    tcl_loss,
)

N, D, CLASSES = 12, 5, 4
DRAW = torch.Generator().manual_seed(0)
Z = torch.randn(N, D, generator=DRAW)
Y = torch.arange(N) % CLASSES
Q = torch.rand(N, CLASSES, generator=DRAW)
LOGITS = torch.randn(N, CLASSES, generator=DRAW)
OTHER_Z, OTHER_Y, OTHER_Q = torch.randn(7, D, generator=DRAW), torch.arange(7) % CLASSES, torch.rand(7, CLASSES, generator=DRAW)

# module, function, its tensors, a setting other than the default, what a printed module shows then
MODULES = {
    "supcon": (SupConLoss, supcon_loss, (Z, Y), {"form": "in"}, "temperature=0.1, form='in'"),
    "schane": (SCHaNeLoss, schane_loss, (Z, Y), {"hardness": 0.5}, "temperature=0.5, hardness=0.5, positives='mean'"),
    "genscl": (GenSCLLoss, genscl_loss, (Z, Q), {"temperature": 0.2}, "temperature=0.2"),
    "tcl": (TCLLoss, tcl_loss, (Z, Y), {"k1": 1.0, "block": 3}, "temperature=0.1, k1=1.0, k2=1.0, block=3"),
    "clce": (
        CLCELoss,
        clce_loss,
        (LOGITS, Z, Y),
        {"weight": 0.3, "engine": "readable"},
        "weight=0.3, temperature=0.5, hardness=1.0, positives='mean', engine='readable'",
    ),
}
LABELLED = [SupConLoss, SCHaNeLoss, TCLLoss]
every = pytest.mark.parametrize("module, function, tensors, settings, shown", MODULES.values(), ids=MODULES.keys())


@every
def test_a_module_is_the_function_with_its_settings(module, function, tensors, settings, shown):
    soft = function is genscl_loss
    contrasts = {"contrasts": torch.cat((Z, OTHER_Z)), "offset": 0}
    contrasts |= {"contrast_distributions": torch.cat((Q, OTHER_Q))} if soft else {"contrast_labels": torch.cat((Y, OTHER_Y))}
    assert module(**settings)(*tensors) == function(*tensors, **settings)
    assert module(**settings)(*tensors, **contrasts) == function(*tensors, **settings, **contrasts)
    assert module()(*tensors) == function(*tensors)
    assert repr(module(**settings)) == f"{module.__name__}({shown})"


@every
def test_defaults_of_a_module_are_those_of_the_function(module, function, tensors, settings, shown):
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    tensors_or_none = {"labels", "contrasts", "contrast_labels", "contrast_distributions", "offset"}
    expected = {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty}
    assert module().settings == {k: v for k, v in expected.items() if k not in tensors_or_none}


@every
def test_the_temperature_comes_first(module, function, tensors, settings, shown):
    assert module(0.07)(*tensors) == function(*tensors, temperature=0.07)
    with pytest.raises(TypeError, match="positional"):
        module(0.07, "all")


@every
def test_a_setting_can_be_read_and_set(module, function, tensors, settings, shown):
    loss = module(temperature=0.3)
    assert loss.temperature == 0.3
    loss.temperature = 0.7
    for name, value in settings.items():
        setattr(loss, name, value)
    assert loss(*tensors) == function(*tensors, **({"temperature": 0.7} | settings))
    assert loss(*tensors) != module(temperature=0.3)(*tensors)
    loss.temperature = -1
    with pytest.raises(ValueError, match="temperature is -1; expected a number > 0"):
        loss(*tensors)


@every
def test_an_unknown_setting_is_refused_by_name(module, function, tensors, settings, shown):
    expected = f"^{module.__name__} has no setting contrasts, tau; expected {', '.join(module().settings)}\\.$"
    with pytest.raises(TypeError, match=expected):
        module(tau=1, contrasts=None)


@every
def test_copies_and_pickles_keep_the_settings(module, function, tensors, settings, shown):
    loss = module(**settings)
    for other in (copy.deepcopy(loss), copy.copy(loss), pickle.loads(pickle.dumps(loss))):
        assert other.settings == loss.settings and repr(other) == repr(loss)
        assert other(*tensors) == loss(*tensors)
        other.temperature = 0.9
        assert loss.temperature != 0.9


@every
def test_a_module_holds_no_tensors_and_moves_anywhere(module, function, tensors, settings, shown):
    loss = module(**settings)
    assert not loss.state_dict() and not list(loss.parameters()) and not list(loss.buffers())
    loss.load_state_dict({})
    for moved in (loss.to("meta"), loss.to(torch.float64), loss.half(), loss.eval(), loss.train()):
        assert moved is loss and loss(*tensors) == function(*tensors, **settings)
    inside = torch.nn.ModuleDict({"loss": loss})
    assert "temperature" in repr(inside) and not inside.state_dict()


@pytest.mark.usefixtures("compiler")
@every
def test_a_module_compiles_into_one_graph_and_exports(module, function, tensors, settings, shown):
    loss = module(**settings | {"engine": "readable"})
    expected = loss(*tensors)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(*tensors), expected)
    torch.testing.assert_close(torch.export.export(loss, tensors).module()(*tensors), expected)


# The forms of call of other libraries


@pytest.mark.parametrize("module", LABELLED)
def test_views_with_labels_are_rows_with_their_labels_repeated(module):
    features, labels = Z.view(6, 2, D), Y[:6]
    expected = module()(features.flatten(0, 1), labels.repeat_interleave(2))
    torch.testing.assert_close(module()(features, labels), expected)
    torch.testing.assert_close(module()(features, labels[:, None]), expected)
    torch.testing.assert_close(module()(Z, Y[:, None]), module()(Z, Y))


@pytest.mark.parametrize("module", LABELLED)
def test_views_without_labels_are_each_others_only_positives(module):
    features, images = Z.view(6, 2, D), torch.arange(6)
    expected = module()(features.flatten(0, 1), images.repeat_interleave(2))
    torch.testing.assert_close(module()(features), expected)
    torch.testing.assert_close(module()(features[:, 0], features[:, 1]), expected)  # lightly's form


def test_clce_takes_labels_as_a_column():
    assert CLCELoss()(LOGITS, Z, Y[:, None]) == CLCELoss()(LOGITS, Z, Y)


@pytest.mark.parametrize("module", LABELLED)
def test_references_are_contrasts_without_the_anchors(module):
    expected = module()(Z, Y, contrasts=OTHER_Z, contrast_labels=OTHER_Y)
    assert module()(Z, Y, ref_emb=OTHER_Z, ref_labels=OTHER_Y) == expected
    assert module()(Z, Y, None, OTHER_Z, OTHER_Y) == expected
    every_pair = loss_and_miner_utils.get_all_pairs_indices(Y, OTHER_Y)
    assert module()(Z, Y, every_pair, OTHER_Z, OTHER_Y) == expected


def test_references_with_the_very_labels_of_the_anchors_are_the_anchors():
    """pytorch-metric-learning leaves out an anchor's pair with itself where both labels are the same tensor."""
    theirs = metric_learning.SupConLoss(0.1)(Z, Y, ref_emb=Z, ref_labels=Y)
    torch.testing.assert_close(SupConLoss(0.1)(Z, Y, ref_emb=Z, ref_labels=Y), theirs)
    theirs = metric_learning.SupConLoss(0.1)(Z, Y, ref_emb=Z, ref_labels=Y.clone())
    torch.testing.assert_close(SupConLoss(0.1)(Z, Y, ref_emb=Z, ref_labels=Y.clone()), theirs)


def batches(count, rows=8):
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(rows, D, generator=draw), torch.randint(0, 3, (rows,), generator=draw)


@pytest.mark.parametrize("memory", [8, 12, 20, 37])  # as large as a batch; filled in the middle of one; not filled at first
def test_cross_batch_memory_gives_the_peers_loss_and_gradient(memory):
    ours = metric_learning.CrossBatchMemory(SupConLoss(0.1), D, memory_size=memory)
    theirs = metric_learning.CrossBatchMemory(metric_learning.SupConLoss(0.1), D, memory_size=memory)
    for z, labels in batches(7):
        one, other = z.clone().requires_grad_(), z.clone().requires_grad_()
        losses = ours(one, labels), theirs(other, labels)
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*(torch.autograd.grad(*pair)[0] for pair in zip(losses, (one, other), strict=True)))


def test_cross_batch_memory_with_a_mask_of_what_to_keep_gives_the_peers_loss():
    """There the anchors are not in the memory, as in MoCo's queue."""
    ours = metric_learning.CrossBatchMemory(SupConLoss(0.1), D, memory_size=20)
    theirs = metric_learning.CrossBatchMemory(metric_learning.SupConLoss(0.1), D, memory_size=20)
    for z, labels in batches(5):
        keep = torch.arange(len(z)) >= 4
        torch.testing.assert_close(ours(z, labels, enqueue_mask=keep), theirs(z, labels, enqueue_mask=keep))


@pytest.mark.parametrize("symmetric", [True, False])
def test_self_supervised_loss_gives_the_peers_loss(symmetric):
    one, other = Z[:6], Z[6:]
    ours, theirs = (
        metric_learning.SelfSupervisedLoss(loss(0.1), symmetric=symmetric) for loss in (SupConLoss, metric_learning.SupConLoss)
    )
    torch.testing.assert_close(ours(one, other), theirs(one, other))


def test_labels_follow_their_embeddings_to_the_device():
    class Devices(SupConLoss):
        loss = staticmethod(lambda z, y, *, contrasts, contrast_labels, **_: (y.device.type, contrast_labels.device.type))

    elsewhere = Z.to("meta")
    assert Devices()(elsewhere, Y, contrasts=elsewhere, contrast_labels=Y) == ("meta", "meta")


def every_pair_but_one():
    anchor, positive, other, negative = loss_and_miner_utils.get_all_pairs_indices(Y, OTHER_Y)
    return anchor, positive, other[1:], negative[1:]


def every_pair_and_one_twice():
    anchor, positive, other, negative = loss_and_miner_utils.get_all_pairs_indices(Y, OTHER_Y)
    return torch.cat((anchor, anchor[:1])), torch.cat((positive, positive[:1])), other, negative


def own_pairs_out_of_order():
    """Anchors in reverse, which no memory of batches does."""
    anchor, positive, other, negative = loss_and_miner_utils.get_all_pairs_indices(Y, Y.flip(0).clone())
    keep = positive != N - 1 - anchor
    return anchor[keep], positive[keep], other, negative


REFUSED = {
    "a miner's triplets": (lambda: SupConLoss()(Z, Y, TripletMarginMiner()(Z, Y)), "expected None, .*SCHaNeLoss"),
    "a miner's triplets of references": (
        lambda: SupConLoss()(Z, Y, TripletMarginMiner()(Z, Y, OTHER_Z, OTHER_Y), OTHER_Z, OTHER_Y),
        "a choice of pairs, such as a miner's; expected None",
    ),
    "pairs, one left out": (lambda: SupConLoss()(Z, Y, every_pair_but_one(), OTHER_Z, OTHER_Y), "a choice of pairs"),
    "pairs, one twice": (lambda: SupConLoss()(Z, Y, every_pair_and_one_twice(), OTHER_Z, OTHER_Y), "a choice of pairs"),
    "own pairs out of order": (
        lambda: SupConLoss()(Z, Y, own_pairs_out_of_order(), Z.flip(0), Y.flip(0)),
        "a choice of pairs",
    ),
    "a memory with a miner": (
        lambda: metric_learning.CrossBatchMemory(SupConLoss(), D, miner=TripletMarginMiner())(Z, Y),
        r"CrossBatchMemory\(loss, embedding_size\) without a miner",
    ),
    "a mask": (lambda: SupConLoss()(Z.view(6, 2, D), mask=torch.eye(6)), r"mask is given; .*loss\(features, labels\)"),
    "a mask in SupContrast's order": (lambda: SupConLoss()(Z.view(6, 2, D), None, torch.eye(6)), "mask is given; .*GenSCLLoss"),
    "references without labels": (lambda: SupConLoss()(Z, Y, ref_emb=OTHER_Z), "ref_labels is None; expected .*all four"),
    "labels of no references": (lambda: SupConLoss()(Z, Y, ref_labels=OTHER_Y), "ref_emb is None; expected"),
    "references, anchors without labels": (lambda: SupConLoss()(Z, None, None, OTHER_Z, OTHER_Y), "labels is None; expected"),
    "references and contrasts": (
        lambda: SupConLoss()(Z, Y, ref_emb=OTHER_Z, ref_labels=OTHER_Y, contrasts=OTHER_Z, contrast_labels=OTHER_Y),
        "ref_emb and contrasts are both given; expected one",
    ),
}


@pytest.mark.parametrize("call, message", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_taken_over_is_refused_with_the_line_to_write(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# The package


def test_what_the_package_exports_is_what_it_lists():
    assert sorted(supcl.__all__) == supcl.__all__ and all(hasattr(supcl, name) for name in supcl.__all__)
    losses = [name for name in supcl.__all__ if name.endswith("_loss")]
    assert len(losses) == 5 and len(supcl.__all__) == 10


PUBLIC = {name: getattr(supcl, name) for name in supcl.__all__ if name.endswith("_loss")}
PUBLIC |= {f"{module.__name__}()": module.__init__ for module, *_ in MODULES.values()}
PUBLIC |= {f"{module.__name__}()()": module.forward for module, *_ in MODULES.values()}


@pytest.mark.parametrize("function", PUBLIC.values(), ids=PUBLIC.keys())
def test_every_argument_and_result_of_a_public_callable_has_a_type(function):
    signature = inspect.signature(function)
    arguments = [p for p in signature.parameters.values() if p.name != "self"]
    assert not [p.name for p in arguments if p.annotation is p.empty]
    assert signature.return_annotation is not signature.empty
    inspect.get_annotations(function, eval_str=True)  # and the types exist


@every
def test_every_setting_of_a_module_has_a_type(module, function, tensors, settings, shown):
    assert set(module().settings) <= set(module.__annotations__)
