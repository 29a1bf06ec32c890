"""Writing with a trained model: the likeliest token after token, or drawn ones.

Everything is read again for every token. The chapter on the key-value cache is about not doing so.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse._shared.validate import require

NextLogits = Callable[[Int[Tensor, "b t"]], Float[Tensor, "b t n"]]


def choose(
    logits: Float[Tensor, "b n"],
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    rng: torch.Generator | None = None,
) -> Int[Tensor, " b"]:
    """A token of each row: the likeliest at temperature 0, else drawn from softmax(logits / temperature).

    Args:
        top_k: draw among this many likeliest tokens only.
        rng: what draws; needed above temperature 0.

    Raises:
        ValueError: a temperature below 0, top_k outside the vocabulary, or nothing to draw with.
    """
    require(temperature >= 0, f"temperature must be at least 0, got {temperature}")
    require(
        top_k is None or 1 <= top_k <= logits.shape[-1],
        f"top_k must lie in 1..{logits.shape[-1]}, the size of the vocabulary, got {top_k}",
    )
    if temperature == 0:
        return logits.argmax(dim=-1)
    require(rng is not None, f"temperature {temperature} draws tokens: give a torch.Generator as rng")
    if top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=-1).values[:, -1:], -torch.inf)
    return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=rng)[:, 0]


@torch.no_grad()
def generate(
    next_logits: NextLogits,
    prompts: Sequence[Int[Tensor, " _"]],
    *,
    steps: int,
    context: int | None = None,
    end: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    rng: torch.Generator | None = None,
) -> Int[Tensor, "b steps"]:
    """`steps` tokens after each prompt; 0, which is padding, after `end`.

    Args:
        next_logits: tokens (b, t) to logits (b, t, n) of the token after each, blind to the future: a `DecoderLM`, or
            `EncoderDecoder.reader(source, lengths)`.
        prompts: sequences of one token or more, of any lengths.
        context: how many of the last tokens are read; what next_logits can take, or all.
        end: the token after which a row is finished.
        temperature, top_k, rng: as in `choose`.

    Raises:
        ValueError: no prompt, an empty prompt, or steps or context below 1; as `choose`.
    """
    require(len(prompts) >= 1 and steps >= 1, f"give a prompt and a step, got {len(prompts)} prompts, {steps} steps")
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=prompts[0].device)
    require(int(lengths.min()) >= 1, f"a prompt needs a token, got lengths {lengths.tolist()}")
    if context is None:
        context = getattr(next_logits, "context", int(lengths.max()) + steps)
    require(context >= 1, f"context must be at least 1, got {context}")
    # What stands behind a prompt is padding until it is written over: a causal model does not see it.
    tokens = nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
    tokens = nn.functional.pad(tokens, (0, steps))
    rows, done = torch.arange(len(prompts), device=tokens.device), torch.zeros_like(lengths, dtype=torch.bool)
    written = torch.zeros(len(prompts), steps, dtype=torch.long, device=tokens.device)
    for step in range(steps):
        starts = (lengths - context).clamp_min(0)
        places = starts[:, None] + torch.arange(min(context, int(lengths.max())), device=tokens.device)
        logits = next_logits(tokens.gather(1, places))[rows, lengths - 1 - starts]
        token = choose(logits, temperature=temperature, top_k=top_k, rng=rng).masked_fill(done, 0)
        tokens[rows, lengths] = written[:, step] = token
        lengths = lengths + 1
        if end is not None:
            done = done | (token == end)
            if done.all():
                break
    return written
