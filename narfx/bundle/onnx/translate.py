"""Translate a lowered network into ONNX by torch's exporter, before any optimisation."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, fx

from narfx.bundle.onnx.blame import cannot_export
from narfx.errors import ParityError
from narfx.graph.nodes import source_line
from narfx.graph.unused import unused_keys
from narfx.passes.verify import verify_lowered

__all__ = ["check_ready", "translated"]


def check_ready(network: fx.GraphModule) -> None:
    """Check that the network is lowered, in eval mode, and without calls that always train.

    Raises:
        ParityError: It is not (kind ``not_lowered``).
    """
    problems = verify_lowered(network, unused_keys(network))  # parts that no node uses are not exported
    problems += [
        f"{node} ({source_line(node) or getattr(node.target, '__name__', node.target)}) is called with training=True, "
        "so eval mode does not change what it computes: pass training=self.training"
        for node in network.graph.nodes
        if node.op == "call_function" and _trains(node)
    ]
    problems += [
        f"{node} ({source_line(node) or 'a convolution'}) takes its groups from the batch, and an ONNX convolution has "
        "a fixed number of them: apply each image's kernel by a matrix product of torch.nn.functional.unfold"
        for node in network.graph.nodes
        if node.op == "call_function" and isinstance(_groups(node), fx.Node)
    ]
    if problems:
        raise ParityError(f"the network is not ready to export: {problems[0]}", kind="not_lowered")


def _trains(node: fx.Node) -> bool:
    try:
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a C++ function may have no signature
        return node.kwargs.get("training") is True
    bound.apply_defaults()
    return bound.arguments.get("training") is True


def _groups(node: fx.Node) -> Any:
    """The groups of a functional convolution, its seventh argument."""
    if not getattr(node.target, "__name__", "").startswith("conv"):
        return 1
    return node.kwargs.get("groups", node.args[6] if len(node.args) > 6 else 1)


def translated(network: fx.GraphModule, example: Tensor, opset: int | None) -> Any:
    """The network as torch's ``ONNXProgram``, not optimised: each weight is an initializer of its own name.

    Args:
        network: The network.
        example: Images (N, C, H, W); N is free in the program.
        opset: The opset; default: torch's own.

    Raises:
        RunError: torch's exporter cannot export the network (kind ``onnx_export``).
    """
    # Errors are reported below or show in the file; without this, torch logs pages of its own graphs.
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        nowhere = io.StringIO()
        silent = contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere)
        with warnings.catch_warnings(), silent[0], silent[1], torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=_dynamic_shapes(network),
                input_names=["narfx_input"],
                opset_version=opset,
                optimize=False,
                verbose=False,
            )
    except Exception as error:
        raise cannot_export(network, error) from error
    finally:
        logging.disable(disabled)


def _dynamic_shapes(network: fx.GraphModule) -> tuple[Any, ...]:
    """A free batch axis for the one input."""
    _, *others = [node for node in network.graph.nodes if node.op == "placeholder" and not node.args]
    return ({0: "batch"}, *({} for _ in others))
