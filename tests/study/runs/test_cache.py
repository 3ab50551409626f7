"""A run that has ended is not executed again, as long as nothing that decides its numbers has changed."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small import cross_entropy
from small_runs import FEATURES, FEW, outcome, write_arrays

from study import data
from study.runs import cache, execute, run_all, table, trained_on
from study.runs.execution import execute_and_keep
from study.runs.setup import Recipe
from study.training.compute import Compute


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder of entries, and one core, so that runs are executed in this process."""
    monkeypatch.setenv("SUPCL_RUNS", str(tmp_path / "kept"))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pt"
    path.write_bytes(b"1")
    return path


def key(run, setup):
    return cache.CODE + cache.key(run, setup, cache._Reads())


def executed(capsys):
    """How many of the runs whose lines were printed did not come from the cache."""
    lines = capsys.readouterr().out.splitlines()
    from_cache = [int(line.split("[")[1].split()[0]) for line in lines if "from the cache" in line]
    return len(lines) - max(from_cache, default=0)


def test_a_second_call_executes_nothing_and_gives_the_same_to_the_last_byte(setup, place, capsys, tmp_path):
    runs = [replace(FEW, curve=True, keep=True), replace(FEW, seed=1), FEATURES]
    first = run_all(runs, setup)
    assert executed(capsys) == 3
    again = run_all(runs, setup)
    assert executed(capsys) == 0
    assert table(first, setup).to_csv() == table(again, setup).to_csv()
    for one, other in zip(first, again, strict=True):
        assert one.run is other.run and one.seconds == other.seconds and np.array_equal(one.predictions, other.predictions)
        assert (one.losses, one.curve, one.epoch_metrics) == (other.losses, other.curve, other.epoch_metrics)
    assert np.array_equal(first[0].embeddings, again[0].embeddings) and first[1].embeddings is again[1].model is None
    assert saved(first[0].model, tmp_path) == saved(again[0].model, tmp_path)


def saved(model, folder):
    with open(folder / "model.pt", "wb") as file:
        torch.save(model.state_dict(), file)
    return (folder / "model.pt").read_bytes()


def test_only_the_runs_that_are_new_or_changed_are_executed_in_any_order(setup, place, capsys):
    run_all([FEW, FEATURES], setup)
    executed(capsys)
    outcomes = run_all([replace(FEW, seed=1), FEATURES, FEW, replace(FEATURES, epochs=1)], setup)
    assert executed(capsys) == 2
    assert [(o.run.method, o.run.seed, o.run.epochs) for o in outcomes] == [
        ("SupCon", 1, 2), ("CE", 0, 2), ("SupCon", 0, 2), ("CE", 0, 1),
    ]  # fmt: skip


def explode(outputs, batch):
    return cross_entropy(outputs, batch) * float("inf")


def test_a_run_that_diverged_is_an_outcome_too(setup, place, capsys):
    run = replace(FEATURES, objective=explode)
    first, again = (run_all([run], setup)[0] for _ in range(2))
    assert first.metrics == again.metrics and again.metrics["diverged_at_step"] == 1
    assert executed(capsys) == 1


def test_without_a_cache_every_run_is_executed_and_nothing_kept(setup, place, capsys, monkeypatch):
    monkeypatch.setenv("SUPCL_RUNS", "off")
    for _ in range(2):
        run_all([FEATURES], setup)
    assert executed(capsys) == 2 and not place.exists()


def test_a_run_that_cannot_be_seen_through_is_executed_and_the_line_says_why(setup, place, capsys):
    def measured(trained, inputs, labels):
        open(os.devnull).close()
        return {}

    for _ in range(2):
        run_all([replace(FEATURES, extra_metrics=measured)], setup)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("[not cached: " in line and "measured uses open" in line for line in lines)
    assert not place.exists()


# What the key is of


def shifted(outputs, batch, by=1.0):
    return cross_entropy(outputs, batch) + by


def nothing_more(trained, inputs, labels):
    return {}


RUN_CHANGES = {
    "seed": {"seed": 1}, "learning rate": {"learning_rate": 0.004}, "epochs": {"epochs": 3}, "batch": {"batch_size": 8},
    "objective": {"objective": cross_entropy}, "argument": {"objective": partial(shifted, by=2.0)},
    "classifier": {"classifier": "own"}, "evaluated on": {"evaluate_on": "validation"}, "optimiser": {"optimizer": "sgd"},
    "settings": {"settings": {"temperature": 0.2}}, "curve": {"curve": True}, "kept": {"keep": True},
    "more metrics": {"extra_metrics": nothing_more}, "each epoch": {"epoch_metrics": nothing_more},
    "views": {"augment": partial(data.Augment, smallest=0.3)}, "images": trained_on("full"), "variant": {"variant": "other"},
}  # fmt: skip


@pytest.mark.parametrize("changes", RUN_CHANGES.values(), ids=RUN_CHANGES)
def test_every_field_of_a_run_counts(setup, changes):
    run = replace(FEW, objective=partial(shifted, by=1.0))
    assert key(replace(run, **changes), setup) != key(run, setup) == key(replace(run), setup)


SETUP_CHANGES = {
    "encoder": {"encoder": "test_vit"}, "head": {"encoder": {"name": "test_resnet", "projection_dim": 8}},
    "pixels": {"image_size": 24}, "batch": {"batch_size": 16}, "decay": {"weight_decay": 0.02},
    "data": {"dataset": "mnist-sample"}, "recipe": {"recipe": Recipe(warm_up=0.2)},
    "precision": {"compute": Compute(precision="bf16")},
}  # fmt: skip


@pytest.mark.parametrize("changes", SETUP_CHANGES.values(), ids=SETUP_CHANGES)
def test_every_field_of_a_setup_counts(setup, changes):
    assert key(FEW, replace(setup, **changes)) != key(FEW, setup)


def test_weights_count_by_their_content(setup, weights):
    of_file = replace(setup, weights=str(weights))
    before = key(FEW, of_file)
    assert before != key(FEW, setup)
    weights.write_bytes(b"2")
    assert key(FEW, of_file) != before
    with pytest.raises(cache.Undigestible, match="hub"):
        key(FEW, replace(setup, weights="hub"))


@pytest.fixture
def copied(setup, tmp_path):
    """The setup with a copy of its arrays in a folder of another name."""
    shutil.copytree(setup.shared, tmp_path / "copy")
    return replace(setup, shared=tmp_path / "copy")


@pytest.mark.parametrize("run", [FEW, FEATURES], ids=["few shot", "features"])
def test_where_results_and_checkpoints_lie_does_not_count(setup, copied, run):
    moved = replace(copied, compute=Compute(checkpoints="/somewhere"))
    assert key(run, moved) == key(run, setup)


def change_split(setup, name, values):
    path = Path(setup.shared) / "splits.npz"
    splits = dict(np.load(path))
    np.savez(path, **(splits | {name: values}))


@pytest.mark.parametrize("name, counts", [("draw_5_0", True), ("validation", True), ("train", True), ("draw_5_1", False)])
def test_the_images_of_the_run_count_and_those_of_another_draw_do_not(copied, name, counts):
    before = key(FEW, copied)
    change_split(copied, name, np.arange(10))
    assert (key(FEW, copied) != before) == counts


def test_features_count_for_the_runs_on_features(copied):
    before = [key(run, copied) for run in (FEW, FEATURES)]
    features = np.load(f"{copied.shared}/features_train.npy")
    features[0, 0] += 1
    np.save(f"{copied.shared}/features_train.npy", features)
    assert [key(run, copied) == old for run, old in zip((FEW, FEATURES), before, strict=True)] == [True, False]


@pytest.mark.parametrize("part", ["train_images", "train_labels"])
def test_pixels_and_labels_of_the_data_set_count(setup, monkeypatch, part):
    before, digits = key(FEW, setup), data.load("digits")
    changed = replace(digits, **{part: getattr(digits, part).flip(0)})
    monkeypatch.setattr(data, "load", lambda name: changed)
    assert key(FEW, setup) != before


@pytest.mark.parametrize("what", ["_version", "_processor"])
def test_packages_and_processor_count(setup, monkeypatch, what):
    before = key(FEW, setup)
    cache._environment.cache_clear()
    monkeypatch.setattr(cache, what, lambda *_: "another")
    assert key(FEW, setup) != before
    cache._environment.cache_clear()


def test_a_teacher_counts_by_its_weights_wherever_they_lie(setup, copied, tmp_path):
    def of(where, folder, content):
        path = tmp_path / folder / "ce_5_0.pt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        file = str(path)
        return key(replace(FEW, objective=lambda outputs, batch: taught(where, file, batch)), where)

    assert of(setup, "here", b"1") == of(copied, "there", b"1") != of(setup, "here", b"2")


def taught(setup, file, batch):
    return setup, file, batch


def test_a_data_set_that_a_measurement_names_counts_by_its_images(setup, monkeypatch):
    run = replace(FEW, extra_metrics=partial(nothing_more, targets={"mnist": "mnist-sample"}))
    before, load = key(run, setup), data.load
    changed = replace(load("mnist-sample"), flips=True)
    monkeypatch.setattr(data, "load", lambda name: changed if name == "mnist-sample" else load(name))
    assert key(run, setup) != before and key(FEW, setup) == key(FEW, setup)


CODES = """
import importlib, sys
from study.runs import cache
print(cache.CODE)
open(sys.argv[1], "a").write("ANOTHER = 1\\n")
print(importlib.reload(cache).CODE)
"""


def test_the_code_of_runs_counts_but_its_comments_do_not(tmp_path):
    shutil.copytree(Path(cache.__file__).parents[2], tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    losses = tmp_path / "src" / "supcl" / "losses.py"
    losses.write_text(losses.read_text() + "\n# a comment\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    command = [sys.executable, "-c", CODES, losses]
    with_comment, changed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert with_comment == cache.CODE != changed


# Entries on disk


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:10], lambda b: b"", lambda b: b[:99] + b"x" + b[100:]])
def test_a_broken_entry_is_a_miss_and_is_replaced(setup, place, capsys, damage):
    (first,) = run_all([FEATURES], setup)
    (entry,) = [path for path in place.rglob("*") if path.is_file()]
    entry.write_bytes(damage(entry.read_bytes()))
    (again,) = run_all([FEATURES], setup)
    assert executed(capsys) == 2 and again.metrics == first.metrics
    run_all([FEATURES], setup)
    assert executed(capsys) == 0


def test_two_processes_may_store_the_same_run(place):
    file, run = place / cache.CODE / "key", replace(FEW)
    for value in (1.0, 2.0):
        cache.store(file, outcome(run, {"accuracy": value}))
    assert cache.load(file, run).metrics == {"accuracy": 2.0} and [p.name for p in file.parent.iterdir()] == ["key"]


def test_an_outcome_of_code_that_was_changed_meanwhile_is_not_stored(setup, place, monkeypatch):
    monkeypatch.setattr(cache, "code_on_disk", lambda: [b"changed"])
    file = place / cache.CODE / "key"
    assert execute_and_keep(FEATURES, setup, file).metrics == execute(FEATURES, setup).metrics
    assert not file.exists()


SCRIPT = """
import sys
from dataclasses import replace
from small_runs import FEW, new_setup
from study.runs import run_all, write_runs, table

if __name__ == "__main__":
    setup, runs = new_setup(sys.argv[1]), [replace(FEW, seed=seed, shots=5, epochs=3) for seed in (0, 1)]
    runs += [replace(run, learning_rate=rate) for run in runs for rate in (0.001, 0.002)]
    write_runs(sys.argv[2], table(run_all(runs, setup), setup))
"""


def test_after_a_kill_only_the_runs_that_had_not_ended_are_executed(tmp_path, place, monkeypatch, capsys):
    """The first start is killed with its two workers, in a process of its own. The next two happen in this process."""
    write_arrays(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = os.environ | {"LOKY_MAX_CPU_COUNT": "2", "PYTHONPATH": paths}
    command = [sys.executable, script, tmp_path, tmp_path / "killed"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        for _ in range(2):
            process.stdout.readline()
        os.killpg(process.pid, signal.SIGKILL)
    entries = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    entries = {path: at for path, at in entries.items() if not path.name.startswith(".unfinished")}
    assert len(entries) >= 2 and not (tmp_path / "killed").exists()
    printed = []
    for results in ("second", "third"):
        monkeypatch.setattr(sys, "argv", [str(script), tmp_path, tmp_path / results])
        runpy.run_path(str(script), run_name="__main__")
        printed.append(capsys.readouterr().out)
    assert f"[{len(entries)} from the cache" in printed[0] and f"[{len(entries) + 1} from" not in printed[0]
    assert "[6 from the cache]" in printed[1]
    assert all(path.stat().st_mtime_ns == at for path, at in entries.items())
    tables = [(tmp_path / results / "runs.csv").read_bytes() for results in ("second", "third")]
    assert tables[0] == tables[1]
