"""What transformers' configuration classes supply: `python tests/class_defaults.py` writes the package's table of it."""

import dataclasses
import json
from typing import Any

import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from attncourse.kv_cache.class_defaults import TABLE
from attncourse.kv_cache.fields import SIZES, STATE, UNDERSTOOD, is_layout

# Where an alias is another field that counts by itself, it is no other name of the usual one.
NO_ALIAS = {("glm4_moe_lite", "qk_rope_head_dim")}


def class_defaults() -> dict[str, dict[str, Any]]:
    """The table, from the classes that are installed: of causal language models, and of configs that hold one's."""
    texts = {kind: _text_type(kind) for kind in CONFIG_MAPPING}
    kinds = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *filter(None, texts.values())} & set(CONFIG_MAPPING)
    rows = {kind: _row(kind) for kind in kinds}
    for kind, text in texts.items():
        if text in CONFIG_MAPPING:
            rows[kind] = rows.get(kind, {}) | {"text": text}
    return dict(sorted(rows.items()))


def _text_type(kind: str) -> str | None:
    """The model_type of the text model of a config of several, of the class that its class names."""
    inner = (CONFIG_MAPPING[kind].sub_configs or {}).get("text_config")
    return getattr(inner, "model_type", None) or None


def _row(kind: str) -> dict[str, Any]:
    cls = CONFIG_MAPPING[kind]
    names = {}
    for usual, own in cls.attribute_map.items():
        if own in SIZES and usual not in SIZES:
            usual, own = own, usual
        if usual in SIZES and (kind, own) not in NO_ALIAS:
            names[own] = usual
    fields = {field.name: field.default for field in dataclasses.fields(cls)}
    kept = {names.get(name, name): value for name, value in fields.items() if _counts(names.get(name, name), value)}
    return {"names": names, "defaults": dict(sorted(kept.items()))}


def _counts(name: str, value: object) -> bool:
    """Whether the package reads it, or must refuse it; sizes of states it only passes over."""
    if value is None or value is dataclasses.MISSING or name == "is_encoder_decoder" and not value:
        return False
    return name in UNDERSTOOD or (bool(value) and is_layout(name) and not STATE.search(name))


def write() -> None:
    """One line a class."""
    rows = (f"{json.dumps(kind)}: {json.dumps(row, allow_nan=False)}" for kind, row in class_defaults().items())
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    write()
