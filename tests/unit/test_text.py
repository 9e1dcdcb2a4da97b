import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from workers.engines.transformers.text import Text


class Bytes:
    """A tokenizer whose token ids are the bytes of UTF-8; 256 is a special token."""

    def decode(self, tokens: list[int], **_: object) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


class Words:
    """A tokenizer that puts a space before each word but the first, as sentencepiece does."""

    def __init__(self, *words: str) -> None:
        tokenizer = Tokenizer(models.WordLevel({f"▁{word}": i for i, word in enumerate(words)}))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        self._tokenizer = tokenizer

    def decode(self, tokens: list[int], **_: object) -> str:
        return self._tokenizer.decode(tokens)


def run(tokens: list[int], *stop: str) -> Text:
    text = Text(tokenizer=Bytes(), prompt=[], stop=stop)
    for token in tokens:
        text.push(token)
        if text.stopped:
            break
    return text


def test_tokens_become_the_text() -> None:
    assert run(list("grüße, 世界 🙂".encode())).finish() == "grüße, 世界 🙂"


def test_special_tokens_are_not_part_of_the_text() -> None:
    assert run([*b"ab", 256, *b"c"], "x").finish() == "abc"


@pytest.mark.parametrize("stop", [(), ("never",)])
def test_a_character_cut_in_half_is_left_out(stop: tuple[str, ...]) -> None:
    assert run(list("ab🙂".encode())[:-1], *stop).finish() == "ab"


def test_bytes_that_are_no_text_hold_nothing_up() -> None:
    text = run([*b"a", *[0xFF] * 6, *b" stop here"], "stop")
    assert text.stopped
    assert text.finish().startswith("a")


def test_the_text_ends_before_a_stop_string_that_spans_tokens() -> None:
    text = run(list(b"one\n\nUser: two"), "\n\nUser:")
    assert text.stopped
    assert text.finish() == "one"


def test_the_first_of_several_stop_strings_wins() -> None:
    assert run(list(b"a b c d"), "c", "b").finish() == "a "


def test_a_stop_string_of_several_byte_characters_is_found() -> None:
    assert run(list("jä 終わり no".encode()), "終わり").finish() == "jä "


def test_the_beginning_of_a_stop_string_alone_stays_in_the_text() -> None:
    assert run(list(b"one EN"), "END").finish() == "one EN"


def test_a_completion_keeps_the_space_that_its_first_word_has() -> None:
    tokenizer = Words("hello", "big", "world")
    continued = Text(tokenizer=tokenizer, prompt=[0], stop=())
    afresh = Text(tokenizer=tokenizer, prompt=[], stop=())
    for token in (1, 2):
        continued.push(token)
        afresh.push(token)
    assert continued.finish() == " big world"
    assert afresh.finish() == "big world"


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_any_text_ends_before_the_stop_string_that_comes_up_first(
    written: str, stop: list[str]
) -> None:
    written = written.replace("\N{REPLACEMENT CHARACTER}", "")
    stop = [each.replace("\N{REPLACEMENT CHARACTER}", "x") for each in stop]
    completed = [(at + len(each), at) for each in stop if (at := written.find(each)) >= 0]
    first_done = min((done for done, _ in completed), default=len(written))
    begins = [at for done, at in completed if done == first_done]
    expected = written[: min(begins)] if begins else written
    text = run(list(written.encode()), *stop)
    assert text.stopped == bool(completed)
    assert text.finish() == expected
