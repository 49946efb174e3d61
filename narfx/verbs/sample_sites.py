"""Geometries of sites as they occur in practice, for testing operators without a model."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from narfx.graph.cost import shapes_and_cost
from narfx.graph.tracing import trace_graph
from narfx.passes.sites import find_sites
from narfx.space.records import Site

__all__ = ["SAMPLES", "sample_site"]

# Kernel, input and output channels, height and width of the map; then what differs from stride 1, padding k // 2, bias.
SAMPLES: tuple[tuple[int, int, int, tuple[int, int], dict[str, object]], ...] = (
    (3, 16, 16, (12, 12), {}),
    (3, 16, 16, (12, 12), {"bias": False}),
    (3, 16, 16, (12, 12), {"stride": 2}),
    (3, 16, 32, (12, 12), {"stride": 2, "bias": False}),
    (3, 32, 16, (9, 14), {}),
    (3, 16, 16, (11, 8), {"stride": (1, 2)}),
    (3, 16, 16, (11, 11), {"stride": 3}),
    (3, 6, 10, (8, 8), {}),
    (3, 10, 6, (8, 8), {"stride": 2}),
    (3, 16, 32, (8, 8), {"groups": 2}),
    (3, 32, 32, (8, 8), {"groups": 4, "bias": False}),
    (3, 32, 32, (8, 8), {"groups": 8, "stride": 2}),
    (3, 16, 16, (12, 12), {"dilation": 2, "padding": 2}),
    (3, 16, 16, (12, 12), {"dilation": (1, 3), "padding": (1, 3), "groups": 2}),
    (3, 16, 16, (9, 9), {"dilation": 2, "padding": 2, "stride": 2}),
    (3, 16, 16, (8, 8), {"padding": 0}),
    (3, 16, 16, (8, 8), {"padding": 2}),
    (3, 16, 16, (8, 8), {"padding": (0, 1), "stride": 2}),
    (3, 16, 16, (8, 8), {"padding_mode": "reflect"}),
    (3, 16, 16, (8, 8), {"padding_mode": "replicate", "stride": 2}),
    (3, 16, 16, (8, 8), {"padding_mode": "circular"}),
    (3, 16, 16, (1, 1), {}),
    (3, 16, 16, (2, 2), {"stride": 2}),
    (5, 16, 16, (12, 12), {}),
    (5, 16, 32, (12, 12), {"stride": 2, "bias": False}),
    (5, 16, 16, (12, 12), {"groups": 2}),
    (5, 16, 16, (12, 12), {"padding": 0}),
    (5, 16, 16, (12, 12), {"dilation": 2, "padding": 4}),
    (7, 16, 16, (12, 12), {}),
    (7, 16, 32, (14, 14), {"stride": 2}),
    (7, 16, 16, (12, 12), {"padding": 1, "bias": False}),
)


def sample_site(
    kernel: int, inputs: int, outputs: int, size: tuple[int, int], options: dict[str, object]
) -> tuple[nn.Conv2d, Site]:
    """A convolution with random weights, and its site as the compiler finds it; the name is its geometry."""
    settings: dict[str, object] = {"padding": kernel // 2, **options}
    with torch.device("cpu"):
        conv = nn.Conv2d(inputs, outputs, kernel, **settings)  # type: ignore[arg-type]
    graph_module = trace_graph(nn.Sequential(conv)).graph_module
    shapes = shapes_and_cost(graph_module, (inputs, *size)).shapes
    (site,), _ = find_sites(graph_module, shapes, kernels=(kernel,), include_first=True)
    told = [f"{kernel}x{kernel}", f"{inputs}->{outputs}", "on", "x".join(map(str, size))]
    for key, value in options.items():
        shown = "x".join(map(str, value)) if isinstance(value, tuple) else value
        told.append("no bias" if key == "bias" else f"{key.removesuffix('_mode')} {shown}")
    return conv, dataclasses.replace(site, target=" ".join(told), where="")
