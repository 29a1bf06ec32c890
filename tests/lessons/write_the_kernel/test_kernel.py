"""The lesson's kernels against PyTorch and loops in float64, interpreted here, compiled on CUDA; the museum's exhibits."""

import pytest
import torch

import attncourse
from attncourse.profile.compiled import SHARED_LIMIT, Build, compile_elsewhere
from attncourse.softmax_attention import softmax_attention, softmax_attention_loop
from attncourse.testing import assert_causal, assert_within_budget, make_qkv

kernel = pytest.importorskip("attncourse.lessons.write_the_kernel.kernel", reason="Triton is on Linux alone")
museum = pytest.importorskip("attncourse.lessons.write_the_kernel.museum")


def draw(device, *shape, dtype=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(device, dtype)


# Step by step


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 53])
def test_kernel_adds_vectors_of_any_length(n, device):
    x, y = draw(device, n), draw(device, n, seed=1)
    assert torch.equal(kernel.vector_add(x, y), x + y)
    assert torch.equal(kernel.vector_add(x, y, block=4), x + y)


def test_kernel_vector_add_writes_nothing_beyond_the_end(device):
    x, out = draw(device, 21), torch.full((40,), 7.0, device=device)
    kernel._vector_add_kernel[(3,)](x, x, out, 21, BLOCK=16)
    assert torch.equal(out[:21], 2 * x) and (out[21:] == 7.0).all()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 53])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_softmax_by_rows_and_by_pieces(n, dtype, device):
    x = 3 * draw(device, 3, n, dtype=dtype)
    exact, plain = torch.softmax(x.double(), dim=-1), torch.softmax(x, dim=-1)
    assert_within_budget(kernel.softmax(x), plain=plain, exact=exact)
    for block in (1, 4, 16):
        assert_within_budget(kernel.long_softmax(x, block=block), plain=plain, exact=exact, what=f"block {block}")


def test_kernel_softmax_of_large_rising_and_hidden_numbers(device):
    rising = torch.linspace(-5000.0, 5000.0, 53, device=device).repeat(2, 1)
    hidden = draw(device, 2, 53)
    hidden[0, :37] = -torch.inf  # whole pieces of a row
    hidden[1, 20:] = -torch.inf
    for x in (rising, hidden):
        wanted = torch.softmax(x, dim=-1)
        torch.testing.assert_close(kernel.softmax(x), wanted)
        torch.testing.assert_close(kernel.long_softmax(x), wanted)


@pytest.mark.parametrize(("m", "inner", "n"), [(1, 1, 1), (16, 16, 16), (17, 37, 5), (31, 7, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_matrix_product(m, inner, n, dtype, device):
    a, b = draw(device, m, inner, dtype=dtype), draw(device, inner, n, dtype=dtype, seed=1)
    exact = torch.zeros(m, n, dtype=torch.float64)
    for i in range(m):
        for j in range(n):
            exact[i, j] = sum(a[i, at].double() * b[at, j].double() for at in range(inner))
    assert_within_budget(kernel.matmul(a, b), plain=a @ b, exact=exact)


def test_kernel_matrix_product_sums_in_float32(device):
    """Strips of 16 sum to 8.25, of which a sum in float16 would keep 8 from 1024 on."""
    a = torch.full((1, 4096), 33 / 64, device=device, dtype=torch.float16)
    assert kernel.matmul(a, torch.ones_like(a).mT.contiguous()).item() == 2112


@pytest.mark.parametrize(("t", "s"), [(1, 1), (16, 16), (17, 37), (37, 5)])
def test_kernel_attention_with_all_scores_in_registers(t, s, device):
    q, k, v = make_qkv(b=1, t=t, s=s, dk=16, dtype=torch.float32, device=device)
    got = kernel.attention_in_registers(q, k, v)
    for head in range(2):
        exact = softmax_attention_loop(*(x[0, head].double() for x in (q, k, v)))
        plain = softmax_attention(*(x[:, head : head + 1] for x in (q, k, v)))[0, 0]
        assert_within_budget(got[0, head], plain=plain, exact=exact)


@pytest.mark.dry
@pytest.mark.parametrize("masking", [{}, {"causal": True}, {"window": 5}, {"window": 100}], ids=str)
@pytest.mark.parametrize(("t", "s"), [(1, 1), (16, 16), (37, 37), (5, 37), (37, 5)])
def test_kernel_flash_attention_and_its_log_sum_exp(masking, t, s, device):
    q, k, v = make_qkv(t=t, s=s, dk=16, dtype=torch.float32, device=device)
    exact, exact_lse = softmax_attention(q.double(), k.double(), v.double(), **masking, return_lse=True)
    plain, plain_lse = softmax_attention(q, k, v, **masking, return_lse=True)
    for blocks in ({}, {"block_s": 32}, {"block_t": 32}):
        out, lse = kernel.flash_attention_with_lse(q, k, v, **masking, **blocks)
        assert_within_budget(out, plain=plain, exact=exact, what=f"{blocks}")
        seen = exact_lse > -torch.inf
        assert torch.equal(lse > -torch.inf, seen) and (out[~seen] == 0).all()
        assert_within_budget(lse[seen], plain=plain_lse[seen], exact=exact_lse[seen], what=f"log-sum-exp {blocks}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernel_flash_attention_in_sixteen_bits(dtype, device):
    q, k, v = make_qkv(b=1, t=21, dk=32, dtype=dtype, device=device)
    exact = softmax_attention(q.double(), k.double(), v.double(), causal=True)
    out = kernel.flash_attention(q, k, v, causal=True)
    assert_within_budget(out, plain=softmax_attention(q, k, v, causal=True), exact=exact)


def test_kernel_flash_attention_reads_no_future_and_any_strides(device):
    q, k, v = make_qkv(b=1, h=1, t=20, dk=16, dtype=torch.float32, device=device)
    assert_causal(lambda *qkv: kernel.flash_attention(*qkv, causal=True, block_s=32), q, k, v)
    wide = torch.full((1, 1, 20, 48), torch.nan, device=device)
    wide[..., 16:32] = k
    strided = wide[..., 16:32]
    torch.testing.assert_close(kernel.flash_attention(q, strided, v), kernel.flash_attention(q, k, v))


@pytest.mark.bad_input
def test_kernel_what_the_lesson_does_not_take_is_refused(device):
    q, k, v = make_qkv(dk=16, dtype=torch.float32, device=device)
    for wrong, inputs, settings in [
        ("has no backward pass", (q.clone().requires_grad_(), k, v), {}),
        ("width must be a power of two of at least 16, got 12", (q[..., :12], k[..., :12], v[..., :12]), {}),
        ("block_s must be a power of two of at least 16, got 24", (q, k, v), {"block_s": 24}),
        ("as many key heads as query heads, got 1, 2", (q, k[:, :1], v[:, :1]), {}),
        ("window must be at least 1", (q, k, v), {"window": 0}),
        ("takes float32, float16 or bfloat16, got torch.float64", make_qkv(dk=16, device=device), {}),
        ("the width of k must lie together, got stride 7", (q, k.mT.contiguous().mT, v), {}),
    ]:
        with pytest.raises(ValueError, match=wrong):
            kernel.flash_attention(*inputs, **settings)
    with pytest.raises(ValueError, match="holds at most 256 keys, got 257"):
        kernel.attention_in_registers(q, *make_qkv(t=257, dk=16, dtype=torch.float32)[1:])
    with pytest.raises(ValueError, match="a's columns must be b's rows, got \\(2, 3\\) and \\(2, 3\\)"):
        kernel.matmul(draw(device, 2, 3), draw(device, 2, 3))
    with pytest.raises(ValueError, match="must be \\(n,\\), got \\(3,\\) and \\(4,\\)"):
        kernel.vector_add(draw(device, 3), draw(device, 4))


# The museum


def test_kernel_every_property_holds_of_what_the_exhibits_are_copies_of():
    for module, attend in museum.right_attentions().items():
        found = museum.verdicts(attend, differentiable=module == museum.BLOCKED)
        assert found.pop("gradients") is (True if module == museum.BLOCKED else None)
        assert all(found.values()), (module, found)


def test_where_memory_is_short_a_property_is_not_shown(monkeypatch):
    """Neither held nor broken; what fits is told as ever."""
    (attend, *_) = museum.right_attentions().values()

    def short(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(museum, "far_apart", short)
    found = museum.verdicts(attend)
    assert found["heads far apart"] is None and list(found.values()).count(True) == len(found) - 2


@pytest.mark.parametrize("exhibit", museum.EXHIBITS, ids=lambda e: e.name)
def test_kernel_an_exhibit_fails_the_test_that_catches_it_and_no_other(exhibit):
    """So each of the other tests, by itself, is one under which the fault survives."""
    found = museum.verdicts(exhibit.attend(), differentiable=exhibit.module == museum.BLOCKED)
    assert [name for name, holds in found.items() if holds is False] == [exhibit.caught_by]


def test_kernel_every_fault_has_a_test_of_its_own_and_differs_in_one_line():
    assert len({exhibit.caught_by for exhibit in museum.EXHIBITS}) == len(museum.EXHIBITS) == 6
    for exhibit in museum.EXHIBITS:
        before, after = exhibit.diff().splitlines()
        assert before.startswith("- ") and after.startswith("+ ") and before[2:] != after[2:]


def test_kernel_an_exhibit_whose_line_is_gone_says_so():
    gone = museum.Exhibit("gone", museum.FLASH, "no such line", "", looks="", caught_by="")
    with pytest.raises(ValueError, match="'no such line' must occur once in .*kernel, occurs 0 times"):
        gone.attend()


def test_kernel_heads_far_apart_hold_what_was_put_there():
    x = draw(attncourse.device(), 1, 3, 5, 16, dtype=torch.float16)
    far = museum.far_apart(x)
    assert far.stride(1) == 2**30 and torch.equal(far, x)
    with pytest.raises(ValueError, match="fit three times, got 4"):
        museum.far_apart(x.new_zeros(1, 4, 5, 16))


# The compiler


def builds(capability):
    """Every step in float16 with blocks that suit a GPU; bit widths and tensor cores are the compiler's."""
    at = "attncourse.lessons.write_the_kernel.kernel:"
    attention = {"D": 64, "BLOCK_T": 32, "BLOCK_S": 32}
    constants = {
        "_vector_add_kernel": {"BLOCK": 1024},
        "_softmax_kernel": {"BLOCK": 1024},
        "_long_softmax_kernel": {"BLOCK": 1024},
        "_matmul_kernel": {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_INNER": 32},
        "_attention_in_registers_kernel": attention,
        "_flash_attention_kernel": attention | {"CAUSAL": True, "WINDOW": True},
    }
    options = {"num_warps": 4, "num_stages": 2} | kernel.OPTIONS
    return [Build(at + name, name, "fp16", known, options, capability) for name, known in constants.items()]


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_kernel_every_step_compiles_for_a_chip_that_is_not_here(capability):
    compiled = compile_elsewhere(builds(capability))
    assert len(compiled) == 6
    for c in compiled:
        assert c.shared <= SHARED_LIMIT[capability], (c.case, c.shared)
        assert c.spills == 0 or capability < 80, (c.case, c.spills)  # without tensor cores products crowd registers
        multiplies = capability >= 80 and "softmax" not in c.case and "add" not in c.case
        assert (c.matrix != "none") == multiplies, c.case
        assert bool(c.lines("mma")) == multiplies


def test_kernel_that_does_not_compile_says_so():
    build = builds(80)[3]
    wrong = Build(build.kernel, "", "fp16", build.constants | {"BLOCK_M": 24}, build.options, 80)
    with pytest.raises(RuntimeError, match="power of 2"):
        compile_elsewhere([wrong])
