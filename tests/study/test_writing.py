"""A file is whole or absent, and an error of the disk says which."""

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from small_runs import FEW, outcome

from study import figures, writing
from study.runs.results import write_results
from study.runs.setup import Setup
from study.training.checkpoint import Checkpoint
from study.training.compute import Place
from study.writing import LEFT_AFTER, whole, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "table.csv"
    with whole(target) as unfinished:
        unfinished.write_text("a\n")
        assert not target.exists() and unfinished.parent == target.parent and unfinished.suffix == ".csv"
    assert target.read_text() == "a\n" and names(target.parent) == ["table.csv"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_after_an_error_the_earlier_file_is_there_and_nothing_else(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("earlier")
    with pytest.raises(ZeroDivisionError), whole(target) as unfinished:
        unfinished.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "earlier" and names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_an_error_of_the_disk_names_the_file(tmp_path, number):
    target = tmp_path / "table.csv"
    target.write_text("earlier")
    with pytest.raises(OSError, match=f"{os.strerror(number)}.*{target}") as raised, whole(target) as unfinished:
        unfinished.write_text("half")
        raise OSError(number, os.strerror(number))
    assert raised.value.errno == number and target.read_text() == "earlier" and names(tmp_path) == ["table.csv"]


def test_an_error_of_something_else_keeps_its_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), whole(tmp_path / "table.csv"):
        (tmp_path / "elsewhere").read_text()


@pytest.fixture
def full_disk(monkeypatch):
    """Everything that is written whole goes to a disk without space."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")

    def beside(path):
        link = path.with_name("link" + path.suffix)
        link.symlink_to("/dev/full")
        return link

    monkeypatch.setattr(writing, "beside", beside)


SETUP = {"dataset": "digits", "encoder": "test_resnet", "weights": "none", "image_size": 32, "batch_size": 8, "weight_decay": 0.0}


def write_table(folder):
    run = outcome(replace(FEW, variant="main"), {"accuracy": 1.0}, predictions=np.arange(9))
    write_results(folder, (Setup(shared="nowhere", **SETUP), [run]))


def write_figure(folder):
    fig = plt.figure()
    figures.save(fig, folder, "runs")
    plt.close(fig)


def write_checkpoint(folder):
    Checkpoint(folder / "runs.pt", Place(0, 1, torch.device("cpu")), {}, {"model": torch.nn.Linear(99, 99)}).save([])


WRITERS = {
    "runs.csv": write_table, "runs.png": write_figure, "runs.pt": write_checkpoint,
    "runs.txt": lambda folder: write_text(folder / "runs.txt", "text"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_on_a_full_disk_the_file_is_named_and_an_earlier_one_stays(tmp_path, full_disk, name):
    (tmp_path / name).write_bytes(b"earlier")
    with pytest.raises(OSError, match=f"No space left on device.*{tmp_path / name}"):
        WRITERS[name](tmp_path)
    assert (tmp_path / name).read_bytes() == b"earlier" and names(tmp_path) == [name]


@pytest.mark.parametrize("age, left", [(LEFT_AFTER + 60, False), (0, True)], ids=["a killed process", "one that may still write"])
def test_what_a_killed_process_left_is_removed_at_the_next_write(tmp_path, age, left):
    script = "import os, sys\nfrom study.writing import whole\nwith whole(sys.argv[1]) as u:\n u.touch(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, tmp_path / "table.csv"], env=os.environ | {"PYTHONPATH": ":".join(sys.path)})
    (unfinished,) = tmp_path.iterdir()
    assert unfinished.name.startswith(".unfinished-")
    os.utime(unfinished, (time.time() - age,) * 2)
    write_text(tmp_path / "table.csv", "whole")
    assert unfinished.exists() == left
