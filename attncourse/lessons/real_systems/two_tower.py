"""An image-text model: one tower reads the picture's patches, the other a sentence, whose words look into the picture.

Patches as tokens: Dosovitskiy et al. 2020, ViT, https://arxiv.org/abs/2010.11929. Two towers: Radford et al. 2021, CLIP,
https://arxiv.org/abs/2103.00020, which compares one vector of each; here words read patches by cross-attention, as in
Flamingo (Alayrac et al. 2022, https://arxiv.org/abs/2204.14198) and ALBEF (Li et al. 2021,
https://arxiv.org/abs/2107.07651).
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attncourse._shared.validate import check_widths, require
from attncourse.models.blocks import Stack, init_embeddings, watch_weights

from .scenes import Questions


def cut_patches(images: Float[Tensor, "b y x"], patch: int) -> Float[Tensor, "b n pixels"]:
    """Cut squares of patch x patch pixels, row by row.

    Raises:
        ValueError: the squares do not tile the image.
    """
    _, y, x = images.shape
    require(y % patch == 0 and x % patch == 0, f"patches of {patch} must tile the image, got {y} x {x}")
    return rearrange(images, "b (row py) (col px) -> b (row col) (py px)", py=patch, px=patch)


class TwoTower(nn.Module):
    """The model has self-attention in each tower, and cross-attention from the words' into the patches'.

    Args:
        vocabulary: how many words there are.
        side: pixels of an image's edge.
        patch: pixels of a patch's edge; it divides side.
        words: the longest sentence.
        d_model, n_heads, impl: of both towers.
        image_layers, text_layers: their blocks.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        side: int,
        patch: int,
        words: int,
        d_model: int = 64,
        n_heads: int = 4,
        image_layers: int = 1,
        text_layers: int = 1,
        impl: str = "torch",
    ):
        super().__init__()
        check_widths(vocabulary=vocabulary, side=side, patch=patch, words=words)
        require(side % patch == 0, f"patches of {patch} must tile the image, got {side} x {side}")
        self.patch = patch
        self.embed_patch = nn.Linear(patch**2, d_model)
        self.embed_word = nn.Embedding(vocabulary, d_model)
        init_embeddings(self.embed_word)
        nn.init.normal_(self.embed_patch.weight, std=1 / patch)
        shape = dict(positions="learned", impl=impl)
        self.image_tower = Stack(d_model, n_heads, n_layers=image_layers, context=(side // patch) ** 2, **shape)
        # Patches are as long as what stands in them; a place whispered beside them is learned late or never.
        nn.init.normal_(self.image_tower.places.weight, std=0.5)
        self.text_tower = Stack(d_model, n_heads, n_layers=text_layers, context=words, d_context=d_model, **shape)
        self.to_vocabulary = nn.Linear(d_model, vocabulary)

    def see(self, images: Float[Tensor, "b y x"]) -> Float[Tensor, "b n d"]:
        """Return features of the patches, row by row."""
        return self.image_tower(self.embed_patch(cut_patches(images, self.patch)))

    def forward(self, images: Float[Tensor, "b y x"], words: Int[Tensor, "b t"]) -> Float[Tensor, "b t n"]:
        """Return logits of what stands at each place of the sentence."""
        return self.to_vocabulary(self.text_tower(self.embed_word(words), self.see(images)))

    def cross_weights(
        self, images: Float[Tensor, "b y x"], words: Int[Tensor, "b t"]
    ) -> Float[Tensor, "layers b h t n"]:
        """Return which patches each head of each block of the text tower reads for each word."""
        with torch.no_grad(), watch_weights(*(block.cross_attention for block in self.text_tower.blocks)) as seen:
            self(images, words)
        return torch.stack(seen)


def answer_loss(model: TwoTower, questions: Questions) -> Float[Tensor, ""]:
    """Return mean cross-entropy in nats of the two hidden words."""
    logits = model(questions.images, questions.words)[:, :2]
    return cross_entropy(logits.flatten(0, 1), questions.answers.flatten())
