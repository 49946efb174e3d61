"""Memory of freed tensors is kept for the next ones, unless the user set the allocator."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource
from narfx.support.freed_memory import keep_freed_memory
told = keep_freed_memory()
counts = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(48_000_000)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(told, sum(counts[1:]))
"""


def _run(**environment: str) -> tuple[bool, int]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, env=own | environment)
    assert done.returncode == 0, done.stderr
    told, faults = done.stdout.split()
    return told == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(
    "own",
    [{}, {"MALLOC_ARENA_TEST": "8"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_test=8"}],
    ids=["none", "env", "tunable"],
)
def test_pages_are_not_asked_for_again(own: dict[str, str]) -> None:
    told, faults = _run(**own)
    assert told == (not own)
    assert (faults < 1_000) == told  # by default the nine buffers take some 100,000
