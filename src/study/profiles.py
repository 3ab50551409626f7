"""Profiles beside the laptop's: python -m study.profiles NAME [PART] [--tiny]. Nothing here computes a result.

profiles/NAME.yaml names groups of parts. A part is a copy of the project in runs/NAME/<part>, where DVC runs the part's notebooks
with the part's parameters, and goes on from there when it is called again. PART is a part or a group; without it all are run.

--tiny   instead at toy size in build/tiny-NAME: two steps a run, test models, digits. Parts that then have the same parameters
         are run once.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import yaml

from study import pipeline
from study.paths import ROOT

# What --tiny puts in the place of a part's values, where a notebook has such a parameter. A number in the place of a list is for
# each of its entries.
TINY = {
    "dataset": "digits", "weights": "none", "image_size": 16, "feature_size": 16, "batch_size": 170, "validation_size": 1000,
    "seeds": 1, "epochs": 1, "sweep_seeds": 1, "sweep_epochs": 1, "sweep_batch_size": 170, "sweep_temperatures": [0.1],
    "sweep_positives": [1], "sweep_batch_sizes": [170], "sweep_weights": [0.0, 0.5, 1.0], "timing_rounds": 1,
    "class_split": "random", "class_splits": 1, "episodes": 5, "images_per_class": 20, "transfer_seeds": 1, "back_seeds": 1,
    "probe_images": 100, "compute": {"precision": "bf16"},
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    name: str
    group: str
    images: int  # training images of its data set, of the base classes where it has such
    stages: dict  # notebook -> its parameters

    @property
    def trained_on(self):
        """Images that a run on all of them sees in an epoch."""
        return self.images if "transfer" in self.stages else self.images - self.stages["data"]["validation_size"]


def read(profile):
    """The Parts of profiles/<profile>.yaml, in its order. Raises ValueError for a parameter that no notebook of a part has."""
    path = ROOT / "profiles" / f"{profile}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ValueError(f"profile is {profile!r}; expected one of {known}. `make repro` alone runs the laptop's.")
    groups = {name: group for name, group in yaml.safe_load(path.read_text()).items() if "parts" in group}
    return [_part(name, group, groups[group]) for group in groups for name in groups[group]["parts"]]


def _part(name, group, content):
    laptop = yaml.safe_load((ROOT / "params.yaml").read_text())
    own = dict(content["parts"][name])
    images = own.pop("images")
    given, stages, unused = content["every"] | own, {}, set(content["every"] | own)
    for stage, values in content["stages"].items():
        unused -= laptop[stage].keys()
        if unknown := values.keys() - laptop[stage].keys():
            raise ValueError(f"{name} has for {stage} {', '.join(sorted(unknown))}, which is no parameter of that notebook.")
        common = {key: value for key, value in given.items() if key in laptop[stage]}
        stages[stage] = laptop[stage] | common | values | {"results": "results"}
    if unused:
        raise ValueError(f"{name} has {', '.join(sorted(unused))}, which is a parameter of none of its notebooks.")
    return Part(name, group, images, stages)


def tiny(part):
    """The part at toy size."""
    stages = {}
    for stage, parameters in part.stages.items():
        small = {key: _in_the_form_of(parameters[key], value) for key, value in TINY.items() if key in parameters}
        if "encoder" in parameters:
            small["encoder"] = _tiny_encoder(parameters["encoder"])
        if stage == "data":
            small["seeds"] = 2  # it compares two draws
        stages[stage] = parameters | small
    return replace(part, stages=stages)


def _in_the_form_of(given, value):
    return [value] * len(given) if isinstance(given, list) and not isinstance(value, list) else value


def _tiny_encoder(encoder):
    options = {"name": encoder} if isinstance(encoder, str) else {key: encoder[key] for key in encoder if key != "img_size"}
    return options | {"name": "test_resnet" if options["name"].startswith("resnet") else "test_vit"}


def run(profile, name=None, small=False):
    """Run the parts of a profile that are called name or are of the group called so, or all; small: see --tiny above."""
    parts = [part for part in read(profile) if name in (None, part.name, part.group)]
    if not parts:
        known = dict.fromkeys(word for part in read(profile) for word in (part.group, part.name))
        raise ValueError(f"{profile} has no part {name!r}; expected one of {', '.join(known)}.")
    if small:
        run_tiny(parts, ROOT / "build" / f"tiny-{profile}")
        return
    for part in parts:
        run_part(part, ROOT / "runs" / profile / part.name)


def run_part(part, folder, **variables):
    """Run a part in folder, where it goes on from what is there; return what DVC printed. variables: see pipeline.repro."""
    pipeline.copy_project(folder)
    (ROOT / "data").mkdir(exist_ok=True)  # where a data set is missing, its loader says so
    if not (folder / "data").exists():
        (folder / "data").symlink_to(ROOT / "data")
    (folder / "params.yaml").write_text(yaml.safe_dump(part.stages, sort_keys=False))
    printed = pipeline.repro(folder, *map(pipeline.stages().get, part.stages), **variables)
    print(f"{part.name}: {folder / 'results'}")
    return printed


def run_tiny(parts, folder):
    """Run parts at toy size in folder, those of different parameters; return these. They go side by side, each on one core: most
    of the time goes into starting processes."""
    small = []
    for part in map(tiny, parts):
        if part.stages not in [other.stages for other in small]:
            small.append(part)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(run_part, part, folder / part.name, LOKY_MAX_CPU_COUNT="1") for part in small]
        for future in running:
            future.result()
    return small


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("part", nargs="?")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    try:
        run(options.profile, options.part, options.tiny)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
