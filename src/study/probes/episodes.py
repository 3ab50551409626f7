"""What an embedding is worth elsewhere: few-shot episodes on classes that training never saw, and other data sets."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from study import data
from study.data import files
from study.probes import evaluation
from study.tables import interval


def sample_episode(labels, ways, shots, queries, seed):
    """Indices (support (ways * shots,), query (ways * queries,)) into labels (N,), class by class, without replacement.

    The classes are drawn with equal probability among those in labels. seed: an integer or a numpy Generator.
    """
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < ways:
        raise ValueError(f"an episode of {ways} classes asked for, labels have {len(classes)}; expected at most as many ways.")
    if counts.min() < shots + queries:
        few = classes[counts.argmin()]
        raise ValueError(f"class {few} has {counts.min()} images; expected at least {shots} to learn from and {queries} to test.")
    chosen = rng.choice(classes, ways, replace=False)
    drawn = np.stack([rng.choice(np.flatnonzero(labels == c), shots + queries, replace=False) for c in chosen])
    return drawn[:, :shots].ravel(), drawn[:, shots:].ravel()


def classify(support, support_labels, query):
    """Predictions (M,) for query (M, D) of a logistic regression (L2, C = 1) fitted to support (n, D), as in SCHaNe's release.

    The weights that minimise the penalised loss are combinations of the support's rows. So both sets are first rotated into the
    span of these rows, which changes no prediction and leaves n dimensions of D.
    """
    span = np.linalg.qr(support.astype(np.float64).T).Q  # (D, n)
    # the release's L-BFGS aims at the same minimum and, with scikit-learn's tolerance, stops a little short of it; Newton's
    # method reaches it in half the time on problems this small
    classifier = LogisticRegression(C=1.0, max_iter=1000, solver="newton-cholesky").fit(support @ span, support_labels)
    return classifier.predict(query @ span)


def episode_accuracies(embeddings, labels, ways, shots, queries, episodes, seed):
    """Accuracy (episodes,) in percent of each of so many episodes on embeddings (N, D); the same episodes for the same seed."""
    rng, labels, accuracies = np.random.default_rng(seed), np.asarray(labels), []
    for _ in range(episodes):
        support, query = sample_episode(labels, ways, shots, queries, rng)
        predictions = classify(embeddings[support], labels[support], embeddings[query])
        accuracies.append(evaluation.accuracy(predictions, labels[query]))
    return np.array(accuracies)


def on_novel_classes(trained, inputs, labels, *, ways, shots, queries, episodes, images_per_class, novel=None):
    """For Run.extra_metrics: episodes on test images of the classes `novel`, at most images_per_class of each; None: of all
    classes that the run was not trained on.

    Metrics "<n>-shot", the mean accuracy in percent, and "<n>-shot half width" of its 95 % interval over episodes, for each n of
    `shots`. The episodes depend on the run's seed and its classes alone, so they are the same for every method.
    """
    images, labels = data.load(trained.setup.dataset).test.open("episodes of classes never trained on")
    novel = np.setdiff1d(labels, trained.labels) if novel is None else novel
    chosen = np.concatenate([np.flatnonzero(labels == c)[:images_per_class] for c in novel])
    embeddings, _ = trained.outputs(images[chosen])
    metrics = {}
    for n in shots:
        accuracies = episode_accuracies(embeddings, labels[chosen], ways, n, queries, episodes, trained.run.seed)
        mean, _, high = interval(accuracies)
        metrics |= {f"{n}-shot": mean, f"{n}-shot half width": high - mean}
    return metrics


def on_other_data(trained, inputs, labels, *, targets, most):
    """For Run.extra_metrics: accuracy in percent of a linear probe on other data sets, fitted to at most `most` of their training
    images and tested on at most as many of their test images. targets: {metric: name of the dataset}."""
    metrics = {}
    for metric, name in targets.items():
        target = data.load(name)
        fit, fit_labels = _evenly(most, target.train_images, target.train_labels)
        test, test_labels = _evenly(most, *target.test.open(f"transfer from {trained.setup.dataset}"))
        probe = evaluation.linear_probe(trained.outputs(fit)[0], fit_labels.numpy())
        metrics[metric] = evaluation.accuracy(probe.predict(trained.outputs(test)[0]), test_labels.numpy())
    return metrics


def _evenly(most, images, labels):
    """At most `most` of the images and labels, evenly spaced: some files are sorted by class."""
    chosen = np.linspace(0, len(labels) - 1, min(most, len(labels))).round().astype(int)
    return images[chosen], labels[chosen]


def random_split(classes, base, number):
    """(base (base,), novel (classes - base,)): the numbers below `classes`, divided at random, each part sorted. Where both parts
    have half of the classes, splits 0 and 1, 2 and 3, and so on are one division with its parts exchanged, so that their novel
    classes are disjoint."""
    order = np.random.default_rng(number // 2).permutation(classes)[:: -1 if number % 2 else 1]
    return np.sort(order[:base]), np.sort(order[base:])


def class_split(name):
    """{"base", "validation", "novel"}: names of the classes in a published split.

    Of CIFAR-100: "cifar-fs" (64, 16 and 20 classes, divided at random) and "fc100" (60, 20 and 20, divided by superclass). Of its
    own data set: "mini-imagenet" (64, 16 and 20) and "tiered-imagenet" (351, 97 and 160), as the files on disk divide them.
    """
    if name.startswith(("mini-imagenet", "tiered-imagenet")):
        return files.class_split(name)
    if name == "cifar-fs":
        held_back = {part: classes.split() for part, classes in _CIFAR_FS.items()}
    elif name == "fc100":
        held_back = {part: " ".join(_CIFAR100[s] for s in supers.split()).split() for part, supers in _FC100.items()}
    else:
        raise ValueError(f"class split is {name!r}; expected cifar-fs, fc100, mini-imagenet or tiered-imagenet.")
    others = {c for classes in held_back.values() for c in classes}
    base = [c for classes in _CIFAR100.values() for c in classes.split() if c not in others]
    return {part: sorted(classes) for part, classes in {"base": base, **held_back}.items()}


def published_split(name, classes):
    """(base, novel): positions in `classes`, those of a data set, of the base and the novel ones of class_split(name). Raises
    ValueError where a class is missing."""
    split = class_split(name)
    if missing := sorted({c for part in split.values() for c in part} - set(classes)):
        raise ValueError(
            f"class split {name} is of another data set: {len(missing)} of its classes are missing here, first {missing[0]!r}. "
            "cifar-fs and fc100 divide cifar-100, the others the data set of their name."
        )
    return tuple(np.sort([classes.index(c) for c in split[part]]) for part in ("base", "novel"))


# CIFAR-100's superclasses and their classes, and Bertinetto et al.'s split: tristandeleu/pytorch-meta,
# torchmeta/datasets/assets/cifar100/cifar-fs/*.json
_CIFAR100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_CIFAR_FS = {
    "validation": "beaver otter flatfish shark lamp television beetle butterfly sea camel cattle crab crocodile maple_tree "
    "motorcycle tractor",
    "novel": "whale poppy rose sweet_pepper telephone bed table wardrobe leopard plain chimpanzee fox snail worm baby man woman "
    "bicycle pickup_truck rocket",
}
# Oreshkin et al.: ServiceNow/TADAM, datasets/create_dataset_cifar100.py
_FC100 = {
    "validation": "large_carnivores large_omnivores_and_herbivores non-insect_invertebrates small_mammals",
    "novel": "aquatic_mammals insects medium_mammals people",
}
