"""``gptqueue admin``: for operators."""

import typer

from app.cli.admin import reconcile

app = typer.Typer(help="For operators: against DATABASE_URL and REDIS_URL.", no_args_is_help=True)
app.command()(reconcile.reconcile)


@app.callback()
def admin() -> None:
    """Accounts, keys, credit, models, jobs, books: against DATABASE_URL and REDIS_URL."""
