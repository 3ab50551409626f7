"""From the long table of runs to means, 95 % intervals and paired differences."""

import json

import numpy as np
import pandas as pd
from scipy import stats

BY = ("method", "variant", "trained_on", "shots")  # what tells the runs of a table apart, but for settings and seeds


def with_settings(frame):
    """The long table with a column for each setting in place of the JSON column `settings`; blank where a run has none such.

    This is where numbers come from: a sweep groups by such a column. Raises ValueError if a setting is called as a column.
    """
    read = {text: json.loads(text) for text in frame.settings.unique()}
    settings = pd.DataFrame([read[text] for text in frame.settings], index=frame.index)
    if both := settings.columns.intersection(frame.columns).tolist():
        raise ValueError(f"settings called {', '.join(both)} would replace columns of the table; give them other names.")
    return frame.drop(columns="settings").join(settings)


def images_in_words(trained_on, shots):
    """What a run learns from, by its columns of these names: "20 per class", or "all images"."""
    return f"{int(shots)} per class" if trained_on == "few-shot" else "all images"


def interval(values):
    """(mean, low, high): the mean of values (n,) and its 95 % t-interval; nan bounds for a single value."""
    values = np.asarray(values, dtype=float)
    mean = values.mean()
    if len(values) < 2:
        return mean, np.nan, np.nan
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, mean - half, mean + half


def summarise(runs, metric="accuracy", by=BY):
    """One row per group of runs: mean, low, high and n over its seeds. Groups keep the order they appear in."""
    groups = runs[runs.metric == metric].groupby(list(by), sort=False, dropna=False).value
    rows = [[*key, *interval(values), len(values)] for key, values in groups]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n"])


def paired_differences(runs, reference, metric="accuracy", by=BY):
    """Like summarise, of each run's difference to the run of `reference` that has the same dataset, shots and seed and is trained
    on the same kind of images. A seed that the reference did not run is left out.

    reference   {column: value}, such as {"method": "CE"}; a setting is a column after with_settings.
    Raises ValueError if the reference has several runs for one seed.
    """
    runs = runs[runs.metric == metric]
    same = ["dataset", "trained_on", "shots", "seed"]
    is_reference = np.logical_and.reduce([runs[column] == value for column, value in reference.items()])
    references = runs[is_reference][[*same, "value"]]
    if references.duplicated(same).any():
        raise ValueError(f"{reference} names several runs with {metric} for one seed; name more columns, such as a setting.")
    pairs = runs.merge(references, on=same, suffixes=("", "_reference"))  # runs on all images are paired by their blank shots
    return summarise(pairs.assign(value=pairs.value - pairs.value_reference), metric, by)


def verdict(mean, low, high, unit="points", better="better", worse="worse"):
    """A difference in the words that its 95 % interval supports."""
    shown, *bounds = in_digits((mean, low, high))
    if np.isnan(low):
        return f"{shown} {unit} in a single pair, which decides nothing"
    bounds = "95 % interval {} to {}".format(*bounds)
    if low > 0 or high < 0:
        return f"{better if low > 0 else worse} by {shown[1:]} {unit} ({bounds})"
    return f"no difference seen ({shown} {unit}, {bounds})"


def in_digits(values, digits=None, plus="+"):
    """Numbers as text, with a sign. Unless `digits` are given there is one behind the point, or more, so that a number near 0
    shows on which side it is."""
    if digits is None:
        smallest = min((abs(value) for value in values if value), default=1)
        digits = 1 + (smallest < 0.05) + (smallest < 0.005)
    return [f"{round(value, digits) + 0.0:{plus}.{digits}f}" for value in values]  # + 0.0: no "-0.0"


def tally_in_words(differences, what):
    """Rows of paired_differences counted by what their 95 % intervals say: "of 5 mixtures, 2 are higher, 0 are lower and 3
    cannot be told apart"."""
    higher, lower = (differences["low"] > 0).sum(), (differences["high"] < 0).sum()
    n = len(differences)
    return f"of {n} {what}, {higher} are higher, {lower} are lower and {n - higher - lower} cannot be told apart"
