"""All commands by name, and what becomes of their errors: one line, and an exit code."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from app.cli.lazy import LaterGroup
from app.cli.options import Choice
from app.cli.problem import FINE, INTERRUPTED, UNASKED, Problem


class Commands(LaterGroup):
    """The commands of ``gptqueue``."""

    later: ClassVar = {
        "chat": ("app.cli.chat", "Say something to a model, or hold a conversation."),
        "generate": ("app.cli.generate", "Submit a prompt and print the answer as it comes."),
        "jobs": ("app.cli.jobs", "List jobs, show, cancel or await one."),
        "batch": ("app.cli.batch.command", "Submit every line of a file of jobs."),
        "models": ("app.cli.models", "List what is served, and its prices."),
        "usage": ("app.cli.usage", "Show jobs, tokens and charges by day, and the credit left."),
        "webhooks": ("app.cli.webhooks", "Receive webhooks on this machine, verified."),
        "top": ("app.cli.top.command", "Watch queues, workers and tokens per second."),
        "admin": (
            "app.cli.admin.command",
            "Accounts, keys, credit, models, jobs, books.",
        ),
        "reconcile": ("app.cli.admin.reconcile", "The same as admin reconcile."),
    }


app = typer.Typer(name="gptqueue", cls=Commands, no_args_is_help=True)


@app.callback()
def gptqueue(
    ctx: typer.Context,
    *,
    url: Annotated[str, typer.Option(help="The API; else GPTQUEUE_URL, else the file's.")] = "",
    key: Annotated[str, typer.Option(help="Its key; else GPTQUEUE_API_KEY, else the file's.")] = "",
    config: Annotated[
        Path | None, typer.Option(help="The file; else gptqueue/config.toml of ~/.config.")
    ] = None,
) -> None:
    """GPTQueue: generation jobs from the command line.

    Exits with 0 when all is well, 1 when what was asked for failed, 2 when it was not done at all,
    130 when interrupted. See docs/cli.md.
    """
    ctx.obj = Choice(url=url, key=key, file=config)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    # What a stopped command leaves behind, such as a job, it cleans up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a model can say what no terminal can show
    try:
        return _run(arguments)
    except Problem as problem:
        return _give_up(str(problem), problem.code)
    except typer.Abort:
        return _give_up("Nobody answered the question; --yes answers it.", UNASKED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _let_go()
        return _give_up(f"{error.filename or 'standard output'}: {error.strerror}.", UNASKED)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return _give_up(f"This is our fault: {reason} (PYTHONDEVMODE=1 tells more).", UNASKED)


def _run(arguments: Sequence[str] | None) -> int:
    command: Any = get_command(app)
    try:
        code = command.main(args=arguments, prog_name="gptqueue", standalone_mode=False)
    except TyperException as error:
        return _wrong_use(error)
    return code if isinstance(code, int) else FINE


def _let_go() -> None:
    """What could not be written shall not be tried again, and complained about, at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wrong_use(error: Any) -> int:
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return UNASKED
    help_of = f" ({context.command_path} --help tells more)" if context else ""
    return _give_up(f"{error.format_message().rstrip('.')}{help_of}.", UNASKED)


def _give_up(sentence: str, code: int) -> int:
    sys.stderr.write(f"gptqueue: {' '.join(sentence.split())}\n")
    return code
