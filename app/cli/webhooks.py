"""``gptqueue webhooks``: receive them on this machine."""

from typing import Annotated

import typer

from app.cli import connection
from app.cli.listening import Listener
from app.cli.options import AsJson
from app.cli.printing import say
from app.cli.problem import INTERRUPTED

app = typer.Typer(
    help="Receive webhooks on this machine, verified.", no_args_is_help=True, add_completion=False
)


@app.callback()
def webhooks() -> None:
    """Receive webhooks on this machine, verified."""


@app.command()
def listen(
    ctx: typer.Context,
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 9000,
    secret: Annotated[
        str, typer.Option(help="whsec_...; else GPTQUEUE_WEBHOOK_SECRET, else the API is asked.")
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Receive deliveries on 127.0.0.1, verify and print them, up to Ctrl-C.

    What is not authentic, or older than five minutes, is answered with 400 and shown as refused.
    The API must be allowed to send there: GPTQUEUE_WEBHOOK_ALLOWED_NETWORKS=127.0.0.0/8.
    """
    key = secret or connection.settings(ctx).webhook_secret
    if not key:
        key = str(connection.client(ctx).get("/webhooks/default/secret")["key"])
    with Listener(port, key, as_json=as_json) as listener:
        if not as_json:
            say(f"Listening. Submit jobs with the webhook_url {listener.url}; Ctrl-C ends.")
        try:
            listener.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            return INTERRUPTED
    return INTERRUPTED
