"""Images by the batch, from memory or from files. Sets too large for memory stay on disk: worker processes read them ahead while
a model trains, threads while it is measured."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """N pictures on disk, of any size and format that Pillow reads, seen as three colours. They stand where a tensor (N, C, H, W)
    of images may: len, a part by indices (n,), a mask (N,) or a slice, and split."""

    paths: np.ndarray  # (N,) bytes: one block of memory, which worker processes share; of str objects each would make a copy

    @classmethod
    def of(cls, paths):
        return cls(np.array([os.fsencode(path) for path in paths]))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, chosen):
        return replace(self, paths=self.paths[chosen if isinstance(chosen, slice) else np.asarray(chosen)])

    def split(self, size):
        return [self[start : start + size] for start in range(0, len(self), size)]

    def read(self, crop):
        """(N, 3, H, W) uint8: crop(picture) of each, on torch's number of threads; all crops must have one size. Random crops are
        drawn in order."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            return torch.stack([_pixels(crop(picture)) for picture in pool.map(open_picture, self.paths)])

    def squares(self, side):
        """(N, 3, side, side) uint8: whole pictures, squashed if they are not square, as in SCHaNe's release (CL_datasets.py, test
        images of its transfer sets)."""
        return self.read(lambda picture: picture.resize((side, side), Image.Resampling.BILINEAR))


def open_picture(path):
    """The picture at path in RGB. Raises OSError that names the file."""
    path = os.fsdecode(path)
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise OSError(f"{path} cannot be read as a picture: {error}. Replace or remove it.") from error


def batches(images, labels, order, view, views, seed, device, workers):
    """For each step of training, yield its `views` augmented views (B, ...), each made when it is asked for, and labels (B,), on
    the device.

    images  (N, ...) tensor, or ImageFiles; labels (N,).
    order   an iterable of (step, indices (B,) of the step's images); from the middle on, it gives the same steps as the whole.
    view    images (B, ...) -> a view. From files, a view that has a `file_crop` (as data.Augment has) is cut out of the picture
            by worker processes, ahead of the step, and only its `after_crop` is left to do here, on the device.
    workers of files: so many processes; 0: none but this one.
    seed    of the workers' crops. They depend on seed, step and image alone: not on who reads it, nor on torch's random numbers.
    """
    if isinstance(images, ImageFiles) and hasattr(view, "file_crop"):
        for crops, chosen in _cropped(images, order, view.file_crop(), views, seed, workers):
            yield map(view.after_crop, crops.to(device).unbind(1)), labels[chosen].to(device)
    else:
        for _, chosen in order:
            batch = images[chosen]
            batch = batch.to(device) if torch.is_tensor(batch) else batch
            yield map(view, [batch] * views), labels[chosen].to(device)


def _cropped(files, order, crop, views, seed, workers):
    """Crops (B, V, 3, S, S) and indices (B,) for each step of order, from worker processes."""
    wanted = ([(step, index) for index in chosen.tolist()] for step, chosen in order)
    own = torch.Generator().manual_seed(seed)  # the loader's; without one it would draw from torch's
    start = ("fork" if sys.platform == "linux" else "spawn") if workers else None  # joblib's own way cannot start them
    crops = _Crops(files, crop, views, seed)
    return DataLoader(crops, batch_sampler=wanted, num_workers=workers, multiprocessing_context=start, generator=own)


@dataclass(frozen=True)
class _Crops(torch.utils.data.Dataset):
    files: ImageFiles
    crop: torch.nn.Module
    views: int
    seed: int

    def __getitem__(self, wanted):
        step, index = wanted
        picture = open_picture(self.files.paths[index])
        with torch.random.fork_rng(devices=[]):
            own = int(np.random.SeedSequence([self.seed, step, index]).generate_state(1)[0])
            torch.default_generator.manual_seed(own)  # the processor's alone: torch.manual_seed would set a GPU's as well
            return torch.stack([_pixels(self.crop(picture)) for _ in range(self.views)]), index


def _pixels(picture):
    """(3, H, W) uint8 of an RGB picture."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
