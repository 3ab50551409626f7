"""A run repeats, trains on its draw, gives its numbers, and sees test images once, at its end."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from small import cross_entropy
from small_runs import FEATURES, FEW
from threadpoolctl import threadpool_limits
from torch import nn

from study import data
from study.probes import evaluation
from study.runs import Run, execute, execution, trained_on
from study.runs.features import features_of_part
from study.runs.results import curves
from study.runs.run import Trained
from study.runs.setup import frozen_maps

METRICS = [
    *["accuracy", "probe_accuracy", "neighbour_accuracy"],
    *["within_class_cosine", "between_class_cosine", "isotropy", "simplex_distance"],
    "validation_accuracy",
]


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
def test_same_run_gives_the_same_numbers_and_another_seed_does_not(setup, run):
    first, again, other = execute(run, setup), execute(run, setup), execute(replace(run, seed=1), setup)
    assert list(first.metrics) == METRICS and np.isfinite(list(first.metrics.values())).all()
    assert first.metrics == again.metrics and first.losses == again.losses and len(first.losses) == 2
    assert first.metrics != other.metrics


@pytest.fixture(params=[2, 4])
def threads(request):
    """So many threads for what this process computes by itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    with threadpool_limits(request.param):
        yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
def test_a_run_gives_the_same_numbers_in_a_process_of_several_threads_and_leaves_it_these(setup, run, threads):
    with threadpool_limits(1):
        alone = execute(run, setup)
    among_others = execute(run, setup)
    assert among_others.metrics == alone.metrics and among_others.losses == alone.losses
    assert torch.get_num_threads() == threads


def test_features_are_the_same_in_a_process_of_several_threads_which_it_keeps(setup, threads):
    images = data.load("digits").train_images[:3]
    several = features_of_part(images, setup, 32)
    assert torch.get_num_threads() == threads
    with threadpool_limits(1):
        torch.set_num_threads(1)
        assert np.array_equal(features_of_part(images, setup, 32), several)


def test_run_on_features_learns_the_digits(setup):
    done = execute(replace(FEATURES, epochs=5), setup)
    assert done.metrics["accuracy"] > 90 and done.metrics["neighbour_accuracy"] > 90


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
@pytest.mark.parametrize("evaluate_on, images", [("test", 450), ("validation", 200)])
def test_predictions_are_the_probe_s_of_the_evaluated_images_whatever_the_classifier(setup, run, evaluate_on, images):
    done = execute(replace(run, evaluate_on=evaluate_on, keep=True), setup)
    digits = data.load("digits")
    validation = np.load(f"{setup.shared}/splits.npz")["validation"]
    labels = digits.test.open("test")[1] if evaluate_on == "test" else digits.train_labels[validation]
    assert done.predictions.shape == (images,) and len(done.embeddings) == images
    assert evaluation.accuracy(done.predictions, labels) == done.metrics["probe_accuracy"]
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
    monkeypatch.setattr(
        execution, "train", lambda model, objective, images, *rest, **settings: asked.append(images) or ([], 0.0, [])
    )
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
def test_a_draw_decides_on_images_labels_and_the_classes_of_the_test(setup, run):
    """Three classes, half of the labels of one wrong."""
    draws, digits = [], data.load("digits")

    def draw(splits, labels, seed):
        chosen = torch.cat([splits["train"][labels[splits["train"]] == c][: 10 + seed] for c in (1, 4, 7)])
        wrong = labels[chosen].clone()
        wrong[:5] = 7
        draws.append((chosen, wrong))
        return chosen, wrong

    def objective(outputs, batch):
        assert set(batch.labels.tolist()) <= {1, 4, 7}
        return cross_entropy(outputs, batch)

    done = execute(replace(run, draw=draw, objective=objective, seed=2, batch_size=18, keep=True), setup)
    ((chosen, _),) = draws
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


def test_extra_metrics_measure_the_evaluated_images_with_the_trained_model(setup):
    def measured(trained, inputs, labels):
        embeddings, logits = trained.outputs(inputs)
        assert not trained.model.training and len(trained.inputs) == len(trained.labels) == 50
        assert np.array_equal(trained.embeddings, trained.outputs(trained.inputs)[0])
        p = trained.probabilities(inputs)
        assert p.shape == (450, 10) and np.allclose(p.sum(1), 1, atol=1e-5)
        return {"again": evaluation.accuracy(p.argmax(1), labels)}

    for classifier in ("own", "probe"):
        metrics = execute(replace(FEW, extra_metrics=measured, classifier=classifier), setup).metrics
        assert metrics["again"] == metrics["accuracy"] and list(metrics) == [*METRICS[:-1], "again", METRICS[-1]]


def test_probabilities_of_classes_not_trained_on_are_zero_with_a_probe(setup):
    def measured(trained, inputs, labels):
        assert not trained.probabilities(inputs)[:, [0, 2, 3, 5, 6, 7, 8, 9]].any()
        return {}

    def draw(splits, labels, seed):
        chosen = splits["train"][(labels[splits["train"]] == 1) | (labels[splits["train"]] == 4)]
        return chosen, labels[chosen]

    execute(replace(FEW, extra_metrics=measured, draw=draw), setup)


def test_epoch_metrics_see_the_model_of_every_epoch_on_validation_images_and_changes_nothing(setup):
    def measured(trained, inputs, labels):
        return {"images": len(labels), "spread": float(trained.embeddings.std())}

    done = execute(replace(FEW, epoch_metrics=measured), setup)
    assert done.epoch_metrics["images"] == [200, 200] and len(set(done.epoch_metrics["spread"])) == 2
    assert done.metrics == execute(FEW, setup).metrics


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
def test_a_run_that_diverges_is_a_result_with_the_step_where_it_did(setup, run):
    steps = []

    def objective(outputs, batch):
        steps.append(1)
        return cross_entropy(outputs, batch) * (float("nan") if len(steps) == 2 else 1)

    done = execute(replace(run, objective=objective, curve=True, keep=True), setup)
    accuracies = ("accuracy", "probe_accuracy", "neighbour_accuracy", "validation_accuracy")
    assert done.metrics.keys() == {*accuracies, "diverged_at_step"} and done.metrics["diverged_at_step"] == 2
    assert all(5 < done.metrics[name] < 15 for name in accuracies) and not done.predictions.any()
    assert done.losses == done.curve == [] and len(curves([(setup, [done])])) == 0


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
    monkeypatch.setattr(execution, "images_of", lambda dataset: digits)
    monkeypatch.setattr(execution, "features_of", lambda dataset, shared: (features, held_out))
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
        execution.images_of("digits").test.open("a look")

    with pytest.raises(PermissionError, match=r"test images asked for \(a look\) during training"):
        execute(replace(run, objective=objective), setup)
    assert openings["images"] == []


def test_a_trial_is_refused_test_images_to_its_end(setup, openings):
    def measured(trained, inputs, labels):
        execution.images_of("digits").test.open("a look")

    with pytest.raises(PermissionError, match="during a measurement on validation images"):
        execute(replace(FEW, extra_metrics=measured, evaluate_on="validation"), setup)


@pytest.mark.parametrize("run, file", [(FEW, "splits.npz"), (FEATURES, "features_train.npy")], ids=["few shot", "features"])
def test_a_missing_file_says_which_notebook_writes_it(setup, tmp_path, run, file):
    with pytest.raises(FileNotFoundError, match=f"{file} is missing. The notebook data writes it"):
        execute(run, replace(setup, shared=str(tmp_path)))


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
def test_validation_accuracy_is_the_probe_s_on_validation_images_wherever_the_run_is_evaluated(setup, run):
    """It is what settings are chosen by."""
    digits, validation = data.load("digits"), np.load(f"{setup.shared}/splits.npz")["validation"]
    on_validation, on_test = (execute(replace(run, evaluate_on=part), setup) for part in ("validation", "test"))
    expected = evaluation.accuracy(on_validation.predictions, digits.train_labels[validation])
    assert on_validation.metrics["validation_accuracy"] == on_validation.metrics["probe_accuracy"] == expected
    assert on_test.metrics["validation_accuracy"] == expected != on_test.metrics["probe_accuracy"]
    assert on_test.metrics.keys() == on_validation.metrics.keys()


@pytest.mark.parametrize("name, value", [("weight_decay", 10.0), ("crop", 0.05)])
def test_weight_decay_and_crop_of_a_run_take_the_place_of_the_recipe_s(setup, name, value):
    own = {"weight_decay": setup.weight_decay, "crop": 0.5}[name]  # 0.5 is the recipe's crop
    assert execute(replace(FEW, **{name: own}), setup).losses == execute(FEW, setup).losses
    assert execute(replace(FEW, **{name: value}), setup).losses != execute(FEW, setup).losses


def test_features_of_every_part_come_from_the_same_encoder(setup):
    """Also with random weights, where each part builds its own encoder."""
    images = data.load("digits").train_images[:3]
    assert np.array_equal(features_of_part(images, setup, 32), features_of_part(images, setup, 32))


@pytest.mark.parametrize("wrong", [{"classifier": "prob"}, {"evaluate_on": "Test"}, {"optimizer": "adam"}, {"trained_on": "all"}])
def test_a_run_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        replace(FEW, **wrong)


@pytest.mark.parametrize(
    "wrong, expected",
    [
        ({"shots": "20"}, "shots is '20' of a run trained on few-shot; expected a number of images per class"),
        ({"shots": 2.5}, "shots is 2.5"),
        ({"shots": None}, "shots is None of a run trained on few-shot"),
        ({"trained_on": "full"}, "shots is 5 of a run trained on full; expected None"),
        ({"variant": "noise 0.2"}, "variant is 'noise 0.2'; expected words without numbers, and the numbers in settings"),
    ],
)
def test_what_a_run_is_trained_on_and_its_number_have_columns_of_their_own(wrong, expected):
    with pytest.raises(ValueError, match=expected):
        replace(FEW, **wrong)


def test_shots_of_a_notebook_are_a_number_or_full():
    assert trained_on(20) == {"trained_on": "few-shot", "shots": 20}
    assert trained_on("full") == {"trained_on": "full", "shots": None}


def test_a_run_is_described_by_keywords():
    with pytest.raises(TypeError, match="positional"):
        Run("CE", "main")


def test_a_run_on_all_images_fine_tunes_the_whole_encoder_on_all_training_images(vit_setup):
    seen = []
    few = replace(
        FEW, objective=cross_entropy, classifier="own", shots=2, epochs=1, extra_metrics=lambda run, *_: seen.append(run) or {}
    )
    whole = execute(replace(few, **trained_on("full"), keep=True), vit_setup)
    with np.load(f"{vit_setup.shared}/splits.npz") as splits:
        assert torch.equal(seen[0].inputs, data.load("digits").train_images[splits["train"]])
    assert whole.model.encoder.backbone and len(whole.predictions) == len(data.load("digits").test)
    small = execute(few, vit_setup)
    assert len(seen[1].inputs) == 20 and small.metrics.keys() == whole.metrics.keys()


def test_a_run_leaves_the_random_numbers_of_its_caller_as_they_were(setup):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    execute(FEW, setup)
    assert torch.rand(1) == expected


def test_frozen_stages_see_the_test_images_once_for_all_runs_and_change_no_number(setup, tmp_path, monkeypatch):
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "weights.pth")
    encoder = {"name": "test_efficientnet", "frozen_stages": 1, "frozen_statistics": True}
    frozen = replace(setup, encoder=encoder, weights=str(tmp_path / "weights.pth"))
    frozen_maps.cache_clear()
    by_maps = [execute(replace(FEW, seed=seed), frozen) for seed in (0, 1)]
    assert frozen_maps.cache_info()[:2] == (1, 1)  # asked for twice, computed once
    monkeypatch.setattr(Trained, "test_outputs", Trained.outputs)
    by_images = [execute(replace(FEW, seed=seed), frozen) for seed in (0, 1)]
    assert [outcome.metrics for outcome in by_maps] == [outcome.metrics for outcome in by_images]
