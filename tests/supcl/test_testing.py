"""supcl.testing finds nothing in our losses, and names what is done otherwise or wrong in those of others.

The faulty losses below are one readable dense loss with one fault each.
"""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses as metric_learning

import supcl
from supcl import testing
from supcl.testing import check_loss

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
OURS = {
    "supcon": (supcl.supcon_loss, supcl.SupConLoss),
    "schane": (supcl.schane_loss, supcl.SCHaNeLoss),
    "clce": (supcl.clce_loss, supcl.CLCELoss),
    "genscl": (supcl.genscl_loss, supcl.GenSCLLoss),
    "tcl": (supcl.tcl_loss, supcl.TCLLoss),
}


def verdicts(report, *checks):
    """check -> verdict, the worst where a check reports several times; of all checks that are not ok, or of those named."""
    order = ["ok", "not run", "differs", "wrong"]
    worst = {}
    for check, verdict, _ in report:
        worst[check] = max(worst.get(check, "ok"), verdict, key=order.index)
    return {check: verdict for check, verdict in worst.items() if check in checks or (not checks and verdict != "ok")}


def sentence(report, check):
    return " ".join(finding.sentence for finding in report if finding.check == check)


class Dense(torch.nn.Module):
    """SupCon without a fault, as an (N, N) matrix. A faulty loss replaces one of its steps."""

    def __init__(self, temperature=0.1):
        super().__init__()
        self.temperature = temperature

    def scaled(self, z):
        return F.normalize(z.float() if z.dtype in (torch.float16, torch.bfloat16) else z, dim=1)

    def positive(self, labels):
        return (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)

    def log_all(self, s):
        return s.masked_fill(torch.eye(len(s), dtype=torch.bool), -torch.inf).logsumexp(1)

    def anchors(self, s, positive):
        count = positive.sum(1)
        of_pairs = torch.where(positive, s, 0).sum(1) / count.clamp(min=1)
        return torch.where(count > 0, self.log_all(s) - of_pairs, 0), count > 0

    def mean(self, terms, counts):
        return torch.where(counts, terms, 0).sum() / counts.sum().clamp(min=1)

    def forward(self, z, labels):
        z = self.scaled(z)
        if len(z) < 2:
            return 0 * z.sum()
        return self.mean(*self.anchors(z @ z.T / self.temperature, self.positive(labels)))


class StaleMask(Dense):
    """syn-rep-learn#3."""

    size = None

    def positive(self, labels):
        if self.size != len(labels):
            self.size, self.kept = len(labels), super().positive(labels)
        return self.kept


class StaleMaskOfEachSize(StaleMask):
    def __init__(self):
        super().__init__()
        self.masks = {}

    def positive(self, labels):
        return self.masks.setdefault(len(labels), Dense.positive(self, labels))


class OwnInDenominator(Dense):
    def log_all(self, s):
        return s.logsumexp(1)


class OwnAsPositive(OwnInDenominator):
    def positive(self, labels):
        return labels[:, None] == labels


class NegativesAlone(Dense):
    def forward(self, z, labels):
        self.same = labels[:, None] == labels
        return 0 * z.sum() if self.same.all() else super().forward(z, labels)

    def log_all(self, s):
        return s.masked_fill(self.same, -torch.inf).logsumexp(1)


class NotANumberWithoutPositives(Dense):
    """SupContrast#141."""

    def anchors(self, s, positive):
        return self.log_all(s) - torch.where(positive, s, 0).sum(1) / positive.sum(1), torch.ones(len(s), dtype=torch.bool)


class GradientNotANumberWithoutPositives(Dense):
    """The value is masked, its gradient is not: 0 times the derivative of 0 / 0."""

    def anchors(self, s, positive):
        count = positive.sum(1)
        return self.log_all(s) - (positive * s).sum(1) / count, count > 0


class ZeroWithoutPositives(Dense):
    """SupContrast since pull request 142."""

    def mean(self, terms, counts):
        return terms.mean()


class NotNormalised(Dense):
    def scaled(self, z):
        return z


class Exponentials(Dense):
    """Not shifted by their largest, in the precision of the embeddings: exp(1 / 0.07) is more than float16 holds."""

    def __init__(self):
        super().__init__(0.07)

    def scaled(self, z):
        return F.normalize(z, dim=1)

    def log_all(self, s):
        return s.exp().masked_fill(torch.eye(len(s), dtype=torch.bool), 0).sum(1).log()


class Detached(Dense):
    """The denominator has no gradient."""

    def log_all(self, s):
        return super().log_all(s.detach())


class OrderMatters(Dense):
    def mean(self, terms, counts):
        return terms[: len(terms) // 2].mean()


class LabelsAsNumbers(Dense):
    """Takes labels for positions, so that not every name will do."""

    def positive(self, labels):
        return super().positive(labels.clamp(max=2))


class Scaled(Dense):
    def __init__(self, temperature=0.1, factor=lambda t: 1.0):
        super().__init__(temperature)
        self.factor = factor

    def forward(self, z, labels):
        return self.factor(self.temperature) * super().forward(z, labels)


class Summed(Dense):
    def mean(self, terms, counts):
        return torch.where(counts, terms, 0).sum()


class Released(Dense):
    """SupContrast's class in our words: features (B, V, D), the factor temperature / 0.07, rows expected at unit length."""

    def __init__(self, temperature=0.07, base_temperature=0.07):
        super().__init__(temperature)
        self.base_temperature = base_temperature

    def scaled(self, z):
        return z

    def mean(self, terms, counts):
        return self.temperature / self.base_temperature * terms.mean()

    def forward(self, features, labels):
        if features.ndim < 3:
            raise ValueError("features needs to be (B, V, D)")
        return super().forward(torch.cat(features.unbind(1)), labels.repeat(features.shape[1]))


# Ours and a sound one


@pytest.mark.parametrize("like", OURS)
@pytest.mark.parametrize("kind", [0, 1], ids=["function", "module"])
def test_nothing_is_found_in_our_losses(like, kind):
    loss = OURS[like][kind]
    report = check_loss(loss() if kind else loss, like)
    assert {finding.verdict for finding in report} == {"ok"}, str(report)
    report.raise_if_wrong()


@pytest.mark.parametrize("settings", [{"hardness": 0.0}, {"hardness": 2.0}, {"temperature": 0.2, "hardness": 1.5}])
def test_settings_are_read_from_a_module_or_given(settings):
    assert verdicts(check_loss(supcl.SCHaNeLoss(**settings), "schane")) == {}
    whole = {"temperature": 0.5} | settings
    for hardness, verdict in ((whole["hardness"], "ok"), (3.0, "wrong")):
        loss = lambda z, y, t=whole["temperature"], h=hardness: supcl.schane_loss(z, y, temperature=t, hardness=h)  # noqa: E731
        assert verdicts(check_loss(loss, "schane", **whole), "values") == {"values": verdict}


def test_a_sound_loss_of_somebody_else_passes():
    assert verdicts(check_loss(Dense())) == {}


def test_the_loop_shares_no_line_with_our_losses():
    source = Path(testing.__file__).read_text()
    assert not re.search(r"^\s*(from|import) supcl", source.split('"""', 2)[2], re.MULTILINE)


# Losses of others


def test_pytorch_metric_learnings_supcon_differs_in_one_thing():
    report = check_loss(metric_learning.SupConLoss())
    assert verdicts(report) == {"one class": "differs"}
    assert "gives 0, where the formula gives" in sentence(report, "one class")
    report.raise_if_wrong()


def test_pytorch_metric_learnings_ntxent_is_recognised():
    report = check_loss(metric_learning.NTXentLoss())
    assert verdicts(report, "denominator", "reduction", "float16", "float32") == {
        "denominator": "differs",
        "reduction": "differs",
        "float16": "wrong",  # log(share + 6e-5), the smallest normal number, is never below -9.7
        "float32": "ok",
    }


@pytest.mark.parametrize("column, loss", [(1, metric_learning.SupConLoss), (2, metric_learning.NTXentLoss)])
def test_the_page_says_of_pytorch_metric_learning_what_is_reported(column, loss):
    report, compared = check_loss(loss()), set()
    for line in PAGE.split("## Six losses")[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("check", "conventions", "---"):
            continue
        *first, precision = cells[0].split(", ")  # "low temperature, float32" is one check, "gradient, float32" would be two
        checks = first if first == ["low temperature"] else [*first, precision]
        for finding in report:
            if finding.check in checks and (finding.check != "low temperature" or precision in finding.sentence):
                assert (finding.verdict == "ok") == (cells[column] == "ok"), (line, finding)
                compared.add(finding.check)
    assert {finding.check for finding in report} - compared <= {"denominator", "reduction"}


@pytest.mark.parametrize("loss", [Released(), Released(0.1), Released(0.5)])
def test_supcontrasts_factor_is_named_even_where_it_is_one(loss):
    report = check_loss(loss)
    assert verdicts(report) == {"factor": "differs", "scale": "differs", "lone anchors": "differs"}
    assert "Yours is ours times temperature / 0.07" in sentence(report, "factor")
    assert "not normalised" in sentence(report, "scale")
    assert "counts as 0 in the mean" in sentence(report, "lone anchors")


def test_views_are_recognised_or_said():
    assert "two rows" in sentence(check_loss(Released()), "views")
    assert "views" not in verdicts(check_loss(Dense()), "views")
    assert "two rows" in sentence(check_loss(supcl.supcon_loss, views=True), "views")


# Each fault by its name


@pytest.mark.parametrize(
    ("loss", "check", "words"),
    [
        (StaleMask(), "shuffled labels", "keeps the mask of an earlier batch"),
        (StaleMaskOfEachSize(), "shuffled labels", "syn-rep-learn#3"),
        (OwnInDenominator(), "own", "The anchor is not removed from the denominator"),
        (OwnAsPositive(), "own", "counts as a positive of its own"),
        (NotANumberWithoutPositives(), "lone anchors", "gives nan"),
        (NotANumberWithoutPositives(), "no positives", "gives nan"),
        (GradientNotANumberWithoutPositives(), "lone anchors", "a gradient with NaN"),
        (Exponentials(), "float16", "an exponential overflows"),
        (Exponentials(), "low temperature", "In float32 at temperature 0.01"),
        (Detached(), "gradient", "not that of the value"),
        (OrderMatters(), "order", "The order of rows changes the loss"),
        (LabelsAsNumbers(), "label names", "Naming the classes differently changes the loss"),
        (lambda z, y: z.square().sum(), "values", "fit neither the formula nor any"),
        (lambda z, y: z, "call", "a tensor of shape"),
        (lambda z: z, "call", "TypeError"),
        (torch.dot, "call", "RuntimeError"),
    ],
)
def test_a_fault_is_named_as_wrong(loss, check, words):
    report = check_loss(loss)
    assert verdicts(report, check) == {check: "wrong"}
    assert words in sentence(report, check)
    with pytest.raises(AssertionError, match=re.escape(words)):
        report.raise_if_wrong()


@pytest.mark.parametrize(
    ("loss", "check", "words"),
    [
        (Scaled(0.1, lambda t: t), "factor", "times temperature, which is 0.1 at temperature 0.1"),
        (Scaled(0.2, lambda t: 1 / t), "factor", "times 1 / temperature, which is 5 at temperature 0.2"),
        (Scaled(0.2, lambda t: 1.7), "factor", "times 1.7 at temperature 0.2 and 1.7 at temperature 0.3"),
        (lambda z, y: 2 * supcl.supcon_loss(z, y, temperature=0.3), "factor", "times 2 at temperature 0.3"),
        (supcl.SupConLoss(form="in"), "form", "L_in (Eq. 3), not L_out (Eq. 2)"),
        (NegativesAlone(), "denominator", "the negatives alone"),
        (Summed(), "reduction", "Anchors are summed"),
        (ZeroWithoutPositives(), "lone anchors", "an anchor without a positive counts as 0"),
        (NotNormalised(), "scale", "Embeddings are not normalised"),
    ],
)
def test_a_convention_is_named_as_a_difference(loss, check, words):
    report = check_loss(loss)
    assert verdicts(report, "values", check) == {"values": "ok", check: "differs"}
    assert words in sentence(report, check)


def dense_schane(z, y, temperature=0.5, weights="negatives", own=False):
    """SCHaNe as matrices. With its weights from bare cosines, or over positives too as a third party has it, or with the own."""
    z, apart = F.normalize(z, dim=1), ~torch.eye(len(z), dtype=torch.bool)
    s, same = z @ z.T / temperature, y[:, None] == y
    w = (s * temperature if weights == "cosines" else s).exp()
    w = w / ((w * ~same).sum(1) / (~same).sum(1))[:, None]
    against = (w * s.exp() * (apart if weights == "positives too" else ~same)).sum(1) + own * s.diagonal().exp()
    positive = (s.exp() * (same & apart)).sum(1) / (same & apart).sum(1)
    return (1 + against / positive).log().mean()


def dense_genscl(z, q, temperature=0.1, own=False, count=False):
    """GenSCL as matrices; a third party prints it with 1 / |A(i)| in place of 1 / sum_j c_ij."""
    apart = ~torch.eye(len(z), dtype=torch.bool)
    s, c = (F.normalize(x, dim=1) @ F.normalize(x, dim=1).T for x in (z, q))
    s, c = s / temperature, c * apart
    log_share = s - (s if own else s.masked_fill(~apart, -torch.inf)).logsumexp(1, keepdim=True)
    return -((c * log_share).sum(1) / (len(z) - 1 if count else c.sum(1))).mean()


def dense_tcl(z, y, temperature=0.1, k1=5000.0, own=False, tempered=False):
    z, apart = F.normalize(z, dim=1), ~torch.eye(len(z), dtype=torch.bool)
    s, positive = z @ z.T / temperature, (y[:, None] == y) & apart
    far = (-s if tempered else -s * temperature).exp()
    d = (s.exp() * (apart | own)).sum(1) + k1 * (far * positive).sum(1)
    return (d.log() - (s * positive).sum(1) / positive.sum(1)).mean()


def swapped_clce(logits, z, y, weight=0.9):
    return supcl.clce_loss(logits, z, y, weight=1 - weight)


@pytest.mark.parametrize(
    ("like", "loss", "expected"),
    [
        ("schane", dense_schane, {}),
        ("schane", supcl.SCHaNeLoss(positives="sum"), {"positives": "differs"}),
        ("schane", partial(dense_schane, weights="cosines"), {"weights": "differs"}),
        ("schane", partial(dense_schane, weights="positives too"), {"weights": "wrong"}),
        ("schane", partial(dense_schane, own=True), {"own": "wrong"}),
        ("clce", supcl.CLCELoss(positives="sum"), {"positives": "differs"}),
        ("clce", swapped_clce, {"weight": "differs"}),
        ("genscl", dense_genscl, {}),
        ("genscl", partial(dense_genscl, count=True), {"prefactor": "differs"}),
        ("genscl", partial(dense_genscl, own=True), {"own": "wrong"}),
        ("tcl", dense_tcl, {}),
        ("tcl", partial(dense_tcl, tempered=True), {"k1": "differs"}),
        ("tcl", partial(dense_tcl, own=True), {"own": "wrong"}),
    ],
)
def test_a_choice_within_each_formula_is_named(like, loss, expected):
    topics = testing.FORMULAS[like].alternatives
    assert verdicts(check_loss(loss, like), "values", "gradient", *topics) == {"values": "ok", "gradient": "ok"} | expected


def test_a_temperature_that_the_loss_does_not_use_is_wrong():
    ignored, multiplied = Dense(0.2), Dense(0.2)
    ignored.forward = lambda z, y: supcl.supcon_loss(z, y, temperature=1.0)
    multiplied.forward = lambda z, y: supcl.supcon_loss(z, y, temperature=1 / 0.2)
    for loss, used in ((ignored, "1"), (multiplied, "5")):
        report = check_loss(loss)
        assert f"those of temperature {used}, while the loss states 0.2" in sentence(report, "temperature")
        assert report.wrong


def test_a_temperature_that_is_not_stated_is_recognised():
    for temperature in (0.05, 0.07, 0.5):
        report = check_loss(lambda z, y, t=temperature: supcl.supcon_loss(z, y, temperature=t))
        assert f"at temperature {temperature}," in sentence(report, "values")
        assert verdicts(report) == {"low temperature": "not run"}
    report = check_loss(lambda z, y: supcl.supcon_loss(z, y, temperature=0.123), temperature=0.123)
    assert verdicts(report, "values") == {"values": "ok"}


def test_a_loss_that_refuses_a_batch_says_so_in_the_report():
    def refusing(z, labels):
        if len(labels) < 2:
            raise ValueError("needs two rows")
        return supcl.supcon_loss(z, labels)

    report = check_loss(refusing)
    assert verdicts(report, "one row", "empty") == {"one row": "differs", "empty": "differs"}
    assert "refused: ValueError: needs two rows" in sentence(report, "one row")


def test_a_precision_that_a_loss_refuses_is_a_difference():
    report = check_loss(lambda z, y: supcl.supcon_loss(F.normalize(torch.cdist(z, torch.eye(5, dtype=z.dtype)), dim=1), y))
    assert verdicts(report, "float32", "float16") == {"float32": "ok", "float16": "differs"}
    assert "not implemented for 'Half'" in sentence(report, "float16")


def test_a_constant_that_no_gradient_can_come_from_is_seen():
    """backward() of a plain 0 is an error, in the middle of a training run."""
    constant = lambda z, y: supcl.supcon_loss(z, y) if len(y.unique()) < len(y) else torch.zeros(())  # noqa: E731
    report = check_loss(constant)
    assert verdicts(report, "no positives", "lone anchors") == {"no positives": "differs", "lone anchors": "ok"}
    assert "does not require grad" in sentence(report, "no positives")


def test_a_loss_that_fails_in_the_middle_is_a_finding():
    def failing(z, labels):
        assert len(labels) != 11, "eleven rows"
        return supcl.supcon_loss(z, labels)

    report = check_loss(failing)
    assert "AssertionError: eleven rows" in sentence(report, "order")
    assert verdicts(report, "order", "scale") == {"order": "wrong", "scale": "ok"}


def test_the_loss_is_left_as_it_was():
    loss = supcl.SupConLoss(0.2)
    check_loss(loss)
    assert loss.temperature == 0.2


# Arguments and the command


def test_wrong_arguments_are_told_what_is_expected():
    with pytest.raises(ValueError, match="like is 'simclr'; expected one of supcon, schane, clce, genscl, tcl"):
        check_loss(Dense(), "simclr")
    with pytest.raises(TypeError, match="supcon has no setting hardness"):
        check_loss(Dense(), hardness=1.0)
    for temperature in (0.0001, 0.0, -1.0):
        with pytest.raises(ValueError, match=f"temperature is {temperature:g}; expected > 0"):
            check_loss(Dense(), temperature=temperature)


def test_the_command_prints_the_report_and_its_exit_says_whether_something_is_wrong(capsys):
    assert testing.main(["supcl:SupConLoss"]) == 0
    assert capsys.readouterr().out.startswith("SupConLoss(temperature=0.1, form='out'), checked as supcon\nok       values")
    assert testing.main(["supcl:genscl_loss", "--like", "genscl"]) == 0
    assert testing.main(["supcl:supcon_loss", "--temperature", "0.3"]) == 1  # it has another
    with pytest.raises(SystemExit):
        testing.main(["supcl:no_such_loss"])
    assert "expected package.module:loss" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        testing.main(["supcl:supcon_loss", "--temperature", "0"])
    assert "temperature is 0; expected > 0" in capsys.readouterr().err


def test_the_command_runs_as_the_page_says(tmp_path):
    (tmp_path / "mine.py").write_text("import torch\n\ndef loss(z, y):\n    return torch.tensor(float('nan'))\n")
    command = [sys.executable, "-m", "supcl.testing", "mine:loss"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and "wrong    values" in run.stdout, run.stderr
    assert "python -m supcl.testing mine:loss" in PAGE
