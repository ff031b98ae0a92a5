#!/usr/bin/env bash
# Run tests on kernels that are built for a checker of memory or of threads:
#
#     tools/sanitize.sh address|thread|valgrind [--short | pytest arguments]
#
# address   AddressSanitizer, with its search for leaks, and UndefinedBehaviorSanitizer (gcc)
# thread    ThreadSanitizer (clang, libomp and Archer: libgomp's barriers are unknown to it)
# valgrind  memcheck, for what is read before it is written (gcc, valgrind)
#
# The Python environment must have what `pip install ".[test]"` installs. Kernels are built in a copy
# of the sources: build/sanitize/<checker>, which stays, so that a second run builds only what has
# changed. --short: one CPU level instead of two (SLIDEDOT_BUILD_LEVELS names others); of each test
# ten examples instead of 200, and no test whose calls another one makes, too; of memcheck, which
# makes all 50 times slower, each kernel at sizes around the vectors'.
# Ends with 0 if tests passed and nothing was reported.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
checker=${1:-}
[[ $checker =~ ^(address|thread|valgrind)$ ]] || usage
shift
work=$root/build/sanitize/$checker
reports=$work/reports

# ---------------------------------------------------------------------------------- the checker

short=(--hypothesis-profile=short)
# Their time goes into the specification, and others call the same kernels at the same sizes.
called_elsewhere=(
    --deselect=tests/test_convolution.py::test_large_{forward,backward}_is_within_the_bound
    --deselect=tests/test_winograd.py::test_agrees_with_torch
    --deselect=tests/test_depthwise.py::test_{large,within_the_bound}
    --deselect=tests/test_pooling.py::test_large
)
check=(python -m pytest -p no:cacheprovider)
optimize=-O1
levels="x86-64-v3 x86-64-v2"
case $checker in
    address)
        compiler="gcc -fsanitize=address,undefined"
        optimize=-O0 # compiles in 40 % of the time; that of the tests is Python's
        preload="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
        short+=(tests/test_{convolution,transposed_convolution,winograd,depthwise,columns,pooling}.py
                tests/test_{tile,fuzz}.py)
        whole=("${short[@]:1}" tests/test_{guard_pages,refusals,threads,layers,c_api}.py)
        short+=("${called_elsewhere[@]}")
        # A result too large is a MemoryError, as without ASan. A block's owner is the caller of
        # malloc, by which leaks.supp tells CPython's and NumPy's blocks from the kernels'.
        export ASAN_OPTIONS="allocator_may_return_null=1 detect_leaks=1 malloc_context_size=2"
        ASAN_OPTIONS+=" handle_segv=0"  # a guard page ends the process, as without ASan
        ASAN_OPTIONS+=" log_path=$reports/address"
        export LSAN_OPTIONS="suppressions=$root/tools/leaks.supp print_suppressions=0"
        export UBSAN_OPTIONS="print_stacktrace=1 log_path=$reports/undefined"
        ;;
    thread)
        clang=$(command -v clang || command -v clang-14) || { echo "there is no clang" >&2; exit 1; }
        compiler="$clang -fsanitize=thread"
        preload=$(gcc -print-file-name=libtsan.so)
        # vectors of 16 bytes are the largest that TSan watches
        levels=x86-64-v2
        short=(tests/test_{determinism,threads}.py -k "number_of_threads or python_threads")
        whole=("${short[@]}")
        # Archer tells TSan what OpenMP orders: without it every barrier would be a race. Python and
        # NumPy are not built for TSan, and their locks are those of the C library, which it knows.
        export OMP_TOOL_LIBRARIES=$(dirname "$(dirname "$(readlink -f "$clang")")")/lib/libarcher.so
        export TSAN_OPTIONS="ignore_noninstrumented_modules=1 history_size=7"
        TSAN_OPTIONS+=" log_path=$reports/thread"
        ;;
    valgrind)
        compiler=gcc
        preload=
        whole=("${short[@]}" "${called_elsewhere[@]}"
               tests/test_{convolution,transposed_convolution,winograd,depthwise,columns,pooling}.py)
        [[ ${1:-} == --short ]] && check=(python tests/test_guard_pages.py)
        short=(1 float32 float64)
        ;;
esac
[[ $(uname -m) == x86_64 ]] || levels=baseline
if [[ $# == 0 ]]; then tests=("${whole[@]}")
elif [[ $1 == --short ]]; then tests=("${short[@]}" "${@:2}") levels=${levels%% *}
else tests=("$@")
fi

# ------------------------------------------------------------------------------------- the copy

mkdir -p "$work"
rm -rf "$reports"
mkdir "$reports"
tar -C "$root" --exclude='*.so' --exclude=__pycache__ --exclude=docs/_build -cf - \
    setup.py pyproject.toml {README,CHANGELOG,CONTRIBUTING}.md LICENSE pyx src tests docs examples |
    tar -C "$work" -xf -
cd "$work"

# setup.py's own flags, but for names of functions in the reports and less time to compile. What
# tests compile goes through here too, and the compiler itself is not checked.
cat > compiler <<WRAPPER
#!/usr/bin/env bash
unset LD_PRELOAD
for argument; do
    shift
    case \$argument in
        -s) ;;
        -g0) set -- "\$@" -g1 ;;
        -O3) set -- "\$@" $optimize ;;
        *) set -- "\$@" "\$argument" ;;
    esac
done
exec $compiler -fno-omit-frame-pointer "\$@"
WRAPPER
chmod +x compiler
export CC=$work/compiler LDSHARED="$work/compiler -shared"
SLIDEDOT_BUILD_LEVELS=${SLIDEDOT_BUILD_LEVELS:-$levels} python setup.py -q build_ext --inplace

# ------------------------------------------------------------------------------------ the tests

# An object of Python's is a block of its own: what is read after it was freed is seen then. NumPy's
# matrix products stay in one thread: they are not what is checked.
export PYTHONPATH=$work/src PYTHONMALLOC=malloc OPENBLAS_NUM_THREADS=1
run=("${check[@]}" "${tests[@]}")
status=0
case $checker in
    address) env LD_PRELOAD="$preload" "${run[@]}" || status=$? ;;
    thread) setarch -R env LD_PRELOAD="$preload" "${run[@]}" || status=$? ;; # memory in its place
    valgrind) valgrind --quiet --suppressions="$root/tools/valgrind.supp" --log-file="$reports/valgrind" \
        "${run[@]}" || status=$? ;;
esac
if reported=$(grep -rhv "AddressSanitizer failed to allocate" "$reports"); then
    head -n 500 <<< "$reported" >&2
    status=1
fi
exit "$status"
