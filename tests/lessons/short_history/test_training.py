"""The measures of the five scores count what they say, on models whose answers and weights are known."""

import pytest
import torch
from torch import nn

from attncourse.lessons.short_history.study import NAME, SEEDS, _shown, main, shown_alignments
from attncourse.lessons.short_history.training import SCORES, longest_right, measure, own_item, trained, write
from attncourse.models.dates import TARGET_VOCABULARY, Example, draw_examples
from attncourse.models.seq2seq import Seq2Seq
from attncourse.models.study import read_study

LISTS = [Example(("four", ";", "twenty", "one"), "4;21"), Example(("nine",), "9"), Example(("two", ";", "ten"), "2;10")]


class Known(Seq2Seq):
    """Writes given answers, and looks at given words."""

    def __init__(self, answers: list[str], looked_at: list[list[int]]):
        nn.Module.__init__(self)
        self.answers, self.looked_at = answers, looked_at

    def decode_greedy(self, source, lengths, *, begin, steps):
        tokens = torch.full((len(source), steps), TARGET_VOCABULARY.index("<end>"))
        weights = torch.zeros(len(source), steps, source.shape[1])
        for row, (answer, places) in enumerate(zip(self.answers, self.looked_at, strict=True)):
            tokens[row, : len(answer)] = torch.tensor([TARGET_VOCABULARY.index(c) for c in answer])
            for i, place in enumerate(places):
                weights[row, i, place] = 0.5  # local-p's weights do not sum to 1
        return tokens, weights


def test_an_item_reaches_from_one_semicolon_to_the_next():
    expected = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert own_item(LISTS[0]).int().tolist() == expected


def test_what_is_right_and_where_its_weight_lies_are_counted():
    # of the first list, one of three digits looks at the other item; the third list is wrong and does not count
    model = Known(["4;21", "9", "2;11"], [[0, 1, 0, 3], [0], [2, 2, 0, 0]])
    right, own = measure(model, LISTS)
    assert right == pytest.approx(2 / 3) and own == pytest.approx(2 / 3)
    assert [text for text, _ in write(model, LISTS)] == model.answers
    assert [tuple(weights.shape) for _, weights in write(model, LISTS)] == [(4, 4), (1, 1), (4, 3)]


def test_the_longest_right_pair_with_a_date_is_chosen():
    sources = [("one",) * n for n in (3, 5, 4, 6)]
    examples = [Example(s, target) for s, target in zip(sources, ("1-2;3", "1-3;3", "1-4;5", "1;2"), strict=True)]
    model = Known(["1-2;3", "1-3;4", "1-4;5", "1;2"], [[0]] * 4)
    example, text, weights = longest_right(model, examples)
    assert (example, text, weights.shape) == (examples[2], "1-4;5", (5, 4))
    assert longest_right(model, examples, most_words=3)[0] == examples[0]


def test_a_seed_decides_start_and_batches():
    examples = draw_examples(70, most_items=1, seed=0)
    first, again, other = (trained("dot", examples, seed=seed, steps=1) for seed in (0, 0, 1))
    weights = [model.to_vocabulary.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_source_is_shown_that_all_models_wrote_right():
    examples = [Example(("a",) * n, target) for n, target in ((9, "1-2;3"), (8, "1-3;3"), (7, "1-4;5"), (10, "12"))]
    written = {"one": [e.target for e in examples], "two": ["1-2;4", "1-3;3", "1-4;5", "12"]}
    assert _shown(examples, written) == 1


def test_the_record_holds_every_run_and_panels_of_one_answer():
    results = read_study(NAME).results
    runs = {(run["score"], run["seed"], run["steps"]) for run in results["runs"]}
    assert runs == {(score, seed, steps) for steps, count in SEEDS.items() for seed in range(count) for score in SCORES}
    shown = shown_alignments(read_study(NAME))
    assert list(shown["panels"]) == list(SCORES)
    for panel in shown["panels"].values():
        assert torch.tensor(panel["percent"]).shape == shown["own"].shape


def test_the_command_says_what_it_does(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--picture" in capsys.readouterr().out
