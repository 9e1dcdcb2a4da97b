from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from workers.engines.text import Text


class Bytes:
    """A tokenizer whose token ids are the bytes of UTF-8; 256 is a special token."""

    def decode(self, tokens: list[int], **_: object) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace")

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class Words:
    """A tokenizer that puts a space before each word but the first, as sentencepiece does."""

    def __init__(self, *words: str) -> None:
        tokenizer = Tokenizer(models.WordLevel({f"▁{word}": i for i, word in enumerate(words)}))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        self._tokenizer = tokenizer

    def decode(self, tokens: list[int], **_: object) -> str:
        return self._tokenizer.decode(tokens)


class Pieces:
    """Byte-level BPE, some of whose tokens are parts of two characters."""

    def __init__(self) -> None:
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=290,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(["世世世 🙂🙂🙂 終わり終わり 👩‍🚀👩‍🚀"] * 3, trainer)
        self._tokenizer = inner

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def decode(self, tokens: list[int], **_: object) -> str:
        return self._tokenizer.decode(tokens)


BYTES = Bytes()
TOKENIZERS = [BYTES, Pieces()]


def run(tokens: list[int], *stop: str) -> Text:
    text = Text(tokenizer=BYTES, prompt=[], stop=stop)
    for token in tokens:
        text.push([token])
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
        continued.push([token])
        afresh.push([token])
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


def grown(
    ids: list[int], *stop: str, sizes: Iterable[int], tokenizer: Any = BYTES
) -> tuple[Text, list[str]]:
    """The text of the ids, pushed in groups of these sizes, and the deltas taken after each."""
    text, deltas, start = Text(tokenizer=tokenizer, prompt=[], stop=stop), [], 0
    for size in (*sizes, len(ids)):
        text.push(ids[start : start + size])
        deltas.append(text.take())
        start += size
        if text.stopped:
            break
    text.finish()
    return text, [*deltas, text.take()]


WRITING = st.text(st.sampled_from("aé 世界🙂👩‍🚀終わり.\n"), max_size=30)
SIZES = st.lists(st.integers(0, 9), max_size=20)
STOPS = st.lists(st.text(st.sampled_from("aé世🙂わ."), min_size=1, max_size=3), max_size=3)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bytes", "byte-level BPE"])
@given(written=WRITING, sizes=SIZES, stop=STOPS)
@settings(deadline=None)
def test_deltas_add_up_to_the_text_whatever_the_groups(
    tokenizer: Any, written: str, sizes: list[int], stop: list[str]
) -> None:
    ids = tokenizer.encode(written)
    alone = Text(tokenizer=tokenizer, prompt=[], stop=tuple(stop))
    for token in ids:
        alone.push([token])
    expected = alone.finish()
    text, deltas = grown(ids, *stop, sizes=sizes, tokenizer=tokenizer)
    assert "".join(deltas) == text.finish() == expected
    assert (text.stopped, text.tokens) == (alone.stopped, alone.tokens)
    if not stop:
        assert expected == written


@given(ids=st.lists(st.sampled_from([*"a🙂世".encode(), 0xFF, 256])), sizes=SIZES)
@settings(deadline=None)
def test_deltas_of_bytes_that_are_no_text_add_up_as_well(ids: list[int], sizes: list[int]) -> None:
    text, deltas = grown(ids, "a\N{REPLACEMENT CHARACTER}a", "世a", sizes=sizes)
    assert "".join(deltas) == text.finish()


def test_a_character_is_told_when_it_is_whole() -> None:
    _, deltas = grown(list("a🙂b".encode()), sizes=[3, 1, 1])
    assert deltas == ["a", "", "🙂", "b", ""]


def test_characters_in_tokens_that_cut_them_all_are_told_in_the_end() -> None:
    # Groups of eight bytes, each of which ends in the middle of a character.
    ids = list(("a" + "🙂" * 40).encode())
    _, deltas = grown(ids, sizes=[8] * 20)
    assert "".join(deltas) == "a" + "🙂" * 40
    assert max(map(len, deltas)) <= 3


def test_what_may_become_a_stop_string_is_held_back() -> None:
    text = Text(tokenizer=BYTES, prompt=[], stop=("END", "DO"))
    told = []
    for token in b"an EN EENDED":
        text.push([token])
        told.append(text.take())
    assert told == ["a", "n", " ", "", "", "EN ", "", "E", "", "", "", ""]
    assert text.finish() == "an EN E"


def test_a_held_back_beginning_is_told_at_the_end() -> None:
    _, deltas = grown(list(b"one EN"), "END", sizes=[6])
    assert deltas == ["one ", "", "EN"]


def test_a_group_knows_the_token_that_completed_the_stop_string() -> None:
    text, deltas = grown(list(b"one STOP two STOP"), "STOP", sizes=[17])
    assert (text.stopped, text.tokens, deltas) == (True, 8, ["one ", ""])
    text.push(list(b"more"))
    assert (text.tokens, text.finish()) == (8, "one ")


def test_a_stop_string_beside_a_character_cut_in_half_is_found_at_the_end() -> None:
    text, _ = grown([*b"x END", 0xF0], "END", sizes=[4, 2])
    assert (text.stopped, text.tokens, text.finish()) == (True, 5, "x ")


class Counting:
    """Counts the tokens that are decoded."""

    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, tokens: list[int], **_: object) -> str:
        self.decoded += len(tokens)
        return BYTES.decode(tokens)


@pytest.mark.parametrize("stop", [(), ("never",)])
def test_a_group_costs_the_same_however_long_the_text_is(stop: tuple[str, ...]) -> None:
    costs = []
    for groups in (100, 200):
        counting = Counting()
        grown(list("abc🙂 ende".encode()) * groups, *stop, sizes=[8] * groups, tokenizer=counting)
        costs.append(counting.decoded / groups)
    assert costs[1] == pytest.approx(costs[0], rel=0.05)


def test_without_deltas_and_stop_strings_the_text_is_decoded_once() -> None:
    counting = Counting()
    text = Text(tokenizer=counting, prompt=[], stop=())
    for _ in range(100):
        text.push([97])
    assert text.finish() == "a" * 100
    assert counting.decoded <= 200
