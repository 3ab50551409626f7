"""The loop learns, repeats and hands every method the same batches."""

import pickle

import pytest
import torch
from small import cross_entropy, train_with

from study.probes import evaluation
from study.training.loop import Batch, Diverged, make_batch
from study.training.model import Model, feature_encoder
from study.training.optimisation import OPTIMIZERS
from supcl.losses import genscl_loss, supcon_loss


def supcon(outputs, batch):
    return supcon_loss(outputs.projection, batch.labels)


def toy(n=400, seed=0):
    """The label is the sign of a product, among four features that say nothing: no line separates the classes."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def noisy(x):
    return x + 0.1 * torch.randn_like(x)


def train_toy(objective, seed=0, n=400, **changes):
    """(model, losses) of a short training run on n points of the toy problem."""
    x, y = toy(n)
    how = {"view": noisy, "views": 2, "epochs": 20, "batch_size": 64, "learning_rate": 0.01, "weight_decay": 1e-4, "seed": seed}
    torch.manual_seed(seed)
    model = Model(feature_encoder(6, 64), 64, classes=2, projection_dim=16)
    history = train_with(model, objective, changes.pop("images", x), y, **(how | changes))
    return model, history.losses


@torch.inference_mode()
def toy_accuracy(model, by):
    """Accuracy on new points, by the classifier or by the nearest neighbours among projections."""
    (x, y), (test_x, test_y) = toy(1000), toy(1000, seed=1)
    outputs, test_outputs = model.eval()(x), model(test_x)
    if by == "classifier":
        return evaluation.accuracy(test_outputs.logits.argmax(1), test_y)
    return evaluation.accuracy(evaluation.nearest_neighbours(outputs.projection, y, test_outputs.projection), test_y)


# The loop


@pytest.mark.parametrize("objective, by", [(cross_entropy, "classifier"), (supcon, "neighbours")], ids=["ce", "supcon"])
def test_training_lowers_the_loss_and_solves_the_toy_problem(objective, by):
    torch.manual_seed(0)
    untrained = Model(feature_encoder(6, 64), 64, classes=2).eval()
    assert toy_accuracy(untrained, by) < 80
    model, losses = train_toy(objective, n=1000)
    assert len(losses) == 20 and losses[-1] < losses[0] - 0.3
    assert toy_accuracy(model, by) > 90


def test_same_seed_gives_the_same_losses_and_weights_to_the_bit():
    (first, losses), (again, losses_again), (other, losses_other) = (train_toy(supcon, seed, epochs=3) for seed in (1, 1, 2))
    assert losses == losses_again != losses_other
    weights, weights_again, weights_other = (list(model.state_dict().values()) for model in (first, again, other))
    assert all(map(torch.equal, weights, weights_again)) and not all(map(torch.equal, weights, weights_other))


def seen_by(objective, seed=0, **changes):
    """Indices of the images that each call of `view` gets."""
    x, _ = toy()
    calls = []

    def view(chosen):
        calls.append(chosen.tolist())
        return noisy(x[chosen])

    train_toy(objective, seed, images=torch.arange(400), view=view, **({"epochs": 2} | changes))
    return calls


def test_two_objectives_see_the_same_batches_even_if_one_draws_random_numbers():
    def random_objective(outputs, batch):
        return supcon(outputs, batch) * (1 + 0.1 * torch.rand(()))

    calls = seen_by(cross_entropy)
    assert calls == seen_by(random_objective)
    assert calls != seen_by(cross_entropy, seed=1)


def test_each_view_of_a_batch_is_of_the_same_images():
    calls = seen_by(supcon)
    assert calls[::2] == calls[1::2]


def test_an_epoch_is_whole_batches_without_repeats_and_the_next_is_shuffled_anew():
    calls = seen_by(supcon, views=1)
    assert [len(chosen) for chosen in calls] == [64] * 12  # 400 // 64 steps, twice
    epochs = sum(calls[:6], []), sum(calls[6:], [])
    assert all(len(set(epoch)) == 384 for epoch in epochs) and epochs[0] != epochs[1]


def test_fewer_images_than_a_batch_are_one_step():
    assert [sorted(chosen) for chosen in seen_by(cross_entropy, views=1, batch_size=1000)] == [list(range(400))] * 2


def test_learning_rate_and_weight_decay_reach_the_weights():
    weights = [
        train_toy(cross_entropy, epochs=1, **{"learning_rate": rate, "weight_decay": decay})[0].classifier.weight
        for rate, decay in [(0.01, 0.0), (0.001, 0.0), (0.01, 10.0)]
    ]
    torch.manual_seed(0)
    start = Model(feature_encoder(6, 64), 64, classes=2, projection_dim=16).classifier.weight
    moved = [(w - start).norm() for w in weights]
    assert moved[1] < moved[0] / 3
    assert weights[2].norm() < 0.9 * weights[0].norm()


def test_on_epoch_gets_every_epoch_and_the_model_in_eval_mode_and_training_goes_on_in_train_mode():
    modes, epochs = [], []

    def objective(outputs, batch):
        modes.append(running[0].training)
        return cross_entropy(outputs, batch)

    torch.manual_seed(0)
    running = [Model(feature_encoder(6, 16), 16, classes=2)]
    x, y = toy(64)
    train_with(
        running[0], objective, x, y, view=noisy, views=1, epochs=3, batch_size=32, learning_rate=0.01, weight_decay=0, seed=0,
        on_epoch=lambda epoch, model: epochs.append((epoch, model is running[0], model.training)),
    )  # fmt: skip
    assert epochs == [(1, True, False), (2, True, False), (3, True, False)]
    assert modes == [True] * 6 and not running[0].training


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_training_and_names_the_step(bad):
    steps = []

    def objective(outputs, batch):
        steps.append(1)
        return cross_entropy(outputs, batch) * (bad if len(steps) == 9 else 1)  # six steps an epoch

    with pytest.raises(Diverged, match=f"loss is {bad} at step 9 with learning rate 0.01") as caught:
        train_toy(objective)
    assert len(steps) == caught.value.step == 9
    assert pickle.loads(pickle.dumps(caught.value)).step == 9  # as it comes from a worker


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_solves_the_toy_problem(name):
    rate = {"adamw": 0.01, "rmsprop": 0.001, "sgd": 0.1, "momentum": 0.1, "lars": 5.0}[name]
    model, _ = train_toy(cross_entropy, n=1000, optimizer=name, learning_rate=rate)
    assert toy_accuracy(model, "classifier") > 90


def test_optimizers_take_different_steps():
    losses = [train_toy(cross_entropy, epochs=1, optimizer=name)[1] for name in OPTIMIZERS]
    assert len({loss for (loss,) in losses}) == len(OPTIMIZERS)


def test_batch_is_view_after_view_with_labels_repeated():
    images, labels = torch.tensor([[1.0], [2], [3]]), torch.tensor([2, 0, 1])
    offsets = iter([10, 20])
    batch = make_batch(map(lambda x: x + next(offsets), [images] * 2), labels, mix=None, classes=4)
    assert batch.inputs.flatten().tolist() == [11, 12, 13, 21, 22, 23]
    assert batch.labels.tolist() == [2, 0, 1, 2, 0, 1]
    assert torch.equal(batch.label_distributions, torch.eye(4)[[2, 0, 1, 2, 0, 1]])


def test_each_view_is_mixed_on_its_own_after_augmentation():
    seen = []

    def mix(x, labels):
        seen.append((x.flatten().tolist(), labels.tolist()))
        return x * 100, torch.full((len(x), 3), float(len(seen)))

    offsets = iter([10, 20])
    views = map(lambda x: x + next(offsets), [torch.tensor([[1.0], [2]])] * 2)
    batch = make_batch(views, torch.tensor([2, 0]), mix, classes=3)
    assert seen == [([11, 12], [2, 0]), ([21, 22], [2, 0])]
    assert batch.inputs.flatten().tolist() == [1100, 1200, 2100, 2200]
    assert batch.label_distributions[:, 0].tolist() == [1, 1, 2, 2] and batch.labels.tolist() == [2, 0, 2, 0]


def test_mixed_distributions_reach_the_objective():
    calls, reached = [], []

    def mix(x, labels):
        q = torch.rand(len(x), 2)
        calls.append(q)
        return x, q

    def objective(outputs, batch):
        reached.append(batch.label_distributions)
        return genscl_loss(outputs.projection, batch.label_distributions)

    train_toy(objective, mix=mix, epochs=1)
    assert len(calls) == 2 * len(reached) == 12
    assert torch.equal(torch.cat(calls), torch.cat(reached))


def test_batch_fields_are_those_methods_rely_on():
    assert Batch._fields == ("inputs", "labels", "label_distributions", "pool")
