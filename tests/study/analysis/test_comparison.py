"""Tables of made-up runs against arithmetic by hand, and what is said where runs are missing."""

import json

import made_up
import numpy as np
import pandas as pd
import pytest
from made_up import METHODS, rows
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_limits

from study import tables
from study.analysis import comparison
from study.tables import with_settings


@pytest.fixture
def results(tmp_path, curves):
    """A results folder as the notebooks of the methods leave it."""
    raw = made_up.reported()
    for name, method in METHODS.items():
        folder = tmp_path / method.key
        folder.mkdir()
        features = rows(name, "sweep hardness", shots=[None], seeds=2, hardness=0.5)
        table = pd.concat([raw[raw.method == name], features]).drop(columns="notebook")
        table.to_csv(folder / "runs.csv", index=False)
        curves[curves.method == name].to_csv(folder / "curves.csv", index=False)
        np.savez(folder / "predictions.npz", predictions_20=np.zeros((3, 4), np.uint8))
    return tmp_path


def test_all_runs_are_joined_and_shots_stay_numbers(results):
    runs = comparison.read_runs(results, "digits")
    assert set(runs.method) == set(METHODS) and set(runs.notebook) == {method.key for method in METHODS.values()}
    assert runs.shots.dtype == "Int64" and set(runs.shots.dropna()) == {20, 100}
    assert (runs.shots.isna() == (runs.trained_on == "features")).all() and set(runs.hardness.dropna()) == {0.5}
    assert comparison.reported(runs).shots.dtype == int


def test_runs_of_another_dataset_are_refused(results):
    with pytest.raises(ValueError, match="runs of clce, .*supcon in .* are on digits; expected fashion-mnist"):
        comparison.read_runs(results, "fashion-mnist")


def test_runs_on_another_dataset_beside_these_are_left_out(results):
    path = results / "clce" / "runs.csv"
    table = pd.read_csv(path)
    pd.concat([table, table.assign(dataset="mnist-sample", variant="back")]).to_csv(path, index=False)
    runs = comparison.read_runs(results, "digits")
    assert set(runs.dataset) == {"digits"} and "back" not in set(runs.variant)


@pytest.mark.parametrize("name", ["runs.csv", "curves.csv", "predictions.npz"])
def test_a_missing_file_names_the_notebook_to_run(results, name):
    (results / "schane" / name).unlink()
    read = {"runs.csv": lambda: comparison.read_runs(results, "digits"), "curves.csv": lambda: comparison.read_curves(results)}
    with pytest.raises(FileNotFoundError, match=rf"schane/{name} is missing. The notebook schane writes it: run it first"):
        read.get(name, lambda: comparison.read_arrays(results))()


def test_curves_and_arrays_are_read_by_method(results):
    assert set(comparison.read_curves(results).method) == set(METHODS)
    assert_array_equal(comparison.read_arrays(results)["CLCE"]["predictions_20"], np.zeros((3, 4)))


def test_reported_runs_are_the_main_variant_of_the_method_of_the_stage(runs):
    control = rows("CE").assign(notebook="clce")  # a CE run made by CLCE's notebook is not CE's reported run
    trial = rows("CLCE", "trial")
    assert len(comparison.reported(pd.concat([runs, control, trial]))) == len(runs)


def test_a_method_without_reported_runs_is_an_error_that_names_it(runs):
    with pytest.raises(ValueError, match="SCHaNe, GenSCL have no reported runs .* Run schane, genscl."):
        comparison.reported(runs[~runs.method.isin(["SCHaNe", "GenSCL"])])


def test_runs_from_scratch_are_not_among_them(runs):
    scratch = runs.assign(regime="scratch", trained_on="full", shots=pd.NA)
    assert len(comparison.reported(pd.concat([runs, scratch]))) == len(runs)


def test_reported_runs_on_all_images_are_refused(runs):
    runs.loc[runs.method == "CLCE", ["trained_on", "shots"]] = "full", pd.NA
    with pytest.raises(ValueError, match="clce report runs that are not few-shot"):
        comparison.reported(runs)


def test_settings_that_should_be_shared_and_are_not_are_named(runs):
    assert comparison.protocol_differences(runs) == []
    ce = (runs.method == "CE") & (runs.shots == 100)
    runs.loc[ce, "epochs"] = 4
    runs = runs[~((runs.method == "CLCE") & (runs.shots == 20) & (runs.seed == 2))]
    assert comparison.protocol_differences(runs) == [
        "seeds at 20 per class: " + ", ".join(f"{name} {'0/1' if name == 'CLCE' else '0/1/2'}" for name in METHODS),
        "epochs at 100 per class: " + ", ".join(f"{name} {4 if name == 'CE' else 5}" for name in METHODS),
    ]


def test_variants_are_compared_with_their_methods_reported_runs(runs):
    extra = [rows("SCHaNe", "no hardness", shots=[20], seeds=2, gain=-1, hardness=0.0), rows("SCHaNe", "trial", seeds=1)]
    extra += [rows("SCHaNe", "sweep hardness", shots=[None], hardness=beta) for beta in (0.5, 1.0)]
    table = comparison.variants_table(with_settings(pd.concat([made_up.reported(), *extra], ignore_index=True)))
    assert table.variant.tolist() == ["no hardness", "sweep hardness", "sweep hardness"]
    assert [json.loads(text).get("hardness") for text in table.settings] == [0.0, 0.5, 1.0]
    assert table.n.tolist() == [2, 3, 3]
    assert_allclose(table.difference[0], -3)
    assert table.difference[1:].isna().all()


def test_without_variants_their_table_is_empty(runs):
    assert len(comparison.variants_table(runs)) == 0


def test_curves_are_relative_to_each_runs_first_epoch(curves):
    summary = comparison.curve_summary(curves)
    at = summary[(summary.method == "CLCE") & (summary.shots == 20)].set_index(["metric", "epoch"])
    assert_allclose(at.loc[("relative_loss", 4), ["mean", "low", "high"]].tolist(), 0.25)
    assert at.loc[("relative_loss", 4), "n"] == 3
    assert at.loc[("validation_accuracy", 2), "n"] == 2  # only where it was recorded
    assert_allclose(at.loc[("validation_accuracy", 2), "mean"], 52)


def test_summarise_each_stacks_metrics_and_rankings_order_them(runs):
    summary = comparison.summarise_each(runs[runs.shots == 20], ["accuracy", "isotropy"])
    assert len(summary) == 2 * len(METHODS)
    order = sorted(METHODS, key=made_up.GAIN.get, reverse=True)
    assert order[0] == "SCHaNe" and comparison.rankings(summary) == {"accuracy": order, "isotropy": order}


def test_maps_are_repeatable_and_keep_far_classes_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    z = (rng.normal(size=(2, 8))[labels] * 5 + rng.normal(size=(40, 8))).astype(np.float16)
    first, second = comparison.maps({"CE": z}), comparison.maps({"CE": z, "CLCE": 3 * z})
    assert_array_equal(first["CE"], second["CE"])
    assert first["CE"].shape == (40, 2)
    distances = np.linalg.norm(first["CE"][:, None] - first["CE"], axis=-1) + 1e9 * np.eye(40)
    assert_array_equal(labels[distances.argmin(1)], labels)


def test_maps_are_the_same_whatever_the_threads_of_a_process_that_is_its_own_worker(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    embeddings, maps = {"CE": np.random.default_rng(0).normal(size=(500, 512)).astype(np.float16)}, []
    for threads in (1, 2):
        with threadpool_limits(threads):
            maps.append(comparison.maps(embeddings)["CE"])
    assert_array_equal(*maps)


def test_a_label_stands_where_its_class_is_purest():
    points = np.array([[0.0, 0], [0.1, 0], [5, 0], [5.1, 0], [5.2, 0], [0.2, 0], [0.3, 0]])
    labels = np.array([0, 0, 0, 0, 0, 1, 1])
    assert_array_equal(comparison.label_point(points, labels, 0, k=3), [5, 0])  # of three pure points, nearest to the median
    assert_array_equal(comparison.label_point(points, labels, 1, k=3), [0.2, 0])


def test_confused_pairs_count_both_directions():
    labels = np.array([0, 0, 1, 1, 2, 2])
    # CE, two seeds: one 0 called 1 and one 1 called 0; then none wrong. CLCE, one seed: both 2 called 1.
    predictions = {"CE": np.array([[0, 1, 0, 1, 2, 2], labels]), "CLCE": np.array([[0, 0, 1, 1, 1, 1]])}
    table = comparison.confused_pairs(predictions, labels, ["a", "b", "c"], count=2)
    assert table.pair.unique().tolist() == ["a / b", "b / c"] or table.pair.unique().tolist() == ["b / c", "a / b"]
    mean = table.set_index(["pair", "method"])["mean"]
    assert_allclose(mean["a / b"][["CE", "CLCE"]], [25, 0])  # of four images 2 and 0 are confused, over two seeds
    assert_allclose(mean["b / c"][["CE", "CLCE"]], [0, 50])
    assert table.n.tolist() == [2, 1, 2, 1]


def test_confused_pairs_are_ordered_by_the_mean_over_methods():
    labels = np.array([0, 0, 1, 1, 2, 2])
    predictions = {"CE": np.array([[1, 0, 1, 1, 2, 2]]), "CLCE": np.array([[0, 0, 2, 2, 2, 2]])}
    table = comparison.confused_pairs(predictions, labels, ["a", "b", "c"], count=1)
    assert table.pair.tolist() == ["b / c", "b / c"]


def test_step_times_divide_by_the_number_of_steps(runs):
    times = comparison.step_times(runs, classes=10)
    at = times[(times.method == "CE") & (times.seed == 0)].set_index("shots").value
    assert_allclose(at[20], 2000 / (5 * 4))  # 200 images in batches of 50, 5 epochs, 2 seconds
    assert_allclose(at[100], 2000 / (5 * 20))
    few = comparison.step_times(runs, classes=1)  # 20 images in batches of 50 are still a step an epoch
    assert_allclose(few[(few.method == "CE") & (few.shots == 20)].value, 2000 / 5)


def test_time_ratios_are_paired_geometric_means(runs):
    times = comparison.step_times(runs, classes=10)
    ce, clce = times.method == "CE", times.method == "CLCE"
    times.loc[ce, "value"] = 10.0 * 2.0 ** times.seed[ce]
    times.loc[clce, "value"] = [10 * 2.0**s * r for s, r in zip(times.seed[clce], [2, 8, 4, 4, 4, 4], strict=True)]
    ratios = comparison.time_ratios(times).set_index(["method", "shots"])
    assert_allclose(ratios.loc[("CLCE", 20), "mean"], 4)
    assert_allclose(ratios.loc[("CLCE", 20), ["low", "high"]].tolist(), np.exp(tables.interval(np.log([2, 8, 4]))[1:]))
    assert_allclose(ratios.loc[("CLCE", 100), ["mean", "low", "high"]].tolist(), 4)
