"""Model references: the text with which a user names a model, and the module that it builds.

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
``torchvision:fasterrcnn_resnet50_fpn#backbone``. Nothing is ever downloaded. A model file is the user's own code: it
is executed, and its output goes to standard error. Where a file names it, :mod:`narfx.inputs.trust` decides.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from narfx.errors import UsageError
from narfx.graph.time_limit import model_time
from narfx.inputs.trust import check_entry, digest_of, is_named
from narfx.inputs.user_code import (
    attribute,
    call,
    close_names,
    execute_file,
    import_module,
    importable,
    missing_arguments,
    user_code,
)
from narfx.inputs.weights import apply_weights
from narfx.inputs.zoo import ZOOS, find_model, suggestions, without_weights
from narfx.models import MODELS
from narfx.support.text import article

__all__ = ["ModelRef", "apply_weights", "default_input", "is_collection", "is_file_name", "load_model"]

Shape = tuple[int, int, int]

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
        path = _find(self.name, relative_to)
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


@model_time()
def load_model(ref: str | ModelRef, *, relative_to: Path | None = None, seed: int | None = None) -> nn.Module:
    """Build the module that ``ref`` names.

    Args:
        ref: A reference, or its text.
        relative_to: The folder of the file (an ``arch.json``) in which the reference stands, if it stands in one. A
            relative path is searched there first, and code runs only under the rules of :mod:`narfx.inputs.trust`.
        seed: If given, it decides torch's initial weights, and torch's global generator keeps its state.

    Raises:
        UsageError: The reference cannot be read, or its target is missing, fails, is not a module, or may not run.
    """
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    with contextlib.redirect_stdout(sys.stderr), _seeded(seed):
        if ref.kind == "file":
            model = _load_file(ref, relative_to)
        elif ref.kind == "module":
            model = _load_module(ref, relative_to)
        else:
            model = _load_from_zoo(ref.with_files_read(relative_to))
    return model if ref.part is None else _part(model, ref)


def default_input(ref: str | ModelRef, *, relative_to: Path | None = None) -> Shape | None:
    """(channels, height, width) of one sample if the model's origin states it, otherwise ``None``.

    Models of narfx and timm state it, and torchvision's classifiers (mostly 3x224x224). A file may contain a line
    ``INPUT_SHAPE = (3, 32, 32)``, which is read without running the file.

    Raises:
        UsageError: The reference cannot be read, or its origin has no such model.
    """
    ref = ModelRef.parse(ref) if isinstance(ref, str) else ref
    if ref.kind == "file":
        return _stated_input(ref.name, relative_to)
    shape = find_model(ref.kind, ref.name, ref.arguments).input_shape if ref.kind in ZOOS else None
    channels = ref.arguments.get("in_channels", ref.arguments.get("in_chans"))
    side = ref.arguments.get("size") if ref.kind == "narfx" else None
    if shape is not None and isinstance(side, int):
        shape = (shape[0], side, side)
    return (channels, *shape[1:]) if shape is not None and isinstance(channels, int) else shape


def _part(model: nn.Module, ref: ModelRef) -> nn.Module:
    assert ref.part is not None
    try:
        return model.get_submodule(ref.part)
    except AttributeError as error:
        names = [name for name, _ in model.named_modules() if name]
        close = close_names(ref.part, names) or [name for name, _ in model.named_children()][:6]
        raise UsageError(
            f"{type(model).__name__} has no part {ref.part}; parts are {', '.join(close) or 'none'}",
            where=str(ref),
            kind="unknown_part",
        ) from error


def _load_file(ref: ModelRef, relative_to: Path | None) -> nn.Module:
    path = _find(ref.name, relative_to)
    named = is_named(str(path), stated=relative_to is not None)
    with importable(path.parent, siblings=True, named=named):
        with user_code(f"cannot import {ref.name}", where=ref.name, kind="import_failed"):
            module = execute_file(path, named=named)
        factory = ref.factory or _only_candidate(module, ref)
        entry, label = attribute(module, factory, ref.name), f"{ref.name}:{factory}"
        check_entry(entry, digest_of(path.read_bytes()), factory, ref.arguments, label=label, named=named)
        return _build(entry, ref, label)


def _load_module(ref: ModelRef, relative_to: Path | None) -> nn.Module:
    assert ref.factory is not None
    named, label = is_named(ref.name, stated=relative_to is not None), f"{ref.name}:{ref.factory}"
    with importable(Path.cwd(), named=named):
        entry = attribute(import_module(ref.name, named=named), ref.factory, ref.name)
        check_entry(entry, ref.name, ref.factory, ref.arguments, label=label, named=named)
        built = _build(entry, ref, label)
        # A module that already exists in an imported package belongs to the user: work on a copy.
        with user_code(f"{ref} cannot be copied", where=str(ref), kind="factory_failed"):
            return copy.deepcopy(built) if built is entry else built


def _load_from_zoo(ref: ModelRef) -> nn.Module:
    found = find_model(ref.kind, ref.name, ref.arguments)
    with warnings.catch_warnings():
        # torchvision's GoogLeNet and Inception announce that their initialisation will change one day.
        warnings.simplefilter("ignore", FutureWarning)
        plain = replace(ref, arguments=without_weights(ref.arguments))
        return _build(found.factory, plain, f"{ref.kind}:{ref.name}", **found.fixed)


def _find(name: str, relative_to: Path | None) -> Path:
    """The absolute path of a model file."""
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


def _only_candidate(module: ModuleType, ref: ModelRef) -> str:
    """The name of the model in a model file, for a reference without a factory name."""
    entry = getattr(module, "model", None)
    if isinstance(entry, nn.Module) or (callable(entry) and not missing_arguments(entry, ref.arguments)):
        return "model"
    classes = {
        value: name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
    buildable = [
        name
        for cls, name in classes.items()
        if not inspect.isabstract(cls) and not missing_arguments(cls, ref.arguments)
    ]
    if len(buildable) == 1:
        return buildable[0]
    if buildable:
        choices = ", ".join(f"{ref.name}:{name}" for name in buildable)
        raise UsageError(
            f"{ref.name} has several models: choose one of {choices}, or name one of them model",
            where=ref.name,
            kind="several_models",
        )
    named = {**({"model": entry} if callable(entry) else {}), **{name: cls for cls, name in classes.items()}}
    lacks = {name: missing_arguments(value, ref.arguments) for name, value in named.items()}
    wants = "; ".join(f"{name} needs {', '.join(lack)}" for name, lack in lacks.items() if lack)
    raise UsageError(
        f"{ref.name} has no model: define model (a module, or a function without arguments that returns one), or "
        f"one module class that needs no arguments" + (f" ({wants})" if wants else ""),
        where=ref.name,
        kind="no_model",
    )


def _build(factory: Any, ref: ModelRef, label: str, **fixed: Any) -> nn.Module:
    """Call ``factory`` with the reference's arguments; a module is returned as it is."""
    if isinstance(factory, nn.Module):
        if ref.arguments:
            raise UsageError(
                f"{label} is already built, so it takes no arguments ({', '.join(ref.arguments)}): name a function or "
                "a class instead",
                where=label,
                kind="model_arguments",
            )
        return factory
    if not callable(factory):
        raise UsageError(
            f"{label} is {article(factory)}: name a module, or a function that returns one",
            where=label,
            kind="factory_not_callable",
        )
    built = call(factory, {**ref.arguments, **fixed}, label, locate=ref.kind not in ZOOS)
    if not isinstance(built, nn.Module):
        raise UsageError(
            f"{label} returned {article(built)}: it must return a torch.nn.Module", where=label, kind="factory_result"
        )
    return built


def _stated_input(name: str, relative_to: Path | None) -> Shape | None:
    """The value of a line ``INPUT_SHAPE = (C, H, W)`` in a model file; errors in the file are reported on loading."""
    try:
        body = ast.parse(_find(name, relative_to).read_bytes()).body
    except (UsageError, SyntaxError, ValueError, OSError):
        return None
    for statement in body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id="INPUT_SHAPE")], value=ast.expr() as value)
                | ast.AnnAssign(target=ast.Name(id="INPUT_SHAPE"), value=ast.expr() as value)
            ):
                return _shape(value)
    return None


def _shape(expression: ast.expr) -> Shape | None:
    """The value of a literal tuple of three positive integers, otherwise ``None``."""
    try:
        value = ast.literal_eval(expression)
    except ValueError:
        return None
    fits = isinstance(value, tuple) and len(value) == 3 and all(type(n) is int and n > 0 for n in value)
    return value if fits else None


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


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
