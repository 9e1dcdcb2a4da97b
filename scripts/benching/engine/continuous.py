"""Contestant: transformers' own continuous batching, with its manager kept running."""

import logging
import threading
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from scripts.benching.engine.work import Answer, Failed, Flight, Work

# Room for every request of the bench at once. Left alone, it takes six tenths of the memory.
PAGE_TOKENS = 256
# The prompt tokens and decoding requests of one step; more makes no step of this bench larger.
STEP_TOKENS = 2048
NO_END = -1
POLL_SECONDS = 0.5


class Continuous:
    """A model that is loaded, under ContinuousBatchingManager."""

    def __init__(self, model: Any, tokenizer: Any, *, slots: int) -> None:
        """Start the manager."""
        self._tokenizer = tokenizer
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=False, eos_token_id=NO_END, pad_token_id=0
            ),
            continuous_batching_config=_settings(slots, model.device.type),
        )
        self._manager.start()

    def ask(self, work: Work) -> list[Answer]:
        """Add each request at its moment, while a thread collects the ends."""
        flight = Flight(work)
        collecting = threading.Thread(target=self._collect, args=(flight, len(work.prompts)))
        collecting.start()
        for number, prompt in flight.departures():
            self._manager.add_request(
                self._tokenizer(prompt).input_ids,
                request_id=str(number),
                max_new_tokens=work.tokens,
                streaming=work.stream,
            )
        answers = flight.land()
        collecting.join()
        return answers

    def close(self) -> None:
        """Stop the manager's thread."""
        self._manager.stop(block=True, hard_stop=True)

    def _collect(self, flight: Flight, left: int) -> None:
        while left:
            output = self._manager.get_result(timeout=POLL_SECONDS)
            if output is None and not self._manager.is_running():
                flight.failed(Failed("transformers' continuous batching has ended by itself."))
                return
            if output is None:
                continue
            number = int(output.request_id)
            if output.error:
                flight.failed(Failed(output.error))
                return
            if output.generated_tokens:
                flight.began(number)
            if output.is_finished():
                self._tokenizer.decode(output.generated_tokens)
                flight.ended(number, len(output.generated_tokens))
                left -= 1


def _settings(slots: int, device: str) -> ContinuousBatchingConfig:
    """On a CUDA device it is left to size itself, and to choose attention as it likes best."""
    if device == "cuda":
        return ContinuousBatchingConfig()
    return ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        num_blocks=2 * slots,
        max_batch_tokens=STEP_TOKENS,
        # There is no flash attention on the CPU, and looking for it may ask the hub.
        auto_switch_to_flash=False,
    )
