"""A ``.bin`` is a pickle from anywhere: it is read, or refused in one sentence, and nothing in it ever runs."""

from __future__ import annotations

import os
import pickle
import resource
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narfx.data.bin_file import read_bin
from narfx.errors import UsageError

IMAGES = [bytes([255, index, 0, 10, 39]) for index in range(4)]
FLAGS = [True, False]


def counted(text: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(text)) + text


def python2(protocol: int) -> bytes:
    """What Python 2 writes for (list of str, list of bool)."""
    if protocol == 2:
        strings = b"".join(counted(image) for image in IMAGES)
        return b"\x80\x02](" + strings + b"e](\x88\x89e\x86."
    strings = b"".join(b"S" + repr(image)[1:].encode() + b"\np%d\na" % n for n, image in enumerate(IMAGES, 2))
    return b"((lp1\n" + strings + b"(lp9\nI01\naI00\natp10\n."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs.bin"


def refused(path: Path, content: bytes) -> UsageError:
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_bin(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("content", [python2(0), python2(2), *(pickle.dumps((IMAGES, FLAGS), p) for p in range(6))])
def test_every_protocol_and_python_2(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read_bin(path) == (IMAGES, FLAGS)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "flags", [[np.True_, np.False_], np.array(FLAGS), [np.int64(1), np.int64(0)], np.array([1, 0], dtype=np.uint8)]
)
def test_numpys_arrays_and_scalars(path: Path, protocol: int, flags: Any) -> None:
    arrays = [np.frombuffer(image, dtype=np.uint8) for image in IMAGES]
    path.write_bytes(pickle.dumps((arrays, flags), protocol))
    assert read_bin(path) == (IMAGES, FLAGS)


def test_one_image_in_many_pairs(path: Path) -> None:
    path.write_bytes(pickle.dumps(([bytearray(b"a")] * 4, FLAGS), 5))
    assert read_bin(path) == ([b"a"] * 4, FLAGS)


def test_the_real_file(data_folder: Path) -> None:
    images, flags = read_bin(data_folder / "lfw_small.bin")
    assert len(images) == 2400 and flags == ([True] * 60 + [False] * 60) * 10
    assert all(image.startswith(b"\xff\xd8") for image in images)


class Runs:
    """Runs a command when it is unpickled plainly."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_command_is_not_run(path: Path, protocol: int) -> None:
    ran = path.with_name("ran")
    payload = pickle.dumps((IMAGES, [Runs(f"touch {ran}"), True]), protocol)
    assert refused(path, payload).kind == "hostile_pickle" and not ran.exists()
    pickle.loads(payload)  # the payload is real
    assert ran.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"(S'touch {ran}'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch {ran}'\no.",  # OBJ
        b"\x80\x02cos\nsystem\nX\x0b\x00\x00\x00touch {ran}\x81.",  # NEWOBJ
        b'c__builtin__\neval\n(S\'open("{ran}", "w")\'\ntR.',
        b'cbuiltins\nexec\n(S\'open("{ran}", "w")\'\ntR.',
        b"\x80\x04\x8c\x08builtins\x8c\x04open\x93S'{ran}'\nS'w'\n\x86R.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nopen\nS'{ran}'\nS'w'\ntR.",
        b"cnumpy\nload\n(S'{ran}'\ntR.",
        b"cnumpy.core.multiarray\nscalar.__init__.__globals__\n.",
        b"\x80\x04\x8c\x15numpy.core.multiarray\x8c\x10scalar.__class__\x93.",
        b"c_codecs\ndecode\n(S'{ran}'\ntR.",
        b"cnumpy\nndarray\n(S'{ran}'\ntR.",
        b"cnumpy\nndarray\n(NNtb.",  # a state for a name
        b"c_codecs\nencode\n(NNtb.",
        b"P{ran}\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # the extension registry
        b"}.",  # dictionaries are of no use to a file of pairs
    ],
)
def test_payloads_by_hand(path: Path, payload: bytes) -> None:
    ran = path.with_name("ran")
    error = refused(path, payload.replace(b"{ran}", str(ran).encode()))
    assert error.kind in ("hostile_pickle", "bad_bin") and not ran.exists()


@pytest.mark.parametrize("kind", ["O", "f8", "U1", "M8[s]", [("a", "u1")]])
def test_arrays_of_other_things(path: Path, kind: Any) -> None:
    array = np.zeros(2, dtype=kind)
    for protocol in (2, 5):
        assert refused(path, pickle.dumps((IMAGES, array), protocol)).kind == "hostile_pickle"


@pytest.mark.parametrize(
    "bomb",
    [
        b"Nr\xff\xff\xff\x7f.",  # a memo of 2^31 entries
        b"Np4000000000\n.",
        b"\x8e" + struct.pack("<Q", 2**60) + b"x.",
        b"\x96" + struct.pack("<Q", 2**40) + b"x.",
        b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x.",
        b"(" * 200_000 + b"t" * 200_000 + b".",
        b"L" + b"9" * 100_000 + b"L\n.",
        # One text of a megabyte, encoded ten thousand times.
        b"c_codecs\nencode\nq\x00X\x00\x00\x10\x00"
        + b"a" * 2**20
        + b"q\x01U\x06latin1q\x02("
        + b"h\x00h\x01h\x02\x86R" * 10_000
        + b"l.",
    ],
    ids=["memo", "text memo", "bytes", "bytearray", "integer", "depth", "digits", "encode"],
)  # fmt: skip
def test_bombs_cost_nothing(path: Path, bomb: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, bomb)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 256 * 1024  # KiB


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (IMAGES, "is not a pair (images, flags)"),
        ((IMAGES, 3), "no lists"),
        ((IMAGES, [True]), "4 images and 1 flag:"),
        (([], []), "0 images and 0 flags"),
        ((IMAGES, [True, 2]), "neither true nor false"),
        ((IMAGES, [True, None]), "neither true nor false"),
        (([*IMAGES[:3], "text"], FLAGS), "image that is not a byte string"),
        (([*IMAGES[:3], np.zeros((2, 2), np.uint8)], FLAGS), "image that is not a byte string"),
    ],
)
def test_another_content(path: Path, value: Any, told: str) -> None:
    error = refused(path, pickle.dumps(value, 4))
    assert told in str(error) and error.kind == "bad_bin"


def test_missing_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file") as caught:
        read_bin(tmp_path / "gone.bin")
    assert caught.value.kind == "missing_data"
    with pytest.raises(UsageError, match="is a folder") as caught:
        read_bin(tmp_path)
    assert caught.value.kind == "unreadable_file"


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x02", b"PK\x03\x04"])
def test_no_pickle_at_all(path: Path, content: bytes) -> None:
    assert refused(path, content).kind in ("bad_bin", "hostile_pickle")


WHOLE = pickle.dumps(([np.frombuffer(image, np.uint8) for image in IMAGES], [np.True_, False]), 2)


@given(st.integers(0, len(WHOLE) - 1))
def test_cut_short_anywhere(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    assert refused(tmp_path_factory.getbasetemp() / "cut.bin", WHOLE[:length]).kind == "bad_bin"


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_anywhere(tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for position, value in damage:
        content[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(content)
    try:
        images, flags = read_bin(path)
    except UsageError as error:
        assert error.kind in ("bad_bin", "hostile_pickle")
    else:
        assert len(images) == 2 * len(flags) and all(isinstance(image, bytes) for image in images)
