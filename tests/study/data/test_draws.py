"""Splits and draws without overlap or surprise."""

import numpy as np
import pytest
import torch

from study import data

LABELS = torch.arange(600) % 6 // 3 + torch.arange(600) % 2 * 2  # four classes: 200, 100, 100, 200


# Splits and draws


@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_disjoint_and_covers_everything(seed):
    train, validation = data.split_validation(LABELS, 120, seed)
    assert len(train) == 480 and len(validation) == 120
    assert torch.cat([train, validation]).sort().values.tolist() == list(range(600))


def test_split_has_the_same_share_of_every_class_in_both_parts():
    train, validation = data.split_validation(LABELS, 120, seed=0)
    whole = LABELS.bincount()
    assert len(set(whole.tolist())) > 1
    assert torch.equal(LABELS[validation].bincount(), whole // 5)
    assert torch.equal(LABELS[train].bincount(), whole - whole // 5)


def test_split_repeats_with_its_seed_and_differs_with_another():
    first, again, other = (data.split_validation(LABELS, 120, seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


POOL = torch.arange(0, 600, 3)


@pytest.mark.parametrize("shots", [1, 5, 20])
def test_draw_is_balanced_without_repeats_and_from_the_pool(shots):
    labels = torch.arange(600) % 4
    drawn = data.few_shot_draw(labels, POOL, shots, seed=0)
    assert labels[drawn].bincount().tolist() == [shots] * 4
    assert len(set(drawn.tolist())) == 4 * shots and set(drawn.tolist()) <= set(POOL.tolist())


def test_draw_repeats_with_its_seed_and_differs_with_another():
    labels = torch.arange(600) % 4
    first, again, other = (data.few_shot_draw(labels, POOL, 5, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and set(first.tolist()) != set(other.tolist())


def test_draw_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    data.few_shot_draw(torch.arange(600) % 4, POOL, 5, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_draw_of_more_than_the_pool_holds_names_the_class():
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 10)
    with pytest.raises(ValueError, match="class 1 has 4 images in the pool; expected at least 5"):
        data.few_shot_draw(labels, torch.arange(24), 5, seed=0)


def test_draw_from_a_pool_that_lacks_a_class_names_the_class():
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 10)
    with pytest.raises(ValueError, match="class 2 has 0 images in the pool"):
        data.few_shot_draw(labels, torch.arange(14), 1, seed=0)


def test_a_draw_of_all_is_the_pool():
    pool = torch.tensor([3, 1, 2])
    assert data.few_shot_draw(torch.arange(4), pool, "full", seed=0) is pool


# Long tails and wrong labels

BALANCED = torch.arange(5000) % 10


@pytest.mark.parametrize("ratio", [1, 10, 100])
def test_long_tail_has_the_total_and_sizes_that_fall_by_the_same_factor(ratio):
    pool = torch.arange(1, 5000, 2)
    labels = torch.arange(5000) // 2 % 10
    drawn = data.long_tailed_draw(labels, pool, 600, ratio, seed=0)
    assert len(drawn) == len(set(drawn.tolist())) == 600 and set(drawn.tolist()) <= set(pool.tolist())
    weights = [ratio ** (-k / 9) for k in range(10)]
    expected = [600 * w / sum(weights) for w in weights]
    assert np.abs(np.sort(labels[drawn].bincount().numpy())[::-1] - expected).max() <= 1


def test_the_seed_says_which_classes_are_rare():
    draws = [data.long_tailed_draw(BALANCED, torch.arange(5000), 600, 100, seed) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(draws[0], draws[1])
    assert len({int(BALANCED[draw].bincount().argmin()) for draw in draws}) > 1


def test_a_long_tail_that_does_not_fit_says_so():
    with pytest.raises(ValueError, match="50 images at 1:100 leave the rarest class with none"):
        data.long_tailed_draw(BALANCED, torch.arange(5000), 50, 100, seed=0)
    with pytest.raises(ValueError, match="has 500 images in the pool; expected at least 8"):
        data.long_tailed_draw(BALANCED, torch.arange(5000), 2000, 100, seed=0)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 1.0])
def test_the_stated_share_of_labels_is_flipped_each_to_another_class(share):
    noisy_labels = data.flip_labels(BALANCED, share, 10, seed=0)
    flipped = noisy_labels != BALANCED
    assert flipped.sum() == 5000 * share and noisy_labels.dtype == BALANCED.dtype and set(noisy_labels.tolist()) == set(range(10))
    assert noisy_labels is not BALANCED and torch.equal(BALANCED, torch.arange(5000) % 10)


def test_labels_are_flipped_to_every_other_class_alike():
    labels = torch.full((9000,), 3)
    counts = data.flip_labels(labels, 1.0, 10, seed=0).bincount(minlength=10).numpy()
    assert counts[3] == 0 and abs(np.delete(counts, 3) - 1000).max() < 150  # five deviations


def test_flips_repeat_with_their_seed_and_differ_with_another():
    first, again, other = (data.flip_labels(BALANCED, 0.5, 10, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
