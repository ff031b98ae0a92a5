"""Threads: Python's own, OpenMP's, and what is left of both after a fork."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from kernels import KERNELS, every_kernel, normal

import slidedot as sd
from slidedot import _threads

#: They start threads of their own, fork, and set what holds in the whole process: each runs alone.
pytestmark = pytest.mark.thread_unsafe

#: A child that hangs is ended after this many seconds; none needs more than a few.
PATIENCE = 120

#: Python 3.12 and later warn of any fork while there are threads: it is what is tested here.
forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def python(code, **environment):
    """Run `code` in a new interpreter and return what it printed."""
    unset = ("SLIDEDOT_NUM_THREADS", "OMP_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture(autouse=True)
def _restore_thread_count():
    before = sd.get_num_threads()
    yield
    sd.set_num_threads(before)


# ------------------------------------------------------------------------------ results


@pytest.mark.parametrize(("people", "count"), [(8, 1), (8, 3), (32, 2)])
def test_python_threads_at_once(people, count):
    """Each runs all kernels on images of its own, from another kernel on."""
    people = range(people)
    calls = [list(every_kernel(seed=p).items()) for p in people]
    with sd.num_threads(1):
        expected = [{name: run().tobytes() for name, run in calls[p]} for p in people]
    start = threading.Barrier(len(people))

    def work(p):
        start.wait(PATIENCE)
        first = p % len(calls[p])
        for name, run in calls[p][first:] + calls[p][:first]:
            assert run().tobytes() == expected[p][name], name

    with sd.num_threads(count), ThreadPoolExecutor(len(people)) as pool:
        for done in [pool.submit(work, p) for p in people]:
            done.result(PATIENCE)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gil_is_released(kernel):
    """Another Python thread goes on while a kernel computes.

    With this switch interval a thread that holds the GIL is never asked for it: the other thread
    moves only where it is released.
    """
    run = every_kernel()[kernel]
    ticks = 0
    done = threading.Event()

    def tick():
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(1e-5)

    other = threading.Thread(target=tick)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        other.start()
        for _ in range(1000):  # the system may not let the other thread run within one call
            before = ticks
            run()
            if ticks > before:
                break
        else:
            pytest.fail("no other thread ran during 1000 calls")
    finally:
        sys.setswitchinterval(interval)
        done.set()
        other.join()


# ------------------------------------------------------------------------------ fork


def exit_code(child):
    """Wait for a forked child; end it if it hangs."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


@pytest.mark.parametrize("in_child", [contextlib.nullcontext, lambda: sd.num_threads(4)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_forked_child_computes(kernel, in_child):
    run = every_kernel()[kernel]
    with sd.num_threads(4):
        expected = run().tobytes()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with in_child():
                    code = 0 if run().tobytes() == expected else 2
            finally:
                os._exit(code)
        assert exit_code(child) == 0
        assert run().tobytes() == expected  # and the parent still has its threads


test_forked_child_computes.pytestmark += forks


def test_fork_in_a_thread_while_others_compute():
    """Whatever the others are within, the children compute: the library holds no lock."""
    run = every_kernel()["conv2d"]
    with sd.num_threads(2):
        expected = run().tobytes()
        done = threading.Event()

        def compute():
            while not done.is_set():
                run()

        def fork():
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = 0 if run().tobytes() == expected else 2
                finally:
                    os._exit(code)
            return exit_code(child)

        with ThreadPoolExecutor(4) as pool:
            others = [pool.submit(compute) for _ in range(2)]
            codes = [pool.submit(fork) for _ in range(6)]
            try:
                assert [code.result(PATIENCE) for code in codes] == [0] * 6
            finally:
                done.set()
            for other in others:
                other.result(PATIENCE)


test_fork_in_a_thread_while_others_compute.pytestmark = forks


@pytest.mark.parametrize(
    "method",
    [pytest.param("fork", marks=forks), "spawn"],
)
def test_multiprocessing_pool(method):
    x, weight = normal(4, 24, 40, 40), normal(32, 24, 3, 3)
    with sd.num_threads(4):
        expected = sd.conv2d(x, weight).tobytes()
        with multiprocessing.get_context(method).Pool(2) as pool:
            results = pool.starmap_async(sd.conv2d, [(x, weight)] * 4).get(PATIENCE)
    assert [y.tobytes() for y in results] == [expected] * 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_threads_are_started_where_there_is_openmp():
    """Without this the tests of the fork would pass by never having had a thread."""
    code = """
import os, numpy as np, slidedot as sd
x, weight = np.ones((4, 24, 40, 40)), np.ones((32, 24, 3, 3))
def threads(): return len(os.listdir("/proc/self/task"))
before = threads()
sd.set_num_threads(1); sd.conv2d(x, weight); one = threads() - before
sd.set_num_threads(4); sd.conv2d(x, weight); four = threads() - before
print(one, four, sd.show_config(mode="dicts")["openmp"] is not None)
"""
    assert python(code).stdout in ("0 3 True\n", "0 0 False\n")


# ------------------------------------------------------------------------------ the count


def test_a_lower_limit_of_openmp_holds_in_its_thread():
    """As threadpoolctl sets it, who lowers that of all libraries in a process."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    runtimes = threadpoolctl.threadpool_info()
    if not any(r["user_api"] == "openmp" and "scikit" not in r["filepath"] for r in runtimes):
        pytest.skip("the kernels are serial")
    if _threads._openmp == 1:
        pytest.skip("on one CPU no limit is lower than what OpenMP would take")
    work = 100 * _threads.WORK_PER_THREAD
    sd.set_num_threads(9)
    with ThreadPoolExecutor(1) as other:
        with threadpoolctl.threadpool_limits(1, user_api="openmp"):
            assert _threads.threads_for(work) == 1
            assert other.submit(_threads.threads_for, work).result() == 9
        assert _threads.threads_for(work) == 9  # more than OpenMP would take, as asked for


def test_joblib_deals_out_the_cpus():
    """To each of its processes its share, in OMP_NUM_THREADS."""
    pytest.importorskip("joblib")
    code = """
import joblib, slidedot as sd
def counts(): return joblib.Parallel(2)(joblib.delayed(sd.get_num_threads)() for _ in range(4))
print(set(counts()) == {max(1, joblib.cpu_count() // 2)})
with joblib.parallel_config("loky", inner_max_num_threads=3):
    print(set(counts()))
"""
    result = python(code)
    assert result.stdout == "True\n{3}\n", result.stderr


def test_processes_of_distributed_compute_with_one_thread_each():
    """As many tasks are at work in each as it has threads of its own."""
    pytest.importorskip("distributed")
    code = """
import distributed, slidedot as sd
how = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
with distributed.LocalCluster(**how) as cluster, distributed.Client(cluster) as client:
    print(client.submit(sd.get_num_threads).result())
"""
    result = python(code)
    assert result.stdout == "1\n", result.stderr


def test_count_is_set_and_restored():
    sd.set_num_threads(3)
    assert sd.get_num_threads() == 3
    with sd.num_threads(2):
        assert sd.get_num_threads() == 2
        with sd.num_threads(5):
            assert sd.get_num_threads() == 5
        assert sd.get_num_threads() == 2
    assert sd.get_num_threads() == 3


def test_count_is_restored_after_an_exception():
    sd.set_num_threads(3)
    with pytest.raises(KeyError, match="mine"), sd.num_threads(2):
        raise KeyError("mine")
    assert sd.get_num_threads() == 3


def test_one_thread_is_a_matter_of_the_calling_thread():
    """Another thread keeps its number, and this one gets its own back, after an error too."""
    work = 10 * _threads.WORK_PER_THREAD
    sd.set_num_threads(3)
    with _threads.one_thread(), ThreadPoolExecutor(1) as other:
        with pytest.raises(ZeroDivisionError), _threads.one_thread():
            _ = 1 / 0
        assert _threads.threads_for(work) == 1
        assert other.submit(_threads.threads_for, work).result() == 3
    assert _threads.threads_for(work) == sd.get_num_threads() == 3


@pytest.mark.parametrize(
    ("value", "error"),
    [
        *((v, ValueError) for v in (0, -1, 2**31, 2**63, 2**70)),
        *((v, TypeError) for v in (1.0, True, "2", None, (2,))),
    ],
)
def test_bad_count_is_refused(value, error):
    sd.set_num_threads(3)
    with pytest.raises(error, match=r"^set_num_threads: n .*") as refusal:
        sd.set_num_threads(value)
    assert repr(value) in str(refusal.value)
    with pytest.raises(error), sd.num_threads(value):
        pass
    assert sd.get_num_threads() == 3


def test_any_integer_is_a_count():
    sd.set_num_threads(np.int8(2))
    assert sd.get_num_threads() == 2


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"SLIDEDOT_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "5,2"}, 5),  # one number per nesting level
        ({"SLIDEDOT_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"SLIDEDOT_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
    ],
)
def test_count_from_the_environment(environment, count):
    result = python("import slidedot; print(slidedot.get_num_threads())", **environment)
    assert result.stdout == f"{count}\n", result.stderr


@pytest.mark.parametrize("value", ["0", "-2", "many", "2.5"])
def test_bad_count_in_the_environment(value):
    result = python("import slidedot", SLIDEDOT_NUM_THREADS=value)
    assert result.returncode != 0
    assert "SLIDEDOT_NUM_THREADS" in result.stderr.splitlines()[-1]
    assert repr(value) in result.stderr.splitlines()[-1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU sets here")
def test_count_is_by_default_the_cpus_of_this_process():
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import slidedot
print(slidedot.get_num_threads())
"""
    assert python(code).stdout == "1\n"
    result = python("import slidedot; print(slidedot.get_num_threads())")
    assert result.stdout == f"{len(os.sched_getaffinity(0))}\n"
