"""How well rewards rank architectures: Kendall's tau with the stand-alone accuracy, with bootstrap intervals."""

from __future__ import annotations

import statistics
from typing import Any, Literal

import numpy as np
from scipy.stats import kendalltau

from narfx.support.seeds import numpy_generator

__all__ = [
    "NORMS", "REWARDS", "Norms", "Rewards", "compare_judges", "pair_signs", "resampled_taus", "spread", "verdict",
]  # fmt: skip

Norms = Literal["shared", "separate"]
Rewards = dict[str, list[list[float]]]  # of one supernet, by reward: minibatches by vectors
NORMS: tuple[Norms, ...] = ("shared", "separate")
REWARDS = {
    "quick": "batch statistics, one minibatch",
    "quick_all": "batch statistics, all minibatches",
    "proper": "recalibrated, whole validation part",
}


def spread(alone: np.ndarray, found: list[list[float]]) -> dict[str, float | None]:
    """How far the architectures lie apart, and how far one of them from itself with another seed."""
    twice = np.array([values for values in found if len(values) == 2]).reshape(-1, 2)
    enough = len(twice) > 2
    return {
        "mean": float(alone.mean()),
        "least": float(alone.min()),
        "most": float(alone.max()),
        "deviation": float(alone.std(ddof=1)),
        "seed_deviation": float(np.std(twice[:, 1] - twice[:, 0], ddof=1) / 2**0.5) if enough else None,
        "seed_to_seed_tau": _finite(kendalltau(*twice.T).statistic) if enough else None,
        "repeats": len(twice),
    }


def compare_judges(
    judges: dict[str, np.ndarray], alone: np.ndarray, *, seed: int, resamples: int = 4000
) -> dict[str, Any]:
    """Tau of each judge with the stand-alone accuracy, and the differences that decide, with 95 % intervals.

    A judge is an array of rewards (supernets, minibatches, vectors); its tau is the mean over the first two. The
    intervals are percentiles of a bootstrap that draws vectors and, of each kind, supernets. All judges see the same
    vectors, so that a difference is one of pairs.
    """
    rng, vectors, supernets = numpy_generator(seed, "bootstrap"), len(alone), max(map(len, judges.values()))
    counts = rng.multinomial(vectors, np.full(vectors, 1 / vectors), size=resamples)
    nets = {str(norms): rng.integers(supernets, size=(resamples, supernets)) for norms in NORMS}
    drawn = {}
    for name, rewards in judges.items():
        taus = resampled_taus(pair_signs(rewards), pair_signs(alone), counts).mean(axis=-1)
        drawn[name] = np.take_along_axis(taus, nets.get(name.split()[0], np.zeros((resamples, 1), int)), axis=1).mean(1)
    result: dict[str, Any] = {"judges": {}, "differences": {}}
    for name, rewards in judges.items():
        taus = [statistics.fmean(float(kendalltau(row, alone).statistic) for row in supernet) for supernet in rewards]
        result["judges"][name] = {
            "tau": _finite(statistics.fmean(taus)),
            "interval": _interval(drawn[name]),
            "by_supernet": [_finite(value) for value in taus],
        }
    kinds = [(f"separate {reward}", f"shared {reward}") for reward in REWARDS]
    for first, second in kinds + [(name, "macs") for name in judges if name != "macs"]:
        taus = [result["judges"][name]["tau"] for name in (first, second)]
        result["differences"][f"{first} - {second}"] = {
            "tau": None if None in taus else taus[0] - taus[1],
            "interval": _interval(drawn[first] - drawn[second]),
        }
    return result


def verdict(compared: dict[str, Any]) -> list[str]:
    """One sentence for each reward: which kind of BatchNorm judged better, and whether that is more than noise."""
    said = []
    for reward, text in REWARDS.items():
        found = compared["differences"][f"separate {reward} - shared {reward}"]
        if found["tau"] is None or found["interval"] is None:
            said.append(f"{text}: a judge gave all vectors one reward, so nothing can be said")
            continue
        low, high = found["interval"]
        better = "separate" if found["tau"] > 0 else "shared"
        more = "more than noise" if low > 0 or high < 0 else "no more than noise"
        said.append(
            f"{text}: separate - shared {found['tau']:+.3f} ({low:+.3f} to {high:+.3f}): "
            + ("neither judged better" if found["tau"] == 0 else f"{better} judged better, {more}")
        )
    return said


def pair_signs(values: np.ndarray) -> np.ndarray:
    """Which of two vectors is better, for all pairs: (..., n) to (..., n, n)."""
    return np.asarray(np.sign(values[..., :, None] - values[..., None, :]))


def resampled_taus(signs: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Kendall's tau-b from the signs of all pairs, (..., n, n) and (n, n), each vector taken ``counts`` (r, n) times.

    The result is (r, ...). A vector that is taken twice makes a tie with itself; tau-b leaves ties out. NaN where one
    side has only ties.
    """

    def total(pairs: np.ndarray) -> np.ndarray:
        return np.asarray(np.einsum("r...j,rj->r...", np.einsum("ri,...ij->r...j", counts, pairs), counts))

    of_truth = total(truth**2).reshape(-1, *[1] * (signs.ndim - 2))
    with np.errstate(invalid="ignore"):
        return np.asarray(total(signs * truth) / np.sqrt(total(signs**2) * of_truth))


def _interval(values: np.ndarray) -> list[float] | None:
    finite = values[np.isfinite(values)]
    return [float(bound) for bound in np.percentile(finite, [2.5, 97.5])] if len(finite) else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
