"""A pytest plugin, `-p tests.few_cases`: of each test's cases a few, from the first to the last, and few drawn examples.

For a run that asks something of every test's code, and not of all of its numbers.
"""

import hypothesis

MOST = 3


class FewExamples(hypothesis.settings):
    """These settings draw few examples, whatever a test asks for."""

    def __init__(self, parent=None, **told):
        super().__init__(parent, **told | {"max_examples": MOST})


hypothesis.settings = FewExamples  # plugins are loaded before the tests that import it


def pytest_collection_modifyitems(config, items):
    by_test = {}
    for item in items:
        by_test.setdefault((item.path, item.cls, item.originalname), []).append(item)
    kept = {item for cases in by_test.values() for item in _spread(cases)}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def _spread(cases: list) -> list:
    """Return as many as MOST of the cases, evenly spaced, the first and the last among them."""
    if len(cases) <= MOST:
        return cases
    return [cases[i * (len(cases) - 1) // (MOST - 1)] for i in range(MOST)]
