"""Times and memory of every kernel on one thread; read by asv."""

import os

# Before NumPy, torch or slidedot is imported: one thread compares kernels, not schedulers. The
# files' `timer` counts that thread's CPU time, which a busy machine changes by a few per cent where
# the clock's goes up fourfold.
os.environ["OMP_NUM_THREADS"] = os.environ["SLIDEDOT_NUM_THREADS"] = "1"
