"""An executable course on attention: one folder ("room") a mechanism, each as definition, module and kernel."""

from ._shared.device import device
from ._shared.launch import prepare_interpreter

prepare_interpreter()

from ._shared.validate import checking_values  # noqa: E402
from .notebook import print_versions, show  # noqa: E402

__version__ = "0.1.0"
__all__ = ["checking_values", "device", "print_versions", "show"]
