#!/usr/bin/env bash
# Build the kernels for aarch64 and test them, on a Debian machine with another CPU:
#
#     apt-get install gcc-aarch64-linux-gnu qemu-user-static debootstrap python3-pip
#     tools/aarch64.sh FOLDER [arguments for pytest]
#
# as root, which debootstrap needs. FOLDER keeps Debian's Python for aarch64 and its packages for the
# next time. Python runs emulated, and calls the cross compiler, which does not.
set -euo pipefail

suite=trixie python=3.13 # Debian's release, and its Python
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
work=$(cd "$1" && pwd)
shift
debian=$work/root
emulated=$debian/usr/bin/python3

if ! [ -e "$work/ready" ]; then
    debootstrap --foreign --arch=arm64 --variant=minbase \
        --include=libpython3-dev,python3,libgomp1 "$suite" "$debian"
    for package in "$debian"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$debian"; done
    # a script, so that the tests' own child processes are emulated too
    rm "$emulated"
    printf '#!/bin/sh\nexec qemu-aarch64-static -L %q -0 %q %q "$@"\n' \
        "$debian" "$emulated" "$debian/usr/bin/python$python" > "$emulated"
    chmod +x "$emulated"
    python3 -m pip install -q --target "$work/site" --only-binary=:all: \
        --implementation cp --python-version "$python" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux2014_aarch64 \
        numpy "Cython>=3.1" "setuptools>=77" pytest hypothesis threadpoolctl
    touch "$work/ready"
fi

rm -rf "$work/slidedot"
mkdir "$work/slidedot"
git -C "$root" ls-files -z | tar -C "$root" --null -T - -cf - | tar -C "$work/slidedot" -xf -
cd "$work/slidedot"
export PYTHONPATH=$work/site:$work/slidedot/src CC=aarch64-linux-gnu-gcc
include=$debian/usr/include
CFLAGS="-isystem $include/python$python -idirafter $include" LDSHARED="$CC -shared" \
    "$emulated" setup.py -q egg_info build_ext --inplace
if [ $# = 0 ]; then
    set -- tests/test_{tile,dispatch,columns,pooling,convolution,winograd,depthwise}.py \
        tests/test_{transposed_convolution,guard_pages,refusals,threads}.py
fi
"$emulated" -m pytest -q -p no:cacheprovider "$@"
