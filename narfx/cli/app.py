"""The command line: each verb parses its options, calls one function of the package, and prints the result.

A verb is a module of this room. Standard output carries the result only: a table, or one JSON object with ``--json``.
Messages go to standard error.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer

from narfx._startup import INTERRUPTS
from narfx._version import __version__
from narfx.cli import analyze, bundles, compare, evaluate, front, ops, proxy, report, search, solve, trace, train
from narfx.cli.console import run_app
from narfx.errors import UsageError
from narfx.support.launched import is_ranked

__all__ = ["app", "main"]

_INTERRUPTED = (75, 130)  # exit codes of what was interrupted, with a checkpoint and without

app = typer.Typer(
    name="narfx",
    help="Replace operators of a working CNN by cheaper ones: trace it, search, and export a verified ONNX file.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# The order here is that of narfx --help.
app.command()(trace.trace)
app.command()(search.search)
app.command()(solve.solve)
app.command()(front.front)
app.command()(bundles.apply)
app.command()(bundles.check)
app.command()(train.train)
app.command()(compare.compare)
app.command()(report.report)
app.command()(evaluate.evaluate)
app.command()(proxy.proxy)
app.add_typer(ops.ops, name="ops")
app.add_typer(analyze.analyze, name="analyze")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        verbs = ", ".join(str(name) for name in typer.main.get_command(app).commands)  # type: ignore[attr-defined]
        raise UsageError(f"name a verb: {verbs} (narfx --help)", kind="usage")


def main() -> None:
    """The ``narfx`` command."""
    code = run_app(app)
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)  # the result is printed, and torch takes a while to exit
    if code in _INTERRUPTED or is_ranked():
        # A thread may still compute in native code, which crashes when its modules are taken down; and torch waits for
        # ranks that have ended.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    # CPython remembers a Ctrl-C that ended an exec() (fx runs its code with it), and would then exit by the signal
    # instead of the exit code. Another exec() makes it forget.
    exec("")
    raise SystemExit(code)
