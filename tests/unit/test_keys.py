"""API keys: what a right one looks like, and that every other text is refused."""

import dataclasses
import hashlib
import re
import string

from hypothesis import example, given
from hypothesis import strategies as st

from app.accounts import keys
from app.accounts.keys import Key

FORM = re.compile(r"gq_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}")
KEY = str(Key("publicpublic", "s" * 32))


def test_a_generated_key_has_the_published_form_and_is_parsed_back() -> None:
    key = keys.generate()
    assert FORM.fullmatch(str(key))
    assert keys.parse(str(key)) == key


def test_generated_keys_differ() -> None:
    made = {str(keys.generate()) for _ in range(1000)}
    assert len(made) == 1000


def test_the_form_of_a_key_is_the_same_for_ever() -> None:
    """Changing the checksum would refuse every key that was ever given out."""
    assert KEY == "gq_publicpublic_ssssssssssssssssssssssssssssssss4FdkSw"


def test_only_the_hash_of_the_secret_is_stored_and_matched() -> None:
    key = keys.generate()
    assert key.secret_hash == hashlib.sha256(key.secret.encode()).digest()
    assert key.matches(key.secret_hash)
    assert not keys.generate().matches(key.secret_hash)
    assert not key.matches(bytes(32))
    assert not key.matches(b"")


def test_a_mistyped_key_is_refused_wherever_the_mistake_is() -> None:
    for position, right in enumerate(KEY):
        for wrong in "aZ9_ ":
            if wrong != right:
                assert keys.parse(KEY[:position] + wrong + KEY[position + 1 :]) is None


def test_two_letters_that_changed_places_are_refused() -> None:
    key = str(keys.generate())
    for first in range(3, len(key) - 1):
        swapped = key[:first] + key[first + 1] + key[first] + key[first + 2 :]
        assert swapped == key or keys.parse(swapped) is None


def test_a_key_with_something_before_or_after_it_is_refused() -> None:
    for text in (KEY + "a", KEY[:-1], " " + KEY, KEY + "\n", "gq_" + KEY, KEY[3:], KEY.upper()):
        assert keys.parse(text) is None


def test_letters_outside_the_alphabet_are_refused_also_with_a_right_checksum() -> None:
    for letter in ("\x00", "\u00e9", "\N{ARABIC-INDIC DIGIT ONE}", "_", "-", " ", "'"):
        assert keys.parse(str(Key(letter * 12, "s" * 32))) is None
        assert keys.parse(str(Key("p" * 12, letter * 32))) is None


@given(st.text())
@example("gq__")
@example("gq_" * 30)
@example("\ud800" * 54)
def test_no_text_makes_the_parser_fail(text: str) -> None:
    assert keys.parse(text) is None
    assert keys.parse("gq_" + text) is None


LETTERS = string.ascii_letters + string.digits


@given(st.text(LETTERS, min_size=12, max_size=12), st.text(LETTERS, min_size=32, max_size=32))
def test_every_key_is_parsed_back_and_no_other_has_its_text(public_id: str, secret: str) -> None:
    key = Key(public_id, secret)
    assert keys.parse(str(key)) == key
    assert str(dataclasses.replace(key, secret=secret[::-1])) != str(key) or secret == secret[::-1]
