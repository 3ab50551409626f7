"""What the papers say that is no difference of accuracy in a cell, and we about their code: one Claim each, with its contrast.
study.analysis.ledger judges them.

Reported numbers are the papers' own, from the text, table or abstract named; blank where the paper was not available to us or
gives none. An effect is signed so that positive is what the claim says (of the kind "at most": the value itself).
"""

import numpy as np
import pandas as pd
from scipy import stats

from study.analysis.ledger import Claim, Runs
from study.methods import METHODS

# Effects: each is, or returns, a function (Tables, metric) -> Series, one effect per pair


def more(a, b, by=()):
    """The metric of runs a minus that of runs b, paired by seed and by the settings named in `by`."""
    return lambda tables, metric: tables.paired(metric, a, b, by)


def less(a, b):
    return more(b, a)


def value(which):
    """The metric itself."""
    return lambda tables, metric: tables.values(metric, which)


def check(notebook, name):
    return lambda tables, _: tables.check(notebook, name)


def below_zero(notebook, name):
    """How far a check that cannot be negative is below 0."""
    return lambda tables, _: tables.check(notebook, name).clip(upper=0)


def rise_of_calibration_error(tables, _):
    """What the worst severity adds to the calibration error of CE, minus what it adds to SupCon's."""

    def rise(method):
        which = Runs("robustness", "corruptions", method)
        return tables.values("ece severity 5", which) - tables.values("ece severity 0", which)

    return (rise("CE") - rise("SupCon")).dropna()


def per_doubling(tables, metric):
    """Each seed's least-squares slope of SupCon on log2 of the batch size, minus that of CE."""

    def slopes(method):
        sweep = _by_batch_size(tables, metric, method)
        return sweep.apply(lambda line: stats.linregress(np.log2(line.index), line).slope, axis=1)

    return (slopes("SupCon") - slopes("CE")).dropna()


def small_batch_drop(tables, metric):
    """What SupCon loses from the batch size nearest to 256 to the smallest, minus what CLCE loses."""

    def drop(method):
        sweep = _by_batch_size(tables, metric, method)
        others = sweep.columns[sweep.columns > sweep.columns.min()]
        return sweep[nearest(others, 256)] - sweep[sweep.columns.min()]

    return (drop("SupCon") - drop("CLCE")).dropna()


def spread(tables, metric):
    """The sd over random configurations of CE minus that of SupCon, as jackknife pseudo-values, one per configuration (mean over
    seeds): n S - (n - 1) S_without_i, whose mean and t-interval are those of the difference (Tukey, 1958)."""
    by = ["configuration"]
    runs = {method: tables.values(metric, Runs("robustness", "sensitivity", method), by) for method in ("CE", "SupCon")}
    both = pd.DataFrame({method: values.groupby(by).mean() for method, values in runs.items()})
    if both.isna().any(axis=None) or len(both) < 3:
        raise ValueError(f"robustness: CE and SupCon need the same configurations in 'sensitivity', at least 3; got\n{both}")
    n, whole = len(both), both.CE.std() - both.SupCon.std()
    without = [part.CE.std() - part.SupCon.std() for part in (both.drop(index=number) for number in both.index)]
    return n * whole - (n - 1) * pd.Series(without, both.index)


def slower_to_fit(tables, metric):
    """How many times the epochs with no flipped label are needed with the most: ln of SupCon's factor minus ln of CE's."""

    def factor(method):
        sweep = tables.sweep(metric, Runs("collapse", "flipped", method), "flipped_share")
        return np.log(sweep[sweep.columns.max()] / sweep[sweep.columns.min()])

    return (factor("SupCon") - factor("CE")).dropna()


def probe_over_own_classifier(tables, _):
    """CE's accuracy by a linear probe minus that by the classifier that it trained."""
    return (tables.values("probe_accuracy", main("CE")) - tables.values("accuracy", main("CE"))).dropna()


def nearest(numbers, target):
    """The number nearest to target in ratio."""
    return min(numbers, key=lambda number: abs(np.log(number / target)))


def main(method):
    """A method's reported runs on few images."""
    return Runs(METHODS[method].key, "main", method, "few")


def _by_batch_size(tables, metric, method):
    return tables.sweep(metric, Runs("clce", "sweep batch size", method), "batch_size")


# The claims

SUPCON, SCHANE, CLCE = "SupCon (Khosla et al., 2020)", "SCHaNe (Long et al., 2023)", "CLCE (Long et al., 2024)"
GENSCL, DISSECTING, OURS = "GenSCL (Kim et al., 2022)", "Dissecting SupCon (Graf et al., 2021)", "On the released code (ours)"

FEW = "encoder fine-tuned on {few} images per class"
BATCHES = "small network from scratch, equal steps, a learning rate of its own for each batch size"
EPISODES = "fine-tuned on some of the classes, 5-way episodes of the others; a pair for each set of novel classes"
SCHANE_FEW = "up to +3.32 points on cross-entropy (few-shot, BEiT-3; abstract)"
CLCE_FEW = "up to +3.52 points on cross-entropy (few-shot, BEiT-3; abstract)"
CLCE_TRANSFER = "up to +3.41 points on cross-entropy (transfer, BEiT-3; abstract)"
SPLITS, DRAWS = "sets of novel classes", "draws with their test images"
CORRUPTED = less(Runs("robustness", "corruptions", "SupCon"), Runs("robustness", "corruptions", "CE"))
ON_VALIDATION = "validation_accuracy"  # by which 11 judges, as nothing is chosen there


def _on_novel_classes(ids, paper, method, reported):
    """A method against cross-entropy in episodes of classes never seen, with one and with five shots."""
    gain = more(Runs("transfer", "episodes", method), Runs("transfer", "episodes", "CE"), by=("split",))
    return [
        Claim(
            id, paper, f"{method} beats CE on novel classes, {words}", reported, EPISODES, metric, "points", gain, over=SPLITS,
            figure="transfer/episode_differences",
        )
        for id, words, metric in zip(ids, ("1 shot", "5 shots"), ("1-shot", "5-shot"), strict=True)
    ]  # fmt: skip


def _on_other_data(id, metric, name):
    transferred = more(Runs("transfer", "transfer", "CLCE"), Runs("transfer", "transfer", "CE"))
    return Claim(
        id, CLCE, f"CLCE's network transfers better, to {name}", CLCE_TRANSFER, f"{FEW}; linear probe on {name}", metric,
        "points", transferred, figure="transfer/transfer",
    )  # fmt: skip


CLAIMS = [
    Claim(
        "S5", SUPCON, "Larger batches help SupCon more than CE", "", f"{BATCHES}; slope over all sizes, per doubling",
        "probe_accuracy", "points/doubling", per_doubling, figure="clce/batch_size",
    ),
    Claim(
        "S6", SUPCON, "SupCon's accuracy varies less over hyperparameters",
        "lower variance than cross-entropy (ImageNet; text and Figure 4a, values only plotted)",
        "{few} images per class, validation accuracy by a probe; sd over random configurations, CE less SupCon",
        "probe_accuracy", "points of sd", spread, over="configurations (jackknife)", figure="robustness/spread",
    ),
    Claim(
        "S7a", SUPCON, "SupCon makes fewer errors on corrupted images",
        "mCE 67.2 against 68.6 (ImageNet-C, ResNet-50; Figure 3)", f"{FEW}; mean error over corruptions, CE less SupCon",
        "mce", "points", CORRUPTED, over=DRAWS, figure="robustness/corruptions",
    ),
    Claim(
        "S7b", SUPCON, "SupCon loses less to corruption", "relative mCE 94.6 against 96.2 (ImageNet-C, ResNet-50; Figure 3)",
        f"{FEW}; mean corrupted error above clean error, CE less SupCon",
        "relative_mce", "points", CORRUPTED, over=DRAWS, figure="robustness/corruptions",
    ),
    Claim(
        "S8", SUPCON, "SupCon's calibration error rises less with corruption",
        "2.4 to 10.0 against 3.9 to 9.8 points, clean to severity 5 (ImageNet-C, ResNet-50; Table 6)",
        f"{FEW}; rise from clean images to severity 5, CE's less SupCon's",
        "ece", "points", rise_of_calibration_error, over=DRAWS, figure="robustness/calibration",
    ),
    Claim(
        "S9a", SUPCON, "The gradient is the paper's formula for it",
        "Equations 4 and 5", "random batches, against automatic differentiation", "deviation", "relative",
        check("supcon", "gradient formula"), kind="check", margin=1e-10, over="batches", figure="supcon/hard_pairs",
    ),
    *(
        Claim(
            id, SUPCON, f"Hard {kind} {pull} more than their share of pairs", "derived, Section 7; no measurement",
            f"batches of real images; share of {force} less share of pairs", "share", "points",
            below_zero("supcon", f"hard {kind}: share of {force} minus share of pairs"), kind="check", margin=1e-10,
            over="batches", figure="supcon/hard_pairs",
        )
        for id, kind, pull, force in (("S9b", "positives", "pull", "attraction"), ("S9c", "negatives", "push", "repulsion"))
    ),
    Claim(
        "H5a", SCHANE, "Embeddings of one class lie closer than with CE",
        "", FEW, "within_class_cosine", "cosine", more(main("SCHaNe"), main("CE")), figure="analysis/geometry",
    ),
    Claim(
        "H5b", SCHANE, "Embeddings of two classes lie further apart",
        "", f"{FEW}; CE less SCHaNe", "between_class_cosine", "cosine", more(main("CE"), main("SCHaNe")),
        figure="analysis/geometry",
    ),
    Claim(
        "H5c", SCHANE, "Embeddings are more isotropic than with CE",
        "", FEW, "isotropy", "isotropy", more(main("SCHaNe"), main("CE")), figure="analysis/geometry",
    ),
    *(
        Claim(
            f"H6{letter}", SCHANE, f"A step costs no more time than with CE{views}",
            "no extra compute (abstract, no number)", f"the two take turns, {setting}, one thread each",
            "extra time", "%", check("schane", f"extra time per step, percent of CE's{views}"), kind="at most", margin=5.0,
            over="rounds", figure="analysis/time",
        )
        for letter, views, setting in (
            ("a", "", "two views for both"),
            ("b", " with one view", "two views for SCHaNe and one for CE, as released"),
        )
    ),
    *_on_novel_classes(("H7a", "H7b"), SCHANE, "SCHaNe", SCHANE_FEW),
    _on_other_data("C2a", "digits", "digits"),
    _on_other_data("C2b", "mnist", "MNIST"),
    *_on_novel_classes(("C2c", "C2d"), CLCE, "CLCE", CLCE_FEW),
    Claim(
        "C4", CLCE, "CLCE loses less than SupCon in small batches",
        "no need of batches such as 4096 (abstract, no numbers)",
        f"{BATCHES}; drop from the batch nearest 256 to the smallest, SupCon's less CLCE's",
        "probe_accuracy", "points", small_batch_drop, figure="clce/batch_size",
    ),
    Claim(
        "G1", GENSCL, "On one-hot labels the loss is SupCon's",
        "stated in the README of the released code", "random batches", "deviation", "relative",
        check("genscl", "one-hot equals SupCon"), kind="check", margin=1e-10, over="batches", figure="genscl/mixing_curve",
    ),
    Claim(
        "D0", DISSECTING, "On a simplex SupCon's loss is its closed form",
        "derived; the theorem's text was not available to us", "random class sizes, unit vectors on a simplex",
        "deviation", "relative", check("collapse", "simplex floor"), kind="check", margin=1e-10, over="batches",
        figure="collapse/floor",
    ),
    *(
        Claim(
            f"D1{letter}", DISSECTING, f"{words}, {method}", "both losses are least at a simplex (abstract)",
            "MLP on frozen features, on the images trained on; last epoch over the first", f"{metric}, last to first", "ratio",
            value(Runs("collapse", "collapse", method)), kind="at most", margin=1.0, figure="collapse/collapse",
        )
        for letter, words, metric, method in (
            ("a", "Class means come nearer to a simplex", "simplex_distance_train", "CE"),
            ("b", "Class means come nearer to a simplex", "simplex_distance_train", "SupCon"),
            ("c", "Each class shrinks", "within_class_spread_train", "CE"),
            ("d", "Each class shrinks", "within_class_spread_train", "SupCon"),
            ("e", "The loss comes nearer to the simplex's floor", "loss_above_floor", "SupCon"),
        )
    ),
    Claim(
        "D2", DISSECTING, "Flipped labels slow SupCon more than CE",
        "superlinear growth of the steps to fit with SupCon, about linear with CE (abstract)",
        "MLP on frozen features, both losses on its hidden layer; epochs to fit the most flipped labels over none, ln of "
        "SupCon's ratio less ln of CE's",
        "epochs_to_fit", "ln ratio", slower_to_fit, figure="collapse/flipped",
    ),
    *(
        Claim(
            f"O1{letter}", OURS, f"The same crop as both views lowers {method}",
            "the released code of SCHaNe does so; no comparison known", f"{FEW}; two crops less the same crop twice",
            ON_VALIDATION, "points", more(Runs("pitfalls", "two crops", method), Runs("pitfalls", "same crop", method)),
            figure="pitfalls/pitfalls",
        )
        for letter, method in (("a", "SupCon"), ("b", "SCHaNe"))
    ),
    Claim(
        "O2", OURS, "A base temperature of 0.07 lowers the SupCon baseline",
        "the released code of SCHaNe does so; no comparison known", f"{FEW}; SupCon joined with CE, unscaled less scaled",
        ON_VALIDATION, "points", more(Runs("pitfalls", "joint", "SupCon"), Runs("pitfalls", "joint, scaled", "SupCon")),
        figure="pitfalls/pitfalls",
    ),
    *(
        Claim(
            f"O4{letter}", OURS, f"Overlapping splits flatter {method}",
            "the released code of SCHaNe splits so for CUB and Caltech-256; no comparison known",
            f"{FEW}; on validation images of which 90 % were trained on, less the same without",
            "inflation", "points", value(Runs("pitfalls", "overlap", method)), figure="pitfalls/pitfalls",
        )
        for letter, method in (("a", "CE"), ("b", "SupCon"))
    ),
    *(
        Claim(
            f"O5{letter}", OURS, f"Batch norm in train mode lowers {method}",
            "PyTorch's default; no comparison known", f"{FEW}; statistics kept less batch norm in train mode",
            ON_VALIDATION, "points",
            more(Runs("pitfalls", "statistics kept", method), Runs("pitfalls", "batch norm in train mode", method)),
            figure="pitfalls/pitfalls",
        )
        for letter, method in (("a", "CE"), ("b", "SupCon"))
    ),
    Claim(
        "O6", OURS, "Reading CE by its own classifier makes it look worse", "as in tables that copy each paper's number",
        f"{FEW}; linear probe less own classifier", "accuracy", "points", probe_over_own_classifier, figure="pitfalls/pitfalls",
    ),
    Claim(
        "O7", OURS, "A mask that is kept from batch to batch lowers SupCon", "google-research/syn-rep-learn, issue 3",
        f"{FEW}; mask of each batch less mask kept",
        ON_VALIDATION, "points", more(Runs("pitfalls", "mask of each batch", "SupCon"), Runs("pitfalls", "mask kept", "SupCon")),
        figure="pitfalls/pitfalls",
    ),
]  # fmt: skip
