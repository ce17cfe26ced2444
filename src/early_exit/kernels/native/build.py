"""Compiles the C++ sources of this folder, once for each compiler, processor and version of them."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

# -ffp-contract=off: sums go in one order, rounded in one way, whatever loop they are in (simd.h).
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-pthread")
_TIMEOUT = 300  # seconds; a busy machine takes its time


class BuildError(RuntimeError):
    """There is no compiler, or it failed; says what to do, in one line."""


def built_library() -> Path:
    """The compiled library, from the cache folder or made now. Several processes may do this at once.

    The folder is $EARLY_EXIT_CACHE, or early-exit in the user's cache folder, or a temporary one where
    neither can be written. Raises BuildError.
    """
    compiler = _compiler()
    name = f"kernels-{_key(compiler)}.so"
    folder = _cache_folder()
    library = folder / name
    if not library.is_file():
        _compile(compiler, library)
    return library


def _compiler() -> list[str]:
    """The command of a C++ compiler: $CXX, the system's, or that of the package ziglang."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    raise BuildError("no C++ compiler found: install g++, clang++ or the package ziglang, or set CXX")


def _sources() -> list[Path]:
    folder = Path(__file__).parent
    return sorted([*folder.glob("*.cpp"), *folder.glob("*.h")])


def _key(compiler: list[str]) -> str:
    """Of all that the result depends on."""
    digest = hashlib.sha256()
    for source in _sources():
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    try:
        version = subprocess.run(
            [*compiler, "--version"], capture_output=True, timeout=_TIMEOUT, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"the C++ compiler {shlex.join(compiler)} does not run: {error}") from error
    for each in (version, " ".join(_FLAGS).encode(), _processor().encode()):
        digest.update(each + b"\0")
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What -march=native follows: the machine's type and, where the system says them, its features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), *dict.fromkeys(line for line in lines if line.startswith(wanted))])


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("EARLY_EXIT_CACHE") or Path(base) / "early-exit")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="early-exit-"))


def _compile(compiler: list[str], library: Path) -> None:
    """Under a temporary name, renamed when it is whole."""
    units = [str(source) for source in _sources() if source.suffix == ".cpp"]
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        command = [*compiler, *_FLAGS, *units, "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise BuildError(f"the C++ compiler {shlex.join(compiler)} failed: {error}") from error
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise BuildError(f"the C++ compiler {shlex.join(compiler)} failed: {first.strip()}")
        os.replace(made, library)
