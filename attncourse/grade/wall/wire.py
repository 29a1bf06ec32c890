"""What crosses the sandbox's wall: a JSON tree and safetensors bytes, of bounded size; nothing that can execute.

A frame is two little-endian 32-bit lengths, the JSON, the safetensors bytes (none where there is no tensor). Scalars
stand in the JSON as they are; a container is an object with one key, its kind; a tensor is its number in the bytes.
"""

import json
import struct
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import safetensors
import safetensors.torch
import torch

from attncourse.check.core import Broken, plain_key
from attncourse.check.watch import is_record

LENGTHS = struct.Struct("<II")
MAX_JSON = 1 << 20
MAX_TENSORS = 32 << 20
MAX_DEPTH = 16


class Malformed(Exception):
    """The bytes are no frame."""


def pack(value: Any, kinds: dict[str, type] | None = None) -> bytes:
    """Return the frame of one plain value.

    Args:
        kinds: where given, the classes of NamedTuples and objects are noted in it by name, for `receive`.

    Raises:
        ValueError: the value is larger or nested deeper than a frame may be, or of a kind that a frame cannot hold.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encode(value, tensors, {} if kinds is None else kinds, 0), separators=(",", ":")).encode()
    blob = safetensors.torch.save(tensors) if tensors else b""
    if len(tree) > MAX_JSON or len(blob) > MAX_TENSORS:
        raise ValueError(f"the value takes {len(tree) + len(blob)} bytes, more than {MAX_JSON} + {MAX_TENSORS}")
    return LENGTHS.pack(len(tree), len(blob)) + tree + blob


def receive(read: Callable[[int], bytes], kinds: dict[str, type] | None = None) -> Any:
    """Return the value of the next frame; `read(n)` returns exactly n bytes.

    Args:
        kinds: classes by name that NamedTuples and objects become again; others become ones that hold the same parts.

    Raises:
        Malformed: the bytes are no frame, or a larger one than is allowed.
    """
    tree_bytes, blob_bytes = LENGTHS.unpack(read(LENGTHS.size))
    if tree_bytes > MAX_JSON or blob_bytes > MAX_TENSORS:
        raise Malformed(f"a frame of {tree_bytes} + {blob_bytes} bytes")
    tree, blob = read(tree_bytes), read(blob_bytes)
    try:
        tensors = safetensors.torch.load(blob) if blob else {}
        value = _decode(json.loads(tree.decode()), tensors, kinds or {}, 0)
    except (
        ValueError,
        RecursionError,
        safetensors.SafetensorError,
        KeyError,
        TypeError,
        RuntimeError,
        Broken,
    ) as error:
        raise Malformed(f"{type(error).__name__}: {str(error)[:200]}") from error
    if tensors:
        raise Malformed(f"{len(tensors)} tensors that nothing refers to")
    return value


def _encode(value: Any, tensors: dict[str, torch.Tensor], kinds: dict[str, type], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"the value is nested deeper than {MAX_DEPTH}")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        number = str(len(tensors))
        # clones, since safetensors refuses tensors that share memory
        tensors[number] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": number}

    def encoded(items):
        return [_encode(item, tensors, kinds, depth + 1) for item in items]

    name = type(value).__name__
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        kinds[name] = type(value)
        return {"named": [name, list(value._fields), encoded(value)]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": encoded(value)}
    if isinstance(value, dict):
        return {"dict": [encoded(pair) for pair in value.items()]}
    if is_record(value):
        kinds[name] = type(value)
        return {"object": [name, list(vars(value)), encoded(vars(value).values())]}
    raise ValueError(f"a {name} cannot be sent")


def _decode(node: Any, tensors: dict[str, torch.Tensor], kinds: dict[str, type], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if not isinstance(node, dict | list):
        return node
    if isinstance(node, list) or len(node) != 1:
        raise ValueError("a container that does not say its kind")
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors.pop(content)
    if not isinstance(content, list):
        raise ValueError(f"no container is a {kind!r} of a {type(content).__name__}")

    def decoded(items):
        return [_decode(item, tensors, kinds, depth + 1) for item in items]

    if kind in ("list", "tuple"):
        return decoded(content) if kind == "list" else tuple(decoded(content))
    if kind == "dict":
        return {plain_key(key): item for key, item in map(decoded, content)}
    if kind in ("named", "object"):
        name, fields, items = content
        return _rebuilt(kind, name, fields, decoded(items), kinds)
    raise ValueError(f"no container is a {kind!r}")


def _rebuilt(kind: str, name: str, fields: list[str], items: list[Any], kinds: dict[str, type]) -> Any:
    """Return a learner's NamedTuple or object: of its own class where that is known, else of one with the same parts."""
    if len(fields) != len(items) or not all(isinstance(field, str) for field in [name, *fields]):
        raise ValueError(f"a {kind} of {len(fields)} names and {len(items)} parts")
    if kind == "named":
        known = kinds.get(name)
        if known is None or list(getattr(known, "_fields", ())) != fields:
            known = namedtuple(name, fields)
        return known(*items)
    # is_record takes classes of the learner's notebook, which is the module __main__
    value = object.__new__(kinds.get(name) or type(name, (), {"__module__": "__main__"}))
    vars(value).update(zip(fields, items, strict=True))
    return value
