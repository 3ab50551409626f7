"""The claims written down beforehand: the file as it is, what is refused in it, and results that are older than a claim."""

import re

import pytest
import yaml

from study.paths import ROOT
from study.registration import CONFIRMATORY, common, load_claims, refuse_unregistered, registration, smallest_effect

FILE = ROOT / "notebooks" / "claims.yaml"


@pytest.fixture
def changed(tmp_path):
    """change -> the claims after the function `change` was applied to the content of the file."""

    def load(change):
        content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        change(content)
        path = tmp_path / "claims.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return load_claims(path)[0]

    return load


def test_the_file_holds_at_most_ten_confirmatory_claims_and_they_cover_the_four_methods():
    claims, protocol = load_claims()
    confirmatory = [claim for claim in claims if claim.family == "confirmatory"]
    assert len(confirmatory) <= CONFIRMATORY
    assert {"SupCon", "SCHaNe", "CLCE", "GenSCL"} <= {arm for c in confirmatory if c.reference == ("CE",) for arm in c.method}
    assert {claim.cell for claim in claims} == protocol["looks"].keys()
    assert all(protocol["tuning_draws"] < looks[0] for looks in protocol["looks"].values())


def test_every_arm_that_is_described_is_in_a_claim():
    claims, arms = load_claims()[0], yaml.safe_load(FILE.read_text(encoding="utf-8"))["arms"]
    assert set(arms) == {arm for claim in claims for arm in claim.coefficients()}


def test_coefficients_make_a_difference_of_means():
    for claim in load_claims()[0]:
        coefficients = claim.coefficients()
        assert sum(coefficients.values()) == pytest.approx(0) and sum(map(abs, coefficients.values())) == pytest.approx(2)


@pytest.mark.parametrize("reported, margin", [(None, 1.0), (1.0, 0.5), (2.0, 1.0), (3.52, 1.0), (0.6, 0.3)])
def test_the_smallest_effect_of_interest_is_half_the_gain_or_one_point(reported, margin):
    assert smallest_effect(reported) == margin


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda c: c["claims"][0].update(margin=0.9),
            "claim supcon-scratch .* margin 0.9 with a reported gain of 1.0; expected 0.5",
        ),
        (lambda c: c["claims"][0].update(family="sure"), "family 'sure'; expected confirmatory or exploratory"),
        (lambda c: c["claims"][0].update(method="SubCon"), "names the arms SubCon, which the file does not describe"),
        (lambda c: c["claims"][0].update(method="CE"), "names an arm twice: CE, CE"),
        (lambda c: c["claims"][0].update(cell="fine-tuning"), "cell 'fine-tuning'; expected scratch/full, or fine-tuning/"),
        (lambda c: c["claims"][0].update(where=""), "needs both the reported gain and where it stands"),
        (lambda c: c["claims"][0].pop("paper"), "lacks, or has for nothing, paper"),
        (lambda c: c["claims"][1].update(id="supcon-scratch"), "several claims with the id supcon-scratch"),
        (lambda c: [claim.update(family="confirmatory") for claim in c["claims"][:11]], "has 11 confirmatory claims; at most 10"),
        (lambda c: c["protocol"].update(tuning_draws=8), r"for fine-tuning/20 looks \[4\] and 8 tuning draws"),
        (lambda c: c["protocol"]["looks"].update({"scratch/full": [8, 4]}), r"for scratch/full looks \[8, 4\]"),
        (lambda c: c["protocol"].pop("looks"), "expected looks, read_out, tuning_draws"),
        (lambda c: c.pop("arms"), "lacks arms; expected protocol, arms and claims"),
    ],
)
def test_a_mistake_in_the_file_is_refused_in_words(changed, change, message):
    with pytest.raises(ValueError, match=message):
        changed(change)


def judged_by(claims, *stages):
    return dict.fromkeys([claim.id for claim in claims], stages)


def test_results_under_the_same_claims_are_judged():
    claims = load_claims()[0]
    refuse_unregistered(
        claims, {"supcon": registration(claims), "clce": registration(claims)}, judged_by(claims, "supcon", "clce")
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["claims"][1].update(family="exploratory"),
        lambda c: c["claims"][1].update(reported=0.6, where="a table", margin=0.3),
        lambda c: c["claims"][1].update(cell="fine-tuning/100"),
        lambda c: c["claims"][1].update(reference="SCHaNe"),
    ],
)
def test_results_are_refused_for_a_claim_that_changed_after_them_and_for_no_other(changed, change):
    before = registration(load_claims()[0])
    after = changed(change)
    with pytest.raises(ValueError, match=re.escape("younger than the results: supcon-20 (was another when supcon ran). A claim")):
        refuse_unregistered(after, {"supcon": before}, judged_by(after, "supcon"))


def test_stages_that_do_not_judge_a_claim_may_be_older(changed):
    before = registration(load_claims()[0])
    after = changed(lambda content: content["claims"][1].update(reference="SCHaNe"))
    judges = judged_by(after, "clce") | {"supcon-20": ["supcon"]}
    refuse_unregistered(after, {"clce": before, "supcon": registration(after)}, judges)


def test_results_are_refused_for_a_claim_that_is_new(changed):
    before = registration(changed(lambda content: content["claims"].pop(0)))
    with pytest.raises(ValueError, match=re.escape("supcon-scratch (was not there when supcon ran)")):
        refuse_unregistered(load_claims()[0], {"supcon": before}, judged_by(load_claims()[0], "supcon"))


def test_another_protocol_or_another_description_of_an_arm_is_another_claim(changed):
    before = registration(load_claims()[0])
    after = registration(changed(lambda content: content["protocol"].update(looks={"fine-tuning/20": [6, 12]})))
    assert not before.items() & after.items()
    after = registration(changed(lambda content: content["arms"].update(CLCE="something else")))
    assert {id for id in before if before[id] != after[id]} == {"clce-20", "clce-100"}


def test_words_may_be_corrected(changed):
    after = changed(lambda content: content["claims"][0].update(claim="better said", section="Table 2, corrected"))
    refuse_unregistered(after, {"supcon": registration(load_claims()[0])}, judged_by(after, "supcon"))


def test_a_stage_is_registered_for_what_all_of_its_runs_are():
    assert common([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "1"}]) == {"a": "1"}
