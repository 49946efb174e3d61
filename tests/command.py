"""The ``narfx`` command, run in the process of the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from narfx.cli.app import app
from narfx.cli.console import run_app

Run = Callable[..., tuple[int, str, str]]
"""Called with arguments: the exit code, standard output, standard error."""
RunJson = Callable[..., tuple[int, Any, str]]
"""The same with ``--json``: the exit code, the object on standard output, standard error."""


def in_process(capfd: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process and the working folder."""

    def narfx(*arguments: str) -> tuple[int, str, str]:
        code = run_app(app, list(arguments))
        out, err = capfd.readouterr()
        return code, out, err

    return narfx


def in_process_json(capfd: pytest.CaptureFixture[str]) -> RunJson:
    """The command with ``--json``, in this process and the working folder."""
    run = in_process(capfd)

    def narfx(*arguments: str) -> tuple[int, Any, str]:
        code, out, err = run(*arguments, "--json")
        return code, json.loads(out), err

    return narfx
