"""How much better is a method than another in a cell, when the settings of both are chosen: the effect, its error and its tests.

A cell is a data set, a regime and a number of labels. Every setting of a method runs on every draw of training images, so that
the choice of settings can be repeated on some draws and judged on others. Accuracies come as arrays of three letters: S settings
of a method, R draws, M test images. Draws and test images are the same for all methods of a cell, which pairs them. Where a draw
has several initialisations, give their mean: they then count within their draw, as they should.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy import stats

from study.tables import interval

MIN_DRAWS = 4  # a resample of three draws leaves too few distinct ones to choose on some and to score on others
MAX_SPLITS = 500  # all ways to split up to eleven draws into halves; of more draws, so many random ones
CHUNK = 250  # replicates at once: some tens of megabytes


@dataclass(frozen=True)
class Arm:
    """One method in a contrast, or a variant of one, with the settings among which it is tuned.

    validation    (S, R) accuracy on the validation images, by which settings are chosen.
    correct       (S, R, M) which test images are classified correctly: booleans, or shares over initialisations.
    coefficient   the arm's weight in the contrast: 1 for a method and -1 for its reference; a main effect of a crossed design
                  has two arms of 0.5 and two of -0.5; a single arm of 1 is an accuracy.

    Raises ValueError if the shapes do not fit or a value is missing or outside 0 to 1.
    """

    validation: np.ndarray
    correct: np.ndarray
    coefficient: float = 1.0

    def __post_init__(self):
        shapes = np.shape(self.validation), np.shape(self.correct)
        if len(shapes[0]) != 2 or len(shapes[1]) != 3 or shapes[1][:2] != shapes[0]:
            raise ValueError(
                f"validation has shape {shapes[0]} and correct {shapes[1]}; expected (S, R) and (S, R, M) with the same "
                "S settings and R draws."
            )
        for name in ("validation", "correct"):
            values = getattr(self, name)
            if not (np.min(values) >= 0 and np.max(values) <= 1):  # nan fails too
                raise ValueError(
                    f"{name} has values from {np.min(values)} to {np.max(values)}; expected shares of images from 0 to 1, none "
                    "missing. Every setting has to run on every draw."
                )


@dataclass(frozen=True)
class Effect:
    """A contrast of accuracies in points, and how far it may be off.

    draw_error    standard error from the draws, the training on them and the choice of settings.
    image_error   standard error from the test images.
    chosen        for each arm, the share of the splits in which each of its settings is chosen, (S,) numbers.
    """

    estimate: float
    draw_error: float
    image_error: float
    draws: int
    images: int
    chosen: tuple = ()

    @property
    def error(self):
        return float(np.hypot(self.draw_error, self.image_error))

    @property
    def degrees_of_freedom(self):
        """Of the sum of the two variances (Satterthwaite, 1946)."""
        parts = (self.draw_error**4 / (self.draws - 1), self.image_error**4 / (self.images - 1))
        return self.error**4 / sum(parts) if self.error > 0 else self.draws - 1.0

    def interval(self, level=0.95):
        """(low, high) of a two-sided t-interval."""
        half = float(stats.t.ppf((1 + level) / 2, self.degrees_of_freedom)) * self.error
        return self.estimate - half, self.estimate + half

    def p(self, value=0.0):
        """Two-sided p of the hypothesis that the effect is `value`: p < 0.05 where the 95 % interval leaves it out."""
        return min(1.0, 2 * self._tail(abs(self.estimate - value)))

    def p_below(self, value):
        """Small where the effect lies below `value`, and comparable to p: below 0.05 where all of the 95 % interval lies below
        it. This is twice the one-sided p, at most 1."""
        return min(1.0, 2 * self._tail(value - self.estimate))

    def p_equivalence(self, margin):
        """Small where the effect lies between -margin and margin, and comparable to p: below 0.05 where all of the 95 % interval
        does. This is twice the p of two one-sided tests (TOST; Schuirmann, 1987), at most 1."""
        return min(1.0, 2 * self._tail(margin - abs(self.estimate)))

    def _tail(self, distance):
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stats.t.sf(distance / self.error, self.degrees_of_freedom))


def nested_bootstrap(arms, tuning_draws, replicates=2000, seed=0):
    """The expected contrast of test accuracies when every arm's setting is chosen on `tuning_draws` draws and scored on others.

    The estimate is cross-fitted: for every way to take `tuning_draws` of the R draws (500 random ones where there are more), each
    arm's setting with the highest mean validation accuracy on them is scored on the other draws; the mean over all this is
    unbiased for the expectation over draws, runs, choices and images.

    Draws: every replicate resamples the R draws with replacement, the same for all arms, and repeats all of this. A split divides
    the distinct draws, so no draw serves for the choice and the score; a draw that was taken twice counts twice on its side.
    The standard deviation of the replicates is widened by sqrt(R / (R - 1)), as resampling so few draws understates it, and the
    intervals of Effect use Student's t: percentiles of the replicates cover too rarely with four to ten draws (Hesterberg, 2015).
    With one setting an arm, the interval is the t-interval over draws, up to simulation error.

    Images: choices do not depend on the test images, so resampling them, the same for all arms, needs no replicates. The
    estimate is a mean over images, whose bootstrap variance is that of the M summands over M.

    What the interval does not cover is another random search: it holds for the S settings that were tried. Nor does it cover
    validation images that all draws share, which choose alike on every draw: give each draw its own (study.analysis.coverage
    shows the difference).

    arms          list of Arm, with the same R draws and M test images; their numbers of settings may differ.
    tuning_draws  between 1 and R - 1; about half of R covers best. The effect that is estimated depends on it, so it stays the
                  same when draws are added.
    Returns an Effect in points. Raises ValueError for fewer than four draws, or arms whose draws or images differ.
    """
    draws, images = _common_shape(arms)
    if draws < MIN_DRAWS or not 1 <= tuning_draws < draws:
        raise ValueError(
            f"{tuning_draws} of {draws} draws for tuning; expected at least {MIN_DRAWS} draws, and between 1 and {draws - 1} of "
            "them for tuning. Run every setting on more draws."
        )
    rng = np.random.default_rng(seed)
    tuning = _splits(draws, tuning_draws, rng)
    scores = [np.mean(arm.correct, axis=2, dtype=np.float64) for arm in arms]  # (S, R)

    estimate = _contrasts(arms, scores, tuning, np.ones((1, draws)))[0]
    resamples = rng.multinomial(draws, np.full(draws, 1 / draws), size=replicates)  # (B, R) times each draw is taken
    parts = np.array_split(resamples, -(-replicates // CHUNK))
    values = np.concatenate([_contrasts(arms, scores, tuning, weights) for weights in parts])
    draw_error = np.nanstd(values) * np.sqrt(draws / (draws - 1))

    per_image, chosen = np.zeros(images), []
    for arm in arms:
        choice = np.eye(len(arm.validation))[(tuning @ arm.validation.T).argmax(1)]  # (P, S) one-hot
        share = choice.T @ ~tuning / (~tuning).sum()  # (S, R) of the scores, of which setting and draw
        per_image += arm.coefficient * np.tensordot(share, arm.correct, 2)
        chosen.append(tuple(choice.mean(0).tolist()))
    image_error = per_image.std(ddof=1) / np.sqrt(images)
    estimate, draw_error, image_error = (100 * float(value) for value in (estimate, draw_error, image_error))
    return Effect(estimate, draw_error, image_error, draws, images, tuple(chosen))


def expected_best_validation(scores, n):
    """(mean, low, high): the validation accuracy to expect of the best of n settings drawn at random from those tried, in the
    unit of the scores (Dodge et al., 2019, in the form without replacement, which is unbiased).

    Settings are ranked by their mean over draws, as tuning does. The 95 % interval is over draws: the t-interval of jackknife
    pseudo-values (Tukey, 1958), with nan bounds for a single draw.

    scores  (S, R) validation accuracy of S settings on R draws.
    n       number of trials, from 1 to S.
    """
    scores = np.asarray(scores, dtype=float)
    settings, draws = scores.shape
    if not 1 <= n <= settings:
        raise ValueError(f"n is {n}; expected 1 to {settings}, the number of settings that were tried.")
    # P(the best of n is the i-th from below) = C(i - 1, n - 1) / C(S, n)
    probability = np.array([comb(i, n - 1) for i in range(settings)], dtype=float) / comb(settings, n)
    whole = np.sort(scores.mean(1)) @ probability
    if draws == 1:
        return whole, np.nan, np.nan
    without = np.array([np.sort(np.delete(scores, d, axis=1).mean(1)) @ probability for d in range(draws)])
    _, low, high = interval(draws * whole - (draws - 1) * without)
    half = (high - low) / 2
    return whole, whole - half, whole + half


def _common_shape(arms):
    """(R, M) of all arms."""
    shapes = {np.shape(arm.correct)[1:] for arm in arms}
    if len(shapes) != 1:
        raise ValueError(f"the arms have (draws, test images) {sorted(shapes)}; expected the same draws and images for all.")
    return shapes.pop()


def _splits(draws, tuning_draws, rng):
    """(P, R) booleans: which draws each split chooses on."""
    if comb(draws, tuning_draws) <= MAX_SPLITS:
        members = np.array(list(combinations(range(draws), tuning_draws)))
    else:
        members = rng.permuted(np.tile(np.arange(draws), (MAX_SPLITS, 1)), axis=1)[:, :tuning_draws]
    tuning = np.zeros((len(members), draws), dtype=bool)
    np.put_along_axis(tuning, members, True, axis=1)
    return tuning


def _contrasts(arms, scores, tuning, weights):
    """(B,) the cross-fitted contrast for weights (B, R) of the draws; nan where no split has a draw on both sides."""
    scoring_weight = weights @ ~tuning.T * (weights @ tuning.T > 0)  # (B, P), 0 where a split has no draw to choose on
    total = np.zeros(len(weights))
    for arm, score in zip(arms, scores, strict=True):
        choice = _weighted(arm.validation, tuning, weights).argmax(2)[..., None]  # (B, P, 1)
        scored = np.take_along_axis(_weighted(score, ~tuning, weights), choice, 2)[..., 0]  # (B, P) sums over scoring draws
        total += arm.coefficient * (scored * (scoring_weight > 0)).sum(1)
    with np.errstate(invalid="ignore"):
        return total / scoring_weight.sum(1)


def _weighted(values, side, weights):
    """(B, P, S): the weighted sum of values (S, R) over the draws on one side of each split (P, R)."""
    terms = (side[:, None] * values).reshape(-1, values.shape[1])  # (P S, R)
    return (weights @ terms.T).reshape(len(weights), len(side), len(values))
