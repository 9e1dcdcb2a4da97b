"""Keeps progress bars and chatter of the model libraries out of logs and terminals."""

import contextlib
import io
import logging

import transformers


def be_quiet() -> None:
    """Let only errors through, from now on and in the whole process."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # gptqmodel logs through this, which begins by printing an empty line.
    with contextlib.redirect_stdout(io.StringIO()):
        from logbar import LogBar

        LogBar.shared().setLevel(logging.ERROR)
    for name in ("torchao", "tokenicer", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
