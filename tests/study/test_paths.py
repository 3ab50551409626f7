"""The project is found from its source, or from where the user runs a copy that is installed elsewhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from study import paths

SOURCE = Path(paths.__file__).parent


@pytest.fixture
def installed(tmp_path):
    """A folder on the import path with the package copied into it, as pip does without -e."""
    shutil.copytree(SOURCE, tmp_path / "site-packages" / "study", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site-packages"


def answer(installed, folder, code, **variables):
    """What Python prints, of the installed copy, in a working directory; its last line of errors where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "SUPCL_DATA"} | variables
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment | {"PYTHONPATH": str(installed)}, capture_output=True, text=True
    )
    return run.stdout.strip() or run.stderr.strip().splitlines()[-1]


ROOT = "from study.paths import ROOT; print(ROOT)"
DATA = "from study.paths import data_folder; print(data_folder())"


def test_the_source_s_own_project_goes_before_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert paths.project() == SOURCE.parents[1] and (paths.ROOT / "pyproject.toml").exists()


def test_an_installed_copy_finds_the_project_it_is_run_in(installed, tmp_path):
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    (tmp_path / "project" / "dvc.yaml").touch()
    for folder in (tmp_path / "project", tmp_path / "project" / "notebooks"):
        assert answer(installed, folder, ROOT) == str(tmp_path / "project")
        assert answer(installed, folder, DATA) == str(tmp_path / "project" / "data")


def test_an_installed_copy_outside_of_a_project_says_what_to_do(installed, tmp_path):
    said = answer(installed, tmp_path, ROOT)
    assert said.startswith("FileNotFoundError: the project's folder is not known") and "pip install -e ." in said
    assert "in the environment variable SUPCL_DATA" in answer(installed, tmp_path, DATA)


def test_the_folder_of_the_data_can_be_named(installed, tmp_path):
    assert answer(installed, tmp_path, DATA, SUPCL_DATA="~/sets", HOME=str(tmp_path)) == str(tmp_path / "sets")


def test_data_sets_that_need_no_folder_load_outside_of_a_project(installed, tmp_path):
    code = "from study import data; print(len(data.load('digits').test)); data.load('fashion-mnist')"
    assert answer(installed, tmp_path, code) == "450"
    missing = answer(installed, tmp_path, "from study import data; data.load('fashion-mnist')", SUPCL_DATA="sets")
    assert "sets/train-images-idx3-ubyte is missing" in missing


def test_other_names_are_no_part_of_the_module():
    with pytest.raises(AttributeError, match="no attribute 'RESULTS'"):
        paths.RESULTS  # noqa: B018
