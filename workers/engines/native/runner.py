"""A model with its KV memory, as the loop drives it."""

import torch
from torch import Tensor

from workers.engines.devices import sent
from workers.engines.native.adapters import Active
from workers.engines.native.batch import Batch
from workers.engines.native.graphs import Capture, Graphs
from workers.engines.native.kernels import Replayable
from workers.engines.native.models.llama import Llama


class ModelRunner:
    """Runs the lean forward of a model."""

    def __init__(self, model: Llama, *, blocks: int, active: Active | None = None) -> None:
        """``blocks`` is how many blocks of KV memory to make; ``active`` is where the model's
        adapters look for their tokens.
        """
        self._model = model
        self._active = active or Active()
        self.vocabulary, self.embeddings = model.vocabulary, model.embeddings
        self.device: torch.device = model.device
        self.block_size = model.kernels.block_size
        self.block_count = blocks
        # One more, for the rows that only fill up a captured step.
        model.allocate(blocks + 1)
        self._graphs: Graphs | None = None

    @torch.inference_mode()
    def capture(self, *, slots: int, width: int, capture: Capture) -> int:
        """From now on replay the steps in which every row decodes; returns how many graphs these
        are, 0 where the kernels allow none. Tables have at most ``width`` blocks.
        """
        if not isinstance(self._model.kernels, Replayable):
            return 0
        self._graphs = Graphs(
            self._model,
            self._model.kernels,
            rows=slots,
            width=width,
            spare=self.block_count,
            capture=capture,
        )
        return len(self._graphs.sizes)

    def run(self, batch: Batch, newest: Tensor) -> Tensor:
        """The logits (W, vocabulary) of ``batch.wanted``; ``newest`` is that of the Sampler."""
        if self._graphs is not None and self._graphs.takes(batch):
            return self._graphs.run(batch, newest)
        self._active.tokens = batch.adapted
        step = self._model.kernels.prepare(batch, self._model.heads)
        every = len(batch.wanted) == len(batch.tokens)
        wanted = None if every else sent(batch.wanted, self.device)
        return self._model.forward(self._tokens(batch, newest), step, wanted)

    def _tokens(self, batch: Batch, newest: Tensor) -> Tensor:
        tokens = sent(batch.tokens, self.device)
        if len(batch.ahead):
            tokens[sent(batch.ahead, self.device)] = newest[sent(batch.ahead_slots, self.device)]
        return tokens


class IdleRunner:
    """A model that does nothing, to measure the loop alone: every token is ``token``."""

    def __init__(self, *, block_count: int, block_size: int = 16, token: int = 1) -> None:
        self.vocabulary, self.embeddings = 8, 1 << 31
        self.device = torch.device("cpu")
        self.block_size, self.block_count = block_size, block_count
        self._row = torch.nn.functional.one_hot(torch.tensor([token]), self.vocabulary).float()

    def run(self, batch: Batch, newest: Tensor) -> Tensor:
        """Logits (W, 8) that name one token."""
        return self._row.repeat(len(batch.wanted), 1)
