"""Profiles beside the laptop's: python -m study.profiles NAME [PART] [--tiny]. Nothing here computes a result.

profiles/NAME.yaml names groups of parts. A part is a copy of the project in runs/NAME/<part>, where DVC runs the part's notebooks
with the part's parameters, and goes on from there when it is called again. PART is a part or a group; without it all are run.
Where a group names a folder `kept`, what Git keeps of the results is copied there.

--tiny   instead at toy size in build/tiny-NAME: test models, digits, and sizes as the notebooks' defaults have them. Parts that
         then have the same parameters are run once.
"""

import argparse
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import yaml

from study import notebooks, parameters, pipeline
from study.parameters import hint
from study.paths import ROOT
from study.writing import write_text

# What a part keeps at toy size where it differs from the laptop's; all else are the notebooks' own defaults.
KINDS = {
    "shots", "floor_shots", "base_shots", "learning_rate", "label_smoothing", "temperature", "hardness", "loss_weight", "weight",
    "positives", "applied_to", "recipe", "weight_decay", "crop", "trials", "crossed_weights", "sweep_weights",
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    name: str
    group: str
    images: int  # training images of its data set, of the base classes where it has such
    stages: dict  # notebook -> its parameters
    kept: str = ""  # the project's folder for a copy of the results; empty for none

    @property
    def trained_on(self):
        """Images that a run on all of them sees in an epoch."""
        return self.images if "transfer" in self.stages else self.images - self.stages["data"]["validation_size"]


def read(profile):
    """The Parts of profiles/<profile>.yaml, in its order. Raises ValueError with every mistake in the parameters of any part."""
    path = ROOT / "profiles" / f"{profile}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ValueError(f"profile is {profile!r}; expected one of {known}. `make repro` alone runs the laptop's.")
    groups = {name: group for name, group in yaml.safe_load(path.read_text()).items() if "parts" in group}
    parts = [_part(name, group, groups[group]) for group in groups for name in groups[group]["parts"]]
    found = [(f"{part.name}, {key}", mistake) for part in parts for key, mistake in parameters.mistakes_in_stages(part.stages)]
    parameters.refuse(f"profiles/{profile}.yaml", found)
    return parts


def _part(name, group, content):
    laptop = yaml.safe_load((ROOT / "params.yaml").read_text())
    own = dict(content["parts"][name])
    images = own.pop("images")
    given, stages, unused = content["every"] | own, {}, set(content["every"] | own)
    for stage, values in content["stages"].items():
        if stage not in notebooks.NOTEBOOKS:
            raise ValueError(f"{name} has {stage} among its stages, which is no notebook{hint(stage, notebooks.NOTEBOOKS)}")
        unused -= laptop[stage].keys()
        if unknown := sorted(values.keys() - laptop[stage].keys()):
            which = f"which is no parameter of that notebook{hint(unknown[0], laptop[stage])}"
            raise ValueError(f"{name} has for {stage} {', '.join(unknown)}, {which}")
        common = {key: value for key, value in given.items() if key in laptop[stage]}
        stages[stage] = laptop[stage] | common | values | {"results": "results"}
    if unused := sorted(unused):
        known = {parameter for values in stages.values() for parameter in values}
        which = f"which is a parameter of none of its notebooks{hint(unused[0], known)}"
        raise ValueError(f"{name} has {', '.join(unused)}, {which}")
    return Part(name, group, images, stages, content.get("kept", ""))


def tiny(part):
    """The part at toy size: the notebooks' defaults but for KINDS, the kind of encoder, and the precision."""
    laptop, stages = yaml.safe_load((ROOT / "params.yaml").read_text()), {}
    for key, values in part.stages.items():
        own = {name: value for name, value in values.items() if name in KINDS and value != laptop[key][name]}
        small = notebooks.defaults(key) | own | {"results": "results"}
        if "precision" in values.get("compute", {}):
            small["compute"] = {"precision": "bf16"}
        if values.get("encoder") != laptop[key].get("encoder"):
            small["encoder"] = _tiny_encoder(values["encoder"])
        stages[key] = small
    return replace(part, stages=stages)


def _tiny_encoder(encoder):
    options = {"name": encoder} if isinstance(encoder, str) else {key: encoder[key] for key in encoder if key != "img_size"}
    if options["name"].startswith("resnet"):
        return options | {"name": "test_resnet"}
    return options | {"name": "test_vit", "patch_size": 8}  # which the images' 24 pixels are a multiple of


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
        folder = ROOT / "runs" / profile / part.name
        run_part(part, folder)
        if part.kept:
            keep_results(part, folder, ROOT / part.kept)


def keep_results(part, folder, kept):
    """Copy what the part's notebooks wrote in folder, but for the arrays, to kept; what an earlier run left there goes."""
    for stage in part.stages:
        shutil.rmtree(kept / stage, ignore_errors=True)
        shutil.copytree(folder / "results" / stage, kept / stage)
    for table in (folder / "results").glob("*.csv"):  # of the analysis
        shutil.copy(table, kept / table.name)


def run_part(part, folder, **variables):
    """Run a part in folder, where it goes on from what is there; return what DVC printed. variables: see pipeline.repro."""
    pipeline.copy_project(folder)
    (ROOT / "data").mkdir(exist_ok=True)  # where a data set is missing, its loader says so
    if not (folder / "data").exists():
        (folder / "data").symlink_to(ROOT / "data")
    write_text(folder / "params.yaml", yaml.safe_dump(part.stages, sort_keys=False))
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
