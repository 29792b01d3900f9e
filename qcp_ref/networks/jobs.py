"""How do many independent jobs run, so that their number at a time does not show?

A network has many layers, a budget many ranks and widths, a benchmark many seeds. :func:`run_jobs`
is the one scheduler for all of them: here one after the other, on threads, or on any executor of
``concurrent.futures``. Each job has one BLAS thread, because a sum that BLAS shares among
threads may have other bits; so results are the same however many jobs run at a time. The compiled
kernels of this package never use more than one thread.

Simplified: jobs do not depend on each other, and none is tried twice.

Checked by tests/networks/test_jobs.py.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from qcp_ref._checks import check_callback, check_int, check_sequence, is_one_int
from qcp_ref._door import shown
from qcp_ref._threads import one_blas_thread

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future, ProcessPoolExecutor

__all__ = ["run_jobs"]

Item = TypeVar("Item")
Result = TypeVar("Result")
_MOST = 1024  # threads


def run_jobs(
    job: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    executor: "Executor | int | None" = None,
    names: Iterable[str] | None = None,
    callback: Callable[[int, Result], object] | None = None,
    cancel: Callable[[], object] | None = None,
) -> list[Result]:
    """Run one job for each item; return the results in the order of the items.

    Parameters
    ----------
    job : callable
        Called as ``job(item)``, with BLAS on one thread. A pool of processes has to be able to
        pickle it, the items and the results.
    items : iterable
        What the jobs get; no text, mapping, set or array.
    executor : concurrent.futures.Executor or int, optional
        Where the jobs run. A number is that of threads of this process. By default the jobs run
        here, one after the other. An executor stays open, it belongs to the caller.
    names : iterable of str, optional
        What the jobs are called in error messages; by default they only have numbers.
    callback : callable, optional
        Called here as ``callback(number, result)``, in the order of the items, as soon as a result
        and all those before it are there. A true answer stops: later results are dropped.
    cancel : callable, optional
        Called here without arguments if the run ends early: stopped by the callback, by a job that
        failed or by Ctrl-C. It should make the jobs that are running end soon, for example by
        setting an event that they look at.

    Returns
    -------
    list
        One result per item, or those up to the one at which the callback stopped.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its kind.
    Exception
        What a job raised, of its own type, with a note that names the job.

    Notes
    -----
    If the run ends early, jobs that have not begun are cancelled; a pool of processes still begins
    the one that it has handed out ahead. Jobs that run on a number of threads are waited for, since
    nothing can end a thread; those on an executor are not. The first job to fail ends the run; if
    several fail, which one is first may depend on the executor.

    **Laws**

    - *order*: whatever the executor, the results are those of calling the job for each item, in
      order
    - *callback*: the callback sees each number once, in order, with its result; what is returned
      ends with the one at which it stopped
    - *failure*: what a job raises comes out as it is, with a note that has the job's number and
      name
    - *early*: if the run ends early, ``cancel`` is called once, otherwise never; jobs that
      have not begun are dropped
    - *thread*: inside a job BLAS has one thread; afterwards it has as many as before

    Examples
    --------
    >>> from qcp_ref import run_jobs
    >>> run_jobs(lambda n: n * n, [3, 1, 2], executor=2)
    [9, 1, 4]
    >>> run_jobs(lambda n: n * n, [3, 1, 2], callback=lambda number, square: square < 2)
    [9, 1]
    """
    if not callable(job):
        raise TypeError(f"job: expected a function of one argument, got {shown(job)}")
    check_callback(callback)
    check_callback(cancel, "cancel")
    rows = check_sequence(items, "items", "items (one per job)")
    notes, context = _notes(len(rows), names), _pool_of(executor)
    work = partial(_with_one_thread, job)
    found: list[Result] = []
    with context as pool:
        results = _here(work, rows, notes) if pool is None else _on(pool, work, rows, notes)
        try:
            with closing(results):  # this is where jobs that have not begun are cancelled
                for number, result in enumerate(results):
                    found.append(result)
                    if callback is not None and callback(number, result):
                        break
        finally:
            if len(found) < len(rows) and cancel is not None:
                cancel()
    return found


@contextmanager
def processes(
    count: int, *, initializer: Callable[[], object] | None = None
) -> Iterator["ProcessPoolExecutor"]:
    """Make a pool of processes for :func:`run_jobs`.

    If the block is left by an exception, such as Ctrl-C, the processes are ended at once: nobody
    waits for what they compute, and none outlives the block.
    """
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(count, initializer=initializer) as pool:
        try:
            yield pool
        except BaseException:
            for process in list((pool._processes or {}).values()):  # `kill_workers` from 3.14 on
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise


def check_executor(executor: Any) -> Any:
    """Return None, a number of threads, or what has the ``submit`` of an executor."""
    if executor is None or callable(getattr(executor, "submit", None)):
        return executor
    if not is_one_int(executor):
        need = "an Executor of concurrent.futures, a number of threads or None"
        raise TypeError(f"executor: expected {need}, got {shown(executor)}")
    return check_int(executor, "executor", minimum=1, maximum=_MOST)


def _pool_of(executor: Any) -> Any:
    """Return a context: of None, of threads of our own, or of an executor that stays open."""
    executor = check_executor(executor)
    if not isinstance(executor, int):
        return nullcontext(executor)
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(executor)


def _notes(count: int, names: Iterable[str] | None) -> list[str]:
    """Return how to name each job in an error."""
    if names is None:
        return [f"job {n} of {count}" for n in range(count)]
    given = check_sequence(names, "names", "texts (one per item)")
    if len(given) != count:
        raise ValueError(f"names: expected {count} (one per item), got {len(given)}")
    return [f"job {n} of {count}: {name}" for n, name in enumerate(given)]


def _with_one_thread(job: Callable[[Item], Result], item: Item) -> Result:
    """Do one job, in whatever thread or process."""
    with one_blas_thread():
        return job(item)


def _here(
    work: Callable[[Item], Result], rows: Sequence[Item], notes: Sequence[str]
) -> Generator[Result, None, None]:
    """Yield one result after the other."""
    for row, note in zip(rows, notes, strict=True):
        with _noted(note):
            result = work(row)
        yield result


def _on(
    pool: "Executor", work: Callable[[Item], Result], rows: Sequence[Item], notes: Sequence[str]
) -> Generator[Result, None, None]:
    """Yield the results in order; raise as soon as any job fails; cancel what has not begun."""
    from concurrent.futures import FIRST_COMPLETED, wait

    futures: list[Future[Result]] = []
    try:
        for row in rows:
            futures.append(pool.submit(work, row))  # noqa: PERF401 - all of them are cancelled
        waiting = set(futures)
        for future in futures:
            while future in waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for other, note in zip(futures, notes, strict=True):
                    if other in done:
                        with _noted(note):
                            other.result()
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _noted(note: str) -> Iterator[None]:
    """Name the job in an exception that passes; Ctrl-C is no fault of a job."""
    try:
        yield
    except Exception as problem:
        from concurrent.futures import BrokenExecutor

        # A process that dies takes all jobs with it; nobody knows which one it was.
        lost = isinstance(problem, BrokenExecutor)
        problem.add_note(f"first without a result: {note}" if lost else f"in {note}")
        raise
