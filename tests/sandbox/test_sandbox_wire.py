"""The value format by itself: whatever bytes arrive, known values or a WireError come out."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import fractions
import io
import os
import random
import re
import types
import uuid
import zoneinfo
from typing import Any

import pytest

from s0.sandbox import wire
from s0.sandbox.codec import Codec


def across(value: Any, there: Codec | None = None, here: Codec | None = None) -> Any:
    return (here or Codec()).unpack(wire.loads(wire.dumps((there or Codec()).pack(value))))


def _random_value(rng: random.Random, depth: int = 0) -> Any:
    simple = [
        None,
        True,
        rng.randint(-9, 9),
        rng.randint(0, 2**80),
        rng.random(),
        "é\n",
        "\ud83d\ude00",
        b"\xff",
        1j,
        range(rng.randint(0, 4)),
        decimal.Decimal("1.10"),
        fractions.Fraction(1, 3),
        datetime.date(2020, 2, 29),
    ]
    if depth > 4 or rng.random() < 0.5:
        return rng.choice(simple)
    items = [_random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    kind = rng.choice([list, tuple, dict, "set", collections.deque, collections.OrderedDict])
    if kind in (dict, collections.OrderedDict):
        return kind({i: v for i, v in enumerate(items)})  # noqa: C416
    if kind == "set":
        return frozenset(v for v in items if type(v) is int)
    return kind(items)


def test_random_values_return_as_they_were() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        value = _random_value(rng)
        back = across(value)
        assert back == value
        assert repr(back) == repr(value)


VALUES = [
    decimal.Decimal("NaN"),
    decimal.Decimal("-0.0"),
    datetime.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone(datetime.timedelta(hours=1), "X"), fold=1),
    datetime.datetime(2020, 1, 2, tzinfo=zoneinfo.ZoneInfo("UTC")),
    datetime.time(1, 2, 3),
    datetime.timedelta(-1, 5),
    collections.Counter("aab"),
    collections.defaultdict(list, {1: [2]}),
    collections.OrderedDict(b=1, a=2),
    collections.deque([1, 2], 3),
    {1: 2}.keys(),
    {1: 2}.values(),
    {1: 2}.items(),
    bytearray(b"x"),
    slice(1, None, 2),
    uuid.UUID(int=7),
    re.compile("a+", re.I),
    array.array("d", [1.5]),
    types.SimpleNamespace(a=[1]),
    types.MappingProxyType({1: 2}),
    int,
    ValueError,
    ...,
    NotImplemented,
    "\ud83d\ude00",
    ["\ud83d\ude00", "😀"],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_value_types_of_the_standard_library_cross_as_they_are(value: Any) -> None:
    back = across(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_streams_cross_with_their_position() -> None:
    stream = io.StringIO("abc")
    stream.read(1)
    assert across(stream).read() == "bc"


def test_shared_and_cyclic_containers_stay_shared_and_cyclic() -> None:
    row = [0]
    back = across([row, row, (row,)])
    assert back[0] is back[1] is back[2][0]
    cycle: list[Any] = []
    cycle.append({"self": cycle})
    back = across(cycle)
    assert back[0]["self"] is back
    independent = across([[0], [0]])
    assert independent[0] is not independent[1]


def test_changes_of_shared_objects_are_carried_over() -> None:
    there, here = Codec(), Codec()
    value: dict[str, Any] = {"list": [3, 1], "set": {1}, "deque": collections.deque([1])}
    back = across(value, there, here)
    inner = back["list"]
    value["list"].sort()
    value["set"].add(2)
    value["new"] = value["list"]
    value["deque"].append(9)
    here.apply(wire.loads(wire.dumps(there.changes())))
    assert back == value
    assert back["list"] is inner
    assert back["new"] is inner
    assert there.changes() == here.changes() == []


def test_random_bytes_never_raise_anything_but_wire_errors() -> None:
    rng = random.Random(1)
    alphabet = b'[]{}",:0123456789.eE-+tfnrbdsicgyoNOEP@ \\ulNaInfy\xff\x00'
    for _ in range(20000):
        payload = bytes(rng.choice(alphabet) for _ in range(rng.randint(0, 12)))
        try:
            Codec().unpack(wire.loads(payload))
        except wire.WireError:
            continue


def test_mutated_frames_never_raise_anything_but_wire_errors() -> None:
    rng = random.Random(2)
    for _ in range(5000):
        frame = bytearray(wire.dumps(Codec().pack([_random_value(rng), _random_value(rng), rng.choice(VALUES)])))
        for _ in range(rng.randint(1, 3)):
            frame[rng.randrange(len(frame))] = rng.randrange(128)
        try:
            Codec().unpack(wire.loads(bytes(frame)))
        except wire.WireError:
            continue


@pytest.mark.parametrize(
    "kind", ["class", "O", "E", "P", "N", "const", "@", "h", "x", "e", "X", "S", "pickle", "np", "nd"]
)
@pytest.mark.parametrize("content", ["os.system", 0, None, ["a", [1]], [["a"], 1, 2], {}, [1, 2, 3, 4]])
def test_nothing_is_built_by_a_name_the_sender_chose(kind: str, content: Any) -> None:
    with pytest.raises(wire.WireError):
        Codec().unpack({kind: content})


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
