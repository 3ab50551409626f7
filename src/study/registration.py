"""The claims written down before the runs, notebooks/claims.yaml: read, checked, and compared with what results ran under.

A stage that trains puts `registration(claims)` into the record of every run when it computes it, outside the key of the run, so
that a run taken from the store keeps the registration that it was computed under. What a stage writes beside its table is
`common` of its runs' registrations, and the analysis calls `refuse_unregistered` on these. This needs neither Git nor clocks.
"""

import hashlib
import json
import re
from dataclasses import dataclass, fields

import yaml

from study.paths import ROOT

CONFIRMATORY = 10  # at most
FAMILIES = ("confirmatory", "exploratory")
PROTOCOL = {"read_out", "tuning_draws", "looks"}


@dataclass(frozen=True)
class Claim:
    """One claim of claims.yaml, whose head says what the fields mean. method and reference are tuples of names of arms; digest is
    a checksum of all that decides how the claim is tested, the protocol and the descriptions of its arms included."""

    id: str
    paper: str
    section: str
    claim: str
    cell: str
    method: tuple
    reference: tuple
    reported: float | None
    where: str
    margin: float
    family: str
    digest: str

    def coefficients(self):
        """{arm: its coefficient in the contrast}, for study.analysis.inference.Arm."""
        plus = {arm: 1 / len(self.method) for arm in self.method}
        return plus | {arm: -1 / len(self.reference) for arm in self.reference}


def smallest_effect(reported):
    """The margin in points: half the reported gain or one point, whichever is less; one point where none is reported."""
    return 1.0 if reported is None else min(reported / 2, 1.0)


def load_claims(path=None):
    """(claims, protocol) of the file, notebooks/claims.yaml unless another is named: a list of Claim, and a dict with read_out,
    tuning_draws and looks. Raises ValueError that names the claim and what is wrong with it."""
    path = ROOT / "notebooks" / "claims.yaml" if path is None else path
    with open(path, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    if missing := {"protocol", "arms", "claims"} - content.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; expected protocol, arms and claims.")
    protocol = content["protocol"]
    _check_protocol(path, protocol)
    claims = [_claim(path, entry, content["arms"], protocol) for entry in content["claims"]]
    ids = [claim.id for claim in claims]
    if twice := sorted({id for id in ids if ids.count(id) > 1}):
        raise ValueError(f"{path} has several claims with the id {', '.join(twice)}; each needs its own.")
    confirmatory = [claim.id for claim in claims if claim.family == "confirmatory"]
    if len(confirmatory) > CONFIRMATORY:
        raise ValueError(f"{path} has {len(confirmatory)} confirmatory claims; at most {CONFIRMATORY}. Make some exploratory.")
    return claims, protocol


def registration(claims):
    """{id: digest} of the claims: what a run records."""
    return {claim.id: claim.digest for claim in claims}


def registered_now():
    """The registration of the claims as the project has them now; empty in a project without such a file."""
    return registration(load_claims()[0]) if (ROOT / "notebooks" / "claims.yaml").exists() else {}


def common(registrations):
    """{id: digest} of the claims that are the same in all registrations."""
    first, *others = registrations
    return {id: digest for id, digest in first.items() if all(other.get(id) == digest for other in others)}


def refuse_unregistered(claims, stages, judges):
    """Raise ValueError if a claim was written down or changed after the runs that are to judge it.

    claims  list of Claim.
    stages  {stage: its registration}.
    judges  {claim's id: names of the stages whose runs judge it}.
    """
    late = [
        f"{claim.id} ({'was not there' if claim.id not in stages[stage] else 'was another'} when {stage} ran)"
        for claim in claims
        for stage in judges[claim.id]
        if stages[stage].get(claim.id) != claim.digest
    ]
    if late:
        raise ValueError(
            f"These claims are younger than the results: {'; '.join(late)}. A claim is judged only by runs made after it was "
            "written down. Restore the claim as it was, or remove the stored runs and run these stages again."
        )


def _check_protocol(path, protocol):
    if protocol.keys() != PROTOCOL:
        raise ValueError(f"the protocol in {path} has {', '.join(protocol)}; expected {', '.join(sorted(PROTOCOL))}.")
    tuning_draws = protocol["tuning_draws"]
    for cell, looks in protocol["looks"].items():
        if looks != sorted(set(looks)) or not 1 <= tuning_draws < looks[0]:
            raise ValueError(
                f"the protocol in {path} has for {cell} looks {looks} and {tuning_draws} tuning draws; expected growing numbers "
                "of draws, and fewer draws for tuning than the first look has."
            )


def _claim(path, entry, arms, protocol):
    names = {field.name for field in fields(Claim)} - {"digest"}
    label = f"claim {entry.get('id', '(without id)')} in {path}"
    if wrong := sorted(names ^ entry.keys()):
        raise ValueError(f"{label} lacks, or has for nothing, {', '.join(wrong)}; expected {', '.join(sorted(names))}.")
    entry = entry | {name: _tuple(entry[name]) for name in ("method", "reference")}
    both = entry["method"] + entry["reference"]
    if unknown := [arm for arm in both if arm not in arms]:
        raise ValueError(f"{label} names the arms {', '.join(unknown)}, which the file does not describe under arms.")
    if len(set(both)) != len(both):
        raise ValueError(f"{label} names an arm twice: {', '.join(both)}.")
    if not re.fullmatch(r"(fine-tuning/[1-9]\d*|scratch/full)", entry["cell"]):
        raise ValueError(f"{label} has cell {entry['cell']!r}; expected scratch/full, or fine-tuning/ and images per class.")
    if entry["family"] not in FAMILIES:
        raise ValueError(f"{label} has family {entry['family']!r}; expected {' or '.join(FAMILIES)}.")
    if (entry["reported"] is None) != (not entry["where"]):
        raise ValueError(f"{label} needs both the reported gain and where it stands, or neither.")
    if abs(entry["margin"] - smallest_effect(entry["reported"])) > 1e-9:
        raise ValueError(
            f"{label} has margin {entry['margin']} with a reported gain of {entry['reported']}; "
            f"expected {smallest_effect(entry['reported']):g}, half the gain or one point, whichever is less."
        )
    tested = [entry[name] for name in ("cell", "method", "reference", "reported", "margin", "family")]
    tested += [{arm: arms[arm] for arm in both}, protocol]
    digest = hashlib.sha256(json.dumps(tested, sort_keys=True).encode()).hexdigest()
    return Claim(**entry, digest=digest)


def _tuple(value):
    return (value,) if isinstance(value, str) else tuple(value)
