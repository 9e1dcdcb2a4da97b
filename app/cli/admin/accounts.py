"""``gptqueue admin accounts``, ``keys`` and ``credit``."""

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy.orm import Session

from app.accounts import admin, reports
from app.accounts.reports import AccountReport
from app.accounts.tables import Account
from app.cli.admin import database
from app.cli.admin.amounts import micros
from app.cli.money import dollars, usd
from app.cli.options import AsJson
from app.cli.printing import print_json, print_table, say
from app.cli.problem import UNASKED, Problem
from app.webhooks.secrets import read_secret

accounts = typer.Typer(help="List accounts, open one, show one.", no_args_is_help=True)
keys = typer.Typer(help="Issue API keys, list and revoke them.", no_args_is_help=True)
credit = typer.Typer(help="Grant credit, show what is left.", no_args_is_help=True)

AccountId = Annotated[UUID, typer.Argument(metavar="ACCOUNT", help="Its id.")]
Amount = Annotated[str, typer.Argument(metavar="USD", help="Such as 12.50.")]
_KEY_COLUMNS = ("KEY", "NAME", "CREATED", "REVOKED")


@accounts.command("list")
def list_accounts(*, as_json: AsJson = False) -> None:
    """List all accounts, with their credit in USD."""
    with database.opened() as opened, opened.transaction() as session:
        found = reports.accounts(session)
    if as_json:
        return print_json({"data": [asdict(each) for each in found]})
    columns = ["ACCOUNT", "NAME", ">KEYS", ">AVAILABLE", ">HELD", "CREATED"]
    return print_table(columns, (_row(each) for each in found))


@accounts.command("open")
def open_account(
    name: Annotated[str, typer.Argument(help="For people.")],
    *,
    amount: Annotated[str, typer.Option("--credit", help="Its first credit, in USD.")] = "0",
    as_json: AsJson = False,
) -> None:
    """Open an account with a key. The key is shown this once: only its hash is stored."""
    _check_text(name)
    given = micros(amount)
    with database.opened() as opened, opened.transaction() as session:
        account = admin.open_account(session, name=name, credit_micros=given)
        key = admin.issue_key(session, account_id=account.id, name="first")
        secret = read_secret(session, account.id)
    if as_json:
        return print_json({"account": account.id, "key": key, "webhook_secret": secret})
    say(f"account         {account.id}\nAPI key         {key}\nwebhook secret  {secret}")
    return say("The key is shown this once: only its hash is stored.")


@accounts.command("show")
def show_account(account_id: AccountId, *, as_json: AsJson = False) -> None:
    """Show an account: its credit and its keys."""
    with database.opened() as opened, opened.transaction() as session:
        found = reports.account(session, account_id)
        its_keys = reports.keys(session, account_id)
    if as_json:
        return print_json({**asdict(found), "keys": [asdict(each) for each in its_keys]})
    say(f"account    {found.id}\nname       {found.name}\ncreated    {found.created:%F %T}")
    say(f"available  {usd(found.available_micros)}\nheld       {usd(found.held_micros)}\n")
    return print_table(_KEY_COLUMNS, (_key_row(each) for each in its_keys))


@keys.command("issue")
def issue_key(
    account_id: AccountId,
    *,
    name: Annotated[str, typer.Option(help="For people.")] = "further",
    as_json: AsJson = False,
) -> None:
    """Print a new API key of an account; it is shown this once."""
    _check_text(name)
    with database.opened() as opened, opened.transaction() as session:
        session.get_one(Account, account_id)
        key = admin.issue_key(session, account_id=account_id, name=name)
    if as_json:
        return print_json({"account": account_id, "key": key})
    return say(key)


@keys.command("list")
def list_keys(account_id: AccountId, *, as_json: AsJson = False) -> None:
    """List the keys of an account by their public ids: gq_<this>_..."""
    with database.opened() as opened, opened.transaction() as session:
        found = reports.keys(session, account_id)
    if as_json:
        return print_json({"data": [asdict(each) for each in found]})
    return print_table(_KEY_COLUMNS, (_key_row(each) for each in found))


@keys.command("revoke")
def revoke_key(
    public_id: Annotated[str, typer.Argument(metavar="KEY", help="Its public id: gq_<this>_...")],
    *,
    as_json: AsJson = False,
) -> None:
    """End a key. In use, it works for another second."""
    _check_text(public_id)
    with database.opened() as opened, opened.transaction() as session:
        admin.revoke_key(session, public_id)
    if as_json:
        return print_json({"key": public_id, "revoked": True})
    return say(f"revoked {public_id}")


@credit.command("grant")
def grant_credit(account_id: AccountId, amount: Amount, *, as_json: AsJson = False) -> None:
    """Add credit to an account."""
    given = micros(amount)
    if not given:
        raise typer.BadParameter("credit of nothing")
    with database.opened() as opened, opened.transaction() as session:
        session.get_one(Account, account_id)
        admin.grant_credit(session, account_id=account_id, amount_micros=given)
        _show_credit(session, account_id, as_json=as_json)


@credit.command("show")
def show_credit(account_id: AccountId, *, as_json: AsJson = False) -> None:
    """Show what new jobs may hold, and what open ones hold."""
    with database.opened() as opened, opened.transaction() as session:
        _show_credit(session, account_id, as_json=as_json)


def _show_credit(session: Session, account_id: UUID, *, as_json: bool) -> None:
    found = reports.account(session, account_id)
    if as_json:
        left = {"available_micros": found.available_micros, "held_micros": found.held_micros}
        return print_json({"account": account_id, **left})
    return say(f"available  {usd(found.available_micros)}\nheld       {usd(found.held_micros)}")


def _row(each: AccountReport) -> list[object]:
    money = (dollars(each.available_micros), dollars(each.held_micros))
    return [each.id, each.name, each.keys, *money, f"{each.created:%F %T}"]


def _key_row(key: reports.KeyReport) -> list[object]:
    revoked = f"{key.revoked:%F %T}" if key.revoked else None
    return [key.public_id, key.name, f"{key.created:%F %T}", revoked]


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Problem("The name is not UTF-8.", UNASKED) from None
    if "\x00" in text:
        raise Problem("The name has a NUL in it.", UNASKED)
