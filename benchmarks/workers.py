"""Processes that time calls for the speed benchmarks: one for torch and one for each precision of a peer.

Not one process for all: each brings threads of the same OpenMP library, which stops letting threads wait
actively as soon as it manages more of them than there are processors. Measured on two cores: after one use of
CTranslate2 an int8 token of the engine took 15.6 ms instead of 8.4 in that process, CTranslate2's own float32
token 20 ms instead of 8.6 where torch had started its threads first, and 34 ms instead of 11 where its int8
model was loaded beside it.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

_TORCH = "torch"  # the process that torch's systems share
_PEERS = ("ctranslate2", "onnxruntime")


def process_of(system) -> str:
    """Name of the process that a system runs in: torch's share one; a peer has one for each precision and
    setting. system: has name, precision and settings."""
    if system.name not in _PEERS:
        return _TORCH
    return " ".join([system.name, system.precision, *(f"{name}={value}" for name, value in system.settings)])


class Workers:
    """Call `timed` to time a system; a process starts with its first system.

    build: gets a system, a setting and threads; returns the call to be timed, which gives what can be sent to
    another process. Use it in a `with`, at whose end the processes end.
    """

    def __init__(self, build: Callable[[Any, tuple, int], Callable[[], Any]], threads: int):
        self._build, self._threads = build, threads
        self._connections: dict[str, Connection] = {}
        self._processes: dict[str, BaseProcess] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        for process in list(self._connections):
            self.end(process)

    def end(self, process: str) -> None:
        """Ends a process and frees its memory; its next system starts another."""
        if process in self._connections:
            self._connections.pop(process).close()
            self._processes.pop(process).join()

    def timed(self, system, *setting) -> tuple[float, Any]:
        """Seconds of one call, and what it gave.

        system.process: the process that it runs in; system.settings, where it has them: environment
        variables of that process. Raises what the call raised, and RuntimeError where its process dies.
        """
        connection = self._connection(system)
        try:
            connection.send((system, setting))
            answer = connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.end(system.process)
            raise RuntimeError(f"the process of {system} ended") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _connection(self, system) -> Connection:
        process = system.process
        if process not in self._connections:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            settings = getattr(system, "settings", ())
            arguments = (theirs, process, self._build, self._threads, dict(settings))
            child = context.Process(target=_answer, args=arguments, daemon=True)
            child.start()
            theirs.close()  # so that its end is seen
            self._connections[process], self._processes[process] = ours, child
        return self._connections[process]


def _answer(
    connection: Connection, process: str, build: Callable, threads: int, environment: dict[str, str]
) -> None:
    os.environ.update(environment)
    # Beside CTranslate2 torch only makes the model: it must not start threads of its own.
    torch.set_num_threads(threads if process == _TORCH else 1)
    calls = {}
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            system, setting = request
            if request not in calls:
                if calls and next(iter(calls))[1] != request[1]:
                    calls.clear()  # another setting: its tokens and models' packed weights can go
                calls[request] = build(system, setting, threads)
            begin = time.perf_counter()
            result = calls[request]()
            connection.send((time.perf_counter() - begin, result))
        except Exception as error:  # the parent raises it
            connection.send(RuntimeError(f"{type(error).__name__}: {error}"))
