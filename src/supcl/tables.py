"""From the long table of runs to means, 95 % intervals and paired differences."""

import numpy as np
import pandas as pd
from scipy import stats


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


def difference_in_words(row):
    """A row of paired_differences as words, such as "1.2 points higher (95 % interval 0.3 to 2.1, without 0; 5 pairs)"."""
    mean, low, high = row["mean"], row["low"], row["high"]
    size = f"{abs(mean):.1f} points {'higher' if mean >= 0 else 'lower'}"
    if np.isnan(low):
        return f"{size} (1 pair, no interval)"
    zero = "with 0 inside" if low <= 0 <= high else "without 0"
    return f"{size} (95 % interval {low:.1f} to {high:.1f}, {zero}; {int(row['n'])} pairs)"


def tally_in_words(differences, what):
    """Rows of paired_differences counted by what their 95 % intervals say: "of 5 mixtures, 2 are higher, 0 are lower and 3
    cannot be told apart"."""
    higher, lower = (differences["low"] > 0).sum(), (differences["high"] < 0).sum()
    n = len(differences)
    return f"of {n} {what}, {higher} are higher, {lower} are lower and {n - higher - lower} cannot be told apart"
