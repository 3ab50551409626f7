"""Which parameters each notebook has, of what kind, and what each means: the comment beside it in the notebook's cell."""

from pydantic import Field, create_model

from study.parameters.kinds import (
    CLASS_SPLIT,
    COMPUTE,
    COUNT,
    CROSSED_TRAINING,
    DATASET,
    ENCODER,
    FOLDER,
    NOT_NEGATIVE,
    PIXELS,
    POSITIVE,
    RECIPE,
    SHARE,
    SHARE_ABOVE_ZERO,
    SHARE_BELOW_ONE,
    SHOTS,
    SMALL_NETWORK,
    WEIGHTS,
    Mapping,
    list_of,
    number,
    one_of,
    optional,
    values_of,
    whole,
)


def means(text):
    return Field(description=text)


# What several notebooks share


class Results(Mapping):
    results: FOLDER = means("folder for everything written here")


class Everywhere(Results):
    dataset: DATASET = means("a name from README's table, or folder:/home/me/pictures")


class Images(Everywhere):
    encoder: ENCODER = means("any timm name, or a mapping: see study.training.model.Architecture")
    weights: WEIGHTS = means('"package", "hub", "none" or a file')
    image_size: PIXELS = means("pixels a side")
    compute: COMPUTE = means("device, precision...: see study.training.compute.Compute; {}: one process for each core")


class Batches(Images):
    batch_size: COUNT = means("images per step; each gives two views")
    recipe: RECIPE = means("what else all methods share in training the encoder: see study.runs.Recipe; {}: its values")


class Training(Batches):
    shots: list_of(SHOTS) = means('images per class; "full": all training images')
    seeds: list_of(COUNT, repeats=True) = means("draws for each number of shots")
    epochs: list_of(COUNT, repeats=True) = means("for each number of shots")
    trials: list_of(COUNT, repeats=True) = means("settings tried for each number of shots, on every draw")
    learning_rate: values_of(POSITIVE) = means("this and the next two: what all methods' settings are made of")
    weight_decay: values_of(NOT_NEGATIVE) = means("of all weights")
    crop: values_of(SHARE_ABOVE_ZERO) = means("smallest share of an image's area that a random crop keeps")


class Scratch(Mapping):
    scratch: SMALL_NETWORK = means("the small network")
    scratch_seeds: COUNT = means("draws of its first weights and its batches")
    scratch_epochs: COUNT = means("of the small network, as the next four")
    scratch_trials: COUNT = means("settings tried on every draw")
    scratch_learning_rate: values_of(POSITIVE) = means("this and the next two: what its settings are made of")
    scratch_weight_decay: list_of(NOT_NEGATIVE) = means("of all weights")
    scratch_crop: values_of(SHARE_ABOVE_ZERO) = means("smallest share of an image's area that a random crop keeps")


class FollowUp(Batches):
    weight_decay: NOT_NEGATIVE = means("of all weights")


# A method's own settings. A notebook of Training with some of these needs no class of its own.


class Temperature(Mapping):
    temperature: values_of(POSITIVE) = means("of the contrastive loss, tried like the learning rate")


class Hardness(Mapping):
    hardness: values_of(NOT_NEGATIVE) = means("beta, tried like the learning rate")


class LabelSmoothing(Mapping):
    label_smoothing: values_of(SHARE_BELOW_ONE) = means("tried like the learning rate")


class LossWeight(Mapping):
    loss_weight: values_of(SHARE) = means("lambda, of the contrastive loss, tried like the learning rate; 0.9 is SCHaNe's README")


TRIED = (Temperature, Hardness, LabelSmoothing, LossWeight)


# The notebooks. Of several bases the last one's parameters come first.


class Data(Images):
    feature_size: PIXELS = means("pixels a side, for the frozen features")
    validation_size: COUNT = means("images set aside for choosing settings")
    shots: list_of(COUNT) = means("images per class in a few-shot draw")
    seeds: whole(2) = means("draws for each number of shots")
    floor_shots: list_of(SHOTS, least=0) = means('images per class from which floors are measured, of `shots`; or "full"')
    subset: optional(COUNT) = means("images of each class that networks are trained on from scratch; None: all")
    floor_seeds: COUNT = means("draws for each number of them")


class CrossEntropy(Scratch, LabelSmoothing, Training):
    scratch_teacher_epochs: COUNT = means("of the teacher from scratch: more than its pupils get")


class SupCon(Scratch, Temperature, Training):
    scratch_temperature: values_of(POSITIVE) = means("of the small network's loss")
    sweep_temperatures: list_of(POSITIVE) = means("from scratch")
    sweep_positives: list_of(COUNT) = means("at most so many per anchor, from scratch")


class SCHaNe(Hardness, Temperature, Training):
    weight: SHARE = means("of the contrastive loss; cross-entropy has the rest")
    crossed_training: CROSSED_TRAINING = means("of every cell of the crossed design")
    crossed_weights: list_of(SHARE) = means("of the contrastive loss in it; 1.0 among them for the effect of cross-entropy")
    crossed_seeds: COUNT = means("its draws; not more than the first of seeds, as for the next")
    same_view_seeds: COUNT = means("draws with one crop in the place of two")
    timing_rounds: COUNT = means("in which cross-entropy and SCHaNe take turns")


class CLCE(LossWeight, Training):
    temperature: POSITIVE = means("0.5 is SCHaNe's README")
    hardness: NOT_NEGATIVE = means("beta; 1.0 is SCHaNe's released code")
    positives: one_of("sum", "mean") = means('"sum" is the reading of CLCE, "mean" is SCHaNe\'s')
    applied_to: one_of("embedding", "projection") = means('or "projection", where SCHaNe\'s release has it')
    sweep_weights: list_of(SHARE) = means("lambda, from cross-entropy alone to contrastive alone")
    sweep_seeds: COUNT = means("draws of each of these weights; not more than the first of seeds")
    scratch: SMALL_NETWORK = means("the small network")
    batch_sizes: list_of(COUNT) = means("images per step, multiples of the smallest")
    batch_steps: COUNT = means("of every run, whatever its batches")
    batch_seeds: COUNT = means("runs of each method, size and learning rate")
    batch_learning_rate: list_of(POSITIVE) = means("tried for every method and size of the batch")
    batch_weight_decay: NOT_NEGATIVE = means("of all weights")
    batch_crop: SHARE_ABOVE_ZERO = means("smallest share of an image's area that a random crop keeps")


class GenSCL(Scratch, Temperature, Training):
    variant_seeds: COUNT = means("seeds of each kind of label; not more than scratch_seeds")


class Cost(Results):
    dim: COUNT = means("of the embeddings")
    classes: whole(2) = means("of the labels")
    sizes_alone: list_of(whole(2), least=3, ascending=True) = means("rows; memory and time, each in a process of its own")
    sizes_together: list_of(whole(2), ascending=True) = means("rows; time, all implementations side by side")
    rounds: COUNT = means("of the time side by side")
    seconds_alone: NOT_NEGATIVE = means("for so long each process repeats its pass; 0: once")
    memory_budget: POSITIVE = means("GB; what would need more is not run")
    others: list_of(one_of("dense", "dense, compiled", "pytorch-metric-learning"), least=0) = means(
        'implementations of SupCon beside ours; also "dense, compiled"'
    )


class Robustness(FollowUp):
    corruption_seeds: COUNT = means("draws; the test images are dealt out among them")
    sensitivity_configurations: whole(2) = means("drawn at random, the same for both methods")
    sensitivity_seeds: COUNT = means("draws for each of them")
    sensitivity_epochs: COUNT = means("of each of these runs")
    sensitivity_rate_factors: list_of(POSITIVE, length=2, ascending=True) = means(
        "lowest and highest, times the rate that a method has chosen"
    )
    sensitivity_crops: list_of(SHARE_ABOVE_ZERO, length=2, ascending=True) = means(
        "lowest and highest share of an image's area that a crop must keep"
    )
    sensitivity_optimizers: list_of(one_of("adamw", "rmsprop", "sgd")) = means("one is drawn for each configuration")
    label_noises: list_of(SHARE_BELOW_ONE, least=2, ascending=True) = means("share of training labels that are wrong")
    imbalances: list_of(number(">= 1", ge=1), least=2, ascending=True) = means(
        "images of the largest class for one of the smallest"
    )
    feature_images: COUNT = means("training images with frozen features")
    feature_seeds: COUNT = means("draws of them")
    feature_epochs: COUNT = means("on them, as the next two")
    feature_batch_size: COUNT = means("images per step")
    feature_learning_rate: POSITIVE = means("of the network on frozen features")


class Transfer(FollowUp):
    class_split: CLASS_SPLIT = means(
        "of the classes into five base and the novel ones; or a published one, see episodes.class_split"
    )
    class_splits: COUNT = means("such splits, or runs on a published one; one run of each method on each")
    base_shots: SHOTS = means('training images of each base class, or "full"')
    episodes: whole(2) = means("for each number of shots")
    images_per_class: whole(20) = means("test images of each novel class that episodes draw from")
    transfer_seeds: COUNT = means("draws; one run of each method on each")
    probe_images: whole(20) = means("at most so many images of another data set to fit a probe on, and to test it on")


class Collapse(Images):
    batch_size: COUNT = means("of the reported runs")
    check_seeds: COUNT = means("random batches on which the closed form is checked")
    descent_steps: whole(100) = means("of free embeddings")
    collapse_shots: COUNT = means("images per class")
    collapse_batch_size: COUNT = means("images per step")
    collapse_epochs: COUNT = means("of each of these runs")
    collapse_learning_rate: POSITIVE = means("of the network on frozen features")
    weight_decays: list_of(NOT_NEGATIVE, length=2) = means("the first bounds the weights, the second is the other notebooks'")
    collapse_seeds: list_of(COUNT, length=2, repeats=True) = means("for each weight decay")
    flipped_shots: COUNT = means("images per class")
    flipped_batch_size: COUNT = means("images per step")
    flipped_epochs: COUNT = means("at most; fewer where all labels are fitted")
    flipped_learning_rate: POSITIVE = means("of the network on frozen features")
    flipped_shares: list_of(SHARE_BELOW_ONE, least=3, ascending=True) = means("of the training labels, evenly spaced")
    flipped_seeds: COUNT = means("draws for each share")


class Pitfalls(FollowUp):
    draws: COUNT = means("of each method and habit; as many reported runs are read from stages 02 to 05")
    watched_images: COUNT = means("test images looked at after every epoch, others for each draw")
    overlap: SHARE_ABOVE_ZERO = means("share of the validation images that are trained on where splits overlap")


class Analysis(Everywhere):
    colour: FOLDER = means("results on pictures in colour, shown beside these where they are there")
    map_images: whole(20) = means("test images drawn in each map")
    simulated_studies: COUNT = means("in each scenario, by which intervals are checked")


NOTEBOOKS = {
    "data": Data, "cross_entropy": CrossEntropy, "supcon": SupCon, "schane": SCHaNe, "clce": CLCE, "genscl": GenSCL, "cost": Cost,
    "robustness": Robustness, "transfer": Transfer, "collapse": Collapse, "pitfalls": Pitfalls, "analysis": Analysis,
}  # fmt: skip


def definition(key):
    """The pydantic model of a notebook's parameters. A method's notebook without a class has those of Training, and of TRIED what
    stands in its cell."""
    if key in NOTEBOOKS:
        return NOTEBOOKS[key]
    from study import notebooks  # here, not above: a notebook with a class has no need of it

    names = notebooks.defaults(key).keys()
    return create_model(key, __base__=(*(setting for setting in TRIED if setting.model_fields.keys() <= names), Training))
