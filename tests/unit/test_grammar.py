"""Answers that follow a JSON schema, whatever the model would rather say."""

import json
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from app.errors import EngineFailed, InvalidRequest
from workers.engines.grammar import Grammar, Grammars
from workers.engines.native.constraints import forbid

END = 0
VOCABULARY = 700  # more logits than tokens, and no multiple of 32
# Words of more than one byte, so that a token can begin inside one part of the grammar and end in
# another one.
WORDS = ['{"', '": ', '", "', '"}', '"]', "name", "true", "12", "é", "中", "\U0001f600", " Ada"]

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "address": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 8},
                "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
            },
            "required": ["city", "zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "address"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "nested objects": PERSON,
    "enum": {"enum": ["new", 'ope"n', "clösed", 7, None, {"a": [1]}]},
    "array": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        "minItems": 2,
        "maxItems": 4,
    },
    "unicode": {
        "type": "object",
        "properties": {"naïve 中": {"type": "string", "minLength": 3, "maxLength": 5}},
        "required": ["naïve 中"],
        "additionalProperties": False,
    },
    "choice": {"anyOf": [{"type": "null"}, {"type": "integer", "exclusiveMinimum": 10}]},
    "definitions": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
                "required": ["next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"type": "number", "multipleOf": 0.5}},
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer with some longer words."""
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [_as_bytes(word) for word in WORDS]
    parts = {word[:length] for word in words for length in range(2, len(word) + 1)}
    grown = sorted(parts, key=lambda part: (len(part), part))
    vocabulary = {token: at for at, token in enumerate(["<end>", *characters, *grown])}
    merges = [(part[:-1], part[-1]) for part in grown]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def _as_bytes(word: str) -> str:
    ((text, _),) = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    ).pre_tokenize_str(word)
    return text


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    """Grammars of that tokenizer."""
    return Grammars(tokenizer.to_str(), vocabulary=VOCABULARY, end_tokens={END})


def compiled(grammars: Grammars, schema: dict[str, Any]) -> Grammar:
    """The grammar of a schema."""
    return grammars.compile(json.dumps(schema))


def sample(grammars: Grammars, rows: list[Grammar], chance: torch.Generator) -> list[list[int]]:
    """What a model without any sense says in each row under its grammar, ends excluded."""
    answers: list[list[int]] = [[] for _ in rows]
    living = list(range(len(rows)))
    for _ in range(600):
        logits = torch.randn(len(living), VOCABULARY, generator=chance) * 5
        forbid(logits, grammars.mask([rows[each] for each in living]))
        chosen = torch.multinomial(logits.softmax(-1), 1, generator=chance).flatten().tolist()
        for row, token in zip(living, chosen, strict=True):
            if token != END:
                answers[row].append(token)
            rows[row].accept(token)
        living = [each for each in living if not rows[each].done]
        if not living:
            return answers
    raise AssertionError("some answers have no end")


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_answers_under_a_schema_are_json_that_satisfies_it(
    grammars: Grammars, tokenizer: Tokenizer, name: str
) -> None:
    first = compiled(grammars, SCHEMAS[name])
    chance = torch.Generator().manual_seed(1)
    answers = sample(grammars, [first.copy() for _ in range(24)], chance)
    assert len({tuple(answer) for answer in answers}) > 4
    for answer in answers:
        value = json.loads(tokenizer.decode(answer))
        jsonschema.validate(value, SCHEMAS[name])


def test_each_row_follows_its_own_schema(grammars: Grammars, tokenizer: Tokenizer) -> None:
    names = list(SCHEMAS) * 2
    rows = [compiled(grammars, SCHEMAS[name]) for name in names]
    answers = sample(grammars, rows, torch.Generator().manual_seed(2))
    for name, answer in zip(names, answers, strict=True):
        jsonschema.validate(json.loads(tokenizer.decode(answer)), SCHEMAS[name])


def test_a_row_without_a_schema_may_say_anything(grammars: Grammars) -> None:
    mask = grammars.mask([None, compiled(grammars, {"type": "integer"})])
    logits = torch.zeros(2, VOCABULARY, dtype=torch.bfloat16)
    forbid(logits, mask)
    assert mask.shape == (2, 22)
    assert logits[0].isfinite().all()
    assert 0 < logits[1].isfinite().sum() < 20


def test_there_is_one_way_to_write_an_answer(grammars: Grammars, tokenizer: Tokenizer) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": [2, 3]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    answers = sample(grammars, [compiled(grammars, schema)], torch.Generator().manual_seed(3))
    assert tokenizer.decode(answers[0]) == '{"a": 1, "b": [2, 3]}'


def test_an_answer_may_end_only_where_it_is_whole(grammars: Grammars, tokenizer: Tokenizer) -> None:
    grammar = compiled(grammars, {"type": "array", "items": {"const": 1}})
    for text, may_end in [("", False), ("[", False), ("1", False), ("]", True)]:
        for token in tokenizer.encode(text).ids:
            grammar.accept(token)
        assert bool(grammars.mask([grammar])[0, 0] & 1 << END) == may_end
        assert grammar.done == may_end
    grammar.accept(END)
    assert grammar.done


def test_an_answer_that_could_go_on_is_not_done(grammars: Grammars, tokenizer: Tokenizer) -> None:
    grammar = compiled(grammars, {"type": "integer"})
    for token in tokenizer.encode("12").ids:
        grammar.accept(token)
    assert not grammar.done
    assert grammars.mask([grammar])[0, 0] & 1 << END


def test_a_copy_goes_its_own_way(grammars: Grammars, tokenizer: Tokenizer) -> None:
    first = compiled(grammars, {"enum": [[1], 2]})
    second = first.copy()
    first.accept(tokenizer.token_to_id("["))
    second.accept(tokenizer.token_to_id("2"))
    assert second.done
    assert not first.done


def test_a_token_outside_the_schema_is_told(grammars: Grammars, tokenizer: Tokenizer) -> None:
    grammar = compiled(grammars, {"type": "integer"})
    with pytest.raises(EngineFailed, match="cannot follow the schema"):
        grammar.accept(tokenizer.token_to_id("a"))


def test_a_schema_that_grows_too_large_on_the_way_fails_its_answer(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    grammar = compiled(grammars, {"type": "string", "pattern": "^(a?){5000}a{5000}$"})
    with pytest.raises(EngineFailed, match=r"cannot follow the schema: .*too many"):
        for token in tokenizer.encode('"aa').ids:
            grammars.mask([grammar])
            grammar.accept(token)


def test_a_grammar_that_fails_fails_no_other_row(grammars: Grammars, tokenizer: Tokenizer) -> None:
    failed, well = (
        compiled(grammars, {"type": "integer"}),
        compiled(grammars, {"const": 7}),
    )
    with pytest.raises(EngineFailed):
        failed.accept(tokenizer.token_to_id("a"))
    logits = torch.zeros(2, VOCABULARY)
    forbid(logits, grammars.mask([failed, well]))
    assert logits[0].isfinite().all()
    assert logits[1].isfinite().nonzero().tolist() == [[tokenizer.token_to_id("7")]]
    with pytest.raises(EngineFailed, match="cannot follow the schema"):
        failed.accept(tokenizer.token_to_id("1"))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "objekt"}, "Invalid type: objekt"),
        ({"properties": 3}, "properties must be an object"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"$ref": "#/$defs/nothing"}, "does not exist"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "does not fetch"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "null"}}, "not"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_in_one_sentence(
    grammars: Grammars, schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match="cannot be followed") as refusal:
        compiled(grammars, schema)
    assert reason in refusal.value.message
    assert refusal.value.message.endswith(".")
    assert "\n" not in refusal.value.message
