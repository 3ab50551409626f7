"""The package by itself: what it needs, what it carries, and that it works wherever it lies."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import supcl

ROOT = Path(__file__).resolve().parents[2]
EVERY_LOSS = """
import torch, supcl
z, y = torch.randn(8, 4, requires_grad=True), torch.arange(8) % 3
q = torch.nn.functional.one_hot(y, 3).float()
for loss in (supcl.supcon_loss, supcl.schane_loss, supcl.tcl_loss):
    loss(z, y).backward()
supcl.genscl_loss(z, q).backward()
supcl.clce_loss(q, z, y).backward()
print(supcl.__file__)
"""


def run_elsewhere(program, source, folder):
    """Runs a program in a folder outside the repository, with source on Python's path and nothing of the environment's."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": str(source)}
    run = subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_losses_run_where_nothing_but_torch_can_be_imported(tmp_path):
    absent = ["numpy", "study", "sklearn", "pandas", "tqdm", "pytorch_metric_learning"]
    program = f"import sys\nsys.modules |= dict.fromkeys({absent})\n{EVERY_LOSS}"
    assert run_elsewhere(program, ROOT / "src", tmp_path) == str(ROOT / "src" / "supcl" / "__init__.py")


def test_the_losses_run_from_a_zip(tmp_path):
    """As a wheel is one: nothing is read from files beside the modules, and nothing asks Git."""
    with zipfile.ZipFile(tmp_path / "supcl.zip", "w") as archive:
        for path in (ROOT / "src" / "supcl").glob("*.py"):
            archive.write(path, f"supcl/{path.name}")
    assert run_elsewhere(EVERY_LOSS, tmp_path / "supcl.zip", tmp_path).startswith(str(tmp_path / "supcl.zip"))


def test_no_module_of_the_losses_imports_more_than_torch_and_python():
    for path in (ROOT / "src" / "supcl").glob("*.py"):
        imported = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
        assert imported <= {"torch", "supcl"} | sys.stdlib_module_names, path.name


def test_the_project_needs_torch_alone_and_states_its_version_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (needed,) = project["project"]["dependencies"]
    assert re.fullmatch(r"torch>=\d+\.\d+", needed)
    assert "version" in project["project"]["dynamic"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "supcl.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", supcl.__version__)
    assert f"version: {supcl.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_types_are_announced_to_type_checkers():
    assert (Path(supcl.__file__).parent / "py.typed").exists()


def test_every_direct_dependency_is_in_the_lock():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    wanted = project["dependencies"] + [x for extra in project["optional-dependencies"].values() for x in extra]
    assert set(project["optional-dependencies"]) == {"study", "dev"}
    assert [x for x in wanted if re.split("[<>=]", x)[0] not in locked] == []


@pytest.mark.parametrize("folder", ["supcl", "study"])
def test_a_package_says_in_three_lines_what_lives_there_and_what_does_not(folder):
    """Three sentences or so before the first import, as a reader sees them first."""
    text = (ROOT / "src" / folder / "__init__.py").read_text()
    docstring = text.split('"""')[1]
    assert text.startswith('"""') and 2 <= len([line for line in docstring.splitlines() if line]) <= 4
