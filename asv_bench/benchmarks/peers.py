"""The libraries timed in the same run, where they are installed.

Imported here, once: asv forks each benchmark from a process that has imported this folder.
"""

try:
    import torch
except ImportError:
    torch = None
else:
    torch.set_num_threads(1)


def installed(library):
    """Return `library`; asv prints n/a where it is not installed."""
    if library is None:
        raise NotImplementedError
    return library
