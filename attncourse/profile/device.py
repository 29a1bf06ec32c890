"""Which device this is, in words that can stand under a figure."""

import platform
from pathlib import Path

import torch


def describe_device(device: str | torch.device = "cpu") -> str:
    """Return name and size of the device that measured tensors are on, with PyTorch's version."""
    version = f"torch {torch.__version__}"
    if torch.device(device).type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, {version}"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}, {version}"


def cpu_name() -> str:
    """Return the processor, as the operating system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
