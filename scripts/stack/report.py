"""What happened to the first job, and how to go on."""

import shlex
from datetime import datetime
from pathlib import Path

from rich import box
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from scripts.stack.client import Json
from scripts.stack.demo import QUESTION, Outcome
from scripts.stack.parts import FLOWER_USER, Stack
from scripts.stack.receiver import Receiver
from scripts.stack.screen import Screen


def show_job(screen: Screen, outcome: Outcome, logs: Path) -> None:
    """The job, from the question to the money."""
    job = outcome.job
    title = Text("The first job did not go well" if outcome.failures else "The first job")
    colour = "red" if outcome.failures else "green"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts(outcome, job).items():
        table.add_row(name, Text(value))
    screen.say(Panel(table, title=title, title_align="left", border_style=colour, box=box.ROUNDED))
    for failure in outcome.failures:
        screen.fail(f"{failure} The logs are in {shown(logs)}")


def facts(outcome: Outcome, job: Json) -> dict[str, str]:
    """Name and value, in the order of events."""
    delivery, output = outcome.delivery, job.get("output") or {}
    return {
        "model": f"{job['model']}, version {job['version']}",
        "question": QUESTION,
        "answer": (output.get("text") or "none").strip(),
        "tokens": tokens(job),
        "timing": timing(outcome),
        "charge": charge(job),
        "webhook": f"{delivery.type}, {'signature verified' if delivery.verified else 'FORGED'}"
        if delivery
        else "none",
    }


def tokens(job: Json) -> str:
    """How many were read and written."""
    usage = job.get("usage")
    if not usage:
        return "none"
    return "{prompt_tokens} read + {completion_tokens} written = {total_tokens}".format(**usage)


def timing(outcome: Outcome) -> str:
    """Where the time went."""
    job = outcome.job
    if not (job.get("started") and job.get("finished")):
        return "not finished"
    created, started, finished = (
        datetime.fromisoformat(job[moment]) for moment in ("created", "started", "finished")
    )
    waited, ran = (started - created).total_seconds(), (finished - started).total_seconds()
    text = f"waited {waited:.2f} s, ran {ran:.2f} s"
    if outcome.delivery:
        after = outcome.delivery.received_at - finished.timestamp()
        text += f", webhook {after:.2f} s later"
    return text


def charge(job: Json) -> str:
    """The price times the tokens, as one can check by hand."""
    usage, money = job.get("usage"), job["charge"]
    if not usage:
        return f"{money['charged_micros']} micro-{money['currency']}, {money['state']}"
    price = money["price"]
    terms = (
        f"{usage['prompt_tokens']} x {price['input_micros_per_million_tokens']:,}"
        f" + {usage['completion_tokens']} x {price['output_micros_per_million_tokens']:,}"
    )
    sum_ = f"{money['charged_micros']} micro-{money['currency']}"
    whole, millionths = divmod(money["charged_micros"], 1_000_000)
    dollars = f"{whole}.{millionths:06d} {money['currency']}"
    return f"({terms}) / 1,000,000, rounded up = {sum_} ({dollars}; {money['held_micros']} held)"


def show_next(screen: Screen, stack: Stack, receiver: Receiver, *, model: str) -> None:
    """What the user can do now."""
    screen.say("Go on in another shell:\n", style="bold")
    for line in (
        f". {shlex.quote(str(stack.state.env))}",
        'curl "$GPTQUEUE_URL/api/v1/chat" -H "Authorization: Bearer $GPTQUEUE_API_KEY" \\',
        '  -H "Content-Type: application/json" -H "Prefer: wait=60" \\',
        f"""  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'""",
    ):
        screen.say(f"  {line}", style="cyan")
    screen.say()
    login = f"user {FLOWER_USER}, password {stack.flower_password}"
    screen.say(f"API       {stack.choices.url}/api/v1")
    screen.say(f"Flower    {stack.choices.flower_url}  ({login})")
    screen.say(f"Webhooks  {receiver.url}  (send yours there; open it to see what came)")
    screen.say(f"Logs      {stack.state.log}")
    screen.say("Stop      Ctrl-C here, or ./scripts/down\n")


def shown(path: Path) -> str:
    """The path, short when it is below where the user is."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
