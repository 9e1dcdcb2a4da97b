"""What many commands can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True)
class Choice:
    """What was said before the command: which API, with which key, of which file."""

    url: str
    key: str
    file: Path | None


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="Else GPTQUEUE_MODEL, the file's, or the only one.")
]
System = Annotated[str | None, typer.Option("--system", "-s", help="The system's message.")]
MaxTokens = Annotated[int | None, typer.Option(help="Tokens of the answer, at most.")]
Temperature = Annotated[float | None, typer.Option(help="0 to 2; 0: always the likeliest token.")]
TopP = Annotated[float | None, typer.Option(help="Above 0, up to 1.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this text; up to 4 times.")]
NoStream = Annotated[bool, typer.Option("--no-stream", help="Print the answer when it is whole.")]
Cost = Annotated[bool, typer.Option("--cost", help="A last line on standard error: tokens, price.")]
