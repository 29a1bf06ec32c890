"""`attncourse cache`: what a model's key-value cache costs, as a table of bytes."""

import argparse
import json
from collections import Counter
from pathlib import Path

from tabulate import tabulate

from attncourse._shared.cache import CacheShape
from attncourse._shared.spelling import proposal
from attncourse._shared.units import UNITS, format_bytes, parse_bytes
from attncourse._shared.validate import require

from .configs import MODELS
from .cost import STORED, CacheCost, LayerCost, cost
from .published import published_figures

EXAMPLE = """\
examples:
  python -m attncourse cache --list
  python -m attncourse cache --model deepseek-v3 --context 32768 --batch 16
  python -m attncourse cache --model llama-3.1-70b --context 8192 --tensor-parallel 4 --memory 80GB --bandwidth 3.35TB/s
  python -m attncourse cache --config config.json --context 8192 --dtype int4 --group 32

KB is 1000 bytes, KiB 1024. A dtype with scales counts them; "fp8" is float8_e4m3fn.
"""

WEIGHT_BYTES = 2  # of bfloat16, where --weights does not say


def add_parsers(commands) -> None:
    """Add the shell's `cache` to the commands."""
    parser = commands.add_parser(
        "cache",
        description="Bytes of the key-value cache a token, a sequence and a batch, from a well-known model's published "
        "sizes or from any config.json in Hugging Face's names; on each device under tensor parallelism; how many "
        "sequences fit beside the weights, and how fast reading the cache lets a batch decode.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", metavar="NAME", help="a model of the table")
    which.add_argument(
        "--config",
        metavar="FILE.json",
        type=Path,
        help="a config.json as it was published: what it leaves out is what its model_type's class supplies",
    )
    which.add_argument(
        "--list", action="store_true", help="print the table: every model, with the source of its numbers"
    )
    which.add_argument("--published", action="store_true", help="print published figures beside what the table gives")
    parser.add_argument("--context", type=int, default=4096, help="tokens of each sequence (default: 4096)")
    parser.add_argument("--batch", type=int, default=1, help="sequences at once (default: 1)")
    parser.add_argument("--dtype", default="bfloat16", help=f"{', '.join(STORED)} (default: bfloat16)")
    parser.add_argument("--group", type=int, help="numbers that share a scale (default: a whole vector)")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="T", help="devices that share out the heads")
    parser.add_argument("--page-size", type=int, help="tokens of a page, where the cache is paged")
    parser.add_argument("--memory", help="of each device: 80GB, 79.6GiB")
    parser.add_argument(
        "--weights", help="bytes of all weights (default: 2 a parameter of a model of the table, none of a config)"
    )
    parser.add_argument("--bandwidth", help="of each device: 3.35TB/s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what args ask for: the table of models, the published figures, or one model's cost."""
    if args.list or args.published:
        print(list_models() if args.list else list_published())
        return 0
    config, weights, heading = _read(args)
    found = cost(
        config,
        context=args.context,
        batch=args.batch,
        dtype="float8_e4m3fn" if args.dtype == "fp8" else args.dtype,
        group=args.group,
        tensor_parallel=args.tensor_parallel,
        page_size=args.page_size,
    )
    parts = [heading, stored_table(found), sizes_table(found), *states(found)]
    if args.memory:
        memory = parse_bytes(args.memory)
        fit = found.sequences_that_fit(memory, weights=weights)
        parts.append(
            f"{fit:,} sequences fit in {format_bytes(memory)} of memory a device, "
            f"beside {format_bytes(weights / found.tensor_parallel)} of weights"
        )
    if args.bandwidth:
        bandwidth = parse_bytes(args.bandwidth)
        seconds = found.seconds_per_step(bandwidth)
        parts.append(
            f"reading the cache at {format_bytes(bandwidth)}/s takes {1e3 * seconds:.3f} ms a step: "
            f"at most {found.batch / seconds:,.0f} tokens a second for the whole batch"
        )
    print("\n\n".join(parts))
    return 0


def _read(args: argparse.Namespace) -> tuple[dict, float, str]:
    """Return the config that is meant, the bytes of the model's weights, and where the config is from."""
    weights = parse_bytes(args.weights) if args.weights else None
    if args.config:
        try:
            config = json.loads(args.config.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{args.config} must hold JSON: {error}") from error
        require(isinstance(config, dict), f"{args.config} must hold a JSON object, got a {type(config).__name__}")
        return config, weights or 0.0, str(args.config)
    name = args.model.lower()
    require(name in MODELS, f"no model is named {args.model!r}; {proposal(name, [*MODELS])}")
    model = MODELS[name]
    return model.config, WEIGHT_BYTES * model.parameters if weights is None else weights, f"{name}: {model.source}"


def stored_table(found: CacheCost) -> str:
    """Return the table of what was found, a row per kind of layer:
    how many there are, what they store of a token, and of how many tokens.
    """
    kinds = Counter((_design(layer), layer.shape, layer.bytes_per_token, layer.tokens) for layer in found.layers)
    rows = [
        [count, design, _numbers(shape), f"{size:,} B", f"{tokens:,}"]
        for (design, shape, size, tokens), count in kinds.items()
    ]
    return _table(rows, ["layers", "design", "numbers a token", "a token", "tokens held"], texts=3)


def states(found: CacheCost) -> list[str]:
    """Return a sentence on what is not counted in what was found, where layers keep a state of fixed size."""
    count = sum(layer.has_state for layer in found.layers)
    return [f"not counted: the states of fixed size that {count} layers keep"] if count else []


def _design(layer: LayerCost) -> str:
    return f"{layer.design}, {layer.kind}" if layer.kind in ("window", "chunk", "shared") else layer.design


def sizes_table(found: CacheCost) -> str:
    """Return the table of the found cache's bytes, stored once and on each device."""
    on_device = sum(layer.on_device(layer.bytes_per_token, found.tensor_parallel) for layer in found.layers)
    rows = {
        "a token": (found.bytes_per_token, on_device),
        f"a sequence of {found.context:,}": (found.bytes_per_sequence, found.bytes_per_sequence_on_device),
        f"a batch of {found.batch:,}": (found.bytes_total, found.bytes_on_device),
    }
    headers = [
        found.dtype,
        "stored once",
        f"on each of {found.tensor_parallel} devices ({found.copies:g} copies in all)",
    ]
    columns = 2 if found.tensor_parallel == 1 else 3
    return _table(
        [[name, *map(_both_units, sizes[: columns - 1])] for name, sizes in rows.items()], headers[:columns], texts=1
    )


def _table(rows: list[list], headers: list[str], *, texts: int) -> str:
    """Return a table whose first `texts` columns are words, the others numbers."""
    sides = ["left"] * texts + ["right"] * (len(headers) - texts)
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=sides)


def _numbers(shape: CacheShape) -> str:
    widths = " + ".join(str(width) for width in shape.widths if width) or "0"
    return f"{shape.n_kv_heads} x ({widths})" if shape.n_kv_heads > 1 else widths


def _both_units(size: int) -> str:
    """Return a size as published figures say it, in powers of 1000, and as memory is sold, in powers of 1024."""
    decimal = format_bytes(size)
    letter = decimal.split()[1][0]
    return decimal if letter == "B" else f"{decimal} = {size / UNITS[f'{letter}IB']:,.3f} {letter}iB"


def list_models() -> str:
    """Return a row per model: its design, where its sizes are published and how they were confirmed,
    what a token takes in bfloat16.
    """
    rows = []
    for name, model in MODELS.items():
        found = cost(model.config, context=1)
        design = found.layers[0].design + (" + window" if any(layer.window for layer in found.layers) else "")
        size = f"{found.bytes_per_token / 1000:,.3f}"
        rows.append([name, design, model.source, model.confirmed, len(found.layers), size])
    return _table(rows, ["model", "design", "source", "confirmed by", "layers", "KB a token"], texts=4)


def list_published() -> str:
    """Return a row per published figure: as it is printed, as it is computed, and whether the two agree."""
    rows = [
        [figure.what, figure.source, "agrees" if figure.agrees else "DISAGREES", figure.printed, figure.rounded]
        for figure in published_figures()
    ]
    return _table(rows, ["figure", "source", "", "printed", "computed"], texts=3)
