"""The whole pipeline at toy size, in a copy of the project: complete, repeatable, and re-run only where something changed."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import nbformat
import pandas as pd
import pytest
import yaml

from study import pipeline, profiles
from study.benchmarks import estimate
from study.paths import ROOT

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
    command = [sys.executable, "-m", "study.pipeline", "run", "05_clce"]
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


# Profiles beside the laptop's


def test_every_part_of_the_papers_profile_has_all_parameters_of_its_notebooks():
    for part in profiles.read("paper"):
        for stage, parameters in part.stages.items():
            assert parameters.keys() == pipeline.notebook_defaults(stage).keys(), part.name
            assert parameters["results"] == "results"
        datasets = {parameters["dataset"] for parameters in part.stages.values()}
        encoders = {json.dumps(parameters["encoder"]) for parameters in part.stages.values()}
        assert len(datasets) == len(encoders) == 1 and datasets != {"fashion-mnist"}


def test_a_stage_s_value_goes_before_the_part_s_and_that_before_every_s():
    content = {
        "parts": {"toy": {"images": 10, "dataset": "digits", "epochs": [2]}},
        "every": {"dataset": "fashion-mnist", "epochs": [1], "batch_size": 7},
        "stages": {"01_data": {}, "02_cross_entropy": {"epochs": [3]}, "03_supcon": {}},
    }
    part = profiles._part("toy", "toys", content)
    assert [part.stages[stage].get("epochs") for stage in part.stages] == [None, [3], [2]]
    assert {parameters["dataset"] for parameters in part.stages.values()} == {"digits"}
    assert part.stages["03_supcon"]["batch_size"] == 7 and part.stages["03_supcon"]["weight_decay"] == 0.05  # the laptop's
    content["every"]["epoch"] = [1]
    with pytest.raises(ValueError, match="toy has epoch, which is a parameter of none of its notebooks"):
        profiles._part("toy", "toys", content)
    del content["every"]["epoch"]
    content["stages"]["03_supcon"]["temperatur"] = 0.1
    with pytest.raises(ValueError, match="toy has for 03_supcon temperatur"):
        profiles._part("toy", "toys", content)


def test_unknown_profiles_and_parts_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="profile is 'papers'; expected one of paper"):
        profiles.run("papers")
    with pytest.raises(ValueError, match="no part 'cifar'; expected one of supcon-cifar, supcon-cifar-10"):
        profiles.run("paper", "cifar")


def test_a_part_or_a_group_is_chosen_by_its_name_and_runs_apart_from_the_laptop_s_results(monkeypatch):
    ran = []
    monkeypatch.setattr(profiles, "run_part", lambda part, folder: ran.append((part.name, folder)))
    profiles.run("paper", "supcon-cifar-100")
    profiles.run("paper", "genscl-cifar")
    assert ran == [(name, ROOT / "runs" / "paper" / name) for name in ("supcon-cifar-100", "genscl-cifar-10", "genscl-cifar-100")]


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """The first notebooks of a part at toy size, in two calls: (the part, its folder, what each call printed)."""
    whole = profiles.tiny(profiles.read("paper")[0])
    folder, printed = tmp_path_factory.mktemp("profile") / whole.name, []
    for stages in (["01_data"], ["01_data", "02_cross_entropy"]):
        part = replace(whole, stages={stage: whole.stages[stage] for stage in stages})
        printed.append(profiles.run_part(part, folder, LOKY_MAX_CPU_COUNT="1"))
    return part, folder, printed


def test_a_part_trains_the_whole_encoder_on_all_images_as_its_profile_says(part):
    runs = pd.read_csv(part[1] / "results" / "runs" / "02_cross_entropy.csv")
    assert set(runs.variant) == {"main"} and set(runs.shots) == {"full"} and set(runs.dataset) == {"digits"}
    (record,) = (json.loads(settings) for settings in runs.settings.unique())
    assert record["encoder"]["name"] == "test_resnet" and record["encoder"]["stem"] == "cifar"
    assert (record["learning_rate"], record["optimizer"], record["augmentation"]) == (0.8, "momentum", "simclr")
    assert not (part[1] / "results" / "runs" / "03_supcon.csv").exists()


def test_a_part_goes_on_where_it_stopped_and_keeps_what_is_there(part):
    chosen, folder, (first, second) = part
    assert stages_run(first) == {"clean", "01_data"} and stages_run(second) == {"02_cross_entropy"}
    (folder / "results" / "notes.txt").write_text("not ours")
    assert not stages_run(profiles.run_part(chosen, folder))
    assert (folder / "results" / "notes.txt").read_text() == "not ours"


def test_a_changed_parameter_of_a_part_reruns_its_stage_alone(part):
    chosen, folder, _ = part
    stages = {**chosen.stages, "02_cross_entropy": chosen.stages["02_cross_entropy"] | {"learning_rates": [0.4]}}
    (folder / "params.yaml").write_text(yaml.safe_dump(stages))
    assert stale(folder) & set(chosen.stages) == {"02_cross_entropy"}


@pytest.mark.tiny
def test_the_whole_profile_of_the_papers_runs_at_two_steps_a_run(tmp_path):
    """`make tiny`."""
    parts = profiles.run_tiny(profiles.read("paper"), tmp_path)
    assert {part.group for part in parts} == {part.group for part in profiles.read("paper")}
    for part in parts:
        for stage in set(part.stages) - {"01_data"}:
            runs = pd.read_csv(tmp_path / part.name / "results" / "runs" / f"{stage}.csv")
            runs = runs.assign(**pd.json_normalize(runs.settings.map(json.loads))[["epochs", "batch_size"]])
            whole = runs[(runs.metric == "accuracy") & (runs.shots == "full") & (runs.epochs > 0)]
            assert (runs.epochs * (347 // runs.batch_size).clip(lower=1) <= 2).all()
            assert len(whole) == estimate.passes(stage, part.stages)[0], (part.name, stage)
