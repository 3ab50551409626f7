"""From effects to verdicts: one rule, several claims together, and several looks at growing numbers of draws.

All p here are two-sided levels: below 0.05 where the 95 % interval says so. Those of a claim are

p               the effect is not zero (Effect.p).
p_equivalence   it lies within the margin (Effect.p_equivalence).
p_smaller       it lies below the reported gain (Effect.p_below); 1 where no gain is reported.

The margin is the smallest effect of interest: half the reported gain or one point, whichever is less.

A study with several looks replaces each p by sequential_p; what looks at several claims replaces it by the adjusted one; both
in this order. The interval to show after look k of several has level 1 - nominal_levels(fractions)[k].
"""

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.05
SUPPORTED, SMALLER, EQUIVALENT, OPPOSITE = "supported", "smaller than reported", "equivalent to none", "opposite"
UNDECIDED, NOT_TESTABLE = "undecided", "not testable here"
VERDICTS = [SUPPORTED, SMALLER, EQUIVALENT, OPPOSITE, UNDECIDED, NOT_TESTABLE]
FURTHEST = 9.0  # standard deviations, beyond which a normal variable is as good as never

# One claim, several claims


def verdict(estimate, p, p_equivalence, p_smaller=1.0, testable=True):
    """The verdict on a claim, the first of these that holds; the words on intervals are the same rule for p as they come.

    not testable here       the cell's tuned cross-entropy does not clear the best floor: the lower bound of its effect against
                            that floor is not above 0. (The floors are one arm of nested_bootstrap, as if they were settings.)
    equivalent to none      p_equivalence < 0.05: the interval lies within the margin, on whichever side of 0.
    smaller than reported   p < 0.05, the estimate is positive, and p_smaller < 0.05: the interval lies between 0 and the gain.
    supported               p < 0.05 and the estimate is positive: the interval lies above 0.
    opposite                p < 0.05 and the estimate is negative: the interval lies below 0.
    undecided               else.
    """
    if not testable:
        return NOT_TESTABLE
    if p_equivalence < LEVEL:
        return EQUIVALENT
    if p >= LEVEL:
        return UNDECIDED
    if estimate < 0:
        return OPPOSITE
    return SMALLER if p_smaller < LEVEL else SUPPORTED


def judge(table):
    """The table of claims with two more columns: `alone`, the verdict on each claim by itself, and `verdict`, with all claims of
    its family together.

    table   a row per claim with columns family ("confirmatory" or "exploratory"), estimate, p, p_equivalence, p_smaller and
            testable.
    Confirmatory p are adjusted by Holm (1979): the chance of any false statement of a difference is at most 5 %, and so is that
    of a false equivalence, and of a false "smaller". Exploratory p are adjusted by Benjamini and Hochberg (1995): of each of
    these kinds of statements, at most 5 % are expected to be false. A claim that is not testable stays in its family with p = 1.
    """
    adjusted = table.copy()
    for name in ("p", "p_equivalence", "p_smaller"):
        adjusted[name] = adjusted[name].where(table.testable, 1.0)
        for family, adjust in (("confirmatory", holm), ("exploratory", benjamini_hochberg)):
            rows = table.family == family
            adjusted.loc[rows, name] = adjust(adjusted.loc[rows, name])
    columns = ["estimate", "p", "p_equivalence", "p_smaller", "testable"]
    alone, together = ([verdict(*row) for row in t[columns].itertuples(index=False)] for t in (table, adjusted))
    return table.assign(alone=alone, verdict=together)


def holm(p):
    """Adjusted p (Holm, 1979): the k-th smallest of m times m - k + 1, at least those before it, at most 1. A Series."""
    ordered = p.sort_values()
    adjusted = (ordered * np.arange(len(p), 0, -1)).cummax().clip(upper=1)
    return adjusted.reindex(p.index)


def benjamini_hochberg(p):
    """Adjusted p for the false discovery rate (Benjamini and Hochberg, 1995). (m,)"""
    return stats.false_discovery_control(p) if len(p) else p


# Several looks


def nominal_levels(fractions, level=LEVEL):
    """(K,) the level at which each look tests, so that all looks together err with probability `level`: an effect of zero is
    rejected at look k if p is below the k-th. The first looks take little (O'Brien and Fleming's shape, as a spending function:
    Lan and DeMets, 1983), so the last is tested at almost the full level.

    fractions   (K,) increasing, at most 1: draws at each look so far over those of the last look that is planned.

    Two-sided and symmetric: each side spends 2 - 2 Phi(z / sqrt(t)) by fraction t, with z the 1 - level / 4 quantile.
    """
    fractions = np.asarray(fractions, dtype=float)
    if not (len(fractions) and fractions[0] > 0 and (np.diff(fractions) > 0).all() and fractions[-1] <= 1):
        raise ValueError(f"fractions are {fractions.tolist()}; expected increasing numbers above 0 and at most 1.")
    spent = 4 * stats.norm.sf(stats.norm.isf(level / 4) / np.sqrt(fractions))
    return 2 * stats.norm.sf(_boundaries(fractions, np.diff(spent, prepend=0)))


def sequential_p(p_of_looks, fractions):
    """The p of all looks so far together: the least level at which one of them rejects (the repeated p of Jennison and Turnbull,
    2000). With one look at fraction 1 it is that look's p.

    p_of_looks, fractions   (K,) of the looks so far; fractions as for nominal_levels.
    """
    p_of_looks = np.asarray(p_of_looks, dtype=float)
    if p_of_looks.shape != np.shape(fractions):
        raise ValueError(f"p_of_looks has shape {p_of_looks.shape}, fractions {np.shape(fractions)}; expected one p per look.")

    def rejects_by(log_level):  # grows with the level
        nominal = nominal_levels(fractions, np.exp(log_level))
        return np.log(np.maximum(nominal, 1e-300) / np.maximum(p_of_looks, 1e-300)).max()

    least, greatest = np.log(1e-12), np.log(0.999)
    if rejects_by(greatest) < 0:
        return 1.0
    return float(np.exp(optimize.brentq(rejects_by, least, greatest, xtol=1e-10))) if rejects_by(least) < 0 else 1e-12


def _boundaries(fractions, spent):
    """(K,) |z| at which each look rejects, having rejected with probability `spent` (K,) there and not before.

    The score s = z sqrt(t) moves by independent normal steps of variance t_k - t_{k-1}. Its density where no look has rejected
    is carried along on Gauss-Legendre nodes (Armitage, McPherson and Rowe, 1969).
    """
    nodes, weights = np.polynomial.legendre.leggauss(101)
    boundaries, score, mass, before = [], np.zeros(1), np.ones(1), 0.0
    for t, probability in zip(fractions, spent, strict=True):
        step, root = np.sqrt(t - before), np.sqrt(t)

        def excess(z, root=root, step=step, score=score, mass=mass, probability=probability):
            beyond = special.ndtr((score - z * root) / step) + special.ndtr((-z * root - score) / step)
            return mass @ beyond - probability

        z = optimize.brentq(excess, 0, FURTHEST, xtol=1e-12) if excess(FURTHEST) < 0 < excess(0) else FURTHEST
        boundaries.append(z)
        edge = z * root
        density = np.exp(-(((edge * nodes[:, None] - score) / step) ** 2) / 2) @ mass / (step * np.sqrt(2 * np.pi))
        score, mass, before = edge * nodes, edge * weights * density, t
    return np.array(boundaries)
