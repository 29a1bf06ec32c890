"""An executable course on attention: one folder ("room") a mechanism, each as definition, module and kernel."""

from .notebook import print_versions, show

__version__ = "0.1.0"
__all__ = ["print_versions", "show"]
