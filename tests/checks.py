"""How results are compared: exactly, bit for bit, or within an error bound.

Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 3.1: a sum of n products,
added in any order, with or without fused multiply-adds, differs from the exact one by at most

    gamma_n * sum |a_i| |b_i|,    gamma_n = n u / (1 - n u)

where u is half the distance from 1 to the next number. A term that is added but not multiplied
(a bias) counts as a product with 1.
"""

import contextlib

import numpy as np
from strategies import memory_of


def gamma(terms, dtype):
    """Return gamma_n for `terms` terms."""
    nu = terms * float(np.finfo(dtype).eps) / 2
    assert nu < 0.5, "the bound says nothing about this many terms"
    return nu / (1 - nu)


def assert_sums_close(actual, expected, magnitude, terms):
    """Assert that `actual` holds sums of `terms` products as exact as its dtype allows.

    `expected` and `magnitude`, the sums of the products' absolute values, are sums in float64,
    whose own errors are the other two gammas.
    """
    assert actual.shape == expected.shape
    bound = (gamma(terms, actual.dtype) + 2 * gamma(terms, np.float64)) * magnitude
    error = np.abs(actual.astype(np.float64) - expected)
    assert (error <= bound).all(), (
        f"error: {error.max()}, bound there: {bound.flat[error.argmax()]}"
    )


def assert_same(actual, expected):
    """Assert equal shape, dtype and values; a NaN equals a NaN."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


def assert_same_bits(actual, expected):
    """Assert equal shape, dtype and bits."""
    assert_same(actual, expected)
    assert actual.tobytes() == expected.tobytes()


def assert_delivered(result, out):
    """Assert that `result` is `out`, and nothing around it was written, or is a fresh array."""
    if out is None:
        assert result.flags.c_contiguous
        assert result.flags.writeable
        assert result.dtype.isnative
    else:
        assert result is out
        out[...] = np.nan  # as all the memory around it, from `place_out`
        assert np.isnan(memory_of(out)).all()


@contextlib.contextmanager
def unchanged(*arrays):
    """Assert that the block leaves every byte of the memory behind `arrays` as it was."""
    memory = [memory_of(array) for array in arrays if array is not None]
    before = [owner.tobytes() for owner in memory]
    yield
    assert before == [owner.tobytes() for owner in memory]
