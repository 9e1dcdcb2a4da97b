"""Every block of code in the docs is run, or says above it why not (``<!-- not run: why -->``)."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.stack.ports import find_free
from tests.acceptance.inbox import Inbox
from tests.acceptance.stack import ROOT, Client, Part, Stack, eventually

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = {"sh", "python"}
PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    code: str
    excuse: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that name a language."""
    text = page.read_text()
    fence = r"(?:<!-- not run: (?P<excuse>[^\n]+) -->\n+)?^```(?P<language>\w+)\n(?P<code>.*?)^```$"
    for found in re.finditer(fence, text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(page, line, found["language"], found["code"], found["excuse"] or "")


BLOCKS = [block for page in DOCS for block in blocks(page)]


@pytest.fixture(scope="module")
def ready(stack: Stack, api: Part, sweeping: Part) -> None:
    """In place of the demo model stands a fake one of its name."""
    worker = stack.worker("smollm2-135m")
    eventually(lambda: worker.events("model_ready"), "the model is loaded")


@pytest.fixture
def environment(stack: Stack, me: Client, tmp_path: Path) -> Iterator[dict[str, str]]:
    """What ./scripts/up leaves in .local/env; and a job."""
    with Inbox() as inbox:
        yield _environment(stack, me, inbox, folder=tmp_path)


def _environment(stack: Stack, me: Client, inbox: Inbox, *, folder: Path) -> dict[str, str]:
    known = {
        "DATABASE_URL": stack.settings.database_url,
        "REDIS_URL": stack.settings.redis_url,
        "GPTQUEUE_URL": me.url,
        "GPTQUEUE_API_KEY": me.key,
        "GPTQUEUE_WEBHOOK_SECRET": me.webhook_secret,
        "GPTQUEUE_RECEIVER_URL": f"http://{inbox.address}/",
    }
    (folder / ".local").mkdir()
    lines = "".join(f"export {name}={value}\n" for name, value in known.items())
    (folder / ".local" / "env").write_text(lines)
    job_id = me.submit(model="smollm2-135m", max_tokens=5)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**known, "JOB_ID": job_id, "PATH": path, "HOME": str(folder)}


SERVES = "serve_forever()"
RUNNABLE = [each for each in BLOCKS if each.language in RUN and not each.excuse]


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("block", [each for each in RUNNABLE if SERVES not in each.code], ids=str)
def test_a_block_of_the_docs_runs(
    block: Block, environment: dict[str, str], tmp_path: Path
) -> None:
    interpreter = ["bash", "-euo", "pipefail"] if block.language == "sh" else [sys.executable]
    script = tmp_path / "block"
    # curl says nothing of an answer like 404 unless it is told to.
    script.write_text(re.sub(r"\bcurl\b", "curl --fail-with-body", block.code))
    ran = subprocess.run(
        [*interpreter, script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("block", [each for each in RUNNABLE if SERVES in each.code], ids=str)
def test_a_receiver_of_the_docs_takes_a_real_webhook(
    block: Block, me: Client, environment: dict[str, str], tmp_path: Path
) -> None:
    port = find_free()
    script = tmp_path / "receiver.py"
    script.write_text(block.code.replace("9000", str(port)))
    with subprocess.Popen([sys.executable, script], env=environment) as receiver:
        job_id = me.submit(model="smollm2-135m", webhook_url=f"http://127.0.0.1:{port}/")
        eventually(
            lambda: (me.job(job_id)["webhook"] or {}).get("state") == "delivered", "it arrived"
        )
        receiver.terminate()


def test_a_block_that_is_not_run_says_why_and_there_are_few() -> None:
    excused = [block for block in BLOCKS if block.excuse]
    assert all(len(block.excuse) > 10 for block in excused)
    assert len(excused) < 20
    assert {block.language for block in BLOCKS} <= RUN | {"toml", "json", "jsonl", "text"}
