"""Cells and verdicts from a made-up folder of results, whose accuracies are known to the last image."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import COLUMNS
from numpy.testing import assert_allclose, assert_array_equal

from study.analysis import decisions, judgement
from study.analysis.cells import ARMS, Results, arms_of, read_arm
from study.analysis.inference import nested_bootstrap
from study.methods import METHODS
from study.registration import Claim, registration

IMAGES, DRAWS = 400, 4
LABELS = np.arange(IMAGES) % 10
PROTOCOL = {"tuning_draws": 2}
FEW, SCRATCH = "fine-tuning/20", "scratch/full"


class Notebook:
    """The runs of a made-up notebook, in the order of its table."""

    def __init__(self, folder, method):
        self.folder, self.method, self.rows, self.predictions = folder, method, [], {}

    def run(self, cell, variant, seed, right, validation=None, **settings):
        """A run that is right on the first `right` percent of the test images, shifted a little by its draw."""
        regime, shots = cell.split("/")
        trained_on, shots = ("full", None) if shots == "full" else ("few-shot", int(shots))
        wrong = np.roll(np.arange(IMAGES) >= right * IMAGES // 100, 7 * seed)
        self.predictions.setdefault(f"{variant}_{cell.split('/')[1]}", []).append((LABELS + wrong) % 10)
        metrics = {"validation_accuracy": right if validation is None else validation, "accuracy": right - 1}
        metrics |= {"probe_accuracy": right, "neighbour_accuracy": right - 2}
        identity = [self.method, variant, regime, trained_on, "digits", shots, seed, None]
        self.rows += [[*identity, name, value, 1.0, json.dumps(settings)] for name, value in metrics.items()]

    def write(self, registered):
        self.folder.mkdir(exist_ok=True)
        pd.DataFrame(self.rows, columns=COLUMNS).to_csv(self.folder / "runs.csv", index=False)
        np.savez(self.folder / "predictions.npz", **{name: np.uint8(each) for name, each in self.predictions.items()})
        (self.folder / "registered.json").write_text(json.dumps(registered))


A_CLAIM = Claim("a", "paper", "", "SupCon is better", FEW, ("SupCon",), ("CE",), 9.0, "there", 1.0, "confirmatory", "digest of a")
CROSSED = replace(
    A_CLAIM, id="b", family="exploratory", reported=None, digest="digest of b",
    method=("hard negatives on the projection", "hard negatives on the embedding"),
    reference=("even negatives on the projection", "even negatives on the embedding"),
)  # fmt: skip


def write_floors(folder, few=50, scratch=60):
    """A floor that is right on so many percent, and a worse one, on three draws of few images and on all."""
    floors = {"predictions_floor_20": (few, 3), "predictions_floor_full": (scratch, 1)}
    arrays = {
        name: [[(LABELS + (np.arange(IMAGES) >= at * 4)) % 10] * n for at in (right, 10)] for name, (right, n) in floors.items()
    }
    np.savez(folder / "predictions.npz", floors=["pixels, SVM", "pixels, nearest"], **arrays)


@pytest.fixture
def folder(tmp_path):
    """CE at 80 % and SupCon at 85 % in both cells, each with a setting that is worse; two sources of one arm of CE from scratch;
    a crossed design."""
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "test.npz", labels=LABELS, classes=[str(c) for c in range(10)])
    write_floors(tmp_path / "data")
    notebooks = {name: Notebook(tmp_path / METHODS[name].key, name) for name in METHODS}
    for seed in range(DRAWS):
        for cell in (FEW, SCRATCH):
            for name, right in (("CE", 80), ("SupCon", 85)):
                notebooks[name].run(cell, "trial", seed, right, rate=0.1)
                notebooks[name].run(cell, "trial", seed, right - 20, rate=0.2)
                notebooks[name].run(cell, "main", seed, right, rate=0.1)
        notebooks["CE"].run(SCRATCH, "MixUp-CutMix, teacher", seed, 83)
        for variant in ("trial", "main"):
            notebooks["SCHaNe"].run(FEW, variant, seed, 72, hardness=1.0)
            for name in ("CLCE", "GenSCL"):
                notebooks[name].run("fine-tuning/100", variant, seed, 90)
        for place, gain in (("projection", 0), ("embedding", 4)):
            for weight in (0.5, 0.9):
                for hardness in (0.0, 1.0, 2.0):
                    own = {"applied_to": place, "weight": weight, "hardness": hardness}
                    notebooks["SCHaNe"].run(FEW, "crossed", seed, 70 + gain + 2 * (hardness == 1.0) - 30 * (weight == 0.5), **own)
    for notebook in notebooks.values():
        notebook.write(registration([A_CLAIM, CROSSED]))
    return tmp_path


@pytest.fixture
def results(folder):
    return Results(folder, "digits")


# Arms


def test_an_arm_has_every_setting_on_every_draw_and_says_on_which_images_it_is_right(results):
    seeds, validation, correct = read_arm(results, FEW, "CE")
    assert seeds == list(range(DRAWS)) and validation.tolist() == [[0.8] * DRAWS, [0.6] * DRAWS]
    assert correct.shape == (2, DRAWS, IMAGES)
    assert_allclose(correct.mean(2), validation)
    assert_array_equal(correct[0, 1], np.roll(np.arange(IMAGES) < 320, 7))


def test_an_arm_may_have_settings_of_several_variants(results):
    seeds, validation, correct = read_arm(results, SCRATCH, "CE with GenSCL's tricks")
    assert validation[:, 0].tolist() == [0.8, 0.6, 0.83]
    assert_allclose(correct.mean(2), validation)


def test_an_arm_of_the_crossed_design_is_told_by_place_weight_and_whether_there_is_hardness(results):
    _, validation, correct = read_arm(results, FEW, "hard negatives on the embedding")
    assert validation[:, 0].tolist() == [0.76, 0.74]  # hardness 1 and 2 at the weight of 0.9
    _, validation, _ = read_arm(results, FEW, "even negatives on the embedding")
    assert validation[:, 0].tolist() == [0.74]


def test_arms_are_those_of_common_draws(folder, results):
    path = folder / "supcon" / "runs.csv"
    runs = pd.read_csv(path)
    lost = (runs.seed == 2) & (runs.variant == "trial") & (runs.regime == "fine-tuning")
    runs.assign(seed=runs.seed.where(~lost, 7)).to_csv(path, index=False)
    arms, seeds = arms_of(results, FEW, {"SupCon": 1.0, "CE": -1.0})
    assert seeds == [0, 1, 3] and [arm.coefficient for arm in arms] == [1.0, -1.0]
    assert {arm.correct.shape[1] for arm in arms} == {3}


def test_an_arm_without_runs_is_an_error_that_names_the_notebook(results):
    with pytest.raises(ValueError, match="SCHaNe has no runs in the cell scratch/full; run the notebook schane"):
        read_arm(results, SCRATCH, "SCHaNe")


def test_every_method_is_an_arm():
    assert METHODS.keys() <= ARMS.keys()


# Tables


def test_the_table_of_accuracy_has_a_row_per_method_and_read_out_and_the_floors(results):
    table = judgement.accuracy_table(results, [FEW, SCRATCH], PROTOCOL)
    assert list(table.columns) == ["data_set", "regime", "labels", "method", "read_out", "mean", "low", "high", "runs"]
    few = table[table.labels == "20"].set_index(["method", "read_out"])
    assert few.loc[("CE", "linear probe"), ["mean", "runs"]].tolist() == [80, 2 * DRAWS]
    assert few.loc[("CE", "own classifier"), ["mean", "runs"]].tolist() == [79, DRAWS]
    assert few.loc[("SupCon", "nearest neighbours"), "mean"] == 83
    assert ("SupCon", "own classifier") not in few.index  # it has none
    assert few.loc[("pixels, SVM", "as it is"), ["mean", "runs"]].tolist() == [50, 3]
    scratch = table[table.labels == "full"]
    assert scratch.method.unique().tolist() == ["CE", "SupCon", "pixels, SVM", "pixels, nearest"]  # others have no runs there
    assert set(scratch.regime) == {"scratch"} and set(table.data_set) == {"digits"}


def test_differences_are_to_cross_entropy_with_the_best_floor_beside_them(results):
    table = judgement.differences_table(results, [FEW, SCRATCH], PROTOCOL).set_index(["cell", "method"])
    assert table.index.tolist() == [(FEW, "SupCon"), (FEW, "SCHaNe"), (SCRATCH, "SupCon")]
    row = table.loc[(SCRATCH, "SupCon")]
    assert_allclose([row.effect, row.ce, row.floor_accuracy], [5, 80, 60])
    assert row.floor == "pixels, SVM" and row.low < 5 < row.high and row.error > 0 and row.p < 0.05


def test_a_claim_is_judged_by_the_nested_bootstrap_of_its_arms(results):
    first, second = judgement.claims_table(results, [A_CLAIM, CROSSED], PROTOCOL).itertuples()
    effect = nested_bootstrap(arms_of(results, FEW, A_CLAIM.coefficients())[0], 2)
    assert_allclose([first.effect, first.low, first.high, first.p], [5, *effect.interval(), effect.p()])
    assert first.draws == DRAWS and first.settings == "2/2" and first.floor == "pixels, SVM" and first.testable
    assert first.verdict == decisions.SMALLER  # than the reported 9 points
    assert_allclose(second.effect, 2)  # hardness is worth 2 points, wherever the loss acts
    assert second.p_smaller == 1 and second.verdict == decisions.SUPPORTED


@pytest.mark.parametrize("floor, testable", [(70, True), (79, False), (85, False)])
def test_where_cross_entropy_does_not_clear_the_floor_by_more_than_its_interval_nothing_is_testable(
    folder, results, floor, testable
):
    write_floors(folder / "data", few=floor)
    row = judgement.claims_table(results, [A_CLAIM], PROTOCOL).iloc[0]
    assert row.testable == testable and (row.verdict == decisions.NOT_TESTABLE) != testable
    assert_allclose(row.effect, 5)  # it is shown all the same


def test_a_claim_that_is_younger_than_the_runs_is_refused(results):
    with pytest.raises(ValueError, match=r"a \(was another when cross_entropy ran\); a \(was another when supcon ran\)"):
        judgement.claims_table(results, [replace(A_CLAIM, digest="changed")], PROTOCOL)


def test_the_headline_is_cross_entropy_in_every_cell_and_a_count_of_every_verdict(results):
    differences = judgement.differences_table(results, [FEW, SCRATCH], PROTOCOL)
    numbers = judgement.headline(differences, judgement.claims_table(results, [A_CLAIM, CROSSED], PROTOCOL))
    counts = dict.fromkeys(decisions.VERDICTS, 0) | {decisions.SUPPORTED: 1, decisions.SMALLER: 1}
    assert numbers == {"CE 20": 80.0, "CE full": 80.0} | counts
    assert json.loads(json.dumps(numbers)) == numbers
