"""Run the user's own code: a model file, or a factory in one of the user's packages.

Every error in it becomes one sentence with the line where it was raised. While a file runs, it can import modules from
its own folder (its siblings). A later file with a sibling of the same name gets its own sibling.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import itertools
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from narfx.errors import NarfxError, UsageError
from narfx.graph.source import is_model_code
from narfx.inputs.trust import admit, check_module
from narfx.support.devices import absent_device

__all__ = [
    "accepts",
    "attribute",
    "call",
    "close_names",
    "code_files",
    "execute_file",
    "import_module",
    "importable",
    "missing_arguments",
    "pair_error",
    "running",
    "user_code",
]

_OWN = Path(__file__).parents[1]
_STDLIB = Path(sysconfig.get_path("stdlib"))
_numbers = itertools.count()
_siblings: set[str] = set()
_running: list[str] = []
_executed: list[Path] = []
_imported: dict[Path, tuple[Path, ...]] = {}


def running() -> str | None:
    """The module name of the user's file that is running now, or ``None``."""
    return _running[-1] if _running else None


@contextmanager
def user_code(what: str, *, where: str, kind: str, locate: bool = True) -> Iterator[None]:
    """Turn every error that the block raises into a :class:`UsageError` that begins with ``what``.

    Args:
        what: What could not be done, as the start of a sentence.
        where: The ``where`` of the error if no line of the user's code is known.
        kind: The reason code.
        locate: Whether to name the line of the user's code that raised.

    Raises:
        UsageError: The block raised. A :class:`NarfxError` passes unchanged.
    """
    try:
        yield
    except NarfxError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())[:400]
        if "torchvision::" in text and "does not exist" in text:
            raise pair_error(error) from error
        line = _line(error) if locate else None
        absent = absent_device(error)
        if absent is not None:
            raise UsageError(
                f"{what}{f' ({line})' if line else ''}: it needs a device that this machine does not have: {absent}",
                where=line or where,
                kind="no_device",
            ) from error
        message = f"{what}: {type(error).__name__}" + (f" at {line}" if line else "") + (f": {text}" if text else "")
        if isinstance(error, ModuleNotFoundError):
            message += f"; install {error.name}, or put it into the folder of this file"
        raise UsageError(message, where=line or where, kind=kind) from error


def pair_error(error: BaseException) -> UsageError:
    """The error for a torchvision that cannot be imported because it was built for another torch."""
    found = " and ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision"))
    return UsageError(
        f"{found} do not match ({' '.join(str(error).split())[:200]}): install both in one command from one index, "
        "for example pip install --upgrade torch torchvision",
        where="torchvision",
        kind="torch_torchvision_mismatch",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def _line(error: BaseException) -> str | None:
    """``file:line`` of the user's code that raised, otherwise of a library other than torch, otherwise ``None``."""
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        return f"{_short(error.filename)}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    frames = [f for f in frames if _OWN not in Path(f.filename).parents]
    theirs = [f for f in frames if not _is_library(Path(f.filename))]
    last = (theirs or [f for f in frames if is_model_code(f.filename)])[-1:]
    return f"{_short(last[0].filename)}:{last[0].lineno}" if last else None


def _is_library(path: Path) -> bool:
    return _STDLIB in path.parents or bool({"site-packages", "dist-packages"} & set(path.parts))


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


class _SourceLoader(SourceFileLoader):
    """Compiles a file each time, never reads a bytecode cache, and lets only admitted code run."""

    named = True

    def get_code(self, fullname: str) -> CodeType:
        content = Path(self.path).read_bytes()
        admit(content, Path(self.path), named=self.named)
        code: CodeType = self.source_to_code(content, self.path)
        return code


class _FolderFinder:
    """Finds modules in the folder of the user's code; every file there is admitted by its digest before it runs.

    It stays on ``sys.meta_path``, because a package may import its own parts later. New packages are found only while
    it is ``open``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.open, self.named = folder, False, False
        self._found: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if (path is None and not self.open) or (path is not None and top not in self._found):
            return None
        spec = PathFinder.find_spec(name, [str(self.folder)] if path is None else path)
        if spec is None:
            return None
        self._found.add(top)
        if not spec.has_location or spec.origin is None or not Path(spec.origin).is_relative_to(self.folder):
            return None  # a folder without code of its own, or a part of a package that lies elsewhere too
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _SourceLoader(name, spec.origin)
            spec.loader.named = self.named
        else:  # an extension module, or bytecode without its source
            admit(Path(spec.origin).read_bytes(), Path(spec.origin), named=self.named)
        return spec


_finders: dict[Path, _FolderFinder] = {}


@contextmanager
def importable(folder: Path, *, siblings: bool = False, named: bool = True) -> Iterator[None]:
    """Put ``folder`` first on ``sys.path`` for the block and restore the path after it.

    With ``siblings``, modules that an earlier such block could import only from its own folder are removed from
    ``sys.modules`` first. So ``import layers`` in one model file never gives the ``layers`` of another. ``named`` says
    whether the user names the code there; otherwise only known or trusted files of the folder are imported.
    """
    finder = _finders.setdefault(folder, _FolderFinder(folder))
    if finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)
    for name in list(sys.modules) if siblings else []:
        if name.partition(".")[0] in _siblings:
            del sys.modules[name]
    importlib.invalidate_caches()
    path, before, files = list(sys.path), set(sys.modules), len(_executed)
    sys.path.insert(0, str(folder))
    outer = finder.open, finder.named
    finder.open, finder.named = True, named
    try:
        yield
    finally:
        sys.path[:] = path
        # What the code imports later is named, or not, as it was itself.
        finder.open, finder.named = outer if outer[0] else (False, named)
        if siblings:
            new = {name for name in set(sys.modules) - before if "." not in name}
            _siblings.clear()
            _siblings.update(name for name in new if _only_in(folder, name, path))
            _imported.update(dict.fromkeys(_executed[files:], _files(set(sys.modules) - before)))
            del _executed[files:]


def _files(modules: Iterable[str]) -> tuple[Path, ...]:
    """The files of those modules that came from the folder of a user's file."""
    found = (getattr(sys.modules[name], "__file__", None) for name in modules if name.partition(".")[0] in _siblings)
    return tuple(sorted(Path(file).resolve() for file in found if file))


def code_files(path: Path) -> tuple[Path, ...]:
    """The file at ``path``, and all modules that it imported from its own folder when it was last run."""
    return path.resolve(), *_imported.get(path.resolve(), ())


def _only_in(folder: Path, name: str, path: list[str]) -> bool:
    """Whether the imported module ``name`` lies in ``folder`` and could not be found on ``path`` without it."""
    here = PathFinder.find_spec(name, [str(folder)])
    elsewhere = PathFinder.find_spec(name, path)
    return here is not None and (elsewhere is None or elsewhere.origin != here.origin)


def execute_file(path: Path, *, named: bool = True) -> ModuleType:
    """Run a file as a module with a private name, which stays in ``sys.modules`` for pickles and dataclasses.

    The file is compiled each time, never read from a bytecode cache. Its exceptions pass unchanged.

    Raises:
        UsageError: The user does not name the file, and it is neither known nor trusted.
    """
    name = f"_narfx_user_{next(_numbers)}_{path.stem}"
    loader = _SourceLoader(name, str(path))
    loader.named = named
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _running.append(name)
    _executed.append(path.resolve())
    try:
        exec(loader.get_code(name), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _running.pop()
    return module


def import_module(name: str, *, named: bool = True) -> ModuleType:
    """Import a module that the user (``named``) or a file names.

    Raises:
        UsageError: There is no such module, it cannot be imported, or no file may name it.
    """
    if not named:
        check_module(name)
    try:
        with user_code(f"cannot import {name}", where=name, kind="import_failed"):
            return importlib.import_module(name)
    except UsageError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{name}.".startswith(f"{missing.name}."):
            raise UsageError(
                f"there is no module {missing.name!r} in the working directory or the installed packages: check the "
                "name, or install it",
                where=name,
                kind="missing_module",
            ) from missing
        raise


def attribute(module: ModuleType, name: str, label: str) -> Any:
    """The value of a (dotted) name in a module; ``label`` names the module in messages.

    Raises:
        UsageError: The module has no such name; the message suggests similar ones.
    """
    try:
        return attrgetter(name)(module)
    except AttributeError:
        names = [key for key in vars(module) if not key.startswith("_")]
        close = close_names(name, names)
        hint = f": did you mean {' or '.join(close)}?" if close else f": it has {', '.join(names[:12]) or 'nothing'}"
        raise UsageError(f"{label} has no {name!r}{hint}", where=f"{label}:{name}", kind="missing_factory") from None


def close_names(name: str, names: Iterable[str]) -> list[str]:
    """At most three of ``names`` that are similar to ``name``."""
    return difflib.get_close_matches(name, list(names), n=3)


def call(factory: Callable[..., Any], arguments: Mapping[str, Any], label: str, *, locate: bool = True) -> Any:
    """Call ``factory``; ``label`` names it in messages.

    Raises:
        UsageError: It needs other arguments, or it raised.
    """
    missing = missing_arguments(factory, arguments)
    if missing:
        example = "&".join(f"{name}=..." for name in missing)
        raise UsageError(
            f"{label} needs {', '.join(missing)}: write {label}?{example}, or define defaults",
            where=label,
            kind="factory_arguments",
        )
    parameters = _parameters(factory)
    accepted = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [name for name in arguments if name not in accepted]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        close = close_names(unknown[0], accepted)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it takes {', '.join(accepted) or 'none'}"
        raise UsageError(f"{label} has no argument {unknown[0]!r}: {hint}", where=label, kind="model_arguments")
    with user_code(f"{label} could not be built", where=label, kind="factory_failed", locate=locate):
        return factory(**arguments)


def accepts(factory: Callable[..., Any], name: str) -> bool:
    """Whether ``factory`` has a parameter of this name."""
    return any(p.name == name and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in _parameters(factory))


def missing_arguments(factory: Callable[..., Any], given: Iterable[str]) -> list[str]:
    """The names of required arguments of ``factory`` that are not among those ``given``."""
    given = set(given)
    return [
        p.name
        for p in _parameters(factory)
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name not in given or p.kind is p.POSITIONAL_ONLY)
    ]


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # a C function may have no signature: the call itself checks the arguments
        return [inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)]
