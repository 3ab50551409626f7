"""The loop learns, repeats and hands every method the same batches; encoders load what they should; runs give their rows."""

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from small import cross_entropy
from timm.layers import Conv2dSame
from torch import nn

from study import runs as experiment
from study.data import sets as data
from study.probes import evaluation
from study.runs import Outcome, Run, Setup, best_trial, execute
from study.training.loop import OPTIMIZERS, Batch, Diverged, make_batch, train
from study.training.model import (
    ImageEncoder,
    Model,
    SmallMapConv2d,
    SmallMapConv2dSame,
    _for_small_maps,
    _from_package,
    feature_encoder,
)
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
    losses, _ = train(model, objective, changes.pop("images", x), y, **(how | changes))
    return model, losses


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
    train(
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


# Encoders


def test_model_has_both_heads_on_the_encoder_s_embedding():
    model = Model(feature_encoder(8, 32), 32, classes=5, projection_dim=16).eval()
    x = torch.randn(7, 8)
    outputs = model(x)
    assert [tuple(part.shape) for part in (outputs.embedding, outputs.projection, outputs.logits)] == [(7, 32), (7, 16), (7, 5)]
    assert torch.equal(outputs.embedding, model.encoder(x))
    assert torch.equal(outputs.logits, model.classifier(outputs.embedding))
    assert torch.equal(outputs.projection, model.projection(outputs.embedding))


def test_a_head_works_once_and_only_where_it_is_asked_for():
    model, calls = Model(feature_encoder(8, 32), 32, classes=5), []
    for name in ("projection", "classifier"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    outputs = model(torch.randn(7, 8))
    assert not calls and outputs.logits is outputs.logits and calls == ["classifier"]


@pytest.fixture(scope="module")
def package_encoder():
    torch.manual_seed(0)
    return ImageEncoder("tf_efficientnet_lite0", "package")


def test_package_weights_do_not_depend_on_the_random_start(package_encoder):
    torch.manual_seed(1)
    weights, again = package_encoder.state_dict(), ImageEncoder("tf_efficientnet_lite0", "package").state_dict()
    assert weights["backbone.conv_stem.weight"].shape == (32, 3, 3, 3) and package_encoder.dim == 1280
    assert weights.keys() == again.keys() and all(torch.equal(weights[key], again[key]) for key in weights)


def test_package_weights_are_trained_and_each_in_its_place(package_encoder):
    """Running variances are positive; a photograph of a Chinese palace is a palace only if every layer is right."""
    state = package_encoder.state_dict()
    variances = [tensor for key, tensor in state.items() if key.endswith("running_var")]
    assert len(variances) == 49 and all((tensor >= 0).all() for tensor in variances)

    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(_from_package("tf_efficientnet_lite0", model.state_dict()))
    photograph = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None, :, :, 106:533].float() / 255
    inputs = F.interpolate(photograph, (224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        logits = model.eval()((inputs - 0.5) / 0.5)
        assert timm.data.ImageNetInfo().index_to_description(int(logits.argmax())) == "palace"
        # the same network behind ImageEncoder's own normalisation, up to the classifier
        assert torch.allclose(model.classifier(package_encoder.eval()(inputs)), logits, atol=1e-3)


def test_package_has_weights_for_one_encoder_only():
    with pytest.raises(ValueError, match="tf_efficientnet_lite0 only; for test_resnet use"):
        ImageEncoder("test_resnet", "package")


def test_state_dict_in_a_file_is_loaded(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("test_resnet")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(1)
    loaded = ImageEncoder("test_resnet", str(tmp_path / "weights.pth")).backbone.state_dict()
    assert loaded and all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in loaded.items())
    fresh = ImageEncoder("test_resnet", "none").backbone.state_dict()
    assert not torch.equal(fresh["conv1.0.weight"], loaded["conv1.0.weight"])


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        ImageEncoder("test_resnet", str(tmp_path / "weights.pth"))
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "weights.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # so the payload was real


def test_missing_weights_say_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.pth.*expected "package", "hub", "none" or the path'):
        ImageEncoder("test_resnet", str(tmp_path / "nothing.pth"))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 3), (4, 2), (7, 7)])
def test_convolution_for_small_maps_is_the_plain_one(size, kernel, groups):
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(4, 8, kernel, padding=kernel // 2, groups=groups).double()
    fast = _for_small_maps(copy.deepcopy(plain))
    assert type(fast) is SmallMapConv2d
    assert_same_convolution(fast, plain, size)


def assert_same_convolution(fast, plain, size):
    """Values and all gradients."""
    x = torch.randn(3, 4, *size, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(plain(x))
    for expected, ours in zip(
        torch.autograd.grad(plain(x), [x, *plain.parameters()], upstream),
        torch.autograd.grad(fast(x), [x, *fast.parameters()], upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(fast(x), plain(x))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2, 2), (3, 2), (4, 4), (5, 7)])
@pytest.mark.parametrize("kernel, stride", [(1, 2), (3, 2), (5, 2), (5, 3), (3, 4)])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_with_tensorflow_s_padding_for_small_maps_is_timm_s(size, kernel, stride, groups):
    torch.manual_seed(0)
    plain = Conv2dSame(4, 4, kernel, stride=stride, groups=groups).double()
    fast = _for_small_maps(copy.deepcopy(plain))
    assert type(fast) is SmallMapConv2dSame
    assert_same_convolution(fast, plain, size)


@pytest.mark.parametrize(
    "settings",
    [{"stride": 2, "padding": 1}, {"padding": 0}, {"padding": 2, "dilation": 2}, {"padding": 1, "padding_mode": "reflect"}],
)
def test_convolutions_that_shrink_the_map_or_spread_their_taps_are_left_alone(settings):
    assert type(_for_small_maps(torch.nn.Conv2d(2, 2, 3, **settings))) is torch.nn.Conv2d


@pytest.mark.parametrize("channels", [1, 3])
def test_image_encoder_gives_a_row_of_dim_per_image(channels):
    encoder = ImageEncoder("test_resnet", "none").eval()
    assert encoder(torch.rand(4, channels, 32, 32)).shape == (4, encoder.dim)


def test_grey_is_the_same_as_three_equal_channels_and_inputs_are_normalised():
    encoder = ImageEncoder("test_resnet", "none").eval()
    grey = torch.rand(2, 1, 32, 32)
    assert torch.equal(encoder(grey), encoder(grey.repeat(1, 3, 1, 1)))
    config = timm.data.resolve_model_data_config(encoder.backbone)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    assert torch.allclose(encoder(grey), encoder.backbone((grey - mean) / std), atol=1e-5)


# Runs


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    digits = data.load("digits")
    train_part, validation = data.split_validation(digits.train_labels, 200, seed=0)
    draws = {experiment.draw_name(5, seed): data.few_shot_draw(digits.train_labels, train_part, 5, seed) for seed in (0, 1)}
    np.savez(folder / "splits.npz", train=train_part[:500], validation=validation, **draws)
    for part, images in [("train", digits.train_images), ("test", digits.test.open("test")[0])]:
        np.save(folder / f"features_{part}.npy", images.flatten(1).numpy().astype(np.float16))
    return Setup(str(folder), "digits", "test_resnet", "none", image_size=32, batch_size=32, weight_decay=0.01)


FEW = Run("SupCon", "plain", supcon, 5, 0, learning_rate=0.003, epochs=2, classifier="probe", settings={"temperature": 0.1})
FEATURES = Run("CE", "plain", cross_entropy, 0, 0, learning_rate=0.01, epochs=2, batch_size=50)


def outcome(run, metrics=None, **fields):
    return Outcome(run, metrics or {}, **({"seconds": 0.0, "losses": [], "curve": [], "predictions": np.zeros(3, int)} | fields))


METRICS = [
    *["accuracy", "probe_accuracy", "neighbour_accuracy"],
    *["within_class_cosine", "between_class_cosine", "isotropy", "simplex_distance"],
]


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
def test_same_run_gives_the_same_numbers_and_another_seed_does_not(setup, run):
    first, again, other = execute(run, setup), execute(run, setup), execute(replace(run, seed=1), setup)
    assert list(first.metrics) == METRICS and np.isfinite(list(first.metrics.values())).all()
    assert first.metrics == again.metrics and first.losses == again.losses and len(first.losses) == 2
    assert first.metrics != other.metrics


def test_run_on_features_learns_the_digits(setup):
    done = execute(replace(FEATURES, epochs=5), setup)
    assert done.metrics["accuracy"] > 90 and done.metrics["neighbour_accuracy"] > 90


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
@pytest.mark.parametrize("evaluate_on, images", [("test", 450), ("validation", 200)])
def test_kept_predictions_are_of_the_evaluated_images_and_give_the_accuracy(setup, run, evaluate_on, images):
    done = execute(replace(run, evaluate_on=evaluate_on, keep=True), setup)
    digits = data.load("digits")
    validation = np.load(f"{setup.shared}/splits.npz")["validation"]
    labels = digits.test.open("test")[1] if evaluate_on == "test" else digits.train_labels[validation]
    assert done.predictions.shape == (images,) and len(done.embeddings) == images
    assert evaluation.accuracy(done.predictions, labels) == done.metrics["accuracy"]
    assert isinstance(done.model, nn.Module) and not done.model.training


@pytest.mark.parametrize(
    "run, sizes",
    [(FEW, [64] * 2), (replace(FEW, batch_size=20), [40] * 4), (replace(FEATURES, batch_size=None), [32] * 30)],
    ids=["setup", "run", "features"],
)
def test_batch_size_is_the_run_s_or_else_the_setup_s(setup, run, sizes):
    """Rows of every step: two views of 50 drawn images, one of 500 features; two epochs."""
    rows = []

    def objective(outputs, batch):
        rows.append(len(batch.labels))
        return cross_entropy(outputs, batch)

    execute(replace(run, objective=objective), setup)
    assert rows == sizes


def test_run_of_a_seed_trains_on_the_draw_of_that_seed(setup, monkeypatch):
    asked = []
    monkeypatch.setattr(experiment, "train", lambda model, objective, images, labels, **how: asked.append(images) or ([], 0.0))
    for seed in (0, 1):
        execute(replace(FEW, seed=seed), setup)
    drawn = np.load(f"{setup.shared}/splits.npz")
    images = data.load("digits").train_images
    assert all(torch.equal(asked[seed], images[drawn[f"draw_5_{seed}"]]) for seed in (0, 1))


def test_without_keep_nothing_large_is_returned(setup):
    done = execute(FEW, setup)
    assert done.embeddings is None and done.model is None and done.curve == []


@pytest.mark.parametrize("classifier, same_as", [("probe", "probe_accuracy"), ("own", None)])
def test_accuracy_is_that_of_the_run_s_classifier(setup, classifier, same_as):
    metrics = execute(replace(FEW, classifier=classifier), setup).metrics
    if same_as:
        assert metrics["accuracy"] == metrics[same_as]
    else:  # supcon never trains the model's own classifier
        assert metrics["accuracy"] < 30 < metrics["probe_accuracy"]


def test_recording_a_curve_has_a_point_per_epoch_and_changes_nothing(setup):
    done = execute(replace(FEW, curve=True), setup)
    assert len(done.curve) == 2 and all(0 <= accuracy <= 100 for accuracy in done.curve)
    assert done.metrics == execute(FEW, setup).metrics


# What a run may change


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
def test_a_draw_decides_on_images_told_labels_and_the_classes_of_the_test(setup, run):
    """Three classes, half of the labels of one told wrongly."""
    told, digits = [], data.load("digits")

    def draw(splits, labels, seed):
        chosen = torch.cat([splits["train"][labels[splits["train"]] == c][: 10 + seed] for c in (1, 4, 7)])
        wrong = labels[chosen].clone()
        wrong[:5] = 7
        told.append((chosen, wrong))
        return chosen, wrong

    def objective(outputs, batch):
        assert set(batch.labels.tolist()) <= {1, 4, 7}
        return cross_entropy(outputs, batch)

    done = execute(replace(run, draw=draw, objective=objective, seed=2, batch_size=18, keep=True), setup)
    ((chosen, _),) = told
    assert len(chosen) == 36
    assert len(done.predictions) == np.isin(digits.test.open("test")[1], [1, 4, 7]).sum() == len(done.embeddings)


def test_augment_takes_the_place_of_the_views(setup):
    sizes = []

    def blank(size, flips):
        def view(images):
            sizes.append((size, flips, len(images)))
            return torch.zeros(len(images), 1, size, size)

        return view

    done = execute(replace(FEW, augment=blank, objective=cross_entropy, classifier="own"), setup)
    assert set(sizes) == {(32, False, 32)} and len(sizes) == 4
    assert done.metrics["accuracy"] < 30


def test_also_measures_the_evaluated_images_with_the_trained_model(setup):
    def also(trained, inputs, labels):
        embeddings, logits = trained.outputs(inputs)
        assert not trained.model.training and len(trained.inputs) == len(trained.labels) == 50
        assert np.array_equal(trained.embeddings, trained.outputs(trained.inputs)[0])
        p = trained.probabilities(inputs)
        assert p.shape == (450, 10) and np.allclose(p.sum(1), 1, atol=1e-5)
        return {"again": evaluation.accuracy(p.argmax(1), labels)}

    for classifier in ("own", "probe"):
        metrics = execute(replace(FEW, also=also, classifier=classifier), setup).metrics
        assert metrics["again"] == metrics["accuracy"] and list(metrics) == [*METRICS, "again"]


def test_probabilities_of_classes_that_were_not_told_are_zero_with_a_probe(setup):
    def also(trained, inputs, labels):
        assert not trained.probabilities(inputs)[:, [0, 2, 3, 5, 6, 7, 8, 9]].any()
        return {}

    def draw(splits, labels, seed):
        chosen = splits["train"][(labels[splits["train"]] == 1) | (labels[splits["train"]] == 4)]
        return chosen, labels[chosen]

    execute(replace(FEW, also=also, draw=draw), setup)


def test_watch_sees_the_model_of_every_epoch_on_validation_images_and_changes_nothing(setup):
    def watch(trained, inputs, labels):
        return {"images": len(labels), "spread": float(trained.embeddings.std())}

    metrics = execute(replace(FEW, watch=watch), setup).metrics
    assert metrics["images, epoch 1"] == metrics["images, epoch 2"] == 200
    assert metrics["spread, epoch 1"] != metrics["spread, epoch 2"]
    assert {name: metrics[name] for name in METRICS} == execute(FEW, setup).metrics


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
def test_a_run_that_diverges_is_a_result_with_the_step_where_it_did(setup, run):
    steps = []

    def objective(outputs, batch):
        steps.append(1)
        return cross_entropy(outputs, batch) * (float("nan") if len(steps) == 2 else 1)

    done = execute(replace(run, objective=objective, curve=True, keep=True), setup)
    assert done.metrics == {"accuracy": done.metrics["accuracy"], "diverged_at_step": 2}
    assert 5 < done.metrics["accuracy"] < 15 and not done.predictions.any()
    assert done.losses == done.curve == [] and len(experiment.curves([done])) == 0


# The test images


@pytest.fixture
def openings(setup, monkeypatch):
    """What test images, and test features, are opened for from now on."""
    digits = data.load("digits")
    opened = {"images": digits.test.opened, "features": []}
    held_out = data.HeldOut(torch.from_numpy(np.load(f"{setup.shared}/features_test.npy")), digits.test.open("labels")[1])
    held_out.opened = opened["features"]
    features = torch.from_numpy(np.load(f"{setup.shared}/features_train.npy"))
    digits.test.opened.clear()
    monkeypatch.setattr(experiment, "_images", lambda dataset: digits)
    monkeypatch.setattr(experiment, "_features", lambda dataset, shared: (features, held_out))
    return opened


@pytest.mark.parametrize("run, kind", [(FEW, "images"), (FEATURES, "features")], ids=["few shot", "features"])
def test_test_images_are_opened_once_for_the_final_evaluation_and_never_by_a_trial(setup, openings, run, kind):
    execute(replace(run, evaluate_on="validation"), setup)
    assert openings == {"images": [], "features": []}
    execute(run, setup)
    assert openings == {"images": [], "features": []} | {kind: ["the final evaluation of a run"]}


@pytest.mark.parametrize("run", [FEW, replace(FEW, evaluate_on="validation")], ids=["reported", "trial"])
def test_asking_for_test_images_during_training_is_refused(setup, openings, run):
    def objective(outputs, batch):
        experiment._images("digits").test.open("a look")

    with pytest.raises(PermissionError, match=r"test images asked for \(a look\) during training"):
        execute(replace(run, objective=objective), setup)
    assert openings["images"] == []


def test_a_trial_is_refused_test_images_to_its_end(setup, openings):
    def also(trained, inputs, labels):
        experiment._images("digits").test.open("a look")

    with pytest.raises(PermissionError, match="during a run that is judged on validation images"):
        execute(replace(FEW, also=also, evaluate_on="validation"), setup)


@pytest.mark.parametrize("run, file", [(FEW, "splits.npz"), (FEATURES, "features_train.npy")], ids=["few shot", "features"])
def test_a_missing_file_says_which_notebook_writes_it(setup, tmp_path, run, file):
    with pytest.raises(FileNotFoundError, match=f"{file} is missing. data writes it"):
        execute(run, replace(setup, shared=str(tmp_path)))


@pytest.mark.parametrize("classifier", ["own", "probe"])
def test_a_trial_is_measured_by_its_classifier_s_accuracy_alone(setup, classifier):
    digits, validation = data.load("digits"), np.load(f"{setup.shared}/splits.npz")["validation"]
    done = execute(replace(FEW, classifier=classifier, evaluate_on="validation", keep=True), setup)
    assert done.metrics == {"accuracy": 100 * np.mean(done.predictions == digits.train_labels[validation].numpy())}


def test_table_has_a_row_per_run_and_metric_with_settings_as_json(setup):
    metrics = {"accuracy": 71.5, "isotropy": 0.25}
    outcomes = [outcome(FEW, metrics, seconds=1.2345), outcome(FEATURES, metrics, seconds=2.0)]
    rows = experiment.table(outcomes, setup)
    assert rows.columns.tolist() == ["method", "variant", "dataset", "shots", "seed", "metric", "value", "seconds", "settings"]
    assert rows.iloc[:, :8].values.tolist() == [
        ["SupCon", "plain", "digits", 5, 0, "accuracy", 71.5, 1.23],
        ["SupCon", "plain", "digits", 5, 0, "isotropy", 0.25, 1.23],
        ["CE", "plain", "digits", "all", 0, "accuracy", 71.5, 2.0],
        ["CE", "plain", "digits", "all", 0, "isotropy", 0.25, 2.0],
    ]
    few, features = json.loads(rows.settings[0]), json.loads(rows.settings[2])
    assert few == {
        "encoder": "test_resnet", "weights": "none", "image_size": 32, "weight_decay": 0.01, "batch_size": 32,
        "learning_rate": 0.003, "epochs": 2, "classifier": "probe", "evaluate_on": "test", "temperature": 0.1,
        "optimizer": "adamw", "warm_up": 0.1, "final": 4e-6, "layer_decay": None, "augmentation": "crop",
    }  # fmt: skip
    assert features["batch_size"] == 50 and features["learning_rate"] == 0.01


def test_curves_have_a_row_per_run_and_epoch():
    recorded, unrecorded = outcome(FEW, losses=[2.0, 1.0], curve=[40.0, 60.0]), outcome(FEATURES, losses=[1.5])
    rows = experiment.curves([recorded, unrecorded])
    assert rows.columns.tolist() == ["method", "variant", "shots", "seed", "epoch", "loss", "validation_accuracy"]
    assert rows.iloc[:2].values.tolist() == [["SupCon", "plain", 5, 0, 1, 2.0, 40.0], ["SupCon", "plain", 5, 0, 2, 1.0, 60.0]]
    assert rows.iloc[2, :6].tolist() == ["CE", "plain", "all", 0, 1, 1.5] and np.isnan(rows.validation_accuracy[2])


def test_reported_runs_are_the_best_settings_on_the_test_set_per_shots_and_seed():
    best = replace(FEW, variant="trial 3", evaluate_on="validation", seed=7, learning_rate=0.5)
    reported = experiment.reported_runs(best, shots=[5, 20], seeds=[4, 1], epochs=[10, 30])
    assert [(run.shots, run.seed, run.epochs) for run in reported] == [
        (5, 0, 10),
        (5, 1, 10),
        (5, 2, 10),
        (5, 3, 10),
        (20, 0, 30),
    ]
    assert {(run.variant, run.evaluate_on, run.learning_rate) for run in reported} == {("main", "test", 0.5)}
    assert [run.keep for run in reported] == [True, False, False, False, True]
    assert [run.curve for run in reported] == [True, True, True, False, True]


def test_written_results_are_what_the_runs_gave(setup, tmp_path):
    main = replace(FEW, variant="main")
    outcomes = [
        outcome(replace(main, variant="trial"), {"accuracy": 1.0}, losses=[3.0]),
        outcome(main, {"accuracy": 70.0}, losses=[2.0], predictions=np.array([1, 2]), embeddings=np.ones((2500, 4))),
        outcome(replace(main, seed=1), {"accuracy": 80.0}, losses=[1.0], predictions=np.array([3, 4])),
        outcome(replace(main, shots=20), {"accuracy": 90.0}, losses=[1.0], embeddings=np.zeros((3, 4))),
    ]
    experiment.write_results(tmp_path, setup, outcomes)
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert runs.value.tolist() == [1, 70, 80, 90] and runs.columns.tolist() == experiment.COLUMNS
    assert json.loads(runs.settings[0])["temperature"] == 0.1
    assert pd.read_csv(tmp_path / "curves.csv").loss.tolist() == [3, 2, 1, 1]
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["predictions_5"].tolist() == [[1, 2], [3, 4]] and arrays["predictions_20"].shape == (1, 3)
        assert arrays["embedding_5"].shape == (2000, 4) and arrays["embedding_5"].dtype == np.float16
        assert "embedding_20" not in arrays  # the smallest draws' are enough to draw maps of


def test_embeddings_are_stored_on_fifty_axes_between_which_the_cosines_stay(setup, tmp_path):
    few = torch.randn(40, 300, generator=torch.Generator().manual_seed(0)).numpy()  # fewer rows than axes: nothing is lost
    experiment.write_results(tmp_path, setup, [outcome(replace(FEW, variant="main"), embeddings=few)])
    with np.load(tmp_path / "predictions.npz") as arrays:
        stored = arrays["embedding_5"].astype(np.float32)
    unit = few / np.linalg.norm(few, axis=1, keepdims=True)
    assert stored.shape == (40, 40) and np.allclose(stored @ stored.T, unit @ unit.T, atol=2e-3)


def test_checks_read_back_to_the_last_digit(tmp_path):
    rows = [("gradient formula", 0, 1 / 3 * 1e-16), ("gradient formula", 1, 0.1), ("hard negatives, in points", 0, -12.5)]
    written = experiment.write_checks(tmp_path, iter(rows))
    read = pd.read_csv(tmp_path / "checks.csv")
    assert read.columns.tolist() == written.columns.tolist() == ["check", "seed", "value"]
    assert list(read.itertuples(index=False, name=None)) == list(written.itertuples(index=False, name=None)) == rows


def test_a_check_without_its_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="columns"):
        experiment.write_checks(tmp_path, [("gradient formula", 0.1)])
    assert not (tmp_path / "checks.csv").exists()


def test_features_of_every_part_come_from_the_same_encoder(setup):
    """Also with random weights, where each part builds its own encoder."""
    images = data.load("digits").train_images[:3]
    assert np.array_equal(experiment._features_of(images, setup, 32), experiment._features_of(images, setup, 32))


def trial(variant, seed, accuracy, evaluate_on="validation"):
    return outcome(replace(FEW, variant=variant, seed=seed, evaluate_on=evaluate_on), {"accuracy": accuracy})


def test_best_trial_has_the_best_mean_over_seeds_not_the_best_run():
    outcomes = [trial("a", 0, 90), trial("b", 0, 70), trial("c", 0, 71), trial("a", 1, 40), trial("b", 1, 80), trial("c", 1, 70)]
    assert best_trial(outcomes).variant == "b"


def test_best_trial_refuses_runs_on_the_test_set():
    with pytest.raises(ValueError, match="never chosen on test images"):
        best_trial([trial("a", 0, 90), trial("b", 0, 70, evaluate_on="test")])


def test_batch_fields_are_those_methods_rely_on():
    assert Batch._fields == ("inputs", "labels", "label_distributions", "pool")


@pytest.mark.parametrize("wrong", [{"classifier": "prob"}, {"evaluate_on": "Test"}, {"optimizer": "adam"}])
def test_a_run_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        experiment.Run("CE", "main", None, shots=1, seed=0, learning_rate=0.1, epochs=1, **wrong)
