"""Processes that share a batch compute the gradient of the whole batch; a queue is what a loop written out gives."""

import copy

import pytest
import reference
import torch
import torch.distributed as dist
from small import (
    CLASSES,
    OBJECTIVES,
    data,
    genscl,
    gradients,
    largest_difference,
    mixed,
    new_model,
    schane,
    supcon,
    train_small,
    weights,
)

from study.training.compute import LAPTOP, Compute, Place, launch
from study.training.contrasts import Pool, Queue, QueueSettings, check_anchors, gathered
from study.training.loop import Batch, Diverged
from supcl.losses import genscl_loss, schane_loss, supcon_loss

ONE = Place(0, 1, torch.device("cpu"))
STEP = {"epochs": 1, "batch_size": 24}  # one step of all images
VARIANTS = {
    "one step": STEP,
    "mixed": STEP | {"mix": mixed},
    "chunks": STEP | {"compute": Compute(chunk=5)},
    "queue": {"queue": QueueSettings(48, 0.6)},  # two of the four steps, as which rows of a step stay depends on their order
}


def all_variants():
    """Gradients of the last step, weights after it, and losses."""
    found = {}
    for name, objective in OBJECTIVES.items():
        for variant, changes in VARIANTS.items():
            if not (name == "CE" and variant == "queue"):
                model, losses = train_small(objective, **changes)
                found[name, variant] = gradients(model), weights(model), {"losses": torch.tensor(losses).double()}
    return found


def in_every_process():
    """What all processes must agree on, and what they refuse."""
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, weights(train_small(supcon, dropout=0.5)[0]))
    apart = max(largest_difference(everyone[0], other) for other in everyone[1:])
    refused = []
    for changes in (
        {"batch_size": 13},
        {"views": 1, "points": (data(8)[0], torch.tensor([0, 0, 0, 0, 0, 0, 1, 2])), "batch_size": 8},
    ):
        try:
            train_small(supcon, **changes)
        except ValueError as error:
            refused.append(str(error))
    try:
        train_small(lambda outputs, batch: supcon(outputs, batch) * (float("nan") if dist.get_rank() else 1))
    except Diverged as error:
        refused.append(str(error))
    return all_variants(), apart, refused, gradients_of_gathered()


@pytest.fixture(scope="module")
def alone():
    return all_variants()


@pytest.fixture(scope="module", params=[2, 4])
def together(request):
    """The number of processes, and what in_every_process returned in one."""
    return request.param, launch(in_every_process, compute=Compute(world_size=request.param))


def test_processes_have_the_gradient_of_the_whole_batch(alone, together):
    world_size, (shared, apart, refused, _) = together
    assert shared.keys() == alone.keys()
    for key, parts in shared.items():
        assert max(map(largest_difference, alone[key], parts)) < 1e-8, key
    assert apart == 0
    assert "loss is nan at step 1" in refused[2]  # which is that of another process
    assert f"a step has 13 images; expected a multiple of {world_size}, the number of processes" in refused[0]
    assert (
        f"of {8 // world_size} anchors in each of {world_size} processes" in refused[1]
        and "expected as many in each" in refused[1]
    )


@pytest.mark.parametrize("labels, per_process", [([0, 0, 1, 2], None), ([0, 1, 0, 2], (1, 1)), ([0, 0, 0, 1], (2, 1))])
def test_anchors_with_a_positive_must_be_as_many_in_each_process(labels, per_process):
    labels = torch.tensor(labels)
    for kind in (labels, torch.nn.functional.one_hot(labels).float() * 0.3):
        if per_process == (1, 1):
            check_anchors(kind, 4, world_size=2)
        else:
            with pytest.raises(ValueError, match="of 2 anchors in each of 2 processes 2, [01] have a positive"):
                check_anchors(kind, 4, world_size=2)
    check_anchors(torch.cat((labels, torch.tensor([1, 2, 0]))), 4, world_size=2)  # the queue has one for every anchor


def one_hot(inputs, labels):
    return torch.nn.functional.one_hot(labels, CLASSES).double()


def soft(inputs, labels):
    return (3 * inputs[:, :CLASSES]).softmax(1)


QUEUED = {
    "SupCon": (supcon, [lambda inputs, labels: labels], supcon_loss, {"temperature": 0.1, "form": "out"}),
    "SCHaNe": (schane, [lambda inputs, labels: labels], schane_loss, {"temperature": 0.4, "hardness": 1.5, "positives": "mean"}),
    "GenSCL": (genscl, [one_hot, soft], genscl_loss, {"temperature": 0.1}),
}


def written_out(kinds, loss, settings, size, momentum):
    """train_small with a queue, step by step, with the value of every loss checked: weights at the end."""
    (x, labels), model = data(), new_model()
    key, queue, queued_labels = copy.deepcopy(model), torch.empty(0, 5, dtype=torch.float64), None
    name = "contrast_distributions" if loss is genscl_loss else "contrast_labels"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=5, pct_start=0.1, cycle_momentum=False)
    order = torch.Generator().manual_seed(0)
    for chosen in [part for _ in range(2) for part in torch.randperm(24, generator=order).split(12)]:
        inputs = x[chosen].repeat(2, 1)
        z, ys = model(inputs).projection, [kind(inputs, labels[chosen].repeat(2)) for kind in kinds]
        queued_labels = queued_labels or [y[:0] for y in ys]
        total = 0
        for y, past in zip(ys, queued_labels, strict=True):
            arguments = settings | {"contrasts": torch.cat([z, queue]), name: torch.cat([y, past]), "offset": 0}
            total = total + loss(z, y, **arguments)
            assert loss(z, y, **arguments).item() == pytest.approx(getattr(reference, loss.__name__)(z, y, **arguments), rel=1e-9)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for old, new in zip(key.parameters(), model.parameters(), strict=True):
                old.copy_(momentum * old + (1 - momentum) * new)
            queue = torch.cat([queue, key(inputs).projection])[-size:]
        queued_labels = [torch.cat([past, y])[-size:] for past, y in zip(queued_labels, ys, strict=True)]
    return weights(model)


@pytest.mark.parametrize("name", QUEUED)
@pytest.mark.parametrize("size, momentum", [(10, 0.9), (60, 0.0)], ids=["smaller than a step", "two and a half steps"])
def test_training_with_a_queue_is_what_a_loop_written_out_gives(name, size, momentum):
    objective, *how = QUEUED[name]
    model, _ = train_small(objective, queue=QueueSettings(size, momentum))
    assert largest_difference(written_out(*how, size, momentum), weights(model)) < 1e-10
    assert largest_difference(weights(train_small(objective)[0]), weights(model)) > 1e-3


def test_a_queue_keeps_the_newest_embeddings_of_the_output_that_was_asked_for():
    queue = Queue(model := new_model(), QueueSettings(30, 0.5), LAPTOP, ONE)
    rows = []
    for step in range(3):
        inputs, labels = torch.randn(12, 6, dtype=torch.float64), torch.full((12,), step)
        outputs = model(inputs)
        Pool(ONE, queue).of(outputs).contrasts(outputs.embedding, labels)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.5)
        queue.update(inputs)
        rows.append(queue.encoder(inputs).embedding)
    ((z, labels),) = queue.entries
    assert torch.allclose(z, torch.cat(rows)[-30:]) and labels.tolist() == [0] * 6 + [1] * 12 + [2] * 12


def test_without_processes_and_queue_there_are_no_other_contrasts():
    assert Batch(torch.empty(4), torch.empty(4), torch.empty(4, 2)).contrasts(torch.empty(4, 2), torch.empty(4)) == {}


def test_an_objective_that_leaves_the_queue_out_is_refused():
    with pytest.raises(ValueError, match=r"a queue of 8 but the objective asked for no contrasts; .*batch.contrasts"):
        train_small(OBJECTIVES["CE"], queue=QueueSettings(8))


def test_embeddings_that_no_momentum_encoder_has_are_refused():
    def objective(outputs, batch):
        z = outputs.projection * 2
        return supcon_loss(z, batch.labels, **batch.contrasts(z, batch.labels))

    with pytest.raises(ValueError, match="expected outputs.embedding or outputs.projection"):
        train_small(objective, queue=QueueSettings(8))


@pytest.mark.parametrize(
    "size, momentum, message", [(0, 0.9, "size .* is 0"), (2.5, 0.9, "size .* is 2.5"), (8, 1.0, "momentum .* is 1.0")]
)
def test_a_queue_refuses_settings_that_mean_nothing(size, momentum, message):
    with pytest.raises(ValueError, match=message):
        QueueSettings(size, momentum)


def test_gathered_rows_get_the_sum_of_what_all_processes_say(together):
    """Every process has a loss of its own on all rows."""
    world_size, (*_, found) = together
    assert len(found) == world_size
    assert all(torch.equal(gradient, torch.full((3, 2), float(sum(range(1, world_size + 1))))) for gradient in found)


def gradients_of_gathered():
    """The gradients of every process's rows; process r sums r + 1 times all rows."""
    x = torch.ones(2, 3).T.requires_grad_()  # not contiguous
    world_size = dist.get_world_size()
    ((dist.get_rank() + 1.0) * gathered(x, world_size).sum()).backward()
    everyone = [None] * world_size
    dist.all_gather_object(everyone, x.grad)
    return everyone
