"""Published sizes of well-known models, each with the source of its numbers, under Hugging Face's names.

A config here holds what decides the cache and nothing else: a `config.json` taken whole gives the same cost. `confirmed`
says what the numbers were compared with, beside the source itself:

- "litgpt": the table of configurations in litgpt 0.5.13, https://github.com/Lightning-AI/litgpt;
- "transformers": the defaults of the configuration class in Hugging Face's transformers 5.24;
- "config.json": a stored copy of the file that the source names, one derived from it, or its sizes in public code;
- "paper": the paper's own table, as its text or others quote it.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PublicModel:
    """A public model has sizes that are published.

    Args:
        config: the published sizes, under Hugging Face's names.
        source: where they are published.
        confirmed: what they were compared with, as the module's docstring says.
        parameters: how many weights it has, as its authors say, in the digits that they print.
    """

    config: dict[str, Any]
    source: str
    confirmed: str
    parameters: float


def _hub(name: str) -> str:
    return f"https://huggingface.co/{name} config.json"


def _multi_head(layers: int, heads: int, hidden: int) -> dict:
    return {"model_type": "gpt2", "n_layer": layers, "n_head": heads, "n_embd": hidden}


def _grouped(layers: int, heads: int, kv_heads: int, hidden: int, **more) -> dict:
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    return {**sizes, "hidden_size": hidden, **more}


def _latent(layers: int, heads: int, hidden: int, *, rank: int = 512, nope: int = 128, rope: int = 64, v=128, **more):
    latent = {"kv_lora_rank": rank, "qk_nope_head_dim": nope, "qk_rope_head_dim": rope, "v_head_dim": v}
    return {**_grouped(layers, heads, heads, hidden), **latent, **more}


def _falcon(layers: int, heads: int, kv_heads: int, hidden: int, *, new: bool) -> dict:
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_kv_heads": kv_heads, "hidden_size": hidden}
    return {"model_type": "falcon", **sizes, "multi_query": True, "new_decoder_architecture": new}


MODELS = {
    "gpt2": PublicModel(_multi_head(12, 12, 768), _hub("openai-community/gpt2"), "transformers", 124e6),
    "gpt2-xl": PublicModel(_multi_head(48, 25, 1600), _hub("openai-community/gpt2-xl"), "config.json", 1.5e9),
    "gpt3-175b": PublicModel(
        _grouped(96, 96, 96, 12288, head_dim=128),
        "Brown et al. 2020, https://arxiv.org/abs/2005.14165, table 2.1", "paper", 175e9,
    ),
    "palm-540b": PublicModel(
        _grouped(118, 48, 1, 18432, head_dim=256),
        "Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, table 1 and section 2", "paper", 540e9,
    ),
    "falcon-7b": PublicModel(_falcon(32, 71, 71, 4544, new=False), _hub("tiiuae/falcon-7b"), "litgpt, transformers", 7e9),
    "falcon-40b": PublicModel(_falcon(60, 128, 8, 8192, new=True), _hub("tiiuae/falcon-40b"), "litgpt", 40e9),
    "llama-2-7b": PublicModel(_grouped(32, 32, 32, 4096), _hub("meta-llama/Llama-2-7b-hf"), "litgpt", 7e9),
    "llama-2-70b": PublicModel(_grouped(80, 64, 8, 8192), _hub("meta-llama/Llama-2-70b-hf"), "litgpt", 70e9),
    "llama-3.1-8b": PublicModel(_grouped(32, 32, 8, 4096), _hub("meta-llama/Llama-3.1-8B"), "litgpt", 8e9),
    "llama-3.1-70b": PublicModel(_grouped(80, 64, 8, 8192), _hub("meta-llama/Llama-3.1-70B"), "litgpt", 70e9),
    "llama-3.1-405b": PublicModel(_grouped(126, 128, 8, 16384), _hub("meta-llama/Llama-3.1-405B"), "litgpt", 405e9),
    "mistral-7b-v0.1": PublicModel(
        _grouped(32, 32, 8, 4096, sliding_window=4096), _hub("mistralai/Mistral-7B-v0.1"), "litgpt, transformers", 7e9
    ),
    "mixtral-8x7b": PublicModel(_grouped(32, 32, 8, 4096), _hub("mistralai/Mixtral-8x7B-v0.1"), "litgpt", 46.7e9),
    "qwen2.5-7b": PublicModel(_grouped(28, 28, 4, 3584), _hub("Qwen/Qwen2.5-7B"), "litgpt", 7.6e9),
    "qwen2.5-72b": PublicModel(_grouped(80, 64, 8, 8192), _hub("Qwen/Qwen2.5-72B"), "litgpt", 72.7e9),
    "qwen3-32b": PublicModel(_grouped(64, 64, 8, 5120, head_dim=128), _hub("Qwen/Qwen3-32B"), "litgpt", 32.8e9),
    "qwen3-235b-a22b": PublicModel(
        _grouped(94, 64, 4, 4096, head_dim=128), _hub("Qwen/Qwen3-235B-A22B"), "litgpt", 235e9
    ),
    "gemma-2-9b": PublicModel(
        _grouped(42, 16, 8, 3584, head_dim=256, sliding_window=4096, model_type="gemma2"),
        _hub("google/gemma-2-9b"), "litgpt", 9e9,
    ),
    "gemma-2-27b": PublicModel(
        _grouped(46, 32, 16, 4608, head_dim=128, sliding_window=4096, model_type="gemma2"),
        _hub("google/gemma-2-27b"), "litgpt", 27e9,
    ),
    "gemma-3-12b": PublicModel(
        _grouped(48, 16, 8, 3840, head_dim=256, sliding_window=1024, sliding_window_pattern=6),
        _hub("google/gemma-3-12b-it"), "litgpt", 12e9,
    ),
    "gemma-3-27b": PublicModel(
        _grouped(62, 32, 16, 5376, head_dim=128, sliding_window=1024, sliding_window_pattern=6),
        _hub("google/gemma-3-27b-it"), "litgpt", 27e9,
    ),
    "gpt-oss-20b": PublicModel(
        _grouped(24, 64, 8, 2880, head_dim=64, sliding_window=128, model_type="gpt_oss"),
        _hub("openai/gpt-oss-20b"), "config.json", 21e9,
    ),
    "gpt-oss-120b": PublicModel(
        _grouped(36, 64, 8, 2880, head_dim=64, sliding_window=128, model_type="gpt_oss"),
        _hub("openai/gpt-oss-120b"), "transformers", 117e9,
    ),
    "deepseek-67b": PublicModel(
        _grouped(95, 64, 8, 8192), _hub("deepseek-ai/deepseek-llm-67b-base"), "config.json", 67e9
    ),
    "deepseek-v2-lite": PublicModel(
        _latent(27, 16, 2048), _hub("deepseek-ai/DeepSeek-V2-Lite"), "config.json", 16e9
    ),
    "deepseek-v2": PublicModel(_latent(60, 128, 5120), _hub("deepseek-ai/DeepSeek-V2"), "config.json, paper", 236e9),
    "deepseek-v3": PublicModel(
        _latent(61, 128, 7168), _hub("deepseek-ai/DeepSeek-V3"), "config.json, transformers", 671e9
    ),
    "deepseek-v3.2": PublicModel(
        _latent(61, 128, 7168, index_n_heads=64, index_head_dim=128, index_topk=2048),
        _hub("deepseek-ai/DeepSeek-V3.2"), "transformers", 671e9,
    ),
    "kimi-k2": PublicModel(_latent(61, 64, 7168), _hub("moonshotai/Kimi-K2-Instruct"), "config.json", 1e12),
    "minicpm3-4b": PublicModel(
        _latent(62, 40, 2560, rank=256, nope=64, rope=32, v=64), _hub("openbmb/MiniCPM3-4B"), "transformers", 4e9
    ),
}  # fmt: skip
