"""Which images and labels a run is given: validation parts, few-shot and long-tailed draws, wrong labels; all repeat by seed."""

import numpy as np
import torch
from sklearn.model_selection import train_test_split


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
    return torch.cat([_draw_of_class(labels, pool, label, shots, generator) for label in labels.unique()])


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
    return torch.cat([_draw_of_class(labels, pool, label, size, generator) for label, size in zip(classes, sizes, strict=True)])


def _draw_of_class(labels, pool, label, size, generator):
    """Indices (size,) of images with that label, drawn from pool without replacement."""
    members = pool[labels[pool] == label]
    if len(members) < size:
        raise ValueError(f"class {label} has {len(members)} images in the pool; expected at least {size}.")
    return members[torch.randperm(len(members), generator=generator)[:size]]


def flip_labels(labels, share, classes, seed):
    """labels (N,) with round(share * N) of them, drawn at random, replaced by one of the other classes, each as likely."""
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    noisy_labels = labels.clone()
    noisy_labels[flipped] = (labels[flipped] + torch.randint(1, classes, flipped.shape, generator=generator)) % classes
    return noisy_labels
