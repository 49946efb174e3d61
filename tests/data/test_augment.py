"""Augmentation: crops and mirrors, fixed by the seed."""

from __future__ import annotations

import pytest
import torch
from small_data import load_digits

from narfx.errors import UsageError
from narfx.tasks import ImageData, batches


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_digits()


@pytest.mark.parametrize("augment", ["crop", "flip", "crop-flip"])
def test_augmentation_is_fixed_by_the_seed_and_not_by_global_state(digits: ImageData, augment: str) -> None:
    runs: list[torch.Tensor] = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(runs))
        runs.append(torch.cat([x for x, _ in batches(digits.train, 64, data=digits, seed=seed, augment=augment)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_every_augmented_image_is_a_crop_or_mirror_of_its_own(digits: ImageData) -> None:
    """Each is found among the 25 crops of its original (padding 16 // 8) and their mirrors, and all of these occur."""
    mean, std = digits.mean[0] * 255, digits.std[0] * 255
    plain, _ = next(batches(digits.train, 200, data=digits, seed=1))
    augmented, _ = next(batches(digits.train, 200, data=digits, seed=1, augment="crop-flip"))
    before, after = ((x * std + mean).round().to(torch.uint8)[:, 0] for x in (plain, augmented))
    padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
    found = []
    for source, target in zip(padded, after, strict=True):
        options = {
            (top, left, flip): window.flip(1) if flip else window
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            for window in [source[top : top + 16, left : left + 16]]
        }
        matches = [key for key, option in options.items() if torch.equal(option, target)]
        assert matches
        found.append(matches[0])
    assert len({(top, left) for top, left, _ in found}) == 25
    assert 60 < sum(flip for _, _, flip in found) < 140


def test_crop_never_flips_and_flip_never_shifts(digits: ImageData) -> None:
    plain, _ = next(batches(digits.train, 300, data=digits, seed=1))
    flipped, _ = next(batches(digits.train, 300, data=digits, seed=1, augment="flip"))
    same = (flipped == plain).flatten(1).all(1)
    assert torch.equal(flipped[~same], plain[~same].flip(3))
    assert 100 < int(same.sum()) < 200
    cropped, _ = next(batches(digits.train, 300, data=digits, seed=1, augment="crop"))
    # Rows and columns of a crop keep their order: no shift of the plain image equals the mirror of an uneven one.
    shifted = [cropped[i, 0, 4:12, 4:12] for i in range(300)]
    windows = [plain[i, 0].unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 8, 8) for i in range(300)]
    assert all((w == s).flatten(1).all(1).any() for w, s in zip(windows, shifted, strict=True))


def test_augmentation_refusals(digits: ImageData) -> None:
    with pytest.raises(UsageError, match="unknown augmentation 'mixup'"):
        batches(digits.train, 8, data=digits, seed=0, augment="mixup")
    with pytest.raises(ValueError, match="needs a seed"):
        batches(digits.train, 8, data=digits, augment="crop")
    with pytest.raises(UsageError, match="batch size"):
        batches(digits.train, 0, data=digits)
