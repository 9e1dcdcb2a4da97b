"""What the tests of scripts/batch run: the command, and an API that stops and starts at once."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.serving import BaseWSGIServer, make_server

from scripts.stack import ports
from tests.conftest import ROOT

Json = dict[str, Any]


class Server:
    """The API behind a port that stays the same when it is stopped and started again."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._port = ports.find_free()
        self._server: BaseWSGIServer | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen."""
        self._server = make_server("127.0.0.1", self._port, self._app, threaded=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Let nobody in any more."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


class Batch:
    """One input and one output, and the command between them."""

    def __init__(self, folder: Path, url: str, key: str) -> None:
        self.input, self.output = folder / "in.jsonl", folder / "out.jsonl"
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "GPTQUEUE_URL": url,
            "GPTQUEUE_API_KEY": key,
            "GPTQUEUE_STATE_DIR": str(folder),
        }

    def write(self, *lines: str | Json) -> None:
        """Make the input of these lines; a string goes in as it is."""
        self.input.write_text(
            "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
        )

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Run the command in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.batching", self.input, "-o", self.output, *options],
            env=self.environment,
            cwd=self.input.parent,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str) -> tuple[int, str]:
        """Run the command; its exit code, and what it said."""
        return finished(self.start(*options))

    def records(self) -> list[Json]:
        """The output in the order of the input's lines."""
        records = [json.loads(line) for line in self.output.read_text().splitlines()]
        return sorted(records, key=lambda record: record["line"])

    def await_records(self, count: int) -> None:
        """Wait until the output has that many lines."""
        deadline = time.monotonic() + 60
        while not self.output.exists() or self.output.read_bytes().count(b"\n") < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it said."""
    _, said = process.communicate(timeout=120)
    return process.returncode, said
