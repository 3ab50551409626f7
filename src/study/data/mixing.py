"""Two images become one, and so do their labels."""

import torch
import torch.nn.functional as F
from torchvision.transforms import v2

KINDS = {"MixUp": v2.MixUp, "CutMix": v2.CutMix}


class Mixing:
    """(images (B, ...), labels (B,)) to (mixed images, label distributions (B, classes)): MixUp (Zhang et al., 2018) adds two
    images, CutMix (Yun et al., 2019) pastes a box of one into the other, and labels are mixed in the same proportion, which is
    drawn from Beta(1, 1) once per call. Of several kinds, each call takes one at random.

    The partners are a random permutation of the batch, as in GenSCL's released code. torchvision pairs neighbours, so two views
    of a batch would have the same partners.
    """

    def __init__(self, *kinds, classes):
        self.mix = v2.RandomChoice([KINDS[kind](alpha=1.0, num_classes=classes) for kind in kinds])

    def __call__(self, images, labels):
        order = torch.randperm(len(labels), device=labels.device)
        mixed, distributions = self.mix(images[order], labels[order])
        back = order.argsort()
        return mixed[back], distributions[back]


def smoothed(images, labels, *, classes, share):
    """The images as they are, and labels that give `share` of their weight to all classes alike."""
    return images, (1 - share) * F.one_hot(labels, classes) + share / classes
