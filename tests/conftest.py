"""Every runnable CPU level and both dtypes as fixtures, and how Hypothesis searches."""

import sys

import numpy as np
import pytest
from hypothesis import settings

from slidedot import _dispatch, _threads

# The same examples on every run and every machine; to search elsewhere:
# pytest --hypothesis-profile=explore. "short" is for kernels that a checker makes slow.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=200, print_blob=True
)
settings.register_profile("short", derandomize=True, deadline=None, max_examples=10)
settings.register_profile("explore", deadline=None, max_examples=5000, print_blob=True)
settings.load_profile("repeatable")


# Module scope: pytest then runs a whole file level by level, and Hypothesis may draw many examples
# within one fixture.
@pytest.fixture(scope="module", params=_dispatch.runnable_levels())
def level(request):
    """Run the test on the kernels of each CPU level, in one thread unless it asks for more.

    Threads that wait for CPUs which other programs use would only make small calls slow.
    """
    with pytest.MonkeyPatch.context() as patch, _threads.num_threads(1):
        patch.setattr(_dispatch, "kernels", _dispatch.load(request.param))
        yield request.param


@pytest.fixture(scope="module", params=["float32", "float64"])
def dtype(request):
    """Run the test on each dtype."""
    return np.dtype(request.param)


@pytest.fixture(scope="module", autouse=True)
def _openmp_as_at_first():
    """Undo torch's number of threads: where both load one OpenMP runtime, it limits ours."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(_threads._openmp)


COMBINATIONS = pytest.StashKey[dict]()


@pytest.fixture
def combinations(request):
    """Count what another library agrees on: call it with the library's name, the operation and a
    set of combinations of parameters. The summary shows how many there were."""
    counted = request.config.stash.setdefault(COMBINATIONS, {})

    def count(library, operation, agreed):
        counted.setdefault(library, {}).setdefault(operation, set()).update(agreed)

    return count


def pytest_terminal_summary(terminalreporter, config):
    for library, operations in config.stash.get(COMBINATIONS, {}).items():
        counts = {operation: len(agreed) for operation, agreed in operations.items()}
        terminalreporter.section(f"{sum(counts.values()):,} combinations as in {library}")
        terminalreporter.line(", ".join(f"{name} {count}" for name, count in counts.items()))
