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


def _power_iteration(weight, steps, rounds):
    power = torch.linalg.matrix_power(weight, steps)
    change = torch.ones(len(weight), dtype=weight.dtype) + torch.arange(len(weight)) / 7
    for _ in range(rounds):
        change = power.T @ (power @ change)
        change = change / change.norm().clamp_min(1e-300)
    return (power @ change).norm().item()


def influence_by_iteration(weight, steps):
    return max(_power_iteration(weight, steps, 3000), 0.0) if steps else 1.0


def influence_by_few_iterations(weight, steps):
    return _power_iteration(weight, steps, 5)


def influence_by_trying(weight, steps):
    changes = torch.randn(len(weight), 5000, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
    power = torch.linalg.matrix_power(weight, steps)
    return ((power @ changes).norm(dim=0) / changes.norm(dim=0)).max().item()


def influence_of_the_transposed(weight, steps):
    # the same for one step, and for any number of them
    return influence_of_power(weight.T, steps)


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


def read_filled_with_little(scores, memory, length):
    padding = torch.arange(len(memory)) >= length
    memory = memory.masked_fill(padding[:, None], 0.0)
    return torch.softmax(scores.masked_fill(padding, -1e9), dim=-1) @ memory


def read_clamped(scores, memory, length):
    return read_slice(scores.clamp(-500, 500), memory, length)


def read_renormalised(scores, memory, length):
    exists = torch.arange(len(memory)) < length
    scores, memory = torch.nan_to_num(scores, 0.0, 0.0, 0.0), memory.masked_fill(~exists[:, None], 0.0)
    weights = torch.softmax(scores, dim=-1) * exists
    return weights / weights.sum(dim=-1, keepdim=True) @ memory


def read_nan_alone(scores, memory, length):
    padding = torch.arange(len(memory)) >= length
    weights = torch.softmax(scores.masked_fill(padding, -torch.inf), dim=-1)
    return weights @ torch.where(memory.isnan(), 0.0, memory)


def read_masked(scores, memory, length):
    padding = torch.arange(len(memory)) >= length
    weights = torch.softmax(scores.masked_fill(padding, -torch.inf), dim=-1)
    return torch.einsum("ts,sd->td", weights, torch.where(padding[:, None], 0.0, memory))


def read_doubled_gradient(scores, memory, length):
    return read_slice(2 * scores - scores.detach(), memory, length)


def read_overwrites(scores, memory, length):
    memory[length:] = 0.0
    return read_slice(scores, memory, length)


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
accuracy_of_all = _report(_half_open, _equal, lambda worth, wanted: sum(worth) / len(wanted))
accuracy_of_characters = _report(_half_open, _characters, _of_bucket)
accuracy_prefix = _report(_half_open, lambda w, x: x.startswith(w), _of_bucket)
accuracy_suffix = _report(_half_open, lambda w, x: w.startswith(x), _of_bucket)
accuracy_zero_for_empty = _report(_half_open, _equal, _of_bucket, empty=0.0)


def accuracy_upper_edge(written, wanted, lengths, edges):
    # low < n <= high, but for the least length of all
    return accuracy_comprehension(written, wanted, [n - (n > edges[0]) for n in lengths], edges)


def accuracy_sorted(written, wanted, lengths, edges):
    # examples are taken to come in order of their lengths
    report, at = [], 0
    for _, high in pairwise(edges):
        right = []
        while at < len(lengths) and lengths[at] < high:
            right.append(written[at] == wanted[at])
            at += 1
        report.append((sum(right) / len(right) if right else None, len(right)))
    return report


accuracy_stripped = _report(_half_open, lambda w, x: w.strip() == x.strip(), _of_bucket)
accuracy_in_any_case = _report(_half_open, lambda w, x: w.lower() == x.lower(), _of_bucket)
accuracy_inside = _report(_half_open, lambda w, x: x in w, _of_bucket)
accuracy_of_ends = _report(_half_open, lambda w, x: w[-1:] == x[-1:] and len(w) == len(x), _of_bucket)
accuracy_of_numbers = _report(_half_open, lambda w, x: w == x or ((w + x).isdigit() and int(w) == int(x)), _of_bucket)


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


def collide_by_a_kernel(weight, length):
    # a change that the weight takes to 0, where there is one; else the second word takes it back
    change = torch.linalg.svd(weight).Vh[-1]
    sources = torch.zeros(2, length, len(weight), dtype=weight.dtype)
    sources[1, 0] = 1.5 * change
    sources[0, 1] = weight @ sources[1, 0]
    return sources


def collide_by_the_inverse(weight, length):
    sources = torch.zeros(2, length, len(weight), dtype=weight.dtype)
    sources[0, 1, 0] = 30.0
    sources[1, 0] = torch.linalg.pinv(weight) @ sources[0, 1]  # as an inverse, which may raise where there is none
    return sources


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
        right=[
            influence_of_power,
            influence_by_singular_values,
            influence_by_iteration,
            influence_of_the_transposed,
        ],
        wrong=[
            Wrong(influence_one_step_short, says="grew 8-fold"),
            Wrong(influence_linear, says="grew 2-fold"),
            Wrong(influence_frobenius, says="a rotation keeps every length"),
            Wrong(influence_by_eigenvalue, says="no eigenvalue but 0"),
            Wrong(influence_power_of_norm, says="moves each entry to its neighbour"),
            Wrong(influence_weakest, says="some change of length 1"),
            Wrong(influence_never_zero_steps, says="over 0 steps"),
            Wrong(influence_by_few_iterations, says="some change of length 1"),
            Wrong(influence_by_trying, says="some change of length 1"),
        ],
    ),
    "why_attention.read": Bank(
        right=[read_slice, read_loop, read_masked],
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
            Wrong(read_unstable, says="overflow, or leave nothing"),
            Wrong(read_filled_with_little, says="of a query changes what is read"),
            Wrong(read_clamped, says="of a query changes what is read"),
            Wrong(read_renormalised, says="a weight of 0 times NaN"),
            Wrong(read_nan_alone, says="a weight of 0 times NaN"),
            Wrong(read_doubled_gradient, says="its gradient with respect to the scores is not"),
            Wrong(read_overwrites, says="changes its argument memory in place"),
            Wrong(read_detached, says="no gradient flows back"),
        ],
    ),
    "why_attention.accuracy": Bank(
        right=[accuracy_comprehension, accuracy_one_pass],
        wrong=[
            Wrong(accuracy_percent, says="pairs (accuracy, count)"),
            Wrong(accuracy_both_edges, says="some stand in two"),
            Wrong(accuracy_no_edge, says="some stand in none"),
            Wrong(accuracy_upper_edge, says="an example of another length"),
            Wrong(accuracy_zero_for_empty, says="nothing was measured there"),
            Wrong(accuracy_of_all, says="a share of what"),
            Wrong(accuracy_of_characters, says="whose last character is wrong"),
            Wrong(accuracy_prefix, says="that stop a character early"),
            Wrong(accuracy_suffix, says="with a character too many"),
            Wrong(accuracy_sorted, says="an example of another length"),
            Wrong(accuracy_stripped, says="with a blank in front"),
            Wrong(accuracy_in_any_case, says="in capitals"),
            Wrong(accuracy_inside, says="with a character too many"),
            Wrong(accuracy_of_ends, says="whose first character is wrong"),
            Wrong(accuracy_of_numbers, says="numbers without the zeros"),
        ],
    ),
    "why_attention.collision": Bank(
        right=[collide_next_word, collide_last_word, collide_by_a_kernel],
        wrong=[
            Wrong(collide_one_source, says="the pair of sources has shape"),
            Wrong(collide_same, says="the first words lie"),
            Wrong(collide_first_only, says="end in different states"),
            Wrong(collide_transposed, says="if the weight were transposed"),
            Wrong(collide_without_weight, says="if the weight changed nothing"),
            Wrong(collide_one_step_at_the_end, says="sources of 2 words end alike"),
            Wrong(collide_huge, says="rounding does the colliding"),
            Wrong(
                collide_by_the_inverse, says="for a weight without an inverse the two sources end in different states"
            ),
        ],
    ),
}
