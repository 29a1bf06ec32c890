"""The model of both tasks: a decoder in which every layer's attention has one sparse pattern."""

from attncourse.block_sparse import BlockPattern, BlockSparseAttention
from attncourse.models.decoder import DecoderLM
from attncourse.positions import RotaryEmbedding


def sparse_reader(vocabulary: int, pattern: BlockPattern, *, d_model: int, n_heads: int, n_layers: int) -> DecoderLM:
    """Return a decoder whose layers see what the pattern says.

    Training runs PyTorch's fused attention under the pattern's mask. At a few hundred positions that is the fastest form
    of all (the chapter measures it), and every rival takes the same.
    """

    def attention() -> BlockSparseAttention:
        rope = RotaryEmbedding(d_model // n_heads)
        return BlockSparseAttention(d_model, n_heads, pattern=pattern, bias=True, rope=rope, impl="torch")

    return DecoderLM(vocabulary, d_model=d_model, n_layers=n_layers, context=pattern.n, attention=attention)
