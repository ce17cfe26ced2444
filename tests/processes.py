"""Two processes of one run, as `torchrun` starts them, in less time: a server imports everything once and
forks them. `tests/trainers/test_joint.py` starts some with the real launcher."""

import multiprocessing
import os
import socket
import sys

SECONDS = 180


def run_in_two(*flags: str) -> None:
    """Runs `run_summarization.py` with these flags in two processes that know of each other; both must end
    with 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not forked from this process: torch's threads, which it has, would be missing in its children.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runner"])
    processes = [context.Process(target=_run, args=(rank, port, flags)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def _run(rank: int, port: int, flags: tuple[str, ...]) -> None:
    from runner import main
    from util.arguments import DataArguments

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    sys.argv = ["run_summarization.py", *flags]
    sys.exit(main(DataArguments))
