"""What parameters must fulfil together. A rule yields a sentence, which begins with a parameter's name, for each thing wrong."""

import difflib
import math
from itertools import pairwise
from typing import NamedTuple

# Within a notebook. A rule is for every notebook that has parameters called like its arguments, and every such mapping in it.


def _lists_are_of_one_length(shots, seeds, epochs, trials):
    lengths = [len(values) for values in (shots, seeds, epochs, trials)]
    if len(set(lengths)) > 1:
        counts = ", ".join(f"{name} {n}" for name, n in zip(("shots", "seeds", "epochs", "trials"), lengths, strict=True))
        yield f"shots, seeds, epochs and trials have different lengths ({counts}); expected as many entries in each as in shots."


def _crossed_draws_are_reported_ones(crossed_seeds, seeds):
    yield from _at_most("crossed_seeds", crossed_seeds, seeds[0], "the first of seeds")


def _draws_of_the_same_view_are_reported_ones(same_view_seeds, seeds):
    yield from _at_most("same_view_seeds", same_view_seeds, seeds[0], "the first of seeds")


def _swept_draws_are_reported_ones(sweep_seeds, seeds):
    yield from _at_most("sweep_seeds", sweep_seeds, seeds[0], "the first of seeds")


def _variants_are_of_reported_draws(variant_seeds, scratch_seeds):
    yield from _at_most("variant_seeds", variant_seeds, scratch_seeds, "scratch_seeds")


def _at_most(name, value, most, what):
    if value > most:
        yield f"{name} is {value}; expected at most {most}, which is {what}."


def _batches_are_multiples(batch_sizes):
    smallest = min(batch_sizes)
    if odd := [size for size in batch_sizes if size % smallest]:
        yield f"batch_sizes has {_listed(odd)}; expected multiples of the smallest, {smallest}."


def _floors_are_of_draws_that_there_are(floor_shots, shots, floor_seeds, seeds):
    numbers = [n for n in floor_shots if n != "full"]
    if unknown := [n for n in numbers if n not in shots]:
        yield f'floor_shots has {_listed(unknown)}; expected numbers that stand in shots ({_listed(shots)}), or "full".'
    if numbers:
        yield from _at_most("floor_seeds", floor_seeds, seeds, "seeds")


def _largest_batches_are_beyond_those_together(sizes_alone, sizes_together):
    if sizes_alone[-2] <= sizes_together[-1]:
        yield (
            f"sizes_alone ends with {sizes_alone[-2]} and {sizes_alone[-1]}; expected its last two to be larger than all of "
            f"sizes_together, {sizes_together[-1]}."
        )


def _flipped_shares_are_evenly_spaced(flipped_shares):
    steps = [b - a for a, b in pairwise(flipped_shares)]
    if len(flipped_shares) % 2 == 0 or flipped_shares[0] != 0 or max(steps) - min(steps) > 1e-9:
        yield f"flipped_shares is {flipped_shares}; expected an odd number of evenly spaced shares that begin with 0."


def _weights_fit_the_encoder(encoder, weights):
    name = encoder["name"] if isinstance(encoder, dict) else encoder
    if weights == "package" and name != "tf_efficientnet_lite0":
        yield (
            'weights is "package", which has those of tf_efficientnet_lite0 only; for encoder '
            f'{name} expected "hub", "none" or the path of a file.'
        )


# A few that need no look at timm's list, which takes seconds to load
USUAL_ENCODERS = {"test_resnet", "test_vit", "tf_efficientnet_lite0", "resnet18", "resnet50", "beit3_base_patch16_224.pt"}


def _timm_has_the_encoder(encoder):
    name = encoder["name"] if isinstance(encoder, dict) else encoder
    if name in USUAL_ENCODERS or ":" in name:  # hf-hub:... and local-dir:... are looked up when they are used
        return
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        yield f"encoder is {name!r}; expected the name of a model that timm {timm.__version__} has{hint}"


def _options_of_the_encoder_are_no_misspelt_fields(encoder):
    own = ("stem", "frozen_statistics", "frozen_stages", "hidden", "projection_dim", "classifier_scale")
    for option in encoder if isinstance(encoder, dict) else ():
        if option not in (*own, "name") and (near := difflib.get_close_matches(option, own, 1, 0.8)):
            yield f"encoder.{option} is no field of Architecture; did you mean {near[0]}?"


# What is known of data sets without opening them


class Extent(NamedTuple):
    images: int  # for training and validation
    smallest: int  # of its classes, among them
    classes: int
    test: int


EXTENTS = {
    "digits": Extent(1347, 130, 10, 450),
    "mnist-sample": Extent(3750, 375, 10, 1250),
    "fashion-mnist": Extent(60_000, 6000, 10, 10_000),
    "cifar-10": Extent(50_000, 5000, 10, 10_000),
    "cifar-100": Extent(50_000, 500, 100, 10_000),
}


def _extent(dataset):
    return EXTENTS.get(dataset.partition(":")[0])


def _shots_are_there(dataset, shots):
    yield from _class_has("shots", dataset, shots)


def _subset_is_there(dataset, subset):
    yield from _class_has("subset", dataset, [subset])


def _scratch_subset_is_there(dataset, scratch):
    yield from _class_has("scratch.subset", dataset, [scratch.get("subset")])


def _base_shots_are_there(dataset, base_shots):
    yield from _class_has("base_shots", dataset, [base_shots])


def _collapse_shots_are_there(dataset, collapse_shots):
    yield from _class_has("collapse_shots", dataset, [collapse_shots])


def _flipped_shots_are_there(dataset, flipped_shots):
    yield from _class_has("flipped_shots", dataset, [flipped_shots])


def _class_has(name, dataset, shots):
    extent = _extent(dataset)
    numbers = [n for n in shots if n not in (None, "full")]
    if extent and numbers and max(numbers) > extent.smallest:
        yield f"{name} is {max(numbers)}; expected at most {extent.smallest}, the images of the smallest class of {dataset}."


def _validation_leaves_every_class_both_parts(dataset, validation_size):
    if (extent := _extent(dataset)) and not extent.classes <= validation_size <= extent.images - extent.classes:
        yield (
            f"validation_size is {validation_size}; expected {extent.classes} to {extent.images - extent.classes}, so that every "
            f"class of {dataset} has images in both parts."
        )


def _validation_leaves_enough_of_every_class(dataset, validation_size, shots, subset):
    if extent := _extent(dataset):
        left = extent.smallest - math.ceil(extent.smallest * validation_size / extent.images)
        for name, most in (("shots", max(shots)), ("subset", subset or 0)):
            if left < most <= extent.smallest:
                yield (
                    f"{name} is {most}; expected at most {left}, what a validation_size of {validation_size} leaves of the "
                    f"smallest class of {dataset}."
                )


def _features_are_there(dataset, feature_images, imbalances):
    """The rarest class of a long-tailed draw has an image: see study.data.long_tailed_draw."""
    if not (extent := _extent(dataset)):
        return
    profile = [max(imbalances) ** -(i / (extent.classes - 1)) for i in range(extent.classes)]
    rarest, largest = math.ceil(sum(profile) / profile[-1]), math.floor(extent.smallest * sum(profile))
    if not rarest <= feature_images <= largest:
        yield (
            f"feature_images is {feature_images}; expected {rarest} to {largest}, so that classes of {dataset} can be as unequal "
            f"as 1 to {max(imbalances):g}, the largest of imbalances."
        )


def _watched_images_are_there(dataset, draws, watched_images):
    if (extent := _extent(dataset)) and draws * watched_images > extent.test:
        yield (
            f"watched_images is {watched_images}; expected at most {extent.test // draws}, the {extent.test} test images of "
            f"{dataset} over {draws} draws."
        )


def _class_split_fits_the_data(dataset, class_split, class_splits):
    name, extent = dataset.partition(":")[0], _extent(dataset)
    owner = {"cifar-fs": "cifar-100", "fc100": "cifar-100"}.get(class_split, class_split.partition(":")[0])
    if class_split != "random" and owner != name:
        yield f"class_split is {class_split!r}, which divides the classes of {owner}; dataset is {name!r}."
    if class_split == "random" and extent and extent.classes != 10:
        yield f'class_split is "random", which divides ten classes into five and five; {dataset} has {extent.classes}.'
    if class_split == "random" and class_splits % 2:
        yield f'class_splits is {class_splits}; expected an even number, as with "random" two and two exchange their parts.'


RULES = (
    _lists_are_of_one_length, _crossed_draws_are_reported_ones, _draws_of_the_same_view_are_reported_ones,
    _swept_draws_are_reported_ones, _variants_are_of_reported_draws, _batches_are_multiples,
    _floors_are_of_draws_that_there_are, _largest_batches_are_beyond_those_together, _flipped_shares_are_evenly_spaced,
    _weights_fit_the_encoder, _timm_has_the_encoder, _options_of_the_encoder_are_no_misspelt_fields, _shots_are_there,
    _subset_is_there, _scratch_subset_is_there, _base_shots_are_there, _collapse_shots_are_there, _flipped_shots_are_there,
    _validation_leaves_every_class_both_parts, _validation_leaves_enough_of_every_class, _features_are_there,
    _watched_images_are_there, _class_split_fits_the_data,
)  # fmt: skip


# Between notebooks. These rules get {key: parameters} of those without mistakes of their own, and yield the key as well.


def _same_data_and_folder(stages):
    for name in ("dataset", "results"):
        given = {key: values[name] for key, values in stages.items() if name in values}
        first = next(iter(given), None)
        for key, value in given.items():
            if value != given[first]:
                yield key, f"{name} is {value!r}, but {first} has {given[first]!r}; expected the same in all notebooks."


def _draws_that_data_writes(stages):
    """Of the methods by images per class; of follow-ups by the method with the fewest, whose smallest draws they repeat."""
    if not (data := stages.get("data")):
        return
    for key, values in _methods(stages).items():
        for n, draws in zip(values["shots"], values["seeds"], strict=True):
            if n != "full" and n not in data["shots"]:
                yield key, f'shots has {n}; expected numbers for which data makes draws ({_listed(data["shots"])}), or "full".'
            elif n != "full" and draws > data["seeds"]:
                yield key, f"seeds has {draws} for {n} images per class; expected at most {data['seeds']}, the seeds of data."
    few = [n for values in _methods(stages).values() for n in values["shots"] if n != "full"]
    for key, name in (
        ("robustness", "corruption_seeds"), ("robustness", "sensitivity_seeds"), ("transfer", "transfer_seeds"),
        ("pitfalls", "draws"),
    ):  # fmt: skip
        if few and key in stages and stages[key][name] > data["seeds"]:
            yield key, f"{name} is {stages[key][name]}; expected at most {data['seeds']}, the seeds of data."


def _reported_runs_that_pitfalls_reads(stages):
    """It compares its runs with the reported ones of the same draws, at the smallest number of shots."""
    for key, values in _methods(stages).items():
        if "pitfalls" in stages and key != "genscl":
            _, draws = min(zip(values["shots"], values["seeds"], strict=True), key=lambda pair: _as_number(pair[0]))
            if (asked := stages["pitfalls"]["draws"]) > draws:
                yield (
                    "pitfalls",
                    f"draws is {asked}; expected at most {draws}, the seeds of {key} at its smallest number of shots.",
                )


def _teachers_that_genscl_reads(stages):
    """Those of every draw, of cross-entropy's encoders."""
    if not {"genscl", "cross_entropy"} <= stages.keys():
        return
    pupil, teacher = stages["genscl"], stages["cross_entropy"]
    there = dict(zip(teacher["shots"], teacher["seeds"], strict=True))
    for n, draws in zip(pupil["shots"], pupil["seeds"], strict=True):
        if draws > there.get(n, 0):
            yield (
                "genscl",
                f"seeds has {draws} for {n} images per class; expected at most {there.get(n, 0)}, for which cross_entropy trains "
                "teachers.",
            )
    for name, one, other in (
        ("encoder", pupil["encoder"], teacher["encoder"]),
        ("scratch.encoder", pupil["scratch"]["encoder"], teacher["scratch"]["encoder"]),
    ):
        if one != other:
            yield "genscl", f"{name} is {one!r}; expected that of its teachers in cross_entropy, {other!r}."


BETWEEN_NOTEBOOKS = (
    _same_data_and_folder, _draws_that_data_writes, _reported_runs_that_pitfalls_reads, _teachers_that_genscl_reads,
)  # fmt: skip


def _methods(stages):
    """The notebooks that train on draws."""
    return {key: values for key, values in stages.items() if "trials" in values}


def _as_number(shots):
    return math.inf if shots == "full" else shots


def _listed(values):
    return ", ".join(map(str, values))
