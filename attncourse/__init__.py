"""An executable course on attention: one folder ("room") a mechanism, each as definition, module and kernel."""

from .show import show

__version__ = "0.1.0"
__all__ = ["show"]
