"""The logs of all parts: one file each, and one merged stream for the person who watches."""

import logging
import threading
from collections import defaultdict, deque
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

from scripts.stack.lines import readable
from scripts.stack.screen import Screen

MAX_FILE_BYTES = 10_000_000
TAIL_LINES = 15
READER_SECONDS = 1


class _LogFile(RotatingFileHandler):
    """One part's file; the previous ten megabytes are kept beside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MAX_FILE_BYTES, backupCount=1, encoding="utf-8")

    def write(self, line: str) -> None:
        self.emit(logging.makeLogRecord({"msg": line}))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Nothing: a full disk must not stop us reading, or the part would block on its pipe."""


class Journal:
    """Takes the lines of parts; prints them only once ``show`` was called."""

    def __init__(self, folder: Path, screen: Screen) -> None:
        self._folder = folder
        self._screen = screen
        self._live = False
        self._files: dict[str, _LogFile] = {}
        self._readers: dict[str, threading.Thread] = {}
        self._tails: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=TAIL_LINES))

    def show(self) -> None:
        """From here on, print every line as it comes."""
        self._live = True

    def path(self, part: str) -> Path:
        """The log file of a part."""
        return self._folder / f"{part}.log"

    def tail(self, part: str) -> str:
        """The last lines of a part; of one that has ended, all of its last words."""
        self._readers[part].join(READER_SECONDS)
        return "\n".join(self._tails[part])

    def write(self, part: str, line: str) -> None:
        """Keep one line of a part."""
        self._file(part).write(line)
        text = readable(line)
        self._tails[part].append(text)
        if self._live:
            self._screen.log(part, text)

    def follow(self, part: str, pipe: IO[bytes]) -> None:
        """Read a part's output in the background until it ends."""
        self._file(part)
        name = f"log of {part}"
        reader = threading.Thread(target=self._copy, args=(part, pipe), name=name, daemon=True)
        self._readers[part] = reader
        reader.start()

    def close(self) -> None:
        """Close the files; the parts have ended by now."""
        for reader in self._readers.values():
            reader.join(READER_SECONDS)
        for file in self._files.values():
            file.close()

    def _copy(self, part: str, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self.write(part, line.decode(errors="replace").rstrip())

    def _file(self, part: str) -> _LogFile:
        if part not in self._files:
            self._files[part] = _LogFile(self.path(part))
        return self._files[part]
