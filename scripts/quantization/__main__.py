"""The command line of ``scripts/quantize``."""

import argparse
import shutil
import signal
import sys
from pathlib import Path

from scripts.quantization.errors import Refused

# Smaller groups no kernel takes.
SMALLEST_GROUP = 16


def main() -> int:
    """Quantize what the arguments name; 0 when DEST is complete, else nothing of it is left."""
    arguments = _arguments()
    # A terminated run cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _quantize(arguments)
    except Refused as error:
        print(f"quantize: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("quantize: interrupted; nothing was left behind.", file=sys.stderr)
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="quantize",
        description="Quantize a causal language model to a GPTQ checkpoint.",
    )
    parser.add_argument("source", help="a folder, a Hugging Face hub id, or a GGUF file")
    parser.add_argument("dest", type=Path, help="the folder to make")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4, help="bits per weight")
    parser.add_argument(
        "--group-size", type=int, default=128, help="weights that share one scale (default 128)"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="text like what the model will see: a passage a line, or blank lines between them "
        "(default: the Python reference)",
    )
    return parser.parse_args()


def _quantize(arguments: argparse.Namespace) -> None:
    dest = arguments.dest.absolute()
    if dest.exists():
        raise Refused(f"{dest} exists already.")
    if arguments.group_size < SMALLEST_GROUP:
        raise Refused(f"A group size of {arguments.group_size} is below {SMALLEST_GROUP}.")
    partial = dest.with_name(dest.name + ".partial")
    made = _first_missing(partial)
    try:
        # The model libraries take seconds to import: not before what is quick to refuse.
        from scripts.quantization.gptq import Grid
        from scripts.quantization.run import run

        run(
            model=arguments.source,
            dest=partial,
            grid=Grid(bits=arguments.bits, group_size=arguments.group_size),
            calibration=arguments.calibration,
        )
        partial.rename(dest)
    finally:
        if not dest.exists():
            shutil.rmtree(made, ignore_errors=True)


def _first_missing(path: Path) -> Path:
    """The uppermost folder that making ``path`` makes, which is all there is to take away."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    return missing[-1] if missing else path


if __name__ == "__main__":
    sys.exit(main())
