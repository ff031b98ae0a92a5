"""Memory that results of a network leave behind, for its next results.

The system hands out a large array as pages that it maps and clears one by one, at the first touch:
that takes as long as a fast layer's arithmetic.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.uint8]

#: Larger blocks go back to the system, as the C library's own do.
LARGEST = 32 * 2**20

#: A block that nothing takes for so many passes, two steps of training, goes back as well.
PASSES = 4

_here = threading.local()


class _Entry:
    __slots__ = ("block", "passes")

    def __init__(self, block: Block) -> None:
        self.block = block
        self.passes = 0  # since it was last taken

    def references(self) -> int:
        return sys.getrefcount(self.block)


#: References to a block in which no array lies.
_FREE = _Entry(np.empty(0, np.uint8)).references()


class Buffers:
    """The blocks of one network; a pass is a forward or a backward of it.

    What the caller keeps of a network's results is his: the reference count tells, and after some
    passes the block is forgotten here.
    """

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:  # a copy of the network has blocks of its own
        return Buffers, ()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let new results of this thread lie in blocks that are free, within a ``with`` block.

        A network within a network uses the outer one's; a second thread that is in the network
        meanwhile does without.
        """
        if getattr(_here, "buffers", None) is not None or not self._lock.acquire(blocking=False):
            yield
            return
        _here.buffers = self
        try:
            yield
        finally:
            _here.buffers = None
            for entry in self._entries:
                entry.passes += 1
            self._entries = [entry for entry in self._entries if entry.passes <= PASSES]
            self._lock.release()

    def _take(self, size: int) -> Block:
        fitting = [e for e in self._entries if size <= e.block.size <= 2 * size]
        free = [e for e in fitting if e.references() == _FREE]
        if not free:
            free = [_Entry(np.empty(size, np.uint8))]
            self._entries += free
        entry = min(free, key=lambda e: e.block.size)
        entry.passes = 0
        return entry.block


def block(size: int) -> Block:
    """Return `size` bytes or more of memory for a new array."""
    buffers: Buffers | None = getattr(_here, "buffers", None)
    if buffers is None or size > LARGEST:
        return np.empty(size, np.uint8)
    return buffers._take(size)
