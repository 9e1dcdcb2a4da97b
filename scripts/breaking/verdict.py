"""What an audit found, line by line: a figure, and what is wrong with it."""

import json
from collections import Counter
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

SHOWN_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class Line:
    """One promise; ``problems`` says where it was not kept."""

    name: str
    value: int
    details: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, int]:
        """Without the problems."""
        details = {name.replace(" ", "_"): count for name, count in self.details.items()}
        return {"value": self.value, **details}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All lines, the faults that struck, and the HTTP answers by status."""

    lines: list[Line]
    faults: Counter[str]
    answers: Counter[str]

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not any(line.problems for line in self.lines)


def as_json(found: Verdict, *, seed: int, minutes: float) -> str:
    """The whole verdict in one line."""
    document = {
        "clean": found.clean,
        "seed": seed,
        "minutes": minutes,
        "faults": dict(sorted(found.faults.items())),
        "answers": dict(sorted(found.answers.items())),
        **{line.name: line.as_json() for line in found.lines},
        "problems": {line.name: line.problems for line in found.lines if line.problems},
    }
    return json.dumps(document)


def as_table(found: Verdict) -> Table:
    """The lines for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("verdict")
    table.add_column("found", justify="right")
    table.add_column("")
    table.add_column("")
    for line in found.lines:
        mark = f"[red]✗ {len(line.problems)}[/red]" if line.problems else "[green]✓[/green]"
        table.add_row(line.name, f"{line.value:,}", mark, described(line.details))
    table.add_section()
    table.add_row("faults", f"{found.faults.total():,}", "", described(found.faults))
    table.add_row("answers", f"{found.answers.total():,}", "", described(found.answers))
    return table


def described(counts: dict[str, int]) -> str:
    """Counts in words."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def sentences(found: Verdict) -> list[str]:
    """What is wrong, the first of each line."""
    return [
        f"{line.name}: {problem}"
        for line in found.lines
        for problem in line.problems[:SHOWN_AT_MOST]
    ]
