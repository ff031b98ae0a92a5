"""Memory that a network uses again: never while anybody can still see it."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from slidedot import _buffers
from slidedot.layers import Conv2d, MaxPool2d, ReLU, Sequential, _Layer

SHAPE = (2, 3, 64, 80)


class Watch(_Layer):
    """A caller's own layer: it sees what passes, and keeps it if `keep`."""

    def __init__(self, keep=False):
        super().__init__()
        self.keep = keep
        self.places = []
        self.kept = []

    def parameters(self):
        return {}

    def _note(self, x):
        self.places.append(x.ctypes.data)
        if self.keep:
            self.kept.append((x, x.copy()))
        return x

    def _forward(self, x, training):
        return self._note(x), None

    def _backward(self, saved, grad_out, need_input_grad):
        return self._note(grad_out)


def network(*watches):
    return Sequential(
        Conv2d(3, 16, 5, padding=2, activation="relu", rng=0),
        *watches[:1],
        MaxPool2d(3, stride=1, padding=1),
        ReLU(),
        *watches[1:],
        Conv2d(16, 4, 3, padding=1, rng=1),
    )


def image(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def step(model, x):
    y = model.forward(x, training=True)
    return y, model.backward(y), dict(model.grads)


def held(model):
    return {id(entry.block) for entry in model._buffers._entries}


def test_the_next_pass_takes_the_memory_of_the_last():
    watch = Watch()
    model = network(watch)
    for seed in range(6):
        model(image(seed))
    assert len(set(watch.places)) < 3
    watch.places.clear()
    for seed in range(6):
        step(model, image(seed))
    assert len(set(watch.places)) < 8  # of twelve


@pytest.mark.parametrize("keep", [False, True])
def test_what_anybody_keeps_stays_as_it_is(keep):
    watches = Watch(keep), Watch(keep)
    model = network(*watches)
    results = []
    for seed in range(7):
        results += [model(image(seed)), *step(model, image(seed))[:2], *model.grads.values()]
    copies = [result.copy() for result in results]
    for seed in range(7, 14):
        model(image(seed))
        step(model, image(seed))
    for result, expected in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result, expected)
    for watch in watches:
        for x, expected in watch.kept:
            np.testing.assert_array_equal(x, expected)


def test_a_view_alone_keeps_the_memory():
    model = network()
    views = [memoryview(model(image(seed))[1, 2]) for seed in range(5)]
    expected = [bytes(view) for view in views]
    for seed in range(5, 12):
        model(image(seed))
    assert [bytes(view) for view in views] == expected


def test_the_results_are_those_of_new_memory():
    model, fresh = network(), network()
    for seed in range(5):
        y, grad, grads = step(model, image(seed))
        x = image(seed)
        for layer in fresh.layers:
            x = layer.forward(x, training=True)
        np.testing.assert_array_equal(y, x)
        for layer in reversed(fresh.layers):
            x = layer.backward(x)
        np.testing.assert_array_equal(grad, x)
        for name, value in grads.items():
            at, name = name.split(".")
            np.testing.assert_array_equal(value, fresh.layers[int(at)].grads[name])


def test_blocks_that_wait_are_forgotten():
    model = network()
    kept = model(image(0))
    assert id(kept.base) in held(model)
    for _ in range(_buffers.PASSES):
        model(image(0))
    assert id(kept.base) not in held(model)
    model(image(0)[:, :, :5, :5])  # whose results are small: all others wait
    for _ in range(_buffers.PASSES):
        model(image(0)[:, :, :5, :5])
    assert not held(model)


def test_large_blocks_go_back(monkeypatch):
    model = network()
    monkeypatch.setattr(_buffers, "LARGEST", 200_000)
    y = model(image(0))
    assert y.nbytes < 200_000  # unlike those within
    assert held(model) == {id(y.base)}


def test_a_network_within_uses_the_memory_of_the_outer_one():
    inner = network()
    outer = Sequential(inner, ReLU())
    for seed in range(3):
        step(outer, image(seed))
    assert held(outer)
    assert not held(inner)


def test_threads_in_one_network():
    model = network()
    expected = [network()(image(seed)) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda seed: model(image(seed)), range(40)))
    for result, y in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, y)
    assert not model._buffers._lock.locked()


def test_an_error_within_ends_the_pass():
    model = network()
    with pytest.raises(ValueError, match="channels"):
        model(np.ones((1, 4, 80, 80), np.float32))
    assert not model._buffers._lock.locked()
    assert _buffers.block(3).size == 3
    assert not held(model)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_memory_of_its_own(how):
    model = network()
    y = model(image(0))
    twin = how(model)
    assert not held(twin)
    np.testing.assert_array_equal(twin(image(0)), y)
    assert not held(model) & held(twin)
