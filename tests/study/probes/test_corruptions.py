"""What each corruption does to known images, that severity means more of it, and the metrics against a slow loop."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from study import data
from study.data.pictures import ImageFiles
from study.probes import corruptions
from study.probes.corruptions import KINDS, SEVERITIES, corrupt

DIGITS = (255 * F.interpolate(data.load("digits").train_images[:200] / 255, (28, 28), mode="bicubic").clamp(0, 1)).byte()


def grey(value, n=4, side=28):
    return torch.full((n, 1, side, side), value, dtype=torch.uint8)


def ramp(side=40, n=200):
    """Pixel values 0, 6, 12, ... from left to right."""
    return (6 * torch.arange(side)).to(torch.uint8).expand(n, 1, side, side)


@pytest.mark.parametrize("kind, severity", list(itertools.product(KINDS, SEVERITIES)))
@pytest.mark.parametrize("side", [8, 28])
def test_corrupted_images_keep_shape_and_type_and_differ(kind, severity, side):
    images = F.interpolate(DIGITS[:20].float(), (side, side)).byte()
    out = corrupt(images, kind, severity, seed=0)
    assert out.shape == images.shape and out.dtype == torch.uint8 and not torch.equal(out, images)


@pytest.mark.parametrize("kind", ["gaussian blur", "brightness", "elastic", "pixelate"])
def test_kinds_that_treat_each_pixel_value_alike_do_so_in_every_channel(kind):
    colours = torch.stack([DIGITS[:20, 0], 255 - DIGITS[:20, 0], DIGITS[20:40, 0]], 1)
    out = corrupt(colours, kind, 3, seed=0)
    for channel in range(3):
        assert torch.equal(out[:, channel], corrupt(colours[:, channel : channel + 1], kind, 3, seed=0)[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_three_equal_channels_stay_a_grey_image_but_for_noise(kind):
    out = corrupt(DIGITS[:20].expand(-1, 3, -1, -1), kind, 3, seed=0)
    assert out.shape == (20, 3, 28, 28) and out.dtype == torch.uint8
    spread = (out.int() - out[:, :1].int()).abs().max()
    assert spread > 50 if "noise" in kind else spread <= 1


def test_contrast_is_taken_about_the_grey_mean_and_keeps_the_hue():
    """Grey is 0.2989, 0.587 and 0.114 of red, green and blue."""
    colours = torch.tensor([200, 100, 50], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 4, 4)
    kept, mean = KINDS["contrast"][1][2], 0.2989 * 200 + 0.587 * 100 + 0.114 * 50
    out = corrupt(colours, "contrast", 3, seed=0).double()
    expected = mean + kept * (colours.double() - mean)
    assert (out - expected).abs().max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_corruption_repeats_and_leaves_images_and_the_global_generator_alone(kind):
    images = DIGITS[:20].clone()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, again = (corrupt(images, kind, 3, seed=7) for _ in range(2))
    assert torch.equal(torch.rand(3), expected) and torch.equal(first, again) and torch.equal(images, DIGITS[:20])


@pytest.mark.parametrize("kind", ["gaussian noise", "impulse noise", "elastic"])
def test_random_kinds_differ_between_seeds_and_between_images(kind):
    images = DIGITS[:1].repeat(2, 1, 1, 1)
    one, other = corrupt(images, kind, 3, seed=0), corrupt(images, kind, 3, seed=1)
    assert not torch.equal(one, other) and not torch.equal(one[0], one[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_is_farther_from_the_clean_image(kind):
    distances = [(corrupt(DIGITS, kind, s, seed=0).float() - DIGITS).square().mean().item() for s in SEVERITIES]
    assert all(b > 1.02 * a for a, b in itertools.pairwise(distances)), distances


# What each kind does


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_the_stated_deviation(severity):
    noise = corrupt(grey(128, n=50), "gaussian noise", severity, seed=0).float() - 128
    assert noise.std().item() / 255 == pytest.approx(KINDS["gaussian noise"][1][severity - 1], rel=0.1)  # less is clipped
    assert abs(noise.mean().item()) < 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_turns_the_stated_share_half_black_half_white(severity):
    out, share = corrupt(grey(100, n=100), "impulse noise", severity, seed=0), KINDS["impulse noise"][1][severity - 1]
    for value, expected in {0: share / 2, 255: share / 2, 100: 1 - share}.items():
        assert (out == value).double().mean().item() == pytest.approx(expected, rel=0.12)


def test_brightness_adds_and_clips():
    for added, severity in zip([26, 51, 76, 102, 128], SEVERITIES, strict=True):  # tenths of 255, rounded
        assert (corrupt(grey(100), "brightness", severity, seed=0).int() - 100 - added).abs().max() <= 1
    assert (corrupt(grey(200), "brightness", 5, seed=0) == 255).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_scales_differences_to_each_images_own_mean(severity):
    out, kept = corrupt(DIGITS, "contrast", severity, seed=0).double(), KINDS["contrast"][1][severity - 1]
    mean = DIGITS.double().mean((1, 2, 3), keepdim=True)
    assert (out - (mean + kept * (DIGITS - mean))).abs().max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_of_a_point_has_the_stated_width_and_keeps_its_light(severity):
    point = torch.zeros(1, 1, 29, 29)
    point[..., 14, 14] = 1
    deviation = KINDS["gaussian blur"][1][severity - 1]
    out = corruptions.gaussian_blur(point, deviation, None)[0, 0].double()
    x = torch.arange(29) - 14.0
    expected = torch.exp(-(x**2) / (2 * deviation**2)) * (x.abs() <= 6)
    assert torch.allclose(out, torch.outer(expected, expected).double() / expected.sum() ** 2, atol=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_shifts_by_the_stated_pixels_in_both_directions(severity):
    """On a ramp a shift of one pixel changes the value by 6."""
    for images in (ramp(), ramp().mT):
        moved = (corrupt(images, "elastic", severity, seed=0).double() - images)[..., 12:-12, 12:-12] / 6
        assert moved.square().mean().sqrt().item() == pytest.approx(KINDS["elastic"][1][severity - 1], rel=0.05)


def test_elastic_is_smooth():
    moved = (corrupt(ramp(), "elastic", 5, seed=0).double() - ramp())[..., 12:-12, 12:-12]
    assert moved.diff(dim=2).square().mean() < 0.15 * moved.square().mean()  # white noise would give 2


def test_pixelate_leaves_blocks_of_the_mean():
    images = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = corrupt(images, "pixelate", 5, seed=0).double()  # a quarter of 28: 7 x 7 blocks of 4 x 4
    blocks = images.double().reshape(3, 7, 4, 7, 4).mean((2, 4))
    assert (out[:, 0] - blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)).abs().max() <= 0.5


def test_jpeg_keeps_flat_images_and_loses_fine_grain():
    assert (corrupt(grey(77), "jpeg", 1, seed=0).int() - 77).abs().max() <= 2
    board = 120 + 16 * ((torch.arange(28)[:, None] + torch.arange(28)) % 2)
    fine, coarse = corrupt(board.to(torch.uint8).expand(2, 1, 28, 28), "jpeg", 5, seed=0), corrupt(ramp(28), "jpeg", 5, seed=0)
    assert fine.float().std() < 2 < board.float().std()
    assert coarse.float().std().item() == pytest.approx(ramp(28).float().std().item(), rel=0.2)


# Refusals


def test_unknown_kinds_list_the_known_ones():
    with pytest.raises(ValueError, match="kind is 'fog'; expected one of gaussian noise, impulse noise, .*jpeg"):
        corrupt(DIGITS, "fog", 1, seed=0)


@pytest.mark.parametrize("severity", [0, 6, 1.5, -1])
def test_severities_other_than_1_to_5_are_refused(severity):
    with pytest.raises(ValueError, match=f"severity is {severity}; expected a whole number from 1 to 5"):
        corrupt(DIGITS, "jpeg", severity, seed=0)


def test_float_images_are_refused():
    with pytest.raises(TypeError, match="torch.float32; expected uint8"):
        corrupt(DIGITS / 255, "jpeg", 1, seed=0)


def test_files_are_to_be_read_first():
    with pytest.raises(TypeError, match=r"images are ImageFiles; expected uint8 .* for ImageFiles, data.pixels\(images, size\)"):
        corrupt(ImageFiles.of(["a.png"]), "jpeg", 1, seed=0)


# Metrics


def by_brightness(images):
    """A classifier that calls bright images class 1."""
    p = (images.double().mean((1, 2, 3)) / 150).clamp(0.05, 0.95).numpy()
    return np.stack([1 - p, p], 1)


def slow_error_and_ece(images, labels):
    wrong, gaps = 0, {}
    for row, label in zip(by_brightness(images).tolist(), labels.tolist(), strict=True):
        wrong += row.index(max(row)) != label
        gaps.setdefault(min(int(15 * max(row)), 14), []).append((row.index(max(row)) == label) - max(row))
    return 100 * wrong / len(labels), 100 * sum(abs(sum(gap)) for gap in gaps.values()) / len(labels)


def opposite(images):
    return by_brightness(images)[:, ::-1]


def bright_digits():
    """Images and labels, of which some are wrong, so that clean images are mistaken too."""
    images = DIGITS[:80]
    labels = (images.float().mean((1, 2, 3)) > 78).long().numpy()
    labels[::10] = 0
    return images, labels


def test_metrics_are_those_of_a_slow_loop_in_which_severities_take_turns():
    images, labels = bright_digits()
    of_probe = corruptions.measure(lambda x: {"probe": by_brightness(x)}, images, labels, seed=3)["probe"]
    errors, seen = {}, {s: ([], []) for s in SEVERITIES}
    for j, kind in enumerate(KINDS):
        for s in SEVERITIES:
            part = [i for i in range(len(labels)) if (i + j) % 5 + 1 == s]
            distorted = corrupt(images[part], kind, s, seed=3)
            errors[kind, s] = slow_error_and_ece(distorted, labels[part])[0]
            seen[s][0].append(distorted)
            seen[s][1].append(labels[part])
    clean = slow_error_and_ece(images, labels)
    expected = {f"error: {k} {s}": error for (k, s), error in errors.items()}
    expected |= {"error severity 0": clean[0], "ece severity 0": clean[1]}
    for s, (parts, of_parts) in seen.items():
        expected[f"error severity {s}"] = np.mean([errors[kind, s] for kind in KINDS])
        expected[f"ece severity {s}"] = slow_error_and_ece(torch.cat(parts), np.concatenate(of_parts))[1]
    expected["mce"], expected["ece"] = (np.mean([expected[f"{of} severity {s}"] for s in SEVERITIES]) for of in ("error", "ece"))
    expected["relative_mce"] = expected["mce"] - clean[0]
    assert of_probe == pytest.approx(expected) and 0 < of_probe["error severity 0"] < of_probe["mce"] < 100


def test_every_image_meets_every_kind_once_and_every_severity_a_fifth_of_the_images():
    images, labels = bright_digits()
    sizes = []

    def classify(x):
        sizes.append(len(x))
        return {"probe": by_brightness(x)}

    corruptions.measure(classify, images, labels, seed=0)
    assert sizes == [len(images) // 5] * 5 * len(KINDS) + [len(images)]


def test_read_outs_are_measured_side_by_side():
    images, labels = bright_digits()
    both = corruptions.measure(lambda x: {"probe": by_brightness(x), "own": opposite(x)}, images, labels, seed=0)
    assert both["probe"]["error severity 0"] == pytest.approx(100 - both["own"]["error severity 0"])
    assert both["probe"]["error: jpeg 5"] == pytest.approx(100 - both["own"]["error: jpeg 5"])
