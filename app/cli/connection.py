"""From options, environment and file to an API."""

from pathlib import Path

import typer
from pydantic import ValidationError

from app.cli.client import Client
from app.cli.options import Choice
from app.cli.problem import Problem
from app.config import ClientSettings, client_file, client_settings


def settings(ctx: typer.Context) -> ClientSettings:
    """What holds for this command; raises Problem for a file that cannot be used."""
    choice: Choice = ctx.find_root().obj
    try:
        known = client_settings(choice.file)
    except OSError as error:
        raise Problem(f"{error.filename or choice.file}: {error.strerror}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise Problem(f"{_file(choice)}: {name}: {first['msg']}.") from None
    except ValueError as error:
        raise Problem(f"{_file(choice)} is no TOML: {error}.") from None
    given = {"url": choice.url, "api_key": choice.key}
    return known.model_copy(update={name: value for name, value in given.items() if value})


def client(ctx: typer.Context) -> Client:
    """The API with the account's key; raises Problem when one of both is nowhere."""
    known = settings(ctx)
    if not known.api_key:
        raise _missing(ctx, "GPTQUEUE_API_KEY", "--key", "api_key")
    if not known.api_key.isascii() or not known.api_key.isprintable():
        raise Problem("The API key has characters that no key has.")
    return keyless(ctx, known.api_key)


def keyless(ctx: typer.Context, key: str = "") -> Client:
    """The API as everybody may ask it."""
    url = settings(ctx).url
    if not url:
        raise _missing(ctx, "GPTQUEUE_URL", "--url", "url")
    return Client(url, key)


def _missing(ctx: typer.Context, variable: str, option: str, name: str) -> Problem:
    return Problem(
        f"{variable} is not set: export it, give {option} before the command, or write "
        f'{name} = "..." into {_file(ctx.find_root().obj)}.'
    )


def _file(choice: Choice) -> Path:
    return choice.file or client_file()
