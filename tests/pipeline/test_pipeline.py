"""The whole pipeline at toy size: complete, repeatable, and re-run only where something changed."""

import json
import os

import nbformat
import networkx
import pandas as pd
import pytest
import yaml
from dvc.repo import Repo
from typed import stages_run, stale, typed

from study import notebooks, pipeline
from study.analysis.decisions import VERDICTS
from study.methods import METHODS
from study.notebooks import NOTEBOOKS
from study.paths import ROOT
from study.registration import load_claims
from study.runs.results import COLUMNS


def rerun_after(stage):
    """The stage and those that read, directly or through others, what it writes."""
    repo = Repo(ROOT)
    (first,) = [node for node in repo.index.graph if node.addressing == stage]
    return {node.addressing for node in networkx.ancestors(repo.index.graph, first)} | {stage}  # edges lead to what is read


def all_runs(project):
    return pd.concat([pd.read_csv(path) for path in (project / "results").glob("*/runs.csv")])


# What it makes


def test_it_makes_the_table_for_every_method_and_floor(project):
    table = pd.read_csv(project / "results" / "accuracy.csv")
    assert set(METHODS) < set(table.method) and {"fine-tuning", "scratch"} == set(table.regime)
    assert table["mean"].between(0, 100).all()
    assert set(table.read_out) == {"linear probe", "own classifier", "nearest neighbours", "as it is"}


def test_it_judges_the_claims_of_every_cell_that_there_is(project):
    judged = pd.read_csv(project / "results" / "claims.csv").set_index("id").verdict
    claims, _ = load_claims()
    assert judged.index.tolist() == [claim.id for claim in claims if claim.cell == "scratch/full"]
    assert set(judged) <= set(VERDICTS)


def test_every_row_of_the_long_table_says_how_it_was_made(project):
    runs = all_runs(project)
    assert list(runs.columns) == COLUMNS
    assert runs.drop(columns=["shots", "epoch"]).notna().all().all()  # few-shot runs alone have shots, epochs' metrics an epoch
    assert (runs.shots.notna() == (runs.trained_on == "few-shot")).all()
    keys = {"encoder", "weights", "image_size", "learning_rate", "epochs", "batch_size", "evaluate_on"}
    assert all(keys <= json.loads(settings).keys() for settings in runs.settings)


def test_every_method_tries_the_same_number_of_settings(project):
    trials = all_runs(project).query("variant == 'trial' and metric == 'accuracy'")
    assert set(trials.method) == set(METHODS)
    assert all(rows.groupby("method").size().nunique() == 1 for _, rows in trials.groupby("regime"))


def test_every_setting_that_is_tried_runs_on_every_draw(project):
    trials = all_runs(project).query("variant == 'trial' and metric == 'validation_accuracy'")
    seeds = trials.groupby(["regime", "method", "settings"]).seed.apply(sorted)
    assert all(each == list(range(4)) for each in seeds)


def test_it_builds_the_paper(project):
    assert (project / "paper" / "paper.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("key", NOTEBOOKS)
def test_executed_notebooks_and_what_lies_beside_them_are_small_and_complete(project, key):
    folder = project / "results" / key
    assert all(path.stat().st_size < 1_000_000 for path in folder.rglob("*"))
    cells = nbformat.read(folder / f"{key}.ipynb", 4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")


def test_the_same_run_twice_gives_the_same_numbers_pictures_and_notebook(restored):
    def produced():
        runs = pd.read_csv(restored / "results" / "supcon" / "runs.csv").drop(columns="seconds")
        others = [path for path in sorted((restored / "results" / "supcon").rglob("*.*")) if path.name != "runs.csv"]
        return runs.to_csv(), {path.name: path.read_bytes() for path in others}

    before = produced()
    left = restored / "results" / "supcon" / "left.csv"
    left.write_text("what an earlier version of the notebook wrote")
    os.utime(left, (0, 0))
    printed = pipeline.repro(restored, "--force", "--single-item", "method@supcon", SUPCL_RUNS="off")  # executed again
    assert stages_run(printed) == {"method@supcon"}
    assert produced() == before


# What makes what stale


@pytest.fixture(scope="module")
def dvc_output(project):
    """What each of these commands prints."""
    return {command: typed(project, command) for command in ("dvc status", "dvc metrics show --md", "dvc plots show")}


def test_again_with_nothing_changed_it_runs_nothing_and_leaves_the_tree_clean(project, dvc_output):
    assert not stages_run(pipeline.repro(project))
    assert "up to date" in dvc_output["dvc status"]
    assert typed(project, "git status --porcelain") == ""


def test_saving_a_notebook_with_other_outputs_reruns_no_training(restored):
    path = restored / "notebooks" / "03_supcon.ipynb"
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="other")], 7
    nbformat.write(notebook, path)
    assert stages_run(pipeline.repro(restored)) == {"clean"}


def test_a_comment_in_the_parameters_makes_nothing_stale(restored):
    params = restored / "params.yaml"
    params.write_text("# a comment\n" + params.read_text())
    assert not stale(restored)


def test_a_temperature_of_one_method_reruns_it_and_what_reads_it_as_typed_by_hand(restored):
    """GenSCL's, which no follow-up reads: the others take longer here and differ only in who reads them, see below."""
    printed = typed(restored, "dvc exp run -S genscl.temperature=[0.2]")
    assert stages_run(printed) == {"genscl", "analysis", "paper"} == rerun_after("genscl")
    runs = pd.read_csv(restored / "results" / "genscl" / "runs.csv").query("variant == 'main'")
    assert {json.loads(settings)["temperature"] for settings in runs.settings} == {0.2}
    assert "0.2" in typed(restored, "dvc exp show --only-changed")


@pytest.mark.parametrize(
    "method, follow_ups",
    [
        ("supcon", {"robustness", "collapse", "follow_up@transfer", "follow_up@pitfalls"}),
        ("schane", {"follow_up@transfer", "follow_up@pitfalls"}),
        ("clce", {"robustness", "follow_up@transfer", "follow_up@pitfalls"}),
    ],
)
def test_a_parameter_of_a_method_makes_it_stale_and_only_those_follow_ups_read_it_that_use_its_settings(
    restored, method, follow_ups
):
    params = yaml.safe_load((restored / "params.yaml").read_text())
    params[method]["weight_decay"] = [0.04]
    (restored / "params.yaml").write_text(yaml.safe_dump(params))
    assert stale(restored) == {f"method@{method}", "paper"}  # the paper states the settings
    assert rerun_after(f"method@{method}") == {f"method@{method}", "methods", "analysis", "paper"} | follow_ups


@pytest.mark.parametrize(
    "file, expected",
    [
        ("src/study/analysis/claims.py", {"analysis"}),
        ("src/study/probes/episodes.py", set(pipeline.stages().values()) - {"clean", "cost", "methods", "paper"}),
        ("src/study/benchmarks/dense.py", {"genscl", "cost"}),
        ("src/study/pipeline.py", set()),
    ],
)
def test_code_makes_stale_the_stages_that_depend_on_its_folder(restored, file, expected):
    path = restored / file
    path.write_text(path.read_text() + "\n# a comment\n")
    assert stale(restored) == expected


def test_the_analysis_own_code_reruns_the_analysis_and_the_paper_alone():
    assert rerun_after("analysis") == {"analysis", "paper"}


def test_unknown_parameters_stop_before_anything_runs_and_a_failure_loses_no_result(restored):
    params = yaml.safe_load((restored / "params.yaml").read_text())
    params["clce"]["temperatur"] = 0.4
    (restored / "params.yaml").write_text(yaml.safe_dump(params))
    before = (restored / "results" / "clce" / "runs.csv").read_bytes()
    printed = typed(restored, "dvc repro method@clce", fails=True)
    assert "clce: temperatur is no parameter of this notebook; did you mean temperature?" in printed
    assert (restored / "results" / "clce" / "runs.csv").read_bytes() == before


# Commands typed by hand


def test_in_a_fresh_clone_dvc_says_what_it_would_run(clone):
    typed(clone, "python -m study.pipeline prepare")  # as `make setup` does
    assert "data" in stages_run(typed(clone, "dvc repro --dry"))
    typed(clone, "dvc status")
    assert typed(clone, "git status --porcelain") == ""


def test_metrics_fit_a_screen_and_plots_need_no_network(project, dvc_output):
    (numbers,) = [line for line in dvc_output["dvc metrics show --md"].splitlines() if "metrics.json" in line]
    assert 5 <= numbers.count("|") - 2 <= 12
    page = (project / "dvc_plots" / "index.html").read_text()
    assert 8 <= page.count("<img") <= 12 and "http" not in page


def test_papermill_runs_a_notebook_with_parameters(project, tmp_path):
    parameters = "-p results build/mine -p validation_size 200"
    typed(project, f"papermill notebooks/01_data.ipynb {tmp_path}/out.ipynb {parameters}")
    assert "200 validation images" in (tmp_path / "out.ipynb").read_text()


@pytest.mark.parametrize(
    "left",
    [
        "build/clean/data.ipynb", "results/arrays/data/splits.npz", "runs/paper/supcon-cifar-10", "dvc_plots/x", "data/x",
        ".hypothesis/x", ".pytest_cache/x", ".ruff_cache/x", "mutants/x", "src/supcl.egg-info/x", ".dvc/cache/x", ".dvc/tmp/x",
        ".runs/x", "results/supcon/.unfinished-1-runs.csv",
        "notebooks/.ipynb_checkpoints/x", "src/study/__pycache__/x", ".venv/x",
    ],
)  # fmt: skip
def test_git_does_not_see_what_commands_leave_behind(project, left):
    assert typed(project, f"git check-ignore {left}").strip() == left


def test_smoke_refuses_a_folder_with_other_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear to someone")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").touch()  # so it may be a project unpacked from an archive
    with pytest.raises(FileExistsError, match="other files"):
        pipeline.smoke(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "dear to someone"


def test_every_command_says_what_it_does():
    printed = typed(ROOT, "python -m study.pipeline --help")
    assert all(f"    {name} " in printed for name in pipeline.COMMANDS)


def test_every_notebook_has_its_stage_and_its_defaults():
    assert pipeline.stages().keys() == {"clean", "methods", "paper", *NOTEBOOKS}
    assert all(notebooks.defaults(key)["results"] == "build/smoke" for key in NOTEBOOKS)
