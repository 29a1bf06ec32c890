"""What decoding in the latent space promises: to read its cache about as fast as the machine reads, and never to expand it.

One new token at DeepSeek-V2's widths, latents of 512 and rotary keys of 64. A plain large read is the
fastest of a few over a tensor that no processor's cache holds (`limits.plain_reads`), measured in the same rounds, on as
many threads. All h heads share the latents, so each number
that is read takes part in 2 h multiply-adds, for scores and for the mixture: the more heads, the sooner a processor whose
memory outruns its matrix products falls behind its own reads. On a GPU the kernel is what is measured, on a processor
its kernel beside the blocked form.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from attncourse.latent import expand_latent, latent_attention_blocked
from attncourse.profile.limits import READ_BYTES, fastest_read
from attncourse.profile.timing import median_seconds

from .measured_row import Row

RANK, ROPE, NOPE, VALUE = 512, 64, 128, 128


@torch.no_grad()
def measure(*, device: str, progress: Callable[[str], None]) -> list[Row]:
    """Measure the share of a plain read's bandwidth by heads and length; absorbed decoding against expanding at 4096."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    large = torch.ones(READ_BYTES[device] // 4, device=device)
    _, read, _ = fastest_read(large, seconds=0.1)
    decoders = _decoders(device)
    rows = []
    for heads in (1, 2, 4, 16) if device == "cpu" else (16, 128):
        for s in (16_384, 65_536):
            case = f"{heads} heads, context {s}, {RANK} + {ROPE}"
            progress(case)
            inputs = _draw(heads, s, dtype, device)
            runs = {name: lambda decode=decode, inputs=inputs: decode(*inputs) for name, decode in decoders.items()}
            seconds = median_seconds(runs | {"read": read}, rounds=15)
            cache = sum(x.nbytes for x in inputs[2:4])
            for name in decoders:
                ours, theirs = cache / seconds[name], large.nbytes / seconds["read"]
                rows.append(Row(f"{name}, plain read, {case}", ours, theirs, 0.7, "bandwidth"))
    progress("absorbed and expanded")
    inputs = _draw(16, 4096, dtype, device)
    runs = {"absorbed": lambda: decoders["decode"](*inputs), "expanded": lambda: _expanded(*inputs)}
    torch.testing.assert_close(runs["absorbed"](), runs["expanded"](), rtol=2e-2, atol=2e-2)
    seconds = median_seconds(runs, rounds=5)
    what = "decode absorbed, expanding the cache, 16 heads, context 4096"
    return [*rows, Row(what, seconds["absorbed"], seconds["expanded"], 5.0, "speedup")]


def _draw(heads, s, dtype, device):
    rng = torch.Generator().manual_seed(0)
    shapes = (1, heads, 1, NOPE), (1, heads, 1, ROPE), (1, 1, s, RANK), (1, 1, s, ROPE)
    inputs = [torch.randn(shape, generator=rng) for shape in shapes]
    inputs += [torch.randn(heads, width, RANK, generator=rng) * RANK**-0.5 for width in (NOPE, VALUE)]
    return [x.to(device, dtype) for x in inputs]


def _decoders(device):
    if device == "cpu":
        from attncourse.latent.cpu_kernel import latent_attention_numba  # numba is an extra

        return {"decode": latent_attention_blocked, "decode, kernel": latent_attention_numba}
    from attncourse.latent.kernel import latent_attention_triton  # Triton is there on Linux alone

    return {"decode": latent_attention_triton}


def _expanded(q_nope, q_rope, latent, k_rope, w_uk, w_uv):
    """Form every head's keys and values, then call PyTorch's fused attention."""
    keys, values = expand_latent(latent, k_rope, w_uk, w_uv)
    return scaled_dot_product_attention(torch.cat([q_nope, q_rope], dim=-1), keys, values)
