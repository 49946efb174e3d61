"""Small models after public reports, where they lie beside the project: each is traced and applied, or refused."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import narfx
from narfx.compiler.open import NetworkOptions, open_base
from narfx.errors import NarfxError
from narfx.inputs.model_ref import load_model

# What a refusal names (a node of the model) and what it tells the user to write.
REFUSED = {
    "condconv": ("conv2d", "unfold"),
    "dict_batch": ("its input", "wrap the model in a module"),
    "flatten_all": ("flatten", r"torch.flatten\(x, 1\)"),
    "simplenet": ("dropout2d", "pass training=self.training"),
    "squeeze_all": ("squeeze", r"x.squeeze\(\(2, 3\)\)"),
    "tuple_shape": ("a shape", r"as \(x.shape\[2\], x.shape\[3\]\)"),
}
NAMES = (
    "condconv", "dict_batch", "flatten_all", "frames", "inf_param", "iresnet_fp16", "list_head", "ln2d_var",
    "nonpersistent", "norm_eval", "setitem", "simplenet", "sobel", "squeeze_all", "train_none", "tuple_shape",
    "wrappers",
)  # fmt: skip


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Path:
    """One model file: of ``$NARFX_TEST_CASES``, else of the folder of cases beside the project."""
    named = os.environ.get("NARFX_TEST_CASES")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "cases"
    file = folder / f"{request.param}.py"
    if not file.is_file():
        pytest.skip(f"no test case: {file} is not a file (NARFX_TEST_CASES names another folder)")
    return file


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_a_case_is_applied_or_refused_in_a_sentence_with_node_line_and_cure(case: Path, tmp_path: Path) -> None:
    declared = re.search(r"# INPUT: (\d+),(\d+),(\d+)", case.read_text())
    assert declared is not None
    channels, height, width = map(int, declared.groups())
    shape = (channels, height, width)
    try:
        traced = open_base(NetworkOptions(model=str(case), input=shape))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model = load_model(str(case))
            model.eval()
            model(torch.zeros(1, *shape))
        assert 2 * traced.cost["macs"] == counter.get_total_flops()
        draw = random.Random(0)
        vector = [draw.choice([entry for entry in slot.legal if entry]) for slot in traced.space.slots]
        report = narfx.apply(traced.architecture(vector), tmp_path / "bundle")
        assert report["macs"] == traced.space.cost(vector)["macs"]
        narfx.check(tmp_path / "bundle")
        assert case.stem not in REFUSED
    except NarfxError as error:
        node, cure = REFUSED[case.stem]
        said = str(error)
        assert re.search(rf"{node}.*", said) and re.search(rf"{case.name}:\d+", said) and re.search(cure, said)
        assert len(said) < 900 and "\n" not in said
        assert error.kind is not None
