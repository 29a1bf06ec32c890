"""An executable course on attention: one folder ("room") a mechanism, each as definition, module and kernel."""

__version__ = "0.1.0"
__all__ = ["checking_values", "device", "print_versions", "show"]


def __getattr__(name: str):
    """Import what is public when it is first asked for:
    all of it needs PyTorch, for which `attncourse --help` need not wait.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._shared.device import device
    from ._shared.validate import checking_values
    from .notebook import print_versions, show

    globals().update(checking_values=checking_values, device=device, print_versions=print_versions, show=show)
    return globals()[name]
