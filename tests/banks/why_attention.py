"""Solutions of the unit `why_attention`: right ones written differently, and mistakes."""

from itertools import pairwise

import torch

from tests.banks.kinds import Bank, Wrong

# why_attention.influence


def influence_of_power(weight, steps):
    return torch.linalg.matrix_norm(torch.linalg.matrix_power(weight, steps), 2).item()


def influence_by_singular_values(weight, steps):
    state = torch.eye(len(weight), dtype=weight.dtype)
    for _ in range(steps):
        state = weight @ state
    return torch.linalg.eigvalsh(state.T @ state)[-1].clamp_min(0).sqrt()


def influence_power_of_norm(weight, steps):
    return torch.linalg.matrix_norm(weight, 2).item() ** steps


def influence_by_eigenvalue(weight, steps):
    return torch.linalg.eigvals(weight).abs().max().item() ** steps


def influence_frobenius(weight, steps):
    return torch.linalg.matrix_power(weight, steps).norm().item()


def influence_one_step_short(weight, steps):
    return torch.linalg.matrix_norm(torch.linalg.matrix_power(weight, steps - 1), 2).item()


def influence_linear(weight, steps):
    return steps * torch.linalg.matrix_norm(weight, 2).item()


def influence_weakest(weight, steps):
    values = torch.linalg.svdvals(torch.linalg.matrix_power(weight, steps))
    return values[values > 1e-12][-1].item() if (values > 1e-12).any() else 0.0


def influence_never_zero_steps(weight, steps):
    state = weight
    for _ in range(steps - 1):
        state = state @ weight
    return torch.linalg.matrix_norm(state, 2).item()


# why_attention.read


def read_slice(scores, memory, length):
    return torch.softmax(scores[:, :length], dim=-1) @ memory[:length]


def read_loop(scores, memory, length):
    rows = []
    for row in scores:
        grown = torch.exp(row[:length] - row[:length].max().detach())
        rows.append(sum(w * m for w, m in zip(grown / grown.sum(), memory[:length], strict=True)))
    return torch.stack(rows)


def read_wrong_axis(scores, memory, length):
    return torch.softmax(scores[:, :length], dim=0) @ memory[:length]


def read_padding_too(scores, memory, length):
    return torch.softmax(scores, dim=-1) @ memory


def read_mask_after(scores, memory, length):
    return torch.softmax(scores, dim=-1)[:, :length] @ memory[:length]


def read_masked_memory_kept(scores, memory, length):
    padding = torch.arange(len(memory)) >= length
    return torch.softmax(scores.masked_fill(padding, -torch.inf), dim=-1) @ memory


def read_hard(scores, memory, length):
    return memory[scores[:, :length].argmax(dim=-1)]


def read_shares_of_scores(scores, memory, length):
    weights = scores[:, :length] / scores[:, :length].sum(dim=-1, keepdim=True)
    return weights @ memory[:length]


def read_sigmoid(scores, memory, length):
    return torch.sigmoid(scores[:, :length]) @ memory[:length]


def read_unstable(scores, memory, length):
    grown = torch.exp(scores[:, :length])
    return grown / grown.sum(dim=-1, keepdim=True) @ memory[:length]


def read_one_token_short(scores, memory, length):
    kept = max(length - (length < len(memory)), 1)
    return torch.softmax(scores[:, :kept], dim=-1) @ memory[:kept]


def read_detached(scores, memory, length):
    return read_slice(scores.detach(), memory, length)


def read_transposed(scores, memory, length):
    return read_slice(scores, memory, length).T


# why_attention.accuracy


def accuracy_comprehension(written, wanted, lengths, edges):
    report = []
    for low, high in pairwise(edges):
        right = [w == x for w, x, n in zip(written, wanted, lengths, strict=True) if low <= n < high]
        report.append((sum(right) / len(right) if right else None, len(right)))
    return report


def accuracy_one_pass(written, wanted, lengths, edges):
    right, count = [0] * (len(edges) - 1), [0] * (len(edges) - 1)
    for w, x, n in zip(written, wanted, lengths, strict=True):
        bucket = max(i for i, edge in enumerate(edges) if edge <= n)
        count[bucket] += 1
        right[bucket] += int(w == x)
    return [[r / c, c] if c else [None, 0] for r, c in zip(right, count, strict=True)]


def _report(inside, match, share, empty=None):
    """The report with one rule replaced: who is inside a bucket, what a match is worth, what the share is of."""

    def report(written, wanted, lengths, edges):
        pairs = []
        for low, high in pairwise(edges):
            worth = [match(w, x) for w, x, n in zip(written, wanted, lengths, strict=True) if inside(low, n, high)]
            pairs.append((share(worth, wanted) if worth else empty, len(worth)))
        return pairs

    return report


def _half_open(low, n, high):
    return low <= n < high


def _equal(written, wanted):
    return written == wanted


def _of_bucket(worth, wanted):
    return sum(worth) / len(worth)


def _characters(written, wanted):
    return sum(a == b for a, b in zip(written, wanted, strict=False)) / len(wanted)


accuracy_both_edges = _report(lambda low, n, high: low <= n <= high, _equal, _of_bucket)
accuracy_no_edge = _report(lambda low, n, high: low < n < high, _equal, _of_bucket)
accuracy_upper_edge = _report(lambda low, n, high: low - (low == 1) < n <= high, _equal, _of_bucket)
accuracy_of_all = _report(_half_open, _equal, lambda worth, wanted: sum(worth) / len(wanted))
accuracy_of_characters = _report(_half_open, _characters, _of_bucket)
accuracy_prefix = _report(_half_open, lambda w, x: x.startswith(w), _of_bucket)
accuracy_suffix = _report(_half_open, lambda w, x: w.startswith(x), _of_bucket)
accuracy_zero_for_empty = _report(_half_open, _equal, _of_bucket, empty=0.0)


def accuracy_percent(written, wanted, lengths, edges):
    pairs = accuracy_comprehension(written, wanted, lengths, edges)
    return [a for a, _ in pairs]


# why_attention.collision


def collide_next_word(weight, length):
    sources = torch.zeros(2, length, len(weight), dtype=weight.dtype)
    sources[0, 0, 0] = 2.0
    sources[0, 1] = -weight @ sources[0, 0]
    return sources


def collide_last_word(weight, length):
    torch.manual_seed(0)
    first = torch.randn(length, len(weight), dtype=weight.dtype)
    second = first.clone()
    second[0] += 1.0
    gap = torch.linalg.matrix_power(weight, length - 1) @ (second[0] - first[0])
    second[-1] -= gap
    return torch.stack([first, second])


def collide_same(weight, length):
    return torch.ones(2, length, len(weight), dtype=weight.dtype)


def collide_first_only(weight, length):
    sources = torch.zeros(2, length, len(weight), dtype=weight.dtype)
    sources[0, 0] = 1.0
    return sources


def collide_transposed(weight, length):
    return collide_next_word(weight.T, length)


def collide_without_weight(weight, length):
    return collide_next_word(torch.eye(len(weight), dtype=weight.dtype), length)


def collide_one_step_at_the_end(weight, length):
    sources = torch.zeros(2, length, len(weight), dtype=weight.dtype)
    sources[0, 0] = 1.0
    sources[0, -1] = -weight @ sources[0, 0]
    return sources


def collide_one_source(weight, length):
    return collide_next_word(weight, length)[0]


def collide_huge(weight, length):
    sources = torch.full((2, length, len(weight)), 1e17, dtype=weight.dtype)
    sources[0, 0] += 1.0
    return sources


BANK = {
    "why_attention.influence": Bank(
        right=[influence_of_power, influence_by_singular_values],
        wrong=[
            Wrong(influence_one_step_short, says="grew 8-fold"),
            Wrong(influence_linear, says="grew 2-fold"),
            Wrong(influence_frobenius, says="a rotation keeps every length"),
            Wrong(influence_by_eigenvalue, says="no eigenvalue but 0"),
            Wrong(influence_power_of_norm, says="moves each entry to its neighbour"),
            Wrong(influence_weakest, says="some change of length 1"),
            Wrong(influence_never_zero_steps, says="over 0 steps"),
        ],
    ),
    "why_attention.read": Bank(
        right=[read_slice, read_loop],
        wrong=[
            Wrong(read_transposed, says="what is read has shape"),
            Wrong(read_wrong_axis, says="softmax runs over the wrong axis"),
            Wrong(read_shares_of_scores, says="a weight is negative"),
            Wrong(read_sigmoid, says="not normalised over the keys"),
            Wrong(read_hard, says="the lookup is hard"),
            Wrong(read_padding_too, says="still gets weight"),
            Wrong(read_mask_after, says="padding took a share"),
            Wrong(read_masked_memory_kept, says="a weight of 0 times NaN"),
            Wrong(read_one_token_short, says="not the softmax of the scores times"),
            Wrong(read_unstable, says="scores of about 1000 overflow"),
            Wrong(read_detached, says="no gradient flows back"),
        ],
    ),
    "why_attention.accuracy": Bank(
        right=[accuracy_comprehension, accuracy_one_pass],
        wrong=[
            Wrong(accuracy_percent, says="expected a list of 4 pairs"),
            Wrong(accuracy_both_edges, says="some stand in two"),
            Wrong(accuracy_no_edge, says="some stand in none"),
            Wrong(accuracy_upper_edge, says="an example of another length"),
            Wrong(accuracy_zero_for_empty, says="nothing was measured there"),
            Wrong(accuracy_of_all, says="a share of what"),
            Wrong(accuracy_of_characters, says="whose last character is wrong"),
            Wrong(accuracy_prefix, says="that stop a character early"),
            Wrong(accuracy_suffix, says="with a character too many"),
        ],
    ),
    "why_attention.collision": Bank(
        right=[collide_next_word, collide_last_word],
        wrong=[
            Wrong(collide_one_source, says="the pair of sources has shape"),
            Wrong(collide_same, says="the first words lie"),
            Wrong(collide_first_only, says="end in different states"),
            Wrong(collide_transposed, says="if the weight were transposed"),
            Wrong(collide_without_weight, says="if the weight changed nothing"),
            Wrong(collide_one_step_at_the_end, says="sources of 2 words end alike"),
            Wrong(collide_huge, says="rounding does the colliding"),
        ],
    ),
}
