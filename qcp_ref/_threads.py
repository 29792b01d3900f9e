"""BLAS on one thread while several layers are solved at once: for the whole process, and counted.

Checked by tests/layers/test_layer.py and tests/app/test_fork.py.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__: list[str] = []


class _Pin:
    """Who holds BLAS to one thread at the moment, and what to restore afterwards."""

    lock = threading.RLock()
    holders = 0
    mine = threading.local()  # how many of them are this thread's
    limits: Any = None

    @staticmethod
    def take_over() -> None:
        """Let this thread set the limit: newer threadpoolctl ignores all threads but one."""
        import threadpoolctl

        free = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
        if free is not None:
            free(force=True)

    @classmethod
    def restore(cls) -> None:
        """Give BLAS its threads back."""
        cls.take_over()
        cls.limits.restore_original_limits()
        cls.limits = None
        cls.take_over()  # and leave the limit to whoever comes next

    @classmethod
    def after_fork(cls) -> None:
        """Forget, in a child process, the holders that are threads of its parent.

        Only the thread that forked is left, and it still holds what it held.
        """
        held = cls.holders
        cls.holders = min(held, max(0, getattr(cls.mine, "count", 0)))
        try:
            if held and not cls.holders:
                cls.restore()
        finally:
            cls.lock.release()


# The lock is held while the process forks, so the child never finds it taken by a lost thread.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_Pin.lock.acquire,
        after_in_parent=_Pin.lock.release,
        after_in_child=_Pin.after_fork,
    )


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread; the first one in sets the limit, the last one out restores it.

    The limit belongs to the whole process, so overlapping uses in several threads have to share it.
    A child process that is forked meanwhile has only the holders of the thread that forked it.
    """
    import threadpoolctl

    with _Pin.lock:
        if _Pin.holders == 0:
            _Pin.take_over()
            _Pin.limits = threadpoolctl.threadpool_limits(limits=1, user_api="blas")
        _Pin.holders += 1
        _Pin.mine.count = getattr(_Pin.mine, "count", 0) + 1
    try:
        yield
    finally:
        with _Pin.lock:
            _Pin.holders -= 1
            _Pin.mine.count = getattr(_Pin.mine, "count", 0) - 1
            if _Pin.holders == 0:
                _Pin.restore()
