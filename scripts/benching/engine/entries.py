"""Who takes part. Each is made in its own process, and only there torch is imported."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scripts.benching.engine.llama import Llama
from scripts.benching.engine.product import Product
from scripts.benching.engine.work import Contestant

Make = Callable[[], Contestant]

# As many as ever arrive together, for every contestant that lets itself be told.
SLOTS = 64
DEVICE = "cpu"
# The engine that ours replaces, beside which it is measured, too.
FORMER = "transformers"


def entries(*, ours: str, folder: Path, llama: tuple[Path, Path] | None) -> dict[str, Make]:
    """All of them by name; ``ours`` is an engine as a catalog calls it, ``folder`` the checkpoint,
    ``llama`` the binary of llama.cpp's server and a GGUF of the same model.
    """
    engines = dict.fromkeys([ours, FORMER])
    product = partial(Product, folder=folder, slots=SLOTS, device=DEVICE)
    found: dict[str, Make] = {name: partial(product, name) for name in engines}
    found["static"] = partial(static, folder, DEVICE)
    found["continuous"] = partial(continuous, folder, DEVICE)
    if llama:
        found["llama"] = partial(llama_server, *llama)
    return found


def static(folder: Path, device: str) -> Contestant:
    """transformers' ``generate``."""
    forget_waiting()
    from scripts.benching.engine.static import Static, loaded

    return Static(*loaded(folder, device))


def continuous(folder: Path, device: str) -> Contestant:
    """transformers' continuous batching."""
    forget_waiting()
    from scripts.benching.engine.continuous import Continuous
    from scripts.benching.engine.static import loaded

    return Continuous(*loaded(folder, device), slots=SLOTS)


def theirs(folder: Path, device: str) -> Contestant:
    """Both, for one model that is loaded once."""
    forget_waiting()
    from scripts.benching.engine.theirs import Theirs

    return Theirs(folder=folder, slots=SLOTS, device=device)


def llama_server(binary: Path, gguf: Path) -> Contestant:
    """llama.cpp's server."""
    forget_waiting()
    return Llama(binary=binary, gguf=gguf)


def forget_waiting() -> None:
    """Before torch is imported: let OpenMP's threads wait as they do by themselves.

    Our scripts have them wait passively, for the sake of busy machines. On cores that are free, as
    they are for who is asked, the kernels of others are up to three times slower so.
    """
    os.environ.pop("OMP_WAIT_POLICY", None)
