"""Which CPU levels this machine runs, and its OpenMP. Compiled for the oldest CPU only."""

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(_M_X64)
    /* Feature by feature: "x86-64-v3" as a name needs gcc 12. The compiler's probe also asks
       whether the operating system saves the wide registers. */
    static int slidedot_x86_level(void) {
        __builtin_cpu_init();
        if (!(__builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.2")
              && __builtin_cpu_supports("popcnt"))) return 1;
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
              && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))) return 2;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
              && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
              && __builtin_cpu_supports("avx512vl"))) return 3;
        return 4;
    }
    #else
    static int slidedot_x86_level(void) { return 0; }
    #endif

    #if !defined(_OPENMP)
    #define SLIDEDOT_OPENMP ""
    static int omp_get_max_threads(void) { return 1; }
    #else
    #include <omp.h>
    #if defined(__clang__)
    #define SLIDEDOT_OPENMP "libomp"
    #else
    #define SLIDEDOT_OPENMP "libgomp"
    #endif
    #endif
    """
    int slidedot_x86_level() nogil
    int omp_get_max_threads() nogil
    const char *SLIDEDOT_OPENMP


def levels():
    """Return the CPU levels that this machine runs, best first."""
    cdef int level = slidedot_x86_level()
    if level == 0:
        return ["baseline"]
    return [f"x86-64-v{i}" for i in range(level, 1, -1)]


def openmp():
    """Return the OpenMP runtime's name, or None where the kernels are serial."""
    return SLIDEDOT_OPENMP.decode() or None


def openmp_threads():
    """Return how many threads the OpenMP runtime would take now, in the calling Python thread."""
    return omp_get_max_threads()
