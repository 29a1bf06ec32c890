"""What crosses the sandbox's wall: a JSON tree and safetensors bytes, of bounded size; nothing that can execute.

A frame is two little-endian 32-bit lengths, the JSON, the safetensors bytes (none where there is no tensor). Scalars
stand in the JSON as they are; a container is an object with one key, its kind; a tensor is its number in the bytes.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

import safetensors
import safetensors.torch
import torch

LENGTHS = struct.Struct("<II")
MAX_JSON = 1 << 20
MAX_TENSORS = 32 << 20
MAX_DEPTH = 16


class Malformed(Exception):
    """The bytes are no frame."""


def pack(value: Any) -> bytes:
    """The frame of one plain value.

    Raises:
        ValueError: the value is larger or nested deeper than a frame may be, or of a kind that a frame cannot hold.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encode(value, tensors, 0), separators=(",", ":")).encode()
    blob = safetensors.torch.save(tensors) if tensors else b""
    if len(tree) > MAX_JSON or len(blob) > MAX_TENSORS:
        raise ValueError(f"the value takes {len(tree) + len(blob)} bytes, more than {MAX_JSON} + {MAX_TENSORS}")
    return LENGTHS.pack(len(tree), len(blob)) + tree + blob


def receive(read: Callable[[int], bytes]) -> Any:
    """The value of the next frame; `read(n)` returns exactly n bytes.

    Raises:
        Malformed: the bytes are no frame, or a larger one than is allowed.
    """
    tree_bytes, blob_bytes = LENGTHS.unpack(read(LENGTHS.size))
    if tree_bytes > MAX_JSON or blob_bytes > MAX_TENSORS:
        raise Malformed(f"a frame of {tree_bytes} + {blob_bytes} bytes")
    tree, blob = read(tree_bytes), read(blob_bytes)
    try:
        tensors = safetensors.torch.load(blob) if blob else {}
        value = _decode(json.loads(tree.decode()), tensors, 0)
    except (ValueError, RecursionError, safetensors.SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise Malformed(f"{type(error).__name__}: {str(error)[:200]}") from error
    if tensors:
        raise Malformed(f"{len(tensors)} tensors that nothing refers to")
    return value


def _encode(value: Any, tensors: dict[str, torch.Tensor], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"the value is nested deeper than {MAX_DEPTH}")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        number = str(len(tensors))
        # clones, since safetensors refuses tensors that share memory
        tensors[number] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": number}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, tensors, depth + 1) for item in value]}
    if isinstance(value, dict):
        return {"dict": {str(key): _encode(item, tensors, depth + 1) for key, item in value.items()}}
    raise ValueError(f"a {type(value).__name__} cannot be sent")


def _decode(node: Any, tensors: dict[str, torch.Tensor], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if not isinstance(node, dict | list):
        return node
    if isinstance(node, list) or len(node) != 1:
        raise ValueError("a container that does not say its kind")
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors.pop(content)
    if kind == "dict" and isinstance(content, dict):
        return {key: _decode(item, tensors, depth + 1) for key, item in content.items()}
    if kind in ("list", "tuple") and isinstance(content, list):
        items = [_decode(item, tensors, depth + 1) for item in content]
        return items if kind == "list" else tuple(items)
    raise ValueError(f"no container is a {kind!r}")
