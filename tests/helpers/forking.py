"""Processes that fork while threads keep BLAS at one thread; run by tests/app/test_fork.py.

``python tests/helpers/forking.py CASE`` ends with 0 if all is well, with 77 if BLAS has one thread
only.
"""

import os
import signal
import sys
import threading
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
from threadpoolctl import threadpool_info

from qcp_ref import compress_conv
from qcp_ref._threads import one_blas_thread


def threads():
    """Threads of NumPy's own BLAS."""
    pools = (pool for pool in threadpool_info() if pool["user_api"] == "blas")
    return max((pool["num_threads"] for pool in pools if "numpy" in pool["filepath"]), default=1)


def works():
    X = np.ones((200, 200))
    assert (X @ X == 200).all()


FREE = threads()


def is_free():
    """BLAS has its threads, and can be kept to one and be freed again."""
    assert threads() == FREE
    works()
    with one_blas_thread():
        assert threads() == 1
        works()
    assert threads() == FREE


def is_held():
    assert threads() == 1
    works()


class Holder:
    """A thread that keeps BLAS at one thread until it is told to let go."""

    def __init__(self, times=1):
        self.inside, self.told = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.hold, args=(times,), daemon=True)
        self.thread.start()
        self.inside.wait()

    def hold(self, times):
        with ExitStack() as stack:
            for _ in range(times):
                stack.enter_context(one_blas_thread())
            self.inside.set()
            self.told.wait()

    def release(self):
        self.told.set()
        self.thread.join()


def in_child(check):
    """Run a check in a forked process; a hang there is a failure, too."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def nobody_holds():
    in_child(is_free)


def another_thread_holds():
    holder = Holder()
    in_child(is_free)
    is_held()
    holder.release()


def two_threads_hold_several_times():
    holders = [Holder(3), Holder()]
    in_child(is_free)
    for holder in holders:
        is_held()
        holder.release()


def the_thread_that_forks_holds():
    holder = Holder()
    with one_blas_thread(), one_blas_thread():
        child = os.fork()
        is_held()
        if child:
            assert os.waitpid(child, 0)[1] == 0
    if child == 0:
        signal.alarm(60)
        is_free()
        os._exit(0)
    is_held()
    holder.release()


def a_grandchild():
    def child():
        is_free()
        with one_blas_thread():
            inner = Holder()
            in_child(is_held)
            inner.release()
            is_held()
        inner = Holder()
        in_child(is_free)
        inner.release()
        is_free()

    holder = Holder()
    in_child(child)
    holder.release()


def the_first_one_in_is_the_first_one_out():
    first, second, third = Holder(), Holder(), Holder()
    for holder in (first, second):
        holder.release()
        is_held()
        in_child(is_free)
    third.release()


def exceptions_inside():
    holder = Holder()
    for problem in (KeyboardInterrupt, ValueError):
        try:
            with one_blas_thread(), one_blas_thread():
                raise problem
        except problem:
            is_held()
    holder.release()


def left_by_another_thread_than_it_was_entered_by():
    stack = ExitStack()
    thread = threading.Thread(target=stack.enter_context, args=(one_blas_thread(),))
    thread.start()
    thread.join()
    in_child(is_free)
    is_held()
    stack.close()
    in_child(is_free)


def threads_come_and_go():
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            with one_blas_thread():
                pass

    workers = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(20):
        in_child(is_free)
    stop.set()
    for worker in workers:
        worker.join()


def a_compression():
    W = np.random.default_rng(1).standard_normal((8, 4, 3, 3))
    inside, told = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        told.wait()

    def child():
        is_free()
        assert compress_conv(W, rank=2).error < 1
        is_free()

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(compress_conv, W, rank=2, callback=wait)
        inside.wait()
        in_child(child)
        is_held()
        told.set()
        assert job.result().error < 1


CASES = {
    case.__name__: case
    for case in (
        nobody_holds,
        another_thread_holds,
        two_threads_hold_several_times,
        the_thread_that_forks_holds,
        a_grandchild,
        the_first_one_in_is_the_first_one_out,
        exceptions_inside,
        left_by_another_thread_than_it_was_entered_by,
        threads_come_and_go,
        a_compression,
    )
}

if __name__ == "__main__":
    # newer Pythons warn of forks beside threads, which is what is tested
    warnings.simplefilter("ignore", DeprecationWarning)
    if FREE == 1:
        sys.exit(77)
    CASES[sys.argv[1]]()
    is_free()
