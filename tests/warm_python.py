"""A Python that has everything imported: a `python` whose processes are forks of a server.

Importing takes most of the time of a run of a tiny model. The server imports once; `warm_python` gives the
path of a program that has it fork, with the caller's arguments, folder, environment and streams, and ends
with the fork's exit code. So a test, a bash script (PYTHON=…) or a launcher starts real processes, in
milliseconds.
"""

import atexit
import contextlib
import gc
import os
import pickle
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
# What the caller starts. SIGTERM kills the fork, at once and for good, as SIGKILL would.
_CLIENT = """#!{python} -IS
import os, pickle, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"f"], [0, 1, 2])
    with server.makefile("rwb") as stream:
        pickle.dump((sys.argv[1:], os.getcwd(), dict(os.environ)), stream)
        stream.flush()
        process = pickle.load(stream)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(process, signal.SIGKILL))
        code = pickle.load(stream)
os._exit(code if code >= 0 else 128 - code)
"""


@contextlib.contextmanager
def warm_python() -> Iterator[Path]:
    """Path of the program, as long as the server runs."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        address, client = Path(folder) / "socket", Path(folder) / "python"
        client.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
        client.chmod(0o700)
        command = [sys.executable, "-m", "tests.warm_python", str(address)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout.readline() == b"ready\n"
            yield client
            server.stdin.close()  # which ends it


def _serve(address: str) -> None:
    """Forks for each caller, until standard input is closed."""
    import runner  # noqa: F401
    import util.figures  # noqa: F401

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        gc.freeze()  # what is imported is shared with the forks and looked at by none of them
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
        while server in select.select([server, sys.stdin], [], [])[0]:
            caller, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                _answer(caller)
            caller.close()


def _answer(caller: socket.socket) -> NoReturn:
    """Forks once more for the program, waits for it, and tells the caller its exit code."""
    _, streams, _, _ = socket.recv_fds(caller, 1, 3)
    with caller.makefile("rwb") as stream:
        arguments, folder, environment = pickle.load(stream)
        process = os.fork()
        if process == 0:
            for number, opened in enumerate(streams):
                os.dup2(opened, number)
                os.close(opened)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            os._exit(_exit_code(arguments))
        pickle.dump(process, stream)
        stream.flush()
        pickle.dump(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), stream)
    os._exit(0)


def _exit_code(arguments: list[str]) -> int:
    """Runs a program as far as an interpreter's end, which would take a second to forget all modules."""
    code = 0
    try:
        _run(arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _run(arguments: list[str]) -> None:
    """What `python` does with these arguments: a file, `-m` and a module, or `-` for standard input."""
    program, *rest = arguments
    if program == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(program) or os.getcwd()
        if program == "-":
            exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
