"""From the long table of runs to means, 95 % intervals and paired differences."""

import numpy as np
import pandas as pd
from scipy import stats

# The notebook that chooses a method's settings and reports its runs, in results/<stage>/runs.csv.
STAGES = {"CE": "cross_entropy", "SupCon": "supcon", "SCHaNe": "schane", "CLCE": "clce", "GenSCL": "genscl"}


def images_in_words(shots):
    """What a run learns from, by its `shots` in the long table: "20 per class", or "all images" for "full" and "all"."""
    return "all images" if shots in ("full", "all") else f"{shots} per class"


def interval(values):
    """(mean, low, high): the mean of values (n,) and its 95 % t-interval; nan bounds for a single value."""
    values = np.asarray(values, dtype=float)
    mean = values.mean()
    if len(values) < 2:
        return mean, np.nan, np.nan
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, mean - half, mean + half


def summarise(runs, metric="accuracy", by=("method", "variant", "shots")):
    """One row per group of runs: mean, low, high and n over its seeds. Groups keep the order they appear in."""
    groups = runs[runs.metric == metric].groupby(list(by), sort=False, dropna=False).value
    rows = [[*key, *interval(values), len(values)] for key, values in groups]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n"])


def paired_differences(runs, reference, metric="accuracy", by=("method", "variant", "shots")):
    """Like summarise, of each run's difference to the run of `reference` (a dict such as {"method": "CE"}) that has the same
    dataset, shots and seed. A seed that the reference did not run is left out."""
    runs = runs[runs.metric == metric]
    same = ["dataset", "shots", "seed"]
    is_reference = np.logical_and.reduce([runs[column] == value for column, value in reference.items()])
    pairs = runs.merge(runs[is_reference][[*same, "value"]], on=same, suffixes=("", "_reference"), validate="many_to_one")
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
