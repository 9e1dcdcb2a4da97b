"""``python -m workers.engines.native.checker``: the process that checks JSON schemas.

Neither torch nor the model are loaded here: it starts in a second.
"""

import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection

from app.errors import InvalidRequest
from workers.engines.grammar import Grammars

# Of the processor's time for one schema. Usual ones take a millisecond, 30 kB of properties,
# values or patterns 20 ms.
SECONDS = 0.25
# Only the engine knows which tokens end a text; which one it is does not matter to a check.
ANY_TOKEN = 0


def main() -> None:
    """The argument: the number of the connection's file. Ends when the worker closes it."""
    # A Ctrl-C in a terminal reaches us as well, and the worker goes on for a while.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        serve(Connection(int(sys.argv[1])))


def serve(worker: Connection) -> None:
    """Take a tokenizer and tell whether it can be read, then take schemas and tell for each what is
    wrong with it, empty if nothing is.
    """
    tokenizer_json, tokens = worker.recv()
    try:
        grammars = Grammars(tokenizer_json, vocabulary=tokens, end_tokens={ANY_TOKEN})
    except ValueError:
        worker.send(False)
        return
    worker.send(True)
    while True:
        schema = worker.recv()
        # Its signal ends this process, also in the middle of a library's code.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        problem = problem_of(grammars, schema)
        signal.setitimer(signal.ITIMER_PROF, 0)
        worker.send(problem)


def problem_of(grammars: Grammars, schema: str) -> str:
    """Why a schema cannot be followed, empty if it can."""
    try:
        grammars.compile(schema)
    except InvalidRequest as error:
        return error.message
    return ""


if __name__ == "__main__":
    main()
