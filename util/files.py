"""Files that are written whole or not at all."""

import gzip
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A list without lists and objects; JSON's texts hold no line ends.
_FLAT_LIST = re.compile(r"\[\n[^\[\]{}]*\]")


def write_text(path: Path | str, text: str) -> None:
    """Writes under a temporary name, then renames: a reader sees the old file or the new one. Compressed
    where the name ends in .gz; the same text gives the same bytes."""
    path, content = Path(path), text.encode("utf-8")
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path | str, value: Any) -> None:
    """As `write_text`, one JSON document, a list of plain values on one line. NaN becomes null: JSON has no
    name for it."""
    indented = json.dumps(_without_nan(value), indent=2, ensure_ascii=False)
    write_text(path, _FLAT_LIST.sub(lambda found: _one_line(found[0]), indented) + "\n")


def read_json(path: Path | str, default: Any = None) -> Any:
    """The JSON document in a file, compressed where its name ends in .gz; or `default` where there is no such
    file."""
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return default
    return json.loads(gzip.decompress(content) if Path(path).suffix == ".gz" else content)


def _one_line(indented: str) -> str:
    """Of a list as json indents it."""
    first, *others, last = (line.strip() for line in indented.split("\n"))
    return first + " ".join(others) + last


@contextmanager
def whole_folder_contents(folder: Path | str) -> Iterator[Path]:
    """A scratch folder whose files are moved into `folder` once the block ends without an error."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".saving-"))
    try:
        yield scratch
        for file in sorted(scratch.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value
