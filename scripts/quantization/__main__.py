"""The command line of ``scripts/quantize``."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.quantization.errors import Refused, reason
from scripts.quantization.gptq import GROUP_SIZES, Grid


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
    except OSError as error:  # DEST cannot be made
        print(f"quantize: {error.filename}: {error.strerror}.", file=sys.stderr)
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
        "--group-size",
        type=int,
        choices=sorted(GROUP_SIZES),
        default=128,
        help="weights that share one scale (default 128)",
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
    _check_is_new(dest)
    with _parents(dest), _scratch(dest) as scratch:
        # The model libraries take seconds to import: not before what is quick to refuse.
        from scripts.quantization.run import run

        try:
            run(
                model=arguments.source,
                dest=scratch / "model",
                grid=Grid(bits=arguments.bits, group_size=arguments.group_size),
                calibration=arguments.calibration,
            )
            _check_is_new(dest)  # another run may have been quicker
            (scratch / "model").rename(dest)
        except Refused:
            raise
        except Exception as error:  # of the libraries, or a full disk
            raise Refused(f"The model could not be quantized: {reason(error)}") from error


def _check_is_new(dest: Path) -> None:
    if dest.exists():
        raise Refused(f"{dest} exists already.")


@contextmanager
def _parents(dest: Path) -> Iterator[None]:
    """The folders above ``dest``; those made here go again if nothing is in them at the end."""
    missing = [each for each in dest.parents if not each.exists()]
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _scratch(dest: Path) -> Iterator[Path]:
    """A folder of this run's own beside ``dest``, so that the result only has to be renamed."""
    with tempfile.TemporaryDirectory(
        dir=dest.parent, prefix=f"{dest.name}.partial-", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


if __name__ == "__main__":
    sys.exit(main())
