"""The ten-fold protocol, its threshold, ROC and TAR at FAR, and embeddings that have no direction."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_faces import write_bin
from torch import nn

from narfx.data.pairs import read_pairs
from narfx.errors import UsageError
from narfx.tasks.verification import best_threshold, embed, similarities, verify

cosines_and_truth = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.1, 0.2, 0.5, 1.0]), st.booleans()), min_size=1, max_size=30
)


@given(cosines_and_truth)
def test_no_threshold_makes_fewer_errors(drawn: list[tuple[float, bool]]) -> None:
    cosines, same = np.array([c for c, _ in drawn]), np.array([s for _, s in drawn])

    def right(threshold: float) -> int:
        return int(((cosines > threshold) == same).sum())

    found = best_threshold(cosines, same)
    assert right(found) == max(right(t) for t in (-2, -0.75, -0.25, 0.05, 0.15, 0.35, 0.75, 2))


def test_a_fold_is_judged_by_the_threshold_of_the_others() -> None:
    # Two folds whose scales differ: each is judged by the other's threshold, and so badly.
    cosines = np.array([0.9, 0.8, 0.7, 0.6, 0.3, 0.2, -0.1, -0.2])
    same = np.array([True, True, False, False] * 2)
    found = verify(cosines, same, folds=2)
    assert found.thresholds == pytest.approx((0.05, 0.75))
    assert found.accuracies == (0.5, 0.5) and found.accuracy == 0.5 and found.standard_error == 0.0
    assert verify(cosines, same, folds=8).pairs == 8 and found.same == 4


def test_accuracy_and_standard_error_by_hand() -> None:
    same = np.tile([True, False], 20)
    cosines = np.where(same, 0.8, 0.2)
    cosines[[0, 8]] = 0.2  # one error in fold 0, one in fold 2
    found = verify(cosines, same, folds=10)
    assert found.accuracies == (0.75, 1.0, 0.75, *[1.0] * 7)
    assert found.accuracy == pytest.approx(0.95)
    assert found.standard_error == pytest.approx(np.std(found.accuracies, ddof=1) / math.sqrt(10))


@given(st.integers(0, 1000), st.integers(20, 200))
def test_the_roc_counts_pairs(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    same = np.arange(count) % 2 == 0
    cosines = np.round(rng.normal(same * 0.5, 0.5), 1)  # ties among them
    roc = verify(cosines, same, folds=2).roc
    for far, tar, threshold in roc:
        accepted = cosines >= threshold
        assert far == pytest.approx(accepted[~same].mean()) and tar == pytest.approx(accepted[same].mean())
    assert roc[0][:2] == (0.0, 0.0) and roc[-1][:2] == (1.0, 1.0)
    assert all(a[0] <= b[0] and a[1] <= b[1] and a[2] > b[2] for a, b in itertools.pairwise(roc))


def test_tar_at_far_only_where_the_pairs_allow_it() -> None:
    same = np.tile([True, False], 100)
    cosines = np.where(same, np.linspace(0, 1, 200), np.linspace(-0.5, 0.5, 200))
    found = verify(cosines, same).tar_at_far
    assert found[1e-3] is None and found[1e-1] is not None and found[1e-2] is not None
    cut = np.sort(cosines[~same])
    assert found[1e-1] == pytest.approx((cosines[same] > cut[-11]).mean(), abs=0.011)
    assert found[1e-2] == pytest.approx((cosines[same] > cut[-2]).mean(), abs=0.011)


@pytest.mark.parametrize(
    ("same", "folds", "kind"),
    [
        ([True, False] * 4, 10, "too_few_pairs"),
        ([True, False] * 4, 1, "too_few_folds"),
        ([True] * 20, 10, "one_kind_of_pairs"),
        ([False] * 20, 10, "one_kind_of_pairs"),
    ],
)
def test_pairs_that_do_not_make_a_test(same: list[bool], folds: int, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        verify(np.zeros(len(same)), np.array(same), folds)
    assert caught.value.kind == kind


def test_an_embedding_is_the_image_plus_its_mirror() -> None:
    images = torch.randn(3, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    found = embed(nn.Flatten(), images)
    summed = (images + images.flip(3)).flatten(1).double()
    assert np.allclose(found, summed / summed.norm(dim=1, keepdim=True)) and np.allclose((found**2).sum(1), 1)
    assert np.allclose(found, embed(nn.Flatten(), images.flip(3)))


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        (lambda x: x.flatten(1) * 0, "embeddings_zero"),
        (lambda x: x.flatten(1) * torch.tensor([[1.0], [0.0]]), "embeddings_zero"),  # of one image
        (lambda x: torch.where(torch.arange(2)[:, None] == 0, x.flatten(1), math.nan), "embeddings_not_finite"),
        (lambda x: x.flatten(1) * math.inf, "embeddings_not_finite"),
        (lambda x: x, "outputs"),
        (lambda x: (x.flatten(1), x.flatten(1)), "outputs"),
    ],
)
def test_embeddings_without_a_direction(network: nn.Module, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        embed(network, torch.ones(2, 1, 2, 2))
    assert caught.value.kind == kind and caught.value.exit_code == 2


def test_similarities_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    flags = write_bin(tmp_path / "pairs.bin", 40)
    pairs = read_pairs(str(tmp_path / "pairs.bin"))
    half = (0.5,) * 3
    runs = [similarities(nn.Flatten(), pairs, (3, 16, 16), mean=half, std=half, batch_size=b) for b in (7, 64)]
    assert np.allclose(runs[0], runs[1]) and len(runs[0]) == len(flags) == 40
    # Noisy copies of one pattern are closer than two patterns.
    assert runs[0][pairs.same].mean() > runs[0][~pairs.same].mean() + 0.3


def test_the_floor_of_raw_pixels(data_folder: Path) -> None:
    """The cosine of raw 64-pixel images: 62.4 % on all 6000 pairs of LFW, within two standard errors on these 1200."""
    pairs = read_pairs(str(data_folder / "lfw_small.bin"))
    half = (0.5,) * 3
    found = verify(similarities(nn.Flatten(), pairs, (3, 64, 64), mean=half, std=half), pairs.same)
    assert abs(found.accuracy - 0.624) < 2 * found.standard_error < 0.04
