"""What augmentation may do to an image."""

import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from study import data

# Augmentation

RAMP = torch.arange(0, 256, 4, dtype=torch.uint8)
RISING = RAMP.expand(64, 1, 64, 64)  # 64 images that brighten from left to right


@pytest.mark.parametrize("flips", [True, False])
def test_augmented_images_have_the_asked_size_and_stay_in_range(flips):
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = data.Augment(40, flips)(images)
    assert out.shape == (20, 1, 40, 40) and out.dtype == torch.float32
    assert out.min() >= 0 and 0.9 < out.max() <= 1


def test_each_image_of_a_batch_is_augmented_on_its_own():
    torch.manual_seed(0)
    out = data.Augment(16, flips=False)(RISING[:10]).flatten(1)
    distances = torch.cdist(out, out) + torch.eye(10)
    assert distances.min() > 1e-3


def test_augmentation_repeats_with_torch_seed_and_differs_without():
    augment = data.Augment(16, flips=True)
    torch.manual_seed(5)
    first, other = augment(RISING), augment(RISING)
    torch.manual_seed(5)
    assert torch.equal(augment(RISING), first) and not torch.equal(other, first)


def mirrored(images):
    return images[:, 0, :, 0].mean(1) > images[:, 0, :, -1].mean(1)


def test_augmentation_never_mirrors_where_the_dataset_forbids_it():
    torch.manual_seed(0)
    assert not mirrored(data.Augment(16, flips=False)(RISING)).any()


def test_augmentation_mirrors_about_half_where_the_dataset_allows_it():
    torch.manual_seed(0)
    assert 16 <= mirrored(data.Augment(16, flips=True)(RISING)).sum() <= 48


def test_augmentation_never_turns_images_upside_down():
    torch.manual_seed(0)
    assert not mirrored(data.Augment(16, flips=True)(RISING.mT).mT).any()


@pytest.mark.parametrize("settings, smallest", [({}, 0.5), ({"smallest": 0.2}, 0.2), ({"smallest": 0.8}, 0.8)])
def test_crops_keep_at_least_the_smallest_share_of_the_area(settings, smallest):
    """On a ramp the range of values tells how much of the width, or height, is left."""
    areas = []
    for seed in range(4):
        kept = []
        for images in (RISING, RISING.mT):
            torch.manual_seed(seed)
            out = data.Augment(64, flips=False, **settings)(images).flatten(1)
            kept.append((out.amax(1) - out.amin(1)) / (252 / 255))
        areas.append(kept[0] * kept[1])
    areas = torch.cat(areas)
    assert smallest - 0.05 < areas.min() < smallest + 0.1 and 0.85 < areas.max() <= 1.001


def test_jitter_changes_the_brightness_of_each_image_by_its_own_amount():
    flat = torch.full((50, 1, 8, 8), 128, dtype=torch.uint8)
    torch.manual_seed(0)
    assert torch.allclose(data.Augment(8, flips=False)(flat), torch.tensor(128 / 255))
    means = data.Augment(8, flips=False, jitter=0.3)(flat).mean((1, 2, 3))
    assert means.std() > 0.05 and means.unique().numel() > 40 and means.min() > 0.1 and means.max() <= 1


# Colours

COLOURED = torch.randint(256, (400, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("settings", [{}, {"jitter": 0.3}, {"smallest": 0.2}])
def test_three_equal_channels_are_augmented_like_the_grey_image(settings):
    augment = data.Augment(12, flips=True, **settings)
    torch.manual_seed(0)
    grey = augment(COLOURED[:40, :1])
    torch.manual_seed(0)
    assert torch.equal(augment(COLOURED[:40, :1].expand(-1, 3, -1, -1)), grey.expand(-1, 3, -1, -1))


def test_colours_are_left_alone_unless_asked_for():
    """Channels in a fixed ratio keep it through crop, flip and jitter of brightness."""
    images = torch.tensor([100, 50, 25], dtype=torch.uint8)[None, :, None, None].expand(50, 3, 8, 8)
    out = data.Augment(8, flips=True)(images)
    assert torch.allclose(out, images / 255, atol=1e-6)


def test_simclr_s_augmentation_makes_a_fifth_grey_and_changes_colours_of_four_fifths():
    flat = torch.tensor([180, 90, 60], dtype=torch.uint8)[None, :, None, None].expand(2000, 3, 8, 8)
    torch.manual_seed(0)
    out = data.AUGMENTATIONS["simclr"](8, flips=True)(flat)[:, :, 0, 0]
    grey = (out.amax(1) - out.amin(1)) < 1e-4
    untouched = (out - torch.tensor([180, 90, 60]) / 255).abs().amax(1) < 1e-4
    luminance = torch.tensor([0.299, 0.587, 0.114]) @ torch.tensor([180.0, 90, 60]) / 255
    only_grey = grey & ((out[:, 0] - luminance).abs() < 2e-3)
    assert 0.17 < grey.float().mean() < 0.23  # five deviations
    assert 0.13 < untouched.float().mean() < 0.19 and 0.02 < only_grey.float().mean() < 0.06  # 0.2 x 0.8 and 0.2 x 0.2
    assert out.min() >= 0 and out.max() <= 1


def test_changes_of_colour_are_torchvision_s():
    """The same factors, in the same order, by torchvision's functions."""
    (jitter,) = [step for step in data.AUGMENTATIONS["simclr"](8, flips=False).steps if "Jitter" in type(step).__name__]
    names, images = ["brightness", "contrast", "saturation", "hue"], COLOURED[:30] / 255
    torch.manual_seed(0)
    out, drawn = jitter(images), jitter._params
    for i in drawn["batch_prob"].nonzero()[:, 0]:
        expected = images[i]
        for name in [names[k] for k in drawn["order"]]:
            expected = getattr(transforms, f"adjust_{name}")(expected, drawn[f"{name}_factor"][i].item())
        assert torch.allclose(out[i], expected, atol=1e-3)
    for name, neutral, span in zip(names, [1, 1, 1, 0], [0.4, 0.4, 0.4, 0.1], strict=True):
        assert span / 2 < (drawn[f"{name}_factor"] - neutral).abs().max() <= span


def test_changes_of_colour_make_three_channels_of_a_grey_image():
    views = data.AUGMENTATIONS["simclr"](8, flips=True)(COLOURED[:, :1])
    assert views.shape[1:] == (3, 8, 8) and (views.amax(1) - views.amin(1)).max() < 1e-4


def test_simclr_crops_hold_a_fifth_of_the_image_or_more():
    torch.manual_seed(0)
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(500, 1, 64, 64)
    crop = data.AUGMENTATIONS["simclr"](16, flips=False).crop(ramp.float())
    width = (crop[:, 0, 0, -1] - crop[:, 0, 0, 0]) / 252
    narrowest = (0.2 * 3 / 4) ** 0.5  # of a crop with sides 3 : 4
    assert 0.85 * narrowest < width.min() < 0.5  # the pixels at its ends lie within it


def test_plain_of_the_same_size_only_scales_to_0_1():
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(data.plain(images, 8), images / 255)


def test_plain_doubles_the_size_by_linear_interpolation():
    """Between pixel centres of 0 and 1 lie 1/4 and 3/4; beyond them the border value goes on."""
    out = data.plain(torch.tensor([[[[0, 255], [0, 255]]]], dtype=torch.uint8), 4)
    assert torch.equal(out, torch.tensor([0, 0.25, 0.75, 1]).expand(1, 1, 4, 4))
