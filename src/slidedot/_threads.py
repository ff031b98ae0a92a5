"""How many threads a kernel takes, and what happens after a fork."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

from slidedot._kernels import cpu
from slidedot.geometry import integer, shown

#: More threads than this only make the OpenMP runtime fail, which ends the process.
MAX_THREADS = 256

#: Below this many multiply-adds (or moved elements) per thread, waking it costs more than it gives.
WORK_PER_THREAD = 1_000_000


def _default() -> int:
    wanted = os.environ.get("SLIDEDOT_NUM_THREADS")
    if wanted:
        try:
            return integer("slidedot", "SLIDEDOT_NUM_THREADS", int(wanted))
        except ValueError:
            raise ValueError(
                f"slidedot: SLIDEDOT_NUM_THREADS must be an integer >= 1, got {shown(wanted)}"
            ) from None
    with contextlib.suppress(ValueError):
        # OpenMP allows a list, one number per nesting level
        return max(1, int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0]))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


#: More multiply-adds than these, a second or so, are not given to a kernel at once.
WORK_PER_CALL = 20_000_000_000

_count = min(_default(), MAX_THREADS)
#: What OpenMP itself would take: a later, lower number is a limit that somebody has set.
_openmp = cpu.openmp_threads()
_forked = False
_caller = threading.local()


def set_num_threads(n: SupportsIndex) -> None:
    """Set how many threads each later call may use, in the whole process.

    Results do not depend on it, bit for bit.

    Parameters
    ----------
    n : int
        From 1 to 256.

    Raises
    ------
    ValueError
        `n` is out of range.
    TypeError
        `n` is not an integer.

    Examples
    --------
    >>> import slidedot as sd
    >>> before = sd.get_num_threads()
    >>> sd.set_num_threads(1)
    >>> sd.get_num_threads()
    1
    >>> sd.set_num_threads(before)
    """
    global _count
    n = integer("set_num_threads", "n", n)
    if n > MAX_THREADS:
        raise ValueError(f"set_num_threads: n must be <= {MAX_THREADS}, got n={n}")
    _count = n


def get_num_threads() -> int:
    """Return how many threads each call may use.

    The default is ``SLIDEDOT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the CPUs that this
    process may use. A forked child computes with one thread whatever this says, because OpenMP
    does not survive a fork. A lower limit on OpenMP, as by ``threadpoolctl.threadpool_limits``,
    holds too, in the Python thread that sets it.

    Returns
    -------
    int
        The number of threads.

    Examples
    --------
    >>> import slidedot as sd
    >>> with sd.num_threads(2):
    ...     sd.get_num_threads()
    2
    """
    return _count


@contextlib.contextmanager
def num_threads(n: SupportsIndex) -> Iterator[None]:
    """Use `n` threads within a ``with`` block, in the whole process.

    Parameters
    ----------
    n : int
        From 1 to 256.

    Returns
    -------
    context manager
        On leaving the block the former number holds again.

    Raises
    ------
    ValueError
        `n` is out of range.
    TypeError
        `n` is not an integer.

    Examples
    --------
    >>> import slidedot as sd
    >>> with sd.num_threads(1):
    ...     sd.get_num_threads()
    1
    """
    before = _count
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread in calls from this Python thread, within a ``with`` block.

    For who calls from several threads at once, each with its share of the work.
    """
    before = getattr(_caller, "alone", False)
    _caller.alone = True
    try:
        yield
    finally:
        _caller.alone = before


def threads_for(work: int) -> int:
    """Return the threads to use for `work` multiply-adds or moved elements."""
    if work < 2 * WORK_PER_THREAD or _forked or getattr(_caller, "alone", False):
        return 1
    threads = min(_count, work // WORK_PER_THREAD)
    limit = cpu.openmp_threads()
    return min(threads, limit) if limit < _openmp else threads


def interruptible(work: int, *arrays: Any) -> Sequence[tuple[Any, ...]]:
    """Cut arrays (n, ...) into those of fewer images, for `work` multiply-adds in all.

    Python answers signals, Ctrl-C for one, between calls of a kernel and not within.
    """
    if work <= WORK_PER_CALL:
        return (arrays,)
    images = len(arrays[0])
    step = max(1, images * WORK_PER_CALL // work)
    return [tuple(a[i : i + step] for a in arrays) for i in range(0, images, step)]


def _after_fork() -> None:
    # libgomp's threads do not exist in the child: its next parallel region would wait for ever
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
