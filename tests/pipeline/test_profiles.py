"""Profiles beside the laptop's: their parameters, their parts, and a part at toy size."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from typed import stages_run, stale

from study import notebooks, profiles
from study.benchmarks import estimate
from study.paths import ROOT


def test_every_part_of_the_papers_profile_has_all_parameters_of_its_notebooks():
    for part in profiles.read("paper"):
        for stage, parameters in part.stages.items():
            assert parameters.keys() == notebooks.defaults(stage).keys(), part.name
            assert parameters["results"] == "results"
        datasets = {parameters["dataset"] for parameters in part.stages.values()}
        encoders = {json.dumps(parameters["encoder"]) for parameters in part.stages.values()}
        assert len(datasets) == len(encoders) == 1 and datasets != {"fashion-mnist"}


def test_a_stage_s_value_goes_before_the_part_s_and_that_before_every_s():
    content = {
        "parts": {"toy": {"images": 10, "dataset": "digits", "epochs": [2]}},
        "every": {"dataset": "fashion-mnist", "epochs": [1], "batch_size": 7},
        "stages": {"data": {}, "cross_entropy": {"epochs": [3]}, "supcon": {}},
    }
    part = profiles._part("toy", "toys", content)
    assert [part.stages[stage].get("epochs") for stage in part.stages] == [None, [3], [2]]
    assert {parameters["dataset"] for parameters in part.stages.values()} == {"digits"}
    assert part.stages["supcon"]["batch_size"] == 7 and part.stages["supcon"]["weight_decay"] == 0.05  # the laptop's
    content["every"]["epoch"] = [1]
    with pytest.raises(ValueError, match="toy has epoch, which is a parameter of none of its notebooks"):
        profiles._part("toy", "toys", content)
    del content["every"]["epoch"]
    content["stages"]["supcon"]["temperatur"] = 0.1
    with pytest.raises(ValueError, match="toy has for supcon temperatur"):
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
    for stages in (["data"], ["data", "cross_entropy"]):
        part = replace(whole, stages={stage: whole.stages[stage] for stage in stages})
        printed.append(profiles.run_part(part, folder, LOKY_MAX_CPU_COUNT="1"))
    return part, folder, printed


def test_a_part_trains_the_whole_encoder_on_all_images_as_its_profile_says(part):
    runs = pd.read_csv(part[1] / "results" / "cross_entropy" / "runs.csv")
    assert set(runs.variant) == {"main"} and set(runs.trained_on) == {"full"} and set(runs.dataset) == {"digits"}
    (record,) = (json.loads(settings) for settings in runs.settings.unique())
    assert record["encoder"]["name"] == "test_resnet" and record["encoder"]["stem"] == "cifar"
    assert (record["learning_rate"], record["optimizer"], record["augmentation"]) == (0.8, "momentum", "simclr")
    assert not (part[1] / "results" / "supcon").exists()


def test_a_part_goes_on_where_it_stopped_and_keeps_what_is_there(part):
    chosen, folder, (first, second) = part
    assert stages_run(first) == {"clean", "data"} and stages_run(second) == {"cross_entropy"}
    (folder / "results" / "notes.txt").write_text("not ours")
    assert not stages_run(profiles.run_part(chosen, folder))
    assert (folder / "results" / "notes.txt").read_text() == "not ours"


def test_a_changed_parameter_of_a_part_reruns_its_stage_alone(part):
    chosen, folder, _ = part
    stages = {**chosen.stages, "cross_entropy": chosen.stages["cross_entropy"] | {"learning_rate": [0.4]}}
    (folder / "params.yaml").write_text(yaml.safe_dump(stages))
    assert stale(folder) & set(chosen.stages) == {"cross_entropy"}


@pytest.mark.tiny
def test_the_whole_profile_of_the_papers_runs_at_toy_size(tmp_path):
    """`make tiny`."""
    parts = profiles.run_tiny(profiles.read("paper"), tmp_path)
    assert {part.group for part in parts} == {part.group for part in profiles.read("paper")}
    for part in parts:
        for stage in set(part.stages) - {"data"}:
            runs = pd.read_csv(tmp_path / part.name / "results" / stage / "runs.csv")
            runs = runs.assign(**pd.json_normalize(runs.settings.map(json.loads))[["epochs", "batch_size"]])
            whole = runs[(runs.metric == "accuracy") & (runs.trained_on == "full") & (runs.epochs > 0)]
            assert (runs.epochs <= 1).all()
            assert len(whole) == estimate.passes(stage, part.stages)[0], (part.name, stage)
