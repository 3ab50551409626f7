"""Encoders by name and by mapping, their heads, layer-wise learning rates, and training on all images."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from study import methods
from study import runs as experiment
from study.data import sets as data
from study.runs import Recipe, Run, Setup
from study.training import loop as training
from study.training.loop import parameter_groups, train
from study.training.model import Architecture, ImageEncoder, Model, architecture

VIT = {"name": "test_vit", "global_pool": "avg", "drop_path_rate": 0.15}


def build(encoder, classes=4, **heads):
    torch.manual_seed(0)
    body = ImageEncoder(encoder, "none")
    return Model(body, body.dim, classes, **heads)


# Names and mappings


def test_a_name_and_a_mapping_of_the_name_alone_are_the_same_encoder():
    assert architecture("test_vit") == architecture({"name": "test_vit"}) == Architecture("test_vit")
    weights, again = (build(encoder).state_dict() for encoder in ("test_vit", {"name": "test_vit"}))
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_what_is_not_ours_is_timm_s_in_any_order():
    one = architecture({"name": "x", "img_size": [32, 32], "stem": "cifar", "drop_path_rate": 0.1, "hidden": [8, 4]})
    other = architecture({"hidden": [8, 4], "drop_path_rate": 0.1, "stem": "cifar", "img_size": [32, 32], "name": "x"})
    assert one == other and hash(one) == hash(other)
    assert one.options == (("drop_path_rate", 0.1), ("img_size", (32, 32))) and one.hidden == (8, 4)


def test_a_mapping_without_a_name_is_refused():
    with pytest.raises(ValueError, match="a mapping with a `name`"):
        architecture({"drop_path_rate": 0.1})


def test_an_option_that_timm_does_not_know_is_refused():
    with pytest.raises(TypeError, match="drop_pathrate"):
        ImageEncoder({"name": "test_vit", "drop_pathrate": 0.1}, "none")


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_vit2"])
def test_any_timm_encoder_gives_a_row_of_dim_per_image(name):
    encoder = ImageEncoder({"name": name, "drop_path_rate": 0.1}, "none").eval()
    assert encoder(torch.rand(2, 1, 32, 32)).shape == (2, encoder.dim)


# The representation


@pytest.mark.parametrize(
    "encoder",
    [VIT, {"name": "beit3_base_patch16_224", "depth": 1}, {"name": "beit3_base_patch16_224", "depth": 1, "img_size": 32}],
    ids=["vit", "beit3", "beit3 of 32 pixels"],
)
def test_a_transformer_s_embedding_is_the_mean_of_its_patches_then_a_layer_norm(encoder):
    model = ImageEncoder(encoder, "none").eval()
    body, images = (
        model.backbone,
        torch.rand(2, 3, *([224] * 2 if encoder.get("depth") and "img_size" not in encoder else [32] * 2)),
    )
    with torch.inference_mode():
        x = body.patch_embed((images - model.mean) / model.std).flatten(1, -2)
        tokens = body.forward_features((images - model.mean) / model.std)  # (2, 1 + patches, D), not yet normed
        assert tokens.shape[1] == 1 + x.shape[1] and isinstance(body.norm, torch.nn.Identity)
        mean = sum(tokens[:, k] for k in range(1, tokens.shape[1])) / (tokens.shape[1] - 1)
        expected = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, keepdim=True, unbiased=False) + body.fc_norm.eps).sqrt()
        assert torch.allclose(model(images), expected, atol=1e-4)  # a new norm has weight 1 and bias 0


def test_without_options_a_transformer_gives_what_timm_gives():
    encoder = ImageEncoder("test_vit", "none").eval()
    assert encoder.backbone.global_pool == "token"


def test_drop_path_drops_while_training_alone():
    encoder, images = ImageEncoder(VIT | {"drop_path_rate": 0.5}, "none"), torch.rand(4, 3, 32, 32)
    assert not torch.allclose(encoder.train()(images), encoder(images))
    assert torch.equal(encoder.eval()(images), encoder(images))


# The stem for small images


def test_the_cifar_stem_keeps_all_pixels():
    seen = {}
    for stem in ("timm", "cifar"):
        encoder = ImageEncoder({"name": "test_resnet", "stem": stem}, "none").eval()
        encoder.backbone.layer1.register_forward_pre_hook(lambda _, inputs, stem=stem: seen.update({stem: inputs[0].shape}))
        encoder(torch.rand(2, 3, 32, 32))
    assert seen["timm"][2:] == (8, 8) and seen["cifar"][2:] == (32, 32)
    assert seen["timm"][1] == seen["cifar"][1]


def test_resnet_50_with_the_cifar_stem_is_supcon_s():
    """Its first convolution has 3 x 3 in place of 7 x 7 weights for each of 3 x 64 channels, and nothing else differs."""
    with torch.device("meta"):
        sizes = [
            sum(parameter.numel() for parameter in ImageEncoder({"name": "resnet50", "stem": stem}, "none").parameters())
            for stem in ("timm", "cifar")
        ]
    assert sizes[0] - sizes[1] == 3 * 64 * (49 - 9) and sizes[1] == 23_500_352


@pytest.mark.parametrize(
    "encoder", [{"name": "test_efficientnet", "stem": "cifar"}, {"name": "test_resnet", "stem": "small"}, VIT | {"stem": "cifar"}]
)
def test_a_stem_that_does_not_fit_is_refused(encoder):
    with pytest.raises(ValueError, match="one of timm's ResNets"):
        ImageEncoder(encoder, "none")


# Heads


def test_heads_are_as_wide_and_deep_as_asked_for():
    assert [tuple(w.shape) for w in build("test_vit").projection.parameters() if w.ndim == 2] == [(64, 64), (128, 64)]
    head = build("test_vit", hidden=(32, 16), projection_dim=8).projection
    assert [tuple(w.shape) for w in head.parameters() if w.ndim == 2] == [(32, 64), (16, 32), (8, 16)]
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert len(build("test_vit", hidden=()).projection) == 1


def test_the_classifier_starts_smaller_by_its_factor():
    plain, small = build("test_vit").classifier, build("test_vit", classifier_scale=0.001).classifier
    assert torch.allclose(small.weight, 0.001 * plain.weight) and torch.allclose(small.bias, 0.001 * plain.bias)
    assert small.weight.requires_grad


# Learning rates by layer


def test_each_layer_learns_at_a_share_of_the_next_and_vectors_do_not_decay():
    model = build({"name": "beit3_base_patch16_224", "depth": 3, "img_size": 32})
    groups = parameter_groups(model, learning_rate=0.5, weight_decay=0.1, layer_decay=0.65)
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(of) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        layer = name.removeprefix("encoder.backbone.")
        below = 4 - int(layer.split(".")[1]) - 1 if layer.startswith("blocks") else 0  # three blocks, then norm and heads
        below = 4 if layer.startswith(("patch_embed", "pos_embed", "cls_token")) else below
        group = of[id(parameter)]
        assert group["lr"] == pytest.approx(0.5 * 0.65**below), name
        vector = parameter.ndim <= 1 or layer in ("pos_embed", "cls_token")
        assert group["weight_decay"] == (0 if vector else 0.1), name


def recorded(monkeypatch, **how):
    """Learning rates (steps, groups) of 40 steps of training."""
    rates = []

    class Recording(torch.optim.SGD):
        def step(self):
            rates.append([group["lr"] for group in self.param_groups])
            super().step()

    monkeypatch.setitem(training.OPTIMIZERS, "recording", Recording)
    images, labels = torch.rand(80, 3, 16, 16), torch.arange(80) % 4
    how = {"view": lambda x: x, "views": 1, "epochs": 4, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 0.0} | how
    model = build({"name": "test_resnet"})
    train(model, methods.with_settings(CE, label_smoothing=0.0).objective, images, labels, seed=0, optimizer="recording", **how)
    return np.array(rates)


CE = Run("CE", "main", None, shots=1, seed=0, learning_rate=0.01, epochs=1)


def test_the_schedule_is_two_half_cosines_from_a_25th_to_the_highest_and_to_the_last(monkeypatch):
    rates = recorded(monkeypatch, warm_up=0.25, final=0.1)[:, 0]
    steps, top = np.arange(40), 0.25 * 41 - 1
    rising = 0.01 / 25 + (0.01 - 0.01 / 25) * (1 - np.cos(np.pi * steps / top)) / 2
    falling = 0.001 + (0.01 - 0.001) * (1 + np.cos(np.pi * (steps - top) / (40 - top))) / 2  # the 41st step would have 0.001
    assert np.allclose(rates, np.where(steps < top, rising, falling), rtol=1e-9)


def test_the_default_schedule_is_the_one_cycle_schedule_to_the_bit(monkeypatch):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=41, pct_start=0.1, cycle_momentum=False)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert recorded(monkeypatch)[:, 0].tolist() == expected


def test_all_layers_keep_their_share_along_the_schedule(monkeypatch):
    rates = recorded(monkeypatch, layer_decay=0.5)
    assert rates.shape[1] > 4
    assert np.allclose(rates / rates[:, -1:], (rates / rates[:, -1:])[0]) and rates.min() < 0.1 * rates[:, -1].min()


# Setups


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    shared = tmp_path_factory.mktemp("shared")
    labels = data.load("digits").train_labels
    train_part, validation = data.split_validation(labels, 1247, seed=0)
    draws = {experiment.draw_name(2, 0): data.few_shot_draw(labels, train_part, 2, 0)}
    np.savez(shared / "splits.npz", train=train_part, validation=validation, **draws)
    encoder = VIT | {"classifier_scale": 0.001, "hidden": [16], "projection_dim": 8}
    recipe = {"optimizer": "momentum", "warm_up": 0.2, "final": 0.01, "layer_decay": 0.65, "augmentation": "simclr"}
    return Setup(str(shared), "digits", encoder, "none", 16, 50, 0.05, recipe)


FULL = methods.with_settings(replace(CE, shots="full", seed=0), label_smoothing=0.0)


def test_a_setup_of_mappings_is_a_key_of_a_cache_and_pickles(setup):
    again = pickle.loads(pickle.dumps(setup))
    assert again == setup and hash(again) == hash(setup) and {setup: 1}[again] == 1
    assert setup.recipe == Recipe("momentum", 0.2, 0.01, 0.65, "simclr") and isinstance(setup.encoder, Architecture)
    assert Setup("", "digits", "test_vit", "none", 16, 50, 0.05).encoder == "test_vit"


def test_a_new_model_has_the_encoder_and_the_heads_of_the_mapping(setup):
    model = experiment.new_model(setup)
    assert [tuple(w.shape) for w in model.projection.parameters() if w.ndim == 2] == [(16, 64), (8, 16)]
    assert model.classifier.weight.abs().max() < 0.001 * 64**-0.5
    assert model.encoder.backbone.global_pool == "avg"
    assert model.encoder.backbone.blocks[-1].drop_path1.drop_prob == pytest.approx(0.15)


def test_a_saved_model_is_loaded_once(setup, tmp_path):
    path = str(tmp_path / "model.pt")
    torch.save(experiment.new_model(setup).state_dict(), path)
    assert experiment.load_model(setup, path) is experiment.load_model(pickle.loads(pickle.dumps(setup)), path)


@pytest.mark.parametrize("wrong", [{"optimizer": "adam"}, {"augmentation": "color"}])
def test_a_recipe_refuses_what_it_does_not_know(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong.values()))}.*expected one of"):
        Recipe(**wrong)


@pytest.mark.parametrize("wrong", [{"warm_up": 10}, {"final": 0}])
def test_a_schedule_is_given_in_shares(wrong):
    with pytest.raises(ValueError, match="expected shares"):
        Recipe(**wrong)


# All images


def test_shots_full_trains_the_whole_encoder_on_all_training_images(setup):
    seen = []
    outcome = experiment.execute(replace(FULL, also=lambda trained, *_: seen.append(trained) or {}, keep=True), setup)
    (trained,) = seen
    with np.load(f"{setup.shared}/splits.npz") as splits:
        assert torch.equal(trained.inputs, data.load("digits").train_images[splits["train"]])
    assert outcome.model.encoder.backbone and len(outcome.predictions) == len(data.load("digits").test)
    small = experiment.execute(replace(FULL, shots=2, also=lambda trained, *_: seen.append(trained) or {}), setup)
    assert len(seen[1].inputs) == 20 and small.metrics.keys() == outcome.metrics.keys()


def test_the_table_says_full_and_how_it_was_trained(setup, tmp_path):
    outcomes = [experiment.execute(replace(FULL, **how), setup) for how in ({"keep": True}, {"optimizer": "sgd", "seed": 1})]
    runs = experiment.write_results(tmp_path, setup, outcomes)
    assert set(runs.shots) == {"full"}
    record, other = (json.loads(text) for text in runs.settings.unique())
    assert record["encoder"]["name"] == "test_vit" and ["drop_path_rate", 0.15] in record["encoder"]["options"]
    assert (record["optimizer"], record["layer_decay"], record["augmentation"]) == ("momentum", 0.65, "simclr")
    assert other["optimizer"] == "sgd"
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["predictions_full"].shape == (2, 450)


def test_predictions_of_many_classes_are_kept_whole(setup, tmp_path):
    outcome = experiment.Outcome(FULL, {"accuracy": 1.0}, 1.0, [], [], np.array([0, 300, 5088]), np.ones((3, 2)))
    experiment.write_results(tmp_path, setup, [outcome])
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert arrays["predictions_full"].tolist() == [[0, 300, 5088]]


@pytest.mark.parametrize("shots, expected", [(["full"], "full"), (["full", 20], 20), ([100, 20], 20)])
def test_the_reported_run_is_that_of_the_smallest_draw_and_full_is_largest(setup, tmp_path, shots, expected):
    outcomes = [experiment.Outcome(replace(FULL, shots=n), {"accuracy": 1.0}, 1.0, [], [], None) for n in shots]
    experiment.write_runs(tmp_path / "cross_entropy", setup, outcomes)
    assert methods.as_reported(tmp_path, "CE").shots == expected


@pytest.mark.parametrize("wrong", ["all", "20", 2.5])
def test_other_shots_are_refused(wrong):
    with pytest.raises(ValueError, match='expected a number of images per class, 0 or "full"'):
        replace(CE, shots=wrong)


def test_the_analysis_says_that_it_does_not_compare_runs_on_all_images():
    from study.analysis import report

    rows = pd.DataFrame({"variant": "main", "method": "CE", "stage": "cross_entropy", "shots": ["full"]})
    with pytest.raises(ValueError, match="cross_entropy report runs on all images"):
        report.reported(rows)


def test_a_draw_of_all_is_the_pool():
    pool = torch.tensor([3, 1, 2])
    assert data.few_shot_draw(torch.arange(4), pool, "full", seed=0) is pool


def test_with_one_setting_there_is_nothing_to_choose_and_nothing_is_run(setup):
    trials = [replace(CE, variant="trial: lr 0.1", evaluate_on="validation", seed=seed) for seed in (1000, 1001)]
    assert experiment.choose(trials, setup) == (trials[0], [])


def test_with_two_settings_the_better_is_chosen(setup, monkeypatch):
    trials = [replace(CE, variant=f"trial {k}", evaluate_on="validation") for k in range(2)]
    outcomes = [experiment.Outcome(run, {"accuracy": k}, 0.0, [], [], None) for k, run in enumerate(trials)]
    monkeypatch.setattr(experiment, "run_all", lambda runs, setup: outcomes)
    assert experiment.choose(trials, setup) == (trials[1], outcomes)
