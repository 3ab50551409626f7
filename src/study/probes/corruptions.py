"""Corruptions of test images, eight kinds in five severities, after ImageNet-C (Hendrycks and Dietterich, 2019, ICLR).

The kinds are ImageNet-C's, and as there a higher severity distorts more. The values are our choice for clothes of 28 x 28 pixels:
ImageNet-C's were set for photographs of 224 x 224.
"""

import io
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from kornia.geometry.transform import elastic_transform2d
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from study.probes import evaluation

SEVERITIES = range(1, 6)


def corrupt(images, kind, severity, seed):
    """images (N, 1 or 3, H, W) uint8 distorted, of the same shape and type; each image has its own draw.

    kind      a name in KINDS.
    severity  1 to 5.
    seed      of what is random about the kind; the same seed draws the same random numbers at every severity.
    Raises ValueError for another kind or severity, TypeError for images that are not uint8.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity!r}; expected a whole number from 1 to 5.")
    if (dtype := getattr(images, "dtype", type(images).__name__)) != torch.uint8:
        conversion = "for images in [0, 1], (255 * images).byte(); for ImageFiles, data.pixels(images, size)"
        raise TypeError(f"images are {dtype}; expected uint8 from 0 to 255: {conversion}.")
    distort, levels = KINDS[kind]
    distorted = distort(images / 255, levels[severity - 1], torch.Generator().manual_seed(seed))
    return (255 * distorted).round().clamp(0, 255).to(torch.uint8)


def measure(classify, images, labels, seed):
    """Errors (%) and expected calibration errors (points) of read-outs on corrupted images.

    classify  images (N, C, H, W) uint8 -> {read-out: probabilities (N, K)}.
    labels    (N,) integers.
    Every image is distorted once in each way. The severities take turns from image to image and from kind to kind, so each
    severity of each kind meets a fifth of the images.

    Returns {read-out: {metric: value}}: "error: <kind> <severity>"; "error severity <s>", its mean over kinds, and "ece severity
    <s>", of all kinds together, where severity 0 is clean; "mce" and "ece", means over severities 1 to 5; and "relative_mce",
    which is mce less the clean error.
    """
    turns, seen = np.arange(len(labels)), {}  # (kind, severity) -> (probabilities of each read-out, labels)
    for (j, kind), s in itertools.product(enumerate(KINDS), SEVERITIES):
        part = np.flatnonzero((turns + j) % len(SEVERITIES) == s - SEVERITIES[0])
        seen[kind, s] = classify(corrupt(images[part], kind, s, seed)), labels[part]
    clean = classify(images)
    return {read_out: _metrics(read_out, clean, seen, labels) for read_out in clean}


def _metrics(read_out, clean, seen, labels):
    error = {at: _error(p[read_out], y) for at, (p, y) in seen.items()}
    metrics = {"error severity 0": _error(clean[read_out], labels)}
    metrics["ece severity 0"] = evaluation.expected_calibration_error(clean[read_out], labels)
    for s in SEVERITIES:
        p, y = (np.concatenate(parts) for parts in zip(*((seen[k, s][0][read_out], seen[k, s][1]) for k in KINDS), strict=True))
        metrics[f"error severity {s}"] = float(np.mean([error[kind, s] for kind in KINDS]))
        metrics[f"ece severity {s}"] = evaluation.expected_calibration_error(p, y)
    for name, of in {"mce": "error", "ece": "ece"}.items():
        metrics[name] = float(np.mean([metrics[f"{of} severity {s}"] for s in SEVERITIES]))
    metrics["relative_mce"] = metrics["mce"] - metrics["error severity 0"]
    return metrics | {f"error: {kind} {s}": value for (kind, s), value in error.items()}


def _error(probabilities, labels):
    return 100 - evaluation.accuracy(probabilities.argmax(1), labels)


# Each kind: (images (N, C, H, W) in [0, 1], level, generator) -> images, which may leave [0, 1].


def gaussian_noise(x, deviation, generator):
    return x + deviation * torch.randn(x.shape, generator=generator)


def impulse_noise(x, share, generator):
    """That share of the pixels replaced, half of them by black and half by white."""
    draw = torch.rand(x.shape, generator=generator)
    return torch.where(draw < share, (draw < share / 2).to(x.dtype), x)


def gaussian_blur(x, deviation, generator):
    return transforms.gaussian_blur(x, kernel_size=[13, 13], sigma=[deviation, deviation])


def brightness(x, added, generator):
    return x + added


def contrast(x, factor, generator):
    """Differences to the image's own mean grey, times `factor`."""
    return transforms.adjust_contrast(x, factor)


def elastic(x, pixels, generator):
    """Each image pulled about by a smooth random field; `pixels` is the root mean square shift along an axis."""
    noise = torch.randn(len(x), 2, *x.shape[2:], generator=generator)
    smoothness = 3.0  # pixels; smoothing white noise by it leaves a deviation of 1 / (2 sqrt(pi) smoothness)
    per_pixel = 2 * math.sqrt(math.pi) * smoothness
    alpha = tuple(pixels * per_pixel * 2 / side for side in (x.shape[3], x.shape[2]))  # an image is 2 wide and high
    return elastic_transform2d(x, noise, (19, 19), (smoothness, smoothness), alpha, padding_mode="border")


def pixelate(x, share, generator):
    """Averaged over fewer and larger pixels, that share of them along a side."""
    fewer = [round(share * side) for side in x.shape[2:]]
    return F.interpolate(F.interpolate(x, fewer, mode="area"), x.shape[2:], mode="nearest-exact")


def jpeg(x, quality, generator):
    """Written as a JPEG file of that quality (100 is best) and read again."""
    return torch.stack([_through_jpeg(image, quality) for image in x])


def _through_jpeg(image, quality):
    file = io.BytesIO()
    transforms.to_pil_image(image).save(file, "JPEG", quality=quality)
    return transforms.to_image(Image.open(file)) / 255


KINDS = {
    "gaussian noise": (gaussian_noise, [0.05, 0.10, 0.15, 0.20, 0.30]),
    "impulse noise": (impulse_noise, [0.01, 0.03, 0.06, 0.10, 0.20]),
    "gaussian blur": (gaussian_blur, [0.5, 0.75, 1.0, 1.5, 2.0]),
    "brightness": (brightness, [0.1, 0.2, 0.3, 0.4, 0.5]),
    "contrast": (contrast, [0.7, 0.5, 0.35, 0.25, 0.15]),
    "elastic": (elastic, [0.4, 0.8, 1.2, 1.6, 2.0]),
    "pixelate": (pixelate, [0.7, 0.57, 0.43, 0.32, 0.25]),
    "jpeg": (jpeg, [40, 25, 15, 10, 5]),
}
