import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.catalog import Model
from scripts.quantization import demo
from scripts.stack import models
from scripts.stack.problem import Problem
from scripts.stack.screen import Screen
from scripts.stack.state import State

DEMO = Model(
    context_length=100,
    input_price_micros=1,
    output_price_micros=1,
    version="1",
    versions={"1": {"source": demo.NAME}},
)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that the demo model was made in, without making it."""
    folders: list[Path] = []
    monkeypatch.setattr(demo, "prepare", lambda folder, say: folders.append(folder))
    monkeypatch.setattr(models, "NEEDED_BYTES", 0)
    return folders


def test_the_demo_model_is_made_in_a_folder_that_is_not_there_yet(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not" / "there"
    monkeypatch.setenv("GPTQUEUE_MODELS_DIR", str(folder))
    models.prepare([DEMO], State(tmp_path), Screen())
    assert made == [folder]
    assert folder.is_dir()


def test_a_models_folder_that_cannot_be_made_is_a_problem_that_names_its_variable(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPTQUEUE_MODELS_DIR", str(tmp_path / "file" / "models"))
    with pytest.raises(Problem, match=r"cannot be made: Not a directory.*GPTQUEUE_MODELS_DIR"):
        models.prepare([DEMO], State(tmp_path), Screen())
    assert made == []


@pytest.mark.parametrize(("terminal", "shown"), [(True, None), (False, subprocess.DEVNULL)])
def test_the_download_shows_how_far_it_is_on_a_terminal_only(
    terminal: bool, shown: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert "--quiet" not in command  # it would hide pip's bar, too
        assert options["stdout"] == shown
        return subprocess.CompletedProcess(command, 1, stderr="first\nno network\n")

    monkeypatch.setattr(subprocess, "run", no_network)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    with pytest.raises(demo.DemoModelFailed, match=r"is there a network.* no network"):
        demo.prepare(tmp_path, lambda sentence: None)
    assert list(tmp_path.iterdir()) == []
