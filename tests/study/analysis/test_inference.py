"""The effect of a cell against loops, the t-interval and simulated studies; the expected best of n trials against brute force."""

from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from study.analysis.coverage import Scenario, coverage
from study.analysis.inference import Arm, Effect, expected_best_validation, nested_bootstrap
from study.tables import interval


def made_up_arm(rng, coefficient=1.0, settings=3, draws=6, images=50):
    return Arm(rng.random((settings, draws)), rng.random((settings, draws, images)) < 0.7, coefficient)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("tuning_draws", [1, 3, 5])
def test_the_estimate_is_the_mean_over_all_ways_to_choose_on_some_draws_and_score_on_others(rng, tuning_draws):
    arms = [made_up_arm(rng, 1, settings=3), made_up_arm(rng, -1, settings=4)]
    differences = []
    for tuning in combinations(range(6), tuning_draws):
        for scored in set(range(6)) - set(tuning):
            accuracy = []
            for arm in arms:
                means = [sum(arm.validation[s, d] for d in tuning) for s in range(len(arm.validation))]
                accuracy.append(arm.correct[means.index(max(means)), scored].mean())
            differences.append(accuracy[0] - accuracy[1])
    effect = nested_bootstrap(arms, tuning_draws, replicates=10)
    assert_allclose(effect.estimate, 100 * np.mean(differences))


def test_a_replicate_chooses_and_scores_on_its_own_draws(rng):
    """The standard deviation of replicates that are made one by one, draw by draw."""
    arm, draws, tuning_draws = made_up_arm(rng, settings=3, draws=5), 5, 2
    values = []
    for _ in range(4000):
        times = np.bincount(rng.integers(draws, size=draws), minlength=draws)
        total = count = 0
        for tuning in combinations(range(draws), tuning_draws):
            copies = [d for d in tuning for _ in range(times[d])]
            scored = [d for d in range(draws) if d not in tuning for _ in range(times[d])]
            if copies:
                total += arm.correct[arm.validation[:, copies].mean(1).argmax()][scored].mean(1).sum()
                count += len(scored)
        if count:
            values.append(100 * total / count)
    effect = nested_bootstrap([arm], tuning_draws, replicates=8000)
    assert_allclose(effect.draw_error, np.std(values) * np.sqrt(5 / 4), rtol=0.05)  # four standard errors of the two


def test_with_one_setting_an_arm_it_is_the_t_interval_over_draws(rng):
    arms = [made_up_arm(rng, c, settings=1, draws=8, images=10**4) for c in (1, -1)]
    effect = nested_bootstrap(arms, tuning_draws=4, replicates=20000)
    differences = 100 * (arms[0].correct.mean(2) - arms[1].correct.mean(2))[0]
    mean, low, high = interval(differences)
    assert_allclose(effect.estimate, mean)
    assert_allclose(effect.draw_error, differences.std(ddof=1) / np.sqrt(8), rtol=0.03)
    without_images = Effect(mean, effect.draw_error, 0.0, 8, 10**4)
    assert_allclose(without_images.interval(), (low, high), atol=0.03 * (high - low))


def test_the_error_from_images_is_that_of_resampled_images(rng):
    difficulty = rng.random(400)
    arms = [Arm(rng.random((3, 6)), rng.random((3, 6, 400)) < difficulty * easier, c) for c, easier in ((1, 1.0), (-1, 0.9))]
    effect = nested_bootstrap(arms, 3, replicates=10)
    estimates = []
    for _ in range(1000):
        images = rng.integers(400, size=400)
        resampled = [Arm(arm.validation, arm.correct[..., images], arm.coefficient) for arm in arms]
        estimates.append(nested_bootstrap(resampled, 3, replicates=1).estimate)
    assert_allclose(effect.image_error, np.std(estimates), rtol=0.09)  # four standard errors


def test_draws_that_move_both_methods_alike_leave_their_difference_alone(rng):
    validation, correct = rng.random((2, 6)), np.zeros((2, 6, 100))
    for d in range(6):
        correct[:, d, : 10 * d + 10] = 1
    both = nested_bootstrap([Arm(validation, correct, 1), Arm(validation, correct, -1)], 3)
    alone = nested_bootstrap([Arm(validation, correct)], 3)
    assert both.estimate == 0 and both.draw_error < 1e-9 < 1 < alone.draw_error


def test_a_main_effect_is_the_mean_of_its_two_contrasts(rng):
    on, off = [[made_up_arm(rng) for _ in range(2)] for _ in range(2)]

    def contrast(arms):
        return nested_bootstrap([Arm(a.validation, a.correct, c) for a, c in arms], 3, replicates=200).estimate

    pairs = [contrast([(on[i], 1), (off[i], -1)]) for i in range(2)]
    main = contrast([(on[0], 0.5), (on[1], 0.5), (off[0], -0.5), (off[1], -0.5)])
    assert_allclose(main, np.mean(pairs))


def test_it_says_how_often_each_setting_is_chosen(rng):
    validation = np.array([[0.9] * 6, [0.5] * 6])
    effect = nested_bootstrap([Arm(validation, rng.random((2, 6, 20)) < 0.5)], 3, replicates=10)
    assert effect.chosen == ((1.0, 0.0),)


def test_more_draws_than_can_be_split_in_all_ways_are_split_at_random(rng):
    effect = nested_bootstrap([made_up_arm(rng, settings=2, draws=40)], 4, replicates=300)
    assert np.isfinite([effect.estimate, effect.draw_error]).all()
    assert effect == nested_bootstrap([made_up_arm(np.random.default_rng(5), settings=2, draws=40)], 4, replicates=300)


def test_p_is_below_a_level_where_the_interval_says_so():
    effect = Effect(1.0, 0.4, 0.1, draws=8, images=1000)
    low, high = effect.interval(0.95)
    assert_allclose([effect.p(low), effect.p(high), effect.p_below(high), effect.p_equivalence(high)], 0.05)
    assert effect.p(1.0) == 1.0 and effect.p_below(0.5) == 1.0 and effect.p_equivalence(0.9) == 1.0


def test_degrees_of_freedom_are_those_of_the_part_that_dominates():
    assert_allclose(Effect(0, 1.0, 0.0, draws=8, images=1000).degrees_of_freedom, 7)
    assert_allclose(Effect(0, 0.0, 1.0, draws=8, images=1000).degrees_of_freedom, 999)


def test_an_effect_without_any_spread_is_certain():
    effect = Effect(0.0, 0.0, 0.0, draws=8, images=1000)
    assert (effect.interval(), effect.p(), effect.p(0.5), effect.p_equivalence(1)) == ((0, 0), 1, 0, 0)


@pytest.mark.parametrize(
    "arms, tuning_draws, message",
    [
        (lambda rng: [made_up_arm(rng, draws=3)], 1, "1 of 3 draws for tuning; expected at least 4 draws"),
        (lambda rng: [made_up_arm(rng)], 6, "6 of 6 draws for tuning.*between 1 and 5"),
        (lambda rng: [made_up_arm(rng), made_up_arm(rng, images=51)], 3, r"\[\(6, 50\), \(6, 51\)\]; expected the same"),
        (lambda rng: [Arm(np.full((1, 6), 80.0), np.ones((1, 6, 5)))], 3, "validation has values from 80.0 to 80.0"),
        (lambda rng: [Arm(np.full((1, 6), np.nan), np.ones((1, 6, 5)))], 3, "every setting has to run on every draw"),
        (lambda rng: [Arm(np.ones((2, 6)), np.ones((6, 5)))], 3, r"validation has shape \(2, 6\) and correct \(6, 5\)"),
    ],
)
def test_arms_that_do_not_fit_are_refused_in_words(rng, arms, tuning_draws, message):
    with pytest.raises(ValueError, match=f"(?i){message}"):
        nested_bootstrap(arms(rng), tuning_draws)


def test_in_simulated_studies_the_nested_interval_holds_the_truth_and_the_one_after_a_single_choice_does_not():
    """200 studies; a coverage of 0.95 has a standard error of 0.015, and 0.90 is three of them below."""
    rows = coverage(
        Scenario(settings=(0.0, 0.4, 0.8, 1.2, 1.6, 2.0), images=500, validation=300), 10, 5, studies=200, replicates=150
    )
    share = rows.set_index("interval").coverage
    assert share["nested"] > 0.90
    assert share["chosen once"] < 0.85


def test_the_simulated_studies_have_the_accuracy_and_the_spread_that_are_asked_for():
    scenario = Scenario(settings=(0.0, 0.0), images=4000)
    rng = np.random.default_rng(1)
    accuracy = 100 * np.array([[correct.mean(2) for _, correct in scenario.study(40, rng)] for _ in range(20)])  # (20, 2, S, R)
    assert_allclose(accuracy.mean(), 80, atol=0.5)
    between_runs = (accuracy[:, 0, 0] - accuracy[:, 0, 1]).std(axis=1).mean() / np.sqrt(2)
    binomial = 0.4  # points, what chance adds at 4,000 images is less than sqrt(0.8 * 0.2 / 4000) of a run
    assert scenario.run * 0.9 < between_runs < np.hypot(scenario.run, 100 * binomial / np.sqrt(4000)) * 1.1


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_the_expected_best_of_n_trials_is_the_mean_over_all_ways_to_try_n(rng, n):
    scores = rng.random((5, 4))
    brute = np.mean([max(scores.mean(1)[list(tried)]) for tried in combinations(range(5), n)])
    mean, low, high = expected_best_validation(scores, n)
    assert_allclose(mean, brute)
    assert low < mean < high


def test_with_one_trial_the_expected_best_is_the_mean_with_its_t_interval_over_draws(rng):
    scores = rng.random((5, 4))
    assert_allclose(expected_best_validation(scores, 1), interval(scores.mean(0)))
    assert np.isnan(expected_best_validation(scores[:, :1], 2)[1:]).all()


def test_more_trials_than_settings_are_refused(rng):
    with pytest.raises(ValueError, match="n is 6; expected 1 to 5"):
        expected_best_validation(rng.random((5, 4)), 6)


def test_t_and_normal_agree_for_many_draws():
    low, high = Effect(0, 1.0, 0.0, draws=10**6, images=1000).interval()
    assert_allclose((low, high), stats.norm.interval(0.95), rtol=1e-4)
