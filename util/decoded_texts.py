"""The file that keeps what was decoded, for calibrations of other losses: an SQLite database, which several
processes may read and add to at once."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from util.errors import UsageError

_TABLE = "CREATE TABLE IF NOT EXISTS decoded_texts (key TEXT PRIMARY KEY, text TEXT)"
_PATIENCE = 60  # seconds that a process waits for another that writes


class DecodedTexts:
    """JSON values by keys. A key is a hash of all that a text depends on, so that one file may serve any
    models, settings and prompts.

    Makes the file where there is none. Raises UsageError for one that holds something else, and leaves that
    as it is.
    """

    def __init__(self, path: Path | str):
        self._path = Path(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as database, database:
                tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
                if not tables:
                    database.execute(_TABLE)
        except (sqlite3.Error, OSError) as error:
            raise UsageError(f"--calibrate_text_file: {self._path} cannot be used: {error}") from error
        if tables and "decoded_texts" not in tables:
            raise UsageError(f"--calibrate_text_file: {self._path} holds something else than decoded texts")

    def find(self, keys: Sequence[str]) -> dict[str, Any]:
        """Values of those keys that there are."""
        query = "SELECT text FROM decoded_texts WHERE key = ?"
        with closing(self._open()) as database:
            rows = {key: database.execute(query, (key,)).fetchone() for key in keys}
        return {key: json.loads(row[0]) for key, row in rows.items() if row is not None}

    def add(self, values: Mapping[str, Any]) -> None:
        """Keeps values, all of them or none."""
        rows = [(key, json.dumps(value)) for key, value in values.items()]
        with closing(self._open()) as database, database:
            database.executemany("INSERT OR REPLACE INTO decoded_texts VALUES (?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_PATIENCE)
