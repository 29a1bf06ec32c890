"""`python -m attncourse cache`: what it prints is what the calculator says, and what it refuses it explains."""

import json

import pytest

from attncourse.__main__ import main
from attncourse._shared.units import format_bytes, parse_bytes
from attncourse.kv_cache import MODELS, cost, published_figures


def run(capsys, *arguments: str) -> str:
    assert main(["cache", *arguments]) == 0
    return capsys.readouterr().out


def refusal(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["cache", *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("80GB", 80e9), ("80 GB", 80e9), ("79.6GiB", 79.6 * 2**30), ("3.35TB/s", 3.35e12), ("1KiB", 1024), ("1kb", 1000),
        ("512", 512), ("7b", 7), ("2T", None), ("80XB", None), ("GB", None), ("-1GB", None), ("1e9", None), ("", None),
    ],
)  # fmt: skip
def test_sizes_are_read_in_powers_of_1000_and_of_1024(text, size):
    if size is not None:
        assert parse_bytes(text) == size
        return
    with pytest.raises(ValueError, match="must read like 80GB, 79.6GiB or 3.35TB/s"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.000 KB"),
        (70_272, "70.272 KB"),
        (4_718_592, "4.719 MB"),
        (2e15, "2,000.000 TB"),
    ],
)
def test_sizes_are_written_in_the_largest_unit_that_leaves_a_digit(size, text):
    assert format_bytes(size) == text


def test_a_model_of_the_table(capsys):
    out = run(capsys, "--model", "DeepSeek-V3", "--context", "32768", "--batch", "16")
    assert out.startswith(f"deepseek-v3: {MODELS['deepseek-v3'].source}\n")
    assert "61        MLA       512 + 64" in out and "1,152 B" in out
    assert "70.272 KB = 68.625 KiB" in out, "as Zhao et al. 2025 print it"
    total = cost("deepseek-v3", context=32768, batch=16).bytes_total
    assert f"{total / 1e9:.3f} GB = {total / 2**30:.3f} GiB" in out and "devices" not in out


def test_layers_of_two_kinds_stand_in_two_rows(capsys):
    out = run(capsys, "--model", "gemma-3-27b", "--context", "10000")
    rows = [line.split() for line in out.splitlines() if "GQA" in line]
    assert [(row[0], row[-1]) for row in rows] == [("52", "1,024"), ("10", "10,000")]


def test_devices_memory_and_bandwidth(capsys):
    options = ["--tensor-parallel", "8", "--memory", "141GB", "--weights", "671GB", "--bandwidth", "4.8TB/s"]
    out = run(capsys, "--model", "deepseek-v3", "--context", "32768", "--batch", "16", *options)
    found = cost("deepseek-v3", context=32768, batch=16, tensor_parallel=8)
    assert "on each of 8 devices (8 copies in all)" in out
    fit = found.sequences_that_fit(141e9, weights=671e9)
    assert f"{fit} sequences fit in 141.000 GB of memory a device, beside 83.875 GB of weights" in out
    seconds = found.seconds_per_step(4.8e12)
    assert f"{1e3 * seconds:.3f} ms a step: at most {16 / seconds:,.0f} tokens a second" in out


def test_weights_are_two_bytes_a_parameter_unless_told(capsys):
    out = run(capsys, "--model", "llama-3.1-70b", "--memory", "80GB", "--tensor-parallel", "4")
    assert "beside 35.000 GB of weights" in out


def test_a_config_of_ones_own(capsys, tmp_path):
    path = tmp_path / "config.json"
    config = {"num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 128}
    path.write_text(json.dumps(config), encoding="utf-8")
    out = run(capsys, "--config", str(path), "--dtype", "fp8", "--group", "8", "--memory", "1MB")
    assert out.startswith(f"{path}\n") and "2 x (16 + 16)" in out and "float8_e4m3fn" in out
    assert f"{3 * 2 * 2 * (16 + 2 * 4)} B" in out
    assert "beside 0 B of weights" in out


def test_the_list_has_a_row_a_model_with_its_source(capsys):
    lines = run(capsys, "--list").splitlines()[2:]
    assert [line.split()[0] for line in lines] == [*MODELS]
    for line, model in zip(lines, MODELS.values(), strict=True):
        assert model.source in line and model.confirmed in line
        assert float(line.split()[-1].replace(",", "")) == cost(model.config, context=1).bytes_per_token / 1000


def test_published_figures_say_which_of_them_disagrees(capsys):
    lines = run(capsys, "--published").splitlines()[2:]
    assert len(lines) == len(published_figures())
    (wrong,) = [line for line in lines if "DISAGREES" in line]
    assert "LLaMA-3.1 405B over DeepSeek-V3" in wrong and wrong.split()[-2:] == ["7.28", "7.34"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "lama-3.1-8b"], "no model is named 'lama-3.1-8b'; did you mean llama-3.1-8b"),
        (["--model", "xyzzy"], "no model is named 'xyzzy'; there are gpt2, "),
        (["--model", "gpt2", "--dtype", "int7"], "dtype must be one of float32"),
        (["--model", "gpt2", "--context", "0"], "context must be an integer of at least 1, got 0"),
        (["--model", "gpt2", "--memory", "80XB"], "a size must read like 80GB"),
        (["--model", "gpt2", "--bandwidth", "0GB/s"], "bandwidth must be positive"),
        (["--model", "gpt2", "--tensor-parallel", "5"], "the 5 devices must share out the 12 query heads evenly"),
        (["--model", "llama-3.1-70b", "--memory", "80GB"], "its share of the weights, 140 GB, in 80 GB"),
        (["--config", "nowhere.json"], "nowhere.json"),
        ([], "one of the arguments --model --config --list --published is required"),
        (["--model", "gpt2", "--list"], "not allowed with argument"),
    ],
)
def test_what_cannot_be_asked_is_explained(capsys, arguments, message):
    error = refusal(capsys, *arguments)
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize(("text", "message"), [("{", "must hold JSON"), ("[]", "must hold a JSON object, got a list")])
def test_a_file_that_is_no_config(capsys, tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    assert message in refusal(capsys, "--config", str(path))


def test_help_shows_examples_that_run(capsys):
    with pytest.raises(SystemExit):
        main(["cache", "--help"])
    out = capsys.readouterr().out
    examples = [line.split()[3:] for line in out.splitlines() if line.startswith("  python -m attncourse cache")]
    assert len(examples) >= 4
    for example in examples:
        if "--config" not in example:
            assert main(example) == 0


def test_a_published_file_is_read_with_the_defaults_of_its_class(capsys, tmp_path):
    """Gemma 3's leaves out head_dim, 256 in its class, and which layers slide."""
    published = {
        "model_type": "gemma3_text", "hidden_size": 3840, "num_attention_heads": 16, "num_hidden_layers": 48,
        "num_key_value_heads": 8, "sliding_window": 1024, "architectures": ["Gemma3ForCausalLM"], "torch_dtype": "bfloat16",
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(published), encoding="utf-8")
    out = run(capsys, "--config", str(path), "--context", "32768")
    rows = [line.split() for line in out.splitlines() if "GQA" in line]
    assert [(row[0], row[1], row[-1]) for row in rows] == [("40", "GQA,", "1,024"), ("8", "GQA", "32,768")]
    assert out.count("8 x (256 + 256)") == 2 and "not counted" not in out


def test_layers_that_keep_no_keys_are_shown(capsys, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3_next"}), encoding="utf-8")
    out = run(capsys, "--config", str(path))
    rows = [line.split() for line in out.splitlines() if "B  " in line]
    assert ["36", "state", "0", "0", "B", "0"] in rows
    assert "not counted: the states of fixed size that 36 layers keep" in out


def test_a_field_that_is_not_understood_is_refused_by_name(capsys, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "kv_sharing_map": {"7": 3}}), encoding="utf-8")
    assert "must be understood; not so kv_sharing_map: {'7': 3}" in refusal(capsys, "--config", str(path))
