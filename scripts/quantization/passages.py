"""Text to calibrate on and text to measure on, which never overlap.

The standard library is English text that is always at hand: the language reference in
``pydoc_data.topics`` and the docstrings of its modules.
"""

import ast
import pydoc_data.topics
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from scripts.quantization.errors import Refused

CALIBRATION_PASSAGES = 256
CALIBRATION_CHARACTERS = 600
HELD_OUT_PASSAGES = 32
HELD_OUT_CHARACTERS = 700
FEWEST_PASSAGES = 16
# Every so many passages of the language reference is kept out of the calibration.
HELD_OUT_EVERY = 8


def calibration(file: Path | None) -> list[str]:
    """The passages to calibrate on: those of ``file``, else of the standard library.

    Raises Refused when the file cannot be read or holds too little.
    """
    if file:
        return _of_file(file)
    reference = [text for place, text in enumerate(_reference()) if place % HELD_OUT_EVERY]
    mixed = reference + [text for text in _docstrings() if len(text) >= CALIBRATION_CHARACTERS]
    random.Random(0).shuffle(mixed)
    return [text[:CALIBRATION_CHARACTERS] for text in mixed[:CALIBRATION_PASSAGES]]


def held_out() -> list[str]:
    """The passages that perplexity is measured on; no calibration sees them."""
    return _reference()[::HELD_OUT_EVERY][:HELD_OUT_PASSAGES]


def _of_file(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"The calibration file {file} cannot be read: {error}.") from error
    blocks = text.split("\n\n") if "\n\n" in text.strip() else text.splitlines()
    passages = [block.strip() for block in blocks if block.strip()]
    if len(passages) < FEWEST_PASSAGES:
        raise Refused(
            f"The calibration file {file} has {len(passages)} passages; at least "
            f"{FEWEST_PASSAGES} are needed, one a line or separated by blank lines."
        )
    return passages


def _reference() -> list[str]:
    """The language reference in passages of at least HELD_OUT_CHARACTERS."""
    passages, current = [], ""
    # Topics quote each other: without the set, text held out would be calibrated on as well.
    for paragraph in dict.fromkeys(_paragraphs()):
        current += paragraph + "\n"
        if len(current) >= HELD_OUT_CHARACTERS:
            passages.append(current)
            current = ""
    return passages


def _paragraphs() -> Iterator[str]:
    for topic in sorted(pydoc_data.topics.topics):
        for paragraph in pydoc_data.topics.topics[topic].split("\n\n"):
            yield " ".join(paragraph.split())


def _docstrings() -> Iterator[str]:
    """The docstrings of the standard library's modules, read without importing them."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield text
