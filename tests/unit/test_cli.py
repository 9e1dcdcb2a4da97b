"""The command's names, helps, settings, and what it does not import."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.main import get_command

from app.cli import main
from app.cli.admin.amounts import micros
from app.cli.following import parse
from app.cli.money import dollars, usd
from app.cli.printing import print_table, printable
from app.cli.program import Commands
from app.config import ClientSettings, client_settings

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"sqlalchemy", "celery", "flask", "kombu", "redis", "psycopg2", "torch", "app.db"}
OPERATORS = {"admin", "reconcile"}
VARIABLES = [f"GPTQUEUE_{name.upper()}" for name in ClientSettings.model_fields]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's settings."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def modules_after(statement: str) -> set[str]:
    """What a fresh interpreter has imported after this."""
    code = f"import sys, json\n{statement}\njson.dump(sorted(sys.modules), sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stderr))


def test_help_imports_no_command() -> None:
    loaded = modules_after("from app.cli import main\nassert main(['--help']) == 0")
    assert {"requests", "pydantic", *HEAVY} & loaded == set()
    assert {name for name in loaded if name.startswith("app.cli.")} == {
        f"app.cli.{name}" for name in ("lazy", "options", "problem", "program")
    }


def test_what_customers_run_imports_no_database_no_broker_and_no_server() -> None:
    for name, (module, _) in Commands.later.items():
        if name not in OPERATORS:
            assert HEAVY & modules_after(f"import {module}, app.cli.connection") == set(), name


def test_every_command_is_listed_with_the_help_that_it_has() -> None:
    for name, (module, said) in Commands.later.items():
        command = get_command(import_module(module).app)
        if name not in OPERATORS:
            assert (command.help or "").startswith(said.rstrip(".")), name


def commands(command: Any, path: str) -> list[tuple[str, Any]]:
    """Every command below this one, with its path."""
    below = getattr(command, "commands", {})
    found = [each for name, sub in below.items() for each in commands(sub, f"{path} {name}")]
    return found or [(path, command)]


def every_command() -> list[tuple[str, Any]]:
    """All of them."""
    found = []
    for name, (module, _) in Commands.later.items():
        found += commands(get_command(import_module(module).app), f"gptqueue {name}")
    return found


def test_every_command_can_print_json_and_has_a_help_and_a_place_in_the_docs() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for path, command in every_command():
        options = {name for param in command.params for name in param.opts}
        assert "--json" in options, path
        assert command.help, path
        assert path in text, f"{path} is not in docs/cli.md"


def test_completion_knows_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("_GPTQUEUE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "gptqueue jobs ")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == ["list", "show", "cancel", "wait"]


def test_the_environment_comes_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gptqueue").mkdir()
    file = tmp_path / "gptqueue" / "config.toml"
    file.write_text('url = "http://file"\napi_key = "gq_file"\nmodel = "m"\n')
    monkeypatch.setenv("GPTQUEUE_URL", "http://environment")
    monkeypatch.setenv("GPTQUEUE_MODEL", "")
    known = client_settings(None)
    assert (known.url, known.api_key, known.model) == ("http://environment", "gq_file", "m")


def test_options_come_before_both_and_another_file_can_be_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPTQUEUE_URL", "http://127.0.0.1:1")
    file = tmp_path / "other.toml"
    file.write_text('url = "http://127.0.0.1:2"\napi_key = "gq_x"\n')
    assert main(["--config", str(file), "models"]) == 2
    assert "http://127.0.0.1:1: nothing listens" in capsys.readouterr().err
    assert main(["--config", str(file), "--url", "http://127.0.0.1:3", "models"]) == 2
    assert "http://127.0.0.1:3: nothing listens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("url = ", "is no TOML"),
        ("urll = 'x'", "urll: Extra inputs are not permitted"),
        ("url = 5", "url: Input should be a valid string"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_line(
    content: str | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.toml"
    if content is not None:
        file.write_text(content)
    assert main(["--config", str(file), "models"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"gptqueue: {file}")
    assert reason in said
    assert said.count("\n") == 1


def test_every_setting_of_the_command_line_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text().split("## The command line")[1]
    lines = text.split("\n## ")[0].splitlines()
    for name, setting in ClientSettings.model_fields.items():
        line = next((each for each in lines if f"`GPTQUEUE_{name.upper()}`" in each), "")
        assert f"`{name}`" in line, name
        assert setting.description, name
        assert setting.description in line, name


def test_a_fault_of_our_own_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(file: Path | None) -> ClientSettings:
        raise KeyError("oh")

    monkeypatch.setattr("app.cli.connection.client_settings", fail)
    assert main(["models"]) == 2
    said = capsys.readouterr().err
    assert said == "gptqueue: This is our fault: KeyError: 'oh' (PYTHONDEVMODE=1 tells more).\n"


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0.000000"), (1, "0.000001"), (-1_500_000, "-1.500000"), (2**63 - 1, None)],
)
def test_amounts_are_exact(amount: int, text: str | None) -> None:
    assert dollars(amount) == (text or "9223372036854.775807")
    assert usd(amount).endswith(" USD")


@pytest.mark.parametrize(
    ("text", "amount"),
    [("0", 0), ("12.5", 12_500_000), ("0.000001", 1), ("9223372036854.775807", 2**63 - 1)],
)
def test_dollars_are_read_exactly(text: str, amount: int) -> None:
    assert micros(text) == amount


@pytest.mark.parametrize("text", ["", "-1", "1,5", "1e3", "0.0000001", "9223372036854.775808", "²"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="USD"):
        micros(text)


def test_events_are_read_whole_or_not_at_all() -> None:
    lines = ["retry: 1000", "", ":", "", "id: 1:2", "event: delta", 'data: {"a": ": b"}', ""]
    [event] = parse(iter([*lines, "event: end", 'data: {"half": 1}']))
    assert (event.name, event.data, event.id) == ("delta", {"a": ": b"}, "1:2")


def test_an_id_is_never_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    job_id = str(uuid4())
    print_table(["JOB", "NAME", ">TOKENS"], [[job_id, "x" * 200, 5]])
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert job_id in said
    assert max(map(len, said.splitlines())) <= 80


def test_a_terminal_gets_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert printable("a\x1b[2J\tb\r\n\x9bc") == "a�[2J\tb�\n�c"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert printable("\x1b[2J") == "\x1b[2J"
