"""The hierarchical model against a grid over both of its parameters, and partial conjunction against its definition."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from study.analysis.across import across_cells, holds_in

EFFECTS, ERRORS = np.array([1.2, 0.4, 2.0, -0.3, 0.9]), np.array([0.5, 0.6, 0.4, 0.7, 0.5])


def brute_force(margin):
    """Columns worse, equivalent, better, mean of both rows, by a grid over (mu, tau) and samples of a new cell."""
    mu, tau = np.linspace(-8, 10, 901)[:, None], np.linspace(0, 10, 501)
    likelihood = np.prod([stats.norm.pdf(y, mu, np.hypot(e, tau)) for y, e in zip(EFFECTS, ERRORS, strict=True)], axis=0)
    posterior = likelihood * stats.norm.pdf(mu, 0, 5) * stats.halfnorm.pdf(tau, scale=2)
    posterior[:, 0] /= 2
    posterior /= posterior.sum()
    of_mean, rng = posterior.sum(1), np.random.default_rng(0)
    edges = [of_mean[mu[:, 0] < -margin].sum(), of_mean[mu[:, 0] > margin].sum(), (of_mean * mu[:, 0]).sum()]
    i, j = np.divmod(rng.choice(posterior.size, 10**6, p=posterior.ravel()), len(tau))
    new = rng.normal(mu[i, 0], tau[j])
    return edges, [(new < -margin).mean(), (new > margin).mean(), new.mean()], np.quantile(new, [0.025, 0.975])


def test_the_posterior_is_that_of_a_grid_over_mean_and_spread():
    table = across_cells(EFFECTS, ERRORS, margin=0.5)
    mean, new, new_interval = brute_force(0.51)  # half a step of the grid off the margin, which is on it
    columns = ["worse", "better", "mean"]
    assert_allclose(table.loc["mean over cells", columns].astype(float), mean, atol=0.01)
    assert_allclose(table.loc["new cell", columns].astype(float), new, atol=0.01)
    assert_allclose(table.loc["new cell", ["low", "high"]].astype(float), new_interval, atol=0.05)
    assert_allclose(table[["worse", "equivalent", "better"]].sum(axis=1), 1)


def test_a_new_cell_is_less_certain_than_the_mean():
    table = across_cells(EFFECTS, ERRORS, 0.5)
    assert (table.high - table.low)["new cell"] > (table.high - table.low)["mean over cells"]


def test_many_precise_equal_effects_are_what_they_are():
    table = across_cells(np.full(30, 0.1), np.full(30, 0.05), margin=0.5)
    assert table.loc["mean over cells", "equivalent"] > 0.999 and table.loc["new cell", "equivalent"] > 0.99


def test_a_cell_without_a_known_error_is_refused():
    with pytest.raises(ValueError, match="expected one finite effect and positive error per cell"):
        across_cells([1.0, 2.0], [0.5, 0.0], 0.5)


def test_the_p_of_at_least_u_cells_is_the_largest_bonferroni_p_over_all_choices_of_the_others():
    """At least u of K hold unless some K - u + 1 all fail: the p of the least favourable choice of these."""
    from itertools import combinations

    p = np.random.default_rng(4).random(5) ** 3
    expected = [max(min(1, (6 - u) * min(some)) for some in combinations(p, 6 - u)) for u in range(1, 6)]
    assert_allclose(holds_in(p), np.maximum.accumulate(expected))


def test_the_number_of_cells_is_overstated_in_at_most_five_percent_of_studies():
    rng = np.random.default_rng(6)
    p = np.concatenate([rng.random((3000, 3)), np.full((3000, 2), 1e-9)], axis=1)  # it holds in two of five cells
    overstated = [(holds_in(row) < 0.05).sum() > 2 for row in p]
    assert np.mean(overstated) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 3000)
