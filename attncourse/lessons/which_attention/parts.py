"""What the parts of a model do for one output: what each adds to a logit, and what is answered without it."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attncourse.models.decoder import DecoderLM

Hook = Callable[[nn.Module, tuple, Tensor], Tensor | None]


def named_parts(model: DecoderLM) -> dict[str, nn.Module]:
    """Return what adds to the tokens' vectors, by name: attention and feed-forward of each layer, from the first."""
    parts = {}
    for number, block in enumerate(model.stack.blocks, 1):
        parts |= {f"attention {number}": block.self_attention, f"feed-forward {number}": block.feed_forward}
    return parts


@contextlib.contextmanager
def hooked(modules: list[nn.Module], hook: Hook) -> Iterator[None]:
    """Call the hook with each module, its inputs and its output; what it returns stands in for the output."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def margin_by_part(model: DecoderLM, tokens: Int[Tensor, "b t"], **masking) -> dict[str, Float[Tensor, " b"]]:
    """Return what each part adds to the margin of the last token's best logit over the mean of all logits.

    The vector before the last normalisation is a sum: the token's embedding and what each part added. With the
    normalisation's factor as it is, the margin is linear in that vector, so that it is the sum of these numbers, a
    "bias" of the last two maps among them.
    """
    added = {"embedding": model.embed(tokens)[:, -1]}
    with contextlib.ExitStack() as stack:
        for name, module in named_parts(model).items():
            stack.enter_context(hooked([module], lambda _, __, out, name=name: added.update({name: out[:, -1]})))
        best = model(tokens, **masking)[:, -1].argmax(dim=-1)
    norm, to_vocabulary = model.stack.norm, model.to_vocabulary
    towards = to_vocabulary.weight[best] - to_vocabulary.weight.mean(dim=0)
    factor = (sum(added.values()).var(dim=-1, correction=0) + norm.eps).rsqrt()
    found = {
        name: factor * ((x - x.mean(dim=-1, keepdim=True)) * norm.weight * towards).sum(dim=-1)
        for name, x in added.items()
    }
    return found | {"bias": towards @ norm.bias + to_vocabulary.bias[best] - to_vocabulary.bias.mean()}


@torch.no_grad()
def answers_without(model: DecoderLM, tokens: Int[Tensor, "b t"], part: str, **masking) -> Int[Tensor, " b"]:
    """Return the last token's best answers where a part does not do its work.

    Args:
        part: "attention 1", "feed-forward 2" and so on give their mean output to every token; "residual 2" drops the path
            round layer 2; "normalisation" divides every token by one number, the mean, in place of its own.
    """
    if part == "normalisation":
        modules = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
        hook: Hook = _one_factor
    elif part.startswith("residual"):
        modules, hook = [model.stack.blocks[int(part.split()[1]) - 1]], lambda _, inputs, out: out - inputs[0]
    else:
        modules, hook = [named_parts(model)[part]], lambda _, __, out: out.mean(dim=(0, 1), keepdim=True).expand_as(out)
    with hooked(modules, hook):
        return model(tokens, **masking)[:, -1].argmax(dim=-1)


def _one_factor(norm: nn.LayerNorm, inputs: tuple, _: Tensor) -> Tensor:
    x = inputs[0]
    spread = (x.var(dim=-1, correction=0) + norm.eps).sqrt().mean()
    return (x - x.mean(dim=-1, keepdim=True)) / spread * norm.weight + norm.bias
