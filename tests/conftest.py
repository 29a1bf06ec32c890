"""Where tests run: on CUDA where it is there, else on the CPU with Triton's interpreter. What was not run is said at the end."""

from collections import Counter

import pytest

import attncourse
from attncourse._shared.layer import form_of  # (the first part of the course lets Triton interpret without a GPU)


def pytest_collection_modifyitems(items):
    """Skip a test marked gpu, and count it as skipped, where there is none."""
    if attncourse.device() == "cuda":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


def pytest_terminal_summary(terminalreporter):
    """Say how many tests were skipped for each reason."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
    if reasons:
        terminalreporter.section("not run")
        for reason, count in reasons.most_common():
            terminalreporter.write_line(f"{count} tests: {reason}")


@pytest.fixture
def device() -> str:
    """Return the device that kernels run on here."""
    return attncourse.device()


@pytest.fixture(params=["triton", "numba"])
def decoder_of(request, device):
    """Layer -> its kernel that reads a cache where it lies, each where it can run."""
    if request.param == "numba" and device != "cpu":
        pytest.skip("numba's kernel runs on processors")
    pytest.importorskip(request.param)
    return lambda layer: form_of(request.param, layer.decoders)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Lay down a course of one toy unit in a folder of its own, its checks registered while the module's tests run."""
    import attncourse.check
    from tests import toy_course

    checks, units = attncourse.check.CHECKS, attncourse.check.UNITS
    checks.update(toy_course.CHECKS)
    units.update(toy_course.UNITS)
    yield toy_course.write_course(tmp_path_factory.mktemp("course"))
    for name in toy_course.CHECKS:
        del checks[name]
    for name in toy_course.UNITS:
        del units[name]
