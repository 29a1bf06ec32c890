"""What kernels share: the launch's arithmetic against counting by hand, the pieces on the device against float64."""

import heapq
import math

import pytest
import torch

from attncourse._shared.launch import choose_splits, interpreting, padded, positive, tile_config
from attncourse.testing import relative_error
from tests.compile_gate import SHARED_LIMIT, compile_all

kernel = pytest.importorskip("attncourse._shared.kernel", reason="Triton is on Linux alone")
from attncourse._shared.language import interpreter, tl, triton  # noqa: E402  (which is there, then)


@triton.jit
def _softmax_kernel(
    scores_ptr, v_ptr, out_ptr, lse_ptr, scores_strides, v_strides, out_strides, n, factor,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """One program: 16 rows of scores (16, n), in tiles of 16."""
    rows = tl.arange(0, 16)
    acc, total = tl.zeros((16, BLOCK), tl.float32), tl.zeros((16,), tl.float32)
    top = tl.full((16,), float("-inf"), tl.float32)
    for start in range(0, n, 16):
        cols = start + tl.arange(0, 16)
        at = scores_ptr + rows[:, None] * scores_strides[2] + cols[None, :] * scores_strides[3]
        scores = tl.load(at, mask=(cols < n)[None, :], other=float("-inf"))
        v = kernel.load_rows(v_ptr, v_strides, cols, cols < n, WIDTH, BLOCK)
        acc, top, total = kernel.online_softmax(acc, top, total, scores, v, factor, FAR)
    out, lse = kernel.finish_softmax(acc, top, total, factor)
    tl.store(lse_ptr + rows, lse)
    kernel.store_rows(out_ptr, out_strides, out, rows, rows < 16, WIDTH, BLOCK)


def online(scores, v, *, factor, far=False):
    out, lse = scores.new_full((1, 1, 16, v.shape[-1]), torch.nan), scores.new_full((16,), torch.nan)
    scores, v = scores[None, None], v[None, None]
    _softmax_kernel[(1,)](
        scores, v, out, lse, scores.stride(), v.stride(), out.stride(), scores.shape[-1], factor,
        WIDTH=v.shape[-1], BLOCK=padded(v.shape[-1]), FAR=far,
    )  # fmt: skip
    return out[0, 0], lse


@pytest.mark.skipif(not interpreting(), reason="of the interpreter")
def test_a_launch_looks_through_the_language_once_a_module_and_leaves_it_as_it_was(monkeypatch):
    """Two launches that call device functions 4 and 400 times; in between the language is Triton's own again."""
    looked = []
    look = interpreter._patch_builtin
    monkeypatch.setattr(interpreter, "_patch_builtin", lambda *told: (looked.append(told[0]), look(*told))[1])
    times = []
    for n in (16, 1600):
        looked.clear()
        online(torch.randn(16, n), torch.randn(n, 24), factor=1.0)
        times.append(len(looked))
        assert tl.core.is_builtin(tl.load)
    assert times[0] == times[1] > 0


@pytest.mark.parametrize("n", [0, 1, 16, 33, 70])
@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
def test_the_online_softmax_is_the_softmax_of_scaled_scores(n, scale, device):
    draw = torch.Generator().manual_seed(n)
    scores, v = torch.randn(16, n, generator=draw), torch.randn(n, 24, generator=draw)
    scores[3] = -torch.inf  # sees nothing
    scores[4, : n // 2] = -torch.inf
    out, lse = online(scores.to(device), v.to(device), factor=scale * math.log2(math.e))
    exact = scale * scores.double()
    wanted = torch.softmax(exact, dim=-1).nan_to_num(0.0) @ v.double()
    assert relative_error(out, wanted.to(device)) < 1e-5 or n == 0
    assert out[3].eq(0).all() and lse[3] == -torch.inf
    torch.testing.assert_close(lse.cpu(), torch.logsumexp(exact, dim=-1).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.dry
def test_scores_far_from_zero_are_subtracted_before_they_are_multiplied(device):
    """Next to a mask of -1e9 the scores differ by 64, the distance of float32's numbers there, or not at all."""
    lowest = torch.finfo(torch.float32).min
    far = torch.tensor([0.0, 64.0, 0.0, 128.0])
    v = torch.eye(4, 16)
    for mask, weights in ((-1e9, torch.softmax(far.double(), 0)), (lowest, torch.full((4,), 0.25).double())):
        scores = (far + mask).expand(16, 4).contiguous()
        out, lse = online(scores.to(device), v.to(device), factor=math.log2(math.e), far=True)
        torch.testing.assert_close(lse, torch.logsumexp(scores.double(), -1).float().to(device))
        torch.testing.assert_close(out[0, :4].cpu().double(), weights, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("splits", [2, 3, 64, 65, 200])
@pytest.mark.parametrize("width", [1, 24, 64, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_merged_splits_are_attention_to_all_keys(splits, width, dtype, device):
    draw = torch.Generator().manual_seed(splits * width)
    scores, v = 4 * torch.randn(5, splits, 3, generator=draw), torch.randn(splits, 3, width, generator=draw)
    scores[:, splits // 2] = -torch.inf  # a split without keys
    scores[4] = -torch.inf  # a row without any
    parts = torch.einsum("rns,nsw->rnw", torch.softmax(scores, dim=-1).nan_to_num(0.0), v)
    parts = parts.contiguous().to(device)
    out = torch.full((5, width), torch.nan, dtype=dtype, device=device)
    lse = torch.full((5,), torch.nan, device=device)
    kernel.merge_splits(parts, torch.logsumexp(scores, dim=-1).to(device), out, lse)
    exact = scores.double().flatten(1)
    wanted = torch.softmax(exact, dim=-1).nan_to_num(0.0) @ v.double().flatten(0, 1)
    assert relative_error(out[:4], wanted[:4].to(device)) < (1e-5 if dtype == torch.float32 else 1e-3)
    assert out[4].eq(0).all() and lse[4] == -torch.inf
    torch.testing.assert_close(lse[:4].cpu().double(), torch.logsumexp(exact, dim=-1)[:4], rtol=1e-5, atol=1e-5)


@pytest.mark.dry
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_delta_is_what_a_rows_gradients_are_lowered_by(dtype, device):
    draw = torch.Generator().manual_seed(0)
    out, dout = torch.randn(2, 2, 3, 19, 24, generator=draw).to(device, dtype)
    dout, dlse = dout.transpose(1, 2).contiguous().transpose(1, 2), torch.randn(2, 3, 19, generator=draw).to(device)
    wanted = (out.double() * dout.double()).sum(dim=-1) - dlse
    torch.testing.assert_close(kernel.row_delta(out, dout, dlse).double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kernel.row_delta(out, dout).double(), wanted + dlse, rtol=1e-4, atol=1e-4)


def test_a_scale_below_zero_gives_its_sign_to_the_queries():
    q = torch.tensor([[1.0, -2.0]])
    for scale in (0.5, -0.5):
        mine, factor = positive(q, scale)
        assert factor == 0.5 and mine.equal(q * scale / 0.5)
    mine, factor = positive(q, 0.0)
    assert factor == 1.0 and not mine.any()


def busy(programs, splits, *, tiles, slots):
    """The share of the slots' time with work, counted: each split goes to the slot that is free first."""
    each, free = -(-tiles // splits), [0] * slots
    for _ in range(programs * splits):
        heapq.heapreplace(free, free[0] + each)
    return programs * tiles / (slots * max(free))


@pytest.mark.parametrize("programs", [1, 8, 16, 32, 60, 90, 131, 140, 264, 300])
@pytest.mark.parametrize("tiles", [1, 7, 64, 200])
def test_the_splits_keep_the_chip_busy_in_whole_waves(programs, tiles):
    slots = 264
    chosen = choose_splits(programs, tiles, slots=slots)
    shares = {n: busy(programs, n, tiles=tiles, slots=slots) for n in range(1, max(1, tiles // 4) + 1)}
    enough = 0.95 * max(shares.values())
    assert chosen == next(n for n, share in shares.items() if share >= enough)


def test_splits_by_hand():
    assert choose_splits(1, 1, slots=264) == 1  # a tile is not cut
    assert choose_splits(1, 16, slots=264) == 4  # of four tiles at least
    assert choose_splits(264, 1024, slots=264) == 1  # the chip is full
    assert choose_splits(64, 1563, slots=264) == 4  # 256 of 264 slots; 5 splits would be 320 programs, two waves
    assert choose_splits(1, 1024, slots=264) == 256  # of four tiles each, in one wave
    assert choose_splits(0, 64, slots=1) == 1  # an empty batch


TABLE = {
    "fma": {64: (1, 2, 4, 1), 256: (3, 4, 8, 1)},
    80: {128: (5, 6, 4, 2), 256: (7, 8, 4, 2)},
    90: {256: (9, 10, 4, 3)},
}


@pytest.mark.parametrize(
    ("width", "bits", "capability", "block_t"),
    [
        (16, 32, 90, 1), (128, 32, 90, 3), (64, 16, 75, 1), (64, 16, 80, 5), (256, 16, 86, 7), (64, 16, 89, 5),
        (16, 16, 90, 9), (256, 16, 120, 9),
    ],
)  # fmt: skip
def test_a_table_of_tiles_is_read_by_chip_and_width(width, bits, capability, block_t):
    config = tile_config(TABLE, width=width, bits=bits, capability=capability)
    assert config["BLOCK_T"] == block_t and config["BLOCK_S"] == block_t + 1
    assert set(config) == {"BLOCK_T", "BLOCK_S", "num_warps", "num_stages", "enable_fp_fusion"}


def test_a_table_may_have_a_row_for_chips_without_tensor_cores_alone():
    table = TABLE | {75: {256: (11, 12, 4, 1)}}
    assert tile_config(table, width=64, bits=16, capability=75)["BLOCK_T"] == 11
    assert tile_config(table, width=64, bits=32, capability=80)["BLOCK_T"] == 1


@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_the_kernels_of_their_own_compile_for_a_chip_that_is_not_here(capability):
    compiled = compile_all("shared", capability)
    assert {c.kernel for c in compiled} == {"_row_delta_kernel", "_merge_splits_kernel"}
    for c in compiled:
        assert c.spills == 0 and c.shared <= SHARED_LIMIT[capability], c
