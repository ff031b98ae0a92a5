# Memory for one call: one block for all threads, asked for before they start, so that one place
# can fail and one place frees.
from libc.stdlib cimport free, malloc


cdef struct Scratch:
    char *block
    char *base
    size_t stride  # bytes from one thread's part to the next one's


cdef inline int scratch_take(Scratch *scratch, Py_ssize_t bytes, int parts) noexcept nogil:
    """Take `parts` pieces of `bytes`, each on its own cache lines; False where there is none."""
    cdef size_t stride = (<size_t> bytes + 127) // 64 * 64
    scratch.block = NULL
    if bytes < 0 or stride > (<size_t> -1 // 4) // <size_t> parts:
        return False
    scratch.stride = stride
    scratch.block = <char *> malloc(stride * parts + 64)
    if scratch.block == NULL:
        return False
    scratch.base = scratch.block + (64 - <size_t> scratch.block % 64)
    return True


cdef inline void *scratch_part(Scratch *scratch, int part) noexcept nogil:
    return scratch.base + scratch.stride * part


cdef inline void scratch_free(Scratch *scratch) noexcept nogil:
    free(scratch.block)
