"""Encoders by name and by mapping load what they should; their heads; convolutions on small maps."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from timm.layers import Conv2dSame

from study.training.model import (
    Architecture,
    ImageEncoder,
    Model,
    SmallMapConv2d,
    SmallMapConv2dSame,
    _from_package,
    architecture,
    feature_encoder,
    for_small_maps,
)

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


def test_the_strided_stem_halves_the_image_with_a_single_convolution():
    encoder = ImageEncoder(
        {"name": "resnet18", "stem": "strided", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}, "none"
    ).eval()
    seen = []
    encoder.backbone.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert encoder(torch.rand(2, 1, 28, 28)).shape == (2, encoder.dim)
    assert seen[0][2:] == (14, 14) and encoder.backbone.conv1.weight.shape[1:] == (3, 3, 3)


# What stays as it came


def train_a_little(encoder, objective=lambda outputs: outputs.logits.square().mean() + outputs.projection.square().mean()):
    """(weights and buffers of the encoder before, and after ten steps of AdamW on random images)."""
    model = build(encoder)
    before = copy.deepcopy(model.encoder.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(10):
        loss = objective(model.train()(torch.rand(8, 3, 32, 32)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, model.encoder.state_dict()


def changed(states):
    before, after = states
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_frozen_statistics_stay_while_scale_and_shift_learn(name):
    frozen, free = (changed(train_a_little({"name": name, "frozen_statistics": frozen})) for frozen in (True, False))
    statistics = {n for n in free if n.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert len(statistics) > 10 and frozen == free - statistics
    assert {n for n in frozen if "bn" in n and n.endswith("weight")} and {n for n in frozen if "bn" in n and n.endswith("bias")}


def test_with_frozen_statistics_an_image_s_embedding_does_not_depend_on_its_batch():
    images = torch.rand(6, 3, 32, 32)
    for frozen in (True, False):
        encoder = build({"name": "test_resnet", "frozen_statistics": frozen}).encoder.train()
        assert torch.allclose(encoder(images)[:2], encoder(images[:2]), atol=1e-5) == frozen


@pytest.mark.parametrize("count", [1, 2])
def test_frozen_stages_and_the_stem_keep_their_weights_and_the_others_learn(count):
    moved = changed(train_a_little({"name": "test_efficientnet", "frozen_stages": count, "frozen_statistics": True}))
    stages = {name.split(".")[2] for name in moved if name.startswith("backbone.blocks.")}
    every = len(build("test_efficientnet").encoder.backbone.blocks)
    assert stages == {str(stage) for stage in range(count, every)}
    assert not {name for name in moved if "conv_stem" in name or name.startswith("backbone.bn1")}
    assert {name for name in moved if "conv_head" in name}


def test_more_frozen_stages_than_there_are_is_refused_with_their_number():
    with pytest.raises(ValueError, match=r"frozen_stages is 9, but test_efficientnet has \d; expected fewer"):
        build({"name": "test_efficientnet", "frozen_stages": 9})


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


# Weights and small maps


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
def test_convolutionfor_small_maps_is_the_plain_one(size, kernel, groups):
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(4, 8, kernel, padding=kernel // 2, groups=groups).double()
    fast = for_small_maps(copy.deepcopy(plain))
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
def test_convolution_with_tensorflow_s_paddingfor_small_maps_is_timm_s(size, kernel, stride, groups):
    torch.manual_seed(0)
    plain = Conv2dSame(4, 4, kernel, stride=stride, groups=groups).double()
    fast = for_small_maps(copy.deepcopy(plain))
    assert type(fast) is SmallMapConv2dSame
    assert_same_convolution(fast, plain, size)


@pytest.mark.parametrize(
    "settings",
    [{"stride": 2, "padding": 1}, {"padding": 0}, {"padding": 2, "dilation": 2}, {"padding": 1, "padding_mode": "reflect"}],
)
def test_convolutions_that_shrink_the_map_or_spread_their_taps_are_left_alone(settings):
    assert type(for_small_maps(torch.nn.Conv2d(2, 2, 3, **settings))) is torch.nn.Conv2d


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
