"""Marking a folder of notebooks: the learner's code runs in a sandbox and is judged outside it.

`read` takes what was handed in, `wall` runs a learner's cells and lets values alone out, `export` and `pages` are what comes of
the marks. On top of them `one_submission` leads from bytes to a record: `judge` turns answers into a mark, `records` keeps it;
`classroom` does that for all submissions on a `pool` of processes, `run` is the whole command.
"""
