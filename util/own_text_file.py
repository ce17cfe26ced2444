"""The file that keeps what a model wrote for documents: JSON lines, which an interrupted run goes on with.

The first line holds the fingerprint of what the texts depend on, and that itself; each further line a
document's hash, the tokens of its text and the text. Lines are added to `{name}.partial`, which becomes the
file when all are there.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from util.errors import UsageError
from util.files import write_text
from util.pipeline import fingerprint_of


class OwnTextFile:
    """The texts in a file and in what an interrupted run left of it.

    pipeline: all that a text depends on beside its document, as JSON values. writes: of several processes one
    writes. replace: start anew in the place of a file of another pipeline. Raises UsageError for such a file
    otherwise, and for one that holds no such texts.
    """

    def __init__(
        self, path: Path | str, pipeline: dict[str, Any], writes: bool = True, replace: bool = False
    ):
        self._path, self._partial = Path(path), Path(f"{path}.partial")
        self._writes, self._replace = writes, replace
        self._header = {"fingerprint": fingerprint_of(pipeline), "pipeline": pipeline}
        self._texts: dict[str, dict[str, Any]] = {}
        self._read(self._path)
        self._added = self._read(self._partial)

    def missing(self, documents: Iterable[str]) -> list[str]:
        """The documents that have no text yet, each once."""
        return [document for document in dict.fromkeys(documents) if _hash(document) not in self._texts]

    def tokens(self, document: str) -> list[int]:
        """The tokens of a document's text, its end token included."""
        return self._texts[_hash(document)]["tokens"]

    def add(self, documents: Sequence[str], tokens: Sequence[list[int]], texts: Sequence[str]) -> None:
        """Keeps texts, one for each document."""
        rows = [
            {"document": _hash(document), "tokens": own, "text": text}
            for document, own, text in zip(documents, tokens, texts, strict=True)
        ]
        self._texts |= {row["document"]: row for row in rows}
        if not self._writes:
            return
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        with self._partial.open("a" if self._added else "w", encoding="utf-8") as file:
            file.write(_lines(rows if self._added else [self._header, *rows]))
        self._added = True

    def finish(self) -> None:
        """Makes the file whole."""
        if self._added and self._writes:
            write_text(self._path, _lines([self._header, *self._texts.values()]))
            self._partial.unlink(missing_ok=True)
            self._added = False

    def _read(self, path: Path) -> bool:
        """Takes over the whole lines of a file. Returns whether it may be added to."""
        if not path.exists():
            return False
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # the last line may have been cut off
        try:
            header, *rows = [json.loads(line) for line in whole.splitlines()] or [self._header]
            differs = self._differences(header)
            texts = {row["document"]: row for row in rows if row["tokens"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"--own_text_file: {path} does not hold texts that a model wrote") from error
        if differs and not self._replace:
            raise UsageError(
                f"--own_text_file: the texts in {path} were written otherwise ({', '.join(differs)}): remove "
                "it, or name another file"
            )
        if differs or not whole:
            return False
        if self._writes and len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        self._texts |= texts
        return True

    def _differences(self, header: dict[str, Any]) -> list[str]:
        """Names of what the texts of a file with this header depend on otherwise."""
        own, other = self._header["pipeline"], header["pipeline"]
        if header["fingerprint"] == self._header["fingerprint"]:
            return []
        return sorted(name for name in {*own, *other} if own.get(name) != other.get(name)) or ["fingerprint"]


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _hash(document: str) -> str:
    return hashlib.sha256(document.encode()).hexdigest()[:16]
