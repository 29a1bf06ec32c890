"""Solutions of the unit `multi_head`: right ones written differently, and mistakes."""

import torch
from einops import rearrange
from torch.nn.functional import scaled_dot_product_attention

from tests.banks.kinds import Bank, Wrong

# multi_head.cost


def cost_formula(b, t, d, h):
    return 4 * d * d, 4 * b * t * d * d + 2 * b * t * t * d, 4 * b * t * d


def cost_counted(b, t, d, h):
    dh = d // h
    head = 3 * d * dh + dh * d
    projections = b * t * h * head
    pairs = b * h * t * t
    return h * head, projections + pairs * dh + pairs * dh, 2 * b * h * t * dh * 2


def cost_without_output(b, t, d, h):
    return 3 * d * d, 4 * b * t * d * d + 2 * b * t * t * d, 4 * b * t * d


def cost_wide_heads(b, t, d, h):
    return 4 * d * d * h, 4 * b * t * d * d + 2 * b * t * t * d, 4 * b * t * d


def cost_projections_alone(b, t, d, h):
    return 4 * d * d, 4 * b * t * d * d, 4 * b * t * d


def cost_attention_alone(b, t, d, h):
    return 4 * d * d, 2 * b * t * t * d, 4 * b * t * d


def cost_wide_attention(b, t, d, h):
    return 4 * d * d, 4 * b * t * d * d + 2 * b * h * t * t * d, 4 * b * t * d


def cost_keys_alone(b, t, d, h):
    return 4 * d * d, 4 * b * t * d * d + 2 * b * t * t * d, 2 * b * t * d


def cost_cache_of_one_head(b, t, d, h):
    return 4 * d * d, 4 * b * t * d * d + 2 * b * t * t * d, 4 * b * t * d // h


# multi_head.merge


def merge_transposed(x):
    b, _, t, _ = x.shape
    return x.transpose(1, 2).reshape(b, t, -1)


def merge_side_by_side(x):
    return torch.cat([x[:, head] for head in range(x.shape[1])], dim=-1)


def merge_not_at_all(x):
    b, _, t, _ = x.shape
    return x.reshape(b, t, -1)


def merge_interleaved(x):
    return rearrange(x, "b h t dv -> b t (dv h)")


def merge_sum(x):
    return x.sum(dim=1)


def merge_from_the_last(x):
    return merge_transposed(x.flip(1))


def merge_mean(x):
    return merge_transposed(x) / x.shape[1]


def merge_batch(x):
    return merge_transposed(x).flip(0)


# multi_head.attend


def _split(x, w_q, w_k, w_v, n_heads, split="t (h d) -> h t d"):
    return (rearrange(x @ w.T, split, h=n_heads) for w in (w_q, w_k, w_v))


def _attend(x, w_q, w_k, w_v, w_o, n_heads, *, scale=None, future=-torch.inf, weigh=None, order=("(h d)", "(h d)")):
    """Attention by heads; `future` replaces scores, and `weigh(scores, past)` the softmax."""
    q, k, v = _split(x, w_q, w_k, w_v, n_heads, split=f"t {order[0]} -> h t d")
    past = torch.ones(len(x), len(x)).tril().bool()
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    weights = weigh(scores, past) if weigh else torch.softmax(scores.masked_fill(~past, future), dim=-1)
    return rearrange(weights @ v, f"h t d -> t {order[1]}") @ w_o.T


def attend_by_heads(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, w_o, n_heads)


def attend_by_hand(x, w_q, w_k, w_v, w_o, n_heads):
    """exp relative to the largest visible score of each row; heads are an axis of one einsum."""
    w_q, w_k, w_v = (w.view(n_heads, -1, w.shape[1]) for w in (w_q, w_k, w_v))
    q, k, v = (torch.einsum("td,hed->the", x, w) for w in (w_q, w_k, w_v))
    scores = torch.einsum("the,she->hts", q, k) / w_q.shape[1] ** 0.5
    scores = scores + torch.full((len(x), len(x)), -torch.inf, dtype=x.dtype).triu(1)
    grown = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    read = torch.einsum("hts,she->the", grown / grown.sum(dim=-1, keepdim=True), v)
    return read.flatten(1) @ w_o.mT


def attend_pytorch(x, w_q, w_k, w_v, w_o, n_heads):
    q, k, v = _split(x, w_q, w_k, w_v, n_heads)
    return rearrange(scaled_dot_product_attention(q, k, v, is_causal=True), "h t d -> t (h d)") @ w_o.T


def attend_naive(x, w_q, w_k, w_v, w_o, n_heads):
    def weigh(scores, past):
        grown = torch.exp(scores) * past
        return grown / grown.sum(dim=-1, keepdim=True)

    return _attend(x, w_q, w_k, w_v, w_o, n_heads, weigh=weigh)


def attend_small_fill(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, w_o, n_heads, future=-1e9)


def attend_scaled_by_values(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, w_o, n_heads, scale=n_heads / len(w_v))


def attend_value_weight_detached(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v.detach(), w_o, n_heads)


def attend_loop(x, w_q, w_k, w_v, w_o, n_heads):
    out = torch.zeros(len(x), len(w_o), dtype=x.dtype)
    future = torch.ones(len(x), len(x)).triu(1).bool()
    dk, dv = len(w_q) // n_heads, len(w_v) // n_heads
    for i in range(n_heads):
        rows = slice(i * dk, (i + 1) * dk)
        scores = (x @ w_q[rows].T) @ (x @ w_k[rows].T).T / dk**0.5
        weights = torch.softmax(scores.masked_fill(future, -torch.inf), dim=-1)
        columns = slice(i * dv, (i + 1) * dv)
        out = out + weights @ (x @ w_v[columns].T) @ w_o[:, columns].T
    return out


def attend_to_the_future(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, w_o, n_heads, weigh=lambda scores, past: torch.softmax(scores, dim=-1))


def attend_one_head(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, w_o, 1)


def attend_scaled_by_the_whole(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, w_o, n_heads, scale=len(w_q) ** -0.5)


def attend_unscaled(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, w_o, n_heads, scale=1.0)


def attend_merged_interleaved(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, w_o, n_heads, order=("(h d)", "(d h)"))


def attend_interleaved_heads(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, w_o, n_heads, order=("(d h)", "(d h)"))


def attend_without_output(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k, w_v, torch.eye(len(w_v), dtype=x.dtype), n_heads)


def attend_detached(x, w_q, w_k, w_v, w_o, n_heads):
    return _attend(x, w_q, w_k.detach(), w_v, w_o, n_heads)


# multi_head.prune


def _rows(w, n_heads, keep):
    return rearrange(rearrange(w, "(h d) c -> h d c", h=n_heads)[keep], "h d c -> (h d) c")


def _all_but(n_heads, head):
    return [i for i in range(n_heads) if i != head]


def prune_by_head(w_q, w_k, w_v, w_o, n_heads, head):
    keep = _all_but(n_heads, head)
    return *(_rows(w, n_heads, keep) for w in (w_q, w_k, w_v)), _rows(w_o.T, n_heads, keep).T


def prune_by_slices(w_q, w_k, w_v, w_o, n_heads, head):
    def cut(w):
        size = len(w) // n_heads
        return torch.cat([w[: head * size], w[(head + 1) * size :]])

    return cut(w_q), cut(w_k), cut(w_v), cut(w_o.T).T


def prune_nothing(w_q, w_k, w_v, w_o, n_heads, head):
    size, w_o = w_o.shape[1] // n_heads, w_o.clone()
    w_o[:, head * size : (head + 1) * size] = 0
    return w_q, w_k, w_v, w_o


def prune_inputs_alone(w_q, w_k, w_v, w_o, n_heads, head):
    return *prune_by_head(w_q, w_k, w_v, w_o, n_heads, head)[:3], w_o


def prune_the_next(w_q, w_k, w_v, w_o, n_heads, head):
    return prune_by_head(w_q, w_k, w_v, w_o, n_heads, (head + 1) % n_heads)


def prune_interleaved(w_q, w_k, w_v, w_o, n_heads, head):
    def cut(w):
        return w[[i for i in range(len(w)) if i % n_heads != head]]

    return cut(w_q), cut(w_k), cut(w_v), cut(w_o.T).T


def prune_keys_width(w_q, w_k, w_v, w_o, n_heads, head):
    size = len(w_q) // n_heads

    def cut(w):
        return torch.cat([w[: head * size], w[(head + 1) * size :]])

    return cut(w_q), cut(w_k), cut(w_v), cut(w_o.T).T


def prune_three(w_q, w_k, w_v, w_o, n_heads, head):
    return prune_by_head(w_q, w_k, w_v, w_o, n_heads, head)[:3]


# multi_head.rotary


def _angles(x, positions, base, exponent=2.0):
    i = torch.arange(x.shape[-1] // 2, dtype=x.dtype)
    return positions[:, None] * base ** (-exponent * i / x.shape[-1])


def _turn(x, angle):
    first, second = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def rotary_by_halves(x, positions, base):
    return _turn(x, _angles(x, positions, base))


def rotary_by_complex_numbers(x, positions, base):
    z = torch.complex(*x.chunk(2, dim=-1)) * torch.exp(1j * _angles(x, positions, base))
    return torch.cat([z.real, z.imag], dim=-1)


def rotary_in_float32(x, positions, base):
    """Angles as libraries make them."""
    frequency = 1.0 / (base ** (torch.arange(0, x.shape[-1], 2).float() / x.shape[-1]))
    angle = torch.outer(positions.float(), frequency)
    angle = torch.cat([angle, angle], dim=-1)
    half = x.shape[-1] // 2
    return x * angle.cos() + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * angle.sin()


def rotary_not_at_all(x, positions, base):
    angle = _angles(x, positions, base).repeat_interleave(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


def rotary_interleaved(x, positions, base):
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.exp(1j * _angles(x, positions, base))
    return torch.view_as_real(z).flatten(-2)


def rotary_backwards(x, positions, base):
    return _turn(x, -_angles(x, positions, base))


def rotary_other_exponent(x, positions, base):
    return _turn(x, _angles(x, positions, base, exponent=1.0))


def rotary_places(x, positions, base):
    """Places of rows, not positions."""
    return _turn(x, _angles(x, torch.arange(len(x)), base))


def rotary_by_share(x, positions, base):
    return _turn(x, _angles(x, positions / positions.max().clamp_min(1), base))


# multi_head.differ


def _weights(sharpness, shift, sign):
    """Head 1 reads bits with scores of `sharpness` times the bit, head 2 evenly; w_o subtracts."""
    w_q = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    w_k = torch.tensor([[0.0, sharpness], [0.0, 0.0]])
    w_v = torch.tensor([[0.0, 1.0], [shift, 1.0]])
    return w_q, w_k, w_v, sign * torch.tensor([[1.0, -1.0]])


def differ_or_minus_mean():
    return _weights(40.0, 0.25, 1.0)


def differ_mean_minus_and():
    w_q = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    w_k = torch.tensor([[0.0, -40.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    w_v = torch.tensor([[0.0, 1.0], [0.25, 0.0], [0.0, 1.0], [0.0, 0.0]])
    return w_q, w_k, w_v, torch.tensor([[-1.0, -1.0, 1.0, 0.0]])


def differ_whole_numbers():
    """Head 0 says 3 if any bit is set and -1 if none is, head 1 says 4 if both are."""
    w_q, w_k = torch.tensor([[1, 0], [1, 0]]), torch.tensor([[0, 40], [0, -40]])
    w_v = torch.tensor([[-1, 4], [0, 4]])
    return w_q, w_k, w_v, torch.tensor([[1, -1]])


def differ_or():
    w_q, w_k = _weights(40.0, 0.0, 1.0)[:2]
    return w_q, w_k, torch.tensor([[-0.5, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0]])


def differ_reversed():
    return _weights(40.0, 0.25, -1.0)


def differ_without_shift():
    return _weights(40.0, 0.0, 1.0)


def differ_huge():
    return _weights(1e6, 0.25, 1.0)


def differ_one_wide_head():
    w_q, w_k, w_v, w_o = _weights(40.0, 0.25, 1.0)
    return w_q[:1], w_k[:1], w_v, w_o


def differ_three():
    return _weights(40.0, 0.25, 1.0)[:3]


BANK = {
    "multi_head.cost": Bank(
        right=[cost_formula, cost_counted],
        wrong=[
            Wrong(cost_without_output, says="and w_o is not"),
            Wrong(cost_wide_heads, says="too many weights"),
            Wrong(cost_projections_alone, says="the scores and the mixing are not"),
            Wrong(cost_attention_alone, says="the four projections are not"),
            Wrong(cost_wide_attention, says="h heads of width d are counted"),
            Wrong(cost_keys_alone, says="keys alone are cached"),
            Wrong(cost_cache_of_one_head, says="the bytes of the cached keys and values in float16 are wrong"),
        ],
    ),
    "multi_head.merge": Bank(
        right=[merge_transposed, merge_side_by_side],
        wrong=[
            Wrong(merge_not_at_all, says="what the heads say at token"),
            Wrong(merge_interleaved, says="the entries of head 0 do not stand side by side"),
            Wrong(merge_sum, says="the merged tensor has shape"),
            Wrong(merge_from_the_last, says="head 0 does not stand at its place"),
            Wrong(merge_mean, says="the entries within a head are not as they were"),
            Wrong(merge_batch, says="sequence 0 ends up in another row of the batch"),
        ],
    ),
    "multi_head.attend": Bank(
        right=[attend_by_heads, attend_by_hand, attend_loop],
        wrong=[
            Wrong(attend_pytorch, says="uses scaled_dot_product_attention"),
            Wrong(attend_naive, says="scores of about 800"),
            Wrong(attend_small_fill, says="scores of about -2,000,000,000"),
            Wrong(attend_value_weight_detached, says="the gradient with respect to w_v"),
            Wrong(attend_to_the_future, says="its future"),
            Wrong(attend_one_head, says="a single head as wide as all of them"),
            Wrong(attend_scaled_by_the_whole, says="by the width of all heads together"),
            Wrong(attend_unscaled, says="scores are not scaled"),
            Wrong(attend_merged_interleaved, says="with a single token"),
            Wrong(attend_interleaved_heads, says="each with its own rows"),
            Wrong(attend_without_output, says="the output has shape"),
            Wrong(attend_detached, says="the gradient with respect to w_k"),
        ],
    ),
    "multi_head.prune": Bank(
        right=[prune_by_head, prune_by_slices],
        wrong=[
            Wrong(prune_nothing, says="a silenced head costs as much"),
            Wrong(prune_inputs_alone, says="a head owns columns of it"),
            Wrong(prune_the_next, says="was cut instead"),
            Wrong(prune_interleaved, says="does not hold what the other heads own"),
            Wrong(prune_keys_width, says="w_v has shape"),
            Wrong(prune_three, says="return four matrices"),
        ],
    ),
    "multi_head.rotary": Bank(
        right=[rotary_by_halves, rotary_by_complex_numbers, rotary_in_float32],
        wrong=[
            Wrong(rotary_not_at_all, says="does not keep its length"),
            Wrong(rotary_interleaved, says="that is the other layout"),
            Wrong(rotary_backwards, says="it turns backwards"),
            Wrong(rotary_other_exponent, says="by other angles"),
            Wrong(rotary_places, says="at position 0 nothing turns"),
            Wrong(rotary_by_share, says="when query and key move on together"),
        ],
    ),
    "multi_head.differ": Bank(
        right=[differ_or_minus_mean, differ_mean_minus_and, differ_whole_numbers],
        wrong=[
            Wrong(differ_or, says="for bits [1, 1] the output has the wrong sign"),
            Wrong(differ_reversed, says="for bits [0, 0] the output has the wrong sign"),
            Wrong(differ_without_shift, says="the output is undecided"),
            Wrong(differ_huge, says="an entry of w_k is beyond 100"),
            Wrong(differ_one_wide_head, says="do not fit two heads"),
            Wrong(differ_three, says="return four matrices"),
        ],
    ),
}
