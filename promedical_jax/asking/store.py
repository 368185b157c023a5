"""What was replied, and what it cost: one SQLite file. A reply and its cost are in it together or not at all, and several processes may share it."""

import sqlite3
from pathlib import Path
from time import sleep

from promedical_jax.errors import InputError

OPENINGS = 50  # tries to open a file that others open too
TABLES = (
    "CREATE TABLE IF NOT EXISTS replies (question TEXT PRIMARY KEY, content TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS spent (endpoint TEXT PRIMARY KEY, prompt_tokens INTEGER NOT NULL, reply_tokens INTEGER NOT NULL)",
)
ADD = """INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (endpoint)
         DO UPDATE SET prompt_tokens = prompt_tokens + excluded.prompt_tokens, reply_tokens = reply_tokens + excluded.reply_tokens"""

Tokens = tuple[int, int]  # of questions, and of replies


class Store:
    """Replies by a key of their question, and tokens by endpoint, over all runs. Without a path they are kept for this process alone."""

    def __init__(self, path: Path | None, where: str):
        """`where`: the recipe's key, for messages. Raises InputError for a file that is none."""
        try:
            self._file = _opened(path)
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{where}: {path} is no cache of replies ({error}); name another file") from None

    def reply(self, key: str) -> str | None:
        row = self._file.execute("SELECT content FROM replies WHERE question = ?", (key,)).fetchone()
        return row[0] if row else None

    def spent(self, endpoint: str) -> Tokens:
        row = self._file.execute("SELECT prompt_tokens, reply_tokens FROM spent WHERE endpoint = ?", (endpoint,)).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    def keep(self, endpoint: str, cost: Tokens, reply: tuple[str, str] | None = None) -> None:
        """A cost, and the (key, content) of the reply that it bought, if it bought one."""
        with self._file:
            self._file.execute(ADD, (endpoint, *cost))
            if reply:
                self._file.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", reply)


def _opened(path: Path | None) -> sqlite3.Connection:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    file = sqlite3.connect(path or ":memory:", check_same_thread=False, timeout=60.0)
    for tried in range(OPENINGS):
        try:
            file.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:  # this one statement does not wait for another process that opens the file
            if "locked" not in str(error) or tried == OPENINGS - 1:
                raise
            sleep(0.1)
    with file:
        file.execute("PRAGMA synchronous = NORMAL")  # what is written outlives the process; and the machine, but for its last moment
        for table in TABLES:
            file.execute(table)
    return file
