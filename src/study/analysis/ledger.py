"""The ledger: what the papers say, and we about their code, that is no difference of accuracy in a cell (robustness, transfer,
collapse, habits of the released code, cost). It is exploratory: none of it was written down before the runs. What is, and what
compares the accuracy of methods, is in notebooks/claims.yaml and study.analysis.judgement.

A claim is data (a Claim); what turns it into numbers is a function from the tables of runs to one effect per pair of runs,
signed so that positive is what the claim says. The rule, the same for all, on the 95 % t-interval of the mean effect:

effect    "A is better than B": `supported` if the interval lies above 0, `opposite` if it lies below, else `undecided`.
at most   "this is no more than the margin": `supported` if the interval lies below the margin, `opposite` if it lies above, else
          `undecided`.
check     an identity, or what follows from a formula: `verified` if the largest deviation from it is below the margin, else
          `refuted`. Chance has no part in it, and it does not count as a claim that survived.

p is two-sided, for the mean being at the margin. `alone` is the verdict on a claim by itself, `verdict` that with all claims of
the ledger together, where at most 5 % of those decided are expected to be false (Benjamini and Hochberg, 1995).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize, stats

from study.analysis.comparison import read_runs, reported
from study.analysis.decisions import LEVEL, OPPOSITE, SUPPORTED, UNDECIDED, benjamini_hochberg
from study.tables import interval

POWER = 0.8
VERIFIED, REFUTED = "verified", "refuted"


@dataclass(frozen=True)
class Claim:
    """One claim and how it is tested.

    claim     one sentence, short enough for a row of a table.
    reported  the paper's own number and setting, with its place; blank where not known.
    setting   ours, and the contrast; {few} and {more} stand for the numbers of images per class.
    effects   (Tables, metric) -> pandas Series, one effect per pair; of a check, one deviation per batch.
    figure    the figure that shows the runs, as <notebook>/<name>.
    kind      "effect", "at most" or "check": see the module.
    over      what a pair is.
    """

    id: str
    paper: str
    claim: str
    reported: str
    setting: str
    metric: str
    unit: str
    effects: Callable
    figure: str
    kind: str = "effect"
    margin: float = 0.0
    over: str = "seeds"

    def __post_init__(self):
        if self.kind not in ("effect", "at most", "check"):
            raise ValueError(f"kind of {self.id} is {self.kind!r}; expected 'effect', 'at most' or 'check'.")


@dataclass(frozen=True)
class Runs:
    """Which runs: those of a notebook ("supcon"), with a variant, a method (None: any), trained on the fewest images per class of
    the reported runs ("few"), on all images ("full") or on frozen features ("features"; None: on any), and with these settings.
    """

    notebook: str
    variant: str
    method: str | None = None
    trained_on: str | None = None
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Tables:
    """The long tables of all notebooks as one, with a column `notebook` and one for each setting, and the checks: columns check,
    seed, value, notebook."""

    runs: pd.DataFrame
    checks: pd.DataFrame

    @classmethod
    def read(cls, results, dataset):
        """From <notebook>/runs.csv, what was run on this dataset, and <notebook>/checks.csv."""
        paths = {kind: sorted(Path(results).glob(f"*/{kind}.csv")) for kind in ("runs", "checks")}
        runs = read_runs(results, dataset, [path.parent.name for path in paths["runs"]])
        checks = [pd.read_csv(path).assign(notebook=path.parent.name) for path in paths["checks"]]
        none = pd.DataFrame(columns=["check", "seed", "value", "notebook"])
        return cls(runs, pd.concat(checks or [none]))

    @cached_property
    def few(self):
        """The smallest number of images per class of the reported runs."""
        return int(reported(self.runs).shots.min())

    def values(self, metric, which, by=()):
        """Series of a metric at the end of the runs `which`, by seed, and by the settings named in `by`."""
        table = self._of_notebook("runs", which.notebook)
        table = table.reindex(columns=table.columns.union([*which.settings, *by], sort=False))  # blank if no run has a setting
        wanted = {"variant": which.variant, "metric": metric} | self._images(which.trained_on) | which.settings
        if which.method:
            wanted["method"] = which.method
        matches = [(table[column] == value).fillna(False) for column, value in wanted.items()]
        rows = table[np.logical_and.reduce([table.epoch.isna(), *matches])]
        if rows.empty or rows[["value", *by]].isna().any(axis=None):
            raise ValueError(
                f"The runs of {which.notebook} have {'no value' if rows.empty else 'a blank'} of {metric} for {which}. "
                f"Their variants: {', '.join(table.variant[table.variant != 'trial'].unique())}. "
                "Run that notebook again, or correct the claim."
            )
        return rows.set_index([*by, "seed"]).value.astype(float)

    def _images(self, trained_on):
        """Columns of the runs that Runs.trained_on names."""
        if trained_on == "few":
            return {"trained_on": "few-shot", "shots": self.few}
        return {"trained_on": trained_on} if trained_on else {}

    def paired(self, metric, a, b, by=()):
        """a minus b of the runs that share a seed, and the settings named in `by`."""
        one, other = self.values(metric, a, by), self.values(metric, b, by)
        for values, which in ((one, a), (other, b)):
            if values.index.has_duplicates:
                raise ValueError(f"{which} has several values of {metric} for one seed; name method, trained_on or settings too.")
        both = one.index.intersection(other.index)
        if both.empty:
            raise ValueError(f"{a} and {b} have no seed in common, so nothing can be paired. Run them with the same seeds.")
        return one[both] - other[both]

    def sweep(self, metric, which, setting):
        """A table of a metric of the runs `which`: a row per seed and a column per value of `setting`, a number, in order."""
        table = self.values(metric, which, by=(setting,)).unstack(setting).dropna()  # seeds that have all numbers
        if table.empty or table.shape[1] < 2:
            raise ValueError(
                f"{which} has {len(table)} complete seeds of {table.shape[1]} values of {setting}; expected two values."
            )
        return table

    def check(self, notebook, name):
        """The values of a check, by seed."""
        table = self._of_notebook("checks", notebook)
        values = table[table.check == name].set_index("seed").value
        if values.empty:
            raise ValueError(f"{notebook}/checks.csv has no check '{name}': {', '.join(table.check.unique())}.")
        return values

    def _of_notebook(self, kind, notebook):
        table = getattr(self, kind)
        rows = table[table.notebook == notebook]
        if rows.empty:
            raise ValueError(f"{notebook}/{kind}.csv is missing or empty. Run that notebook with the same `results` first.")
        return rows


# The ledger


def ledger(tables, claims):
    """One row per claim, in order: what was claimed, the effect with its 95 % interval, and the verdict.

    runs            number of pairs (of a check: batches).
    effect          mean effect; of a check, the largest deviation.
    detectable      smallest distance from the margin that so many pairs, spread as these are, would find four times in five.
    p               see the module; blank for checks, which no chance touches.
    alone, verdict  see the module.
    """
    table = pd.DataFrame([_row(claim, tables) for claim in claims])
    tested = table.kind != "check"
    together = pd.Series(benjamini_hochberg(table.p[tested]), table.index[tested])
    return table.assign(verdict=table.alone.mask(tested & (together.reindex(table.index) >= LEVEL), UNDECIDED))


def verdict(low, high, kind="effect", margin=0.0):
    """What an interval says on a claim (see the module). nan bounds, of a single pair, decide nothing."""
    says = {"effect": (SUPPORTED, OPPOSITE), "at most": (OPPOSITE, SUPPORTED)}[kind]
    if low > margin:
        return says[0]
    return says[1] if high < margin else UNDECIDED


def p_value(effects, margin=0.0):
    """Two-sided p of Student's t test that the mean of effects (n,) is `margin`; 1 for a single pair, which rejects nothing."""
    n, distance = len(effects), abs(np.mean(effects) - margin)
    if n < 2 or distance == 0:
        return 1.0
    error = np.std(effects, ddof=1) / np.sqrt(n)
    return float(2 * stats.t.sf(distance / error, n - 1)) if error > 0 else 0.0


def detectable(sd, n):
    """Mean effect that a two-sided paired t test at 5 % finds with 80 % power in n pairs whose effects have this sd."""
    if n < 2:
        return np.nan
    edge = stats.t.ppf(1 - LEVEL / 2, n - 1)

    def shortfall(shift):  # the tail on the other side holds next to nothing at such power
        return stats.nct.sf(edge, n - 1, shift) - POWER

    return optimize.brentq(shortfall, 0, min(3 * edge, 37)) * sd / np.sqrt(n)  # beyond 37 SciPy's distribution gives up


def _row(claim, tables):
    try:
        effects = claim.effects(tables, claim.metric)
    except ValueError as error:
        raise ValueError(f"Claim {claim.id} cannot be judged. {error}") from error
    row = {name: getattr(claim, name) for name in ("id", "paper", "claim", "reported")}
    row["setting"] = claim.setting.format(few=tables.few)
    row |= {name: getattr(claim, name) for name in ("metric", "unit", "kind", "margin", "over")} | {"runs": len(effects)}
    if effects.empty or effects.isna().any():
        raise ValueError(f"Claim {claim.id} has no effect for some pairs, or no pairs: {effects.to_dict()}.")
    if claim.kind == "check":
        worst = float(effects.abs().max())
        row |= {"effect": worst} | dict.fromkeys(("low", "high", "detectable", "p"), np.nan)
        row["alone"] = VERIFIED if worst < claim.margin else REFUTED
    else:
        effects = effects.to_numpy(float)
        mean, low, high = interval(effects)
        smallest = detectable(effects.std(ddof=1), len(effects)) if len(effects) > 1 else np.nan
        row |= {"effect": mean, "low": low, "high": high, "detectable": smallest, "p": p_value(effects, claim.margin)}
        row["alone"] = verdict(low, high, claim.kind, claim.margin)
    notebook, name = claim.figure.split("/")
    return row | {"figure": f"{notebook}/figures/{name}.png"}
