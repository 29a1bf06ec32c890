"""Writing with a trained model: the likeliest token after token, or drawn ones.

Without caches everything is read again for every token. With them a token is read once, and rows that end make room for
prompts that wait: continuous batching, Yu et al. 2022, Orca (https://www.usenix.org/conference/osdi22/presentation/yu).
"""

import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from attncourse._shared.cache import KeyValueCache
from attncourse._shared.validate import require

from .caches import forget_row

NextLogits = Callable[[Int[Tensor, "b t"]], Float[Tensor, "b t n"]]


@dataclass(frozen=True)
class Read:
    """This is what one slot of the batch reads in one pass:
    of this prompt and what follows it, the tokens start..stop - 1.
    """

    prompt: int
    start: int
    stop: int


def choose(
    logits: Float[Tensor, "b n"],
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    rng: torch.Generator | list[torch.Generator] | None = None,
) -> Int[Tensor, " b"]:
    """Choose a token of each row: the likeliest at temperature 0, else drawn from softmax(logits / temperature).

    Of tokens that are equally likely the first counts as the likelier.

    Args:
        top_k: draw among this many likeliest tokens only.
        rng: what draws, for all rows or one a row; needed above temperature 0.

    Raises:
        ValueError: a temperature below 0 or infinite, top_k outside the vocabulary, or nothing to draw with.
    """
    _check_drawing(temperature, rng)
    require(
        top_k is None or 1 <= top_k <= logits.shape[-1],
        f"top_k must lie in 1..{logits.shape[-1]}, the size of the vocabulary, got {top_k}",
    )
    if temperature == 0:
        return logits.argmax(dim=-1)
    # In half precision a temperature of 1e-4 would divide past the largest number, and one of 1e-8 is 0 itself. Without
    # the largest logit, what overflows is -inf: a weight of 0.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits - logits.amax(dim=-1, keepdim=True)
    weights = torch.softmax(logits / max(temperature, torch.finfo(logits.dtype).tiny), dim=-1)
    if top_k is not None:
        kept = logits.argsort(dim=-1, descending=True, stable=True)[:, :top_k]
        weights = torch.zeros_like(weights).scatter(-1, kept, weights.gather(-1, kept))
    if isinstance(rng, torch.Generator):
        return torch.multinomial(weights, 1, generator=rng)[:, 0]
    return torch.cat([torch.multinomial(row, 1, generator=own) for row, own in zip(weights, rng, strict=True)])


@torch.no_grad()
def generate(
    model: NextLogits,
    prompts: Sequence[Int[Tensor, " _"]],
    *,
    steps: int | Sequence[int],
    caches: Callable[[int], Sequence[KeyValueCache]] | None = None,
    slots: int | None = None,
    chunk: int | None = None,
    context: int | None = None,
    end: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    rng: torch.Generator | None = None,
    progress: bool | None = None,
    on_pass: Callable[[list[Read]], None] | None = None,
) -> Int[Tensor, "b steps"]:
    """Return `steps` tokens after each prompt; 0, which is padding, after `end`.

    What follows a prompt depends on the prompt alone, not on caches, chunk, slots or who shares the batch: each prompt
    draws by a generator of its own, seeded from rng in the prompts' order.

    Args:
        model: tokens (b, t) to logits (b, t, n) of the token after each, blind to the future: a `DecoderLM`, or
            `EncoderDecoder.reader(source, lengths)`. With caches it takes `lengths` and `caches`, as `DecoderLM` does.
        prompts: sequences of one token or more, of any lengths.
        steps: how many tokens, of all prompts alike or one number a prompt.
        caches: from a number of rows to one fresh cache a block: `lambda b: new_caches(model, b, capacity=64)`.
            Without, everything is read again for every token.
        slots: how many rows share a batch, with caches; the other prompts wait until one ends (default: all).
        chunk: how many tokens of a row one pass reads at most, with caches (default: all).
        context: how many of the last tokens are read; what the model can take, or all. Caches forget nothing: with them
            a prompt and its steps must fit.
        end: the token after which a row is finished.
        temperature, top_k, rng: as in `choose`.
        progress: a bar on standard output; None shows it on terminals alone.
        on_pass: called after each pass of the model with what each slot read.

    Raises:
        ValueError: no prompt, an empty prompt, or another number below 1; slots or chunk without caches; with them, a
            prompt and steps that exceed the context or the caches' capacity, or a cache that holds something; as
            `choose`.
    """
    steps = [steps] * len(prompts) if isinstance(steps, int) else list(steps)
    _check_prompts(prompts, steps)
    _check_drawing(temperature, rng)
    require(caches is not None or slots is chunk is None, f"slots and chunk are for caches, got {slots} and {chunk}")
    rows = [_Row(i, prompt, n, _fork(rng)) for i, (prompt, n) in enumerate(zip(prompts, steps, strict=True))]
    longest = max(len(row.tokens) + row.left for row in rows) - 1  # what is written last is never read
    context = getattr(model, "context", longest) if context is None else context
    slots, chunk = len(rows) if slots is None else slots, longest if chunk is None else chunk
    for name, number in (("context", context), ("slots", slots), ("chunk", chunk)):
        require(number >= 1, f"{name} must be at least 1, got {number}")
    batch = _Batch(rows[:slots], deque(rows[slots:]), context=context, chunk=chunk)
    if caches is not None:
        batch.caches = caches(len(batch.rows))
        _check_room(batch.caches, longest, context)
    # disable=None is tqdm's own rule: no bar where the output is no terminal.
    with tqdm(total=sum(steps), file=sys.stdout, disable=None if progress is None else not progress) as bar:
        while any(row.left for row in batch.rows):
            reads = batch.plan()
            logits = batch.read(model, reads, device=prompts[0].device)
            if on_pass is not None:
                on_pass(reads)
            ready = batch.ready()
            if ready:
                rngs = None if rng is None else [batch.rows[i].rng for i in ready]
                tokens = choose(logits[ready], temperature=temperature, top_k=top_k, rng=rngs).tolist()
                batch.write(dict(zip(ready, tokens, strict=True)), end)
            bar.update(len(ready))
    written = [torch.tensor(row.tokens[len(prompts[i]) :]) for i, row in enumerate(rows)]
    written = nn.utils.rnn.pad_sequence(written, batch_first=True)
    return nn.functional.pad(written, (0, max(steps) - written.shape[1])).to(prompts[0].device)


class _Row:
    """A row is a prompt and what was written after it; its first `held` tokens stand in the caches."""

    def __init__(self, index: int, prompt: Int[Tensor, " _"], steps: int, rng: torch.Generator | None):
        self.index, self.tokens, self.left, self.rng, self.held = index, prompt.tolist(), steps, rng, 0


@dataclass
class _Batch:
    """A batch is the rows that share the passes of a model, a slot each, and those that wait for a slot."""

    rows: list[_Row]
    waiting: deque[_Row]
    context: int
    chunk: int
    caches: Sequence[KeyValueCache] | None = None

    def plan(self) -> list[Read]:
        """Return what each slot reads next: the tokens that its caches do not hold,
        or without caches all of them again.
        """
        reads = []
        for row in self.rows:
            if self.caches is None:  # a row that has ended reads on: the model may know its rows by their places
                start, stop = max(len(row.tokens) - self.context, 0), len(row.tokens)
            else:
                start, stop = row.held, min(row.held + self.chunk, len(row.tokens)) if row.left else row.held
            reads.append(Read(row.index, start, stop))
        return reads

    def read(self, model: NextLogits, reads: list[Read], *, device: torch.device) -> Float[Tensor, "b n"]:
        """Return logits of the token after the last that each slot reads."""
        pieces = [
            torch.tensor(row.tokens[read.start : read.stop], dtype=torch.long)
            for row, read in zip(self.rows, reads, strict=True)
        ]
        counts = torch.tensor([len(piece) for piece in pieces], device=device)
        # What stands behind a piece is padding: a causal model does not see it, and a cache does not keep it.
        tokens = nn.utils.rnn.pad_sequence(pieces, batch_first=True).to(device)
        options = {} if self.caches is None else dict(lengths=counts, caches=self.caches)
        logits = model(tokens, **options)
        for row, read in zip(self.rows, reads, strict=True):
            row.held = read.stop
        return logits[torch.arange(len(counts), device=device), (counts - 1).clamp_min(0)]

    def ready(self) -> list[int]:
        """Return slots of which everything is read and something is to be written."""
        return [i for i, row in enumerate(self.rows) if row.left and row.held == len(row.tokens)]

    def write(self, tokens: dict[int, int], end: int | None) -> None:
        """Add a token to each of these slots; a row that ends gives its slot to one that waits."""
        for i, token in tokens.items():
            row = self.rows[i]
            row.tokens.append(token)
            row.left = 0 if token == end else row.left - 1
            if row.left == 0:
                for cache in self.caches or ():
                    forget_row(cache, i)
                if self.waiting:
                    self.rows[i] = self.waiting.popleft()


def _fork(rng: torch.Generator | None) -> torch.Generator | None:
    """Return a generator of its own for a prompt, so that what it draws depends on no other."""
    if rng is None:
        return None
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    return torch.Generator(rng.device).manual_seed(seed)


def _check_prompts(prompts: Sequence[Tensor], steps: list[int]) -> None:
    require(len(prompts) >= 1, f"give at least one prompt, got {len(prompts)}")
    require(len(steps) == len(prompts), f"steps are one number or one a prompt, got {len(steps)} for {len(prompts)}")
    require(min(steps) >= 1, f"a prompt needs a step, got steps {steps}")
    lengths = [len(prompt) for prompt in prompts]
    require(min(lengths) >= 1, f"a prompt needs a token, got lengths {lengths}")


def _check_drawing(temperature: float, rng) -> None:
    require(0 <= temperature < math.inf, f"temperature must be at least 0 and finite, got {temperature}")
    require(
        temperature == 0 or rng is not None, f"temperature {temperature} draws tokens: give a torch.Generator as rng"
    )


def _check_room(caches: Sequence[KeyValueCache], longest: int, context: int) -> None:
    """Check, before anything is read, that what a row holds at last fits the model's positions and each cache."""
    require(
        longest <= context, f"with caches nothing is forgotten: a context of {context} does not hold {longest} tokens"
    )
    for cache in caches:
        require(not cache.lengths.any(), f"new rows begin in empty caches, got lengths {cache.lengths.tolist()}")
        require(
            cache.capacity is None or longest <= cache.capacity,
            f"a cache of capacity {cache.capacity} does not hold {longest} tokens",
        )
