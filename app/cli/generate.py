"""``gptqueue generate``: one prompt, one answer."""

from typing import Annotated

import typer

from app.cli import connection, options
from app.cli.asking import Look, ask, choose_model, parameters, words

app = typer.Typer(add_completion=False)


@app.command()
def generate(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help='Else, or for "-", standard input.')] = None,
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
    """Submit a prompt and print the answer as it comes. Ctrl-C cancels the job.

    --json prints the whole job when it has ended.
    """
    text = words(prompt)
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
    if system is None:
        return ask(client, "generate", {**body, "prompt": text}, look=look).code
    said = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return ask(client, "chat", {**body, "messages": said}, look=look).code
