"""How often intervals hold what they should: simulated studies with settings that lie close together, whose truth is known.

Two intervals are compared. "nested" is inference.nested_bootstrap. "chosen once" is the usual practice: settings are chosen on
some draws, every other draw is run with these, and a t-interval over the paired differences is reported. It takes the chosen
settings for given and the test images for all images there are.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from study.analysis.inference import Arm, nested_bootstrap
from study.tables import interval


@dataclass(frozen=True)
class Scenario:
    """Two methods of about 80 % accuracy, by how much things move it: standard deviations in points.

    settings    points that each setting of either method lies above the first; both methods have the same, so that the true
                effect is 0 by symmetry.
    draw        of draws, the same for both methods and all settings.
    run         of runs on one draw.
    taste       of what a setting makes of one image, beyond chance, in units of the spread of the images' difficulty.
    images      test images of a study, the same for all its draws.
    validation  validation images of a draw.
    shared      whether all draws have the same validation images: what these do to the choice is then outside every interval.
    """

    settings: tuple = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    draw: float = 1.2
    run: float = 1.0
    taste: float = 0.3
    images: int = 10_000
    validation: int = 1000
    shared: bool = False

    def study(self, draws, rng):
        """(validation (S, R), correct (S, R, M)) of each of the two methods."""
        point = 0.01 / stats.norm.pdf(stats.norm.ppf(0.8))  # what moves the accuracy by a point
        quality = stats.norm.ppf(0.8) + point * np.array(self.settings)[:, None]  # (S, 1)
        draw = point * self.draw * rng.normal(size=draws)
        sets = [(1 if self.shared else draws, self.validation), (1, self.images)]
        difficulties = [self._normal((1, *size), np.sqrt(1 - self.taste**2), rng) for size in sets]
        methods = []
        for _ in range(2):
            level = quality + draw + point * self.run * rng.normal(size=(len(quality), draws))  # (S, R)
            level = level.astype(np.float32)[..., None]
            correct = [d + self._normal((len(quality), *d.shape[1:]), self.taste, rng) < level for d in difficulties]
            methods.append((correct[0].mean(2), correct[1]))
        return methods

    def _normal(self, shape, scale, rng):
        return np.float32(scale) * rng.standard_normal(shape, dtype=np.float32)


def coverage(scenario, draws, tuning_draws, studies=500, replicates=500, seed=0):
    """Simulate studies and look whether their 95 % intervals hold the true effect, 0.

    "nested" has `draws` draws. "chosen once" reports as many, and chooses on `tuning_draws` further ones.
    Returns a table with a row for each interval: draws, tuning_draws, interval, coverage, its standard error, and the mean width
    in points.
    """
    rng, hits, widths = np.random.default_rng(seed), [], []
    for study in range(studies):
        methods = scenario.study(draws + tuning_draws, rng)
        arms = [
            Arm(v[:, :draws], correct[:, :draws], coefficient) for (v, correct), coefficient in zip(methods, (1, -1), strict=True)
        ]
        bounds = [nested_bootstrap(arms, tuning_draws, replicates, seed=study).interval()]
        chosen = [correct[v[:, draws:].mean(1).argmax(), :draws].mean(1) for v, correct in methods]  # (R,) each
        bounds.append(interval(100 * (chosen[0] - chosen[1]))[1:])
        hits.append([low <= 0 <= high for low, high in bounds])
        widths.append([high - low for low, high in bounds])
    share = np.mean(hits, axis=0)
    return pd.DataFrame(
        {
            "draws": draws,
            "tuning_draws": tuning_draws,
            "interval": ["nested", "chosen once"],
            "coverage": share,
            "standard_error": np.sqrt(share * (1 - share) / studies),
            "width": np.mean(widths, axis=0),
        }
    )


def coverage_table(studies=500):
    """coverage for four to twenty draws where settings lie within half a point, within two, and within two with the same
    validation images for all draws. Three minutes on one core; a tenth of the studies takes a tenth of that."""
    apart = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0)
    scenarios = (Scenario(), Scenario(settings=apart), Scenario(settings=apart, shared=True))
    tables = [
        coverage(scenario, draws, tuning_draws, studies).assign(within=scenario.settings[-1], shared=scenario.shared)
        for scenario in scenarios
        for draws, tuning_draws in ((4, 2), (6, 3), (8, 4), (10, 5), (20, 5))
    ]
    return pd.concat(tables, ignore_index=True)
