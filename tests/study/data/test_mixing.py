"""Mixed images have the labels of their pixels, and every view finds partners of its own."""

import pytest
import torch

from study.data.mixing import Mixing, smoothed

CLASSES = 12
KINDS = [("MixUp",), ("CutMix",), ("MixUp", "CutMix")]


def flat(size=8):
    """Twelve images (12, 1, size, size) of twelve classes; image k has the value k everywhere, so pasted pixels show."""
    labels = torch.arange(CLASSES)
    return labels[:, None, None, None].expand(-1, 1, size, size).float(), labels


@pytest.mark.parametrize("kinds", KINDS)
def test_labels_are_distributions(kinds):
    torch.manual_seed(0)
    images, distributions = Mixing(*kinds, classes=CLASSES)(*flat())
    assert images.shape == (CLASSES, 1, 8, 8) and distributions.shape == (CLASSES, CLASSES)
    torch.testing.assert_close(distributions.sum(1), torch.ones(CLASSES))
    assert (distributions >= 0).all()


def test_a_cutmix_label_is_the_share_of_pixels_of_each_class():
    for seed in range(20):
        torch.manual_seed(seed)
        images, distributions = Mixing("CutMix", classes=CLASSES)(*flat())
        shares = torch.stack([(images == k).float().mean((1, 2, 3)) for k in range(CLASSES)], 1)
        torch.testing.assert_close(distributions, shares)


def test_a_mixup_image_is_the_sum_of_images_with_the_shares_of_its_label():
    for seed in range(20):
        torch.manual_seed(seed)
        pictures = torch.rand(CLASSES, 1, 4, 4)
        images, distributions = Mixing("MixUp", classes=CLASSES)(pictures, torch.arange(CLASSES))
        torch.testing.assert_close(images, torch.einsum("ij,jchw->ichw", distributions, pictures))


@pytest.mark.parametrize("kinds", KINDS)
def test_each_view_is_permuted_by_itself(kinds):
    def partners(distributions):
        """Of every image the class that it was mixed with."""
        return distributions.fill_diagonal_(0).argmax(1)

    torch.manual_seed(0)
    mix, views = Mixing(*kinds, classes=CLASSES), []
    while len(views) < 50:
        q = mix(*flat(size=16))[1]
        if 0.01 < q[0, 0] < 0.99:  # a box of no pixels has no partner to be seen
            views.append(partners(q))
    views = torch.stack(views)  # (50, 12)
    same = (views[0::2] == views[1::2]).float().mean()
    assert abs(same - 1 / 11) < 0.06  # by chance; 1 where both views have the neighbour as partner
    assert all(len(views[:, k].unique()) > 8 for k in range(CLASSES))


def test_the_share_is_uniform_and_the_two_kinds_are_equally_frequent():
    torch.manual_seed(0)
    pictures, labels = flat()
    mix = Mixing("MixUp", classes=CLASSES)
    shares = torch.stack([mix(pictures, labels)[1][0, 0] for _ in range(400)])
    assert abs(shares.mean() - 0.5) < 0.06 and abs(shares.var() - 1 / 12) < 0.02
    both = Mixing("MixUp", "CutMix", classes=CLASSES)
    whole_numbers = torch.tensor([bool((both(pictures, labels)[0] % 1 == 0).all()) for _ in range(400)])  # CutMix's pixels
    assert abs(whole_numbers.float().mean() - 0.5) < 0.1


def test_smoothing_leaves_images_alone():
    pictures, labels = flat()
    images, distributions = smoothed(pictures, labels, classes=CLASSES, share=0.1)
    assert images is pictures
    torch.testing.assert_close(distributions.diag(), torch.full((CLASSES,), 0.9 + 0.1 / CLASSES))
    torch.testing.assert_close(distributions.sum(1), torch.ones(CLASSES))
