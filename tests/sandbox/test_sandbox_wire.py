"""The value format by itself: whatever bytes arrive, plain values or a WireError come out."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from s0.sandbox import wire


def _random_value(rng: random.Random, depth: int = 0) -> Any:
    simple = [
        None,
        True,
        rng.randint(-9, 9),
        rng.randint(0, 2**80),
        rng.random(),
        "é\n",
        b"\xff",
        1j,
        range(rng.randint(0, 4)),
    ]
    if depth > 4 or rng.random() < 0.5:
        return rng.choice(simple)
    items = [_random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    kind = rng.choice([list, tuple, dict, "set"])
    if kind is dict:
        return {i: v for i, v in enumerate(items)}  # noqa: C416
    if kind == "set":
        return frozenset(v for v in items if type(v) is int)
    return kind(items)


def test_random_values_return_as_they_were() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        value = _random_value(rng)
        back = wire.unpack(wire.loads(wire.dumps(wire.pack(value))))
        assert back == value
        assert repr(back) == repr(value)


def test_random_bytes_never_raise_anything_but_wire_errors() -> None:
    rng = random.Random(1)
    alphabet = b'[]{}",:0123456789.eE-+tfnrbdsicgyo \\ulNaInfy\xff\x00'
    for _ in range(20000):
        payload = bytes(rng.choice(alphabet) for _ in range(rng.randint(0, 12)))
        try:
            wire.unpack(wire.loads(payload))
        except wire.WireError:
            continue


def test_mutated_frames_never_raise_anything_but_wire_errors() -> None:
    rng = random.Random(2)
    for _ in range(5000):
        frame = bytearray(wire.dumps(wire.pack([_random_value(rng), _random_value(rng)])))
        for _ in range(rng.randint(1, 3)):
            frame[rng.randrange(len(frame))] = rng.randrange(128)
        try:
            wire.unpack(wire.loads(bytes(frame)))
        except wire.WireError:
            continue


def test_opaque_equals_nothing() -> None:
    value = wire.unpack(wire.pack(object()))
    assert isinstance(value, wire.Opaque)
    assert value != value and not value == value  # noqa: PT018, SIM201
    assert value not in [1, wire.Opaque("x")]


@pytest.mark.parametrize("value", [0, 1.5, "x", [1], {"a": 1}])
def test_equality_overridden_in_a_subclass_is_not_trusted(value: Any) -> None:
    kind = type("Odd", (type(value),), {"__eq__": lambda self, other: True, "__hash__": lambda self: 0})
    assert isinstance(wire.unpack(wire.pack(kind(value))), wire.Opaque)


def test_frame_limits() -> None:
    reader, writer = os.pipe()
    wire.write_frame(writer, b"x" * 100)
    with pytest.raises(wire.WireError, match="exceeds"):
        wire.read_frame(reader, 99)
    os.close(writer)
    os.close(reader)


def test_truncated_frame_is_end_of_file() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\0\0\0\x09abc")
    os.close(writer)
    assert wire.read_frame(reader) is None
    os.close(reader)
