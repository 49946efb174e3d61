"""Standard output, standard error and exit codes of a command.

With ``--json`` standard output holds exactly one JSON object, whatever a library prints: while a command runs, the
file descriptor 1 points at standard error.
"""

from __future__ import annotations

import ast
import io
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from _thread import interrupt_main
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import typer
from rich.console import Console

from narfx._startup import INTERRUPTS
from narfx.cli.streams import ReaderGoneError, plain_streams, write_result
from narfx.cli.system_errors import exhausted, of_system
from narfx.errors import InterruptedRunError, LostRankError, NarfxError, RunError, UsageError
from narfx.runs.progress import ConsoleProgress, Reporter, Silent
from narfx.support.joining import ranks_of_environment
from narfx.support.launched import is_silent
from narfx.support.seals import EditedFileWarning
from narfx.support.text import escaped, first_line, one_line, printable

__all__ = ["Output", "abandon", "failure_of", "output_of", "parse_input", "parse_pairs", "run_app"]

Renderer = Callable[[dict[str, Any], Console], None]

_results: list[tuple[dict[str, Any], Renderer, bool]] = []
_interrupts: list[int] = []
_json_output: list[TextIO] = []
_RANKED = ("search", "train", "compare")
_last_arrivals: dict[int, float] = {}
_TWICE_SECONDS = 0.5


class Output:
    """Where a command writes its messages and its one result."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.reporter: Reporter = Silent() if quiet else ConsoleProgress()

    def result(self, value: dict[str, Any], render: Renderer) -> None:
        """Keep the result until the command has ended; then it is printed as JSON or as a table."""
        _results.append((value, render, self.as_json))


def output_of(options: Mapping[str, Any]) -> Output:
    """The output of a verb, by its ``--json`` and ``--quiet``."""
    return Output(options["json"], options["quiet"])


def run_app(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code. No error of a user ends in a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    verbose = "-v" in arguments or "--verbose" in arguments
    _results.clear()
    with (
        _silence(not verbose),
        plain_streams(),
        _interruptible(),
        _edits_said(),
        _standard_output_free(as_json) as stdout,
    ):
        try:
            _check_verb(arguments)
            code = typer.main.get_command(app).main(args=arguments, prog_name="narfx", standalone_mode=False)
            # typer turns an interrupt into an exit code without a message, and a library may have swallowed it.
            if _interrupts:
                raise KeyboardInterrupt
            _ignore_interrupts()  # the result is ready, and is written completely
            for value, render, wants_json in [] if is_silent() else _results:
                write_result(stdout, _as_text(value, None if wants_json else render, stdout))
            write_result(stdout, "")
            return code if isinstance(code, int) else 0
        except ReaderGoneError:
            return 0
        except BaseException as error:
            _ignore_interrupts()
            failure = failure_of(error)
            if failure is None:
                raise
            if verbose and failure.exit_code == 1:
                sys.stderr.write(escaped(traceback.format_exc()))
            _tell(failure, stdout if as_json else None)
            return failure.exit_code


def _tell(failure: NarfxError, stdout: TextIO | None) -> None:
    """Write an error to standard error, and as JSON to a standard output that wants it."""
    sys.stderr.write(f"narfx: {one_line(str(failure))}\n")
    if stdout is not None:
        with suppress(ReaderGoneError, RunError):
            write_result(stdout, json.dumps({"error": _described(failure)}, indent=2) + "\n")


def abandon(error: LostRankError) -> None:
    """End this process from another thread, when another rank has ended and this one computes on."""
    _tell(error, _json_output[0] if _json_output else None)
    sys.stderr.flush()
    os._exit(error.exit_code)


def _check_verb(arguments: list[str]) -> None:
    """Refuse a verb that several ranks would each do anew."""
    if ranks_of_environment().alone or {"--help", "--version"} & {*arguments}:
        return
    verb = next((text for text in arguments if not text.startswith("-")), None)
    if verb is not None and verb not in _RANKED:
        raise UsageError(
            f"narfx {verb} runs in one process, and torchrun has started {os.environ['WORLD_SIZE']}: call it without "
            f"torchrun; several ranks share {', '.join(_RANKED)}",
            where=verb,
            kind="ranks",
        )


@contextmanager
def _silence(wanted: bool) -> Iterator[None]:
    """While the block runs, a rank above 0 writes nothing to the standard streams, whichever library would."""
    if not wanted or not is_silent():
        yield
        return
    kept, nowhere = [os.dup(number) for number in (1, 2)], os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        os.close(nowhere)


@contextmanager
def _edits_said() -> Iterator[None]:
    """While the block runs, an :class:`EditedFileWarning` is one line on standard error, like any other message."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, EditedFileWarning):
                sys.stderr.write(f"narfx: warning: {one_line(str(message))}\n")
            else:
                show(message, category, *rest, **more)

        warnings.simplefilter("always", EditedFileWarning)
        warnings.showwarning = say
        yield


def _as_text(value: dict[str, Any], render: Renderer | None, stdout: TextIO) -> str:
    """A result as JSON, or as the table that ``render`` prints, with colours only on a terminal."""
    if render is None:
        return json.dumps(value, indent=2, allow_nan=False) + "\n"
    terminal, page = stdout.isatty(), io.StringIO()
    width = None if terminal else 160
    render(printable(value), Console(file=page, highlight=False, markup=False, width=width, force_terminal=terminal))
    return page.getvalue()


@contextmanager
def _interruptible() -> Iterator[None]:
    """While the block runs, the signals ``INTERRUPTS`` interrupt it and are recorded.

    Where Ctrl-C or the end of the terminal is ignored, as in a job started in the background or by nohup, it stays so.
    """
    _interrupts.clear()
    _last_arrivals.clear()
    previous = {number: signal.getsignal(number) for number in INTERRUPTS}
    for number, handler in previous.items():
        if number in (signal.SIGTERM, signal.SIGUSR1) or handler is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, _interrupt_later
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt_later(lost: Any) -> None:
    """Interrupt again if the first KeyboardInterrupt was raised in a finaliser, which swallows exceptions."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    again = threading.Timer(0.05, interrupt_main)
    again.daemon = True
    again.start()


def _ignore_interrupts() -> None:
    for number in set(INTERRUPTS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)


def failure_of(error: BaseException) -> NarfxError | None:
    """The error that is reported for an exception; ``None`` if it is no error (an exit)."""
    if not isinstance(error, (InterruptedRunError, LostRankError)) and (spent := exhausted(error)) is not None:
        return spent
    if isinstance(error, NarfxError) and (not _interrupts or isinstance(error, (InterruptedRunError, LostRankError))):
        return error
    if callable(told := getattr(error, "format_message", None)):  # an error of typer's argument parser
        return UsageError(f"{told()} (narfx --help shows the usage)", kind="usage")
    if isinstance(error, (typer.Abort, KeyboardInterrupt)) or (_interrupts and isinstance(error, Exception)):
        failure = NarfxError("interrupted", kind="interrupted")
        failure.exit_code = 130
        return failure
    if not isinstance(error, Exception):
        return None
    if (known := of_system(error)) is not None:
        return known
    return NarfxError(
        f"internal error, {type(error).__name__}: {first_line(error)}; please report it, with the output of -v"
    )


def _described(failure: NarfxError) -> dict[str, Any]:
    where = None if failure.where is None else one_line(failure.where)
    own = {"code": failure.exit_code, "kind": failure.kind, "message": one_line(str(failure)), "where": where}
    return {**failure.details, **own}


def _interrupt(number: int, _: Any) -> None:
    now, last = time.monotonic(), _last_arrivals.get(number, -math.inf)
    _last_arrivals[number] = now
    if now - last < _TWICE_SECONDS:  # sent to the whole group, and passed on by the parent process as well
        return
    _interrupts.append(number)
    raise KeyboardInterrupt


@contextmanager
def _standard_output_free(wanted: bool) -> Iterator[Any]:
    """While the block runs, standard output is redirected to standard error; yields the real standard output."""
    if not wanted:
        yield sys.stdout
        return
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stream:
            _json_output.append(stream)
            yield stream
    finally:
        _json_output.clear()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def parse_input(text: str | None) -> tuple[int, int, int] | None:
    """``3,224,224``, or ``3x224x224`` as tables have it, as a tuple; ``UsageError`` for another form."""
    if text is None:
        return None
    try:
        shape = [int(part) for part in text.lower().replace("x", ",").split(",")]
    except ValueError:
        shape = []
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(
            f"--input takes channels,height,width, as in 3,224,224, not {text!r}", where="--input", kind="input_shape"
        )
    return shape[0], shape[1], shape[2]


def parse_pairs(texts: list[str] | None, option: str) -> dict[str, Any]:
    """``KEY=VALUE`` texts as a mapping; a value is a Python literal where it is one, else text."""
    pairs: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{option} takes KEY=VALUE, not {text!r}", where=option, kind="option_syntax")
        try:
            pairs[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pairs[key] = value
    return pairs
