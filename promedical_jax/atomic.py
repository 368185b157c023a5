"""Files and folders that appear whole or not at all: written beside their place, then renamed into it. And of a log that grows the part that is whole."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` if the block ends well, and is removed if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` to fill; it replaces `folder` if the block ends well, and is removed if it does not."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = temporary.with_suffix(".old")
    for left in (temporary, old):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed; in a container the next one may have its number
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            os.replace(folder, old)  # renamed, not removed: being killed here loses nothing
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(old, ignore_errors=True)


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file that a run may still be writing, without a last line that is cut off; none where there is no file yet."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
