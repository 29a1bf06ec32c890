"""Marking a folder of notebooks: the learner's code runs in a sandbox and is judged outside it.

`submission` reads a notebook, `worker` runs its cells in the `sandbox`, `wire` and `transport` carry values across
the wall, `judge` turns answers into a mark, `records` keeps the marks, `command` is what the shell calls.
"""
