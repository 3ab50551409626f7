import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from study import tables
from study.analysis import report

METHOD_OF = {stage: method for method, stage in tables.STAGES.items()}
METHODS = list(tables.STAGES)
GAIN = {"CE": 0, "SupCon": -1, "SCHaNe": 2, "CLCE": 1, "GenSCL": 0.5}
METRICS = ["accuracy", "within_class_cosine", "between_class_cosine", "isotropy", "simplex_distance"]


def rows(stage, variant="main", shots=(20, 100), seeds=3, gain=0.0, dataset="digits"):
    """Rows of one method: accuracy 70 + seed + gain + shots / 10, seconds 2 + gain."""
    method = METHOD_OF[stage]
    settings = json.dumps({"epochs": 5, "batch_size": 50})
    return pd.DataFrame(
        [
            [
                method,
                variant,
                dataset,
                n,
                seed,
                metric,
                70 + seed + gain + n / 10 if n != "all" else 80,
                2 + gain,
                settings,
                stage,
            ]
            for n in shots
            for seed in range(seeds)
            for metric in METRICS
        ],
        columns=["method", "variant", "dataset", "shots", "seed", "metric", "value", "seconds", "settings", "stage"],
    )


@pytest.fixture
def runs():
    return pd.concat([rows(stage, gain=GAIN[method]) for stage, method in METHOD_OF.items()], ignore_index=True)


@pytest.fixture
def curves():
    return pd.DataFrame(
        [
            [method, "main", shots, seed, epoch, (1 + seed) * 4.0 / epoch, 50.0 + epoch if seed < 2 else np.nan]
            for method in METHODS
            for shots in (20, 100)
            for seed in range(3)
            for epoch in (1, 2, 4)
        ],
        columns=["method", "variant", "shots", "seed", "epoch", "loss", "validation_accuracy"],
    )


@pytest.fixture
def results(tmp_path, runs, curves):
    """A results folder as experiment.write_results leaves it."""
    for stage, method in METHOD_OF.items():
        features = rows(stage, "features: beta 0.5", shots=["all"], seeds=2)
        table = pd.concat([runs[runs.stage == stage], features]).drop(columns="stage")
        folder = tmp_path / stage
        folder.mkdir()
        table.to_csv(folder / "runs.csv", index=False)
        curves[curves.method == method].to_csv(folder / "curves.csv", index=False)
        np.savez(folder / "predictions.npz", predictions_20=np.zeros((3, 4), np.uint8))
    return tmp_path


def text_of(fig):
    fig.canvas.draw()
    return {text.get_text() for text in fig.findobj(plt.Text)}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_all_runs_are_joined_and_shots_stay_numbers(results):
    runs = report.read_runs(results, "digits")
    assert set(runs.method) == set(METHODS) and set(runs.stage) == set(METHOD_OF)
    assert set(runs.shots) == {20, 100, "all"}
    assert report.reported(runs).shots.dtype == int


def test_runs_of_another_dataset_are_refused(results):
    with pytest.raises(ValueError, match="clce, cross_entropy, .*supcon hold runs on digits; expected fashion-mnist"):
        report.read_runs(results, "fashion-mnist")


def test_runs_on_another_dataset_beside_these_are_left_out(results):
    path = results / "clce" / "runs.csv"
    table = pd.read_csv(path)
    pd.concat([table, table.assign(dataset="mnist-sample", variant="back")]).to_csv(path, index=False)
    runs = report.read_runs(results, "digits")
    assert set(runs.dataset) == {"digits"} and "back" not in set(runs.variant)


@pytest.mark.parametrize("kind, ending", [("runs", "csv"), ("curves", "csv"), ("predictions", "npz")])
def test_a_missing_file_names_the_notebook_to_run(results, kind, ending):
    (results / "schane" / f"{kind}.{ending}").unlink()
    read = {"runs": lambda: report.read_runs(results, "digits"), "curves": lambda: report.read_curves(results)}
    with pytest.raises(FileNotFoundError, match=r"schane/\w+\.\w+ is missing. schane writes it: run that notebook"):
        read.get(kind, lambda: report.read_arrays(results))()


def test_curves_and_arrays_are_read_by_method(results):
    assert set(report.read_curves(results).method) == set(METHODS)
    assert_array_equal(report.read_arrays(results)["CLCE"]["predictions_20"], np.zeros((3, 4)))


def test_reported_runs_are_the_main_variant_of_the_method_of_the_stage(runs):
    control = rows("cross_entropy").assign(stage="clce")  # a CE run made by CLCE's notebook is not CE's reported run
    trial = rows("clce", "trial: lr 1")
    assert len(report.reported(pd.concat([runs, control, trial]))) == len(runs)


def test_settings_that_should_be_shared_and_are_not_are_named(runs):
    assert report.protocol_differences(runs) == []
    ce = (runs.method == "CE") & (runs.shots == 100)
    runs.loc[ce, "settings"] = json.dumps({"epochs": 4, "batch_size": 50, "learning_rate": 1})
    runs = runs[~((runs.method == "CLCE") & (runs.shots == 20) & (runs.seed == 2))]
    assert report.protocol_differences(runs) == [
        "seeds at 20 per class: CE 0/1/2, SupCon 0/1/2, SCHaNe 0/1/2, CLCE 0/1, GenSCL 0/1/2",
        "epochs at 100 per class: CE 4, SupCon 5, SCHaNe 5, CLCE 5, GenSCL 5",
    ]


def test_results_table_has_means_and_differences_paired_by_seed(runs):
    table = report.results_table(runs)
    columns = ["method", "shots", "n", "mean", "low", "high", "difference", "difference_low", "difference_high"]
    assert list(table.columns) == columns
    row = table[(table.method == "SCHaNe") & (table.shots == 100)].iloc[0]
    assert row.n == 3
    assert_allclose([row["mean"], row.low, row.high], tables.interval([82, 83, 84]))
    assert_allclose([row.difference, row.difference_low, row.difference_high], 2)  # the seeds' own spread cancels


def test_variants_are_compared_with_their_methods_reported_runs(runs):
    extra = [rows("schane", "no hard negatives", shots=[20], seeds=2, gain=-1), rows("schane", "trial: lr 1", seeds=1)]
    extra += [rows("schane", "features: beta 0.5", shots=["all"])]
    table = report.variants_table(pd.concat([runs, *extra], ignore_index=True)).set_index("variant")
    assert list(table.index) == ["no hard negatives", "features: beta 0.5"]
    assert table.loc["no hard negatives", "n"] == 2
    assert_allclose(table.loc["no hard negatives", "difference"], -3)
    assert np.isnan(table.loc["features: beta 0.5", "difference"])


def test_without_variants_their_table_is_empty(runs):
    assert len(report.variants_table(runs)) == 0


def test_headline_leaves_out_the_difference_of_ce_to_itself(runs):
    metrics = report.headline(report.results_table(runs))
    assert_allclose(metrics["accuracy"]["CE"]["20 per class"], 73)
    assert_allclose(metrics["difference to CE"]["CLCE"]["100 per class"], 1)
    assert "CE" not in metrics["difference to CE"]
    json.dumps(metrics)


@pytest.mark.parametrize(
    "numbers, words",
    [
        ((1.23, 0.31, 2.1), "better by 1.2 points (95 % interval +0.3 to +2.1)"),
        ((-1.23, -2.1, -0.31), "worse by 1.2 points (95 % interval -2.1 to -0.3)"),
        ((0.4, -0.3, 1.1), "no difference seen (+0.4 points, 95 % interval -0.3 to +1.1)"),
        ((1.1, 0.02, 2.3), "better by 1.10 points (95 % interval +0.02 to +2.30)"),
        ((0.0, 0.0, 0.0), "no difference seen (+0.0 points, 95 % interval +0.0 to +0.0)"),
        ((-0.04, -0.3, 0.2), "no difference seen (-0.04 points, 95 % interval -0.30 to +0.20)"),
        ((1.2, np.nan, np.nan), "+1.2 points in a single pair, which decides nothing"),
    ],
)
def test_verdict_says_what_the_interval_supports(numbers, words):
    assert tables.verdict(*numbers) == words


def test_verdict_takes_other_words():
    assert tables.verdict(7, 3, 11, "%", "slower", "faster") == "slower by 7.0 % (95 % interval +3.0 to +11.0)"


def test_curves_are_relative_to_each_runs_first_epoch(curves):
    summary = report.curve_summary(curves)
    at = summary[(summary.method == "CLCE") & (summary.shots == 20)].set_index(["metric", "epoch"])
    assert_allclose(at.loc[("relative_loss", 4), ["mean", "low", "high"]].tolist(), 0.25)
    assert at.loc[("relative_loss", 4), "n"] == 3
    assert at.loc[("validation_accuracy", 2), "n"] == 2  # only where it was recorded
    assert_allclose(at.loc[("validation_accuracy", 2), "mean"], 52)


def test_summarise_each_stacks_metrics_and_rankings_order_them(runs):
    summary = report.summarise_each(runs[runs.shots == 20], ["accuracy", "isotropy"])
    assert len(summary) == 10
    order = ["SCHaNe", "CLCE", "GenSCL", "CE", "SupCon"]
    assert report.rankings(summary) == {"accuracy": order, "isotropy": order}


def test_maps_are_repeatable_and_keep_far_classes_apart():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    z = (rng.normal(size=(2, 8))[labels] * 5 + rng.normal(size=(40, 8))).astype(np.float16)
    first, second = report.maps({"CE": z}), report.maps({"CE": z, "CLCE": 3 * z})
    assert_array_equal(first["CE"], second["CE"])
    assert first["CE"].shape == (40, 2)
    distances = np.linalg.norm(first["CE"][:, None] - first["CE"], axis=-1) + 1e9 * np.eye(40)
    assert_array_equal(labels[distances.argmin(1)], labels)


def test_a_label_stands_where_its_class_is_purest():
    points = np.array([[0.0, 0], [0.1, 0], [5, 0], [5.1, 0], [5.2, 0], [0.2, 0], [0.3, 0]])
    labels = np.array([0, 0, 0, 0, 0, 1, 1])
    assert_array_equal(report.label_point(points, labels, 0, k=3), [5, 0])  # of three pure points, nearest to the median
    assert_array_equal(report.label_point(points, labels, 1, k=3), [0.2, 0])


def test_confused_pairs_count_both_directions():
    labels = np.array([0, 0, 1, 1, 2, 2])
    # CE, two seeds: one 0 called 1 and one 1 called 0; then none wrong. CLCE, one seed: both 2 called 1.
    predictions = {"CE": np.array([[0, 1, 0, 1, 2, 2], labels]), "CLCE": np.array([[0, 0, 1, 1, 1, 1]])}
    table = report.confused_pairs(predictions, labels, ["a", "b", "c"], count=2)
    assert table.pair.unique().tolist() == ["a / b", "b / c"] or table.pair.unique().tolist() == ["b / c", "a / b"]
    found = table.set_index(["pair", "method"])["mean"]
    assert_allclose(found["a / b"][["CE", "CLCE"]], [25, 0])  # of four images 2 and 0 are confused, over two seeds
    assert_allclose(found["b / c"][["CE", "CLCE"]], [0, 50])
    assert table.n.tolist() == [2, 1, 2, 1]


def test_confused_pairs_are_ordered_by_the_mean_over_methods():
    labels = np.array([0, 0, 1, 1, 2, 2])
    predictions = {"CE": np.array([[1, 0, 1, 1, 2, 2]]), "CLCE": np.array([[0, 0, 2, 2, 2, 2]])}
    table = report.confused_pairs(predictions, labels, ["a", "b", "c"], count=1)
    assert table.pair.tolist() == ["b / c", "b / c"]


def test_step_times_divide_by_the_number_of_steps(runs):
    times = report.step_times(runs, classes=10)
    at = times[(times.method == "CE") & (times.seed == 0)].set_index("shots").value
    assert_allclose(at[20], 2000 / (5 * 4))  # 200 images in batches of 50, 5 epochs, 2 seconds
    assert_allclose(at[100], 2000 / (5 * 20))
    few = report.step_times(runs, classes=1)  # 20 images in batches of 50 are still a step an epoch
    assert_allclose(few[(few.method == "CE") & (few.shots == 20)].value, 2000 / 5)


def test_time_ratios_are_paired_geometric_means(runs):
    times = report.step_times(runs, classes=10)
    ce, clce = times.method == "CE", times.method == "CLCE"
    times.loc[ce, "value"] = 10.0 * 2.0 ** times.seed[ce]
    times.loc[clce, "value"] = [10 * 2.0**s * r for s, r in zip(times.seed[clce], [2, 8, 4, 4, 4, 4], strict=True)]
    ratios = report.time_ratios(times).set_index(["method", "shots"])
    assert_allclose(ratios.loc[("CLCE", 20), "mean"], 4)
    assert_allclose(ratios.loc[("CLCE", 20), ["low", "high"]].tolist(), np.exp(tables.interval(np.log([2, 8, 4]))[1:]))
    assert_allclose(ratios.loc[("CLCE", 100), ["mean", "low", "high"]].tolist(), 4)


def test_results_figure_shows_every_method_once_per_number_of_shots(runs):
    table = report.results_table(runs)
    fig = report.results_figure(table)
    left, right = fig.axes
    assert len(left.containers) == 10 and len(right.containers) == 8  # CE has no difference to itself
    assert {*METHODS, "20 per class", "100 per class", "test accuracy (%)", "points above CE"} <= text_of(fig)
    drawn = sorted(round(bars[0].get_xdata()[0], 6) for bars in right.containers)
    assert drawn == sorted(table.difference[table.method != "CE"].round(6))


def test_curves_figure_has_a_column_per_number_of_shots(curves):
    fig = report.curves_figure(report.curve_summary(curves))
    assert [len(ax.lines) for ax in fig.axes] == [5, 5, 5, 5]
    assert {"relative loss", "epoch", "20 per class", *METHODS} <= text_of(fig)


def test_maps_figure_names_classes_in_every_panel():
    labels = np.array([0, 0, 1, 1])
    points = {method: np.arange(8.0).reshape(4, 2) for method in METHODS}
    fig = report.maps_figure(points, labels, ["Bag", "Boot"])
    assert [len(ax.collections) for ax in fig.axes] == [1] * 5 + [0]
    assert {*METHODS, "0", "1", "0 Bag", "1 Boot"} <= text_of(fig)
    first = fig.axes[0].texts[0]
    assert first.get_text() == "0" and first.get_position() in [(0, 1), (2, 3)]  # on a point of the class


def test_geometry_figure_has_a_panel_per_metric(runs):
    labels = {metric: f"label of {metric}" for metric in METRICS[1:]}
    fig = report.geometry_figure(report.summarise_each(runs, labels), labels)
    assert [len(ax.containers) for ax in fig.axes] == [10] * 4
    assert {*labels.values(), *METHODS} <= text_of(fig)


def test_confusions_figure_has_a_dot_per_pair_and_method():
    labels = np.array([0, 0, 1, 1, 2, 2])
    predictions = {method: np.array([[0, 1, 0, 1, 2, 2], labels]) for method in METHODS}
    fig = report.confusions_figure(report.confused_pairs(predictions, labels, ["a", "b", "c"], count=3))
    assert len(fig.axes[0].containers) == 15
    assert {"a / b", "images of the two confused (%)", *METHODS} <= text_of(fig)


def test_readout_figure_has_a_line_per_method(runs):
    fig = report.readout_figure(report.summarise_each(runs, METRICS[:3]), dict(zip(METRICS[:3], "abc", strict=True)))
    assert [len(ax.containers) for ax in fig.axes] == [5, 5]
    assert {"a", "b", "c", "100 per class", *METHODS} <= text_of(fig)


def test_time_figure_shows_times_and_ratios(runs):
    times = report.step_times(runs, classes=10)
    summary = tables.summarise(times, "step_ms", by=("method", "shots"))
    fig = report.time_figure(summary, report.time_ratios(times))
    assert [len(ax.containers) for ax in fig.axes] == [10, 8]
    assert {"time per step (ms)", "ratio to CE", *METHODS} <= text_of(fig)


def test_a_single_seed_is_drawn_without_interval(runs):
    table = report.results_table(runs[runs.seed == 0])
    assert table.low.isna().all()
    assert all(not bars.has_xerr for ax in report.results_figure(table).axes for bars in ax.containers)


def test_axes_of_percentages_end_at_0_and_100(runs):
    table = report.results_table(runs).assign(low=-500.0, high=500.0)
    left, right = report.results_figure(table).axes
    assert left.get_xlim() == (0, 100)
    assert right.get_xlim()[0] < 0


def claim(name, verdict, after_holm, effect=1.26, low=0.03, high=2.5, kind="effect", margin=0.0, unit="points", runs=5):
    row = {"id": name, "paper": name[0], "claim": f"claim {name}", "verdict": verdict, "after_holm": after_holm, "over": "s"}
    return row | {"effect": effect, "low": low, "high": high, "kind": kind, "margin": margin, "unit": unit, "runs": runs}


def test_claims_figure_has_a_row_for_each_claim_with_its_mark_and_numbers():
    opened = "inconclusive at this size"
    ledger = pd.DataFrame(
        [
            claim("A1", "supported", "supported"),
            claim("A2", "contradicted", opened, -0.4, -0.8, -0.002),
            claim("A3", opened, opened, 0.5, np.nan, np.nan, runs=1),
            claim("B1", "supported", "supported", 2.0, 1.0, 3.0, "at most", 5.0, "%"),
            claim("B2", "verified", "verified", 3e-15, np.nan, np.nan, "exact", 1e-10, "relative"),
            claim("B3", "supported", "supported", 0.02, 0.01, 0.03, unit="cosine"),
        ]
    )
    fig = report.claims_figure(ledger)
    assert text_of(fig) >= {
        "claim A1", "+1.26 (+0.03 to +2.50) points", "−0.400 (−0.800 to −0.002) points", "+0.5 (one pair) points",
        "2.0 (1.0 to 3.0) %, limit 5", "off by 3e-15 at most (5 s)", "1 supported, 1 contradicted, 1 inconclusive",
        "2 supported, 1 verified",
    }  # fmt: skip
    (ax,) = fig.axes
    at = {line.get_marker(): line for line in ax.lines if line.get_transform() == ax.transData and line.get_marker() != "None"}
    drawn = [(line.get_marker(), line.get_xdata()[0]) for line in ax.lines if line.get_markersize() == 3.5]
    assert_allclose([x for _, x in drawn], [1.26, -0.4, 0.5, 3.0, 2.0])  # B1: below its limit is for the claim; B3: hundredths
    assert [marker for marker, _ in drawn] == ["^", "v", "o", "^", "^"]
    assert at["v"].get_markerfacecolor() == "white" and at["^"].get_markerfacecolor() != "white"
