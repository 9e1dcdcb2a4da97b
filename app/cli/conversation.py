"""A chat whose turns are kept."""

import sys
from dataclasses import dataclass, field
from typing import Any

from app.cli.asking import Answer, Look, ask
from app.cli.client import Client, Json
from app.cli.printing import say
from app.cli.problem import FINE, Problem


@dataclass(slots=True)
class Conversation:
    """What was said so far, and with which model and parameters it goes on."""

    client: Client
    body: Json
    look: Look
    system: str | None = field(default=None, kw_only=True)
    messages: list[dict[str, Any]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """The system speaks first."""
        if self.system is not None:
            self.messages.append({"role": "system", "content": self.system})

    def say(self, text: str) -> Answer:
        """The user's turn, and the model's. A turn without an answer is forgotten."""
        turn = {"role": "user", "content": text}
        body = {**self.body, "messages": [*self.messages, turn]}
        answer = ask(self.client, "chat", body, look=self.look)
        if answer.code == FINE:
            said = answer.job["output"]["text"]
            self.messages += [turn, {"role": "assistant", "content": said}]
        return answer


def hold(conversation: Conversation) -> int:
    """Turn by turn, up to Ctrl-D."""
    import readline  # noqa: F401  (from now on input() knows the arrow keys)

    say(f"A conversation with {conversation.body['model']}; Ctrl-D ends it.")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            sys.stdout.write("\n")
            return FINE
        if text and not _turn(conversation, text):
            say("That turn is forgotten; the conversation goes on.")


def _turn(conversation: Conversation, text: str) -> bool:
    """Whether there was an answer."""
    try:
        return conversation.say(text).code == FINE
    except Problem as problem:
        sys.stderr.write(f"gptqueue: {problem}\n")
        return False
