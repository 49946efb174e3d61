"""Model references: the text with which a user names a model.

===========================  ==========================================================================
``file.py``                  ``model`` in that file, or else its only module class that needs no arguments
``file.py:factory``          a callable in that file that returns a module, or a module
``package.module:factory``   the same in an importable module; the working directory is searched first
``torchvision:NAME``         a torchvision model without weights
``timm:NAME``                a timm model without weights, if timm is installed
``narfx:NAME``               an entry of :data:`narfx.models.MODELS`
===========================  ==========================================================================

Each form takes arguments for the factory: ``torchvision:resnet18?num_classes=10&norm_layer=...``. A value is read as a
Python literal if possible, otherwise as text. A suffix ``#PART`` selects one submodule of the model:
``torchvision:fasterrcnn_resnet50_fpn#backbone``.
"""

from __future__ import annotations

import ast
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from narfx.errors import UsageError
from narfx.inputs.zoo import ZOOS, suggestions
from narfx.models import MODELS

__all__ = ["ModelRef", "find_file", "is_collection", "is_file_name"]

_FORMS = "file.py, file.py:factory, package.module:factory, torchvision:NAME, timm:NAME or narfx:NAME"


@dataclass(frozen=True)
class ModelRef:
    """A parsed reference; ``str`` gives its canonical text, which parses to an equal reference.

    Attributes:
        kind: ``file``, ``module``, ``torchvision``, ``timm`` or ``narfx``.
        name: The path, the dotted module, or the model's name.
        factory: The name in that file or module, if given.
        arguments: The arguments of the factory.
        part: The path of the selected submodule, if any.
    """

    kind: str
    name: str
    factory: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Parse one of the forms above.

        Raises:
            UsageError: The text has no known form, or its arguments are not ``name=value`` joined by ``&``.
        """
        whole, sharp, part = text.strip().partition("#")
        if sharp:
            if not _dotted(part, numbers=True):
                raise UsageError(
                    f"cannot read the part in {text!r}: write the path of a submodule after #, for example #backbone",
                    where=text,
                    kind="model_reference",
                )
            return replace(cls.parse(whole), part=part)
        head, mark, tail = text.strip().partition("?")
        arguments = _parse_arguments(tail, text) if mark else {}
        name, colon, factory = head.rpartition(":")
        if head.endswith(".py"):
            return cls("file", _posix(head), None, arguments)
        if name.endswith(".py") and _dotted(factory):
            return cls("file", _posix(name), factory, arguments)
        if name in ZOOS and factory:
            return cls(name, factory, None, arguments)
        if colon and _dotted(name) and _dotted(factory):
            return cls("module", name, factory, arguments)
        known = [f"{head}.py"] if Path(f"{head}.py").is_file() else suggestions(head)
        hint = f"; did you mean {' or '.join(known)}?" if known else ""
        raise UsageError(
            f"cannot read the model reference {text!r}: write {_FORMS}{hint}", where=text, kind="model_reference"
        )

    def __str__(self) -> str:
        head = self.name if self.factory is None else f"{self.name}:{self.factory}"
        head = f"{self.kind}:{head}" if self.kind in ZOOS else head
        pairs = "&".join(f"{name}={_write_value(value)}" for name, value in sorted(self.arguments.items()))
        return (f"{head}?{pairs}" if pairs else head) + (f"#{self.part}" if self.part else "")

    @property
    def may_be_trained(self) -> bool:
        """Whether the model may come with weights that have learnt something: those of a collection never do."""
        return self.kind not in ZOOS

    @property
    def plain(self) -> str:
        """The reference without folders and with its arguments sorted: the same wherever a run is, or is moved to."""
        return str(replace(self, name=Path(self.name).name) if self.kind == "file" else self)

    def beside(self, folder: Path, *, relative_to: Path | None = None) -> ModelRef:
        """The same reference for a file in ``folder``: the path of a model file becomes relative to ``folder``.

        A data file that an argument names, such as a genotype, is written out in its place.

        Raises:
            UsageError: The model file does not exist, or a data file cannot be read.
        """
        if self.kind != "file":
            return self.with_files_read(relative_to)
        path = find_file(self.name, relative_to)
        return replace(self, name=_posix(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())))

    def with_files_read(self, relative_to: Path | None) -> ModelRef:
        """The same reference with what stands in the data files that its arguments name, in the place of their paths.

        Raises:
            UsageError: A file cannot be read.
        """
        entry = MODELS.get(self.name) if self.kind == "narfx" else None
        read = {
            argument: reader(place)
            for argument, reader in (entry.files.items() if entry is not None else ())
            if (place := _data_file(self.arguments.get(argument), relative_to)) is not None
        }
        return replace(self, arguments={**self.arguments, **read}) if read else self


def is_collection(text: str) -> bool:
    """Whether a text names a model of a collection, as ``narfx:NAME`` does; it may be too long for a file's name."""
    return text.strip().partition(":")[0] in ZOOS


def is_file_name(text: str, *suffixes: str) -> bool:
    """Whether a text ends as the name of such a file; the arguments of a model reference do not count."""
    return text.partition("?")[0].lower().endswith(suffixes)


def find_file(name: str, relative_to: Path | None) -> Path:
    """The absolute path of a model file.

    Raises:
        UsageError: There is no such file.
    """
    folders = [Path.cwd()] if relative_to is None else [relative_to.absolute(), Path.cwd()]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    looked = " or ".join(dict.fromkeys(str(folder) for folder in folders))
    place = "" if Path(name).is_absolute() else f" in {looked}"
    raise UsageError(f"there is no model file {name}{place}: check the path", where=name, kind="missing_file")


def _data_file(value: Any, relative_to: Path | None) -> Path | None:
    """The file that an argument names, if it names one."""
    if not isinstance(value, str) or len(value) > 4096:
        return None
    folders = [Path.cwd()] if relative_to is None else [relative_to.absolute(), Path.cwd()]
    with contextlib.suppress(OSError, ValueError):  # a text that is no path
        return next((folder / value for folder in folders if (folder / value).is_file()), None)
    return None


def _parse_arguments(text: str, whole: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for pair in text.split("&"):
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise UsageError(
                f"cannot read the argument {pair!r} in {whole!r}: write name=value, separated by &, for example "
                "torchvision:resnet18?num_classes=10",
                where=whole,
                kind="model_arguments",
            )
        if name in arguments:
            raise UsageError(
                f"{whole!r} gives the argument {name!r} twice: remove one", where=whole, kind="model_arguments"
            )
        arguments[name] = _read_value(value)
    return arguments


def _read_value(text: str) -> Any:
    text = text.strip()
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        # As text, "false" would be true.
        return {"true": True, "false": False}.get(text, text)


def _write_value(value: Any) -> str:
    return value if isinstance(value, str) and _read_value(value) == value and "&" not in value else repr(value)


def _posix(path: str) -> str:
    return Path(path).as_posix()


def _dotted(text: str, *, numbers: bool = False) -> bool:
    return bool(text) and all(part.isidentifier() or (numbers and part.isdigit()) for part in text.split("."))
