"""Where something is wrong, in the words of its sender."""

import pytest

from app.validation import named


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (("messages", 0, "content", "function-after[_no_nul(), str]"), "messages.0.content"),
        (("messages", 0, "content", "list[TextPartBody]", 1, "type"), "messages.0.content.1.type"),
        (("input", "constrained-str"), "input"),
        (("prompt", "str"), "prompt"),
        (("metadata", "", "[key]"), "metadata..[key]"),
        (("a\x00b",), "a\ufffdb"),
        ((), ""),
    ],
)
def test_a_place_is_named_as_it_was_sent(place: tuple[str | int, ...], name: str) -> None:
    assert named(place) == name
