#!/usr/bin/env bash
# Build the kernels for aarch64 and test them, on a Debian machine with another CPU:
#
#     apt-get install gcc-aarch64-linux-gnu qemu-user-static debootstrap
#     tools/aarch64.sh FOLDER [arguments for pytest]
#
# as root, which debootstrap needs; the Python environment must have pip, Cython and setuptools. They
# and the cross compiler run here, since Cython writes the same C for every CPU; only the tests are
# emulated. FOLDER keeps Debian's Python for aarch64, its packages and the kernels, so that a second
# run builds only what has changed. Without arguments, the kernels' own tests run, which takes hours;
# --hypothesis-profile=short tries ten examples of each instead of 200.
set -euo pipefail

suite=trixie python=3.13 # Debian's release, and its Python
root=$(cd "$(dirname "$0")/.." && pwd)
usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[[ $# != 0 && $1 != -* ]] || usage
mkdir -p "$1"
work=$(cd "$1" && pwd)
shift
debian=$work/root
emulated=$debian/usr/bin/python3

# ------------------------------------------------------------------------------------ its Python

if ! [ -e "$work/ready" ]; then
    rm -rf "$debian"
    debootstrap --foreign --arch=arm64 --variant=minbase \
        --include=libpython3-dev,python3,libgomp1 "$suite" "$debian"
    for package in "$debian"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$debian"; done
    # a script, so that the tests' own child processes are emulated too
    rm "$emulated"
    printf '#!/bin/sh\nexec qemu-aarch64-static -L %q -0 %q %q "$@"\n' \
        "$debian" "$emulated" "$debian/usr/bin/python$python" > "$emulated"
    chmod +x "$emulated"
    python -m pip install -q --no-compile --only-binary=:all: \
        --target "$debian/usr/local/lib/python$python/dist-packages" \
        --implementation cp --python-version "$python" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux2014_aarch64 \
        numpy pytest hypothesis threadpoolctl
    touch "$work/ready"
fi

# ----------------------------------------------------------------------------------- the kernels

mkdir -p "$work/slidedot"
tar -C "$root" --exclude='*.so' --exclude=__pycache__ --exclude=docs/_build -cf - \
    setup.py pyproject.toml {README,CHANGELOG,CONTRIBUTING}.md LICENSE pyx src tests docs examples |
    tar -C "$work/slidedot" -xf -
cd "$work/slidedot"
include=$debian/usr/include compiler=aarch64-linux-gnu-gcc
CC="$compiler -I$include/python$python -idirafter $include" LDSHARED="$compiler -shared" \
    SETUPTOOLS_EXT_SUFFIX=.cpython-${python/./}-aarch64-linux-gnu.so python - << 'SETUP'
import platform
import runpy
import sys

platform.machine = lambda: "aarch64"
sys.argv = ["setup.py", "-q", "egg_info", "build_ext", "--inplace"]
runpy.run_path("setup.py", run_name="__main__")
SETUP

# ------------------------------------------------------------------------------------- the tests

[[ " $*" == *" tests/"* ]] ||
    set -- tests/test_{tile,dispatch,columns,pooling,convolution,winograd,depthwise}.py \
        tests/test_{transposed_convolution,guard_pages,refusals,threads}.py "$@"
unset PYTHONDONTWRITEBYTECODE # emulated, to compile NumPy's Python takes half a minute
export PYTHONPATH=$work/slidedot/src OPENBLAS_NUM_THREADS=1
"$emulated" -m pytest -p no:cacheprovider "$@"
