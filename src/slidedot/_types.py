"""Types for hints: arrays, words and layers; sizes and paddings have theirs in `geometry`.

Whoever uses them imports annotations from the future, so that ``help`` shows their names.
"""

from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

#: The dtype that goes in, comes out: float32 or float64.
Float = TypeVar("Float", bound=np.floating[Any])

#: Of a dtype that the types do not follow.
Floats: TypeAlias = NDArray[np.floating[Any]]
Integers: TypeAlias = NDArray[np.integer[Any]]

Activation: TypeAlias = Literal["relu"] | None
Algorithm: TypeAlias = Literal["auto", "direct", "im2col", "winograd"]


class Layer(Protocol):
    """What `Sequential` and the optimizers ask of a layer."""

    grads: dict[str, Any]

    def parameters(self) -> dict[str, Any]: ...
    def forward(self, x: Any, training: bool = ...) -> Any: ...
    def backward(self, grad_out: Any, *, need_input_grad: bool) -> Any: ...
