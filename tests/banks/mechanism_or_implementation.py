"""Solutions of the unit `mechanism_or_implementation`: right ones written differently, and mistakes."""

import itertools
import math

import torch

from tests.banks.kinds import Bank, Wrong

# mechanism_or_implementation.rescale


def tile_by_formula(top, total, mixed, scores, values):
    new = torch.maximum(top, scores.max(dim=1).values)
    at = torch.where(new == -torch.inf, 0.0, new)
    weights, back = torch.exp(scores - at[:, None]), torch.exp(top - at)
    return new, back * total + weights.sum(dim=1), back[:, None] * mixed + weights @ values


def tile_key_by_key(top, total, mixed, scores, values):
    for score, value in zip(scores.T, values, strict=True):
        new = torch.maximum(top, score)
        back = torch.exp(top - new).nan_to_num(0.0)
        weight = torch.exp(score - new).nan_to_num(0.0)
        total, mixed, top = back * total + weight, back[:, None] * mixed + weight[:, None] * value, new
    return top, total, mixed


def _tile(top, total, mixed, scores, values, *, total_by=None, mixed_by=None, power=1.0, tile_top=False):
    new = scores.max(dim=1).values
    new = new if tile_top else torch.maximum(top, new)
    at = torch.where(new == -torch.inf, 0.0, new)
    weights, back = torch.exp(scores - at[:, None]), torch.exp((top - at) * power)
    back = torch.where(top == -torch.inf, 0.0, back)
    total_by, mixed_by = (back if x is None else torch.ones_like(back) for x in (total_by, mixed_by))
    return new, total_by * total + weights.sum(dim=1), mixed_by[:, None] * mixed + weights @ values


def tile_total_not_rescaled(*args):
    return _tile(*args, total_by=1)


def tile_mixed_not_rescaled(*args):
    return _tile(*args, mixed_by=1)


def tile_rescaled_upwards(*args):
    return _tile(*args, power=-1.0)


def tile_own_maximum(*args):
    return _tile(*args, tile_top=True)


def tile_normalised(*args):
    top, total, mixed = _tile(*args)
    return top, total, mixed / total.clamp_min(1e-300)[:, None]


def tile_nan(top, total, mixed, scores, values):
    new = torch.maximum(top, scores.max(dim=1).values)
    weights, back = torch.exp(scores - new[:, None]), torch.exp(top - new)
    return new, back * total + weights.sum(dim=1), back[:, None] * mixed + weights @ values


def tile_in_place(top, total, mixed, scores, values):
    old = top.clone()
    torch.maximum(top, scores.amax(dim=1), out=top)
    at = top.masked_fill(top == -torch.inf, 0.0)
    weights, back = scores.sub(at[:, None]).exp_(), old.sub_(at).exp_()
    total.mul_(back).add_(weights.sum(dim=1))
    mixed.mul_(back[:, None]).addmm_(weights, values)
    return [top, total, mixed]


def tile_naive(top, total, mixed, scores, values):
    new = torch.maximum(top, scores.amax(dim=1))
    at = torch.where(new == -torch.inf, 0.0, new)
    sums, mixture = torch.exp(scores).sum(dim=1), torch.exp(scores) @ values
    down = torch.exp(-at)
    back = torch.exp(top - at)
    return new, back * total + down * sums, back[:, None] * mixed + down[:, None] * mixture


def tile_clamped(top, total, mixed, scores, values):
    return _tile(top, total, mixed, scores.clamp(-100, 100), values)


def tile_finite_top(top, total, mixed, scores, values):
    new, *sums = _tile(top, total, mixed, scores, values)
    return new.clamp_min(-1e9), *sums


def tile_hidden_as_very_low(top, total, mixed, scores, values):
    return _tile(top, total, mixed, scores.masked_fill(scores == -torch.inf, -1e9), values)


def tile_zeroed_rows(top, total, mixed, scores, values):
    new, *sums = _tile(top, total, mixed, scores, values)
    blind = scores.amax(dim=1) == -torch.inf
    return new, sums[0].masked_fill(blind, 0.0), sums[1].masked_fill(blind[:, None], 0.0)


def tile_one_maximum(top, total, mixed, scores, values):
    new = torch.maximum(top, scores.amax())
    back, weights = torch.exp(top - new), torch.exp(scores - new[:, None])
    return new, back * total + weights.sum(dim=1), back[:, None] * mixed + weights @ values


def tile_two(*args):
    return _tile(*args)[:2]


# mechanism_or_implementation.separate


def separate_at_random(name, number):
    if name == "reordered":
        return None
    t, s = (2, 2 * number + 1) if name != "no maximum" else (2, 3)
    q, k, v = (torch.randn(n, 4, dtype=torch.float64) for n in (t, s, s))
    return (1e5 * q, k, v) if name == "no maximum" else (q, k, v)


def separate_by_hand(name, number):
    if name == "reordered":
        return None
    s = number + 1
    q, k = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(s, 1, dtype=torch.float64)
    if name == "no maximum":
        q, k = q + 1, k + 5000
    return q, k, torch.arange(s, dtype=torch.float64)[:, None]


def separate_nothing(name, number):
    return None


def separate_everything(name, number):
    return separate_at_random("whole blocks", number) if name == "reordered" else separate_at_random(name, number)


def separate_short(name, number):
    made = separate_at_random(name, number)
    return tuple(x[:1] if name == "window" and x is made[0] else x[:number] for x in made) if name == "window" else made


def separate_on_the_edge(name, number):
    made = separate_at_random(name, number)
    return (made[0], made[1][: 2 * number], made[2][: 2 * number]) if name == "whole blocks" else made


def separate_square(name, number):
    made = separate_at_random(name, number)
    return tuple(x[:2] for x in made) if name == "from the start" else made


def separate_small_scores(name, number):
    made = separate_at_random(name, number)
    return (made[0] / 1e5, *made[1:]) if name == "no maximum" else made


def separate_equal_values(name, number):
    made = separate_at_random(name, number)
    return made and (*made[:2], torch.ones_like(made[2]))


def separate_by_thirteen_keys(name, number):
    return separate_at_random(name, 6 if name == "whole blocks" else number)


def separate_infinite(name, number):
    made = separate_at_random(name, number)
    return made and (made[0] * torch.inf, *made[1:])


# mechanism_or_implementation.traffic


def traffic_by_formula(n, d, dv, block, itemsize):
    row, passes = n * itemsize, n // block
    return row * (passes * (d + dv) + d), row * passes * dv


def traffic_by_loops(n, d, dv, block, itemsize):
    read = written = 0
    for j in range(n // block):
        read += block * (d + dv)
        for _ in range(n // block):
            read += block * (d if j == 0 else d + dv)
            written += block * dv
    return read * itemsize, written * itemsize


def _traffic(n, d, dv, block, itemsize, *, kv=1, q=0, o=-1, written=0):
    """Keys and values, queries and outputs so many times; 0 and below count from the number of passes."""
    passes = n // block
    kv, q, o, written = (x if x > 0 else passes + x for x in (kv, q, o, written))
    return n * itemsize * (kv * (d + dv) + q * d + o * dv), n * itemsize * written * dv


def traffic_in_numbers(n, d, dv, block, itemsize):
    return _traffic(n, d, dv, block, 1)


def traffic_queries_once(*args):
    return _traffic(*args, q=1)


def traffic_output_not_read(n, d, dv, block, itemsize):
    read, written = _traffic(n, d, dv, block, itemsize)
    return read - n * itemsize * (n // block - 1) * dv, written


def traffic_output_read_first(*args):
    return _traffic(*args, o=0)


def traffic_of_half_precision(n, d, dv, block, itemsize):
    return _traffic(n, d, dv, block, 2)


def traffic_widths_swapped(n, d, dv, block, itemsize):
    return _traffic(n, dv, d, block, itemsize)


def traffic_first_pass_not_written(n, d, dv, block, itemsize):
    read, written = _traffic(n, d, dv, block, itemsize)
    return read, max(written - n * dv * itemsize, n * dv * itemsize)


def traffic_keys_alone(n, d, dv, block, itemsize):
    read, written = _traffic(n, d, dv, block, itemsize)
    return read - n * itemsize * dv, written


def traffic_keys_again(*args):
    return _traffic(*args, kv=0)


def traffic_written_once(*args):
    return _traffic(*args, written=1)


# mechanism_or_implementation.served


def served_in_order(lengths, memory, longest, page):
    free, count = memory // page, 0
    for n in lengths:
        free -= -(-n // page)
        if free < 0:
            break
        count += 1
    return memory // longest, count


def served_by_sums(lengths, memory, longest, page):
    sums = itertools.accumulate(math.ceil(n / page) for n in lengths)
    return memory // longest, sum(total * page <= memory for total in sums)


def _served(lengths, memory, longest, page, *, pages=lambda n, page: -(-n // page), overtake=False):
    free, count = memory // page, 0
    for n in lengths:
        if pages(n, page) <= free:
            free, count = free - pages(n, page), count + 1
        elif not overtake:
            break
    return memory // longest, count


def served_rounded_down(*args):
    return _served(*args, pages=lambda n, page: n // page)


def served_one_page_more(*args):
    return _served(*args, pages=lambda n, page: n // page + 1)


def served_overtaking(*args):
    return _served(*args, overtake=True)


def served_longest_in_pages(lengths, memory, longest, page):
    return memory // longest, memory // longest


def served_part_of_a_stretch(lengths, memory, longest, page):
    return -(-memory // longest), _served(lengths, memory, longest, page)[1]


def served_stretches_by_tokens(lengths, memory, longest, page):
    return _served(lengths, memory, longest, 1)[1], _served(lengths, memory, longest, page)[1]


def served_longest_that_came(lengths, memory, longest, page):
    return memory // max(lengths), _served(lengths, memory, longest, page)[1]


def served_part_of_a_page(lengths, memory, longest, page):
    return memory // longest, _served(lengths, memory + page - 1, longest, page)[1]


def served_last_page_kept(lengths, memory, longest, page):
    return memory // longest, _served(lengths, memory - page, longest, page)[1]


def served_at_least_one(*args):
    stretches, pages = _served(*args)
    return max(stretches, 1), pages


def served_fraction(lengths, memory, longest, page):
    return memory / longest, _served(lengths, memory, longest, page)[1]


# mechanism_or_implementation.bits


def bits_by_search(q, k, tolerance):
    step = (k.amax(dim=1) - k.amin(dim=1)).max()
    for bits in range(1, 17):
        if q.abs().sum() * step / (2**bits - 1) / 2 / len(q) ** 0.5 <= tolerance:
            return bits


def bits_by_logarithm(q, k, tolerance):
    each = (k.max(dim=1).values - k.min(dim=1).values) / 2 * q.abs().sum() / math.sqrt(len(q))
    return math.ceil(math.log2(float(each.max()) / tolerance + 1))


def _bits(q, k, tolerance, *, length=None, half=2, width=None, over=torch.max, lost=1):
    step = over(k.amax(dim=1) - k.amin(dim=1))
    length = q.abs().sum() if length is None else length(q)
    root = len(q) ** 0.5 if width is None else width
    return next(b for b in range(1, 40) if float(length * step / half / root) <= tolerance * (2**b - lost))


def bits_whole_step(*args):
    return _bits(*args, half=1)


def bits_no_root(*args):
    return _bits(*args, width=1)


def bits_euclidean(*args):
    return _bits(*args, length=torch.linalg.vector_norm)


def bits_mean_key(*args):
    return _bits(*args, over=torch.mean)


def bits_as_many_steps_as_codes(*args):
    return _bits(*args, lost=0)


def bits_largest_entry(q, k, tolerance):
    return _bits(q, torch.stack([k.abs().amax(dim=1), -k.abs().amax(dim=1)], dim=1), tolerance, width=len(q) ** 0.5)


def bits_one_spread(q, k, tolerance):
    return _bits(q, k.flatten()[None], tolerance)


def bits_first_key(q, k, tolerance):
    return _bits(q, k[:1], tolerance)


def bits_at_most_eight(*args):
    return min(_bits(*args), 8)


def bits_at_least_two(*args):
    return max(_bits(*args), 2)


def bits_one_more(*args):
    return _bits(*args) + 2 * 4


def bits_none(*args):
    return 1


def bits_fraction(q, k, tolerance):
    each = (k.amax(dim=1) - k.amin(dim=1)) / 2 * q.abs().sum() / math.sqrt(len(q))
    return math.log2(float(each.max()) / tolerance + 1)


BANK = {
    "mechanism_or_implementation.rescale": Bank(
        right=[tile_by_formula, tile_key_by_key, tile_in_place],
        wrong=[
            Wrong(tile_total_not_rescaled, says="total still holds weights"),
            Wrong(tile_mixed_not_rescaled, says="mixed still holds weights"),
            Wrong(tile_rescaled_upwards, says="must become smaller"),
            Wrong(tile_own_maximum, says="largest score of this tile"),
            Wrong(tile_normalised, says="divided by total already"),
            Wrong(tile_nan, says="holds NaN"),
            Wrong(tile_two, says="return three tensors"),
            Wrong(tile_naive, says="holds NaN"),
            Wrong(tile_clamped, says="top is not the largest score so far"),
            Wrong(tile_finite_top, says="top is not the largest score so far"),
            Wrong(tile_hidden_as_very_low, says="top is not the largest score so far"),
            Wrong(tile_zeroed_rows, says="total is not the sum"),
            Wrong(tile_one_maximum, says="top is not the largest score so far"),
        ],
    ),
    "mechanism_or_implementation.separate": Bank(
        right=[separate_at_random, separate_by_hand],
        wrong=[
            Wrong(separate_nothing, says="there are inputs that tell"),
            Wrong(separate_everything, says="do not care for the order"),
            Wrong(separate_short, says="further from its first key"),
            Wrong(separate_on_the_edge, says="a multiple of the block"),
            Wrong(separate_square, says="both masks are one"),
            Wrong(separate_small_scores, says="that exp overflows"),
            Wrong(separate_equal_values, says="all your values are equal"),
            Wrong(separate_infinite, says="must be finite"),
            Wrong(separate_by_thirteen_keys, says="a multiple of the block"),
        ],
    ),
    "mechanism_or_implementation.traffic": Bank(
        right=[traffic_by_formula, traffic_by_loops],
        wrong=[
            Wrong(traffic_in_numbers, says="numbers, not bytes"),
            Wrong(traffic_queries_once, says="the queries pass by again"),
            Wrong(traffic_output_not_read, says="has to be read first"),
            Wrong(traffic_output_read_first, says="no output to read yet"),
            Wrong(traffic_keys_alone, says="both keys and values are read"),
            Wrong(traffic_keys_again, says="keys and values stay"),
            Wrong(traffic_written_once, says="is written once for every block of keys"),
            Wrong(traffic_of_half_precision, says="the bytes read are wrong"),
            Wrong(traffic_widths_swapped, says="the bytes read are wrong"),
            Wrong(traffic_first_pass_not_written, says="the bytes written are wrong"),
        ],
    ),
    "mechanism_or_implementation.served": Bank(
        right=[served_in_order, served_by_sums],
        wrong=[
            Wrong(served_rounded_down, says="a page that is begun is taken"),
            Wrong(served_one_page_more, says="needs no further one"),
            Wrong(served_overtaking, says="nobody overtakes"),
            Wrong(served_longest_in_pages, says="and not the longest"),
            Wrong(served_part_of_a_stretch, says="does not fit whole"),
            Wrong(served_stretches_by_tokens, says="you count the tokens that stand"),
            Wrong(served_fraction, says="no parts of a request"),
            Wrong(served_longest_that_came, says="also if no such request came"),
            Wrong(served_part_of_a_page, says="only whole pages fit"),
            Wrong(served_last_page_kept, says="takes the very last page"),
            Wrong(served_at_least_one, says="a stretch that does not fit whole"),
        ],
    ),
    "mechanism_or_implementation.bits": Bank(
        right=[bits_by_search, bits_by_logarithm],
        wrong=[
            Wrong(bits_whole_step, says="half a step"),
            Wrong(bits_no_root, says="the square root of the width"),
            Wrong(bits_euclidean, says="may all add up"),
            Wrong(bits_mean_key, says="not their mean"),
            Wrong(bits_as_many_steps_as_codes, says="one step less than codes"),
            Wrong(bits_one_more, says="fewer bits keep"),
            Wrong(bits_none, says="may leave the tolerance"),
            Wrong(bits_fraction, says="a whole number of bits"),
            Wrong(bits_largest_entry, says="fewer bits keep"),
            Wrong(bits_one_spread, says="fewer bits keep"),
            Wrong(bits_first_key, says="may leave the tolerance"),
            Wrong(bits_at_most_eight, says="may leave the tolerance"),
            Wrong(bits_at_least_two, says="fewer bits keep"),
        ],
    ),
}
