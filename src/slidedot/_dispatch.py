"""Pick the CPU level once, at import: the best one that was built and that this CPU runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any, Literal, NamedTuple, overload

from slidedot._kernels import cpu
from slidedot._threads import get_num_threads
from slidedot.geometry import shown

#: Best first. "baseline" is the only one where the CPU has no x86-64 levels.
LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "baseline")

FAMILIES = ("convolution", "winograd", "depthwise", "columns", "pooling", "tile")


class Kernels(NamedTuple):
    """The kernel modules of one CPU level."""

    level: str
    convolution: Any
    winograd: Any
    depthwise: Any
    columns: Any
    pooling: Any
    tile: Any


def _module(family: str, level: str) -> str:
    return f"slidedot._kernels.{family}_{level.replace('-', '_')}"


def built_levels() -> list[str]:
    """CPU levels that this installation holds, best first."""
    return [v for v in LEVELS if importlib.util.find_spec(_module(FAMILIES[0], v)) is not None]


def runnable_levels() -> list[str]:
    """CPU levels that were built and that this CPU runs, best first."""
    supported = cpu.levels()
    return [level for level in built_levels() if level in supported]


def load(level: str) -> Kernels:
    """Import the kernel modules of `level`, which the CPU must run: even their initialisation
    is compiled for it."""
    return Kernels(level, *(importlib.import_module(_module(f, level)) for f in FAMILIES))


def _choose() -> str:
    runnable = runnable_levels()
    if not runnable:
        raise ImportError(
            f"slidedot was built for {', '.join(built_levels()) or 'no CPU level'}, "
            f"and this CPU runs {', '.join(cpu.levels())}"
        )
    level = os.environ.get("SLIDEDOT_CPU_LEVEL") or runnable[0]
    if level not in runnable:
        raise ImportError(
            f"SLIDEDOT_CPU_LEVEL={level!r} is not available; "
            f"this installation and CPU run {', '.join(runnable)}"
        )
    return level


#: The kernels in use. Callers look it up at each call, so that tests can walk over the levels.
kernels = load(_choose())


@overload
def show_config(mode: Literal["stdout"] = ...) -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Print, or return, what is installed and in use.

    Parameters
    ----------
    mode : "stdout" or "dicts"
        Print it, or return it as a dictionary.

    Returns
    -------
    dict or None
        With ``mode="dicts"``: ``version``, ``cpu_level``, ``levels_built``, ``levels_runnable``,
        ``threads`` and ``openmp`` (the runtime's name, or None for a serial build).

    Raises
    ------
    ValueError
        Another `mode`.

    Examples
    --------
    >>> import slidedot as sd
    >>> sorted(sd.show_config(mode="dicts"))
    ['cpu_level', 'levels_built', 'levels_runnable', 'openmp', 'threads', 'version']
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"show_config: mode must be 'stdout' or 'dicts', got mode={shown(mode)}")
    import importlib.metadata  # slow to import, and of use here only

    config = {
        "version": importlib.metadata.version("slidedot"),
        "cpu_level": kernels.level,
        "levels_built": built_levels(),
        "levels_runnable": runnable_levels(),
        "threads": get_num_threads(),
        "openmp": cpu.openmp(),
    }
    if mode == "dicts":
        return config
    for name, value in config.items():
        print(f"{name + ':':<17}{', '.join(value) if isinstance(value, list) else value}")
    return None
