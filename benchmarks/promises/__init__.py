"""What the rooms promise of time and memory, beside what a user would take instead: a file a room, `measure` in each.

`make promises`, or `python -m benchmarks.promises --rooms latent` for some.
"""
