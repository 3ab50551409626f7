"""`make data`: Fashion-MNIST into data/, from the first source whose bytes are those data.dvc lists. With PROFILE=colour it is
CIFAR-10, from a packed copy beside the project or from the network.

Nothing is put in place before its md5 and size are checked (CIFAR-10 is checked when it is read), and a file that is already
there is never overwritten.
"""

import gzip
import hashlib
import os
import queue
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import yaml

from study.data import files, packed, sets
from study.paths import ROOT, data_folder

MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # the one torchvision downloads from
PACKAGE = "dataset-fashion-mnist"
PATIENCE = 4  # seconds a host has to answer at all; a download, once it runs, may take as long as it needs


class FetchError(RuntimeError):
    """The data could not be fetched, or must not be; the message says what to do."""


def fetch(dvc_file=ROOT / "data.dvc", sources=None):
    """Put the files that dvc_file lists where it says, in a folder beside it; only those that are not there yet.

    sources  list of (name, function(folder)), asked in this order until one delivers. The function gets an empty folder,
             leaves the files somewhere in it and returns where, or raises. None: DVC remote, torchvision, Debian.
    Raises FetchError where a file that is there differs from dvc_file, or no source delivers; no file is touched then.
    """
    outs = yaml.safe_load(dvc_file.read_text())["outs"]
    expected = {dvc_file.parent / out["path"]: (out["md5"], out["size"]) for out in outs}
    there = [path for path in expected if path.exists()]
    changed = [difference for path in there if (difference := _difference(path, expected[path]))]
    if changed:
        raise FetchError(
            f"{there[0].parent} is not what {dvc_file.name} lists. Nothing was touched.\n  " + "\n  ".join(changed) + "\n"
            "Move it away and run `make data` again or, if the change is intended, `dvc commit data.dvc`."
        )
    missing = [path for path in expected if path not in there]
    if not missing:
        print(f"data: all {len(expected)} files are there and match {dvc_file.name}.")
        return

    def put_in_place(delivered):
        for path in missing:
            if difference := _difference(delivered / path.name, expected[path]):
                raise RuntimeError(difference)
        for path in missing:
            os.replace(delivered / path.name, path)
            print(f"  {path}")

    sources = default_sources(dvc_file.parent, missing) if sources is None else sources
    if failures := _ask(sources, missing[0].parent, put_in_place):
        raise FetchError("no source has the data.\n  " + "\n  ".join(failures) + "\n" + _by_hand(missing))


def fetch_cifar_10(folder, shared, sources=None):
    """Put CIFAR-10 into folder, unless it is there in any of its forms, and read it once, which checks it and decodes JPEG files.

    shared   a folder that may hold the packed copy of the pictures.
    sources  see fetch. None: the packed copy, torchvision.
    Raises FetchError that says the three ways to get it; ValueError or OSError where what is there is incomplete or broken.
    """
    name = "cifar-10"
    if not files.is_there(name, folder):

        def put_in_place(delivered):
            (found,) = (path for path in delivered.iterdir() if path.name in (packed.ARCHIVE, files.SOURCES[name].folder))
            os.replace(found, folder / found.name)

        both = [(str(shared / packed.ARCHIVE), partial(_copied, shared / packed.ARCHIVE)), ("torchvision", _cifar_10)]
        if failures := _ask(both if sources is None else sources, folder, put_in_place):
            raise FetchError(
                "no source has CIFAR-10.\n  " + "\n  ".join(failures) + "\nThree ways to get it, and then this command again:\n"
                f"  with a network, nothing but this command: torchvision downloads it to {folder}\n"
                f"  git clone {packed.URL} {folder / packed.CLONE}, at d7d05618\n"
                f"  the packed copy of that repository, {packed.ARCHIVE}, in {folder} or in {shared}"
            )
    print(f"data: {sets.load(f'{name}:{folder}').source}, complete in {folder}.")


def _ask(sources, folder, put_in_place):
    """Ask the sources for what is missing in folder until one delivers something that put_in_place takes. Returns what was wrong
    with each of them, and nothing if one delivered."""
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    for name, source in sources:
        print(f"{name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:  # same file system, so a move is atomic
            try:
                put_in_place(source(Path(temporary)))
                return []
            except Exception as error:  # whatever is wrong with this source, the next may work
                reason = " ".join(str(error).split())[:400]
                failures.append(f"{name}: {reason}")
                print(f"  no: {reason}", flush=True)
    return failures


def default_sources(root, missing):
    """The sources of the paths missing from the repository at root, in the order they are asked."""
    return [("DVC remote", partial(_dvc, root, missing)), ("torchvision", _torchvision), (f"Debian package {PACKAGE}", _debian)]


def _difference(path, expected):
    """What distinguishes the file from the expected (md5, size); None if nothing does."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest(), path.stat().st_size
    if found != expected:
        return "{}: expected md5 {}, {} bytes; found md5 {}, {} bytes.".format(path.name, *expected, *found)


def _by_hand(missing):
    return (
        "By hand: download, `gunzip`, move to\n"
        f"  {missing[0].parent}\n"
        "and run `make data` again, which checks the files:\n"
        + "".join(f"  {MIRROR}{path.name}.gz\n" for path in missing)
        + f"Also at https://github.com/zalandoresearch/fashion-mnist (data/fashion), and in Debian's {PACKAGE}."
    )


def _dvc(root, missing, folder):
    dvc = [sys.executable, "-m", "dvc"]
    remotes = _run([*dvc, "remote", "list"], root)
    if not remotes:
        raise RuntimeError("no remote is configured.")
    _probe(remotes)
    for path in missing:  # get, not pull: it leaves data/ and the cache alone, and needs no git
        _run([*dvc, "get", ".", path.relative_to(root), "-o", folder / path.name], root)
    return folder


def _torchvision(folder):
    _probe(MIRROR)
    from torchvision.datasets import FashionMNIST  # takes seconds, so only when there is something to download

    socket.setdefaulttimeout(60)  # torchvision sets none, and would wait forever on a connection gone silent
    return Path(FashionMNIST(folder, download=True).raw_folder)


def _copied(archive, folder):
    shutil.copy(archive, folder)
    return folder


def _cifar_10(folder):
    _probe(files.SOURCES["cifar-10"].url)
    from torchvision.datasets import CIFAR10

    socket.setdefaulttimeout(60)
    CIFAR10(folder, download=True)
    return folder


def _debian(folder):
    apt = ["apt-get", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"]
    try:
        uris = _run([*apt, "download", "--print-uris", PACKAGE], folder)
    except RuntimeError:  # not in the package lists, or there are none. Lists of our own need no root
        (folder / "lists/partial").mkdir(parents=True)
        apt += ["-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache", "-o", "APT::Sandbox::User=root"]
        _probe_apt(_run([*apt, "update", "--print-uris"], folder))
        _run([*apt, "update"], folder)
        uris = _run([*apt, "download", "--print-uris", PACKAGE], folder)
    _probe_apt(uris)
    _run([*apt, "download", PACKAGE], folder)
    return _unpack(next(folder.glob("*.deb")), folder)


def _probe_apt(uris):
    if not _run(["apt-config", "dump", "--format", "%v", "Acquire::http::Proxy"], "."):  # a proxy only apt knows is left to it
        _probe(uris)


def _unpack(deb, folder):
    _run(["dpkg", "-x", deb, folder], folder)
    unpacked = folder / "usr/share/datasets/fashion-mnist"
    for compressed in unpacked.glob("*.gz"):
        with gzip.open(compressed) as source, compressed.with_suffix("").open("wb") as target:
            shutil.copyfileobj(source, target)
    return unpacked


def _probe(text):
    """Raise unless the host of the first web address in text answers, whatever it says, within PATIENCE seconds."""
    match = re.search(r"https?://[^'\s]+", text)
    if not match:
        return  # a local folder, say
    url, answer = match[0], queue.SimpleQueue()

    def ask():
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            answer.put(None)
        except Exception as error:
            reason = getattr(error, "reason", error)
            answer.put(None if isinstance(error, urllib.error.HTTPError) or isinstance(reason, ssl.SSLError) else reason)

    threading.Thread(target=ask, daemon=True).start()  # a DNS look-up has no timeout
    try:
        failure = answer.get(timeout=PATIENCE)
    except queue.Empty:
        failure = f"no answer in {PATIENCE} s"
    if failure:
        raise RuntimeError(f"{url} cannot be reached: {failure}.")


def _run(command, folder):
    """The command's output; RuntimeError with its own error line where it fails."""
    if not shutil.which(command[0]):
        raise RuntimeError(f"{command[0]} is not installed.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(next((line for line in lines if line.startswith("E")), lines[-1]))  # "E: ..." or "ERROR: ..."
    return done.stdout.strip()


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case ["laptop"] | []:
                fetch()
            case ["colour"]:
                fetch_cifar_10(data_folder(), ROOT.parent / "shared" / "data")
            # the data sets of other profiles are looked for when they are read
    except (FetchError, OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
