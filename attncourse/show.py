"""The one way in which a chapter shows the package's source: the code on the page is the code that runs."""

import inspect


def show(*functions):
    """The source of functions or classes of the package, highlighted; where they stand is in the first line."""
    from IPython.display import Code

    shown = []
    for function in functions:
        module = inspect.getmodule(function).__name__.replace(".", "/")
        shown.append(f"# {module}.py\n{inspect.getsource(function).rstrip()}")
    return Code("\n\n\n".join(shown), language="python")
