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
    """One name for each tensor that a network returns, in the order of the ONNX file's outputs.

    Default names: a tensor, or the tensors of tuples and lists, are ``output``, ``output1``, ...; tensors in a
    dictionary or a named tuple are named by their keys, joined by underscores: ``{"means": [a, b]}`` gives
    ``means_0`` and ``means_1``.

    Args:
        output: What the network returned.
        given: Names to use instead; one for each tensor.

    Raises:
        UsageError: The output holds complex numbers, no tensor at all, or a value that is neither a tensor nor
            ``None``; or the number of names is wrong.
    """
    paths: list[tuple[Any, ...]] = []
    for path, leaf in pytree.tree_flatten_with_path(output)[0]:
        if isinstance(leaf, Tensor):
            if leaf.is_complex():
                raise UsageError(
                    f"the network returns complex numbers at output{pytree.keystr(path)}, which ONNX runtimes do not "
                    "support: return real numbers, for example by torch.view_as_real",
                    where=f"output{pytree.keystr(path)}",
                    kind="output_not_tensor",
                )
            paths.append(path)
        elif leaf is not None:
            raise UsageError(
                f"the network returns {_described(leaf)} at output{pytree.keystr(path)}, but ONNX has only tensors: "
                "return tensors",
                where=f"output{pytree.keystr(path)}",
                kind="output_not_tensor",
            )
    if not paths:
        raise UsageError(
            "the network returns no tensor, so there is nothing to export: return a tensor", kind="output_not_tensor"
        )
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
    # A key is a better name than a position.
    parts = [getattr(part, "idx", getattr(part, "key", getattr(part, "name", part))) for part in path]
    name = "_".join(re.sub(r"\W", "_", str(part)) for part in parts)
    return name if re.match(r"[^\W\d]", name) else f"output{name}"


def check_names(input_name: str, outputs: Sequence[str], weights: Collection[str]) -> None:
    """Refuse names that are empty, given twice, or names of the network's weights.

    Raises:
        UsageError: A name is not possible; ``where`` is the option to change.
    """
    taken: dict[str, str] = dict.fromkeys(weights, "a weight of the network")
    for option, what, name in (
        ("--input-name", "the input", input_name),
        *(("--output-name", "an output", name) for name in outputs),
    ):
        if not name or re.search(r"\s", name) or not name.isprintable():
            raise UsageError(
                f"{name!r} is not a valid name for {what}: a name must not be empty or contain spaces",
                where=option,
                kind="malformed_name",
            )
        if name in taken:
            raise UsageError(
                f"{what} cannot be named {name}, which is the name of {taken[name]}: choose another with {option}",
                where=option,
                kind="name_clash",
            )
        taken[name] = what.replace("an output", "another output")


def rename(model: Any, input_name: str, outputs: Sequence[str]) -> None:
    """Name the input and outputs of an ``onnx_ir`` model; an inner value with the same name is renamed."""
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
