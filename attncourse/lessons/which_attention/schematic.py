"""The chapter's schematic: the usual rules as a tree of questions, and beside each rule what the chooser answers."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from attncourse.plot.schematic import arrow, box, canvas, note

ROW, QUESTION, RULE, ANSWER = 0.88, 1.6, 4.2, 6.25  # height of a row; where the middle of each column is, in inches


@dataclass(frozen=True)
class Rule:
    """A rule is a question about a job, the design that is usually recommended on yes, and what the chooser answered."""

    question: str
    recommended: str
    answer: str


def decision_tree(rules: list[Rule]) -> Figure:
    """Draw the questions from above to below: "yes" leads to the right, "no" to the next question."""
    height = ROW * len(rules) + 0.85
    figure, ax = canvas(7.4, height)
    for x, title in ((QUESTION, "ask of the job"), (RULE, "the usual rule"), (ANSWER, "choose answers")):
        note(ax, (x, height - 0.2), title, size=10.5, bold=True)
    for i, rule in enumerate(rules):
        y = height - 0.75 - i * ROW
        box(ax, (QUESTION, y), rule.question, role="query", width=2.9, height=0.56, size=9.5)
        arrow(ax, (QUESTION + 1.45, y), (RULE - 0.8, y))
        note(ax, (QUESTION + 1.62, y + 0.13), "yes", size=9)
        box(ax, (RULE, y), rule.recommended, role="weight", width=1.6, height=0.56, size=9.5)
        arrow(ax, (RULE + 0.8, y), (ANSWER - 0.95, y), dashed=True)
        box(ax, (ANSWER, y), rule.answer, role="value", width=1.9, height=0.56, size=9.5)
        arrow(ax, (QUESTION, y - 0.28), (QUESTION, y - ROW + 0.28))
        note(ax, (QUESTION + 0.22, y - ROW / 2), "no", size=9)
    y = height - 0.75 - len(rules) * ROW
    note(ax, (QUESTION, y + 0.12), "full attention, and pay for it", size=9.5)
    return figure
