"""Lower an ONNX model to an older opset than torch's exporter writes, if every node has the same meaning there.

``onnx.version_converter`` cannot go below 18 for most CNNs: it cannot convert Relu down, and it leaves an attribute of
ReduceMean that older opsets do not have. So the few rewrites that CNNs need are here. The result is checked and
compared with the network like any other file.
"""

from __future__ import annotations

from typing import Any

from narfx.support.onnx_session import onnxruntime_module, open_session
from narfx.support.text import count

__all__ = ["OLDEST", "lower_opset", "lowest_opset", "newest_opset", "obstacles"]

# Softmax, Squeeze, Split and others changed their meaning or their arguments at 13.
OLDEST = 13


def lowest_opset(model: Any) -> int:
    """The oldest opset, from 13 on, at which every node of an ``onnx_ir`` model can be written."""
    return next(v for v in range(OLDEST, model.opset_imports[""] + 1) if not obstacles(model, v))


def newest_opset() -> int:
    """The newest opset that onnx can write and onnxruntime can run here; found by trial, as neither reports it."""
    import onnx

    onnxruntime_module()  # a missing package is no fault of the file
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    for opset in range(onnx.defs.onnx_opset_version(), OLDEST, -1):
        imports = [onnx.helper.make_opsetid("", opset)]
        ir_version = onnx.helper.find_min_ir_version_for(imports)
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
        try:
            open_session(model.SerializeToString())
        except Exception:  # onnxruntime has a dozen exception classes
            continue
        return opset
    return OLDEST


def lower_opset(model: Any, opset: int) -> None:
    """Rewrite an ``onnx_ir`` model, in place, for ``opset``; :func:`obstacles` must return an empty list for it."""
    import onnx

    for node in model.graph.all_nodes():
        for name in _droppable(node, opset):
            node.attributes.pop(name)
        if _axes_move(node, opset):
            _move_axes(model, node)
    model.opset_imports[""] = opset
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])


def obstacles(model: Any, opset: int) -> list[str]:
    """The reasons why a model cannot be written at ``opset``, one clause for each kind of node."""
    found: dict[str, str] = {}
    if set(model.opset_imports) != {""} or model.functions:
        return ["it has operators of another domain"]
    for node in model.graph.all_nodes():
        old = _schema(node, opset)
        if old is None:
            found[node.op_type] = f"{node.op_type} does not exist in it"
            continue
        unknown = sorted(node.attributes.keys() - old.attributes.keys() - _droppable(node, opset))
        if unknown:
            found[node.op_type] = f"its operator {node.op_type} has no option {' or '.join(unknown)} there"
        elif len(node.inputs) > old.max_input and not _axes_move(node, opset):
            found[node.op_type] = f"its operator {node.op_type} takes at most {count(old.max_input, 'input')} there"
        elif len(node.outputs) > old.max_output:
            found[node.op_type] = f"its operator {node.op_type} has at most {count(old.max_output, 'output')} there"
    return list(found.values())


def _schema(node: Any, opset: int) -> Any:
    import onnx

    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _droppable(node: Any, opset: int) -> set[str]:
    """Attributes that the older schema lacks and that have no effect here, for example a default of the newer one."""
    import onnx

    old, new = _schema(node, opset), _schema(node, node.graph.opset_imports[""])
    if old is None or new is None or old.since_version == new.since_version:
        return set()
    unknown = [name for name in node.attributes if name not in old.attributes and name in new.attributes]
    defaults = {name: new.attributes[name].default_value for name in unknown}
    return {
        name
        for name, default in defaults.items()
        if (default.name and node.attributes[name].value == _plain(onnx.helper.get_attribute_value(default)))
        or _says_nothing(node, name)
    }


def _says_nothing(node: Any, name: str) -> bool:
    """Whether an attribute that torch always writes has no effect at this node."""
    if (node.op_type, name) == ("Reshape", "allowzero"):
        shape = node.inputs[1].const_value
        return shape is not None and 0 not in shape.numpy()
    if (node.op_type, name) == ("Split", "num_outputs"):  # the older Split always splits evenly
        return len({str(output.shape) for output in node.outputs if output.shape is not None}) == 1
    return False


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _axes_move(node: Any, opset: int) -> bool:
    """Whether the axes of a reduction are a constant input here and an attribute at ``opset``."""
    old = _schema(node, opset)
    if not node.op_type.startswith("Reduce") or old is None or "axes" not in old.attributes or len(node.inputs) != 2:
        return False
    return node.inputs[1] is not None and node.inputs[1].const_value is not None


def _move_axes(model: Any, node: Any) -> None:
    import onnx_ir as ir

    axes = node.inputs[1]
    node.attributes.add(ir.AttrInt64s("axes", axes.const_value.numpy().reshape(-1).tolist()))
    node.resize_inputs(1)
    if axes.is_initializer() and not axes.uses() and not axes.is_graph_output():
        model.graph.initializers.pop(axes.name)
