"""Data sets by name, their files on disk, splits and draws, augmentation, and the sealed test set.

Nothing here knows of models or methods.
"""

from study.data.augmentation import AUGMENTATIONS, Augment, pixels, plain
from study.data.draws import few_shot_draw, flip_labels, long_tailed_draw, split_validation
from study.data.pictures import ImageFiles
from study.data.sets import HeldOut, is_name, load

__all__ = [
    "AUGMENTATIONS", "Augment", "pixels", "plain", "few_shot_draw", "flip_labels", "long_tailed_draw", "split_validation",
    "ImageFiles", "HeldOut", "is_name", "load",
]  # fmt: skip
