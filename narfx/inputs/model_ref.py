"""Builds the module that a reference names (:mod:`narfx.inputs.reference`), and finds the size of its images.

Nothing is ever downloaded. A model file is the user's own code: it is executed, and its output goes to standard error.
Where a file names it, :mod:`narfx.inputs.trust` decides.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from narfx.errors import UsageError
from narfx.graph.time_limit import model_time
from narfx.inputs.reference import ModelRef, find_file
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
from narfx.inputs.zoo import ZOOS, find_model, without_weights
from narfx.support.text import article

__all__ = ["default_input", "load_model"]

Shape = tuple[int, int, int]


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
    path = find_file(ref.name, relative_to)
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
        body = ast.parse(find_file(name, relative_to).read_bytes()).body
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


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
