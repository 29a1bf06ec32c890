"""What global and local attention promises: twice as fast as Hugging Face's Longformer layer, and linear growth."""

from collections.abc import Callable

import torch

from attncourse.global_local import GlobalLocalAttention, global_local_attention_blocked, state_dict_from_longformer
from attncourse.profile import median_seconds, peak_memory

from .measured_row import Row

LENGTH, WINDOW, HEADS, WIDTH = 4096, 512, 8, 64
HUBS = (0, 1)


def measure(*, device: str, progress: Callable[[str], None]) -> list[Row]:
    """Return rows for a layer of 8 heads of width 64, float32, window 512, two global tokens."""
    progress(f"a layer of length {LENGTH} against Hugging Face's")
    rows = _against_longformer(device)
    progress("growth from length 4096 to 8192")
    return [*rows, *_growth(device)]


def _timed(calls, rounds):
    """Return the seconds of the forward pass alone, and with the backward pass."""
    with torch.no_grad():
        forward = median_seconds(calls, rounds=rounds)
    return forward, median_seconds({n: lambda f=f: f().sum().backward() for n, f in calls.items()}, rounds=rounds)


def _against_longformer(device):
    what = f"layer, length {LENGTH}, window {WINDOW}, {HEADS} heads"
    try:
        theirs = _longformer(device)
    except ImportError:
        return [
            Row(f"{what}, {way}", float("nan"), float("nan"), 2.0, "speedup")
            for way in ("forward", "forward and backward")
        ]
    ours = GlobalLocalAttention(HEADS * WIDTH, HEADS, radius=WINDOW // 2).to(device)
    # Theirs has no output projection of its own: both get the same one.
    ours.load_state_dict(state_dict_from_longformer(theirs.state_dict()))
    x = torch.randn(1, LENGTH, HEADS * WIDTH, device=device, requires_grad=True)
    hubs = torch.tensor(HUBS, device=device)
    state = torch.zeros(1, LENGTH, device=device)
    state[:, hubs] = 10_000.0
    flags = dict(is_index_masked=state < 0, is_index_global_attn=state > 0, is_global_attn=True)
    calls = {
        "ours": lambda: ours(x, global_indices=hubs),
        "theirs": lambda: ours.w_o(theirs(x, attention_mask=state, **flags)[0]),
    }
    forward, both = _timed(calls, rounds=5)
    return [
        Row(f"{what}, forward", forward["ours"], forward["theirs"], 2.0, "speedup"),
        Row(f"{what}, forward and backward", both["ours"], both["theirs"], 2.0, "speedup"),
    ]


def _longformer(device):
    """Return Hugging Face's layer with random weights."""
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    config = LongformerConfig(
        hidden_size=HEADS * WIDTH, num_attention_heads=HEADS, num_hidden_layers=1, attention_window=[WINDOW],
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return LongformerSelfAttention(config, 0).to(device)


def _growth(device):
    def call(length):
        shape = (1, HEADS, length, WIDTH)
        q, k, v = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))
        hubs = torch.tensor(HUBS, device=device)
        return lambda: global_local_attention_blocked(q, k, v, radius=WINDOW // 2, global_indices=hubs)

    calls = {"theirs": call(LENGTH), "ours": call(2 * LENGTH)}
    _, both = _timed(calls, rounds=3)
    held = {name: peak_memory(lambda f=f: f().sum().backward()) for name, f in calls.items()}
    what = f"attention, length {2 * LENGTH} over {LENGTH}, forward and backward"
    # Twice the length is twice the work; the margin is for what a busy machine adds to a time.
    return [
        Row(f"{what}, seconds", both["ours"], both["theirs"], 2.6, "growth"),
        Row(f"{what}, bytes", held["ours"], held["theirs"], 2.1, "growth"),
    ]
