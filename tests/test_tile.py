"""The probe of the register tile. What the tile computes is tested through the convolutions, how
fast it is by the benchmarks; here, that the probe measures what it says."""

import numpy as np
import pytest

from slidedot import _dispatch

pytestmark = pytest.mark.usefixtures("level")


@pytest.mark.parametrize("double_precision", [False, True])
def test_rates_are_numbers(double_precision):
    tile = _dispatch.kernels.tile
    assert 0 < tile.peak(0.01, double_precision) < np.inf
    for rows, vectors in tile.shapes():
        assert 0 < tile.rate(rows, vectors, 0.001, double_precision) < np.inf


def test_widest_tiles():
    """Higher tiles are narrower, as the accumulators share the registers."""
    shapes = _dispatch.kernels.tile.shapes()
    rows, vectors = zip(*shapes, strict=True)
    assert rows == tuple(range(1, len(rows) + 1))
    assert vectors == tuple(sorted(vectors, reverse=True))
    assert all(v >= 1 for v in vectors)


@pytest.mark.parametrize("shape", [(0, 1), (1, 0), (1, 99), (99, 1)])
def test_there_is_no_other_tile(shape):
    with pytest.raises(ValueError, match="no tile"):
        _dispatch.kernels.tile.rate(*shape)
