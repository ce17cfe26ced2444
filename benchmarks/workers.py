"""Processes that time calls for `decode_speed.py`, one for torch and one for each precision of CTranslate2.

Not one process for all: each brings threads of the same OpenMP library, which stops letting threads wait
actively as soon as it manages more of them than there are processors. Measured on two cores: after one use of
CTranslate2 an int8 token of the engine took 15.6 ms instead of 8.4 in that process, CTranslate2's own float32
token 20 ms instead of 8.6 where torch had started its threads first, and 34 ms instead of 11 where its int8
model was loaded beside it.
"""

import multiprocessing
import time
from multiprocessing.connection import Connection

import torch
from systems import System, decoder


class Workers:
    """Call `seconds` to time a system; a process starts with its first system."""

    def __init__(self, threads: int):
        self._threads = threads
        self._connections: dict[str, Connection] = {}

    def seconds(self, system: System, *setting) -> float:
        """Seconds of one call of `decoder(system, *setting)`; setting: shape, batch, source, new tokens."""
        connection = self._connection(system.process)
        connection.send((system, setting))
        answer = connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _connection(self, process: str) -> Connection:
        if process not in self._connections:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            arguments = (theirs, process, self._threads)
            context.Process(target=_answer, args=arguments, daemon=True).start()
            self._connections[process] = ours
        return self._connections[process]


def _answer(connection: Connection, process: str, threads: int) -> None:
    # Beside CTranslate2 torch only makes the model: it must not start threads of its own.
    torch.set_num_threads(threads if process == "torch" else 1)
    calls = {}
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            system, (shape, batch, source, new_tokens) = request
            if request not in calls:
                if calls and next(iter(calls))[1] != request[1]:
                    calls.clear()  # another setting: its tokens and models' packed weights can go
                drawn = torch.Generator().manual_seed(1)
                tokens = torch.randint(3, 32000, (batch, source), generator=drawn)
                calls[request] = decoder(system, shape, tokens, new_tokens, threads)
            begin = time.perf_counter()
            calls[request]()
            connection.send(time.perf_counter() - begin)
        except Exception as error:  # the parent raises it
            connection.send(error)
