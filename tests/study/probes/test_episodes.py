"""Episodes: who is drawn, what is fitted, and what a run is told of classes it never saw; the published class splits."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.linear_model import LogisticRegression
from small import train_with

from study import data
from study.probes import episodes, evaluation
from study.training.model import Model

LABELS = np.repeat([2, 3, 5, 7, 11, 13, 17], 30)  # seven classes of 30


# The sampler


@given(ways=st.integers(2, 7), shots=st.integers(1, 10), queries=st.integers(1, 20), seed=st.integers(0, 1000))
def test_an_episode_has_its_counts_and_no_image_twice(ways, shots, queries, seed):
    support, query = episodes.sample_episode(LABELS, ways, shots, queries, seed)
    assert len({*support, *query}) == ways * (shots + queries)
    for part, each in ((support, shots), (query, queries)):
        classes, counts = np.unique(LABELS[part], return_counts=True)
        assert len(classes) == ways and set(counts) == {each}
    assert set(LABELS[support]) == set(LABELS[query])


def test_all_images_of_a_class_can_be_used_up():
    support, query = episodes.sample_episode(LABELS, 7, 10, 20, seed=0)
    assert sorted([*support, *query]) == list(range(len(LABELS)))


def test_episodes_repeat_with_their_seed_and_differ_with_another():
    first, again, other = (np.concatenate(episodes.sample_episode(LABELS, 5, 1, 15, seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_classes_and_images_are_drawn_uniformly():
    """Chi-square of 2,000 episodes; drawing from the first classes or images only would fail by far."""
    rng = np.random.default_rng(0)
    drawn = [episodes.sample_episode(LABELS, 2, 1, 2, rng) for _ in range(2000)]
    for part in zip(*drawn, strict=True):
        images = np.bincount(np.concatenate(part), minlength=len(LABELS))
        assert stats.chisquare(images).pvalue > 1e-3
    classes = np.unique(LABELS[[support for support, _ in drawn]], return_counts=True)[1]
    assert len(classes) == 7 and stats.chisquare(classes).pvalue > 1e-3


def test_too_few_classes_are_named():
    with pytest.raises(ValueError, match="episode of 8 classes asked for, labels have 7"):
        episodes.sample_episode(LABELS, 8, 1, 15, seed=0)


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(ValueError, match="class 7 has 4 images; expected at least 1 to learn from and 15 to test"):
        episodes.sample_episode(np.array([2] * 20 + [7] * 4), 2, 1, 15, seed=0)


# The classifier


def case(seed, ways=5, shots=5, dim=200):
    """Support and queries of overlapping classes in more dimensions than there is support."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(ways, dim)) / 4
    y, y_query = np.repeat(np.arange(ways), shots), np.repeat(np.arange(ways), 15)
    return means[y] + rng.normal(size=(len(y), dim)), y, means[y_query] + rng.normal(size=(len(y_query), dim)), y_query


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("seed", range(5))
def test_predictions_are_those_of_a_fit_to_the_raw_embeddings(seed, shots):
    support, y, query, _ = case(seed, shots=shots)
    raw = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(support, y)  # L-BFGS, as in SCHaNe's release
    assert np.array_equal(episodes.classify(support, y, query), raw.predict(query))


def test_predictions_are_those_of_the_minimum_found_by_a_general_optimiser():
    support, y, query, _ = case(0, ways=3, shots=2, dim=12)

    def loss(flat):
        """|W|^2 / 2 + the sum of the cross-entropies (C = 1); the intercept is not penalised."""
        w, b = flat[:36].reshape(12, 3), flat[36:]
        scores = support @ w + b
        return (w**2).sum() / 2 + (np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]).sum()

    best = optimize.minimize(loss, np.zeros(39), tol=1e-10).x
    scores = query @ best[:36].reshape(12, 3) + best[36:]
    assert np.array_equal(episodes.classify(support, y, query), scores.argmax(1))


def test_support_may_have_more_rows_than_dimensions():
    support, y, query, _ = case(0, dim=8)
    raw = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(support, y)
    assert np.array_equal(episodes.classify(support, y, query), raw.predict(query))


def test_embeddings_are_not_normalised():
    """On a ray, classes differ by length alone: unit vectors could not tell them apart."""
    ray = np.ones((1, 6))
    support, query = np.array([[1.0], [9.0]]) * ray, np.array([[2.0], [8.0]]) * ray
    assert episodes.classify(support, np.array([4, 6]), query).tolist() == [4, 6]


def test_accuracies_are_those_of_the_sampled_episodes():
    embeddings, rng = np.random.default_rng(0).normal(size=(len(LABELS), 50)) + LABELS[:, None] / 8, np.random.default_rng(1)
    accuracies = episodes.episode_accuracies(embeddings, LABELS, 5, 1, 15, episodes=4, seed=1)
    for accuracy in accuracies:
        support, query = episodes.sample_episode(LABELS, 5, 1, 15, rng)
        raw = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(embeddings[support], LABELS[support])
        assert accuracy == pytest.approx(100 * raw.score(embeddings[query], LABELS[query]))
    assert len(set(accuracies)) > 1


# What a run measures


class Flat:
    """A trained run whose embedding is the image itself; it counts what it was asked for."""

    def __init__(self, trained_on, dataset="digits"):
        self.setup, self.run, self.labels = SimpleNamespace(dataset=dataset), SimpleNamespace(seed=1), np.array(trained_on)
        self.asked = []

    def outputs(self, images):
        self.asked.append(images)
        return images.flatten(1).float().numpy(), None


on_novel = partial(episodes.on_novel_classes, ways=5, shots=[1, 5], queries=15, episodes=3, images_per_class=25)


def test_episodes_are_on_test_images_of_the_classes_a_run_was_not_trained_on():
    trained = Flat(trained_on=[0, 1, 4, 8, 8, 9])
    on_novel(trained, None, None)
    images, labels = data.load("digits").test.open("test")
    first = torch.cat([images[labels == c][:25] for c in (2, 3, 5, 6, 7)])
    assert torch.equal(torch.cat(trained.asked), first)


def test_novel_classes_are_scored_by_mean_and_half_width_over_episodes():
    metrics = on_novel(Flat(trained_on=[0, 1, 4, 8, 9]), None, None)
    images, labels = data.load("digits").test.open("test")
    chosen = torch.cat([torch.where(labels == c)[0][:25] for c in (2, 3, 5, 6, 7)])
    pixels, y = images[chosen].flatten(1).float().numpy(), labels[chosen].numpy()
    for shots in (1, 5):
        accuracies = episodes.episode_accuracies(pixels, y, 5, shots, 15, episodes=3, seed=1)
        low, high = stats.t.interval(0.95, 2, accuracies.mean(), stats.sem(accuracies))
        assert metrics[f"{shots}-shot"] == pytest.approx(accuracies.mean())
        assert metrics[f"{shots}-shot half width"] == pytest.approx((high - low) / 2)
    assert 100 > metrics["5-shot"] > metrics["1-shot"] > 20


def test_a_probe_on_other_data_is_fitted_to_training_images_and_scored_on_test_images():
    trained = Flat(trained_on=[0, 1])
    metrics = episodes.on_other_data(trained, None, None, targets={"numbers": "digits"}, most=10**6)
    digits = data.load("digits")
    test_images, test_labels = digits.test.open("test")
    probe = evaluation.linear_probe(digits.train_images.flatten(1).float().numpy(), digits.train_labels.numpy())
    assert metrics == {"numbers": pytest.approx(100 * probe.score(test_images.flatten(1).float().numpy(), test_labels))}
    assert metrics["numbers"] > 90


def test_a_probe_on_other_data_uses_at_most_so_many_images_of_every_class():
    trained = Flat(trained_on=[0, 1])
    metrics = episodes.on_other_data(trained, None, None, targets={"mnist": "mnist-sample"}, most=200)
    assert [len(images) for images in trained.asked] == [200, 200]
    assert metrics["mnist"] > 60  # the file is sorted by class: the first 200 rows would know one digit


def test_a_run_of_no_epochs_leaves_the_encoder_as_it_was():
    """The reference that episodes and probes are compared with."""
    model = Model(torch.nn.Flatten(), 4, classes=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    how = {"view": torch.Tensor.float, "views": 1, "batch_size": 2, "learning_rate": 1.0, "weight_decay": 1.0, "seed": 0}
    history = train_with(model, None, torch.ones(4, 2, 2), torch.tensor([0, 1, 0, 1]), epochs=0, **how)
    assert history.losses == [] and not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Class splits


@pytest.mark.parametrize("seed", range(5))
def test_a_random_split_divides_all_classes(seed):
    base, novel = episodes.random_split(10, 6, seed)
    assert len(base) == 6 and sorted([*base, *novel]) == list(range(10))
    assert list(base) == sorted(base) and list(novel) == sorted(novel)


def test_random_splits_repeat_with_their_number_and_differ_with_another():
    first, again, other, of_next = (episodes.random_split(10, 5, number)[0].tolist() for number in (0, 0, 1, 2))
    assert first == again != other and of_next not in (first, other)


@pytest.mark.parametrize("number", [0, 2, 8])
def test_two_halves_of_a_division_have_no_novel_class_in_common(number):
    (base, novel), exchanged = (episodes.random_split(10, 5, n) for n in (number, number + 1))
    assert [part.tolist() for part in exchanged] == [novel.tolist(), base.tolist()]


# The names that CIFAR-100's file `meta` gives its labels 0 to 99, as many public repositories copy them
CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox
girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""


@pytest.mark.parametrize(("name", "sizes"), [("cifar-fs", [64, 16, 20]), ("fc100", [60, 20, 20])])
def test_published_splits_divide_the_classes_of_cifar_100(name, sizes):
    split = episodes.class_split(name)
    assert [len(split[part]) for part in ("base", "validation", "novel")] == sizes
    assert sorted(c for part in split.values() for c in part) == CIFAR100.split()


def test_fc100_never_divides_a_superclass():
    """One class of each superclass tells which part all five of them are in."""
    split = episodes.class_split("fc100")
    for classes in episodes._CIFAR100.values():
        assert len(classes.split()) == 5
        assert len({part for part, names in split.items() for c in classes.split() if c in names}) == 1
    assert {"bear", "camel", "crab", "mouse"} <= set(split["validation"])
    assert {"seal", "bee", "fox", "girl"} <= set(split["novel"])


@pytest.mark.parametrize("name, base, novel", [("cifar-fs", 64, 20), ("fc100", 60, 20)])
def test_a_published_split_finds_its_classes_by_name(name, base, novel):
    classes = sorted(c for part in episodes.class_split(name).values() for c in part)[::-1]  # in any order
    found = episodes.published_split(name, classes)
    assert [len(part) for part in found] == [base, novel] and not set(found[0]) & set(found[1])
    assert sorted(classes[k] for k in found[1]) == episodes.class_split(name)["novel"]


def test_a_published_split_of_other_classes_says_what_is_missing():
    with pytest.raises(ValueError, match="another data set: 100 of its classes are missing here, first 'apple'"):
        episodes.published_split("fc100", [str(k) for k in range(10)])


def test_an_unknown_class_split_lists_the_known_ones():
    with pytest.raises(ValueError, match="class split is 'omniglot'; expected cifar-fs, fc100, mini-imagenet or tiered-imagenet"):
        episodes.class_split("omniglot")
