"""The rule `json`: which value of a completion counts, and JSON Schema as its package reads it."""

import json

import pytest

from rlvr_jax.host import rules

PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {"name": {"type": "string", "title": "Name"}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "$comment": "as Pydantic writes it",
}
TREE = {"properties": {"next": {"$ref": "#"}}, "additionalProperties": False, "type": "object"}


def grade(text, schema):
    record = {"reference": "x", "extra": json.dumps({"schema": schema})}
    return rules.judge(text, record, "json")


@pytest.mark.parametrize(
    "text, value",
    [
        ('{"name": "Bo", "n": 4}', 1.0),
        ('{"name": "Bo", "n": 4.0}', 1.0),
        ('```json {"name": "Bo", "n": 4} ```', 1.0),
        ('~~~json\n{"name": "Bo", "n": 4}\n~~~', 1.0),
        ('Sure:\n```\n{"name": "Bo", "n": 4}\n```\nAnything else?', 1.0),
        ('Here it is: {"name": "Bo", "n": 4}\n\nGood luck!', 1.0),
        ('<think>{"n": 1}</think><answer>{"name": "Bo", "n": 4}</answer>', 1.0),
        ('{"name": "Bo", "n": 4.5}', 0.0),
        ('{"name": "Bo", "n": true}', 0.0),
        ('{"name": "Bo"}', 0.0),
        ('{"name": "Bo", "n": 4} or {"name": "Al", "n": 5}', 0.0),
        ('{"a": {"name": "Bo", "n": 4}', 0.0),
        ('{"name": "Bo", "n": NaN}', 0.0),
        ('<think>{"name": "Bo", "n": 4}', 0.0),
        ('<answer>{"name": "Bo", "n": 4}', 0.0),
        ("name: Bo, n: 4", 0.0),
        ("", 0.0),
        ('{"n": 1e999, "name": "Bo"}', 0.0),
    ],
)
def test_the_value_of_a_completion(text, value):
    assert grade(text, PERSON) == (value, "ok")


@pytest.mark.parametrize(
    "schema, right, wrong",
    [
        (True, ["3", "{}"], []),
        (False, [], ["3", "{}"]),
        ({"const": 2}, ["2", "2.0"], ["true", "3", '"2"']),
        ({"anyOf": [{"type": "array"}, {"type": "null"}]}, ["[1]", "null"], ["{}", "0"]),
        ({"type": "integer", "exclusiveMinimum": 0, "multipleOf": 2}, ["2"], ["0", "3"]),
        ({"additionalProperties": {"type": "integer"}}, ['{"b": 2}'], ['{"b": "2"}']),
        ({"items": {"type": "number"}, "uniqueItems": True}, ["[1, 2]"], ["[1, 1.0]", '["1"]']),
        ({"$ref": "#/$defs/N", "$defs": {"N": {"enum": [1, "a"]}}}, ["1", '"a"'], ["2", "true"]),
        (TREE, ["{}", '{"next": {"next": {}}}'], ['{"next": {"nxt": {}}}', '{"next": 1}']),
        (
            {"patternProperties": {"^s_": {"type": "string"}}, "additionalProperties": False},
            ['{"s_a": "x"}'],
            ['{"s_a": 1}', '{"t": 1}'],
        ),
        ({"type": "string", "pattern": "^[ab]+$"}, ['"abba"'], ['"abc"']),
    ],
)
def test_json_schema(schema, right, wrong):
    assert [grade(text, schema) for text in right] == [(1.0, "ok")] * len(right)
    assert [grade(text, schema) for text in wrong] == [(0.0, "ok")] * len(wrong)


@pytest.mark.parametrize(
    "schema, words",
    [
        ({"typ": "object"}, "no word 'typ'"),
        ({"properties": {"a": {"minimun": 3}}}, "no word 'minimun'"),
        ({"$defs": {"a": {"anyOf": [{"max": 3}]}}}, "no word 'max'"),
        ({"type": "int"}, "malformed"),
        ({"required": "name"}, "malformed"),
        ({"$ref": "https://example.com/schema.json"}, "not inside"),
        ({"$ref": "#/$defs/missing"}, "cannot be used"),
        ({"$ref": "#"}, "without end"),
        ({"pattern": "("}, "malformed"),
        ({"pattern": "(a{999}){999}"}, "repeats"),
        ([1], "an object or true or false"),
        ("{", "cannot grade"),
    ],
)
def test_a_schema_that_checks_nothing_is_refused_before_a_run(schema, words):
    good = {"reference": "x", "extra": json.dumps({"schema": PERSON})}
    bad = {"reference": "x", "question": "Who?", "extra": json.dumps({"schema": schema})}
    with pytest.raises(ValueError, match=words) as error:
        rules.check_record(bad, "json")
    assert "Who?" in str(error.value)
    rules.check_record(good, "json")
    grade = rules.grade("{}", bad, "json")
    assert (grade.score, grade.status) == (0.0, "crash") and grade.reason


def test_a_pattern_inside_a_schema_has_a_time_limit():
    text = json.dumps("x" * 60)
    assert grade(text, {"pattern": "^(x|xx)+y$"}) == (0.0, "timeout")
    assert grade(f'{{"{"x" * 60}": 1}}', {"patternProperties": {"^(x|xx)+y$": True}})[0] == 0.0


def test_large_and_deep_values_end():
    for text in ("[" * 10**5, "[" * 900 + "]" * 900, '{"a":' * 500 + "1" + "}" * 500):
        assert grade(text, True) == (0.0, "ok")
    many = "[" + ",".join(f'{{"a": {i}}}' for i in range(5000)) + "]"
    assert grade(many, {"uniqueItems": True}) == (1.0, "ok")
