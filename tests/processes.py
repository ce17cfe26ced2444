"""Two processes of one run, as `torchrun` starts them, in less time. `tests/trainers/test_joint.py` starts
some with the real launcher."""

import os
import socket
import subprocess
from pathlib import Path

from tests.warm_python import ROOT

SECONDS = 180


def run_in_two(python: Path, *flags: str) -> None:
    """Runs `run_summarization.py` with these flags in two processes that know of each other; both must end
    with 0. python: of the fixture."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [python, "run_summarization.py", *flags],
            cwd=ROOT,
            env=shared | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    try:
        assert [process.wait(SECONDS) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.terminate()
            process.wait()
