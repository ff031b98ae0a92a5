"""What a ConvNet's layers see: what excites a channel, and which pixels did.

`top_activations` finds the images and places that excite each channel most, and `project` carries
one activation back to the pixels. The layers themselves are left alone: copies that share their
parameters do the work, so a model may be in the middle of a training step.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from slidedot import _validation
from slidedot._types import Float, Floats, Integers
from slidedot.convolution import conv2d_backward
from slidedot.geometry import SSIZE_MAX, integer, shown
from slidedot.layers import Conv2d, Linear, ReLU, Sequential, _Layer

__all__ = ["project", "top_activations"]

#: Bytes of a batch's largest output.
BATCH_BYTES = 2**25


class _TopActivations(NamedTuple):
    """Per channel, strongest first."""

    values: Floats
    images: Integers
    positions: Integers


def _index(function: str, name: str, value: SupportsIndex, length: int) -> int:
    """Return `value` as an int in [0, length)."""
    number = integer(function, name, value, -SSIZE_MAX)
    if not 0 <= number < length:
        raise IndexError(f"{function}: {name} must be in [0, {length}), got {name}={shown(value)}")
    return number


def _layers_through(function: str, model: Sequential, layer: SupportsIndex | str) -> dict[str, Any]:
    """Return copies of the layers from the first one through `layer`, by dotted position."""
    if not isinstance(model, Sequential):
        raise TypeError(f"{function}: model must be a Sequential, got {shown(model)}")
    leaves = list(model._leaves())
    name = layer if isinstance(layer, str) else str(integer(function, "layer", layer, -SSIZE_MAX))
    inside = [i for i, (place, _) in enumerate(leaves) if f"{place}.".startswith(f"{name}.")]
    if not inside:
        places = ", ".join(place for place, _ in leaves)
        raise IndexError(f"{function}: layer must be one of {places}, got layer={shown(layer)}")
    return {place: copy.copy(leaf) for place, leaf in leaves[: inside[-1] + 1]}


def _maps(y: Floats) -> tuple[Floats, tuple[int, ...]]:
    """Return outputs (N, channels, OH, OW) or (N, features) as (N, channels, places), and the
    size (h, w) of a map, which of a feature is (1, 1)."""
    return y.reshape(*y.shape[:2], math.prod(y.shape[2:])), y.shape[2:] or (1, 1)


def _transposed(layer: _Layer, saved: Any, signal: Floats) -> Floats:
    """Carry `signal` from a layer's output to its input. A rectifier rectifies what comes back to
    it, whatever it let through; every other layer acts as a matrix, and its transpose is applied.
    """
    if isinstance(layer, ReLU):
        return np.maximum(signal, 0)
    if isinstance(layer, Conv2d):
        if layer.activation:
            signal = np.maximum(signal, 0)
        x, _ = saved
        return conv2d_backward(signal, x, layer.weight, need=("x",), **layer._options()).x
    if isinstance(layer, Linear):
        return signal @ layer.weight
    return layer._backward(saved, signal, True)


def _places(
    function: str, position: Any, images: int, size: tuple[int, ...], single: bool
) -> Integers:
    """Return (h, w), or (N, 2) of them for N images, as flat indices (N,) into maps of `size`."""
    position = _validation.indices(function, "position", position)
    if position.shape != (2,) and (single or position.shape != (images, 2)):
        expected = "(h, w)" if single else f"(h, w) or ({images}, 2)"
        raise ValueError(f"{function}: position must be {expected}, got shape {position.shape}")
    if (position < 0).any() or (position >= size).any():
        raise IndexError(
            f"{function}: position must be in an output of {size[0]} x {size[1]}, "
            f"got position={shown(position.tolist())}"
        )
    h, w = np.moveaxis(position.astype(np.intp), -1, 0)
    return h * size[1] + w


def project(
    model: Sequential,
    x: NDArray[Float],
    layer: SupportsIndex | str,
    channel: SupportsIndex,
    position: tuple[SupportsIndex, SupportsIndex] | Integers | None = None,
) -> NDArray[Float]:
    """Carry an activation back to the pixels: which of them made it, and with which sign.

    Zeiler and Fergus' deconvolutional network. From a one at the activation's place and zeros
    elsewhere the layers are walked back: a convolution's filters are transposed, max pooling puts
    each value where it found its maximum, and a rectifier rectifies the signal that comes back to
    it.

    Parameters
    ----------
    model : Sequential
        Made of this package's layers, from the first one through `layer`. It is not changed.
    x : ndarray, (N, C, H, W) or (C, H, W), the dtype of the model
        A batch of images, each projected by itself, or one.
    layer : int or str
        The position in `model` of the layer whose output it is, dotted for a layer in a layer, as
        in the names of ``state_dict``: 3, or "3.0".
    channel : int
        The channel of that output; for an output of features the feature.
    position : (int, int) or ndarray of int (N, 2), optional
        The place ``(h, w)`` in the channel, or one for each image of a batch. If not given, each
        image's strongest: of equal ones the first in row-major order, and a NaN wins.

    Returns
    -------
    ndarray, the shape and dtype of `x`
        The projection; positive where a brighter pixel was wanted. It is zero outside the
        activation's receptive field.

    Raises
    ------
    IndexError
        A layer, channel or position that is not there.
    ValueError
        Shapes that do not fit, a layer of another origin, which has no known transpose.
    TypeError
        A model that is no Sequential, an array of another dtype, a number that is not an integer.
    MemoryError
        The layers' outputs do not fit into memory.

    See Also
    --------
    top_activations : The images and places worth projecting.

    Notes
    -----
    Where the layers through `layer` hold no rectifier, this is the gradient of the activation,
    to the bit. A rectifier makes the difference: its gradient passes what it let through on the
    way up, this passes what is positive on the way down.

    Overlapping pooling windows may have found one maximum; their values add up there, as in
    `max_pool2d_backward`. That is the transpose of the forward pass with its places fixed, which
    the gradient requires; `max_unpool2d`, which keeps the last of such values, is not.

    The paper starts from the activation itself, not from one. A positive activation times this
    projection is that one, since all steps scale with it.

    References
    ----------
    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", section 2.1,
    arXiv 1311.2901.

    Examples
    --------
    A filter that looks for a bright pixel to the right of a dark one, then the stronger of two:

    >>> import numpy as np
    >>> from slidedot.layers import Conv2d, MaxPool2d, Sequential
    >>> model = Sequential(Conv2d(1, 1, (1, 2), activation="relu"), MaxPool2d((1, 2)))
    >>> model.layers[0].weight[...] = [-1, 1]
    >>> project(model, np.float32([[[0, 1, 5]]]), layer=1, channel=0)
    array([[[ 0., -1.,  1.]]], dtype=float32)
    """
    function = "project"
    layers = _layers_through(function, model, layer)
    for place, each in layers.items():
        if not isinstance(each, _Layer):
            raise ValueError(
                f"{function}: layer {place} is not of slidedot.layers and has no known transpose, "
                f"got {shown(each)}"
            )
    y, single = _validation.images(function, "x", x)
    saved = {}
    for place, each in layers.items():
        y, saved[place] = each._forward(y, True)
    signal = np.zeros(y.shape, y.dtype.type)
    maps, size = _maps(y)
    images, channels, _ = maps.shape
    channel = _index(function, "channel", channel, channels)
    places: NDArray[Any]
    if position is None:
        places = maps[:, channel].argmax(axis=1)
    else:
        places = _places(function, position, images, size, single)
    _maps(signal)[0][np.arange(images), channel, places] = 1
    for place, each in reversed(layers.items()):
        signal = _transposed(each, saved.pop(place), signal)
    return signal[0] if single else signal


def top_activations(
    model: Sequential,
    images: NDArray[Float],
    layer: SupportsIndex | str,
    k: SupportsIndex = 9,
) -> _TopActivations:
    """Find what excites each channel of a layer most: the images, and where in them.

    An image counts once, with the channel's strongest place in it, so that the `k` are different
    images.

    Parameters
    ----------
    model : Sequential
        It is not changed.
    images : ndarray (N, C, H, W), the dtype of the model
        At least `k`. They pass through the model in batches, so that memory does not grow with
        their number; a `numpy.memmap` need not fit into it.
    layer : int or str
        The position in `model` of the layer whose outputs are ranked, dotted for a layer in a
        layer, as in the names of ``state_dict``: 3, or "3.0".
    k : int
        How many to find.

    Returns
    -------
    values : ndarray (channels, k)
        The activations, strongest first, of the dtype of `images`. As in `max_pool2d` a NaN is
        stronger than every number.
    images : ndarray of int (channels, k)
        The image of each; of equal activations the first image comes first.
    positions : ndarray of int (channels, k, 2)
        Its place ``(h, w)`` in the channel: of equal ones in an image the first in row-major
        order. A layer of features, such as Linear, has a channel of one place for each.

    Raises
    ------
    IndexError
        A layer that is not there.
    ValueError
        Shapes that do not fit, fewer images than `k`.
    TypeError
        A model that is no Sequential, an array of another dtype, a number that is not an integer.

    See Also
    --------
    project : Which pixels excited it.
    slidedot.receptive_field : Which pixels it sees.

    Notes
    -----
    The three arrays are the fields of a named tuple. ``project(model, images[top.images[c]],
    layer, c, top.positions[c])`` shows all of channel c. Channels that are zero wherever one looks
    have `values` of zero.

    References
    ----------
    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", section 4,
    arXiv 1311.2901.

    Examples
    --------
    Of three images the two in which a pixel is most brighter than the one before it:

    >>> import numpy as np
    >>> from slidedot.layers import Conv2d, Sequential
    >>> model = Sequential(Conv2d(1, 1, (1, 2), activation="relu"))
    >>> model.layers[0].weight[...] = [-1, 1]
    >>> images = np.float32([[[[0, 1, 5]]], [[[3, 2, 1]]], [[[0, 9, 0]]]])
    >>> top = top_activations(model, images, layer=0, k=2)
    >>> top.values, top.images
    (array([[9., 4.]], dtype=float32), array([[2, 0]]))
    >>> top.positions.tolist()
    [[[0, 0], [0, 1]]]
    """
    function = "top_activations"
    layers = _layers_through(function, model, layer).values()
    images = _validation.floats(function, "images", images, (4,), "(N, C, H, W)")
    _validation.not_empty(function, "images", images)
    k = integer(function, "k", k)
    if k > len(images):
        raise ValueError(
            f"{function}: k must be at most the number of images, {len(images)}, got k={k}"
        )
    y = np.empty((0, *images.shape[1:]), images.dtype)  # an empty batch tells the outputs' shapes
    bytes_each = [math.prod(y.shape[1:]) * y.itemsize]
    for each in layers:
        y = each.forward(y)
        bytes_each.append(math.prod(y.shape[1:]) * y.itemsize)
    batch = max(1, BATCH_BYTES // max(bytes_each))
    maps, size = _maps(y)
    best = [np.empty((maps.shape[1], 0), kind) for kind in (y.dtype, np.intp, np.intp)]
    for start in range(0, len(images), batch):
        y = images[start : start + batch]
        for each in layers:
            y = each.forward(y)
        maps = _maps(y)[0].swapaxes(0, 1)
        places = maps.argmax(axis=2)
        values = np.take_along_axis(maps, places[..., None], 2)[..., 0]
        numbers = np.broadcast_to(start + np.arange(len(y)), places.shape)
        found = zip(best, (values, numbers, places), strict=True)
        best = [np.concatenate(arrays, axis=1) for arrays in found]
        order = np.lexsort((-best[0], ~np.isnan(best[0])))[:, :k]  # stable, so the first of equals
        best = [np.take_along_axis(array, order, 1) for array in best]
    values, numbers, places = best
    positions = np.stack(np.unravel_index(places, size), axis=-1)
    return _TopActivations(values, numbers, positions)
