"""How are questions asked, and what if no answer comes?

An implementation that hangs, crashes or prints garbage fails the case in which it does so, with
that word, and never the run: it works in a process of its own, which is killed and started again.

Checked by tests/conformance/running/test_session.py.
"""

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from qcp_ref.conformance.adapter import Adapter, execute
from qcp_ref.conformance.dyadic import canonical

__all__ = ["START", "Here", "Process"]

START = 60.0  # seconds that loading an implementation may take


class Here:
    """An implementation in this process: quick, but if it hangs or crashes, so does the run."""

    def __init__(self, adapter: Adapter) -> None:
        """Keep the adapter."""
        self.adapter = adapter

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Return the answer; nobody stops it after the timeout."""
        del timeout
        return self.adapter.hello() if "hello" in request else execute(self.adapter, request)

    def stop(self) -> None:
        """Do nothing: there is no process to end."""


class Process:
    """An implementation in a process of its own, started again after its death."""

    def __init__(self, command: Sequence[str]) -> None:
        """Keep the command; the process starts at the first question."""
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None
        self.complaints: Any = None

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Return the answer, or one word for why there is none."""
        if self.process is None and "hello" not in request:
            self.ask({"qcp": 1, "hello": 1}, START)
        try:
            if self.process is None:
                self._start()
            line = self._exchange((canonical(request) + "\n").encode(), monotonic() + timeout)
        except TimeoutError:
            self.stop()
            return {"word": "timeout", "error": f"no answer within {timeout:g} s"}
        except EOFError:
            return {"word": "crash", "error": self._epitaph()}
        try:
            answer = json.loads(line)
            if "hello" not in request and answer["id"] != request["id"]:
                raise ValueError
        except (ValueError, TypeError, KeyError):
            self.stop()
            shown = line[:60].decode(errors="replace")
            return {"word": "garbage", "error": f"the answer is not one: {shown!r}"}
        return dict(answer)

    def _start(self) -> None:
        # Standard error goes to a file, so that a process that complains a lot never blocks.
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        try:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.complaints,
                bufsize=0,
            )
        except OSError as error:
            self.complaints.write(str(error).encode())
            raise EOFError from None
        assert self.process.stdin and self.process.stdout  # noqa: S101  # for the type checker
        for stream in (self.process.stdin, self.process.stdout):
            os.set_blocking(stream.fileno(), False)

    def _exchange(self, request: bytes, deadline: float) -> bytes:
        """Write one line and read one, without ever blocking past the deadline."""
        assert self.process and self.process.stdin and self.process.stdout  # noqa: S101
        write, read = self.process.stdin.fileno(), self.process.stdout.fileno()
        received = bytearray()
        while not received.endswith(b"\n"):
            left = deadline - monotonic()
            ready = select.select([read], [write] if request else [], [], max(left, 0))
            if left <= 0:
                raise TimeoutError
            try:
                if ready[1]:
                    request = request[os.write(write, request[:65536]) :]
                if ready[0]:
                    chunk = os.read(read, 1 << 20)
                    received += chunk
                    if not chunk:
                        raise EOFError
            except (BrokenPipeError, ConnectionResetError):
                raise EOFError from None
        return bytes(received)

    def _epitaph(self) -> str:
        """Say how the process ended, with the last thing that it complained about."""
        status = None
        if self.process is not None:
            try:
                status = self.process.wait(1.0)
            except subprocess.TimeoutExpired:
                status = 0  # it closed its output and lives on
        self.complaints.seek(0)
        lines = self.complaints.read().decode(errors="replace").strip().splitlines()
        self.stop()
        how = "could not be started" if status is None else f"ended with exit status {status}"
        if status is not None and status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        return f"the process {how}" + (f": {lines[-1]}" if lines else "")

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
            self.process = None
        if self.complaints is not None:
            self.complaints.close()
            self.complaints = None
