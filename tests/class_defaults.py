"""What transformers' configuration classes supply: `python tests/class_defaults.py` writes the package's table of it."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from attncourse.kv_cache.class_defaults import TABLE
from attncourse.kv_cache.fields import SIZES, STATE, UNDERSTOOD, is_layout

# Where an alias is another field that counts by itself, it is no other name of the usual one.
NO_ALIAS = {("glm4_moe_lite", "qk_rope_head_dim")}


def class_defaults(kinds: Iterable[str] = CONFIG_MAPPING) -> dict[str, dict[str, Any]]:
    """Return the table, from the classes that are installed: of causal language models, and of configs that hold one's.

    Args:
        kinds: where to look for configs that hold a text model's; importing all of them takes seconds.
    """
    texts = {kind: _text_class(CONFIG_MAPPING[kind]) for kind in {*kinds, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}}
    rows = {kind: {"text": text.model_type} for kind, text in texts.items() if text}
    for text in filter(None, texts.values()):
        rows.setdefault(text.model_type, {}).update(_row(text))
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if not texts[kind]:
            rows[kind] = _row(CONFIG_MAPPING[kind])
    return dict(sorted(rows.items()))


def _text_class(cls: type) -> type | None:
    """Return the class of the text model in a config of several: as it declares it, or as an empty one of it holds it."""
    inner = (cls.sub_configs or {}).get("text_config")
    if inner is AutoConfig:
        try:
            inner = type(cls().text_config)
        except (ValueError, TypeError, StrictDataclassError):
            return None  # it has no default
    return inner if inner is not None and getattr(inner, "model_type", "") else None


def _row(cls: type) -> dict[str, Any]:
    names = {}
    for usual, own in cls.attribute_map.items():
        if own in SIZES and usual not in SIZES:
            usual, own = own, usual
        if usual in SIZES and (cls.model_type, own) not in NO_ALIAS:
            names[own] = usual
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    kept = {names.get(name, name): value for name, value in fields.items() if _counts(names.get(name, name), value)}
    return {"names": names, "defaults": dict(sorted(kept.items()))}


def _counts(name: str, value: object) -> bool:
    """Return whether the package reads it, or must refuse it; sizes of states it only passes over."""
    if value is None or value is dataclasses.MISSING or (name == "is_encoder_decoder" and not value):
        return False
    return name in UNDERSTOOD or (bool(value) and is_layout(name) and not STATE.search(name))


def write() -> None:
    """Write one line per class."""
    rows = (f"{json.dumps(kind)}: {json.dumps(row, allow_nan=False)}" for kind, row in class_defaults().items())
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    write()
