"""CIFAR-10 as JPEG files, three of each class for training and two for testing, instead of 5,000 and 1,000."""

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from study.data import packed


@dataclass
class SmallCifar:
    clone: Path  # a folder with train/, test/ and other files, as the public repository has them

    def pack(self, folder):
        """The archive in folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / packed.ARCHIVE, "w:gz") as tar:
            for path in sorted(self.clone.iterdir()):
                tar.add(path, path.name)
        return folder / packed.ARCHIVE


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    clone, rng = tmp_path / "somewhere" / packed.CLONE, np.random.default_rng(0)
    monkeypatch.setattr(packed, "COUNTS", {"train": 3, "test": 2})
    for part, count in packed.COUNTS.items():
        for name in packed.CLASSES:
            (clone / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                Image.fromarray(pixels).save(clone / part / name / f"{k:04d}.jpg")
    (clone / "README.md").write_text("The pictures of CIFAR-10")
    names = sorted(path.relative_to(clone).as_posix() for path in clone.rglob("*.jpg"))
    content = b"".join(name.encode() + (clone / name).read_bytes() for name in names)
    monkeypatch.setattr(packed, "SHA256", hashlib.sha256(content).hexdigest())
    return SmallCifar(clone)
