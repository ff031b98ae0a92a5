"""Gradient descent on a layer's parameters, in place.

An optimizer reads ``layer.parameters()`` and ``layer.grads`` at each step, so it follows a
``load_state_dict``. The rules are those of ``torch.optim``.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from slidedot._types import Floats, Layer
from slidedot.geometry import shown

__all__ = ["SGD", "Adam"]


def _number(
    function: str, name: str, value: Any, below: float = math.inf, positive: bool = False
) -> float:
    """Return `value` as a float in [0, below), or in (0, below) if it must be positive."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{function}: {name} must be a real number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not 0 <= number < below or (positive and number == 0):
        bracket = "(" if positive else "["
        raise ValueError(
            f"{function}: {name} must be in {bracket}0, {below}), got {name}={shown(value)}"
        )
    return number


class _Optimizer(ABC):
    """What the optimizers share: the layer, its gradients, and state per parameter."""

    def __init__(self, layer: Layer, learning_rate: float, weight_decay: float) -> None:
        function = type(self).__name__
        if not (hasattr(layer, "parameters") and hasattr(layer, "grads")):
            raise TypeError(f"{function}: layer must be a layer object, got {shown(layer)}")
        self.layer = layer
        self.learning_rate = _number(function, "learning_rate", learning_rate)
        self.weight_decay = _number(function, "weight_decay", weight_decay)
        self._steps = 0
        self._state: dict[str, Any] = {}

    @abstractmethod
    def _update(self, name: str, parameter: Floats, grad: Floats) -> None:
        """Change one parameter, in place."""

    def step(self) -> None:
        """Change every parameter by its gradient of the last backward pass.

        Raises
        ------
        ValueError
            A parameter without a gradient: no backward pass so far.
        """
        parameters, grads = self.layer.parameters(), self.layer.grads
        missing = [name for name in parameters if name not in grads]
        if missing:
            raise ValueError(
                f"{type(self).__name__}.step: every parameter must have a gradient, call backward "
                f"first, got none for {missing}"
            )
        self._steps += 1
        for name, parameter in parameters.items():
            grad = grads[name]
            if self.weight_decay:
                grad = grad + self.weight_decay * parameter
            self._update(name, parameter, grad)


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum.

    ``velocity = momentum * velocity + grad + weight_decay * parameter``, from 0;
    ``parameter -= learning_rate * velocity``.

    Parameters
    ----------
    layer : layer of `slidedot.layers`
        Whose parameters are changed, in place.
    learning_rate : float
        Length of a step, >= 0; the attribute may be changed between steps.
    momentum : float
        How much of the last step goes into the next, in [0, 1).
    weight_decay : float
        Pull towards 0, >= 0.

    Raises
    ------
    ValueError
        A number out of range.
    TypeError
        Something that is not a layer, or not a number.

    References
    ----------
    Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML
    2013, with the learning rate outside the velocity, as in torch.

    Examples
    --------
    >>> import numpy as np
    >>> from slidedot.layers import Linear
    >>> layer = Linear(1, 1, bias=False)
    >>> layer.weight[:] = 3
    >>> _ = layer.forward(np.float32([2]), training=True)
    >>> _ = layer.backward(np.float32([1]))
    >>> SGD(layer, 0.5).step()
    >>> layer.weight
    array([[2.]], dtype=float32)
    """

    def __init__(
        self,
        layer: Layer,
        learning_rate: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(layer, learning_rate, weight_decay)
        self.momentum = _number("SGD", "momentum", momentum, below=1)

    def _update(self, name: str, parameter: Floats, grad: Floats) -> None:
        if self.momentum:
            if name not in self._state:
                self._state[name] = np.zeros_like(parameter)
            velocity = self._state[name]
            velocity *= self.momentum
            velocity += grad
            grad = velocity
        parameter -= self.learning_rate * grad


class Adam(_Optimizer):
    """Adam: steps of about `learning_rate`, whatever the size of the gradients.

    With ``g = grad + weight_decay * parameter``, running means ``m`` of ``g`` and ``v`` of
    ``g**2``, from 0, weighted by ``betas``, and ``t`` the number of the step:
    ``parameter -= learning_rate * (m / (1 - betas[0]**t)) / (sqrt(v / (1 - betas[1]**t)) +
    epsilon)``.

    Parameters
    ----------
    layer : layer of `slidedot.layers`
        Whose parameters are changed, in place.
    learning_rate : float
        Length of a step, >= 0; the attribute may be changed between steps.
    betas : (float, float)
        How slowly the two means forget, each in [0, 1).
    epsilon : float
        Keeps the division from 0, > 0.
    weight_decay : float
        Pull towards 0, >= 0, part of the gradient (not AdamW's).

    Raises
    ------
    ValueError
        A number out of range.
    TypeError
        Something that is not a layer, or not a number.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", algorithm 1, arXiv 1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from slidedot.layers import Linear
    >>> layer = Linear(1, 1, bias=False)
    >>> layer.weight[:] = 3
    >>> _ = layer.forward(np.float32([2]), training=True)
    >>> _ = layer.backward(np.float32([1]))
    >>> Adam(layer, learning_rate=0.5).step()
    >>> layer.weight
    array([[2.5]], dtype=float32)
    """

    def __init__(
        self,
        layer: Layer,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(layer, learning_rate, weight_decay)
        if not isinstance(betas, (tuple, list)):
            raise TypeError(f"Adam: betas must be two real numbers, got {shown(betas)}")
        if len(betas) != 2:
            raise ValueError(f"Adam: betas must be two real numbers, got betas={shown(betas)}")
        self.betas = tuple(_number("Adam", "betas", beta, below=1) for beta in betas)
        self.epsilon = _number("Adam", "epsilon", epsilon, positive=True)

    def _update(self, name: str, parameter: Floats, grad: Floats) -> None:
        if name not in self._state:
            self._state[name] = np.zeros_like(parameter), np.zeros_like(parameter)
        m, v = self._state[name]
        for mean, new, beta in ((m, grad, self.betas[0]), (v, grad * grad, self.betas[1])):
            mean *= beta
            mean += (1 - beta) * new
        unbiased = [1 - beta**self._steps for beta in self.betas]
        step = self.learning_rate / unbiased[0] * m
        parameter -= step / (np.sqrt(v / unbiased[1]) + self.epsilon)
