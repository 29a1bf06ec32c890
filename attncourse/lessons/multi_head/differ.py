"""Do two bits differ? What one head cannot say, two heads that say it by construction, and models that learn it."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attncourse.models.training import train
from attncourse.multi_head import MultiHeadAttention

PLACES = 6
MATCH = 60.0  # score of a place that a head looks for: exp(-60) is the weight of any other beside it
PREFERENCE = 20.0  # by which a head that prefers ones scores a one higher


def every_stream() -> tuple[Int[Tensor, "n places"], Bool[Tensor, "n asked"]]:
    """Return all streams of `PLACES` bits, and for each place from the third on whether the two bits before it differ."""
    bits = torch.cartesian_prod(*[torch.arange(2)] * PLACES)
    return bits, bits[:, 1:-1] != bits[:, :-2]


def as_tokens(bits: Int[Tensor, "n places"]) -> Float[Tensor, "n places d"]:
    """Return the tokens that `build_two_heads` reads: a one, the bit, and the place as a one-hot vector."""
    places = torch.eye(PLACES).expand(len(bits), -1, -1)
    return torch.cat([torch.ones_like(places[..., :1]), bits[..., None], places], dim=-1)


def build_two_heads() -> MultiHeadAttention:
    """Return a layer whose first output is any - mean - 1/4 of the two bits before each place: positive if they differ."""
    widths = dict(head_dim=PLACES + 1, v_head_dim=1)
    layer = MultiHeadAttention(2 + PLACES, 2, **widths, causal=True, scale=1.0)
    matrices = (layer.w_q, layer.w_k, layer.w_v)
    w_q, w_k, w_v = (w.weight.data.zero_().unflatten(0, (2, -1)) for w in matrices)
    for place in range(2, PLACES):  # both heads look one and two places back
        w_q[:, [place - 1, place - 2], 2 + place] = MATCH
    w_k[:, range(PLACES), range(2, 2 + PLACES)] = 1.0
    w_q[0, PLACES, 0] = PREFERENCE  # the first prefers a one among them
    w_k[0, PLACES, 1] = 1.0
    w_v[:, 0, 1] = 1.0  # both read the bit; the second reads 1/4 more,
    w_v[1, 0, 0] = 0.25  # which moves 0, 1/2, 0 to -1/4, 1/4, -1/4
    layer.w_o.weight.data.zero_()[0] = torch.tensor([1.0, -1.0])
    return layer


class Differ(nn.Module):
    """Says at each place whether the two bits before it differ: one layer of attention, and a linear map to the answer."""

    def __init__(self, n_heads: int, d: int = 32):
        super().__init__()
        self.bit, self.place = nn.Embedding(2, d), nn.Embedding(PLACES, d)
        self.attend = MultiHeadAttention(d, n_heads, bias=True, causal=True)
        self.read = nn.Linear(d, 1)

    def embed(self, bits: Int[Tensor, "n places"]) -> Float[Tensor, "n places d"]:
        """Return the sum of each bit's vector and its place's."""
        return self.bit(bits) + self.place.weight

    def forward(self, bits: Int[Tensor, "n places"]) -> Float[Tensor, "n places"]:
        """Return a number for each place: positive says that the two bits before it differ."""
        return self.read(self.attend(self.embed(bits)))[..., 0]


def train_differ(n_heads: int, *, seed: int, steps: int = 500) -> Differ:
    """Return a model trained on all streams there are in each step, so that only the answer has to be found."""
    bits, differ = every_stream()

    def loss(model, rng):
        return nn.functional.binary_cross_entropy_with_logits(model(bits)[:, 2:], differ.float())

    torch.manual_seed(seed)
    model = Differ(n_heads)
    train(model, loss, steps=steps, learning_rate=5e-3, seed=seed, progress=False)
    return model


@torch.no_grad()
def share_right(model: nn.Module) -> float:
    """Return the share of all places of all streams at which the sign of the model's number is right."""
    bits, differ = every_stream()
    return ((model(bits)[:, 2:] > 0) == differ).float().mean().item()
