"""What a reader of a request with stop strings is told, and when."""

from workers.engines.base import GROUP_SECONDS, GROUP_TOKENS, Delta, FinishReason, Request, Sampling
from workers.engines.logprobs import TokenTexts
from workers.engines.native import wire
from workers.engines.native.answers import Answer

SOON = GROUP_SECONDS / 2


class Bytes:
    """A tokenizer whose token ids are the bytes of UTF-8."""

    def decode(self, tokens: list[int], **_: object) -> str:
        return bytes(tokens).decode(errors="replace")


def asked(*stop: str) -> Answer:
    request = Request(id="1", max_tokens=99, prompt="", sampling=Sampling(stop=stop), stream=True)
    return Answer(request, [0], tokenizer=Bytes(), texts=TokenTexts(Bytes()))


def told(answer: Answer, text: str, *, now: float = 0.0) -> list[Delta]:
    """The deltas while the bytes of this text come one by one, as they do with stop strings."""
    deltas = []
    for token in text.encode():
        answer.push([token], None)
        deltas.append(answer.delta(now))
    return [delta for delta in deltas if delta is not None]


def parts(deltas: list[Delta]) -> list[tuple[str, int]]:
    return [(delta.text, delta.tokens) for delta in deltas]


def test_with_stop_strings_the_first_token_is_told_at_once_and_others_in_groups() -> None:
    deltas = told(asked("never"), "abcdefghijklmnopqrst")
    assert parts(deltas) == [("a", 1), ("bcdefghi", 9), ("jklmnopq", 17)]
    assert GROUP_TOKENS == 8


def test_little_text_is_told_after_a_while() -> None:
    answer = asked("never")
    assert parts(told(answer, "abc")) == [("a", 1)]
    assert parts(told(answer, "d", now=SOON)) == []
    assert parts(told(answer, "e", now=2 * SOON)) == [("bcde", 5)]
    assert parts(told(answer, "f", now=3 * SOON)) == []


def test_a_stop_string_tells_the_text_before_it_at_once_and_none_of_its_own() -> None:
    answer = asked("END")
    assert parts(told(answer, "abcEND")) == [("a", 1), ("bc", 6)]
    assert answer.delta(9) is None


def test_the_end_tells_the_rest_at_once_also_what_could_have_begun_a_stop_string() -> None:
    answer = asked("END")
    assert parts(told(answer, "abcEN")) == [("a", 1)]
    answer.end(wire.End(1, FinishReason.LENGTH, prefilled=True))
    last = answer.delta(0)
    assert last == Delta("1", "bcEN", 5)


def test_a_group_that_ends_within_a_character_waits_for_the_rest_of_it() -> None:
    answer = asked("never")
    assert parts(told(answer, "abcdefgh🙂")) == [("a", 1), ("bcdefgh", 9)]
    answer.end(wire.End(1, FinishReason.LENGTH, prefilled=True))
    assert answer.delta(0) == Delta("1", "🙂", 12)


def test_who_is_followed_late_is_told_all_so_far_at_once() -> None:
    answer = asked("never")
    for token in b"abc":
        answer.push([token], None)
    assert parts(told(answer, "d")) == [("abcd", 4)]


def test_groups_that_the_engine_made_are_told_as_they_come() -> None:
    answer = asked()
    for text in ("abcdefgh", "i", "jk"):
        answer.push(list(text.encode()), None)
        delta = answer.delta(0)
        assert delta is not None
        assert delta.text == text
