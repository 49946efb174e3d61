"""Quantise a bundle's model.onnx to int8 with onnxruntime's static quantisation, calibrated on your images.

    narfx apply arch.json --weights trained.safetensors --out bundle
    python examples/int8.py bundle --data cifar10.npz --out int8.onnx
    narfx evaluate bundle/model.onnx --data cifar10.npz
    narfx evaluate int8.onnx --data cifar10.npz

Weights are int8 with a scale for each channel, activations int8 with a scale for each tensor, from the smallest and the
largest value that they have on the training images. The new file keeps narfx's metadata, so that ``narfx evaluate``
normalises images as for the float file. ``narfx check`` does not accept it, because int8 is not the same function.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from narfx.data.image_data import batches, load_data
from narfx.errors import NarfxError, UsageError
from narfx.support.files import write_bytes
from narfx.verbs.target import load_target


class Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Batches of normalised training images, one at a time, for the quantiser."""

    def __init__(self, name: str, rows: Iterator[np.ndarray]) -> None:
        self.name, self.rows = name, rows

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch (N, C, H, W), or ``None`` after the last."""
        found = next(self.rows, None)
        return None if found is None else {self.name: found}


def quantise(bundle: Path, data: str, out: Path, *, images: int = 512, batch_size: int = 32, seed: int = 0) -> None:
    """Write ``out``, the int8 form of ``bundle/model.onnx``.

    Args:
        bundle: A bundle of ``narfx apply`` whose images were normalised as its metadata say.
        data: A data source, as ``narfx train --data`` takes it; its training images calibrate.
        out: The file to write; it is written whole or not at all.
        images: How many training images calibrate.
        batch_size: Images in a batch.
        seed: Chooses the images.

    Raises:
        UsageError: The bundle or the data cannot be read, the file states no normalisation, or ``out`` exists.
    """
    path = bundle / "model.onnx"
    if out.exists():
        raise UsageError(f"{out} exists: choose another name", where=str(out), kind="output_exists")
    target = load_target(str(path))
    if target.preprocessing is None:
        raise UsageError(
            f"{path} does not say how images are normalised: apply an arch.json that narfx search or train wrote",
            where=str(path),
            kind="no_preprocessing",
        )
    known = (target.preprocessing.mean, target.preprocessing.std)
    found = load_data(data, target.input, seed=seed, most=images, normalise=known)
    rows = (x.numpy() for x, _ in batches(found.train, batch_size, data=found, seed=seed))
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(quantised),
            Images(onnx.load(prepared).graph.input[0].name, rows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
        )
        model = onnx.load(quantised)
        del model.metadata_props[:]
        model.metadata_props.extend(onnx.load(path).metadata_props)
    write_bytes(out, model.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", required=True, help="a data source, as for narfx train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=512, help="training images that calibrate [512]")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser advises what is done here already
    try:
        quantise(given.bundle, given.data, given.out, images=given.images, seed=given.seed)
    except NarfxError as error:
        sys.exit(f"int8: {error}")
    sizes = [path.stat().st_size / 1e6 for path in (given.bundle / "model.onnx", given.out)]
    print(f"{given.out}: {sizes[1]:.2f} MB, float32 {sizes[0]:.2f} MB")


if __name__ == "__main__":
    main()
