"""Open accounts, give them keys and credit; against DATABASE_URL."""

import argparse
import sys
from uuid import UUID

from sqlalchemy.exc import NoResultFound

from app import schema
from app.accounts import admin
from app.accounts.tables import Account
from app.config import Settings
from app.db import Database
from app.errors import DatabaseUnavailable
from app.webhooks.secrets import read_secret

MICROS_PER_CENT = 10_000


def main() -> int:
    """Parse, run, explain."""
    options = _parser().parse_args()
    database = Database(Settings(), schema.metadata)
    try:
        options.run(database, options)
    except DatabaseUnavailable:
        print("account: the database of DATABASE_URL does not answer", file=sys.stderr)
        return 1
    except NoResultFound:
        print("account: there is no such account or key", file=sys.stderr)
        return 1
    finally:
        database.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/account", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    opened = commands.add_parser("open", help="a new account with a key")
    opened.add_argument("name")
    opened.add_argument("--cents", type=int, default=0, help="its first credit, in US cents")
    opened.set_defaults(run=_open)
    key = commands.add_parser("key", help="one more key for an account")
    key.add_argument("account", type=UUID)
    key.set_defaults(run=_key)
    revoke = commands.add_parser("revoke", help="end a key, named by its public id: gq_<this>_...")
    revoke.add_argument("public_id")
    revoke.set_defaults(run=_revoke)
    credit = commands.add_parser("credit", help="add credit to an account")
    credit.add_argument("account", type=UUID)
    credit.add_argument("cents", type=int, help="US cents")
    credit.set_defaults(run=_credit)
    return parser


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
    if options.cents <= 0:
        raise SystemExit("account: credit is a positive number of cents")
    with database.transaction() as session:
        session.get_one(Account, options.account)
        admin.grant_credit(
            session,
            account_id=options.account,
            amount_micros=options.cents * MICROS_PER_CENT,
        )


if __name__ == "__main__":
    sys.exit(main())
