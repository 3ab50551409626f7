"""Verdicts against intervals, families against simulation, and boundaries of several looks against published ones, SciPy and
simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import stats

from study.analysis.decisions import (
    EQUIVALENT,
    NOT_TESTABLE,
    OPPOSITE,
    SMALLER,
    SUPPORTED,
    UNDECIDED,
    benjamini_hochberg,
    holm,
    judge,
    nominal_levels,
    sequential_p,
    verdict,
)
from study.analysis.inference import Effect


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_is_the_closed_test_of_bonferroni(values):
    """By definition: the largest Bonferroni-adjusted smallest p of all sets of hypotheses that hold this one."""
    n = len(values)
    sets = [[i for i in range(n) if mask >> i & 1] for mask in range(1, 2**n)]
    expected = [max(min(1, len(s) * min(values[j] for j in s)) for s in sets if i in s) for i in range(n)]
    index = [f"claim {i}" for i in range(n)]
    adjusted = holm(pd.Series(values, index))
    assert adjusted.index.tolist() == index
    assert_allclose(adjusted, expected)


def verdict_of(effect, margin, reported, testable=True):
    return verdict(effect.estimate, effect.p(), effect.p_equivalence(margin), effect.p_below(reported), testable)


@pytest.mark.parametrize(
    "estimate, expected",
    [(4.0, SUPPORTED), (3.0, SUPPORTED), (1.5, SMALLER), (0.3, EQUIVALENT), (-0.3, EQUIVALENT), (0.5, UNDECIDED), (-2, OPPOSITE)],
)
def test_each_verdict_has_its_interval(estimate, expected):
    """Intervals of half-width 0.67 about the estimate, a margin of 1 point and a reported gain of 3."""
    effect = Effect(estimate, 0.3, 0.0, draws=11, images=1000)
    assert verdict_of(effect, 1.0, 3.0) == expected
    assert verdict_of(effect, 1.0, 3.0, testable=False) == NOT_TESTABLE


@given(st.floats(-6, 6), st.floats(0.05, 3), st.floats(0.2, 8))
def test_the_verdict_is_what_the_interval_says(estimate, error, reported):
    effect, margin = Effect(estimate, error, 0.0, draws=9, images=1000), min(reported / 2, 1)
    low, high = effect.interval()
    if -margin < low and high < margin:
        expected = EQUIVALENT
    elif low > 0:
        expected = SMALLER if high < reported else SUPPORTED
    else:
        expected = OPPOSITE if high < 0 else UNDECIDED
    assert verdict_of(effect, margin, reported) == expected


def claims_table(rows):
    return pd.DataFrame(rows, columns=["family", "estimate", "p", "p_equivalence", "p_smaller", "testable"])


def test_claims_of_a_family_are_judged_together():
    rows = [("confirmatory", 2.0, p, 1.0, 1.0, True) for p in (0.001, 0.02, 0.03)]
    table = judge(claims_table(rows))
    assert table.alone.tolist() == [SUPPORTED] * 3
    assert table.verdict.tolist() == [SUPPORTED, SUPPORTED, SUPPORTED]  # 0.003, 0.04, 0.04
    table = judge(claims_table([*rows, ("confirmatory", -1, 0.04, 1.0, 1.0, False)]))  # the fourth counts with p = 1
    assert table.verdict.tolist() == [SUPPORTED, UNDECIDED, UNDECIDED, NOT_TESTABLE]  # 0.004, 0.06, 0.06
    table = judge(claims_table([("exploratory", *row[1:]) for row in rows]))
    assert table.verdict.tolist() == [SUPPORTED] * 3


def test_families_do_not_weigh_on_each_other_and_may_be_empty():
    rows = [("confirmatory", 2.0, 0.03, 1.0, 1.0, True), *(("exploratory", 0.0, 0.9, 1.0, 1.0, True),) * 9]
    assert judge(claims_table(rows)).verdict[0] == SUPPORTED
    assert len(judge(claims_table(rows[:1]))) == 1


def test_what_does_not_survive_as_smaller_is_still_supported():
    rows = [("confirmatory", 1.5, 1e-5, 1.0, 0.04, True), ("confirmatory", 1.5, 1e-5, 1.0, 0.9, True)]
    table = judge(claims_table(rows))
    assert (table.alone[0], table.verdict[0]) == (SMALLER, SUPPORTED)


def test_holm_keeps_the_chance_of_any_false_rejection():
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random((800, 7)), np.full((800, 3), 1e-6)], axis=1)  # seven true hypotheses of ten
    false = [(holm(pd.Series(row))[:7] < 0.05).any() for row in p]
    assert np.mean(false) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 800)


def test_benjamini_hochberg_adjusts_as_by_hand():
    assert_allclose(benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.5])), [0.04, 0.16 / 3, 0.16 / 3, 0.5])


@pytest.mark.parametrize(
    "fractions, published",  # ldbounds and Lan-DeMets tables, O'Brien-Fleming spending, two-sided 5 %
    [
        ([0.2, 0.4, 0.6, 0.8, 1.0], [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        ([0.25, 0.5, 0.75, 1.0], [4.3326, 2.9631, 2.3590, 2.0141]),
        ([1.0], [1.9600]),
    ],
)
def test_boundaries_are_the_published_ones(fractions, published):
    assert_allclose(stats.norm.isf(nominal_levels(fractions) / 2), published, atol=2e-4)


def test_boundaries_spend_what_the_multivariate_normal_says():
    fractions = np.array([0.25, 0.5, 1.0])
    z = stats.norm.isf(nominal_levels(fractions) / 2)
    covariance = np.sqrt(np.minimum.outer(fractions, fractions) / np.maximum.outer(fractions, fractions))
    inside = stats.multivariate_normal(cov=covariance, seed=0, abseps=1e-7, maxpts=10**6).cdf(z, lower_limit=-z)
    assert_allclose(1 - inside, 0.05, atol=1e-4)


def test_looks_at_growing_numbers_of_draws_err_as_often_as_one():
    """40,000 studies without an effect, with a t-test at 10, 20 and 40 draws; a share of 0.05 has a standard error of 0.0011."""
    draws = np.random.default_rng(2).normal(size=(40000, 40))
    looks = (10, 20, 40)
    p = np.stack([stats.ttest_1samp(draws[:, :n], 0, axis=1).pvalue for n in looks], axis=1)
    assert abs((p < nominal_levels(np.array(looks) / 40)).any(1).mean() - 0.05) < 0.004
    assert (p < 0.05).any(1).mean() > 0.09  # looking without boundaries


def test_the_p_of_several_looks_falls_below_a_level_just_where_one_of_them_rejects():
    fractions, rng = [0.25, 0.5, 1.0], np.random.default_rng(3)
    for p in rng.random((6, 3)) ** 4:
        for level in (0.01, 0.05, 0.2):
            assert (sequential_p(p, fractions) < level) == (p < nominal_levels(fractions, level)).any()


def test_the_p_of_one_look_at_all_draws_is_its_own():
    assert_allclose([sequential_p([p], [1.0]) for p in (0.001, 0.03, 0.7)], [0.001, 0.03, 0.7], rtol=1e-6)
    assert sequential_p([1.0, 1.0], [0.5, 1.0]) == 1.0


def test_looks_that_do_not_grow_are_refused():
    with pytest.raises(ValueError, match=r"fractions are \[0.5, 0.5\]; expected increasing"):
        nominal_levels([0.5, 0.5])
    with pytest.raises(ValueError, match="expected one p per look"):
        sequential_p([0.5], [0.5, 1.0])
