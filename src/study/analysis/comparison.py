"""The runs of all methods side by side, but for how accurate they are (study.analysis.judgement): what the notebooks wrote under
results/<notebook>/, read and put into tables."""

import json
from itertools import combinations

import numpy as np
import pandas as pd
from joblib import Parallel, delayed, parallel_config
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from study.methods import METHODS
from study.paths import existing
from study.probes.evaluation import unit_rows
from study.tables import BY, interval, paired_differences, summarise, with_settings

PROTOCOL = ["encoder", "weights", "image_size", "batch_size", "epochs", "evaluate_on"]  # the same for all
COUNTS = {"shots": "Int64", "epoch": "Int64"}  # whole numbers or blank


def read_runs(results, dataset, notebooks=None):
    """The long tables of notebooks (None: those of the methods) as one, of the runs on this dataset, with a column `notebook` and
    a column for each setting."""
    runs = with_settings(_read_tables(results, "runs", _methods_notebooks() if notebooks is None else notebooks))
    on_it = runs[runs.dataset == dataset]
    if missing := sorted(set(runs.notebook) - set(on_it.notebook)):
        others = ", ".join(runs[runs.notebook.isin(missing)].dataset.unique())
        raise ValueError(
            f"The runs of {', '.join(missing)} in {results} are on {others}; expected {dataset}. Run them again with it."
        )
    return on_it.reset_index(drop=True)


def read_curves(results):
    """Training curves of all methods as one table, with a column `notebook`."""
    return _read_tables(results, "curves", _methods_notebooks())


def read_arrays(results):
    """{method: {name: array}} of the predictions and embeddings that the reported runs left (see study.runs)."""
    arrays = {}
    for name, method in METHODS.items():
        with np.load(existing(f"{results}/{method.key}/predictions.npz", method.key)) as file:
            arrays[name] = dict(file)
    return arrays


def read_test_set(results):
    """(labels (N,) of the test images, names of the classes), as the notebook on the data left them."""
    with np.load(existing(f"{results}/data/test.npz", "data")) as file:
        return file["labels"], file["classes"].tolist()


def reported(rows):
    """The rows of the reported runs in fine-tuning: variant "main" of the method that each notebook is about. shots is a whole
    number there.

    Raises ValueError if a method has none, or has such on all images.
    """
    main = rows[_is_main(rows) & (rows.regime == "fine-tuning")]
    if missing := [name for name in METHODS if name not in set(main.method)]:
        keys = ", ".join(METHODS[name].key for name in missing)
        raise ValueError(f"{', '.join(missing)} have no reported runs (variant main); expected some of each method. Run {keys}.")
    if (main.trained_on != "few-shot").any():
        notebooks = ", ".join(main.notebook[main.trained_on != "few-shot"].unique())
        raise ValueError(
            f"{notebooks} report runs that are not few-shot; expected numbers of images per class, by which methods are compared "
            "here. Run these notebooks again with such numbers in `shots`."
        )
    return main.astype({"shots": int}).reset_index(drop=True)


def protocol_differences(runs):
    """Sentences on what is not the same for all methods at one number of shots, of PROTOCOL and the seeds; [] is fair."""
    differing = []
    for shots, group in runs.groupby("shots"):
        for name in [*PROTOCOL, "seeds"]:
            values = {method: _values(rows, name) for method, rows in group.groupby("method", sort=False)}
            if len(set(values.values())) > 1:
                differing.append(f"{name} at {shots} per class: " + ", ".join(f"{m} {value}" for m, value in values.items()))
    return differing


def variants_table(runs):
    """Accuracy, by the linear probe, of everything that is neither a trial nor a reported run, and its difference to its method's
    reported runs with the same shots and seeds, where there are such. Column `settings` is JSON: what tells it from these, and
    the runs of one variant from each other."""
    is_main, metric = _is_main(runs), "probe_accuracy"
    others, by = ~is_main & (runs.variant != "trial"), ["notebook", *BY]
    runs = runs.assign(settings="{}")
    for (_, method, _, trained_on, shots), rows in runs[others].groupby(by, dropna=False):
        beside = runs[is_main & (runs.method == method) & (runs.trained_on == trained_on) & (runs.shots == shots)]
        runs.loc[rows.index, "settings"] = _what_varies(rows, beside)
    by.append("settings")
    table = summarise(runs[others], metric, by)[[*by, "n", "mean", "low", "high"]]
    parts = [pd.DataFrame(columns=[*by, "difference", "difference_low", "difference_high"])]
    for method in table.method.unique():
        main = {"notebook": METHODS[method].key, "method": method, "variant": "main"}
        parts.append(_differences(paired_differences(runs[runs.method == method], main, metric, by), by))
    return table.merge(pd.concat(parts[1:] or parts), on=by, how="left", validate="one_to_one")


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
            confused = ((labels == a) & (predicted == b)) | ((labels == b) & (predicted == a))  # (seeds, N)
            share = 100 * confused.sum(1) / np.isin(labels, (a, b)).sum()
            rows.append([f"{classes[a]} / {classes[b]}", method, *interval(share), len(share)])
    table = pd.DataFrame(rows, columns=["pair", "method", "mean", "low", "high", "n"])
    top = table.groupby("pair", sort=False)["mean"].mean().nlargest(count).index
    return table.set_index("pair").loc[top].reset_index()


def step_times(runs, classes):
    """One row per reported run: metric "step_ms", its milliseconds of training per step."""
    rows = runs[runs.metric == "accuracy"]
    steps = rows.epochs * np.maximum(rows.shots * classes // rows.batch_size, 1)
    return rows.assign(metric="step_ms", value=1000 * rows.seconds / steps)


def time_ratios(times):
    """Time per step over that of CE, paired by seed: geometric mean and its 95 % interval, by method and shots."""
    logs = times.assign(value=np.log(times.value))
    table = paired_differences(logs, {"method": "CE"}, "step_ms", by=("method", "shots"))
    return table.assign(**{column: np.exp(table[column]) for column in ("mean", "low", "high")})


def _methods_notebooks():
    return [method.key for method in METHODS.values()]


def _read_tables(results, kind, notebooks):
    paths = {notebook: existing(f"{results}/{notebook}/{kind}.csv", notebook) for notebook in notebooks}
    tables = [pd.read_csv(path).assign(notebook=notebook) for notebook, path in paths.items()]
    table = pd.concat(tables, ignore_index=True)
    return table.astype({name: kind for name, kind in COUNTS.items() if name in table})


def _is_main(rows):
    return (rows.variant == "main") & (rows.notebook == rows.method.map({name: method.key for name, method in METHODS.items()}))


def _what_varies(rows, beside):
    """JSON texts (n,) of the settings that rows (n, ...) do not share with each other and with the rows beside."""
    all_rows = pd.concat([rows, beside])
    settings = all_rows.columns[all_rows.columns.get_loc("notebook") + 1 :]  # as with_settings puts them
    names = [name for name in settings if all_rows[name].map(str).nunique() > 1]
    return [json.dumps(row.dropna().to_dict()) for _, row in rows[names].astype(object).iterrows()]


def _values(rows, name):
    """The different values of a setting, or of the seeds, as text."""
    values = rows.seed if name == "seeds" else rows[name]
    return "/".join(sorted(values.astype(str).unique()))


def _differences(pairs, by):
    names = {"mean": "difference", "low": "difference_low", "high": "difference_high"}
    return pairs.rename(columns=names)[[*by, *names.values()]]


def _map(embeddings, seed):
    z = unit_rows(embeddings.astype(np.float32))
    with threadpool_limits(1):  # as a worker has, also in the main process, where there is one worker
        return TSNE(init="pca", perplexity=min(30, len(z) / 4), random_state=seed).fit_transform(z)
