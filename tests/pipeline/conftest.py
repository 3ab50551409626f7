"""One run of the whole pipeline at toy size, in a Git repository of its own, for all tests that look at its results."""

import shutil

import pytest
from typed import RUNS, typed

from study import pipeline


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke") / "project"
    shutil.rmtree(RUNS, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUPCL_RUNS", str(RUNS))
        pipeline.smoke(folder)
    (folder / ".dvc" / "config.local").unlink()  # from here on it is a Git repository
    typed(folder, f"git init --quiet && echo {pipeline.MARKER} >> .git/info/exclude")
    typed(folder, "git add --all && git commit --quiet --message smoke")
    return folder


@pytest.fixture
def restored(project):
    """The project, put back as it was after the test."""
    yield project
    typed(project, "git checkout --quiet . && git clean --quiet -fd")
    (project / "results" / "colour").mkdir(exist_ok=True)  # Git keeps no empty folder


@pytest.fixture
def clone(project, tmp_path):
    """A fresh clone of the project: what Git holds, without data, arrays and DVC's cache."""
    typed(tmp_path, f"git clone --quiet {project} clone")
    assert not (tmp_path / "clone" / "results" / "arrays").exists()
    return tmp_path / "clone"
