"""What 12_analysis joins and draws: the results of all methods side by side."""

import json
from itertools import combinations

import matplotlib.patheffects as patheffects
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from joblib import Parallel, delayed, parallel_config
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory
from sklearn.manifold import TSNE

from study.figures import COLORS, COLUMN, GREY, dot
from study.paths import existing
from study.probes.evaluation import unit_rows
from study.tables import STAGES, in_digits, interval, paired_differences, summarise

MARKERS = ["o", "D", "s", "^"]  # one per number of shots
PROTOCOL = ["encoder", "weights", "image_size", "batch_size", "weight_decay", "epochs", "evaluate_on"]  # the same for all
# The ledger's verdicts
SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive at this size"
VERIFIED, REFUTED = "verified", "refuted"
# How claims_figure marks a verdict: by shape and colour.
VERDICT_MARKS = {
    SUPPORTED: {"marker": "^", "color": "#0072b2"},
    CONTRADICTED: {"marker": "v", "color": "#d55e00"},
    INCONCLUSIVE: {"marker": "o", "color": GREY, "mfc": "white"},
    VERIFIED: {"marker": "P", "color": "#009e73"},
    REFUTED: {"marker": "X", "color": "#d55e00"},
}
# Paul Tol's muted colours and a dark grey: ten classes that colour-blind readers can tell apart, with labels on them.
CLASS_COLORS = ["#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#555555"]


def read_runs(results, dataset, stages=None):
    """The long tables of stages (None: those of the methods) as one, with a column `stage`, of the runs on this dataset. shots is
    a number, "full", or "all" for runs on features."""
    runs = _read_tables(results, "runs", STAGES.values() if stages is None else stages)
    found = runs[runs.dataset == dataset]
    if missing := sorted(set(runs.stage) - set(found.stage)):
        others = ", ".join(runs[runs.stage.isin(missing)].dataset.unique())
        raise ValueError(
            f"{results}: runs.csv of {', '.join(missing)} hold runs on {others}; expected {dataset}. Run these again."
        )
    return found.reset_index(drop=True)


def read_curves(results):
    """Training curves of all methods as one table, with a column `stage`."""
    return _read_tables(results, "curves", STAGES.values())


def read_arrays(results):
    """{method: {name: array}} of the predictions and embeddings kept by the reported runs."""
    arrays = {}
    for method, stage in STAGES.items():
        with np.load(existing(f"{results}/{stage}/predictions.npz", stage)) as file:
            arrays[method] = {name: file[name] for name in file}
    return arrays


def read_test_labels(results):
    """(labels (N,) of the test images, names of the classes)."""
    with np.load(existing(f"{results}/data/test.npz", "data")) as file:
        return file["labels"].astype(int), file["classes"].tolist()


def reported(rows):
    """The rows of the reported runs: variant "main" of the method that each stage is about."""
    found = rows[_is_reported(rows)]
    if (found.shots == "full").any():
        stages = ", ".join(found.stage[found.shots == "full"].unique())
        raise ValueError(
            f'{stages} report runs on all images (shots "full"); expected numbers of images per class, which the methods are '
            "compared by here. Run the stages again with such numbers in `shots`."
        )
    return found.astype({"shots": int}).reset_index(drop=True)


def protocol_differences(runs):
    """Sentences on what is not the same for all methods at one number of shots, of PROTOCOL and the seeds; [] is fair."""
    found = []
    for shots, group in runs.groupby("shots"):
        for name in [*PROTOCOL, "seeds"]:
            values = {method: _values(rows, name) for method, rows in group.groupby("method", sort=False)}
            if len(set(values.values())) > 1:
                found.append(f"{name} at {shots} per class: " + ", ".join(f"{m} {value}" for m, value in values.items()))
    return found


def results_table(runs):
    """Accuracy of every method by number of shots, and its difference to CE, paired by seed; with 95 % intervals."""
    by = ("method", "shots")
    table = summarise(runs, by=by)[[*by, "n", "mean", "low", "high"]]
    return table.merge(
        _differences(paired_differences(runs, {"method": "CE"}, by=by), by), on=by, how="left", validate="one_to_one"
    )


def variants_table(runs):
    """Accuracy of everything that is neither a trial nor a reported run, and its difference to its method's reported runs
    with the same shots and seeds, where there are such."""
    by = ("stage", "method", "variant", "shots")
    others = runs[~_is_reported(runs) & ~runs.variant.str.startswith("trial")]
    table = summarise(others, by=by)[[*by, "n", "mean", "low", "high"]]
    parts = []
    for method in table.method.unique():
        main = {"stage": STAGES[method], "method": method, "variant": "main"}
        parts.append(_differences(paired_differences(runs[runs.method == method], main, by=by), by))
    differences = pd.concat(parts) if parts else pd.DataFrame(columns=[*by, "difference", "difference_low", "difference_high"])
    return table.merge(differences, on=by, how="left", validate="one_to_one")


def headline(table):
    """What `dvc metrics show` compares: mean accuracy and difference to CE, by method and number of shots."""
    metrics = {}
    for name, column in (("accuracy", "mean"), ("difference to CE", "difference")):
        metrics[name] = {
            method: {f"{shots} per class": value for shots, value in zip(group.shots, group[column], strict=True)}
            for method, group in table.groupby("method", sort=False)
        }
    del metrics["difference to CE"]["CE"]
    return metrics


def curve_summary(curves):
    """Mean and 95 % interval over seeds, by method, shots and epoch, of `relative_loss`, each run's loss over that of its
    first epoch, and of `validation_accuracy`, where it was recorded."""
    first = curves.sort_values("epoch").groupby(["method", "shots", "seed"]).loss.transform("first")
    long = curves.assign(relative_loss=curves.loss / first).melt(
        ["method", "shots", "seed", "epoch"], ["relative_loss", "validation_accuracy"], "metric"
    )
    return summarise_each(long.dropna(subset="value"), ["relative_loss", "validation_accuracy"], ("method", "shots", "epoch"))


def summarise_each(runs, metrics, by=("method", "shots")):
    """tables.summarise of several metrics, stacked, with a column `metric`."""
    return pd.concat([summarise(runs, metric, by).assign(metric=metric) for metric in metrics], ignore_index=True)


def rankings(summary):
    """{metric: methods, highest mean first} of a table from summarise_each at one number of shots."""
    ordered = summary.sort_values("mean", ascending=False, kind="stable")
    return {metric: ordered.method[ordered.metric == metric].tolist() for metric in summary.metric.unique()}


def maps(embeddings, seed=0):
    """t-SNE of each method's embeddings (N, D), compared by angle: {method: (N, 2)}. One thread each, so repeatable."""
    with parallel_config("loky", inner_max_num_threads=1):
        points = Parallel(n_jobs=-1)(delayed(_map)(z, seed) for z in embeddings.values())
    return dict(zip(embeddings, points, strict=True))


def label_point(points, labels, c, k=20):
    """The point (2,) of class c with most of its class among its k nearest; of equals, the one nearest to their median."""
    own = points[labels == c]
    nearest = np.argsort(((own[:, None] - points) ** 2).sum(-1), axis=1, kind="stable")[:, :k]
    purity = (labels[nearest] == c).sum(1)
    distance = np.linalg.norm(own - np.median(own, axis=0), axis=1)
    return own[np.lexsort((distance, -purity))[0]]


def confused_pairs(predictions, labels, classes, count=6):
    """The pairs of classes taken for each other most often: share of the images of the two, in percent.

    predictions  {method: (seeds, N)}. Returns `count` pairs, chosen by the mean over methods, with a row per method: pair,
    method, mean, low, high, n over seeds.
    """
    labels, rows = np.asarray(labels), []
    for method, predicted in predictions.items():
        for a, b in combinations(range(len(classes)), 2):
            taken = ((labels == a) & (predicted == b)) | ((labels == b) & (predicted == a))  # (seeds, N)
            share = 100 * taken.sum(1) / np.isin(labels, (a, b)).sum()
            rows.append([f"{classes[a]} / {classes[b]}", method, *interval(share), len(share)])
    table = pd.DataFrame(rows, columns=["pair", "method", "mean", "low", "high", "n"])
    top = table.groupby("pair", sort=False)["mean"].mean().nlargest(count).index
    return table.set_index("pair").loc[top].reset_index()


def step_times(runs, classes):
    """One row per reported run: metric "step_ms", its milliseconds of training per step."""
    rows = runs[runs.metric == "accuracy"]
    settings = rows.settings.map(json.loads)
    steps = [s["epochs"] * max(n * classes // s["batch_size"], 1) for s, n in zip(settings, rows.shots, strict=True)]
    return rows.assign(metric="step_ms", value=1000 * rows.seconds / steps)


def time_ratios(times):
    """Time per step over that of CE, paired by seed: geometric mean and its 95 % interval, by method and shots."""
    logs = times.assign(value=np.log(times.value))
    table = paired_differences(logs, {"method": "CE"}, "step_ms", by=("method", "shots"))
    return table.assign(**{column: np.exp(table[column]) for column in ("mean", "low", "high")})


def results_figure(table):
    """Left, accuracy by method and number of shots; right, the paired differences to CE. table: from results_table."""
    differences = table.drop(columns=["mean", "low", "high"])
    differences = differences.rename(columns={"difference": "mean", "difference_low": "low", "difference_high": "high"})
    fig, left, right = _beside_ce(table, differences, "test accuracy (%)", "points above CE", at=0)
    _stay_in_percent(left.xaxis)
    return fig


def curves_figure(summary):
    """Relative loss above, validation accuracy below, a column per number of shots. summary: from curve_summary."""
    shots = sorted(summary.shots.unique())
    labels = {"relative_loss": "relative loss", "validation_accuracy": "validation\naccuracy (%)"}
    fig, axes = plt.subplots(2, len(shots), figsize=(COLUMN, 3), sharex="col", sharey="row", squeeze=False)
    for row, (metric, label) in zip(axes, labels.items(), strict=True):
        for ax, n in zip(row, shots, strict=True):
            lines = summary[(summary.metric == metric) & (summary.shots == n)]
            for method, line in lines.groupby("method", sort=False):
                ax.plot(line.epoch, line["mean"], "o-", ms=2, lw=1.2, color=COLORS[method])
                ax.fill_between(line.epoch, line.low, line.high, color=COLORS[method], alpha=0.15, lw=0)
            ax.grid(alpha=0.3)
        row[0].set_ylabel(label)
    _stay_in_percent(axes[1, 0].yaxis)
    for ax, n in zip(axes[0], shots, strict=True):
        ax.set_title(f"{n} per class", fontsize=8)
    for ax in axes[1]:
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _method_legend(fig, _order(summary.method))
    return fig


def maps_figure(points, labels, classes):
    """A panel per method, classes coloured and numbered where they are purest; the key fills the last cell.

    points: {method: (N, 2)}; labels (N,).
    """
    columns = 3
    fig, axes = plt.subplots(-(-(len(points) + 1) // columns), columns, figsize=(COLUMN, 2.5), squeeze=False)
    cells = axes.ravel()
    colors = [CLASS_COLORS[c % len(CLASS_COLORS)] for c in range(len(classes))]
    for ax in cells:
        ax.set(xticks=[], yticks=[])
        sns.despine(ax=ax, left=True, bottom=True)
    for ax, (method, xy) in zip(cells, points.items(), strict=False):
        ax.scatter(*xy.T, s=1.5, c=[colors[c] for c in labels], lw=0, alpha=0.7, rasterized=True)
        for c in np.unique(labels):
            text = ax.text(*label_point(xy, labels, c), str(c), fontsize=7, weight="bold", ha="center", va="center")
            text.set_path_effects([patheffects.withStroke(linewidth=1.8, foreground="white")])
        ax.set_title(method, fontsize=8, color=COLORS[method])
    for c, name in enumerate(classes):
        x, y = 0.6 * (c // 5), 0.92 - 0.2 * (c % 5)
        cells[-1].plot(x - 0.06, y, "o", ms=4, color=colors[c], clip_on=False)
        cells[-1].text(x, y, name if name == str(c) else f"{c} {name}", fontsize=6.5, va="center")
    cells[-1].set(xlim=(0, 1), ylim=(0, 1))
    return fig


def geometry_figure(summary, labels):
    """A panel per metric of `labels` ({metric: axis label}), a row per method. summary: from summarise_each."""
    fig, axes = plt.subplots(2, 2, figsize=(COLUMN, 3.6), sharey=True)
    methods, shots = _order(summary.method), sorted(summary.shots.unique())
    for ax, (metric, label) in zip(axes.ravel(), labels.items(), strict=True):
        _method_dots(ax, summary[summary.metric == metric], methods, shots)
        ax.set_xlabel(label, fontsize=8)
    _shots_legend(fig, shots)
    return fig


def confusions_figure(table):
    """A row per pair of classes, a dot per method. table: from confused_pairs."""
    pairs, methods = table.pair.unique().tolist(), _order(table.method)
    fig, ax = plt.subplots(figsize=(COLUMN, 0.9 + 0.42 * len(pairs)))
    for row in table.to_dict("records"):
        y = pairs.index(row["pair"]) + 0.13 * (methods.index(row["method"]) - (len(methods) - 1) / 2)
        dot(ax, row, y, COLORS[row["method"]], "o")
    for y in range(1, len(pairs), 2):
        ax.axhspan(y - 0.5, y + 0.5, color="#f2f2f2", lw=0, zorder=0)
    ax.set_yticks(range(len(pairs)), pairs)
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    _stay_in_percent(ax.xaxis)
    ax.set_xlim(left=0)
    ax.set_xlabel("images of the two confused (%)")
    ax.grid(axis="x", alpha=0.3)
    _method_legend(fig, methods)
    return fig


def readout_figure(summary, labels):
    """Accuracy by read-out, a line per method and a panel per number of shots; labels: {metric: name}."""
    shots, methods = sorted(summary.shots.unique()), _order(summary.method)
    fig, axes = plt.subplots(1, len(shots), figsize=(COLUMN, 2.4), squeeze=False)
    for ax, n in zip(axes[0], shots, strict=True):
        for i, method in enumerate(methods):
            line = summary[(summary.shots == n) & (summary.method == method)].set_index("metric").loc[list(labels)]
            x = np.arange(len(labels)) + 0.1 * (i - (len(methods) - 1) / 2)
            bars = [line["mean"] - line.low, line.high - line["mean"]]
            ax.errorbar(x, line["mean"], yerr=bars, fmt="o-", ms=3, lw=0.9, capsize=1.5, color=COLORS[method])
        ax.set_xticks(range(len(labels)), labels.values(), rotation=25, ha="right")
        ax.set_title(f"{n} per class", fontsize=8)
        _stay_in_percent(ax.yaxis)
        ax.grid(axis="y", alpha=0.3)
    axes[0, 0].set_ylabel("test accuracy (%)")
    _method_legend(fig, methods)
    return fig


def time_figure(summary, ratios):
    """Left, milliseconds per step; right, the ratio to CE. Tables as from summarise and time_ratios."""
    fig, left, _ = _beside_ce(summary, ratios, "time per step (ms)", "ratio to CE", at=1)
    left.set_xlim(left=0)
    return fig


def claims_figure(ledger):
    """The ledger on a page: a row per claim under its paper, with a mark for the verdict, hollow where it is open or does not
    survive Holm, and the effect with its 95 % interval: drawn, to the right of the line what the claim says, and in digits.

    ledger: from study.analysis.ledger.ledger.
    """
    heading = 1.3  # in rows
    height = len(ledger) + heading * ledger.paper.nunique()
    fig = plt.figure(figsize=(6.9, 0.15 * height + 0.85), dpi=90)  # a page of a notebook; files have their own resolution
    fig.set_layout_engine("none")  # every text has its place
    bottom = 0.55 / fig.get_figheight()
    ax = fig.add_axes((0.485, bottom, 0.25, 1 - bottom - 0.25 / fig.get_figheight()))
    ax.set(xlim=(-85, 85), ylim=(height, 0))
    ax.set_xscale("symlog", linthresh=1, linscale=0.8)
    ax.axvline(0, color=GREY, lw=0.8, zorder=0)
    y = 0.0
    for paper, rows in ledger.groupby("paper", sort=False):
        _text_at(ax, 0.005, y + 0.8, paper, weight="bold", fontsize=7.5)
        _text_at(ax, 0.995, y + 0.8, _counts_in_words(rows.verdict), ha="right")
        for k, row in enumerate(rows.to_dict("records")):
            _claim_row(ax, row, y + heading + k + 0.5)
        y += heading + len(rows)
    ticks = {-10: "\u221210", -1: "\u22121", 0: "0", 1: "1", 10: "10"}
    ax.set_xticks(list(ticks), ticks.values(), fontsize=7)
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.spines["left"].set_visible(False)
    sides = "\u2190 against the claim        for the claim \u2192"
    ax.set_xlabel(f"{sides}\npoints, %, or hundredths of other units", fontsize=7, linespacing=1.4)
    marks = {verdict: mark for verdict, mark in VERDICT_MARKS.items() if verdict in set(ledger.verdict)}
    handles = [Line2D([], [], lw=0, ms=5, label=verdict, **mark) for verdict, mark in marks.items()]
    handles.append(Line2D([], [], lw=0, label="hollow: open, or not once all claims are taken together (Holm)"))
    fig.legend(handles=handles, loc="upper center", ncols=len(handles), fontsize=6.8, handletextpad=0.1, columnspacing=0.8)
    return fig


def _read_tables(results, kind, stages):
    parts = [
        pd.read_csv(existing(f"{results}/{stage}/{kind}.csv", stage), dtype={"shots": str}).assign(stage=stage)
        for stage in stages
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(shots=[shots if shots in ("all", "full") else int(shots) for shots in table.shots])


def _is_reported(rows):
    return (rows.variant == "main") & (rows.stage == rows.method.map(STAGES))


def _values(rows, name):
    """The different values of a setting, or of the seeds, as text."""
    values = rows.seed if name == "seeds" else rows.settings.map(lambda settings: json.loads(settings).get(name))
    return "/".join(str(value) for value in sorted(values.unique(), key=str))


def _differences(pairs, by):
    names = {"mean": "difference", "low": "difference_low", "high": "difference_high"}
    return pairs.rename(columns=names)[[*by, *names.values()]]


def _map(embeddings, seed):
    z = unit_rows(embeddings.astype(np.float32))
    return TSNE(init="pca", perplexity=min(30, len(z) / 4), random_state=seed).fit_transform(z)


def _order(methods):
    present = set(methods)
    return [method for method in COLORS if method in present]


def _method_dots(ax, summary, methods, shots):
    """Dots with intervals, a line per method and, within it, one per number of shots (the first filled)."""
    for row in summary.to_dict("records"):
        k = shots.index(row["shots"])
        y = methods.index(row["method"]) + 0.28 * (k - (len(shots) - 1) / 2)
        dot(ax, row, y, COLORS[row["method"]], MARKERS[k % len(MARKERS)], hollow=k > 0)
    ax.set_yticks(range(len(methods)), methods)
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.grid(axis="x", alpha=0.3)


def _beside_ce(values, compared, values_label, compared_label, at):
    """A row per method in two panels: left its values, right, but for CE, how they compare with CE's, a line marking CE."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(COLUMN, 2.4), sharey=True)
    methods, shots = _order(values.method), sorted(values.shots.unique())
    _method_dots(left, values, methods, shots)
    _method_dots(right, compared[compared.method != "CE"], methods, shots)
    right.axvline(at, color=COLORS["CE"], lw=0.8, zorder=0)
    left.set_xlabel(values_label)
    right.set_xlabel(compared_label)
    _shots_legend(fig, shots)
    return fig, left, right


def _stay_in_percent(axis):
    """Let an axis of percentages end at 0 and 100: intervals of two or three runs may not."""
    low, high = axis.get_view_interval()
    axis.axes.set(**{f"{axis.axis_name}lim": (max(low, 0), min(high, 100))})


def _shots_legend(fig, shots):
    handles = [
        Line2D(
            [], [], color=GREY, marker=MARKERS[k % len(MARKERS)], mfc="white" if k else GREY, ms=4, lw=0, label=f"{n} per class"
        )
        for k, n in enumerate(shots)
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(shots), fontsize=8)


def _method_legend(fig, methods):
    handles = [Line2D([], [], color=COLORS[method], marker="o", ms=3, label=method) for method in methods]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(methods), fontsize=7, handlelength=1, columnspacing=1)


def _claim_row(ax, row, y):
    """A row of claims_figure: mark, id, claim, interval, digits."""
    mark = VERDICT_MARKS[row["verdict"]]
    hollow = row["after_holm"] == INCONCLUSIVE
    ax.plot([0, 1], [y + 0.5, y + 0.5], transform=_across(ax), color="#e6e6e6", lw=0.4, clip_on=False, zorder=-1)
    mark = mark | {"mfc": "white" if hollow else mark["color"]}
    ax.plot([0.015], [y], transform=_across(ax), ms=5, lw=0, clip_on=False, **mark)
    _text_at(ax, 0.03, y, row["id"])
    _text_at(ax, 0.075, y, row["claim"])
    _text_at(ax, 0.74, y, _in_digits(row))
    if row["kind"] != "exact":
        scale = 1 if row["unit"].startswith(("points", "%")) else 100
        sign = -1 if row["kind"] == "at most" else 1
        low, mean, high = (sign * scale * (row[name] - row["margin"]) for name in ("low", "effect", "high"))
        ax.plot([low, high], [y, y], color=mark["color"], lw=1.4, solid_capstyle="butt")
        ax.plot(np.clip(mean, -55, 55), y, ms=3.5, mew=0.8, **mark)


def _in_digits(row):
    """The effect of a claim: "+1.2 (-0.3 to +2.7) points"."""
    if row["kind"] == "exact":
        return f"off by {row['effect']:.0e} at most ({row['runs']} {row['over']})"
    unit = row["unit"]
    digits = None if unit.startswith(("points", "%")) else 3
    plus, limit = ("+", "") if row["kind"] == "effect" else ("", f", limit {row['margin']:g}")
    mean, low, high = in_digits([row[name] for name in ("effect", "low", "high")], digits, plus)
    bounds = f"({low} to {high})" if row["runs"] > 1 else "(one pair)"
    return f"{mean} {bounds} {unit}{limit}".replace("-", "\u2212")


def _counts_in_words(verdicts):
    """ "4 supported, 1 contradicted, 8 inconclusive"."""
    counts = verdicts.value_counts()
    return ", ".join(f"{counts[verdict]} {verdict.split()[0]}" for verdict in VERDICT_MARKS if verdict in counts)


def _across(ax):
    """The figure's width by the rows of ax."""
    return blended_transform_factory(ax.figure.transFigure, ax.transData)


def _text_at(ax, x, y, text, **style):
    ax.text(x, y, text, transform=_across(ax), va="center", **{"fontsize": 6.6} | style)
