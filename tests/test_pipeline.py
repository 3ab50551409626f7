"""The whole pipeline at toy size, in a copy of the project: complete, repeatable, and re-run only where something changed."""

import json
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
import yaml

from supcl import pipeline
from supcl.paths import ROOT

METHODS = {"CE", "SupCon", "SCHaNe", "CLCE", "GenSCL"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke") / "project"
    pipeline.smoke(folder)
    return folder


@pytest.fixture
def restored(project):
    """The project, with sources and parameters put back after the test."""
    files = [project / "params.yaml", *project.glob("notebooks/*"), *project.glob("src/supcl/*.py")]
    before = {file: file.read_bytes() for file in files}
    yield project
    for file, content in before.items():
        file.write_bytes(content)


def stages_run(printed):
    return set(re.findall(r"Running stage '([^']+)'", printed))


def stale(folder):
    """Stages whose own dependencies changed, and those that read what these write."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    run = subprocess.run(command, cwd=folder, env=pipeline.environment(folder), capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def test_it_makes_the_table_for_every_method(project):
    table = pd.read_csv(project / "results" / "table.csv")
    assert set(table.method) == METHODS
    assert table["mean"].between(0, 100).all()
    assert (table[table.method == "CE"].difference == 0).all()


def test_every_row_of_the_long_table_says_how_it_was_made(project):
    runs = pd.concat([pd.read_csv(path) for path in (project / "results" / "runs").glob("*.csv")])
    assert list(runs.columns) == ["method", "variant", "dataset", "shots", "seed", "metric", "value", "seconds", "settings"]
    assert runs.notna().all().all()
    keys = {"encoder", "weights", "image_size", "learning_rate", "epochs", "batch_size", "evaluate_on"}
    assert all(keys <= json.loads(settings).keys() for settings in runs.settings)


def test_every_method_tries_the_same_number_of_settings(project):
    trials = {}
    for path in (project / "results" / "runs").glob("*.csv"):
        runs = pd.read_csv(path)
        runs = runs[runs.variant.str.startswith("trial") & (runs.metric == "accuracy")]
        trials |= runs.groupby("method").size().to_dict()
        assert all(json.loads(settings)["evaluate_on"] == "validation" for settings in runs.settings)
    assert trials.keys() == METHODS and len(set(trials.values())) == 1


def test_tuning_and_reported_seeds_are_apart(project):
    runs = pd.concat([pd.read_csv(path) for path in (project / "results" / "runs").glob("*.csv")])
    tuning = runs.variant.str.startswith("trial")
    assert not set(runs[tuning].seed) & set(runs[~tuning].seed)


def test_it_builds_the_paper(project):
    assert (project / "paper" / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_executed_notebooks_are_small_and_complete(project):
    for name in pipeline.NOTEBOOKS:
        path = project / "results" / "notebooks" / f"{name}.ipynb"
        assert path.stat().st_size < 1_000_000
        assert all(cell.execution_count for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")


def test_again_with_nothing_changed_it_runs_nothing(project):
    assert not stages_run(pipeline.repro(project))


def test_the_same_run_twice_gives_the_same_numbers_pictures_and_notebook(project):
    def produced():
        runs = pd.read_csv(project / "results" / "runs" / "05_clce.csv").drop(columns="seconds")
        pictures = {path.name: path.read_bytes() for path in (project / "results" / "figures").glob("05_*")}
        return runs.to_csv(), pictures, (project / "results" / "notebooks" / "05_clce.ipynb").read_bytes()

    before = produced()
    assert "05_clce" in stages_run(pipeline.repro(project, "--force", "--single-item", "05_clce"))
    assert produced() == before
    pipeline.repro(project)


def test_saving_a_notebook_without_its_outputs_reruns_no_training(project):
    path = project / "notebooks" / "03_supcon.ipynb"
    before = path.read_bytes()
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)
    assert stages_run(pipeline.repro(project)) == {"clean"}
    path.write_bytes(before)
    pipeline.repro(project)


def test_editing_a_notebook_reruns_what_depends_on_it_and_nothing_else(restored):
    path = restored / "notebooks" / "06_genscl.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source += "\n\nOne more sentence."
    nbformat.write(notebook, path)
    assert stages_run(pipeline.repro(restored)) == {"clean", "06_genscl", "07_analysis", "paper"}


def test_a_comment_in_the_parameters_makes_nothing_stale(restored):
    before = stale(restored)
    params = restored / "params.yaml"
    params.write_text("# a comment\n" + params.read_text())
    assert stale(restored) == before


def test_a_parameter_makes_its_own_stage_stale(restored):
    before = stale(restored)
    params = yaml.safe_load((restored / "params.yaml").read_text())
    params["05_clce"]["temperature"] = 0.4
    (restored / "params.yaml").write_text(yaml.safe_dump(params))
    assert stale(restored) - before == {"05_clce", "paper"}  # the paper states the settings


def test_a_module_makes_stale_only_the_stages_that_import_it(restored):
    before = stale(restored)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for module in ("losses", "report"):
        path = restored / "src" / "supcl" / f"{module}.py"
        path.write_text(path.read_text() + "\n# a comment\n")
        importers = {name for name, stage in stages.items() if f"src/supcl/{module}.py" in stage.get("deps", [])}
        assert importers and stale(restored) - before == importers
        path.write_text((ROOT / "src" / "supcl" / f"{module}.py").read_text())


def test_unknown_parameters_stop_before_anything_runs(restored):
    params = yaml.safe_load((restored / "params.yaml").read_text())
    params["05_clce"]["temperatur"] = 0.4
    (restored / "params.yaml").write_text(yaml.safe_dump(params))
    before = (restored / "results" / "runs" / "05_clce.csv").read_bytes()
    command = [sys.executable, "-m", "supcl.pipeline", "run", "05_clce"]
    stopped = subprocess.run(command, cwd=restored, env=pipeline.environment(restored), capture_output=True, text=True)
    assert stopped.returncode and "only in params.yaml ['temperatur']" in stopped.stderr
    assert (restored / "results" / "runs" / "05_clce.csv").read_bytes() == before


def test_smoke_refuses_a_folder_with_other_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear to someone")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").touch()  # so it may be a project unpacked from an archive
    with pytest.raises(FileExistsError, match="other files"):
        pipeline.smoke(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "dear to someone"
