"""Laws of networks.jobs, real interrupts, bad input, and planted faults."""

import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress

import pytest
from budget_cases import Elsewhere
from hypothesis import given
from hypothesis import strategies as st
from support import caught, law
from threadpoolctl import threadpool_info

import qcp_ref as right
from qcp_ref import _kernels, run_jobs
from qcp_ref.networks.jobs import processes

THIS = sys.modules[__name__]

kinds = st.sampled_from(["here", "one", "three", "pool", "elsewhere"])
numbers = st.lists(st.integers(0, 99), max_size=6)


def place(kind):
    """Where jobs run."""
    if kind == "pool":
        return ThreadPoolExecutor(2)
    made = {"here": None, "one": 1, "three": 3}
    return nullcontext(made[kind] if kind in made else Elsewhere())


def slowly(n):
    """Take longer for some numbers, so that jobs do not end in the order in which they began."""
    time.sleep((99 - n) % 3 / 1000)
    return f"result of {n}"


def unless_negative(n):
    if n < 0:
        raise FileNotFoundError(f"number {n}")
    return slowly(n)


def blas_threads(_=None):
    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(pools, default=1)


# --- laws -----------------------------------------------------------------------------------------


@law("run_jobs.order")
@given(kinds, numbers)
def test_results_are_those_of_a_plain_loop(kind, items):
    with place(kind) as executor:
        assert run_jobs(slowly, iter(items), executor=executor) == [slowly(n) for n in items]


@law("run_jobs.callback")
@given(kinds, numbers, st.integers(0, 6))
def test_the_callback_sees_results_in_order_and_may_stop(kind, items, last):
    seen = []

    def callback(number, result):
        seen.append((number, result))
        return number == last

    with place(kind) as executor:
        found = run_jobs(slowly, items, executor=executor, callback=callback)
    assert seen == list(enumerate(slowly(n) for n in items))[: last + 1]
    assert found == [result for _, result in seen]


@law("run_jobs.failure")
@given(kinds, st.lists(st.integers(0, 9), max_size=4), st.integers(1, 9), st.data())
def test_what_a_job_raises_comes_out_with_its_name(kind, items, wrong, data):
    number = data.draw(st.integers(0, len(items)))
    items.insert(number, -wrong)
    names = data.draw(st.sampled_from([None, [f"name {n}" for n in range(len(items))]]))
    problem = None
    with place(kind) as executor:
        try:
            run_jobs(unless_negative, items, executor=executor, names=names)
        except FileNotFoundError as raised:
            problem = raised
    assert problem is not None and problem.args == (f"number {-wrong}",)
    note = f"in job {number} of {len(items)}" + (f": name {number}" if names else "")
    assert getattr(problem, "__notes__", []) == [note]


class Stopped(Exception):
    """The callback's own."""


@law("run_jobs.early")
@given(
    st.sampled_from([None, 1, 3]),
    st.integers(1, 8),
    st.integers(0, 7),
    st.sampled_from(["answer", "failure", "raise"]),
)
def test_an_early_end_tells_the_running_jobs_and_drops_the_others(threads, count, last, how):
    begun, calls, told = [], [], threading.Event()

    def job(n):
        begun.append(n)
        if n == last and how == "failure":
            raise Stopped
        if n > last:  # a long one, that looks at what `cancel` sets
            told.wait(20)

    def callback(number, result):
        if number == last and how == "raise":
            raise Stopped
        return number == last

    def cancel():
        calls.append(len(begun))
        told.set()

    cancel.told = told
    found = None
    with suppress(Stopped):
        found = run_jobs(job, range(count), executor=threads, callback=callback, cancel=cancel)
    ended = last < count - 1 or (how == "failure" and last < count)
    assert (found is None) == (how != "answer" and last < count)
    assert len(calls) == ended
    assert sorted(begun) == list(range(len(begun)))
    assert min(last + 1, count) <= len(begun) <= min(count, last + 1 + (threads or 0))


@law("run_jobs.thread")
@given(kinds, st.integers(1, 3))
def test_each_job_has_one_blas_thread(kind, count):
    before = blas_threads()
    with place(kind) as executor:
        assert run_jobs(blas_threads, range(count), executor=executor) == [1] * count
    assert blas_threads() == before


@law("run_jobs.thread")
def test_kernels_have_one_thread_by_themselves():
    options = inspect.getsource(_kernels)
    assert "nogil=True" in options and "parallel=" not in options and "prange" not in options
    assert run_jobs(blas_threads, [0]) == [1]


# --- interrupts, and processes that die -----------------------------------------------------------

# A job tells that it runs, and would do so for ten minutes if nobody ended it.
SCRIPT = """
import os, signal, sys, threading
from qcp_ref import run_jobs
from qcp_ref.networks.jobs import processes

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
told = threading.Event()

def job(n):
    os.write(1, f"{n} {os.getpid()}\\n".encode())  # whole lines, whatever the others write
    told.wait(600)

if __name__ == "__main__":
    if sys.argv[1] == "processes":
        with processes(2) as pool:
            run_jobs(job, range(6), executor=pool)
    run_jobs(job, range(6), executor=2, cancel=told.set)
"""


@contextmanager
def running(how):
    command = [sys.executable, "-c", SCRIPT, how]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("how", ["processes", "threads"])
def test_an_interrupt_of_the_parent_ends_all(how):
    with running(how) as process:
        said = [process.stdout.readline().split() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        output, problems = process.communicate(timeout=100)
    assert "KeyboardInterrupt" in problems
    assert {n for n, _ in said} == {"0", "1"} and not output  # no other job began
    for _, pid in said:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def interrupted(n):
    raise KeyboardInterrupt


@pytest.mark.parametrize("executor", [None, 1])
def test_an_interrupt_inside_a_job_is_no_fault_of_the_job(executor):
    with pytest.raises(KeyboardInterrupt) as caught_one:
        run_jobs(interrupted, [1], executor=executor)
    assert not hasattr(caught_one.value, "__notes__")


def dies(n):
    os._exit(3)


def test_a_process_that_dies_is_said_to_be_lost():
    with processes(1, initializer=blas_threads) as pool:
        assert run_jobs(blas_threads, range(2), executor=pool) == [1, 1]
        with pytest.raises(BrokenProcessPool) as broken:
            run_jobs(dies, ["a", "b"], executor=pool, names=["x", "y"])
    assert broken.value.__notes__ == ["first without a result: job 0 of 2: x"]


def test_an_executor_stays_open():
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            assert run_jobs(slowly, [1], executor=pool) == ["result of 1"]
        assert pool.submit(slowly, 2).result() == "result of 2"


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TypeError, {"job": 3}, r"^job: expected a function of one argument, got 3"),
        (TypeError, {"items": 3}, r"^items: expected a sequence of items"),
        (TypeError, {"callback": 3}, r"^callback: expected a function"),
        (TypeError, {"cancel": 3}, r"^cancel: expected a function"),
        (TypeError, {"executor": "two"}, r"^executor: expected an Executor of concurrent.futures"),
        (TypeError, {"executor": 2.0}, r"^executor: expected an integer"),
        (TypeError, {"executor": True}, r"^executor: expected an integer"),
        (ValueError, {"executor": 0}, r"^executor: expected 1 to 1024, got 0"),
        (ValueError, {"executor": 1025}, r"^executor: expected 1 to 1024, got 1025"),
        (TypeError, {"names": "ab"}, r"^names: expected a sequence of texts"),
        (ValueError, {"names": ["a"]}, r"^names: expected 2 \(one per item\), got 1"),
    ],
)
def test_bad_input_is_refused_before_any_job(kind, options, message):
    begun = []
    with pytest.raises(kind, match=message):
        run_jobs(**{"job": begun.append, "items": [1, 2], **options})
    assert not begun


# --- planted faults -------------------------------------------------------------------------------


def by_their_ends(job, items, **options):
    """Gives the results in the order in which jobs end."""
    found = []

    def noted(n):
        found.append(job(n))
        return found[-1]

    result = right.run_jobs(noted, items, **{**options, "executor": 3})
    return found if len(found) == len(result) else result


def deaf(job, items, *, callback=None, **options):
    """Does not hear that the callback wants to stop."""
    return right.run_jobs(job, items, callback=lambda *row: callback(*row) and None, **options)


def without_the_last(job, items, **options):
    """Drops the result at which the callback stopped."""
    items = list(items)
    found = right.run_jobs(job, items, **options)
    return found if len(found) == len(items) else found[:-1]


def renamed(change):
    """Changes the notes."""

    def run(job, items, **options):
        try:
            return right.run_jobs(job, items, **options)
        except Exception as problem:
            problem.__notes__ = change(problem.__notes__)
            raise

    return run


def wrapped(job, items, **options):
    """Hides what was raised."""
    try:
        return right.run_jobs(job, items, **options)
    except OSError as problem:
        raise FileNotFoundError("a job failed") from problem


def all_of_them(job, items, **options):
    """Begins the other jobs although the run has ended."""
    begun = []

    def noted(n):
        begun.append(n)
        return job(n)

    try:
        return right.run_jobs(noted, items, **options)
    finally:
        for n in items:
            if n not in begun:
                job(n)


def tells(*times):
    """Calls ``cancel`` so many times when the run ends, early or not."""

    def run(job, items, *, cancel=None, **options):
        try:
            return right.run_jobs(job, items, cancel=cancel.told.set, **options)
        finally:
            for _ in times:
                cancel()

    return run


def unpinned(job, items, **options):
    """Leaves BLAS all its threads."""
    return [job(n) for n in items]


needs_threads = pytest.mark.skipif(blas_threads() == 1, reason="BLAS has one thread only")


@pytest.mark.parametrize(
    ("test", "fault"),
    [
        (test_results_are_those_of_a_plain_loop, by_their_ends),
        (test_the_callback_sees_results_in_order_and_may_stop, deaf),
        (test_the_callback_sees_results_in_order_and_may_stop, without_the_last),
        (test_what_a_job_raises_comes_out_with_its_name, renamed(lambda notes: [])),
        (test_what_a_job_raises_comes_out_with_its_name, renamed(lambda notes: notes * 2)),
        (test_what_a_job_raises_comes_out_with_its_name, wrapped),
        (test_an_early_end_tells_the_running_jobs_and_drops_the_others, all_of_them),
        (test_an_early_end_tells_the_running_jobs_and_drops_the_others, tells()),
        (test_an_early_end_tells_the_running_jobs_and_drops_the_others, tells(1)),
        pytest.param(test_each_job_has_one_blas_thread, unpinned, marks=needs_threads),
    ],
)
def test_planted_faults_are_caught(test, fault):
    assert caught(THIS, test, run_jobs=fault)
