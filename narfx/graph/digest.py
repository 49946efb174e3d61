"""The digest of a traced network: equal where the graph, its modules and the shapes of its weights are equal.

The values of the weights do not count. The code inside opaque modules counts as the source text of their classes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from narfx.support.seals import digest

__all__ = ["network_digest"]

# What differs from process to process: addresses of objects, and the numbers of the modules that user files become.
_PASSING = re.compile(r" at 0x[0-9a-f]+|_narfx_user_\d+_")


def network_digest(network: fx.GraphModule) -> str:
    """SHA-256 over nodes, arguments, modules with their options, and the keys, types and shapes of the state dict."""
    return digest(_PASSING.sub("", text) for text in _texts(network))


def _texts(network: fx.GraphModule) -> Iterator[str]:
    for node in network.graph.nodes:
        yield f"{node.name} {node.op} {_name(node.target)} {_names(node.args)} {_names(node.kwargs)}"
    for name, module in network.named_modules():
        kind = type(module)
        if kind.__module__.startswith("torch.nn."):
            yield f"{name} {kind.__qualname__}({module.extra_repr()})"
        elif not isinstance(module, fx.GraphModule):
            yield f"{name} {kind.__module__}.{kind.__qualname__} {_source(kind)}"
    for key, value in network.state_dict(keep_vars=True).items():
        yield f"{key} {value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{key} {type(value)}"


def _name(target: Any) -> str:
    return target if isinstance(target, str) else f"{getattr(target, '__module__', '')}.{_qualified(target)}"


def _qualified(value: Any) -> str:
    return str(getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__name__))


def _names(arguments: Any) -> str:
    """The arguments as text; functions count by name and other objects by kind, because their texts have addresses."""
    return str(fx.node.map_aggregate(arguments, _plain))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (fx.Node, str, bool, int, float, complex)):
        return value
    if isinstance(value, Tensor):
        return f"tensor {value.dtype} {tuple(value.shape)}"
    return _name(value) if callable(value) else f"{type(value).__name__} {value!r}" if _is_torch(value) else type(value)


def _is_torch(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch"


def _source(kind: type[nn.Module]) -> str:
    """The text of a class and of those it is derived from, as far as there is one."""
    found = []
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] not in ("torch", "narfx", "builtins", "typing", "abc"):
            try:
                found.append(inspect.getsource(base))
            except (OSError, TypeError):
                found.append(base.__qualname__)
    return "\n".join(found)
