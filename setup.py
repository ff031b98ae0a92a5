"""Kernel modules x CPU levels -> extensions. Everything else is in pyproject.toml."""

import os
import platform
import sys
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

KERNELS = ["convolution", "winograd", "depthwise", "columns", "pooling", "tile"]
COMMON = ["_kernels.cpu", "c_api"]  # the probe, and the interface for C
X86_LEVELS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]  # as in slidedot/_dispatch.py


def levels():
    """CPU levels to build: all of this machine's kind, or those in SLIDEDOT_BUILD_LEVELS."""
    known = X86_LEVELS if platform.machine() in ("x86_64", "AMD64") else ["baseline"]
    wanted = os.environ.get("SLIDEDOT_BUILD_LEVELS", "").replace(",", " ").split() or known
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        sys.exit(f"SLIDEDOT_BUILD_LEVELS: unknown {', '.join(unknown)}; there are {known}")
    return wanted


# Never -ffast-math: it makes the loaded module flush the importing thread's denormals to zero.
COMPILE = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math"]
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]


def extensions(level):
    """Return the kernel modules of one CPU level (None: what is for every CPU)."""
    march = [f"-march={level}"] if level in X86_LEVELS else []
    suffix = "_" + level.replace("-", "_") if level else ""
    modules = [
        Extension(
            f"slidedot.{name}{suffix}",
            [f"pyx/{name.removeprefix('_kernels.')}.pyx"],
            include_dirs=["pyx"],
            depends=glob("pyx/*.h"),
            extra_compile_args=COMPILE + OPENMP + march,
            extra_link_args=OPENMP + ([] if sys.platform == "darwin" else ["-s"]),
        )
        for name in ([f"_kernels.{family}" for family in KERNELS] if level else COMMON)
    ]
    # One build_dir per level: the generated C's name comes from the source, its PyInit_ from the
    # extension, so a shared folder would overwrite one level by the next.
    return cythonize(
        modules,
        include_path=["pyx", "src"],
        build_dir=f"build/cython/{level or 'probe'}",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    )


class Build(build_ext):
    def finalize_options(self):
        super().finalize_options()
        if (self.compiler or ("msvc" if sys.platform == "win32" else "unix")) == "msvc":
            raise PlatformError(
                "slidedot: Microsoft's compiler cannot build the kernels, which need GCC's vector "
                "types; use WSL, or a MinGW-w64 gcc (build_ext --compiler=mingw32, untested)"
            )


setup(
    cmdclass={"build_ext": Build},
    ext_modules=[module for level in [None, *levels()] for module in extensions(level)],
    options={"build_ext": {"parallel": os.cpu_count()}},
)
