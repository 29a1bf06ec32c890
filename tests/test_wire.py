"""What crosses the sandbox's wall comes out as it went in, and nothing else gets through."""

import contextlib
import io
import json
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attncourse.grade.wall.transport import printable, well_formed
from attncourse.grade.wall.wire import MAX_DEPTH, MAX_JSON, MAX_TENSORS, Malformed, pack, receive


def reader(data: bytes):
    stream = io.BytesIO(data)

    def read(size: int) -> bytes:
        got = stream.read(size)
        if len(got) < size:
            raise EOFError
        return got

    return read


def frame(tree, blob: bytes = b"") -> bytes:
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return struct.pack("<II", len(text), len(blob)) + text + blob


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and (a == b or (a != a and b != b))


KEYS = st.text(max_size=5) | st.integers() | st.none() | st.tuples(st.integers(), st.text(max_size=2))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(PLAIN)
def test_plain_values_come_out_as_they_went_in(value):
    assert same(receive(reader(pack(value))), value)


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5, 7), (2, 3, 1)])
def test_tensors_come_out_as_they_went_in(dtype, shape):
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    value = {"same memory": [x, x], "a transposed view": x.T if x.ndim == 2 else x, "grad": (x,)}
    assert same(receive(reader(pack(value))), value)


def test_frames_follow_one_another():
    read = reader(pack({"a": torch.ones(2)}) + pack([1]) + pack(None))
    assert receive(read)["a"].tolist() == [1, 1]
    assert receive(read) == [1] and receive(read) is None


BLOB = safetensors.torch.save({"0": torch.ones(2)})


@pytest.mark.parametrize(
    "data",
    [
        frame(b"\xff\xfe"),
        frame(b"{'a': 1}"),
        frame(b""),
        frame([1]),
        frame({"list": [1], "tuple": [2]}),
        frame({"list": {"a": 1}}),
        frame({"dict": [1]}),
        frame({"dict": {"a": 1}}),
        frame({"dict": [{"tuple": [{"list": []}, 1]}]}),
        frame({"dict": [{"tuple": [1, 2, 3]}]}),
        frame({"named": ["A", ["x"], []]}),
        frame({"named": ["import os", ["x"], [1]]}),
        frame({"named": ["A", ["__class__"], [1]]}),
        frame({"object": [1, ["x"], [1]]}),
        frame({"object": ["A", ["x", "y"], [1]]}),
        frame({"eval": "1 + 1"}),
        frame({"tensor": "0"}),
        frame({"tensor": ["0"]}, BLOB),
        frame({"tensor": "1"}, BLOB),
        frame({"list": [{"tensor": "0"}, {"tensor": "0"}]}, BLOB),
        frame(None, BLOB),
        frame({"tensor": "0"}, BLOB[:-1]),
        frame({"tensor": "0"}, b"\xff" * 16),
        frame({"tensor": "0"}, b"\x80\x04\x95" + b"pickle" * 4),
        frame(b'{"list":[' * 1000 + b"1" + b"]}" * 1000),
        frame(b"[" * 500_000),
        frame(b"9" * 10_000),
        struct.pack("<II", MAX_JSON + 1, 0),
        struct.pack("<II", 2, MAX_TENSORS + 1) + b"{}",
    ],
)
def test_what_is_no_frame_is_malformed(data):
    with pytest.raises(Malformed):
        receive(reader(data))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_malformed(data):
    with contextlib.suppress(Malformed):
        receive(reader(frame(data[:100], data[100:])))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "value", [{1, 2}, object(), "x" * (MAX_JSON + 1), torch.zeros(MAX_TENSORS // 8 + 1, dtype=torch.float64)]
)
def test_what_no_frame_can_hold_is_refused(value):
    with pytest.raises(ValueError):
        pack(value)


@pytest.mark.bad_input
def test_deep_nesting_is_refused_on_both_sides():
    value = 1
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(ValueError, match="nested deeper"):
        pack(value)
    assert receive(reader(pack(value[0]))) == value[0]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"outcome": "passed"},
        {"outcome": "passed", "message": "", "points": 3},
        {"outcome": ["value"], "value": 1},
        {"outcome": "value"},
        {"outcome": "done", "value": 1},
        {"outcome": "wrong", "message": 3},
        {"outcome": "wrong", "message": "m", "points": 3},
    ],
)
def test_only_a_worker_s_answers_are_well_formed(answer):
    with pytest.raises(Malformed):
        well_formed(answer)


def test_messages_cannot_steer_a_terminal_or_fill_a_disk():
    answer = well_formed({"outcome": "crashed", "message": "\x1b[2J\x07 boom\nline\ud800" + "x" * 10**6})
    assert answer["message"].startswith(" [2J  boom\nline") and len(answer["message"]) == 3000
    answer["message"].encode()
    assert printable("größer ≤ 1") == "größer ≤ 1"
