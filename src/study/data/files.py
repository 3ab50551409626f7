"""Benchmarks as they lie on disk, with their official training and test parts, and any folder of pictures. Nothing is downloaded.

01_data cuts validation images from the training images, of every set alike. Where a set has its own validation part beside a test
part, that part is therefore more training images: SCHaNe's release does so with the pets (trainval), we with DTD and aircraft.
That of Flowers-102 is left out, as in the release. Where the labels of the test part are not public (ImageNet-1k, Places365,
iNaturalist 2017), the validation part is the test part.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from study.data import packed
from study.paths import data_folder

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


class Parts(NamedTuple):
    train: tuple  # images, a list of N paths or an array (N, H, W, 3) uint8, and N labels
    test: tuple
    classes: list
    source: str = ""  # which pixels these are, where there is more than one kind


@dataclass(frozen=True)
class Source:
    """A data set: how its files are read, where they come from and where they belong."""

    read: Callable  # root, which is data/ or the folder given -> Parts
    url: str
    size: str  # of the download; empty where we found none
    folder: str  # of the data set, below the root
    needs: str = ""  # what it must hold, with a space between; "a|b" is one or the other
    flips: bool = True  # whether a mirrored image keeps its class
    instead: str = ""  # what else may lie below the root, with a space between


def read(name, root):
    """Parts of the data set called name, whose files are below root.

    Raises FileNotFoundError that says where to get it, how large it is and where to put it; ValueError where class folders cannot
    be divided.
    """
    _require(name, root)
    try:
        return SOURCES[name].read(root)
    except RuntimeError as error:  # torchvision's, of a file that is missing or has the wrong checksum
        raise FileNotFoundError(f"{name} below {root} is not complete: {error}. {_how_to_get(name, root)}") from error


def located(name):
    """(the name alone, the folder that its files are below): of "name:/disk" that folder, else data/."""
    name, _, place = name.partition(":")
    if name in _FOLDERS and not place:
        raise ValueError(f"dataset is {name!r}; expected the folder behind a colon, {name}:/home/me/pictures.")
    return name, Path(place).expanduser() if place else data_folder()


def class_split(name):
    """{"base", "validation", "novel"}: names of the classes of "mini-imagenet" or "tiered-imagenet", as its files divide them."""
    name, root = located(name)
    _require(name, root)
    return {part: sorted(pictures) for part, pictures in _by_part(root / name).items()}


def is_there(name, root):
    """Whether the data set called name lies below root, in its folder or in another form."""
    return not _missing(name, root)


def _require(name, root):
    if missing := _missing(name, root):
        raise FileNotFoundError(f"{missing} is missing. {_how_to_get(name, root)}")


def _missing(name, root):
    """The first path below root that the data set called name needs and lacks; None if there is none."""
    source = SOURCES[name]
    if any(any(root.glob(pattern)) for pattern in source.instead.split()):
        return None
    for need in source.needs.split() or ["."]:
        first, *others = (root / source.folder / alternative for alternative in need.split("|"))
        if not any(path.exists() for path in (first, *others)):
            return first
    return None


def _how_to_get(name, root):
    source = SOURCES[name]
    if name in _FOLDERS:
        return "Expected is a folder that holds class/picture.jpg."
    size = f" ({source.size})" if source.size else ""
    needs = source.needs.replace(" ", ", ").replace("|", " or ") or "its files"
    instead = f" {source.instead.replace(' ', ' or ')} in {root} will do as well: see docs/data.md." if source.instead else ""
    return f"Get it from {source.url}{size} and unpack it, so that {root / source.folder} holds {needs}.{instead}"


# Sets that fit into memory


def _cifar(name, root):
    import torchvision.datasets  # here and below: it takes a second, and the laptop's sets do without

    train, test = (getattr(torchvision.datasets, name)(root, train=part) for part in (True, False))
    return Parts((train.data, train.targets), (test.data, test.targets), train.classes)


def _cifar_10(root):
    """The original's pixels where they are, else those of the JPEG files: see packed."""
    if (root / "cifar-10-batches-py").exists():
        return _cifar("CIFAR10", root)._replace(source="CIFAR-10, torchvision")
    return Parts(**packed.read(root), classes=packed.CLASSES, source=packed.SOURCE)


# Sets that torchvision lists


def _by_torchvision(name, below, train_splits, test_split, root, **options):
    """A torchvision dataset with a parameter `split`, in a folder below root."""
    import torchvision.datasets

    def split(part):
        return getattr(torchvision.datasets, name)(root / below, split=part, loader=str, **options)  # a picture's loader: none

    test, trains = split(test_split), [split(part) for part in train_splits]
    train = [item for part in trains for item in _items(part)]
    return Parts(_columns(train), _columns(_items(test)), list(test.classes))


def _items(dataset):
    return [dataset[i] for i in range(len(dataset))]


def _columns(items):
    """(paths, labels) of pairs."""
    return tuple(map(list, zip(*items, strict=True)))


def _imagenet(root):
    parts = _by_torchvision("ImageNet", "imagenet-1k", ["train"], "val", root)
    return parts._replace(classes=[", ".join(names) for names in parts.classes])


def _oxford_pets(root):
    from torchvision.datasets import OxfordIIITPet

    train, test = (OxfordIIITPet(root, split) for split in ("trainval", "test"))
    return Parts((train._images, train._labels), (test._images, test._labels), train.classes)  # it lists them nowhere else


def _caltech_256(root):
    """257 classes with the background clutter, as in SCHaNe's release. There is no official split: ours is that of a folder."""
    from torchvision.datasets import Caltech256

    listed = Caltech256(root)
    folder, pictures = root / "caltech256" / "256_ObjectCategories", {name: [] for name in listed.categories}
    for label, number in zip(listed.y, listed.index, strict=True):
        name = listed.categories[label]
        pictures[name].append(folder / name / f"{label + 1:03d}_{number:04d}.jpg")
    return _every_fourth(pictures)


# Sets that we list


def _cub_200_2011(root):
    folder = root / "CUB_200_2011"
    columns = {"images": "path", "image_class_labels": "label", "train_test_split": "train"}
    tables = [pd.read_csv(folder / f"{name}.txt", sep=" ", names=["id", c], index_col="id") for name, c in columns.items()]
    images = pd.concat(tables, axis=1, join="inner")
    classes = pd.read_csv(folder / "classes.txt", sep=" ", names=["id", "name"], index_col="id").name.tolist()

    def part(rows):
        return [folder / "images" / path for path in rows.path], (rows.label - 1).tolist()

    return Parts(part(images[images.train == 1]), part(images[images.train == 0]), classes)


def _inaturalist_2017(root):
    folder = root / "inaturalist-2017"
    train, test = (json.loads((folder / f"{part}2017.json").read_text()) for part in ("train", "val"))
    categories = sorted(train["categories"], key=lambda category: category["id"])
    number = {category["id"]: i for i, category in enumerate(categories)}

    def part(content):
        files = {image["id"]: folder / image["file_name"] for image in content["images"]}
        return _columns((files[note["image_id"]], number[note["category_id"]]) for note in content["annotations"])

    return Parts(part(train), part(test), [category["name"] for category in categories])


def _few_shot(name, root):
    """All classes, base, validation and novel; every fourth picture of each is a test image. Papers train on all pictures of the
    base classes; here some of them are for testing."""
    return _every_fourth({k: v for part in _by_part(root / name).values() for k, v in part.items()})


def _by_part(folder):
    """{"base", "validation", "novel"}: {class: paths}, of train.csv, val.csv and test.csv (filename, label) beside images/, as
    miniImageNet's split was published (Ravi and Larochelle, 2017), or of class folders in train/, val/ and test/."""
    parts = {"base": "train", "validation": "val", "novel": "test"}
    if not (folder / "train.csv").exists():
        return {part: _pictures(folder / name) for part, name in parts.items()}
    tables = {part: pd.read_csv(folder / f"{name}.csv").groupby("label").filename for part, name in parts.items()}
    return {part: {k: [folder / "images" / f for f in files] for k, files in table} for part, table in tables.items()}


def _folder(root):
    """Pictures in class/, at any depth below it; every fourth of a class is a test image. Or in train/class/ and test/class/; a
    folder val/ holds more training images, and the test images if there is no test/."""
    parts = [name for name in ("train", "val", "test") if (root / name).is_dir()]
    if "train" not in parts or len(parts) == 1:
        return _every_fourth(_pictures(root))
    train, *val, test = (_pictures(root / name) for name in parts)
    train = {name: paths + [p for part in val for p in part.get(name, [])] for name, paths in train.items()}
    if unknown := sorted({name for part in [*val, test] for name in part} - set(train)):
        raise ValueError(
            f"{root / 'train'} has no class {unknown[0]!r}, other parts have; expected the same class folders in each."
        )
    return _divided(train, test)


def _pictures(folder):
    """{class: paths}, both sorted. Names with a dot in front are not pictures: some systems leave such files beside them."""
    pictures = {}
    for path in sorted(folder.rglob("*")):
        name, *below = path.relative_to(folder).parts
        if below and path.suffix.lower() in PICTURES and not any(part.startswith(".") for part in (name, *below)):
            pictures.setdefault(name, []).append(path)
    return pictures


def _every_fourth(pictures):
    """Parts of {class: paths}: the first of a class, the fifth and so on are test images."""
    test = {name: paths[::4] for name, paths in pictures.items()}
    return _divided({name: [p for i, p in enumerate(paths) if i % 4] for name, paths in pictures.items()}, test)


def _divided(train, test):
    """Parts of {class: paths} of training and of test images."""
    classes = sorted(train)
    if len(classes) < 2:
        raise ValueError(f"{len(classes)} class folders with pictures found; expected at least 2: class/picture.jpg.")
    for name in classes:
        if not (train[name] and test.get(name)):
            counts = f"{len(train[name])} training and {len(test.get(name, []))} test pictures"
            raise ValueError(f"class {name!r} has {counts}; expected at least one of each.")
    columns = (_columns((path, i) for i, name in enumerate(classes) for path in part[name]) for part in (train, test))
    return Parts(*columns, classes)


# Sizes are the bytes that TensorFlow Datasets lists (url_checksums); Caltech-256, Aircraft and iNaturalist state their own.
_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_IMAGENET = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
_FOLDERS = ("folder", "folder-no-flips")
_SPLIT = "train.csv|train val.csv|val test.csv|test"
SOURCES = {
    "cifar-10": Source(
        _cifar_10, "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "170 MB", "cifar-10-batches-py",
        instead=f"{packed.CLONE} {packed.ARCHIVE} cifar-10-images-*.npy",
    ),
    "cifar-100": Source(
        partial(_cifar, "CIFAR100"), "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "169 MB", "cifar-100-python"
    ),
    "caltech-256": Source(
        _caltech_256, "https://data.caltech.edu/records/nyy15-4j048", "1.2 GB", "caltech256", "256_ObjectCategories"
    ),
    "cub-200-2011": Source(
        _cub_200_2011, "https://data.caltech.edu/records/65de6-vp158", "1.2 GB", "CUB_200_2011",
        "images images.txt image_class_labels.txt train_test_split.txt classes.txt",
    ),
    "flowers-102": Source(
        partial(_by_torchvision, "Flowers102", "", ["train"], "test"), f"{_VGG}/flowers/102", "345 MB", "flowers-102",
        "jpg imagelabels.mat setid.mat",
    ),
    "oxford-pets": Source(_oxford_pets, f"{_VGG}/pets", "811 MB", "oxford-iiit-pet", "images annotations"),
    "food-101": Source(
        partial(_by_torchvision, "Food101", "", ["train"], "test"), "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "5.0 GB",
        "food-101", "images meta",
    ),
    "dtd": Source(  # the first of its ten divisions
        partial(_by_torchvision, "DTD", "", ["train", "val"], "test"), f"{_VGG}/dtd/download/dtd-r1.0.1.tar.gz", "625 MB",
        "dtd/dtd", "images labels",
    ),
    "fgvc-aircraft": Source(  # 100 variants; the photographer's name below each picture stays on, as torchvision leaves it
        partial(_by_torchvision, "FGVCAircraft", "", ["trainval"], "test"),
        f"{_VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz", "2.75 GB", "fgvc-aircraft-2013b", "data",
    ),
    "inaturalist-2017": Source(
        _inaturalist_2017, "https://github.com/visipedia/inat_comp/tree/master/2017", "186 GB", "inaturalist-2017",
        "train_val_images train2017.json val2017.json",
    ),
    "places365": Source(  # Places365-Standard, its pictures of 256 x 256; torchvision wants data_256 called data_256_standard
        partial(_by_torchvision, "Places365", "places365", ["train-standard"], "val", small=True),
        "http://places2.csail.mit.edu/download.html", "26.7 GB", "places365",
        "data_256_standard val_256 categories_places365.txt places365_train_standard.txt places365_val.txt",
    ),
    # torchvision.datasets.ImageNet(folder, "train") and (folder, "val") make these of the three archives
    "imagenet-1k": Source(_imagenet, _IMAGENET, "155 GB", "imagenet-1k", "train val meta.bin"),
    # 84 x 84 pixels, cut out of ImageNet-1k; these pages have the splits
    "mini-imagenet": Source(
        partial(_few_shot, "mini-imagenet"), "https://github.com/twitter-research/meta-learning-lstm", "", "mini-imagenet", _SPLIT
    ),
    "tiered-imagenet": Source(
        partial(_few_shot, "tiered-imagenet"), "https://github.com/renmengye/few-shot-ssl-public", "", "tiered-imagenet", _SPLIT
    ),
    "folder": Source(_folder, "", "", ""),
    "folder-no-flips": Source(_folder, "", "", "", flips=False),
}  # fmt: skip
