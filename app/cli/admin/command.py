"""``gptqueue admin``: for operators."""

import typer

from app.cli.admin import reconcile
from app.cli.admin.accounts import accounts, credit, keys
from app.cli.admin.jobs import jobs
from app.cli.admin.models import models

app = typer.Typer(
    help="For operators: against DATABASE_URL and REDIS_URL.",
    no_args_is_help=True,
    add_completion=False,
)
for name, group in {
    "accounts": accounts,
    "keys": keys,
    "credit": credit,
    "models": models,
    "jobs": jobs,
}.items():
    app.add_typer(group, name=name)
app.command()(reconcile.reconcile)
