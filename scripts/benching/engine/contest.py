"""The rounds: every contestant is asked for the same, one after the other."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from scripts.benching.engine.entries import SLOTS, Make
from scripts.benching.engine.host import Host
from scripts.benching.engine.prompts import Prompts
from scripts.benching.engine.work import Failed, Work, first_tokens, rate
from scripts.benching.figures import percentile
from scripts.benching.notes import Notes
from scripts.stack.problem import Problem

FEW = 16
# One after the other, so that one round of one request at a time is no blink.
ALONE = 4
# Of what ours reaches with all slots taken: so its queue hardly ever empties, nor anyone else's.
OFFERED = 1.2
# In the steady state a request joins as another leaves; the first wave meets an idle engine.
WAVES = 3
MIB = 2**20


@dataclass
class Rounds:
    """What was found of each contestant, by its name; a value for each round."""

    # Tokens per second, by load: 1, 16 or 64 requests at a time, or random arrivals.
    rates: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    # Milliseconds to the first token, 50th and 99th percentile.
    first_p50: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    first_p99: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    # MiB that each slot takes.
    memory: dict[str, float] = field(default_factory=dict)


class Contest:
    """Asks every contestant for the same; one that fails is out, unless it is ours."""

    def __init__(self, hosts: list[Host], *, ours: str, notes: Notes) -> None:
        """``ours`` names the contestant without which nothing is compared."""
        self._hosts = list(hosts)
        self._ours = ours
        self._notes = notes
        self.rounds = Rounds()

    def warm(self, prompts: Prompts) -> None:
        """Run everything once, and see what 63 more requests at a time cost in memory."""
        for host in list(self._hosts):
            with self._excluding(host):
                host.ask(prompts.together(1, 1))
                one = host.peak_bytes(prompts.together(1, 1))
                more = host.peak_bytes(prompts.together(SLOTS, SLOTS)) - one
                self.rounds.memory[host.name] = more / (SLOTS - 1) / MIB
                self._notes.say(f"{host.name}: {more / (SLOTS - 1) / MIB:.3g} MiB per slot")

    def measure(self, number: int, prompts: Prompts, *, seconds: float) -> None:
        """One round; each begins with another contestant."""
        first = number % len(self._hosts)
        self._hosts = self._hosts[first:] + self._hosts[:first]
        self._rate("1", prompts.together(ALONE, 1))
        self._rate("16", prompts.together(FEW, FEW))
        self._rate("64", prompts.together(SLOTS, SLOTS))
        offered = OFFERED * self.rounds.rates["64"][self._ours][-1] / prompts.tokens
        self._rate("random", prompts.at_random(offered, seconds, in_flight=SLOTS))
        self._first_tokens(prompts.together(WAVES * FEW, FEW, stream=True))

    def _rate(self, load: str, work: Work) -> None:
        for host in list(self._hosts):
            with self._excluding(host):
                found = rate(host.ask(work))
                self.rounds.rates[load][host.name].append(found)
                self._notes.say(
                    f"{host.name}, {load}: {found:,.0f} tokens/s, {len(work.prompts)} requests"
                )

    def _first_tokens(self, work: Work) -> None:
        for host in list(self._hosts):
            with self._excluding(host):
                if times := first_tokens(host.ask(work)[FEW:]):
                    self.rounds.first_p50[host.name].append(percentile(times, 50))
                    self.rounds.first_p99[host.name].append(percentile(times, 99))

    @contextmanager
    def _excluding(self, host: Host) -> Iterator[None]:
        try:
            yield
        except Failed as error:
            if host.name == self._ours:
                raise Problem(f"{host.name}: {error}") from error
            self._notes.say(f"{host.name} is out: {error}")
            self._hosts.remove(host)
            host.close()


@contextmanager
def started(entries: dict[str, Make], *, ours: str, notes: Notes) -> Iterator[list[Host]]:
    """The processes of all that can be started; raises Problem when ours cannot."""
    with ExitStack() as stopping:
        hosts = []
        for name, make in entries.items():
            try:
                with notes.doing(f"starting {name}"):
                    hosts.append(Host(name, make))
            except Failed as error:
                if name == ours:
                    raise Problem(f"{name}: {error}") from error
                notes.say(f"{name} does not take part: {error}")
            else:
                stopping.callback(hosts[-1].close)
        yield hosts
