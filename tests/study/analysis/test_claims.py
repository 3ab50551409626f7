"""The ledger's rule against SciPy, brute force and simulation, and the list of claims against made-up runs."""

import json
import re
import zlib
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import COLUMNS
from numpy.testing import assert_allclose
from scipy import stats

from study.analysis import claims
from study.analysis.claims import CLAIMS, less, main, more
from study.analysis.ledger import (
    OPPOSITE,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    VERIFIED,
    Claim,
    Runs,
    Tables,
    detectable,
    ledger,
    p_value,
    verdict,
)
from study.methods import METHODS
from study.paths import ROOT
from study.tables import interval, with_settings

SEEDS = range(5)
METRICS = ["accuracy", "probe_accuracy", "validation_accuracy", "within_class_cosine", "between_class_cosine", "isotropy"]


def rows(notebook, method, variant, shots=None, metrics=METRICS, value=50.0, spread=1.0, seeds=SEEDS, **settings):
    """Runs whose metrics are value plus noise of its own for every variant and settings."""
    own = zlib.crc32(f"{notebook}|{method}|{variant}|{shots}|{settings}".encode())
    noise = np.random.default_rng(own).normal(0, spread, (len(seeds), len(metrics)))
    trained_on, text = "few-shot" if shots else "features", json.dumps({"epochs": 5} | settings)
    return [
        [
            method,
            variant,
            "fine-tuning",
            trained_on,
            "digits",
            shots,
            seed,
            None,
            metric,
            value + noise[i, j],
            2.0,
            text,
            notebook,
        ]
        for i, seed in enumerate(seeds)
        for j, metric in enumerate(metrics)
    ]


def made_up():
    """Tables that hold every run a claim may ask for."""
    runs = []
    for name, method in METHODS.items():
        for shots in (20, 100):
            runs += rows(method.key, name, "main", shots)
    for method in ("CE", "SupCon", "CLCE"):
        for size in (16, 64, 256):
            runs += rows("clce", method, "sweep batch size", batch_size=size)
    severities = ["ece severity 0", "ece severity 5"]
    for method in ("CE", "SupCon"):
        runs += rows("robustness", method, "corruptions", 20, ["mce", "relative_mce", *severities])
        for number in range(6):
            runs += rows("robustness", method, "sensitivity", 20, ["probe_accuracy"], seeds=range(2), configuration=number)
        measures = ["simplex_distance_train", "within_class_spread_train", "loss_above_floor"]
        ends = [f"{name}, last to first" for name in measures]
        runs += rows("collapse", method, "collapse", None, ends, value=0.3, spread=0.001)
        for share in (0.0, 0.2, 0.4):
            runs += rows("collapse", method, "flipped", None, ["epochs_to_fit"], flipped_share=share)
        runs += rows("pitfalls", method, "overlap", 20, ["inflation"])
        for variant in ("statistics kept", "batch norm in train mode"):
            runs += rows("pitfalls", method, variant, 20)
    for method in ("CE", "SCHaNe", "CLCE"):
        runs += rows("transfer", method, "transfer", 20, ["digits", "mnist"])
        for split in (0, 1):
            runs += rows("transfer", method, "episodes", 20, ["1-shot", "5-shot"], seeds=[split], split=split)
    for method in ("SupCon", "SCHaNe"):
        for variant in ("two crops", "same crop"):
            runs += rows("pitfalls", method, variant, 20)
    for variant in ("joint", "joint, scaled", "mask kept", "mask of each batch"):
        runs += rows("pitfalls", "SupCon", variant, 20)
    checks = [["supcon", "gradient formula", seed, 1e-13] for seed in SEEDS]
    for views in ("", " with one view"):
        checks += [["schane", f"extra time per step, percent of CE's{views}", seed, 1.0 + seed / 10] for seed in SEEDS]
    checks += [["genscl", "one-hot equals SupCon", 0, 1e-14], ["collapse", "simplex floor", 0, 1e-15]]
    for check in ("hard positives: share of attraction", "hard negatives: share of repulsion"):
        checks += [["supcon", f"{check} minus share of pairs", seed, 30.0 + seed] for seed in SEEDS]
    runs = pd.DataFrame(runs, columns=[*COLUMNS, "notebook"]).astype({"shots": "Int64", "epoch": "Int64"})
    return runs, pd.DataFrame(checks, columns=["notebook", "check", "seed", "value"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A results folder as the notebooks leave it."""
    folder = tmp_path_factory.mktemp("results")
    for kind, table in zip(("runs", "checks"), made_up(), strict=True):
        for notebook, part in table.groupby("notebook"):
            (folder / notebook).mkdir(exist_ok=True)
            part.drop(columns="notebook").to_csv(folder / notebook / f"{kind}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def tables(written):
    return Tables.read(written, "digits")


def two_sets(first, second, metric="accuracy"):
    """Tables with variants a and b of one method, beside the reported runs, which say what few images are."""
    lines = [
        ["M", name, "fine-tuning", "few-shot", "digits", 20, seed, None, metric, value, 1.0, "{}", "supcon"]
        for name, values in (("a", first), ("b", second))
        for seed, value in values.items()
    ]
    for name, method in METHODS.items():
        lines.append([name, "main", "fine-tuning", "few-shot", "digits", 20, 0, None, "accuracy", 50.0, 1.0, "{}", method.key])
    checks = pd.DataFrame([["x", 0, 1e-12, "supcon"]], columns=["check", "seed", "value", "notebook"])
    return Tables(with_settings(pd.DataFrame(lines, columns=[*COLUMNS, "notebook"])), checks)


A, B = Runs("supcon", "a"), Runs("supcon", "b")


def a_claim(**changes):
    return replace(Claim("X1", "paper", "a is better", "", "{few} images", "accuracy", "points", more(A, B), "a/b"), **changes)


def test_effects_are_differences_of_common_seeds():
    tables = two_sets({0: 70.0, 1: 72.0, 5: 90.0}, {1: 71.0, 0: 66.0, 2: 50.0})
    assert tables.paired("accuracy", A, B).to_dict() == {0: 4.0, 1: 1.0}
    assert less(A, B)(tables, "accuracy").to_dict() == {0: -4.0, 1: -1.0}


def test_a_metric_is_that_of_the_end_and_not_of_an_epoch():
    tables = two_sets({0: 70.0, 1: 72.0}, {0: 1.0})
    early = tables.runs.assign(epoch=1, value=-1.0)
    tables = replace(tables, runs=pd.concat([tables.runs.astype({"epoch": "Int64"}), early.astype({"epoch": "Int64"})]))
    assert tables.values("accuracy", A).to_dict() == {0: 70.0, 1: 72.0}


def test_runs_of_one_variant_are_told_apart_by_what_they_are_trained_on_and_by_their_settings(tables):
    few = tables.values("accuracy", Runs("supcon", "main", "SupCon", "few"))
    on_any = tables.values("accuracy", Runs("supcon", "main", "SupCon"))
    assert few.index.is_unique and len(on_any) == 2 * len(few)  # with 20 and with 100 images
    sweep = tables.sweep("accuracy", Runs("clce", "sweep batch size", "CE"), "batch_size")
    assert sweep.columns.tolist() == [16, 64, 256] and sweep.index.tolist() == list(SEEDS)
    largest = tables.values("accuracy", Runs("clce", "sweep batch size", "CE", settings={"batch_size": 256}))
    assert largest.equals(sweep[256].rename("value"))


def test_a_row_is_scipys_paired_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(71, 1, 8), rng.normal(70, 1, 8)
    row = ledger(two_sets(dict(enumerate(first)), dict(enumerate(second))), [a_claim()]).iloc[0]
    test = stats.ttest_rel(first, second)
    bounds = test.confidence_interval()
    assert_allclose([row.effect, row.p, row.low, row.high], [(first - second).mean(), test.pvalue, bounds.low, bounds.high])
    assert row.runs == 8 and row.setting == "20 images"


def test_p_against_a_margin_is_scipys_test_of_one_sample():
    effects = [4.0, 5.5, 7.0]
    assert_allclose(p_value(effects, 5.0), stats.ttest_1samp(effects, 5.0).pvalue)
    assert p_value([3.0]) == 1 and p_value([0.0, 0.0]) == 1 and p_value([1.0, 1.0]) == 0


@pytest.mark.parametrize(
    "low, high, kind, margin, said",
    [
        (0.1, 2.0, "effect", 0, SUPPORTED),
        (-2.0, -0.1, "effect", 0, OPPOSITE),
        (-0.1, 2.0, "effect", 0, UNDECIDED),
        (0.1, 2.0, "effect", 1.0, UNDECIDED),
        (1.1, 2.0, "effect", 1.0, SUPPORTED),
        (0.1, 0.9, "effect", 1.0, OPPOSITE),
        (-9.0, 4.9, "at most", 5.0, SUPPORTED),
        (4.0, 6.0, "at most", 5.0, UNDECIDED),
        (5.1, 6.0, "at most", 5.0, OPPOSITE),
        (np.nan, np.nan, "effect", 0, UNDECIDED),
        (np.nan, np.nan, "at most", 5.0, UNDECIDED),
    ],
)
def test_verdict_by_where_the_interval_lies(low, high, kind, margin, said):
    assert verdict(low, high, kind, margin) == said


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9), st.sampled_from(["effect", "at most"]), st.floats(-5, 5))
def test_an_interval_decides_exactly_where_p_is_below_5_percent(effects, kind, margin):
    p = p_value(effects, margin)
    if not 0.0499 < p < 0.0501 and np.std(effects) > 1e-6:
        _, low, high = interval(effects)
        assert (verdict(low, high, kind, margin) != UNDECIDED) == (p < 0.05)


@pytest.mark.parametrize("n", [2, 3, 10, 40])
def test_the_detectable_effect_is_detected_four_times_in_five(n):
    draws = np.random.default_rng(n).normal(detectable(2.0, n), 2.0, (40_000, n))
    assert abs((stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() - 0.8) < 0.01


def test_the_detectable_effect_of_many_pairs_is_that_of_a_normal_test():
    assert_allclose(detectable(3.0, 5000), 3.0 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / np.sqrt(5000), rtol=1e-3)
    assert np.isnan(detectable(1.0, 1))


def verdicts_of(draws):
    return np.array([verdict(*interval(effects)[1:]) for effects in draws])


def test_without_an_effect_19_of_20_are_undecided():
    said = verdicts_of(np.random.default_rng(0).normal(0, 1, (4000, 5)))
    assert abs((said == UNDECIDED).mean() - 0.95) < 0.015
    assert abs((said == SUPPORTED).mean() - 0.025) < 0.01


@pytest.mark.parametrize("sign, expected", [(1, SUPPORTED), (-1, OPPOSITE)])
def test_twice_the_detectable_effect_is_found_nearly_always(sign, expected):
    planted = sign * 2 * detectable(1.0, 5)
    assert (verdicts_of(np.random.default_rng(1).normal(planted, 1, (2000, 5))) == expected).mean() > 0.99


def test_a_verdict_that_many_claims_would_bring_by_chance_does_not_survive():
    tables = two_sets({0: 3.0, 1: 1.0, 2: 2.2, 3: 1.4}, {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0})
    alone = ledger(tables, [a_claim()]).iloc[0]
    assert alone.alone == alone.verdict == SUPPORTED and 0.01 < alone.p < 0.05
    nothing = a_claim(effects=lambda tables, metric: pd.Series([1.0, -1.0]))
    among = ledger(tables, [a_claim(), *(replace(nothing, id=f"X{i}") for i in range(9))])
    assert among.alone[0] == SUPPORTED and among.verdict[0] == UNDECIDED
    together = ledger(tables, [a_claim(id=f"X{i}") for i in range(9)])  # where most effects are there, few are false
    assert set(together.verdict) == {SUPPORTED}


@pytest.mark.parametrize("tolerance, said", [(1e-10, VERIFIED), (1e-13, REFUTED)])
def test_checks_are_not_judged_by_chance_and_do_not_count_among_the_claims(tolerance, said):
    check = a_claim(id="X2", kind="check", margin=tolerance, effects=claims.check("supcon", "x"))
    table = ledger(two_sets({0: 3.0, 1: 1.0, 2: 2.2}, {0: 0.0, 1: 0.0, 2: 0.0}), [check, a_claim()])
    assert table.verdict[0] == table.alone[0] == said and np.isnan(table.p[0]) and table.effect[0] == 1e-12
    assert table.verdict[1] == table.alone[1]


def test_a_single_pair_decides_nothing():
    row = ledger(two_sets({0: 3.0}, {0: 1.0}), [a_claim()]).iloc[0]
    assert row.alone == row.verdict == UNDECIDED and row.p == 1 and np.isnan(row.detectable)


@pytest.mark.parametrize(
    "which, message",
    [
        (
            Runs("supcon", "sweep weight", settings={"weight": 2}),
            r"Claim X1 cannot be judged. The runs of supcon have no value of accuracy .*sweep weight.*variants: a, b, main",
        ),
        (Runs("robustness", "corruptions"), r"Claim X1 cannot be judged. robustness/runs.csv is missing or empty"),
    ],
)
def test_missing_runs_are_an_error_that_names_table_and_variant(which, message):
    with pytest.raises(ValueError, match=message):
        ledger(two_sets({0: 1.0}, {0: 1.0}), [a_claim(effects=more(which, B))])


def test_other_gaps_are_errors_too():
    with pytest.raises(ValueError, match="a blank of accuracy"):
        two_sets({0: np.nan}, {0: 1.0}).paired("accuracy", A, B)
    with pytest.raises(ValueError, match="no seed in common"):
        two_sets({0: 1.0}, {1: 1.0}).paired("accuracy", A, B)
    once = two_sets({0: 1.0}, {0: 1.0})
    twice = replace(once, runs=pd.concat([once.runs, once.runs.assign(shots=100)]))
    with pytest.raises(ValueError, match="several values of accuracy for one seed"):
        twice.paired("accuracy", A, B)
    with pytest.raises(ValueError, match="no value of accuracy for Runs.notebook='supcon', variant='sweep weight'"):
        once.sweep("accuracy", Runs("supcon", "sweep weight"), "weight")
    with pytest.raises(ValueError, match="no check 'y': x"):
        two_sets({0: 1.0}, {0: 1.0}).check("supcon", "y")
    with pytest.raises(ValueError, match="expected 'effect', 'at most' or 'check'"):
        a_claim(kind="trend")


def change(tables, method, variant, of=None, **values):
    """Tables with the values of one variant's metrics replaced (a list: one for each seed), of runs with these settings."""
    runs = tables.runs.copy()
    for metric, value in values.items():
        at = (runs.method == method) & (runs.variant == variant) & (runs.metric == metric) & (runs.shots.fillna(0) != 100)
        for setting, number in (of or {}).items():
            at &= runs[setting] == number
        assert at.any()
        runs.loc[at, "value"] = value
    return replace(tables, runs=runs)


def effect(tables, claim_id):
    (claim,) = [claim for claim in CLAIMS if claim.id == claim_id]
    return claim.effects(tables, claim.metric)


def test_batches_are_slopes_against_cross_entropy_s_and_drops_against_supcon_s(tables):
    for method, slope in (("CE", 1.0), ("SupCon", 2.5), ("CLCE", 0.5)):
        for batch in (16, 64, 256):
            at = {"batch_size": batch}
            tables = change(tables, method, "sweep batch size", at, probe_accuracy=40 + slope * np.log2(batch))
    assert_allclose(effect(tables, "S5"), 1.5)
    assert_allclose(effect(tables, "C4"), 4 * (2.5 - 0.5))  # four doublings from 16 to 256


def test_calibration_is_how_much_less_the_error_rises(tables):
    for method, clean, worst in (("CE", 4.0, 10.0), ("SupCon", 6.0, 9.0)):
        tables = change(tables, method, "corruptions", **{"ece severity 0": clean, "ece severity 5": worst})
    assert set(effect(tables, "S8")) == {3.0}


def test_the_read_out_is_the_probe_above_the_own_classifier(tables):
    tables = change(tables, "CE", "main", accuracy=70.0, probe_accuracy=71.5)
    assert set(effect(tables, "O6")) == {1.5}


def test_what_cannot_be_negative_is_checked_to_be_so(tables):
    below = tables.checks.assign(value=tables.checks.value.where(tables.checks.check.str.startswith("hard neg"), -0.2))
    table = ledger(replace(tables, checks=below), [claim for claim in CLAIMS if claim.id in ("S9b", "S9c")])
    assert table.verdict.tolist() == [REFUTED, VERIFIED] and table.effect.tolist() == [0.2, 0.0]


def test_time_to_fit_is_a_ratio_of_ratios(tables):
    for method, factor in (("CE", 2.0), ("SupCon", 6.0)):
        for share, value in ((0.0, 5.0), (0.2, 99.0), (0.4, 5.0 * factor)):
            tables = change(tables, method, "flipped", {"flipped_share": share}, epochs_to_fit=value)
    assert_allclose(effect(tables, "D2"), np.log(3))


def test_signs_are_what_the_claims_say(tables):
    better = change(tables, "SupCon", "corruptions", mce=10.0, relative_mce=10.0)
    better = change(better, "SCHaNe", "main", within_class_cosine=90.0, between_class_cosine=10.0, isotropy=90.0)
    better = change(better, "SupCon", "same crop", validation_accuracy=10.0)
    better = change(better, "SupCon", "joint, scaled", validation_accuracy=10.0)
    better = change(better, "SupCon", "batch norm in train mode", validation_accuracy=10.0)
    better = change(better, "SupCon", "mask kept", validation_accuracy=10.0)
    for name in ("S7a", "S7b", "H5a", "H5b", "H5c", "O1a", "O2", "O5b", "O7"):
        assert (effect(better, name) > 20).all(), name


def test_episodes_are_paired_by_split(tables):
    assert len(effect(tables, "C2c")) == len(effect(tables, "H7b")) == 2


def test_the_jackknife_of_spread_is_the_difference_and_its_bootstrap_error():
    rng = np.random.default_rng(0)
    ce, supcon = rng.normal(0, 2, 200), rng.normal(0, 1, 200)
    lines = [
        [method, i, "sensitivity", "accuracy", value]
        for method, values in (("CE", ce), ("SupCon", supcon))
        for i, value in enumerate(values)
    ]
    runs = pd.DataFrame(lines, columns=["method", "configuration", "variant", "metric", "value"])
    runs = runs.assign(seed=0, epoch=None, notebook="robustness")
    effects = claims.spread(Tables(runs, pd.DataFrame()), "accuracy")

    def difference(a, b, axis):
        return a.std(ddof=1, axis=axis) - b.std(ddof=1, axis=axis)

    again = stats.bootstrap((ce, supcon), difference, paired=True, n_resamples=2000, method="basic", rng=rng)
    assert_allclose(effects.mean(), difference(ce, supcon, 0), rtol=0.01)
    assert_allclose(effects.std() / np.sqrt(len(effects)), again.standard_error, rtol=0.1)


def test_settings_that_only_one_method_ran_are_refused(tables):
    runs = tables.runs
    fewer = runs[~((runs.method == "CE") & (runs.configuration == 3))]
    with pytest.raises(ValueError, match="CE and SupCon need the same configurations"):
        effect(replace(tables, runs=fewer), "S6")


def test_every_claim_is_judged_and_has_all_its_fields(tables):
    table = ledger(tables, CLAIMS)
    assert table.id.tolist() == [claim.id for claim in CLAIMS] and table.id.is_unique
    assert table.set_index("id").verdict[["S9a", "S9b", "G1", "D1a"]].tolist() == [VERIFIED, VERIFIED, VERIFIED, SUPPORTED]
    needed = table.drop(columns=["reported", "low", "high", "detectable", "p"])
    assert needed.notna().all(axis=None) and (needed != "").all(axis=None)
    assert not table.setting.str.contains("{", regex=False).any()
    assert (table[table.kind != "check"][["low", "high", "detectable", "p"]].notna()).all(axis=None)


@cache
def figures_of(notebook):
    """Names of the figures that a notebook saves."""
    (path,) = (ROOT / "notebooks").glob(f"*_{notebook}.ipynb")
    cells = json.loads(path.read_text())["cells"]
    return re.findall(r'figures.save\(fig, out / "figures", "(\w+)"\)', "".join("".join(cell["source"]) for cell in cells))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_form_of_claims(claim):
    letters = {
        "S": claims.SUPCON, "H": claims.SCHANE, "C": claims.CLCE, "G": claims.GENSCL, "D": claims.DISSECTING, "O": claims.OURS
    }  # fmt: skip
    assert re.fullmatch(r"[SHCGDO]\d[a-e]?", claim.id) and claim.paper == letters[claim.id[0]]
    notebook, name = claim.figure.split("/")
    assert len(claim.claim) <= 60 and name in figures_of(notebook)
    assert claim.kind == "effect" or claim.margin > 0


def test_reported_runs_are_found_by_method():
    assert main("CLCE") == Runs("clce", "main", "CLCE", "few")
