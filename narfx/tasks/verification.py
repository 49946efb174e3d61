"""Face verification by the protocol of LFW (Huang et al., 2007) on embeddings as in ArcFace (arXiv 1801.07698).

The embedding of an image is the sum for the image and its mirror image, scaled to length 1; two images are compared by
their cosine. The accuracy is the mean over folds (contiguous blocks of pairs); each fold uses the threshold that is
best on all other folds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from narfx.data.pairs import Pairs
from narfx.errors import UsageError
from narfx.runs.progress import Reporter, Silent

__all__ = ["FAR_TARGETS", "Verification", "best_threshold", "embed", "similarities", "verify"]

FAR_TARGETS = (1e-1, 1e-2, 1e-3)
Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Verification:
    """The result of the protocol for one network.

    ``accuracies`` and ``thresholds`` (cosines) have one value for each fold, ``standard_error`` is that of the mean
    accuracy. ``roc`` has a row (FAR, TAR, cosine from which on a pair counts as one person) for each distinct cosine,
    over all pairs. ``tar_at_far`` is ``None`` where there are too few pairs of two people to measure that FAR.
    """

    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]
    roc: tuple[tuple[float, float, float], ...]
    tar_at_far: dict[float, float | None]
    pairs: int
    same: int

    @property
    def accuracy(self) -> float:
        """The mean over the folds."""
        return math.fsum(self.accuracies) / len(self.accuracies)

    @property
    def standard_error(self) -> float:
        """The sample standard deviation over the folds, divided by the square root of their number."""
        return float(np.std(self.accuracies, ddof=1) / math.sqrt(len(self.accuracies)))

    def to_json(self) -> dict[str, Any]:
        """Everything but the ROC, as plain values."""
        return {
            "accuracy": self.accuracy,
            "standard_error": self.standard_error,
            "folds": list(self.accuracies),
            "thresholds": list(self.thresholds),
            "tar_at_far": {f"{far:g}": tar for far, tar in self.tar_at_far.items()},
            "pairs": self.pairs,
            "same": self.same,
        }


def best_threshold(cosines: Floats, same: Booleans) -> float:
    """The threshold on the cosine, above which a pair counts as one person, with the fewest errors.

    Thresholds lie halfway between neighbouring cosines; of several equally good ones the middle one is taken.
    """
    order = np.argsort(cosines, kind="stable")
    values, truth = cosines[order], same[order]
    # Entry k: the k smallest count as two people, the others as one.
    right = np.append(0, np.cumsum(~truth)) + truth.sum() - np.append(0, np.cumsum(truth))
    cuts = np.flatnonzero(np.concatenate([[True], values[1:] > values[:-1], [True]]))
    best = cuts[right[cuts] == right[cuts].max()]
    cut = int(best[(len(best) - 1) // 2])
    if cut in (0, len(values)):
        return float(values[0] - 1e-9 if cut == 0 else values[-1])
    return float((values[cut - 1] + values[cut]) / 2)


def verify(cosines: Floats, same: Booleans, folds: int = 10) -> Verification:
    """The protocol on the cosines (P,) of pairs in the order of their folds.

    Raises:
        UsageError: There are fewer than two folds, fewer pairs than folds, or only pairs of one kind.
    """
    if folds < 2:
        raise UsageError(f"--folds is {folds}: the protocol needs at least 2", where="--folds", kind="too_few_folds")
    if len(same) < folds:
        raise UsageError(
            f"there are fewer pairs ({len(same)}) than folds ({folds}): give more pairs, or lower --folds",
            where="--folds",
            kind="too_few_pairs",
        )
    if same.all() or not same.any():
        raise UsageError(
            f"all {len(same)} pairs are of {'one person' if same.all() else 'two people'}: give pairs of both kinds",
            kind="one_kind_of_pairs",
        )
    accuracies, thresholds = [], []
    for held in np.array_split(np.arange(len(same)), folds):
        others = np.delete(np.arange(len(same)), held)
        threshold = best_threshold(cosines[others], same[others])
        thresholds.append(threshold)
        accuracies.append(float(((cosines[held] > threshold) == same[held]).mean()))
    roc = _roc(cosines, same)
    different = int((~same).sum())
    # The tolerance is for targets such as 1e-1, which have no exact binary form.
    rates = {far: max(tar for f, tar, _ in roc if f <= far * (1 + 1e-9)) for far in FAR_TARGETS}
    allowed = {far: tar if different * far >= 1 - 1e-9 else None for far, tar in rates.items()}
    return Verification(tuple(accuracies), tuple(thresholds), roc, allowed, len(same), int(same.sum()))


def _roc(cosines: Floats, same: Booleans) -> tuple[tuple[float, float, float], ...]:
    order = np.argsort(-cosines, kind="stable")
    values, truth = cosines[order], same[order]
    last = np.append(values[1:] < values[:-1], True)  # equal cosines are accepted together
    far, tar = np.cumsum(~truth)[last] / (~same).sum(), np.cumsum(truth)[last] / same.sum()
    first = (0.0, 0.0, float(np.nextafter(values[0], np.inf)))
    return (first, *zip(far.tolist(), tar.tolist(), values[last].tolist(), strict=True))


def embed(network: Callable[[Tensor], Any] | nn.Module, images: Tensor) -> Floats:
    """Embeddings (B, D) of length 1 of normalised images (B, C, H, W), each summed with that of its mirror image.

    Raises:
        UsageError: The network does not give one tensor (B, D), or gives NaN, infinity or only zeros.
    """
    with torch.inference_mode():
        outputs = [network(images), network(images.flip(3))]
    for output in outputs:
        if not isinstance(output, Tensor) or output.ndim != 2:
            shape = f"{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(
                f"verification needs a network with one output of shape (N, embedding), not {shape}", kind="outputs"
            )
    summed: Floats = (outputs[0].double() + outputs[1].double()).cpu().numpy()
    lengths = np.linalg.norm(summed, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise UsageError(
            "the network gives embeddings that are NaN or infinite: its weights are broken, or the images are "
            "normalised in another way than in training",
            kind="embeddings_not_finite",
        )
    if (lengths == 0).any():
        raise UsageError(
            "the network gives embeddings that are all zero and so have no direction: its weights are not trained, or "
            "its last layer is a ReLU whose inputs are all negative",
            kind="embeddings_zero",
        )
    return np.asarray(summed / lengths)


def similarities(
    network: Callable[[Tensor], Any] | nn.Module,
    pairs: Pairs,
    shape: tuple[int, int, int],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    reporter: Reporter | None = None,
) -> Floats:
    """The cosines (P,) of all pairs; every image is read and embedded once, resized to ``shape`` (C, H, W).

    Raises:
        UsageError: An image cannot be decoded, or :func:`embed` refuses the network's output.
    """
    reporter = reporter or Silent()
    count = int(max(pairs.first.max(), pairs.second.max())) + 1
    centre, scale = (torch.tensor(values, device=device).mul(255).view(-1, 1, 1) for values in (mean, std))
    chunks = np.array_split(np.arange(count, dtype=np.int64), math.ceil(count / batch_size))
    rows = []
    for chunk in reporter.track(chunks, len(chunks), "embeddings"):
        images = pairs.images.read(chunk, shape).to(device)
        images = images if images.shape[1] == shape[0] else images.repeat(1, shape[0], 1, 1)
        rows.append(embed(network, images.float().sub_(centre).div_(scale)))
    embeddings = np.concatenate(rows)
    return np.asarray((embeddings[pairs.first] * embeddings[pairs.second]).sum(1))
