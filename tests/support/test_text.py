"""Small parts of messages."""

from __future__ import annotations

import pytest

from narfx.support.text import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  \n one \ntwo"), "one "),
        (ValueError(), "ValueError"),
        (RuntimeError("  \n"), "RuntimeError"),
        (ValueError("x" * 300), "x" * 300),
        (ValueError("x" * 1000), f"{'x' * 300} ..."),
        (ValueError("words, " * 100), f"{'words, ' * 41}words ..."),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    """It is one line, never empty, and never longer than a message can hold."""
    assert first_line(error) == line
