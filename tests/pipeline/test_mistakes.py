"""A mistake in the parameters stops commands before they remove or write anything."""

import pytest
import yaml
from typed import typed

from study import notebooks, pipeline
from study.notebooks import NOTEBOOKS
from study.paths import ROOT


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """A project of its own with toy parameters, in which results of every stage lie, as Git has them. Nothing was run."""
    folder = tmp_path_factory.mktemp("mistakes") / "project"
    pipeline.copy_project(folder)
    (folder / "data").mkdir()
    (folder / ".dvc" / "config.local").unlink()
    toy = {key: notebooks.defaults(key) | {"results": "results"} for key in NOTEBOOKS}
    (folder / "params.yaml").write_text(yaml.safe_dump(toy))
    for key in NOTEBOOKS:
        (folder / "results" / key).mkdir(parents=True, exist_ok=True)
        (folder / "results" / key / "runs.csv").write_text("dear to someone")
    (folder / "paper" / "paper.pdf").write_text("dear to someone")
    typed(folder, "git init --quiet && git add --all --force && git commit --quiet --message results")
    return folder


@pytest.fixture
def project(unchanged):
    yield unchanged
    typed(unchanged, "git checkout --quiet . && git clean --quiet -fd")


def change(project, key, **values):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params[key] |= values
    (project / "params.yaml").write_text(yaml.safe_dump(params))


MISTAKES = (
    "clce: temperatur is no parameter of this notebook; did you mean temperature?",
    "pitfalls: draws is 0; expected a whole number >= 1.",
)


@pytest.mark.parametrize(
    "command",
    [
        "python -m study.pipeline check", "python -m study.pipeline run data", "dvc repro data",
        "dvc repro --force --single-item paper", "dvc exp run --set-param pitfalls.watched_images=0 --single-item cost",
    ],
)  # fmt: skip
def test_mistakes_of_any_notebook_stop_every_command_with_results_as_they_were(project, command):
    change(project, "clce", temperatur=0.4)
    change(project, "pitfalls", draws=0)
    printed = typed(project, command, fails=True)
    assert all(mistake in printed for mistake in MISTAKES) and "Traceback" not in printed
    assert typed(project, "git status --porcelain --untracked-files=no").split() == ["M", "params.yaml"]


def test_a_file_that_is_no_yaml_is_named(project):
    (project / "params.yaml").write_text("supcon: {shots: [20}")
    assert "params.yaml cannot be read as YAML" in typed(project, "python -m study.pipeline check", fails=True)


def test_right_parameters_pass_in_silence(project):
    assert typed(project, "python -m study.pipeline check") == ""


def test_papermill_fails_on_mistakes_before_the_notebook_writes_anything(project, tmp_path):
    options = "-p results mine -p validation_siz 200 -p seeds 0"
    printed = typed(project, f"papermill notebooks/01_data.ipynb {tmp_path}/01.ipynb {options}", fails=True)
    assert "data: validation_siz is no parameter of this notebook; did you mean validation_size?" in printed
    assert "data: seeds is 0; expected a whole number >= 2." in printed and not (project / "mine").exists()


def test_make_repro_checks_before_dvc_runs():
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile[makefile.index("\nrepro:") : makefile.index("\nsmoke:")]
    assert 0 < recipe.index("study.pipeline check") < recipe.index("dvc repro")
