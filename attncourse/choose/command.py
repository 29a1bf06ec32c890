"""`attncourse choose`: the designs for a job, ranked, from a shell."""

import argparse

from tabulate import tabulate

from attncourse._shared.units import format_bytes, format_seconds, parse_bytes
from attncourse._shared.validate import require
from attncourse.profile.device_facts import PRINTED
from attncourse.profile.limits import Limits
from attncourse.profile.record import read_record
from attncourse.profile.roofline import Roofline

from .job import ITEMSIZE, PHASES, Shape
from .rank import Choice, choose

EXAMPLE = """\
examples:
  python -m attncourse choose --length 4096
  python -m attncourse choose --length 131072 --locality 1024
  python -m attncourse choose --length 32768 --batch 16 --phase decoding --may-share 1 --memory 40GB --latency 0.02
  python -m attncourse choose --length 32768 --batch 16 --phase decoding --tensor-parallel 8 --why
  python -m attncourse choose --length 65536 --inexact --device A100 --why
  python -m attncourse choose --length 128 --source-length 512 --bandwidth 10GB/s --tflops 0.1 --dtype float32

KB is 1000 bytes, KiB 1024. Times are bounds: what has to be moved and computed, at the device's rates. A step's time is
the sum of two of them, that of attention and that of the others: projections and feed-forward.
"""


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """`attncourse choose`."""
    parser = commands.add_parser(
        "choose",
        description="Rank the designs of attention for a job by the least time of a step, and among those that are alike "
        "by what they give up. What a job excludes is listed below, with the rule that excludes it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--length", type=int, required=True, help="tokens of a sequence")
    parser.add_argument("--batch", type=int, default=1, help="sequences at once (default: 1)")
    parser.add_argument("--phase", choices=PHASES, default="training", help="(default: training)")
    parser.add_argument("--source-length", type=int, metavar="TOKENS", help="of another sequence that is read")
    parser.add_argument("--both-sides", action="store_true", help="a token may see what comes after it")
    parser.add_argument("--locality", type=int, metavar="TOKENS", help="what a token needs stands among so many")
    parser.add_argument("--inexact", action="store_true", help="leaving pairs or softmax out is allowed")
    parser.add_argument(
        "--may-share",
        type=int,
        metavar="HEADS",
        help="query heads that may share a key/value head (default: any number)",
    )
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="DEVICES",
        help="that share out one model's heads (default: 1)",
    )
    parser.add_argument(
        "--memory", help="on each device, for caches, or in training for what the backward pass needs: 40GB"
    )
    parser.add_argument("--latency", type=float, metavar="SECONDS", help="that a step may take")
    shape = Shape()
    parser.add_argument("--d-model", type=int, default=shape.d_model, help="(default: %(default)s)")
    parser.add_argument("--heads", type=int, default=shape.n_heads, help="(default: %(default)s)")
    parser.add_argument("--kv-heads", type=int, help="of grouped-query attention (default: a quarter of the heads)")
    parser.add_argument("--layers", type=int, default=shape.n_layers, help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=ITEMSIZE, default="bfloat16", help="(default: bfloat16)")
    parser.add_argument("--device", choices=PRINTED, help="a vendor's printed rates (default: H100)")
    parser.add_argument("--record", metavar="FILE.json", help="rates measured by attncourse profile --out")
    parser.add_argument("--bandwidth", help="a rate typed in, beside --tflops: 3.35TB/s")
    parser.add_argument("--tflops", type=float, help="a rate typed in, beside --bandwidth: 1e12 operations a second")
    parser.add_argument("--why", action="store_true", help="say for each design what its numbers mean")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Rank and print."""
    found = choose(
        length=args.length, batch=args.batch, phase=args.phase, source_length=args.source_length,
        causal=not args.both_sides, locality=args.locality, exact=not args.inexact, may_share=args.may_share,
        tensor_parallel=args.tensor_parallel, memory=parse_bytes(args.memory) if args.memory else None,
        latency=args.latency, dtype=args.dtype,
        shape=Shape(args.d_model, args.heads, args.layers, args.kv_heads), device=_device(args),
    )  # fmt: skip
    print(describe(found, why=args.why))
    return 0


def _device(args: argparse.Namespace) -> Roofline | Limits | str:
    typed = args.bandwidth is not None or args.tflops is not None
    require(
        (args.device is not None) + (args.record is not None) + typed <= 1,
        "say the device once: by --device, by --record, or by --bandwidth and --tflops",
    )
    if typed:
        require(args.bandwidth is not None and args.tflops is not None, "give --bandwidth and --tflops together")
        return Roofline(parse_bytes(args.bandwidth), 1e12 * args.tflops)
    return read_record(args.record).limits if args.record else args.device or "H100"


def describe(choices: list[Choice], *, why: bool = False) -> str:
    """Return the admitted designs as a table, their reasons if asked for, and the excluded ones with their rules."""
    admitted = [choice for choice in choices if choice.admitted]
    rows = [
        [
            rank, choice.design, format_seconds(choice.step_seconds), format_seconds(choice.attention_seconds),
            format_seconds(choice.others_seconds), choice.limit, format_bytes(choice.costs.held_bytes), f"{choice.costs.cache_bytes_per_token:,}", choice.gives_up,
        ]
        for rank, choice in enumerate(admitted, 1)
    ]  # fmt: skip
    headers = ["", "design", "step =", "attention +", "others", "limit", "keeps", "cache B a token", "gives up"]
    sides = ["right", "left", "right", "right", "right", "left", "right", "right", "left"]
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=sides) if rows else "nothing is admitted"
    reasons = [f"{choice.design}: {'; '.join(choice.reasons)}" for choice in admitted] if why else []
    excluded = [f"not {c.design}: {'; '.join(c.excluded_by)}" for c in choices if not c.admitted]
    return "\n\n".join(filter(None, [table, "\n".join(reasons), "\n".join(excluded)]))
