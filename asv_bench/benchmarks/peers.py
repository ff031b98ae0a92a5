"""The libraries timed in the same run, where they are installed.

Imported here, once: asv forks each benchmark from a process that has imported this folder.
"""

try:
    import torch
except ImportError:
    torch = None
else:
    torch.set_num_threads(1)


def lay_out(by, *arrays):
    """Return torch tensors of `arrays`, with channels last in memory where `by` says so."""
    library = installed(torch)
    last = by == "torch, channels last"
    layout = library.channels_last if last else library.contiguous_format
    return [library.from_numpy(a).to(memory_format=layout) for a in arrays]


def installed(library):
    """Return `library`; asv prints n/a where it is not installed."""
    if library is None:
        raise NotImplementedError
    return library
