"""The task of recall, and the stacks that try it."""

import torch

from attncourse.lessons.sliding_window.recall import (
    ANSWERS,
    QUESTION,
    ROW,
    STACKS,
    recall_accuracy,
    recall_rows,
    train_recall,
)


def test_a_row_holds_one_answer_where_it_is_told_to_and_ends_with_the_question():
    rows, answers = recall_rows(torch.Generator().manual_seed(0), 50, place=7)
    assert rows.shape == (50, ROW) and (rows[:, -1] == QUESTION).all()
    assert torch.equal(rows[:, 7], answers) and ((rows < ANSWERS).sum(dim=1) == 1).all()
    rows, _ = recall_rows(torch.Generator().manual_seed(0), 200)
    assert len((rows < ANSWERS).int().argmax(dim=1).unique()) > 20


def test_each_layer_has_the_window_that_the_stack_names():
    for name, (windows, sinks) in STACKS.items():
        layers = [block.self_attention.pattern for block in train_recall(name, steps=1).stack.blocks]
        assert [layer["window"] for layer in layers] == list(windows)
        assert {layer["sinks"] for layer in layers} == {sinks}


def test_accuracy_is_asked_at_every_distance():
    class Oracle(torch.nn.Module):
        """Answers right where the answer stands within 4 of the question."""

        def forward(self, rows):
            near = rows[:, -5:-1]
            answer = torch.where(near < ANSWERS, near, 0).sum(dim=1)
            return torch.nn.functional.one_hot(answer, QUESTION + 1)[:, None].float()

    shares = recall_accuracy(Oracle())
    assert shares[:4] == [1.0] * 4 and max(shares[4:]) < 0.3 and len(shares) == ROW - 1
