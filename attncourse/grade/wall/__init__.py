"""The wall between a learner's code and the grader: the sandbox, what crosses it, the worker behind it."""
