"""Runs the plugin's commands in forks of a process that has imported it.

The end-to-end tests run more than a thousand commands, and nine tenths of a command's instructions
are imports. So one process imports the plugin once, and forks for each command: every command has a
process of its own, with the caller's environment and folder. The tests that run `kubectl
istio-udp` itself, as users do, are those that call `conftest.run` or start a process to signal it.

As a program, `python -m tests.support.preloaded SOCKET`, it listens at SOCKET until its standard
input ends.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import kubectl_istio_udp
from kubectl_istio_udp.cli.main import main

_ROOT = Path(__file__).parents[2]
_STOP_SECONDS = 10.0
_MOST_BYTES = 1 << 17
# Of a command that ended without one: by a signal.
_NO_CODE = -1


class Preloaded:
    """The caller's side: starts the process, and sends it commands. Thread-safe."""

    def __init__(self) -> None:
        """Start the process, and wait until it has imported the plugin."""
        self._folder = tempfile.TemporaryDirectory()
        self._socket = f"{self._folder.name}/socket"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.preloaded", self._socket],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for pytest, which ends the input then.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the process that imports the plugin has ended"

    def stop(self) -> None:
        """End the process."""
        self._process.communicate(timeout=_STOP_SECONDS)
        self._folder.cleanup()

    def run(self, words: Sequence[str], seconds: float) -> tuple[int, str, str]:
        """Run a command; return its exit code, what it printed to stdout, and to stderr.

        Args:
            words: what follows `kubectl istio-udp`.
            seconds: the time limit.

        Raises:
            subprocess.TimeoutExpired: the command did not end in time, and was killed.
        """
        request = {"words": list(words), "environment": dict(os.environ), "folder": os.getcwd()}
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection,
            open(os.devnull, "rb") as nothing,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            connection.connect(self._socket)
            files = [nothing.fileno(), out.fileno(), err.fileno()]
            socket.send_fds(connection, [json.dumps(request).encode()], files)
            pid = int(connection.recv(_MOST_BYTES))
            connection.settimeout(seconds)
            try:
                code = int(connection.recv(_MOST_BYTES) or _NO_CODE)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(words, seconds) from None
            return code, _text(out), _text(err)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _serve(path: str) -> None:
    """Fork for each command, until the standard input ends."""
    for found in pkgutil.walk_packages(kubectl_istio_udp.__path__, "kubectl_istio_udp."):
        importlib.import_module(found.name)
    # The kernel forgets the processes that have ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], (), ())[0]:
            connection, _ = listener.accept()
            with connection:
                message, files, _, _ = socket.recv_fds(connection, _MOST_BYTES, 3)
                if not os.fork():
                    listener.close()
                    _run(connection, json.loads(message), files)
                    return
                for file in files:
                    os.close(file)


def _run(connection: socket.socket, request: dict[str, Any], files: Sequence[int]) -> None:
    """Run a command in this process; send the caller its pid, and its exit code at the end."""
    connection.send(str(os.getpid()).encode())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, closefd=False)  # noqa: SIM115
        for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    try:
        main(request["words"])
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(str(ended.code or 0).encode())


if __name__ == "__main__":
    _serve(*sys.argv[1:])
