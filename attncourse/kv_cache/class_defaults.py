"""What a model's configuration class supplies where its `config.json` leaves a field out, by `model_type`.

The table was read from Hugging Face's transformers, whose configuration classes hold these numbers and nothing else does;
`python tests/class_defaults.py` writes it again, and a test compares it with the version that is installed.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from attncourse._shared.validate import require

TABLE = Path(__file__).with_suffix(".json")

# Configs of several models: where the one that writes text stands.
TEXT = ("text_config", "llm_config", "language_config")

# Names of GPT-2's and Falcon's time, for configs whose class is not known.
OLDER_NAMES = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "n_embed": "hidden_size",
    "attention_head_dim": "head_dim",
    "num_kv_heads": "num_key_value_heads",
}

# What classes take from the file without declaring it.
UNDECLARED = {
    "gemma4_text": {"global_head_dim": 512},
    "gemma4_unified_text": {"global_head_dim": 512},
    "dots3_note_text": {
        "sliding_window": 512, "swa_num_attention_heads": 64, "swa_num_key_value_heads": 64, "swa_kv_lora_rank": 1024,
        "swa_qk_rope_head_dim": 64, "use_dsa": True,
    },
    "mllama_text_model": {"cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38]},
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}},
}  # fmt: skip

# Models that read the cache of the one they draft for, and keep none.
ASSISTANTS = ("gemma4_assistant", "gemma4_unified_assistant")

# Classes of models' own code that transformers lacks, and that default as Llama's does.
LIKE_LLAMA = ("hunyuan", "minimax_text_01", "nemotron-nas", "kimi_k2")


@cache
def table() -> dict[str, dict[str, Any]]:
    """Return by model_type: "names" (other names of a field, and the usual one),
    "defaults", "text" (its text's model_type).
    """
    return json.loads(TABLE.read_text(encoding="utf-8"))


def is_known(model_type: str | None) -> bool:
    """Return whether what the class of this model_type supplies is known; a config without one stands for itself."""
    return model_type is None or model_type in table() or model_type in LIKE_LLAMA


def with_class_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the text model, under the usual names, with what its class supplies,
    and without what is null.

    A null overrides a default, as it does in the class.
    """
    config = _text(config)
    known = table().get(config.get("model_type", ""), {})
    names = OLDER_NAMES | known.get("names", {})
    supplied = known.get("defaults", {}) | UNDECLARED.get(config.get("model_type", ""), {})
    # Where a file holds both names, the class's own one counts, which is the one that it was written by.
    renamed = {names[name]: value for name, value in config.items() if name in names}
    kept = {name: value for name, value in config.items() if name not in names}
    return {name: value for name, value in (supplied | kept | renamed).items() if value is not None}


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    model_type = config.get("model_type")
    require(model_type is None or isinstance(model_type, str), f"model_type must be a string, got {model_type!r}")
    require(model_type not in ASSISTANTS, f"the model must keep a cache of its own, and {model_type} reads another's")
    inner = next((config[name] for name in TEXT if config.get(name)), None)
    text = table().get(model_type or "", {}).get("text")
    require(inner is None or isinstance(inner, Mapping), f"the config of the text model must be a dict, got {inner!r}")
    if inner is None:
        return {**config, "model_type": text} if text else dict(config)
    return _text({"model_type": text, **inner})
