"""What the papers claim, and we about their code: one Claim each, with its contrast. study.analysis.ledger judges them.

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


def temperature(against):
    """SupCon at the temperature nearest to 0.1, minus the largest tested or the mean of all others."""

    def effects(tables, metric):
        sweep = tables.sweep(metric, _scratch("supcon", "sweep temperature", "SupCon"), "temperature")
        claimed = nearest(sweep.columns, 0.1)
        others = sweep.drop(columns=claimed)
        return sweep[claimed] - (others[others.columns.max()] if against == "largest" else others.mean(axis=1))

    return effects


def positives(tables, metric):
    """SupCon with all positives, minus with the fewest that an anchor was allowed."""
    sweep = tables.sweep(metric, _scratch("supcon", "sweep positives", "SupCon"), "positives")
    return (tables.values(metric, main("SupCon", "full")) - sweep[sweep.columns.min()]).dropna()


def per_doubling(tables, metric):
    """Each seed's least-squares slope of SupCon on log2 of the batch size."""
    sweep = _by_batch_size(tables, metric, "SupCon")
    return sweep.apply(lambda line: stats.linregress(np.log2(line.index), line).slope, axis=1)


def small_batch_drop(tables, metric):
    """What SupCon loses from the batch size nearest to 256 to the smallest, minus what CLCE loses."""

    def drop(method):
        sweep = _by_batch_size(tables, metric, method)
        others = sweep.columns[sweep.columns > sweep.columns.min()]
        return sweep[nearest(others, 256)] - sweep[sweep.columns.min()]

    return (drop("SupCon") - drop("CLCE")).dropna()


def both_parts(than):
    """CLCE's mean over loss weights strictly between 0 and 1, minus that at weight `than`."""

    def effects(tables, metric):
        sweep = tables.sweep(metric, _clce(), "weight")
        inner = sweep.columns[(sweep.columns > 0) & (sweep.columns < 1)]
        return (sweep[inner].mean(axis=1) - tables.values(metric, _clce(weight=than))).dropna()

    return effects


def spread(tables, metric):
    """The sd over configurations of CE minus that of SupCon, as jackknife pseudo-values, one per configuration (mean over seeds):
    n S - (n - 1) S_without_i, whose mean and t-interval are those of the difference (Tukey, 1958)."""
    runs = {method: Runs("robustness", "sensitivity", method) for method in ("CE", "SupCon")}
    values = {method: tables.values(metric, which, ["configuration"]) for method, which in runs.items()}
    both = pd.DataFrame({method: each.groupby("configuration").mean() for method, each in values.items()})
    if both.isna().any(axis=None) or len(both) < 3:
        raise ValueError(f"robustness: CE and SupCon need the same configurations in 'sensitivity', at least 3; got\n{both}")
    n, whole = len(both), both.CE.std() - both.SupCon.std()
    without = [part.CE.std() - part.SupCon.std() for part in (both.drop(index=configuration) for configuration in both.index)]
    return n * whole - (n - 1) * pd.Series(without, both.index)


def calibration_rise(tables):
    """What corruption at its worst adds to SupCon's calibration error, and to CE's: two Series."""
    methods = (Runs("robustness", "corruptions", method) for method in ("SupCon", "CE"))
    return (tables.values("ece severity 5", which) - tables.values("ece severity 0", which) for which in methods)


def supcons_rise(tables, metric):
    supcon, _ = calibration_rise(tables)
    return supcon


def smaller_rise(tables, metric):
    supcon, ce = calibration_rise(tables)
    return ce - supcon


def hard_negatives(place):
    """SCHaNe with hard negatives minus without, its loss acting on `place`: the mean over the weights of the crossed design."""

    def effects(tables, metric):
        cells = tables.values(metric, _crossed(applied_to=place), ("hardness", "weight")).unstack("hardness")
        return (cells[cells.columns.max()] - cells[cells.columns.min()]).groupby("seed").mean()

    return effects


def with_cross_entropy(tables, metric):
    """SCHaNe with cross-entropy minus alone: the mean over the places and hardnesses of the crossed design."""
    cells = tables.values(metric, _crossed(), ("applied_to", "hardness", "weight")).unstack("weight")
    joint = cells[cells.columns[cells.columns < 1]].mean(axis=1)
    return (joint - cells[1]).groupby("seed").mean()


def best_of_both(tables, metric):
    """GenSCL with mixing and a teacher, minus the mean of its two halves."""
    alone = [tables.values(metric, _genscl(variant)) for variant in ("MixUp-CutMix", "teacher")]
    return (tables.values(metric, main("GenSCL", "full")) - sum(alone) / 2).dropna()


def slower_to_fit(tables, metric):
    """How many times the epochs with no flipped label are needed with the most: ln of SupCon's factor minus ln of CE's."""

    def factor(method):
        sweep = tables.sweep(metric, Runs("collapse", "flipped", method), "flipped_share")
        return np.log(sweep[sweep.columns.max()] / sweep[sweep.columns.min()])

    return (factor("SupCon") - factor("CE")).dropna()


def nearest(numbers, target):
    """The number nearest to target in ratio."""
    return min(numbers, key=lambda number: abs(np.log(number / target)))


def main(method, trained_on="few"):
    """A method's reported runs."""
    return Runs(METHODS[method].key, "main", method, trained_on)


def _features(notebook, variant, method, **settings):
    return Runs(notebook, variant, method, "features", settings)


def _scratch(notebook, variant, method):
    return Runs(notebook, variant, method, "full")


def _by_batch_size(tables, metric, method):
    return tables.sweep(metric, _scratch("clce", "sweep batch size", method), "batch_size")


def _crossed(**settings):
    return Runs("schane", "crossed", "SCHaNe", "few", settings)


def _clce(**settings):
    return Runs("clce", "sweep weight", "CLCE", "few", settings)


def _genscl(variant):
    return Runs("genscl", variant, "GenSCL", "full")


def _cross_entropy(variant):
    """Cross-entropy with one of the tricks that GenSCL has, on the same images."""
    return Runs("cross_entropy", variant, "CE", "full")


# The claims

SUPCON, SCHANE, CLCE = "SupCon (Khosla et al., 2020)", "SCHaNe (Long et al., 2023)", "CLCE (Long et al., 2024)"
GENSCL, DISSECTING, OURS = "GenSCL (Kim et al., 2022)", "Dissecting SupCon (Graf et al., 2021)", "On the released code (ours)"

FEW = "whole network fine-tuned on {few} images per class"
MORE = "whole network fine-tuned on {more} images per class"
HABIT = f"{FEW}; validation images, by a linear probe"
SCRATCH = "small network trained from scratch on all images, read by a linear probe"
CROSSED = f"{FEW}; every combination of place, hardness and weight"
FEATURES = "MLP on frozen features of all training images"
EPISODES = "fine-tuned on half of the classes, 5-way episodes of the others; a pair for each set of novel classes"
SCHANE_FEW = "up to +3.32 points on cross-entropy (few-shot, BEiT-3; abstract)"
CLCE_FEW = "up to +3.52 points on cross-entropy (few-shot, BEiT-3; abstract)"
SPLITS = "sets of novel classes"
DRAWS = "draws with their test images"
CORRUPTED = less(Runs("robustness", "corruptions", "SupCon"), Runs("robustness", "corruptions", "CE"))


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


CLAIMS = [
    Claim(
        "S1", SUPCON, "The mean outside the logarithm (L_out) beats the one inside",
        "78.7 against 67.4 % (ImageNet, ResNet-50; Table 1)", SCRATCH,
        "probe_accuracy", "points", more(main("SupCon", "full"), _scratch("supcon", "form in", "SupCon")),
    ),
    Claim(
        "S2a", SUPCON, "SupCon beats cross-entropy: few images",
        "78.7 against 78.2 % (ImageNet), 96.0 against 95.0 % (CIFAR-10), ResNet-50; Table 2", FEW,
        "accuracy", "points", more(main("SupCon"), main("CE")), figure="analysis/results",
    ),
    Claim(
        "S2b", SUPCON, "SupCon beats cross-entropy: more images",
        "78.7 against 78.2 % (ImageNet), 96.0 against 95.0 % (CIFAR-10), ResNet-50; Table 2", MORE,
        "accuracy", "points", more(main("SupCon", "more"), main("CE", "more")), figure="analysis/results",
    ),
    Claim(
        "S3a", SUPCON, "A temperature of 0.1 beats a large one",
        "0.1 is best; temperature is worth nearly 3 points (ImageNet; text)", f"{SCRATCH}; 0.1 against the largest tested",
        "probe_accuracy", "points", temperature("largest"), figure="supcon/temperature",
    ),
    Claim(
        "S3b", SUPCON, "A temperature of 0.1 beats the mean of all others",
        "0.1 is best; temperature is worth nearly 3 points (ImageNet; text)", f"{SCRATCH}; 0.1 against the mean of the others",
        "probe_accuracy", "points", temperature("mean"), figure="supcon/temperature",
    ),
    Claim(
        "S4", SUPCON, "More positives for each anchor help",
        "69.3 % with 1 positive, 78.3 % with 9, 78.5 % with all (ImageNet, ResNet-50; Table 5)",
        f"{SCRATCH}; all positives against 1", "probe_accuracy", "points", positives, figure="supcon/positives",
    ),
    Claim(
        "S5", SUPCON, "Larger batches help SupCon",
        "", f"{SCRATCH}, the same number of steps; slope over all batch sizes, per doubling",
        "probe_accuracy", "points/doubling", per_doubling, figure="clce/batch_size",
    ),
    *(
        Claim(
            f"S6{letter}", SUPCON, f"SupCon's accuracy varies less over settings{words}",
            "lower variance than cross-entropy (ImageNet; text and Figure 4a, values only plotted)",
            f"{{few}} images per class, validation accuracy, {read_out}; "
            "sd over random rates, crops and optimisers, CE less SupCon",
            metric, "points of sd", spread, over="configurations (jackknife)", figure="robustness/spread",
        )
        for letter, words, read_out, metric in (
            ("a", "", "by a linear probe", "probe_accuracy"),
            ("b", ", CE by its own", "CE by its own classifier and SupCon by a probe", "accuracy"),
        )
    ),
    Claim(
        "S7a", SUPCON, "SupCon makes fewer errors on corrupted images",
        "mCE 67.2 against 68.6 (ImageNet-C, ResNet-50; Figure 3)",
        f"{FEW}; mean error over corruptions, CE less SupCon, other test images for each draw",
        "mce", "points", CORRUPTED, over=DRAWS, figure="robustness/corruptions",
    ),
    Claim(
        "S7b", SUPCON, "SupCon loses less to corruption",
        "relative mCE 94.6 against 96.2 (ImageNet-C, ResNet-50; Figure 3)",
        f"{FEW}; mean corrupted error above clean error, CE less SupCon, other test images for each draw",
        "relative_mce", "points", CORRUPTED, over=DRAWS, figure="robustness/corruptions",
    ),
    Claim(
        "S8a", SUPCON, "SupCon's calibration error does not rise with corruption",
        'it "does not suffer from increasing calibration error" (Figure 6); .024 to .100 (Table 6; ImageNet-C, ResNet-50)',
        f"{FEW}; ECE at severity 5 less ECE of clean images, by a linear probe; a point is allowed",
        "ece", "points", supcons_rise, kind="at most", margin=1.0, over=DRAWS, figure="robustness/calibration",
    ),
    Claim(
        "S8b", SUPCON, "SupCon's calibration error rises less than CE's",
        '"unlike the cross entropy loss" (Figure 6); .024 to .100 against .039 to .098 (Table 6; ImageNet-C, ResNet-50)',
        f"{FEW}; ECE at severity 5 less ECE of clean images, both by a linear probe, CE less SupCon",
        "ece", "points", smaller_rise, over=DRAWS, figure="robustness/calibration",
    ),
    Claim(
        "S9a", SUPCON, "The gradient is the paper's formula for it",
        "Equations 4 and 5", "random batches, against automatic differentiation", "deviation", "relative",
        check("supcon", "gradient formula"), kind="exact", margin=1e-10, over="batches", figure="supcon/hard_pairs",
    ),
    Claim(
        "S9b", SUPCON, "Hard positives pull more than their share of pairs",
        "derived, Section 7; no measurement", "batches of real images; share of attraction less share of pairs",
        "share", "points", check("supcon", "hard positives: share of attraction minus share of pairs"),
        figure="supcon/hard_pairs",
    ),
    Claim(
        "S9c", SUPCON, "Hard negatives push more than their share of pairs",
        "derived, Section 7; no measurement", "batches of real images; share of repulsion less share of pairs",
        "share", "points", check("supcon", "hard negatives: share of repulsion minus share of pairs"), figure="supcon/hard_pairs",
    ),
    Claim(
        "H1", SCHANE, "SCHaNe beats cross-entropy with few images",
        SCHANE_FEW, FEW, "probe_accuracy", "points", more(main("SCHaNe"), main("CE")), figure="analysis/results",
    ),
    Claim(
        "H2", SCHANE, "SCHaNe beats cross-entropy with more images",
        "up to +3.41 points on cross-entropy (full data, BEiT-3; abstract)", MORE,
        "probe_accuracy", "points", more(main("SCHaNe", "more"), main("CE", "more")), figure="analysis/results",
    ),
    *(
        Claim(
            f"H3{letter}", SCHANE, f"Weighing hard negatives helps, on the {place}", "", f"{CROSSED}; chosen beta against beta 0",
            "probe_accuracy", "points", hard_negatives(place), figure="schane/crossed",
        )
        for letter, place in (("a", "projection"), ("b", "embedding"))
    ),
    Claim(
        "H3c", SCHANE, "Cross-entropy along with it beats contrast alone",
        "", f"{CROSSED}; weights below 1 against 1", "probe_accuracy", "points", with_cross_entropy, figure="schane/crossed",
    ),
    Claim(
        "H4", SCHANE, "SCHaNe beats SupCon with few images",
        "", FEW, "probe_accuracy", "points", more(main("SCHaNe"), main("SupCon")), figure="analysis/results",
    ),
    Claim(
        "H5a", SCHANE, "Embeddings of one class lie closer than with CE",
        "", FEW, "within_class_cosine", "cosine", more(main("SCHaNe"), main("CE")), figure="analysis/geometry",
    ),
    Claim(
        "H5b", SCHANE, "Embeddings of two classes lie further apart",
        "", f"{FEW}; CE less SCHaNe",
        "between_class_cosine", "cosine", more(main("CE"), main("SCHaNe")), figure="analysis/geometry",
    ),
    Claim(
        "H5c", SCHANE, "Embeddings are more isotropic than with CE",
        "", FEW, "isotropy", "isotropy", more(main("SCHaNe"), main("CE")), figure="analysis/geometry",
    ),
    Claim(
        "H5d", SCHANE, "Nearest neighbours classify better than with CE",
        "", FEW, "neighbour_accuracy", "points", more(main("SCHaNe"), main("CE")), figure="analysis/readout",
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
    Claim(
        "C1", CLCE, "CLCE beats cross-entropy with few images",
        CLCE_FEW, FEW, "probe_accuracy", "points", more(main("CLCE"), main("CE")), figure="analysis/results",
    ),
    Claim(
        "C2a", CLCE, "CLCE's network transfers better, to digits",
        "up to +3.41 points on cross-entropy (transfer, BEiT-3; abstract)", f"{FEW}; linear probe on scikit-learn's digits",
        "digits", "points", more(Runs("transfer", "transfer", "CLCE"), Runs("transfer", "transfer", "CE")),
        figure="transfer/transfer",
    ),
    Claim(
        "C2b", CLCE, "CLCE's network transfers better, to MNIST",
        "up to +3.41 points on cross-entropy (transfer, BEiT-3; abstract)", f"{FEW}; linear probe on MNIST",
        "mnist", "points", more(Runs("transfer", "transfer", "CLCE"), Runs("transfer", "transfer", "CE")),
        figure="transfer/transfer",
    ),
    *_on_novel_classes(("C2c", "C2d"), CLCE, "CLCE", CLCE_FEW),
    Claim(
        "C3a", CLCE, "The two losses together beat cross-entropy alone",
        "", f"{FEW}, read by a linear probe; mean over lambda between 0 and 1 against 0",
        "probe_accuracy", "points", both_parts(0), figure="clce/lambda",
    ),
    Claim(
        "C3b", CLCE, "The two losses together beat contrast alone",
        "", f"{FEW}, read by a linear probe; mean over lambda between 0 and 1 against 1",
        "probe_accuracy", "points", both_parts(1), figure="clce/lambda",
    ),
    Claim(
        "C4", CLCE, "CLCE loses less than SupCon in small batches",
        "no need of batches such as 4096 (abstract, no numbers)",
        f"{SCRATCH}, the same number of steps; drop from the batch nearest 256 to the smallest, SupCon's less CLCE's",
        "probe_accuracy", "points", small_batch_drop, figure="clce/batch_size",
    ),
    Claim(
        "G1", GENSCL, "On one-hot labels the loss is SupCon's",
        "stated in the README of the released code", "random batches", "deviation", "relative",
        check("genscl", "one-hot equals SupCon"), kind="exact", margin=1e-10, over="batches", figure="genscl/mixing_curve",
    ),
    Claim(
        "G2", GENSCL, "MixUp and CutMix add to it",
        "97.3 against 96.0 % (CIFAR-10), 82.8 against 76.5 % (CIFAR-100), ResNet-50; version 1, Table 1", SCRATCH,
        "probe_accuracy", "points", more(_genscl("MixUp-CutMix"), _genscl("one-hot")), figure="genscl/variant_differences",
    ),
    Claim(
        "G3", GENSCL, "A teacher adds to it",
        "97.1 against 96.0 % (CIFAR-10), 82.5 against 76.5 % (CIFAR-100), ResNet-50; version 1, Table 1", SCRATCH,
        "probe_accuracy", "points", more(_genscl("teacher"), _genscl("one-hot")), figure="genscl/variant_differences",
    ),
    Claim(
        "G4", GENSCL, "Mixing and a teacher together are best",
        "97.6 against 97.3 and 97.1 % (CIFAR-10), 84.7 against 82.8 and 82.5 % (CIFAR-100), ResNet-50; version 1, Table 1",
        f"{SCRATCH}; both against the mean of mixing alone and teacher alone",
        "probe_accuracy", "points", best_of_both, figure="genscl/variant_differences",
    ),
    Claim(
        "G5", GENSCL, "The teacher beats its labels shuffled (our control)",
        "", SCRATCH, "probe_accuracy", "points", more(_genscl("teacher"), _genscl("teacher, shuffled")),
        figure="genscl/variant_differences",
    ),
    *(
        Claim(
            f"G6{letter}", GENSCL, f"It beats cross-entropy with the same {tricks}",
            "97.6 against 94.9 % (CIFAR-10), 84.7 against 75.4 % (CIFAR-100), CE without tricks; version 1, Table 1", SCRATCH,
            "probe_accuracy", "points", more(ours, _cross_entropy(theirs)), figure="cross_entropy/tricks",
        )
        for letter, tricks, ours, theirs in (
            ("a", "mixing", _genscl("MixUp-CutMix"), "MixUp-CutMix"),
            ("b", "teacher", _genscl("teacher"), "teacher"),
            ("c", "mixing and teacher", main("GenSCL", "full"), "MixUp-CutMix, teacher"),
        )
    ),
    Claim(
        "D0", DISSECTING, "On a simplex SupCon's loss is its closed form",
        "derived; the theorem's text was not available to us", "random class sizes, unit vectors on a simplex",
        "deviation", "relative", check("collapse", "simplex floor"), kind="exact", margin=1e-10, over="batches",
        figure="collapse/floor",
    ),
    *(
        Claim(
            f"D1{letter}", DISSECTING, f"{words}, {method}", "both losses are least at a simplex (abstract)",
            "MLP on frozen features, on the images trained on; the last epoch's over the first epoch's",
            f"{metric}, last to first", "ratio",
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
        "MLP on frozen features, both losses on its hidden layer; epochs to fit the most flipped labels over none, "
        "ln of SupCon's ratio less ln of CE's",
        "epochs_to_fit", "ln ratio", slower_to_fit, figure="collapse/flipped",
    ),
    *(
        Claim(
            f"O1{letter}", OURS, f"The same crop as both views lowers {method}",
            "the released code of SCHaNe does so; no comparison known", f"{HABIT}; two crops less the same crop twice",
            "validation_accuracy", "points", more(Runs("pitfalls", "two crops", method), Runs("pitfalls", "same crop", method)),
            figure="pitfalls/pitfalls",
        )
        for letter, method in (("a", "SupCon"), ("b", "SCHaNe"))
    ),
    Claim(
        "O2", OURS, "A base temperature of 0.07 lowers the SupCon baseline",
        "the released code of SCHaNe does so; no comparison known", f"{HABIT}; SupCon joined with CE, unscaled less scaled",
        "validation_accuracy", "points", more(Runs("pitfalls", "joint", "SupCon"), Runs("pitfalls", "joint, scaled", "SupCon")),
        figure="pitfalls/pitfalls",
    ),
    *(
        Claim(
            f"O3{letter}", OURS, f"Picking the best epoch on test images flatters {method}",
            "the released codes of SCHaNe and GenSCL do so; no comparison known",
            f"{FEW}; best epoch on some test images less the last, other images for each draw",
            "optimism", "points", value(Runs("pitfalls", "best epoch", method)),
            figure="pitfalls/epochs",
        )
        for letter, method in (("a", "CE"), ("b", "SupCon"))
    ),
    *(
        Claim(
            f"O4{letter}", OURS, f"Overlapping splits flatter {method}",
            "the released code of SCHaNe splits so for CUB and Caltech-256; no comparison known",
            f"{FEW}; trained on 90 % of the validation images less trained on none of them, by a linear probe",
            "inflation", "points", value(Runs("pitfalls", "overlap", method)), figure="pitfalls/pitfalls",
        )
        for letter, method in (("a", "CE"), ("b", "SupCon"))
    ),
    *(
        Claim(
            f"O5{letter}", OURS, f"Batch norm in train mode lowers {method}",
            "PyTorch's default; no comparison known", f"{HABIT}; statistics that are kept less batch norm in train mode",
            "validation_accuracy", "points",
            more(Runs("pitfalls", "statistics kept", method), Runs("pitfalls", "batch norm in train mode", method)),
            figure="pitfalls/pitfalls",
        )
        for letter, method in (("a", "CE"), ("b", "SupCon"))
    ),
    Claim(
        "O6", OURS, "A label mask kept from batch to batch lowers SupCon",
        "possible with the code of StableRep where labels are shuffled (syn-rep-learn, issue 3)",
        f"{HABIT}; a mask for each batch less the first batch's for all", "validation_accuracy", "points",
        more(Runs("pitfalls", "mask of each batch", "SupCon"), Runs("pitfalls", "mask kept", "SupCon")),
        figure="pitfalls/pitfalls",
    ),
]  # fmt: skip
