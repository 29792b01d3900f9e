"""How are questions asked, and what if no answer comes?

An implementation that hangs, crashes or prints garbage fails the case in which it does so, with
that word, and never the run: it works in a process of its own, which is killed and started again.
Threads read and write its streams, since waiting for several pipes at once is no matter of every
system; nothing here asks for more than Python has on all of them.

Checked by tests/conformance/running/test_session.py and test_process.py.
"""

import json
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Empty, Full, Queue, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import Any

from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.dyadic import canonical

__all__ = ["DEATHS", "LONGEST", "Here", "Process"]

LONGEST = 2**26  # bytes of one answer; what goes on after them is cut off
DEATHS = ("crash", "timeout", "garbage")  # words after which the process is started again
_CHUNK = 1 << 16
_TAIL = 4096  # bytes of standard error that are kept
_MOMENT = 0.05  # seconds for standard error to come
_PATIENCE = 1.0  # seconds for the ends of streams, and for threads, after the end of a process


class Here:
    """An implementation in this process: quick, but if it hangs or crashes, so does the run."""

    def __init__(self, adapter: Adapter) -> None:
        """Keep the adapter."""
        self.adapter = adapter

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Return the answer; nobody stops it after the timeout."""
        del timeout
        return self.adapter.hello() if "hello" in request else execute(self.adapter, request)

    def complaint(self) -> str:
        """Return nothing: what is printed here is not kept."""
        return ""

    def stop(self) -> None:
        """Do nothing: there is no process to end."""


class _Running:
    """One process, and the threads that read and write its streams until it ends."""

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        self.requests: SimpleQueue[bytes | None] = SimpleQueue()
        # Few lines wait to be read: who goes on writing has to wait.
        self.lines: Queue[bytes] = Queue(maxsize=2)
        self.tail, self.over, self.heard = b"", Event(), Event()
        self.threads = [
            Thread(target=target, daemon=True) for target in (self._write, self._read, self._hear)
        ]
        for thread in self.threads:
            thread.start()

    def _write(self) -> None:
        """Write requests, as fast as they are read at the other end."""
        stream: Any = self.process.stdin
        with suppress(OSError), stream:
            while (request := self.requests.get()) is not None:
                while request:
                    request = request[stream.write(request[:_CHUNK]) :]

    def _read(self) -> None:
        """Read lines; an empty one is the end, one without an end is too long."""
        stream: Any = self.process.stdout
        line, done = bytearray(), 0
        with suppress(OSError), stream:
            while len(line) <= LONGEST and (chunk := stream.read(_CHUNK)):
                line += chunk
                while (end := line.find(b"\n", done)) >= 0:
                    self._put(bytes(line[: end + 1]))
                    del line[: end + 1]
                    done = 0
                done = len(line)
        self._put(bytes(line))
        self._put(b"")

    def _put(self, line: bytes) -> None:
        waiting = True
        while waiting and not self.over.is_set():
            with suppress(Full):
                self.lines.put(line, timeout=0.1)
                waiting = False

    def _hear(self) -> None:
        """Keep the last of what it complains about, so that much of it never blocks."""
        stream: Any = self.process.stderr
        with suppress(OSError), stream:
            while chunk := stream.read(_CHUNK):
                self.tail = (self.tail + chunk)[-_TAIL:]
                self.heard.set()

    def end(self) -> None:
        """Kill the process; the threads end with their streams."""
        self.over.set()
        self.process.kill()
        self.process.wait()
        self.requests.put(None)
        deadline = monotonic() + _PATIENCE  # children of it may hold the streams for longer
        for thread in self.threads:
            thread.join(max(deadline - monotonic(), 0))


class Process:
    """An implementation in a process of its own, started again after its death.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    start : float
        Seconds for its answer to the first question, a hello.
    """

    def __init__(self, command: Sequence[str], start: float) -> None:
        self.command, self.start = command, start
        self.running: _Running | None = None

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Return the answer, or one word for why there is none."""
        if self.running is None and "hello" not in request:
            again = self.ask({"qcp": 1, "hello": 1}, self.start)
            if self.running is None:
                return again
        try:
            if self.running is None:
                self.running = _Running(self.command)
            line = self._exchange(self.running, (canonical(request) + "\n").encode(), timeout)
        except OSError as error:
            return {"word": "crash", "error": f"the process could not be started: {error}"}
        except Empty:
            return self._failed("timeout", f"no answer within {timeout:g} s")
        except EOFError:
            return self._failed("crash", f"the process {self._fate()}")
        if not line.endswith(b"\n") and len(line) > LONGEST:
            return self._failed("garbage", f"an answer of more than {LONGEST} bytes")
        try:
            answer = json.loads(line)
            if "hello" not in request and answer["id"] != request["id"]:
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            shown = line[:60].decode(errors="replace")
            return self._failed("garbage", f"the answer is not one: {shown!r}")
        return dict(answer)

    def _exchange(self, running: _Running, request: bytes, timeout: float) -> bytes:
        running.tail = b""
        running.heard.clear()
        running.requests.put(request)
        line = running.lines.get(timeout=timeout)
        if not line:
            raise EOFError
        return line

    def _failed(self, word: str, says: str) -> dict[str, Any]:
        """End the process; return a word for why, with what it complained about."""
        complaint = self.complaint()
        self.stop()
        return {"word": word, "error": says + (f": {complaint}" if complaint else "")}

    def _fate(self) -> str:
        """Say how the process ended."""
        assert self.running  # noqa: S101  # for the type checker
        try:
            status = self.running.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return "closed its output"
        self.running.threads[-1].join(_PATIENCE)  # all of its last words
        if status >= 0:
            return f"ended with exit status {status if status < 256 else hex(status)}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
        return f"was ended by signal {-status}"

    def complaint(self) -> str:
        """Return the last lines of standard error since the last question, or nothing."""
        tail = b""
        if self.running:
            self.running.heard.wait(_MOMENT)  # what was written before the answer may come after it
            tail = self.running.tail
        lines = tail.decode(errors="replace").split("\n")
        return " | ".join([line.strip() for line in lines if line.strip()][-3:])[-300:]

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.running is not None:
            self.running.end()
            self.running = None
