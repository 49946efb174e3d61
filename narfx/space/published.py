"""Published genotypes by name, as facts: operators and edges, with their sources.

The cells of NASNet-A (arXiv 1707.07012), AmoebaNet-A (1802.01548), ENAS (1802.03268, micro search), DARTS of first and
second order (1806.09055) and SNAS with mild constraint (1812.09926) are given as the authors of DARTS
(github.com/quark0/darts, ``cnn/genotypes.py``) and of Shu et al. (1909.09569; github.com/shuyao95/Understanding-NAS,
``genotypes.py``) write them.
"""

from __future__ import annotations

from narfx.space.genotype import Genotype

__all__ = ["PICTURES", "PUBLISHED"]

PICTURES = {
    "stacnas_cifar10": "arXiv 1909.11926; images/cifar10_*.png of github.com/susan0199/StacNAS",
    "stacnas_cifar100": "arXiv 1909.11926; images/cifar100_*.png of github.com/susan0199/StacNAS",
}
"""Genotypes whose edges no text gives, with the place of the picture."""

_SHORT = {
    "s3": "sep_conv_3x3", "s5": "sep_conv_5x5", "s7": "sep_conv_7x7", "d3": "dil_conv_3x3", "d5": "dil_conv_5x5",
    "max": "max_pool_3x3", "avg": "avg_pool_3x3", "skip": "skip_connect", "c7": "conv_7x1_1x7",
}  # fmt: skip


def _cell(text: str) -> tuple[tuple[str, int], ...]:
    """``s3:0`` for a sep_conv_3x3 on node 0, and so on."""
    pairs = (entry.split(":") for entry in text.split())
    return tuple((_SHORT[name], int(source)) for name, source in pairs)


def _genotype(normal: str, normal_concat: str, reduce: str, reduce_concat: str) -> Genotype:
    return Genotype(
        normal=_cell(normal),
        normal_concat=tuple(map(int, normal_concat)),
        reduce=_cell(reduce),
        reduce_concat=tuple(map(int, reduce_concat)),
    )


PUBLISHED: dict[str, Genotype] = {
    "nasnet": _genotype(
        "s5:1 s3:0 s5:0 s3:0 avg:1 skip:0 avg:0 avg:0 s3:1 skip:1", "23456",
        "s5:1 s7:0 max:1 s7:0 avg:1 s5:0 skip:3 avg:2 s3:2 max:1", "456",
    ),
    "amoebanet": _genotype(
        "avg:0 max:1 s3:0 s5:2 s3:0 avg:3 s3:1 skip:1 skip:0 avg:1", "456",
        "avg:0 s3:1 max:0 s7:2 s7:0 avg:1 max:0 max:1 c7:0 s3:5", "346",
    ),
    "enas": _genotype(
        "s3:1 skip:1 s5:1 skip:0 avg:0 s3:1 s3:0 avg:1 s5:1 avg:0", "23456",
        "s5:0 avg:1 s3:1 avg:1 s3:1 avg:1 s5:4 avg:1 s3:5 s5:0", "236",
    ),
    "darts_v1": _genotype(
        "s3:1 s3:0 skip:0 s3:1 skip:0 s3:1 s3:0 skip:2", "2345",
        "max:0 max:1 skip:2 max:0 max:0 skip:2 skip:2 avg:0", "2345",
    ),
    "darts_v2": _genotype(
        "s3:0 s3:1 s3:0 s3:1 s3:1 skip:0 skip:0 d3:2", "2345",
        "max:0 max:1 skip:2 max:1 max:0 skip:2 skip:2 max:1", "2345",
    ),
    "snas_mild": _genotype(
        "s3:0 s3:1 skip:0 d3:1 skip:0 skip:1 skip:0 s3:1", "2345",
        "max:0 max:1 skip:2 max:1 max:1 skip:2 d5:2 max:0", "2345",
    ),
}  # fmt: skip
