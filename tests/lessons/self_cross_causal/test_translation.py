"""The translation by rule, and the model that learns it."""

import torch

from attncourse.lessons.self_cross_causal.translation import (
    ADJECTIVES,
    ENGLISH,
    FIRST,
    INDONESIAN,
    NOUNS,
    Translator,
    phrases,
    tensors,
    to_integers,
    train_translator,
    translate,
)


def test_words_change_places():
    assert translate(["this", "blue", "house"]) == ["rumah", "biru", "ini", "<end>"]
    assert translate(["that", "small", "cat"]) == ["kucing", "kecil", "itu", "<end>"]


def test_every_phrase_is_trained_on_or_held_out_and_every_word_is_trained_on():
    trained, kept = phrases(held_out=False), phrases(held_out=True)
    assert len(trained) == 3 * len(kept) and not {*map(tuple, trained)} & {*map(tuple, kept)}
    assert len(trained) + len(kept) == len(FIRST) * len(ADJECTIVES) * len(NOUNS)
    assert {word for phrase in trained for word in phrase} == {*ENGLISH}
    assert {word for phrase in kept for word in phrase} == {*ENGLISH}


def test_what_is_written_before_a_word_is_the_target_one_place_later():
    source, written, wanted = tensors([["this", "blue", "house"]])
    assert [ENGLISH[i] for i in source[0]] == ["this", "blue", "house"]
    assert [INDONESIAN[i] for i in written[0]] == ["<begin>", "rumah", "biru", "ini"]
    assert torch.equal(written[:, 1:], wanted[:, :-1])
    assert torch.equal(to_integers([translate(["this", "blue", "house"])], INDONESIAN), wanted)


def test_each_row_of_the_translator_asks_alone():
    torch.manual_seed(0)
    model = Translator()
    source, written, _ = tensors(phrases(held_out=True))
    logits, weights = model(source, written)
    assert logits.shape == (len(source), 4, len(INDONESIAN)) and weights.shape == (len(source), 4, 3)
    torch.testing.assert_close(model(source, written[:, :2])[0], logits[:, :2])


def test_training_makes_it_better():
    source, written, wanted = tensors(phrases(held_out=False))

    def right(model):
        return (model(source, written)[0].argmax(dim=-1) == wanted).float().mean()

    assert right(train_translator(seed=0, steps=60)) > right(train_translator(seed=0, steps=1)) + 0.3
