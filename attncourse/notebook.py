"""What every notebook calls: the package's source as the chapter's text, and the versions it ran with."""

import importlib.metadata
import inspect

from ._shared.device import device


def show(*functions):
    """Show the source of functions, kernels or classes of the package, highlighted;
    where they stand is in the first line.
    """
    from IPython.display import Code

    shown = []
    for function in functions:
        function = getattr(function, "fn", function)  # of a Triton kernel, the function that it was made of
        module = inspect.getmodule(function).__name__.replace(".", "/")
        shown.append(f"# {module}.py\n{inspect.getsource(function).rstrip()}")
    return Code("\n\n\n".join(shown), language="python")


def print_versions() -> None:
    """Print one line: the versions that this notebook runs with, and the device."""
    import torch

    versions = []
    for name in ("attncourse", "torch", "triton"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    print(", ".join([*versions, torch.cuda.get_device_name() if device() == "cuda" else "CPU"]))
