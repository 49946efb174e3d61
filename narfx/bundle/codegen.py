"""A traced network as one readable Python file that imports only what the network itself needs.

Each module of the graph is written as a call of its constructor. Every constructor call is verified: the module it
makes must have the same parameters, buffers and plain attributes as the original. The whole file is then run once; it
must load the network's weights and give the network's output.
"""

from __future__ import annotations

import base64
import copy
import inspect
import re
import sys
import zlib
from types import ModuleType
from typing import Any

import torch
from torch import fx, nn

from narfx.graph.blank import Blank
from narfx.graph.frozen import MARK
from narfx.graph.order import paths

__all__ = ["CodegenError", "generate"]

_FEW, _LONGEST = 64, 2**20  # values that are written as numbers, characters of those that are not
_PLAIN = (int, float, bool, str, type(None))
_NOT_STATE = {"training", "device", "dtype", MARK}


class CodegenError(Exception):
    """A module of the graph cannot be written as a constructor call; the message names it."""


def generate(graph_module: fx.GraphModule, title: str, input_shape: tuple[int, int, int]) -> str:
    """The source of a Python file with one class, ``Model``, that has the state-dict keys of the graph module.

    Args:
        graph_module: The network to write.
        title: The first line of the file's docstring.
        input_shape: (channels, height, width) of one sample, written as ``INPUT_SHAPE``.

    Raises:
        CodegenError: A module cannot be rebuilt from its class and attributes.
    """
    imports: set[str] = {"import torch", "from torch import nn"}
    lines = [f"        put(self, {name!r}, {_entry(graph_module, name, imports)})" for name in _targets(graph_module)]
    lines += [f"        put(self, {name!r}, self.get_parameter({first!r}))" for name, first in _tied(graph_module)]
    graph = copy.deepcopy(graph_module.graph)
    for node in graph.nodes:
        node.type = None  # an annotation may use a name that only the user's file imports
    body = graph.python_code("self")
    for name, value in sorted(body.globals.items()):
        if re.search(rf"\b{re.escape(name)}\b", body.src):
            imports.add(_import(name, value))
    forward = "\n".join(f"    {line}".rstrip() for line in body.src.strip().splitlines())
    ordered = sorted(imports, key=lambda line: (line.startswith("from"), line))
    needed = sorted({line.split()[1].split(".")[0] for line in imports} - {"torch"} - sys.stdlib_module_names)
    needs = "it needs only torch" if not needed else f"it needs torch and {', '.join(needed)}"
    title = " ".join(title.split()).replace("\\", "/").replace('"', "'")  # no quote may end the docstring early
    return "\n".join(
        [
            f'"""{title}',
            "",
            f"Written by narfx; {needs}. Load the weights in the same folder with",
            '``Model().load_state_dict(safetensors.torch.load_file("model.safetensors"))``.',
            '"""',
            "",
            *ordered,
            "",
            f"INPUT_SHAPE = {input_shape}  # channels, height, width of one sample",
            "",
            "",
            "def put(root, path, value, persistent=True):",
            '    """Place a module, parameter or buffer at a dotted path, making plain containers on the way."""',
            '    *parents, name = path.split(".")',
            "    for parent in parents:",
            "        if not hasattr(root, parent):",
            "            root.add_module(parent, nn.Module())",
            "        root = getattr(root, parent)",
            "    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):",
            "        root.register_buffer(name, value, persistent)",
            "    else:",
            "        setattr(root, name, value)",
            "",
            "",
            "class Model(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
            *lines,
            "",
            forward,
            "",
        ]
    )


def _targets(graph_module: fx.GraphModule) -> list[str]:
    """The paths that the graph calls or reads, in the network's own order, without parts of called modules."""
    called = dict.fromkeys(str(n.target) for n in graph_module.graph.nodes if n.op == "call_module")
    read = dict.fromkeys(str(n.target) for n in graph_module.graph.nodes if n.op == "get_attr")
    alone = [name for name in read if not any(name.startswith(f"{target}.") for target in called)]
    place = {path: index for index, path in enumerate(paths(graph_module))}
    return sorted([*called, *alone], key=place.__getitem__)


def _tied(graph_module: fx.GraphModule) -> list[tuple[str, str]]:
    """(other name, first name) for each further name of a parameter that has several names."""
    first = {id(parameter): name for name, parameter in graph_module.named_parameters()}
    named = graph_module.named_parameters(remove_duplicate=False)
    return [(name, first[id(parameter)]) for name, parameter in named if first[id(parameter)] != name]


def _entry(graph_module: fx.GraphModule, name: str, imports: set[str]) -> str:
    value: Any = graph_module
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, nn.Module):
        return _constructor(value, name, imports)
    if isinstance(value, torch.Tensor):
        filled = f"torch.empty({tuple(value.shape)}, dtype={value.dtype})"
        if isinstance(value, nn.Parameter):
            return f"nn.Parameter({filled}, requires_grad={value.requires_grad})"
        if name not in graph_module.state_dict():
            return f"{_values(value, name, imports)}, persistent=False"
        return filled.replace("empty", "zeros")
    raise CodegenError(f"{name} is a {type(value).__name__}, which cannot be written as source")


def _values(value: torch.Tensor, name: str, imports: set[str]) -> str:
    """An expression of a tensor's values: as numbers if there are few, otherwise as compressed bytes."""
    if value.numel() <= _FEW:
        return f"torch.tensor({_literal(value.tolist())}, dtype={value.dtype})"
    content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    text = base64.b64encode(zlib.compress(content, 9)).decode()
    if len(text) > _LONGEST:
        raise CodegenError(
            f"{name} is a buffer of {value.numel():,} values that the state dict does not hold, too many for a source "
            "file: register it with persistent=True"
        )
    imports |= {"import base64", "import zlib"}
    unpacked = f'bytearray(zlib.decompress(base64.b64decode("{text}")))'
    return f"torch.frombuffer({unpacked}, dtype={value.dtype}).reshape({tuple(value.shape)})"


def _constructor(module: nn.Module, name: str, imports: set[str]) -> str:
    kind = type(module)
    if kind in (nn.Sequential, nn.ModuleList):
        parts = [(key, _constructor(child, f"{name}.{key}", imports)) for key, child in module.named_children()]
        if kind is nn.ModuleList or all(key == str(index) for index, (key, _) in enumerate(parts)):
            listed = ", ".join(text for _, text in parts)
            return f"nn.Sequential({listed})" if kind is nn.Sequential else f"nn.ModuleList([{listed}])"
        imports.add("from collections import OrderedDict")
        return "nn.Sequential(OrderedDict([" + ", ".join(f"({key!r}, {text})" for key, text in parts) + "]))"
    if "." in kind.__qualname__ or not _importable(kind.__module__):
        raise CodegenError(f"the class of {name}, {kind.__qualname__}, cannot be imported by the name of its module")
    arguments = _arguments(module)
    try:
        with Blank():
            rebuilt = kind(**arguments)
    except Exception as error:
        raise CodegenError(
            f"{name} ({kind.__name__}) cannot be built from its attributes: {type(error).__name__}: {error}"
        ) from error
    if not _same(module, rebuilt):
        raise CodegenError(f"{name} ({kind.__name__}) holds state that its constructor does not set")
    if getattr(nn, kind.__name__, None) is kind:
        prefix = "nn."
    else:
        imports.add(f"from {kind.__module__} import {kind.__name__}")
        prefix = ""
    return f"{prefix}{kind.__name__}({_written(kind, arguments)})"


def _written(kind: type[nn.Module], arguments: dict[str, Any]) -> str:
    """Arguments as a person writes them: required ones by position, as long as none is left out."""
    texts, by_position = [], True
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        by_position &= name in arguments and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        by_position &= parameter.default is parameter.empty
        if name in arguments:
            texts.append(_literal(arguments[name]) if by_position else f"{name}={_literal(arguments[name])}")
    return ", ".join(texts)


def _arguments(module: nn.Module) -> dict[str, Any]:
    """Constructor arguments, read from attributes of the same name; those at their default are left out."""
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in ("self", "device", "dtype") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(module, name):
            continue
        value = getattr(module, name)
        if name == "bias" and not isinstance(value, bool):
            value = value is not None
        if not _plain(value):
            continue
        same = type(value) is type(parameter.default) and value == parameter.default
        if isinstance(module, nn.modules.conv._ConvNd) and isinstance(value, tuple):
            same = set(value) == {parameter.default}  # a convolution turns a number into a pair, a pool keeps it
        if not same:
            arguments[name] = value
    return arguments


def _plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, (tuple, list)) and all(map(_plain, value)))


def _literal(value: Any) -> str:
    if isinstance(value, float) and not torch.isfinite(torch.tensor(value)):
        return f'float("{value}")'
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def _same(module: nn.Module, rebuilt: nn.Module) -> bool:
    """Whether names and shapes of all tensors and all plain attributes are equal, in all submodules."""
    parts, others = dict(module.named_modules()), dict(rebuilt.named_modules())
    if parts.keys() != others.keys():
        return False
    for name, part in parts.items():
        other = others[name]
        if type(part) is not type(other):
            return False
        for own, theirs in ((part._parameters, other._parameters), (part._buffers, other._buffers)):
            shapes = [{k: None if t is None else (t.shape, t.dtype) for k, t in d.items()} for d in (own, theirs)]
            if shapes[0] != shapes[1]:
                return False
        state = [
            {k: v for k, v in vars(m).items() if _plain(v) and k not in _NOT_STATE and not k.startswith("__")}
            for m in (part, other)
        ]
        if state[0] != state[1]:
            return False
    return True


def _import(name: str, value: Any) -> str:
    if isinstance(value, ModuleType):
        return f"import {value.__name__}" if value.__name__ == name else f"import {value.__name__} as {name}"
    if name in ("inf", "nan"):
        return f"from math import {name}"
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if value is type(None):
        return "from types import NoneType"
    if value is torch.device:
        return "from torch import device"
    if not module or "." in qualname or "<" in qualname or not _importable(module):
        raise CodegenError(f"{name} cannot be imported by the generated file")
    return f"from {module} import {qualname}" + ("" if qualname == name else f" as {name}")


def _importable(module: str) -> bool:
    """Whether any Python can import the module; a model file, which is only in ``sys.modules``, is not importable."""
    name = module.partition(".")[0]
    return name != "__main__" and any(finder.find_spec(name, None) is not None for finder in sys.meta_path)
