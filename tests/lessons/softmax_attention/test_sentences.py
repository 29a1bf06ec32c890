"""Sentences hold what their answers say, and a reader has no path around its scores."""

import torch

from attncourse.lessons.softmax_attention.positions_race import LENGTH, POSITIONS, WIDTH, build_model
from attncourse.lessons.softmax_attention.sentences import (
    COLOUR_PLACES,
    COLOURS,
    NOUN_PLACES,
    NOUNS,
    VOCABULARY,
    ColourReader,
    draw_sentences,
    encode_words,
    share_right,
    train_reader,
)


def test_answers_are_the_colours_that_stand_in_the_sentence():
    sentences, colours = draw_sentences(50, torch.Generator().manual_seed(0))
    words = [[VOCABULARY[word] for word in sentence] for sentence in sentences]
    assert all(sentence[place] in NOUNS for sentence in words for place in NOUN_PLACES)
    said = [[COLOURS.index(sentence[place]) for place in COLOUR_PLACES] for sentence in words]
    assert said == colours.tolist()


def test_scale_is_the_root_of_the_heads_width_or_none():
    torch.manual_seed(0)
    plain, words = ColourReader(64, scaled=False), encode_words("The flag is blue")[None]
    scaled = ColourReader(64)
    scaled.load_state_dict(plain.state_dict())
    torch.testing.assert_close(scaled.scores(words) * 8, plain.scores(words))


def test_a_short_training_reads_better_than_guessing():
    assert share_right(train_reader(seed=0, steps=60)) > 0.5


def test_only_learned_positions_have_parameters_and_rotary_ones_change_what_is_said():
    models = {}
    for positions in POSITIONS:
        torch.manual_seed(0)
        models[positions] = build_model(positions)
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert sizes["none"] == sizes["rotary"] == sizes["learned"] - LENGTH * WIDTH
    models["rotary"].load_state_dict(models["none"].state_dict())
    with torch.no_grad():
        none, rotary = (models[name](torch.tensor([[3, 5, 9]]))[0, -1] for name in ("none", "rotary"))
    assert (none - rotary).abs().max() > 1e-5
