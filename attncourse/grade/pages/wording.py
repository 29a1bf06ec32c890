"""What each state means, for the learner who meets it."""

SUBMISSION = {
    "marked": "",
    "tampered": "Cells that belong to the grader were changed, or something else answered in its place; what was found "
    "stands below. Take a fresh copy of the notebook, copy your solutions into it, and leave the check cells as they are.",
    "timed out": "Part of the notebook did not finish within its time, so the exercises named below could not be "
    "judged. Look for a loop that never ends, or for work that grows much faster than its input.",
    "out of memory": "Part of the notebook asked for more memory than a submission may use. That is rarely about large "
    "inputs: look for a tensor of an unexpected shape, such as two that are broadcast against each other.",
    "crashed": "Part of the notebook stopped with an error, so the exercises named below could not be judged. Run the "
    "whole notebook from the top (restart, then run all): the error should show there too.",
    "unreadable": "The file could not be opened as a notebook. Download it again as .ipynb (Colab: File, Download) and "
    "hand in that file.",
    "unknown unit": "Nothing in the file says which exercises it answers. Hand in the notebook that you were given, with "
    "your solutions written into it, rather than a new one.",
    "not graded": "The grader itself could not run. Nothing in your notebook caused that, and there is nothing for you "
    "to do: it will be marked again.",
}

CHECK = {
    "passed": "",
    "wrong": "It ran, and a property that it should have does not hold:",
    "unsolved": "It still raises NotImplementedError.",
    "missing": "The function was not found. Run the cell that defines it under the name that the exercise gives.",
    "crashed": "It stopped with an error:",
    "timed out": "It did not finish in time. Look for a loop that never ends.",
    "out of memory": "It asked for more memory than it may use. Look for a tensor of an unexpected shape.",
    "tampered": "What came back was not the answer of your function:",
}
