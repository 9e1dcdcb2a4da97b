"""Open accounts, give them keys and credit; against DATABASE_URL."""

import argparse
import sys
from uuid import UUID

from app.accounts import admin
from app.accounts.tables import Account
from app.cli.admin.database import opened
from app.cli.problem import Problem
from app.db import Database
from app.webhooks.secrets import read_secret

MICROS_PER_CENT = 10_000
# What a balance can hold: PostgreSQL's bigint.
MOST_CENTS = (2**63 - 1) // MICROS_PER_CENT


def main() -> int:
    """Parse, run, explain."""
    options = _parser().parse_args()
    try:
        _run(options)
    except Problem as problem:
        print(f"account: {problem}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    with opened() as database:
        options.run(database, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/account", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = commands.add_parser("open", help="a new account with a key")
    new.add_argument("name", type=_text)
    new.add_argument("--cents", type=_cents, default=0, help="its first credit, in US cents")
    new.set_defaults(run=_open)
    key = commands.add_parser("key", help="one more key for an account")
    key.add_argument("account", type=UUID)
    key.set_defaults(run=_key)
    revoke = commands.add_parser("revoke", help="end a key, named by its public id: gq_<this>_...")
    revoke.add_argument("public_id", type=_text)
    revoke.set_defaults(run=_revoke)
    credit = commands.add_parser("credit", help="add credit to an account")
    credit.add_argument("account", type=UUID)
    credit.add_argument("cents", type=_positive_cents, help="US cents")
    credit.set_defaults(run=_credit)
    return parser


def _text(argument: str) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("is not UTF-8") from None
    return argument


def _cents(argument: str, least: int = 0) -> int:
    digits = argument.lstrip("0") or "0"
    short = argument.isdecimal() and len(digits) <= len(str(MOST_CENTS))  # int() has a limit
    if not short or not least <= int(digits) <= MOST_CENTS:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {MOST_CENTS}")
    return int(digits)


def _positive_cents(argument: str) -> int:
    return _cents(argument, least=1)


def _open(database: Database, options: argparse.Namespace) -> None:
    with database.transaction() as session:
        account = admin.open_account(
            session, name=options.name, credit_micros=options.cents * MICROS_PER_CENT
        )
        key = admin.issue_key(session, account_id=account.id, name="first")
        secret = read_secret(session, account.id)
    print(f"account         {account.id}\nAPI key         {key}\nwebhook secret  {secret}")
    print("The key is shown this once: only its hash is stored.")


def _key(database: Database, options: argparse.Namespace) -> None:
    with database.transaction() as session:
        session.get_one(Account, options.account)
        print(admin.issue_key(session, account_id=options.account, name="further"))


def _revoke(database: Database, options: argparse.Namespace) -> None:
    with database.transaction() as session:
        admin.revoke_key(session, options.public_id)


def _credit(database: Database, options: argparse.Namespace) -> None:
    with database.transaction() as session:
        session.get_one(Account, options.account)
        admin.grant_credit(
            session,
            account_id=options.account,
            amount_micros=options.cents * MICROS_PER_CENT,
        )


if __name__ == "__main__":
    sys.exit(main())
