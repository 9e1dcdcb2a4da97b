"""``gptqueue chat``: one message, or a conversation."""

import sys
from typing import Annotated

import typer

from app.cli import connection, options
from app.cli.asking import Look, choose_model, parameters, words
from app.cli.conversation import Conversation, hold
from app.cli.problem import Problem

app = typer.Typer(add_completion=False)


@app.command()
def chat(
    ctx: typer.Context,
    message: Annotated[
        str | None, typer.Argument(help="Without one: a conversation, or standard input.")
    ] = None,
    *,
    model: options.Model = "",
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    no_stream: options.NoStream = False,
    cost: options.Cost = False,
    as_json: options.AsJson = False,
) -> int:
    """Say something to a model, or hold a conversation.

    Without a message, in a terminal, it is a conversation that keeps its turns, up to Ctrl-D.
    Ctrl-C cancels the answer that is being written.
    """
    talks = message is None and sys.stdin.isatty()
    if talks and as_json:
        raise Problem("A conversation has no --json; give a message.")
    text = "" if talks else words(message)
    client = connection.client(ctx)
    body = parameters(
        model=choose_model(client, model or connection.settings(ctx).model),
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=stop,
    )
    look = Look(streams=not no_stream, as_json=as_json, cost=cost)
    conversation = Conversation(client, body, look, system=system)
    return hold(conversation) if talks else conversation.say(text).code
