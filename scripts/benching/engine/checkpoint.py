"""The checkpoint that all contestants run: one whose texts never end by themselves.

An engine stops at the end-of-text token and has no option to go on, ``generate`` has one, and
llama.cpp's server another. So the token is taken out of the checkpoint, and every contestant
generates exactly as many tokens as it is asked for.
"""

import json
from pathlib import Path
from typing import Any

from scripts.stack.problem import Problem

CONFIGURED = ("config.json", "generation_config.json", "tokenizer_config.json")


def endless(checkpoint: Path, folder: Path) -> Path:
    """Make ``folder`` a checkpoint like ``checkpoint``, with its weights, but without an end."""
    if not (checkpoint / "config.json").is_file():
        raise Problem(
            f"There is no checkpoint in {checkpoint}: ./scripts/up makes the demo model, and "
            "--checkpoint names another folder."
        )
    folder.mkdir()
    for file in checkpoint.resolve().iterdir():
        if file.name in CONFIGURED:
            settings = json.loads(file.read_text())
            (folder / file.name).write_text(json.dumps(_without_end(settings)))
        else:
            (folder / file.name).symlink_to(file)
    return folder


def _without_end(settings: dict[str, Any]) -> dict[str, Any]:
    ends = {"eos_token_id", "eos_token"} & settings.keys()
    return {**settings, **dict.fromkeys(ends)}
