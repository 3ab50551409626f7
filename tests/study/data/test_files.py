"""Data sets in their real format on disk, written here with a few pictures each; and pictures streamed from files."""

import json
import pickle
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from scipy.io import savemat
from small import cross_entropy, train_with
from torch import nn

from study import data, notebooks, runs
from study.data import files as datasets
from study.data import pictures as images
from study.data.pictures import ImageFiles
from study.paths import ROOT
from study.probes import episodes, evaluation
from study.runs import Run, Setup, trained_on
from study.runs.shared import images_of
from study.training.compute import LAPTOP, Compute
from study.training.model import Model

SHADES = {}  # path of a written picture -> its grey, by which it is known again


def picture(path, size=(12, 8)):
    """Write a picture in a grey of its own, wider than high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    SHADES[str(path)] = 9 * len(SHADES) % 251
    Image.new("RGB", size, (SHADES[str(path)],) * 3).save(path)
    return path


@pytest.fixture
def root(tmp_path, monkeypatch):
    SHADES.clear()
    monkeypatch.setenv("SUPCL_DATA", str(tmp_path))
    return tmp_path


def trust_checksums(monkeypatch, module):
    """torchvision knows the sums of the real files, which tiny copies cannot have; all else of its reading is as always."""
    monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: True)


def write_lines(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def relative(files, root):
    return [path.decode().removeprefix(f"{root}/") for path in files.paths]


# Each writer returns {"train": [(path below root, class)], "test": ...} as the published split has it.


def write_flowers_102(root, monkeypatch):
    trust_checksums(monkeypatch, "flowers102")
    folder = root / "flowers-102"
    for k in range(1, 7):
        picture(folder / "jpg" / f"image_{k:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 102, 1]], np.uint8)})
    parts = {"trnid": [3, 2], "valid": [4, 1], "tstid": [6, 5]}
    savemat(folder / "setid.mat", {name: np.array([ids], np.uint16) for name, ids in parts.items()})
    train = [(3, "pink primrose"), (2, "hard-leaved pocket orchid")]  # without the validation part, as SCHaNe's release
    parts = {"train": train, "test": [(6, "pink primrose"), (5, "blackberry lily")]}
    return {part: [(f"flowers-102/jpg/image_{k:05d}.jpg", c) for k, c in found] for part, found in parts.items()}


def write_oxford_pets(root, monkeypatch):
    folder = root / "oxford-iiit-pet"
    lists = {"trainval": ["Abyssinian_100 1 1 1", "american_bulldog_7 2 2 1"], "test": ["Abyssinian_2 1 1 1"]}
    lists["test"].append("american_bulldog_1 2 2 1")
    for name, lines in lists.items():
        write_lines(folder / "annotations" / f"{name}.txt", *lines)
        for line in lines:
            picture(folder / "images" / f"{line.split()[0]}.jpg")
    names = {"1": "Abyssinian", "2": "American Bulldog"}
    found = {p: [(f"oxford-iiit-pet/images/{x.split()[0]}.jpg", names[x.split()[1]]) for x in v] for p, v in lists.items()}
    return {"train": found["trainval"], "test": found["test"]}


def write_food_101(root, monkeypatch):
    lists = {"train": {"sushi": ["sushi/3", "sushi/1"], "pho": ["pho/5"]}, "test": {"sushi": ["sushi/2"], "pho": ["pho/4"]}}
    for part, found in lists.items():
        write_lines(root / "food-101" / "meta" / f"{part}.json", json.dumps(found))
        for name in sum(found.values(), []):
            picture(root / "food-101" / "images" / f"{name}.jpg")
    return {p: [(f"food-101/images/{x}.jpg", c) for c, names in found.items() for x in names] for p, found in lists.items()}


def write_dtd(root, monkeypatch):
    lists = {"train1": ["banded/b1.jpg"], "val1": ["woven/w1.jpg", "banded/b2.jpg"], "test1": ["woven/w2.jpg", "banded/b3.jpg"]}
    lists["train1"].append("woven/w3.jpg")
    for name, lines in lists.items():
        write_lines(root / "dtd/dtd/labels" / f"{name}.txt", *lines)
        for line in lines:
            picture(root / "dtd/dtd/images" / line)
    found = {part: [(f"dtd/dtd/images/{line}", line.split("/")[0]) for line in lines] for part, lines in lists.items()}
    return {"train": found["train1"] + found["val1"], "test": found["test1"]}


def write_fgvc_aircraft(root, monkeypatch):
    folder = root / "fgvc-aircraft-2013b" / "data"
    write_lines(folder / "variants.txt", "707-320", "Falcon 900")
    lists = {"trainval": ["0000002 Falcon 900", "0000001 707-320"], "test": ["0000003 707-320", "0000004 Falcon 900"]}
    for part, lines in lists.items():
        write_lines(folder / f"images_variant_{part}.txt", *lines)
        for line in lines:
            picture(folder / "images" / f"{line[:7]}.jpg")
    found = {p: [(f"fgvc-aircraft-2013b/data/images/{x[:7]}.jpg", x[8:]) for x in lines] for p, lines in lists.items()}
    return {"train": found["trainval"], "test": found["test"]}


def write_caltech_256(root, monkeypatch):
    found = {"train": [], "test": []}
    for label, name in enumerate(["001.ak47", "002.american-flag"], 1):
        for number in range(1, 6):
            path = f"caltech256/256_ObjectCategories/{name}/{label:03d}_{number:04d}.jpg"
            picture(root / path)
            found["test" if number in (1, 5) else "train"].append((path, name))
    return found


def write_cub_200_2011(root, monkeypatch):
    folder, names = root / "CUB_200_2011", ["001.Albatross", "002.Auklet"]
    rows = [(1, 0, 1), (2, 0, 0), (3, 1, 0), (4, 1, 1)]  # id, class, whether to train on
    write_lines(folder / "classes.txt", *(f"{k} {name}" for k, name in enumerate(names, 1)))
    write_lines(folder / "images.txt", *(f"{k} {names[c]}/bird_{k}.jpg" for k, c, _ in rows))
    write_lines(folder / "image_class_labels.txt", *(f"{k} {c + 1}" for k, c, _ in reversed(rows)))  # ids tell, not the order
    write_lines(folder / "train_test_split.txt", *(f"{k} {train}" for k, _, train in rows))
    found = {"train": [], "test": []}
    for k, c, train_on in rows:
        picture(folder / "images" / names[c] / f"bird_{k}.jpg")
        found["train" if train_on else "test"].append((f"CUB_200_2011/images/{names[c]}/bird_{k}.jpg", names[c]))
    return found


def write_inaturalist_2017(root, monkeypatch):
    folder, names = root / "inaturalist-2017", {7: "Abaeis nicippe", 3: "Acer rubrum"}
    lists = {"train": [(11, 3), (12, 7)], "val": [(21, 7), (22, 3)]}  # image, category
    found = {}
    for part, rows in lists.items():
        files = {k: f"train_val_images/Insecta/{names[c]}/{k}.jpg" for k, c in rows}
        content = {
            "images": [{"id": k, "file_name": files[k]} for k in sorted(files, reverse=True)],
            "categories": [{"id": c, "name": name, "supercategory": "Insecta"} for c, name in names.items()],
            "annotations": [{"id": k, "image_id": k, "category_id": c} for k, c in rows],
        }
        write_lines(folder / f"{part}2017.json", json.dumps(content))
        found[part] = [(f"inaturalist-2017/{picture(folder / files[k]).relative_to(folder)}", names[c]) for k, c in rows]
    return {"train": found["train"], "test": found["val"]}


def write_places365(root, monkeypatch):
    trust_checksums(monkeypatch, "places365")
    folder, names = root / "places365", ["/a/airfield", "/z/zen_garden"]
    write_lines(folder / "categories_places365.txt", *(f"{name} {k}" for k, name in enumerate(names)))
    lists = {"train_standard": [("a/airfield/1.jpg", 0), ("z/zen_garden/1.jpg", 1)], "val": [("2.jpg", 1), ("3.jpg", 0)]}
    folders, found = {"train_standard": "data_256_standard", "val": "val_256"}, {}
    for part, rows in lists.items():
        write_lines(folder / f"places365_{part}.txt", *(f"/{name} {k}" if "/" in name else f"{name} {k}" for name, k in rows))
        found[part] = [(f"places365/{folders[part]}/{name}", names[k]) for name, k in rows]
        for name, _ in rows:
            picture(folder / folders[part] / name)
    return {"train": found["train_standard"], "test": found["val"]}


def write_imagenet_1k(root, monkeypatch):
    folder, names = root / "imagenet-1k", {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",)}
    found = {"train": [], "val": []}
    for part, pictures in found.items():
        for k, (wnid, name) in enumerate(names.items()):
            path = folder / part / wnid / (f"{wnid}_{k}.JPEG" if part == "train" else f"ILSVRC2012_val_0000000{k}.JPEG")
            pictures.append((str(picture(path).relative_to(root)), ", ".join(name)))
    torch.save((names, []), folder / "meta.bin")
    return {"train": found["train"], "test": found["val"]}


FROM_FILES = {
    "flowers-102": write_flowers_102, "oxford-pets": write_oxford_pets, "food-101": write_food_101, "dtd": write_dtd,
    "fgvc-aircraft": write_fgvc_aircraft, "caltech-256": write_caltech_256, "cub-200-2011": write_cub_200_2011,
    "inaturalist-2017": write_inaturalist_2017, "places365": write_places365, "imagenet-1k": write_imagenet_1k,
}  # fmt: skip


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_benchmark_is_read_with_its_published_split(root, monkeypatch, name):
    expected = FROM_FILES[name](root, monkeypatch)
    found = data.load(name)
    test_files, test_labels = found.test.open("test")
    for files, labels, part in ((found.train_images, found.train_labels, "train"), (test_files, test_labels, "test")):
        assert labels.dtype == torch.int64
        named = [found.classes[k] for k in labels]
        assert sorted(zip(relative(files, root), named, strict=True)) == sorted(expected[part])
        shades = files.squares(4).float().mean((1, 2, 3))  # the pictures themselves, in the order of the labels
        assert torch.allclose(shades, torch.tensor([float(SHADES[p.decode()]) for p in files.paths]), atol=2)
    assert found.flips is True


@pytest.mark.parametrize("name", FROM_FILES)
def test_a_benchmark_may_be_in_another_folder(root, monkeypatch, name):
    FROM_FILES[name](root, monkeypatch)
    monkeypatch.setenv("SUPCL_DATA", str(root / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        data.load(name)
    assert len(data.load(f"{name}:{root}").train_images) > 1


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
def test_cifar_comes_from_its_pickles(root, monkeypatch, name):
    """Written as the archives hold them: a row per image, red, green and blue after each other."""
    trust_checksums(monkeypatch, "cifar")
    rng, folder, fine = np.random.default_rng(0), root / datasets.SOURCES[name].folder, name == "cifar-100"
    folder.mkdir()
    trains, test, meta = ["train"], "test", "meta"
    if not fine:
        trains, test, meta = [f"data_batch_{k}" for k in range(1, 6)], "test_batch", "batches.meta"
    pixels = {part: rng.integers(0, 256, (4, 3 * 32 * 32), dtype=np.uint8) for part in (*trains, test)}
    for part, x in pixels.items():
        (folder / part).write_bytes(pickle.dumps({"data": x, "fine_labels" if fine else "labels": [0, 1, 2, 0]}))
    names = ["apple", "baby", "bear"]
    (folder / meta).write_bytes(pickle.dumps({"fine_label_names" if fine else "label_names": names}))
    cifar = data.load(name)
    test_images, test_labels = cifar.test.open("test")
    assert np.array_equal(cifar.train_images.flatten(1), np.concatenate([pixels[part] for part in trains]))
    assert cifar.train_images.dtype == torch.uint8 and cifar.train_labels.tolist() == [0, 1, 2, 0] * len(trains)
    assert np.array_equal(test_images.flatten(1), pixels[test]) and test_labels.tolist() == [0, 1, 2, 0]
    assert cifar.classes == names and cifar.flips is True


def test_missing_data_says_where_to_get_it_how_large_it_is_and_where_to_put_it(root):
    for name, source in datasets.SOURCES.items():
        if not name.startswith("folder"):
            with pytest.raises(FileNotFoundError) as caught:
                data.load(name)
            said = str(caught.value)
            assert source.url in said and f"({source.size})" in said + "()" and str(root / source.folder) in said
    assert list(root.iterdir()) == []  # nor is anything made by looking


def test_a_damaged_file_is_told_with_where_to_get_it_again(root, monkeypatch):
    write_flowers_102(root, monkeypatch)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match=r"flowers-102 below .* is not complete: .*Get it from https://www.robots"):
        data.load(f"flowers-102:{root}")


# Splits of classes


def write_few_shot(root, name, form):
    """Three base classes, two for validation and two novel ones, eight pictures each."""
    parts = {"train": ["n1", "n4", "n6"], "val": ["n0", "n2"], "test": ["n3", "n5"]}
    for part, classes in parts.items():
        rows = ["filename,label"]
        for c in classes:
            for k in range(8):
                rows.append(f"{c}_{k}.jpg,{c}")
                picture(root / name / ("images" if form == "csv" else f"{part}/{c}") / f"{c}_{k}.jpg")
        if form == "csv":
            write_lines(root / name / f"{part}.csv", *rows)


@pytest.mark.parametrize("name", ["mini-imagenet", "tiered-imagenet"])
@pytest.mark.parametrize("form", ["csv", "folders"])
def test_class_splits_of_imagenet_are_read_in_both_usual_forms(root, name, form):
    write_few_shot(root, name, form)
    found = data.load(name)
    assert found.classes == [f"n{k}" for k in range(7)]
    test_files, test_labels = found.test.open("test")
    assert found.train_labels.bincount().tolist() == [6] * 7 and test_labels.bincount().tolist() == [2] * 7
    for files, labels in ((found.train_images, found.train_labels), (test_files, test_labels)):
        assert [p.decode().split("/")[-1][:2] for p in files.paths] == [found.classes[k] for k in labels]
    assert episodes.class_split(name) == {"base": ["n1", "n4", "n6"], "validation": ["n0", "n2"], "novel": ["n3", "n5"]}
    base, novel = episodes.published_split(f"{name}:{root}", found.classes)
    assert base.tolist() == [1, 4, 6] and novel.tolist() == [3, 5]


def test_episodes_leave_the_validation_classes_out(root):
    class Trained:
        setup, run, labels = type("", (), {"dataset": "digits"}), type("", (), {"seed": 0}), np.array([0, 1, 2])

        def outputs(self, asked):
            self.asked = asked
            return asked.flatten(1).float().numpy(), None

    trained, how = Trained(), {"ways": 2, "shots": [1], "queries": 5, "episodes": 2, "images_per_class": 10}
    episodes.on_novel_classes(trained, None, None, novel=np.array([3, 5]), **how)
    test_images, labels = data.load("digits").test.open("test")
    assert torch.equal(trained.asked, torch.cat([test_images[labels == c][:10] for c in (3, 5)]))


# Folders of pictures


def test_a_folder_without_parts_keeps_every_fourth_picture_of_a_class_for_the_test(tmp_path):
    for c, n in (("cat", 9), ("dog", 2)):
        for k in range(n):
            picture(tmp_path / c / ("deep/" if k == 3 else "") / f"{k}.{'png' if k % 2 else 'JPG'}")
    write_lines(tmp_path / "cat" / "notes.txt", "not a picture")
    write_lines(tmp_path / "cat" / "._0.jpg", "nor is this")
    write_lines(tmp_path / ".cache" / "0.jpg", "nor this")
    write_lines(tmp_path / "list.csv", "nor this")
    found = data.load(f"folder:{tmp_path}")
    test_files, test_labels = found.test.open("test")
    assert found.classes == ["cat", "dog"] and found.flips is True
    assert relative(test_files, tmp_path) == ["cat/0.JPG", "cat/5.png", "cat/deep/3.png", "dog/0.JPG"]
    assert test_labels.tolist() == [0, 0, 0, 1] and found.train_labels.tolist() == [0] * 6 + [1]
    assert not set(test_files.paths) & set(found.train_images.paths)
    assert data.load(f"folder-no-flips:{tmp_path}").flips is False
    assert all(np.array_equal(data.load(f"folder:{tmp_path}").train_images.paths, found.train_images.paths) for _ in range(2))


@pytest.mark.parametrize("parts", [["train", "test"], ["train", "val"], ["train", "val", "test"]])
def test_a_folder_with_parts_is_split_by_them(tmp_path, parts):
    for part in parts:
        for c in ("cat", "dog"):
            picture(tmp_path / part / c / "1.jpg")
    found = data.load(f"folder:{tmp_path}")
    test_files, _ = found.test.open("test")
    assert relative(test_files, tmp_path) == [f"{parts[-1]}/{c}/1.jpg" for c in ("cat", "dog")]
    assert sorted(relative(found.train_images, tmp_path)) == sorted(f"{p}/{c}/1.jpg" for p in parts[:-1] for c in ("cat", "dog"))
    assert [name.split("/")[1] for name in relative(found.train_images, tmp_path)] == [
        found.classes[k] for k in found.train_labels
    ]


@pytest.mark.parametrize(
    "paths, said",
    [
        ([], "0 class folders with pictures found; expected at least 2: class/picture.jpg"),
        (["cat/1.jpg", "cat/2.jpg"], "1 class folders with pictures found"),
        (
            ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"],
            "class 'cat' has 0 training and 1 test pictures; expected at least one of each",
        ),
        (["train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg"], "class 'dog' has 1 training and 0 test pictures"),
        (["train/cat/1.jpg", "test/cat/1.jpg", "test/dog/1.jpg"], "train has no class 'dog', other parts have"),
    ],
)
def test_a_folder_that_cannot_be_divided_says_why(tmp_path, paths, said):
    for path in paths:
        picture(tmp_path / path)
    with pytest.raises(ValueError, match=said):
        data.load(f"folder:{tmp_path}")


def test_a_folder_is_asked_for_by_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is missing. Expected is a folder that holds class/picture.jpg"):
        data.load(f"folder:{tmp_path}/nowhere")
    with pytest.raises(ValueError, match="dataset is 'folder'; expected the folder behind a colon, folder:/home/me/pictures"):
        data.load("folder")


# Pictures from files


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    """24 files of one picture, 120 x 100, that grows redder to the right and greener to the bottom: a crop tells where it was."""
    folder = tmp_path_factory.mktemp("striped")
    y, x = np.mgrid[:100, :120].astype(np.uint8)
    Image.fromarray(np.stack([2 * x, 2 * y, 0 * x], 2)).save(folder / "0.png")
    for k in range(1, 24):
        (folder / f"{k}.png").symlink_to(folder / "0.png")
    return ImageFiles.of([folder / f"{k}.png" for k in range(24)])


def stream(files, workers=2, seed=0, view=None, order=None):
    """Every view of every step, (steps, views, B, 3, 16, 16)."""
    view, labels = view or data.Augment(16, flips=False, smallest=0.2), torch.arange(len(files))
    order = order or [(step, torch.arange(6 * step, 6 * step + 6)) for step in range(4)]
    steps = images.batches(files, labels, order, view, views=2, seed=seed, device="cpu", workers=workers)
    found = [(torch.stack(list(views)), batch_labels) for views, batch_labels in steps]
    assert [batch_labels.tolist() for _, batch_labels in found] == [chosen.tolist() for _, chosen in order]
    return torch.stack([views for views, _ in found])


def test_every_crop_is_its_own_whichever_worker_reads_it(striped):
    crops = stream(striped).flatten(0, 2).flatten(1)
    distances = torch.cdist(crops, crops) + torch.eye(len(crops))
    assert len(crops) == 48 and distances.min() > 1e-3


def test_streams_agree_for_a_seed_whatever_the_workers_and_the_random_numbers_around_them(striped):
    torch.manual_seed(1)
    first = stream(striped)
    state = torch.get_rng_state()
    assert all(torch.equal(stream(striped, workers), first) for workers in (0, 1))
    assert torch.equal(torch.get_rng_state(), state) and not torch.equal(stream(striped, seed=1), first)


def test_a_stream_goes_on_from_any_step(striped):
    order = [(step, torch.arange(6 * step, 6 * step + 6)) for step in range(4)]
    assert torch.equal(stream(striped, order=order[2:]), stream(striped)[2:])
    again = [(step + 4, chosen) for step, chosen in order]  # the next epoch crops anew
    assert not torch.equal(stream(striped, order=again), stream(striped))


def test_crops_are_taken_from_the_full_picture(tmp_path):
    """Stripes one pixel wide: a small crop of the picture shows them, one of a small copy is grey."""
    x = (255 * (np.arange(64) % 2)).astype(np.uint8)
    Image.fromarray(np.broadcast_to(x[None, :, None], (64, 64, 3)).copy()).save(tmp_path / "0.png")
    files = ImageFiles.of([tmp_path / "0.png"] * 24)
    view = data.Augment(32, flips=False, smallest=0.01)
    sharp = stream(files, view=view).flatten(0, 2).std((1, 2, 3)).max()
    copies = view(files.squares(32)).std((1, 2, 3)).max()
    assert sharp > 0.4 and copies < 0.1


def test_a_view_without_a_crop_for_files_gets_the_files(striped):
    """As the wrapped augmentation of 12_pitfalls does."""
    seen = []

    def view(files):
        seen.append(files)
        return data.plain(files, 4)

    stream = images.batches(
        striped, torch.arange(24), [(1, torch.tensor([5, 2]))], view, views=2, seed=0, device="cpu", workers=1
    )
    ((views, labels),) = stream
    assert torch.equal(*views) and labels.tolist() == [5, 2]
    assert seen[0] is seen[1] and np.array_equal(seen[0].paths, striped.paths[[5, 2]])


def test_augmentation_of_files_by_itself_repeats_with_torch_seed(striped):
    view = data.Augment(16, flips=True)
    torch.manual_seed(0)
    first, other = view(striped[:8]), view(striped[:8])
    torch.manual_seed(0)
    torch.set_num_threads(4)  # the same whatever their number
    assert first.shape == (8, 3, 16, 16) and torch.equal(view(striped[:8]), first)
    torch.set_num_threads(1)
    assert not torch.equal(other, first)


def test_parts_of_files_are_chosen_like_those_of_a_tensor(tmp_path):
    files, numbers = ImageFiles.of([tmp_path / f"ä {k}.png" for k in range(6)]), torch.arange(6)
    for chosen in ([3, 1], np.array([0, 5]), torch.tensor([4, 4]), numbers > 3, slice(1, None, 2), torch.tensor([], dtype=int)):
        part = files[chosen]
        assert [int(p[-5:-4]) for p in part.paths] == numbers[chosen].tolist() and len(part) == len(numbers[chosen])
    assert [len(part) for part in files.split(4)] == [4, 2] and files.split(4)[1].paths[0].decode().endswith("ä 4.png")


def test_evaluation_sees_whole_pictures_squashed(tmp_path):
    left = np.zeros((10, 40, 3), np.uint8)
    left[:, :20] = [250, 100, 0]
    Image.fromarray(left).save(tmp_path / "a.png")
    Image.fromarray(left).convert("P").save(tmp_path / "b.gif")
    out = data.plain(ImageFiles.of([tmp_path / "a.png", tmp_path / "b.gif"]), 8)
    expected = torch.tensor([250, 100, 0]).float()[:, None, None].expand(3, 8, 3) / 255
    assert out.shape == (2, 3, 8, 8) and torch.allclose(out[0, :, :, :3], expected, atol=0.01)
    assert out[0, :, :, 5:].max() < 0.01 and torch.allclose(out[0], out[1], atol=0.02)


@pytest.mark.parametrize("content, workers", [(b"no picture", 0), (b"\xff\xd8\xff\xe0 cut off", 0), (b"no picture", 1)])
def test_a_file_that_is_no_picture_is_named(tmp_path, content, workers):
    (tmp_path / "bad.jpg").write_bytes(content)
    files = ImageFiles.of([tmp_path / "bad.jpg"])
    with pytest.raises(OSError, match=r"bad.jpg cannot be read as a picture: .* Replace or remove it"):
        stream(files, workers, order=[(1, torch.tensor([0]))])
    with pytest.raises(OSError, match=r"bad.jpg cannot be read as a picture"):
        files.squares(8)


# Training and evaluation from files


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A folder of three classes, each with a colour of its own among noise, and pictures of many sizes."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for channel, name in enumerate(["blue", "green", "red"]):
        for k in range(20):
            pixels = rng.integers(0, 120, (20 + k, 40 - k, 3), dtype=np.uint8)
            pixels[..., 2 - channel] += 120
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")
    return folder


def trained(pictures, labels, epochs=6, compute=LAPTOP):
    torch.manual_seed(0)
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU()), 16, classes=3)
    how = {"view": data.Augment(8, flips=True), "views": 2, "epochs": epochs, "batch_size": 12, "learning_rate": 0.01}
    history = train_with(model, cross_entropy, pictures, labels, **how, weight_decay=0.0, seed=3, compute=compute)
    return model, history.losses


def test_training_from_files_learns_and_repeats_with_any_number_of_workers(colours):
    found = data.load(f"folder:{colours}")
    (model, losses), (_, again) = (trained(found.train_images, found.train_labels, compute=Compute(workers=n)) for n in (0, 2))
    assert losses == again and losses[-1] < losses[0]
    test_files, test_labels = found.test.open("test")
    _, logits = evaluation.outputs_of(model, test_files, lambda part: data.plain(part, 8), batch_size=5)
    assert evaluation.accuracy(logits.argmax(1), test_labels) > 90


def test_training_from_memory_is_what_it_was():
    """The loop as it stood before images could stay in files, written out."""
    x = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 3
    model, losses = trained(x, y, epochs=2)
    torch.manual_seed(0)
    other = Model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU()), 16, classes=3).train()
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=7, pct_start=0.1, cycle_momentum=False)
    order, view = torch.Generator().manual_seed(3), data.Augment(8, flips=True)
    for _ in range(2):
        for chosen in torch.randperm(40, generator=order)[:36].split(12):
            inputs = torch.cat([view(x[chosen]) for _ in range(2)])
            loss = F.cross_entropy(other(inputs).logits, y[chosen].repeat(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


FEW = Run(method="CE", variant="main", objective=cross_entropy, seed=0, learning_rate=0.003, epochs=1, **trained_on(4))


@pytest.fixture(scope="module")
def setup(tmp_path_factory, colours):
    """What 01_data writes, of the folder of colours."""
    tmp_path = tmp_path_factory.mktemp("shared")
    dataset = f"folder:{colours}"
    setup = Setup(
        shared=tmp_path, dataset=dataset, encoder="test_resnet.r160_in1k", weights="none", image_size=16, batch_size=6,
        weight_decay=0.01,
    )  # fmt: skip
    found = data.load(dataset)
    train_part, validation = data.split_validation(found.train_labels, 6, seed=0)
    draw = data.few_shot_draw(found.train_labels, train_part, 4, seed=0)
    np.savez(tmp_path / "splits.npz", train=train_part, validation=validation, draw_4_0=draw)
    for part, pictures in (("train", found.train_images), ("test", found.test.open("features")[0])):
        np.save(tmp_path / f"features_{part}.npy", runs.extract_features(pictures, setup, 16))
    return setup


def test_runs_on_files_are_fine_tuned_and_measured_like_others(setup):
    features = [np.load(f"{setup.shared}/features_{part}.npy") for part in ("train", "test")]
    assert [len(f) for f in features] == [45, 15] and not np.array_equal(features[0][0], features[0][1])
    both = [replace(FEW, keep=True, curve=True), replace(FEW, trained_on="features", shots=None, keep=True, curve=True)]
    for run, outcome in zip(both, runs.run_all(both, setup), strict=True):
        assert outcome.predictions.shape == (15,) and len(outcome.curve) == 1
        assert runs.execute(run, setup).metrics == outcome.metrics


def test_test_pictures_stay_sealed_while_a_model_is_trained_on_files(setup):
    def peek(outputs, batch):
        images_of(setup.dataset).test.open("a look")

    with pytest.raises(PermissionError, match=r"a look.*during training"):
        runs.execute(replace(FEW, objective=peek), setup)


# The page on data sets

PAGE = ROOT / "docs" / "data.md"


def test_the_page_s_example_prepares_a_folder_of_pictures(colours, tmp_path):
    """The code of 01_data with the parameters of the page's first command, but for an encoder that is made in no time."""
    (command,) = re.findall(r"^papermill notebooks/01_data.ipynb .*$", PAGE.read_text(), re.MULTILINE)
    given = {name: yaml.safe_load(value) for name, value in re.findall(r"-p (\w+) (\S+)", command)}
    assert given["dataset"].startswith("folder:")
    given |= {"dataset": f"folder:{colours}", "results": str(tmp_path), "encoder": "test_resnet.r160_in1k", "weights": "none"}
    scope = notebooks.defaults("data") | given
    for cell in nbformat.read(ROOT / "notebooks" / "01_data.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            exec(cell.source, scope)
    plt.close("all")
    arrays = {path.name for path in (tmp_path / "arrays" / "data").iterdir()}
    assert arrays == {"splits.npz", "features_train.npy", "features_test.npy"}
    assert len(list((tmp_path / "data" / "figures").glob("*.png"))) == 5


def test_the_page_lists_every_data_set_with_its_size_and_where_it_is_from():
    page = PAGE.read_text()
    for name, source in datasets.SOURCES.items():
        if not name.startswith("folder"):
            (row,) = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
            assert source.url in row and source.size in row and f"`{source.folder}`" in row, name
