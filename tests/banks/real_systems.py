"""Solutions of the unit `real_systems`: right ones written differently, and mistakes."""

import torch

from tests.banks.kinds import Bank, Wrong

# real_systems.cost


def cost_by_parts(s, t, d):
    def product(rows, inner, columns):
        return 2 * rows * inner * columns

    def attention(queries, keys):
        projections = 2 * product(queries, d, d) + 2 * product(keys, d, d)
        return projections + product(queries, d, keys) + product(queries, keys, d)

    def feed(n):
        return product(n, d, 4 * d) + product(n, 4 * d, d)

    return attention(s + t, s + t) + feed(s + t), attention(s, s) + feed(s) + attention(t, t) + attention(t, s) + feed(
        t
    )


def cost_formula(s, t, d):
    n = s + t
    return 24 * n * d * d + 4 * n * n * d, torch.tensor(28 * n * d * d + 4 * (s * s + t * t + t * s) * d)


def cost_multiplications(s, t, d):
    return tuple(int(x) // 2 for x in cost_formula(s, t, d))


def cost_no_scores(s, t, d):
    return 24 * (s + t) * d * d, cost_formula(s, t, d)[1]


def cost_two_sequences(s, t, d):
    return 24 * (s + t) * d * d + 4 * (s * s + t * t) * d, cost_formula(s, t, d)[1]


def cost_half(s, t, d):
    return 24 * (s + t) * d * d + 2 * (s + t) ** 2 * d, cost_formula(s, t, d)[1]


def cost_no_cross(s, t, d):
    return cost_formula(s, t, d)[0], 24 * (s + t) * d * d + 4 * (s * s + t * t) * d


def cost_cross_without_projections(s, t, d):
    return cost_formula(s, t, d)[0], 24 * (s + t) * d * d + 4 * (s * s + t * t + s * t) * d


def cost_cross_projects_target(s, t, d):
    return cost_formula(s, t, d)[0], 24 * (s + t) * d * d + 8 * t * d * d + 4 * (s * s + t * t + s * t) * d


def cost_second_feed_forward(s, t, d):
    one, two = cost_formula(s, t, d)
    return one, int(two) + 16 * t * d * d


def cost_one_number(s, t, d):
    return cost_formula(s, t, d)[0]


def cost_ignores_the_source_of_cross(s, t, d):
    # keys and values of cross-attention projected from as many tokens as there are queries, scores t by t
    return cost_formula(s, t, d)[0], 24 * (s + t) * d * d + 4 * (s * s + t * t + t * t) * d + 4 * (s + t) * d * d


# real_systems.connect


def connect_by_loops(system, first, second):
    n = first + second
    matrix = torch.zeros(n, n, dtype=torch.bool)
    for reader in range(n):
        for read in range(n):
            if system == "encoder-only":
                may = True
            elif system == "decoder-only":
                may = read <= reader
            elif system == "image and text":
                may = not (reader < first <= read)
            else:
                may = read < first or read <= reader
            matrix[reader, read] = may
    return matrix


def connect_by_blocks(system, first, second):
    n = first + second
    matrix = torch.ones(n, n, dtype=torch.bool)
    if system == "decoder-only":
        return matrix.tril()
    if system in ("prefix", "encoder-decoder"):
        matrix[first:, first:] = matrix[first:, first:].tril()
    if system != "encoder-only":
        matrix[:first, first:] = False
    return matrix


def connect_transposed(system, first, second):
    return connect_by_blocks(system, first, second).T


def connect_strict(system, first, second):
    return connect_by_blocks(system, first, second).tril(-1) if system == "decoder-only" else connect_by_blocks(system, first, second)  # fmt: skip


def connect_given_is_causal(system, first, second):
    return connect_by_blocks("decoder-only" if system in ("prefix", "encoder-decoder") else system, first, second)


def connect_no_cross_attention(system, first, second):
    matrix = connect_by_blocks(system, first, second)
    if system == "encoder-decoder":
        matrix[first:, :first] = False
    return matrix


def connect_target_sees_all(system, first, second):
    return connect_by_blocks("image and text" if system == "encoder-decoder" else system, first, second)


def connect_picture_reads(system, first, second):
    return connect_by_blocks("encoder-only" if system == "image and text" else system, first, second)


def connect_words_are_causal(system, first, second):
    return connect_by_blocks("prefix" if system == "image and text" else system, first, second)


def connect_floats(system, first, second):
    return connect_by_blocks(system, first, second).double()


# real_systems.cross


def cross_batched(x, context, w_q, w_k, w_v, lengths):
    exists = torch.arange(context.shape[1]) < lengths[:, None]
    context = torch.where(exists[..., None], context, 0.0)
    scores = torch.einsum("btd,kd,kc,bsc->bts", x, w_q, w_k, context) * len(w_q) ** -0.5
    scores = torch.where(exists[:, None], scores, -torch.inf)
    grown = torch.exp(scores - scores.amax(dim=-1, keepdim=True).detach())
    return grown / grown.sum(dim=-1, keepdim=True) @ (context @ w_v.T)


def cross_in_place(x, context, w_q, w_k, w_v, lengths):
    b, s, _ = context.shape
    context = context.clone()
    for row in range(b):
        context[row, lengths[row] :] = 0.0
    scores = torch.baddbmm(x.new_zeros(1, 1, 1), x @ w_q.T, (context @ w_k.T).mT, beta=0, alpha=len(w_k) ** -0.5)
    bias = torch.zeros(b, 1, s, dtype=x.dtype)
    bias.masked_fill_((torch.arange(s) >= lengths[:, None])[:, None], float("-inf"))
    return torch.softmax(scores + bias, dim=2).bmm(context @ w_v.T)


def cross_renormalised(x, context, w_q, w_k, w_v, lengths):
    exists = torch.arange(context.shape[1]) < lengths[:, None]
    context = torch.where(exists[..., None], context, 0.0)
    weights = torch.softmax(x @ w_q.T @ (context @ w_k.T).mT * len(w_q) ** -0.5, dim=-1) * exists[:, None]
    return weights / weights.sum(dim=-1, keepdim=True) @ (context @ w_v.T)


def cross_filled_with_little(x, context, w_q, w_k, w_v, lengths):
    exists = torch.arange(context.shape[1]) < lengths[:, None]
    context = torch.where(exists[..., None], context, 0.0)
    scores = x @ w_q.T @ (context @ w_k.T).mT * len(w_q) ** -0.5
    return torch.softmax(scores.masked_fill(~exists[:, None], -1e9), dim=-1) @ (context @ w_v.T)


def cross_clamped(x, context, w_q, w_k, w_v, lengths):
    def weigh(scores):
        return torch.softmax(scores.clamp(-700, 700), dim=-1)

    return _cross_row_by_row(x, context, w_q, w_k, w_v, lengths, weigh)


def cross_naive(x, context, w_q, w_k, w_v, lengths):
    def weigh(scores):
        return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)

    return _cross_row_by_row(x, context, w_q, w_k, w_v, lengths, weigh)


def cross_ready_made(x, context, w_q, w_k, w_v, lengths):
    exists = (torch.arange(context.shape[1]) < lengths[:, None])[:, None]
    context = context.masked_fill(~exists.mT, 0.0)
    return torch.nn.functional.scaled_dot_product_attention(x @ w_q.T, context @ w_k.T, context @ w_v.T, exists)


def cross_detached_queries(x, context, w_q, w_k, w_v, lengths):
    return cross_row_by_row(x.detach(), context, w_q, w_k, w_v, lengths)


def cross_keys_detached(x, context, w_q, w_k, w_v, lengths):
    rows = []
    for row, memory, n in zip(x, context, lengths, strict=True):
        scores = (row @ w_q.T) @ (memory[:n] @ w_k.T).detach().T / len(w_q) ** 0.5
        rows.append(torch.softmax(scores, dim=-1) @ memory[:n] @ w_v.T)
    return torch.stack(rows)


def cross_overwrites(x, context, w_q, w_k, w_v, lengths):
    context[torch.arange(context.shape[1]) >= lengths[:, None]] = 0.0
    return cross_row_by_row(x, context, w_q, w_k, w_v, lengths)


def cross_second_length_alone(x, context, w_q, w_k, w_v, lengths):
    return cross_row_by_row(x, context, w_q, w_k, w_v, torch.full_like(lengths, int(lengths.min())))


def _cross_row_by_row(x, context, w_q, w_k, w_v, lengths, weigh):
    rows = []
    for row, memory, n in zip(x, context, lengths, strict=True):
        memory = memory[:n]
        scores = (row @ w_q.T) @ (memory @ w_k.T).T / len(w_q) ** 0.5
        rows.append(weigh(scores) @ memory @ w_v.T)
    return torch.stack(rows)


def cross_row_by_row(x, context, w_q, w_k, w_v, lengths):
    return _cross_row_by_row(x, context, w_q, w_k, w_v, lengths, lambda scores: torch.softmax(scores, dim=-1))


def cross_no_lengths(x, context, w_q, w_k, w_v, lengths):
    scores = (x @ w_q.T) @ (context @ w_k.T).transpose(1, 2) / len(w_q) ** 0.5
    return torch.softmax(scores, dim=-1) @ (context @ w_v.T)


def cross_unscaled(x, context, w_q, w_k, w_v, lengths):
    return cross_row_by_row(x * len(w_q) ** 0.5, context, w_q, w_k, w_v, lengths)


def cross_nan(x, context, w_q, w_k, w_v, lengths):
    exists = torch.arange(context.shape[1]) < lengths[:, None, None]
    scores = (x @ w_q.T) @ (context @ w_k.T).transpose(1, 2) / len(w_q) ** 0.5
    return torch.softmax(scores.masked_fill(~exists, -torch.inf), dim=-1) @ (context @ w_v.T)


def cross_zeroed_keys(x, context, w_q, w_k, w_v, lengths):
    exists = torch.arange(context.shape[1]) < lengths[:, None]
    return cross_no_lengths(x, context.masked_fill(~exists[..., None], 0.0), w_q, w_k, w_v, lengths)


def cross_wrong_axis(x, context, w_q, w_k, w_v, lengths):
    rows = []
    for row, memory, n in zip(x, context, lengths, strict=True):
        scores = (row @ w_q.T) @ (memory[:n] @ w_k.T).T / len(w_q) ** 0.5
        rows.append(torch.softmax(scores, dim=0) @ memory[:n] @ w_v.T)
    return torch.stack(rows)


def cross_reversed(x, context, w_q, w_k, w_v, lengths):
    return cross_row_by_row(x.flip(1), context, w_q, w_k, w_v, lengths)


def cross_detached(x, context, w_q, w_k, w_v, lengths):
    return cross_row_by_row(x, context.detach(), w_q, w_k, w_v, lengths)


def cross_untouched(x, context, w_q, w_k, w_v, lengths):
    return torch.zeros(*x.shape[:2], len(w_v), dtype=x.dtype)


def cross_shape(x, context, w_q, w_k, w_v, lengths):
    return cross_row_by_row(x, context, w_q, w_k, w_v, lengths)[0]


# real_systems.search


def search_matrix(counts, query, k1, b):
    n, lengths = len(counts), counts.sum(dim=1, keepdim=True)
    holding = (counts > 0).sum(dim=0)
    weights = torch.log1p((n - holding + 0.5) / (holding + 0.5)) * counts * (k1 + 1)
    weights = weights / (counts + k1 * (1 - b + b * lengths / lengths.mean()))
    return weights @ torch.bincount(torch.tensor(query), minlength=counts.shape[1]).double()


def search_loop(counts, query, k1, b, *, rarity=None, repeat=None, length=None, words=None):
    """Right unless told otherwise; each option replaces one part of the formula."""
    n, mean = len(counts), counts.sum().item() / len(counts)
    scores = []
    for row in counts.tolist():
        score = 0.0
        for word in query if words is None else words(query):
            holding = int((counts[:, word] > 0).sum())
            rare = torch.log(torch.tensor(1 + (n - holding + 0.5) / (holding + 0.5))).item()
            rare = rare if rarity is None else rarity(n, holding)
            held = 1 - b + b * sum(row) / mean if length is None else length
            f = row[word]
            score += rare * (f * (k1 + 1) / (f + k1 * held) if repeat is None else repeat(f))
        scores.append(score)
    return torch.tensor(scores, dtype=torch.float64)


def log(x):
    return torch.tensor(x).log().item()


def search_negative(counts, query, k1, b):
    return search_loop(counts, query, k1, b, rarity=lambda n, m: log((n - m + 0.5) / (m + 0.5)))


def search_all_words_alike(counts, query, k1, b):
    return search_loop(counts, query, k1, b, rarity=lambda n, m: 1.0)


def search_linear(counts, query, k1, b):
    return search_loop(counts, query, k1, b, repeat=lambda f: f)


def search_binary(counts, query, k1, b):
    return search_loop(counts, query, k1, b, repeat=lambda f: float(f > 0))


def search_no_length(counts, query, k1, b):
    return search_loop(counts, query, k1, b, length=1.0)


def search_set_of_words(counts, query, k1, b):
    return search_loop(counts, query, k1, b, words=set)


def search_only_first_word(counts, query, k1, b):
    return search_loop(counts, query, k1, b, words=lambda query: query[:1])


def search_without_factor(counts, query, k1, b):
    return search_loop(counts, query, k1, b) / (k1 + 1)


def search_smoothed(counts, query, k1, b):
    return search_loop(counts + 0.1, query, k1, b)


def search_short_memory(counts, query, k1, b):
    return search_loop(counts, query, 1.2, 0.75)


def search_decimal_logarithm(counts, query, k1, b):
    return search_loop(counts, query, k1, b) / log(10.0)


# real_systems.fuse


def fuse_selected(q, k, v, lengths):
    keys = torch.cat([passage[:n] for passage, n in zip(k, lengths, strict=True)])
    values = torch.cat([passage[:n] for passage, n in zip(v, lengths, strict=True)])
    return torch.softmax(q @ keys.T * q.shape[-1] ** -0.5, dim=-1) @ values


def fuse_merged(q, k, v, lengths):
    """Passage by passage, merged by log-sum-exp."""
    top = torch.full((len(q),), -torch.inf, dtype=q.dtype)
    total, out = torch.zeros_like(top), torch.zeros(len(q), v.shape[-1], dtype=q.dtype)
    for keys, values, n in zip(k, v, lengths, strict=True):
        if n == 0:
            continue
        scores = q @ keys[:n].T / q.shape[-1] ** 0.5
        new = torch.maximum(top, scores.amax(dim=1))
        grown, rescale = torch.exp(scores - new[:, None]), torch.exp(top - new)
        total, out = total * rescale + grown.sum(dim=1), out * rescale[:, None] + grown @ values[:n]
        top = new
    return out / total[:, None]


def fuse_average(q, k, v, lengths):
    read = [
        torch.softmax(q @ x[:n].T / q.shape[-1] ** 0.5, dim=-1) @ y[:n] for x, y, n in zip(k, v, lengths, strict=True)
    ]
    return torch.stack(read).mean(dim=0)


def fuse_by_length(q, k, v, lengths):
    read = [
        torch.softmax(q @ x[:n].T / q.shape[-1] ** 0.5, dim=-1) @ y[:n] for x, y, n in zip(k, v, lengths, strict=True)
    ]
    return sum(r * n for r, n in zip(read, lengths, strict=True)) / lengths.sum()


def fuse_sum(q, k, v, lengths):
    return fuse_average(q, k, v, lengths) * len(k)


def fuse_padding(q, k, v, lengths):
    return torch.softmax(q @ k.flatten(0, 1).T / q.shape[-1] ** 0.5, dim=-1) @ v.flatten(0, 1)


def fuse_cut_at_the_end(q, k, v, lengths):
    n = int(lengths.sum())
    keys, values = k.flatten(0, 1)[:n], v.flatten(0, 1)[:n]
    return torch.softmax(q @ keys.T / q.shape[-1] ** 0.5, dim=-1) @ values


def fuse_nan(q, k, v, lengths):
    exists = (torch.arange(k.shape[1]) < lengths[:, None]).flatten()
    scores = (q @ k.flatten(0, 1).T / q.shape[-1] ** 0.5).masked_fill(~exists, -torch.inf)
    return torch.softmax(scores, dim=-1) @ v.flatten(0, 1)


def fuse_unstable(q, k, v, lengths):
    exists = torch.arange(k.shape[1]) < lengths[:, None]
    grown = torch.exp(q @ k[exists].T / q.shape[-1] ** 0.5)
    return grown / grown.sum(dim=-1, keepdim=True) @ v[exists]


def fuse_best_passage(q, k, v, lengths):
    best, score = None, -float("inf")
    for keys, values, n in zip(k, v, lengths, strict=True):
        if n and (q @ keys[:n].T).max() > score:
            score, best = (q @ keys[:n].T).max(), (keys[:n], values[:n])
    weights = torch.softmax(q @ best[0].T / q.shape[-1] ** 0.5, dim=-1)
    return weights @ best[1]


def fuse_masked(q, k, v, lengths):
    behind = torch.arange(k.shape[1]) >= lengths[:, None]
    k, v = (x.masked_fill(behind[..., None], 0.0).flatten(0, 1) for x in (k, v))
    scores = (q @ k.T * q.shape[-1] ** -0.5).masked_fill(behind.flatten(), -torch.inf)
    return torch.softmax(scores, dim=-1) @ v


def fuse_renormalised(q, k, v, lengths):
    exists = torch.arange(k.shape[1]) < lengths[:, None]
    k, v = (x.masked_fill(~exists[..., None], 0.0).flatten(0, 1) for x in (k, v))
    weights = torch.softmax(q @ k.T * q.shape[-1] ** -0.5, dim=-1) * exists.flatten()
    return weights / weights.sum(dim=-1, keepdim=True) @ v


def fuse_filled_with_little(q, k, v, lengths):
    behind = torch.arange(k.shape[1]) >= lengths[:, None]
    k, v = (x.masked_fill(behind[..., None], 0.0).flatten(0, 1) for x in (k, v))
    return torch.softmax((q @ k.T * q.shape[-1] ** -0.5).masked_fill(behind.flatten(), -1e9), dim=-1) @ v


def fuse_clamped(q, k, v, lengths):
    exists = torch.arange(k.shape[1]) < lengths[:, None]
    return torch.softmax((q @ k[exists].T / q.shape[-1] ** 0.5).clamp(-5000, 800), dim=-1) @ v[exists]


def fuse_stops_at_an_empty_passage(q, k, v, lengths):
    full = int((lengths > 0).int().cumprod(dim=0).sum())
    return fuse_selected(q, k[:full], v[:full], lengths[:full]) if full else fuse_selected(q, k, v, lengths)


def fuse_first_always(q, k, v, lengths):
    return fuse_selected(q, k, v, lengths.clamp_min(1))


BANK = {
    "real_systems.cost": Bank(
        right=[cost_by_parts, cost_formula],
        wrong=[
            Wrong(cost_multiplications, says="a multiplication and an addition are two operations"),
            Wrong(cost_no_scores, says="lacks the scores and the mixing"),
            Wrong(cost_two_sequences, says="a target token reads source tokens too"),
            Wrong(cost_half, says="each product counts scores and mixing"),
            Wrong(cost_no_cross, says="nothing was counted for cross-attention"),
            Wrong(cost_cross_without_projections, says="four projections of its own"),
            Wrong(cost_cross_projects_target, says="two of source tokens"),
            Wrong(cost_second_feed_forward, says="a block has one feed-forward"),
            Wrong(cost_one_number, says="return two numbers"),
            Wrong(cost_ignores_the_source_of_cross, says="the operations of encoder-decoder are wrong"),
        ],
    ),
    "real_systems.connect": Bank(
        right=[connect_by_loops, connect_by_blocks],
        wrong=[
            Wrong(connect_transposed, says="rows and columns are swapped"),
            Wrong(connect_strict, says="token 0 of the first group does not read token 0 of the first group"),
            Wrong(connect_given_is_causal, says="does not read token 1 of the first group"),
            Wrong(connect_no_cross_attention, says="the second group does not read token 0 of the first group"),
            Wrong(connect_target_sees_all, says="token 0 of the second group reads token 1 of the second group"),
            Wrong(connect_picture_reads, says="token 0 of the first group reads token 0 of the second group"),
            Wrong(
                connect_words_are_causal, says="token 0 of the second group does not read token 1 of the second group"
            ),
            Wrong(connect_floats, says="expected booleans"),
        ],
    ),
    "real_systems.cross": Bank(
        right=[cross_batched, cross_row_by_row, cross_in_place],
        wrong=[
            Wrong(cross_no_lengths, says="they are padding"),
            Wrong(cross_unscaled, says="the scores are not scaled"),
            Wrong(cross_nan, says="a weight of 0 times NaN or infinity is NaN"),
            Wrong(cross_zeroed_keys, says="padding took a share of the weight"),
            Wrong(cross_wrong_axis, says="the weights of a query do not sum to 1"),
            Wrong(cross_reversed, says="differs from attention of the projected queries"),
            Wrong(cross_detached, says="no gradient reaches the queries or the context"),
            Wrong(cross_untouched, says="does not change with the context"),
            Wrong(cross_shape, says="the output has shape"),
            Wrong(cross_renormalised, says="near 900, -900 or -2e9, the output holds NaN"),
            Wrong(cross_naive, says="near 900, -900 or -2e9, the output holds NaN"),
            Wrong(cross_filled_with_little, says="near 900, -900 or -2e9, the output is wrong"),
            Wrong(cross_clamped, says="near 900, -900 or -2e9, the output is wrong"),
            Wrong(cross_ready_made, says="cross_attend uses scaled_dot_product"),
            Wrong(cross_detached_queries, says="no gradient reaches the queries or the context"),
            Wrong(cross_keys_detached, says="its gradient with respect to the context is not"),
            Wrong(cross_overwrites, says="changes its argument context in place"),
            Wrong(cross_second_length_alone, says="differs from attention of the projected queries"),
        ],
    ),
    "real_systems.search": Bank(
        right=[search_matrix, search_loop],
        wrong=[
            Wrong(search_negative, says="its logarithm is negative"),
            Wrong(search_all_words_alike, says="counts for no more than one that all of them hold"),
            Wrong(search_linear, says="repetitions should count for less"),
            Wrong(search_binary, says="a second occurrence of a word in a passage adds nothing"),
            Wrong(search_no_length, says="how much length is held against it"),
            Wrong(search_set_of_words, says="holds twice does not count twice"),
            Wrong(search_only_first_word, says="the scores of two words do not add up"),
            Wrong(search_without_factor, says="the scores differ from the formula"),
            Wrong(search_smoothed, says="lacks the word and scores"),
            Wrong(search_short_memory, says="the scores differ from the formula"),
            Wrong(search_decimal_logarithm, says="the scores differ from the formula"),
        ],
    ),
    "real_systems.fuse": Bank(
        right=[fuse_selected, fuse_merged, fuse_masked],
        wrong=[
            Wrong(fuse_average, says="the readings are averaged"),
            Wrong(fuse_by_length, says="weighted by the passages' lengths"),
            Wrong(fuse_sum, says="not normalised over the keys"),
            Wrong(fuse_padding, says="has weight, and that passage has"),
            Wrong(fuse_cut_at_the_end, says="of passage 1 has weight, and that passage has 1 words"),
            Wrong(fuse_nan, says="the padding of a passage holds nan, and NaN came through"),
            Wrong(fuse_unstable, says="with scores of about a thousand what is read holds NaN"),
            Wrong(fuse_best_passage, says="not attention over the words of all passages together"),
            Wrong(fuse_first_always, says="a passage without words changes what is read"),
            Wrong(fuse_stops_at_an_empty_passage, says="a passage without words changes what is read"),
            Wrong(fuse_renormalised, says="near 900, -900 or -2e9 what is read holds NaN"),
            Wrong(fuse_filled_with_little, says="near 900, -900 or -2e9 what is read is wrong"),
            Wrong(fuse_clamped, says="with scores of about a thousand what is read is wrong"),
        ],
    ),
}
