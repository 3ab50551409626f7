"""Images as a model sees them: random views of whole batches for training, plain ones for evaluation."""

from functools import partial

import kornia.augmentation as augment
import torch.nn.functional as F
from torch import nn

from study.data.pictures import ImageFiles


class Augment(nn.Module):
    """(N, C, H, W) uint8, or N ImageFiles, to (N, C, size, size) float in [0, 1]: a random crop of at least `smallest` of the
    area, its width to height within `ratio`; mirrored half the time where the dataset allows it; brightness and contrast changed
    by up to `jitter`; each image has its own draw, from torch's generator.

    With `colour` grey images become three channels; 80 % of images have brightness, contrast and saturation changed by up to 0.4
    and hue by up to 0.1, and 20 % are made grey.
    """

    def __init__(self, size, flips, smallest=0.5, ratio=(0.8, 1.25), jitter=0.0, colour=False):
        super().__init__()
        self.crop_settings = {"size": (size, size), "scale": (smallest, 1.0), "ratio": ratio}
        self.crop, self.colour, steps = augment.RandomResizedCrop(**self.crop_settings), colour, []
        if flips:
            steps.append(augment.RandomHorizontalFlip())
        if jitter:
            span = (1 - jitter, 1 + jitter)
            steps += [augment.RandomBrightness(span, p=1.0), augment.RandomContrast(span, p=1.0)]
        if colour:
            steps += [augment.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), augment.RandomGrayscale(p=0.2)]
        self.steps = nn.Sequential(*steps)

    def forward(self, images):
        if isinstance(images, ImageFiles):
            return self.after_crop(images.read(self.file_crop()))
        return self._rest(self.crop(images.float() / 255))

    def file_crop(self):
        """The same crop of a picture at its full resolution, as a function of one picture."""
        from torchvision.transforms.v2 import RandomResizedCrop  # here, not above: images in memory do without

        return RandomResizedCrop(**self.crop_settings)

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
