"""What several cells say together: a hierarchical model of their effects, and in how many of them a claim holds."""

import numpy as np
import pandas as pd
from scipy import optimize, stats

PRIOR_MEAN, PRIOR_SPREAD = 5.0, 2.0  # points: weak beside the gains that papers report
SPREADS = np.linspace(0, 5 * PRIOR_SPREAD, 2001)  # the grid over the sd between cells


def across_cells(effects, errors, margin):
    """Posterior of the mean effect over cells, and of the effect in a new cell, in a random-effects model (after Benavoli et al.,
    2017): effect_k ~ N(theta_k, error_k^2), theta_k ~ N(mu, tau^2), with the weak priors mu ~ N(0, 5^2) and tau half-normal of
    scale 2, in points. The errors count as known and the cells as independent.

    effects, errors   (K,) points: Effect.estimate and Effect.error of each cell.
    margin            points: effects between -margin and margin are equivalent to none in practice.
    Returns a table with the rows "mean over cells" and "new cell" and the columns worse, equivalent and better (posterior
    probabilities that sum to 1), mean, and low and high of the central 95 %.
    """
    effects, errors = np.asarray(effects, dtype=float), np.asarray(errors, dtype=float)
    if effects.ndim != 1 or effects.shape != errors.shape or not (errors > 0).all() or not np.isfinite(effects).all():
        raise ValueError(f"effects are {effects} and errors {errors}; expected one finite effect and positive error per cell.")
    precision = 1 / (errors**2 + SPREADS[:, None] ** 2)  # (T, K)
    variance = 1 / (1 / PRIOR_MEAN**2 + precision.sum(1))  # (T,) of mu, given tau
    mean = variance * (precision @ effects)
    log_weight = np.log(precision).sum(1) / 2 + np.log(variance) / 2 + (mean**2 / variance - precision @ effects**2) / 2
    log_weight -= (SPREADS / PRIOR_SPREAD) ** 2 / 2
    weight = np.exp(log_weight - log_weight.max())
    weight[[0, -1]] /= 2  # trapezoids
    weight /= weight.sum()
    rows = {"mean over cells": np.sqrt(variance), "new cell": np.sqrt(variance + SPREADS**2)}
    return pd.DataFrame([_summary(weight, mean, sd, margin) for sd in rows.values()], index=list(rows))


def holds_in(p):
    """(K,) p of "the claim holds in at least u of the K cells", for u = 1 to K: partial conjunction in Bonferroni's form, valid
    whatever cells share (Benjamini and Heller, 2008; Dror et al., 2017), (K - u + 1) times the u-th smallest p. Each is at least
    the one before, so the number below 0.05 is a lower bound, with 95 % confidence, on the number of cells where the claim holds.

    p   (K,) one-sided, in the direction of the claim: Effect.p() / 2 where the estimate is positive, else 1 less that.
    """
    ordered = np.sort(np.asarray(p, dtype=float))
    return np.minimum(np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)), 1.0)


def _summary(weight, mean, sd, margin):
    """Of the mixture of normal distributions N(mean, sd^2), each with its weight."""

    def below(x):
        return float(weight @ stats.norm.cdf((x - mean) / sd))

    reach = 10 * sd.max()
    low, high = (
        optimize.brentq(lambda x, share=share: below(x) - share, mean.min() - reach, mean.max() + reach)
        for share in (0.025, 0.975)
    )
    worse, better = below(-margin), 1 - below(margin)
    probabilities = {"worse": worse, "equivalent": 1 - worse - better, "better": better}
    return probabilities | {"mean": float(weight @ mean), "low": low, "high": high}
