"""The latency of each operator in onnxruntime, relative to the convolution that it replaces."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_ratios import measure, ratio_of
from torch import nn

from narfx.bundle.onnx.write import export_onnx
from narfx.compiler.front_end import trace
from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.space.architecture import DEFAULT_OPERATORS

SITES = {  # input channels, output channels, size of the map, stride
    "64 → 64, 56x56": (64, 64, 56, 1),
    "128 → 128, 28x28": (128, 128, 28, 1),
    "256 → 256, 14x14": (256, 256, 14, 1),
    "512 → 512, 7x7": (512, 512, 7, 1),
    "64 → 128, 56x56, stride 2": (64, 128, 56, 2),
    "16 → 16, 32x32": (16, 16, 32, 1),
}
OPERATORS = (*DEFAULT_OPERATORS, "conv5x5", "dwsep5x5")


def operator_ratios(site: str, operators: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """The onnxruntime latency of each operator, followed by BatchNorm and ReLU, relative to the base's; batch 1."""
    channels, out, size, stride = SITES[site]
    conv = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
    model = nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU()).eval()
    shape = (channels, size, size)
    traced = trace(model, input=shape, operators=operators, max_candidate_params=3.0, include_first=True)
    net, (slot,) = Supernet(traced), traced.space.slots
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        calls = {}
        for index in slot.legal:
            path = Path(folder) / f"{operators[index]}.onnx"
            export_onnx(lower(net, (index,)), shape, path)
            calls[operators[index]] = _session(path, x)
        baseline, *others = measure(calls, rounds)
    rows = []
    for index, taken in zip(slot.legal[1:], others, strict=True):
        macs = slot.costs["macs"][index] / slot.costs["macs"][0]
        row = ratio_of(operators[index], baseline, taken).to_json()
        rows.append({"site": site, "operator": row.pop("name"), "macs_ratio": macs, **row})
        del rows[-1]["bound"], rows[-1]["kept"]
    return rows


def _session(path: Path, x: np.ndarray) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": x})
