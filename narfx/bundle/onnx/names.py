"""The names of an ONNX file's input and outputs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from narfx.errors import UsageError

__all__ = ["check_names", "output_names", "rename"]


def output_names(output: Any, given: Sequence[str] | None = None) -> list[str]:
    """One name for each tensor in what a network returns, in the order of the ONNX file's outputs.

    Without names given, a tensor, or those of tuples and lists, are ``output``, ``output1``, ...; what lies in a
    dictionary or a named tuple is named by its keys, with underscores between them: ``{"means": [a, b]}`` gives
    ``means_0`` and ``means_1``.

    Raises:
        UsageError: The output holds something that is neither a tensor nor ``None``, or complex numbers, or no tensor,
            or the number of names is another.
    """
    paths: list[tuple[Any, ...]] = []
    for path, leaf in pytree.tree_flatten_with_path(output)[0]:
        if isinstance(leaf, Tensor):
            if leaf.is_complex():
                raise UsageError(
                    f"the network returns complex numbers at output{pytree.keystr(path)}, which the runtimes of ONNX "
                    "do not know: return real numbers, as of torch.view_as_real",
                    where=f"output{pytree.keystr(path)}",
                    kind="output_not_tensor",
                )
            paths.append(path)
        elif leaf is not None:
            raise UsageError(
                f"the network returns {_described(leaf)} at output{pytree.keystr(path)}, and ONNX knows only tensors: "
                "return tensors",
                where=f"output{pytree.keystr(path)}",
                kind="output_not_tensor",
            )
    if not paths:
        raise UsageError("the network returns no tensor, so there is nothing to export", kind="output_not_tensor")
    if given is None:
        return [_default(path, index) for index, path in enumerate(paths)]
    if len(given) != len(paths):
        raise UsageError(
            f"{len(given)} output names were given, but the network returns {len(paths)} "
            f"tensor{'s' if len(paths) > 1 else ''}: " + ", ".join(f"output{pytree.keystr(path)}" for path in paths),
            where="--output-name",
            kind="output_names",
        )
    return list(given)


def _described(leaf: Any) -> str:
    name = type(leaf).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _default(path: tuple[Any, ...], index: int) -> str:
    if all(isinstance(part, pytree.SequenceKey) for part in path):
        return f"output{index}" if index else "output"
    # A key says more than a position, whatever kind of container it belongs to.
    parts = [getattr(part, "idx", getattr(part, "key", getattr(part, "name", part))) for part in path]
    name = "_".join(re.sub(r"\W", "_", str(part)) for part in parts)
    return name if re.match(r"[^\W\d]", name) else f"output{name}"


def check_names(input_name: str, outputs: Sequence[str], weights: Collection[str]) -> None:
    """Refuse names that are empty, given twice, or those of the network's own weights.

    Raises:
        UsageError: Its ``where`` is the option that mends it.
    """
    taken: dict[str, str] = dict.fromkeys(weights, "a weight of the network")
    for option, what, name in (
        ("--input-name", "the input", input_name),
        *(("--output-name", "an output", name) for name in outputs),
    ):
        if not name or re.search(r"\s", name) or not name.isprintable():
            raise UsageError(
                f"{name!r} is no name for {what}: a name is not empty and holds no space",
                where=option,
                kind="malformed_name",
            )
        if name in taken:
            raise UsageError(
                f"{what} cannot be named {name}, which is the name of {taken[name]}: choose another by {option}",
                where=option,
                kind="name_clash",
            )
        taken[name] = what.replace("an output", "another output")


def rename(model: Any, input_name: str, outputs: Sequence[str]) -> None:
    """Give an ``onnx_ir`` model's input and outputs their names; a value inside that has one of them gives way."""
    wanted = {input_name, *outputs}
    ends = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    inside = [value for node in model.graph.all_nodes() for value in node.outputs if id(value) not in ends]
    inside += [value for value in model.graph.initializers.values() if id(value) not in ends]
    used = {value.name for value in inside} | wanted
    for value in inside:
        if value.name in wanted:
            value.name = next(name for i in range(len(used) + 1) if (name := f"{value.name}_{i}") not in used)
            used.add(value.name)
    for value, name in zip([*model.graph.inputs, *model.graph.outputs], [input_name, *outputs], strict=True):
        value.name = name
