"""The recorded measurement of FlexAttention, which takes a compiler: `python -m attncourse.lessons.block_sparse.forms`."""

import argparse
import os
import time
import warnings

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

from attncourse.block_sparse import block_sparse_attention_blocked, strided
from attncourse.models.study import write_study
from attncourse.models.training import one_thread
from attncourse.profile import median_seconds, peak_memory

NAME = "block_sparse_forms"
COMMAND = "python -m attncourse.lessons.block_sparse.forms"
HEADS, WIDTH, BLOCK, FLEX_BLOCK = 2, 32, 32, 128
FORMS = ("FlexAttention, compiled", "blocks", "fused, causal")


def stride_of(n: int, *, block: int = BLOCK) -> int:
    """Return 4 sqrt(n), rounded to the block: the stride of everything that the chapter times."""
    return max(round(4 * n**0.5 / block), 1) * block


def measure(lengths: list[int]) -> dict:
    """Return, per length, milliseconds and megabytes of each form, and the seconds of compiling and of the block mask."""
    found = {"lengths": lengths, "ms": {form: [] for form in FORMS}, "MB": {form: [] for form in FORMS}}
    found |= {"processor seconds to compile": [], "seconds for the block mask": []}
    compiled = torch.compile(flex_attention)
    for n in tqdm(lengths, desc="lengths"):
        stride = stride_of(n, block=FLEX_BLOCK)
        q, k, v = (torch.randn(1, HEADS, n, WIDTH) for _ in range(3))

        def rule(b, h, i, j, stride=stride):
            return (j <= i) & ((i - j <= stride) | ((i - j) % stride == 0))

        pattern = strided(n, stride=stride, block=BLOCK)
        began = time.process_time()
        mask = create_block_mask(rule, None, None, n, n, device="cpu", BLOCK_SIZE=FLEX_BLOCK)
        found["seconds for the block mask"].append(round(time.process_time() - began, 2))
        calls = {
            "FlexAttention, compiled": lambda q=q, k=k, v=v, mask=mask: compiled(q, k, v, block_mask=mask),
            "blocks": lambda q=q, k=k, v=v, pattern=pattern: block_sparse_attention_blocked(q, k, v, pattern=pattern),
            "fused, causal": lambda q=q, k=k, v=v: scaled_dot_product_attention(q, k, v, is_causal=True),
        }
        began = sum(os.times()[:4])  # with the compilers that it starts
        out = calls["FlexAttention, compiled"]()  # compiles
        found["processor seconds to compile"].append(round(sum(os.times()[:4]) - began, 1))
        torch.testing.assert_close(out, calls["blocks"](), atol=1e-5, rtol=1e-5)
        for form, seconds in median_seconds(calls, rounds=3, clock=time.thread_time).items():
            found["ms"][form].append(round(1e3 * seconds, 1))
            found["MB"][form].append(round(peak_memory(calls[form]) / 1e6, 1))
    return found


def main() -> None:
    """Measure and write the study."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Time FlexAttention, compiled, beside the other forms.")
    parser.add_argument("--longest", type=int, default=8192, help="the longest sequence (default: 8192)")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    start = time.perf_counter()
    lengths = [n for n in (1024, 2048, 4096, 8192, 16384) if n <= asked.longest]
    with one_thread():
        results = measure(lengths)
    print(write_study(NAME, results, seconds=time.perf_counter() - start, command=COMMAND))


if __name__ == "__main__":
    main()
