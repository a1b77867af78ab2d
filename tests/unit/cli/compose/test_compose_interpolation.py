"""Variables in compose files."""

import pytest

from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.interpolation import (
    INTERPOLATED_CHARS_MAX,
    NESTING_MAX,
    Interpolation,
    Substituted,
)

ENVIRONMENT = {"SET": "value", "EMPTY": "", "TAG": "1.27", "_a1": "under"}


def put_in(text):
    return Interpolation(ENVIRONMENT).apply(text, "services.web.image")


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("plain", "plain"),
        ("$SET", "value"),
        ("${SET}", "value"),
        ("a${SET}b$SET.c", "avalueb" + "value.c"),
        ("app:$TAG-alpine", "app:1.27-alpine"),
        ("$_a1", "under"),
        ("$UNSET", ""),
        ("${UNSET}x", "x"),
        ("$$SET", "$SET"),
        ("$$$$", "$$"),
        ("${SET:-default}", "value"),
        ("${EMPTY:-default}", "default"),
        ("${UNSET:-default}", "default"),
        ("${UNSET:-}", ""),
        ("${SET-default}", "value"),
        ("${EMPTY-default}", ""),
        ("${UNSET-default}", "default"),
        ("${SET:+other}", "other"),
        ("${EMPTY:+other}", ""),
        ("${EMPTY+other}", "other"),
        ("${UNSET+other}", ""),
        ("${SET:?needed}", "value"),
        ("${SET?needed}", "value"),
        ("${EMPTY?needed}", ""),
        ("${UNSET:-a-b:c?d}", "a-b:c?d"),
        ("${UNSET:-$SET}", "value"),
        ("${UNSET:-${EMPTY:-${TAG}}}", "1.27"),
        ("${UNSET:-$$}", "$"),
        ("${SET:-${UNSET:?not asked for}}", "value"),
        ("${UNSET:-{}", "{"),
    ],
)
def test_a_variable_is_replaced(text, made):
    assert put_in(text) == made


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${UNSET:?give a tag}", "required variable UNSET is missing a value: give a tag"),
        ("${EMPTY:?}", "required variable EMPTY is missing a value: "),
        ("${UNSET?$SET please}", "required variable UNSET is missing a value: value please"),
        ("$", 'invalid interpolation format: "$": a $ stands alone; you may need to escape'),
        ("a $ b", "a $ stands alone"),
        ("$1", "a $ stands alone"),
        ("${", "needs the name of a variable"),
        ("${}", "needs the name of a variable"),
        ("${1}", "needs the name of a variable"),
        ("${SET", "a } is missing"),
        ("${SET!}", "a } is missing"),
        ("${UNSET:-x", "a } is missing"),
        ("${A:-" * (NESTING_MAX + 1) + "}" * (NESTING_MAX + 1), "nested deeper than"),
    ],
)
def test_what_cannot_be_replaced_is_told_with_its_place(text, said):
    with pytest.raises(ComposeError) as refused:
        put_in(text)
    assert str(refused.value).startswith("services.web.image: ")
    assert said in str(refused.value)


def test_values_are_replaced_at_any_depth_and_keys_are_not():
    document = {"a": ["$SET", {"$SET": "$SET", "n": 1, "b": True, "z": None}]}
    assert Interpolation(ENVIRONMENT).apply(document) == {
        "a": ["value", {"$SET": "value", "n": 1, "b": True, "z": None}]
    }
    with pytest.raises(ComposeError, match=r"a\[1\]\.b: "):
        Interpolation({}).apply({"a": [1, {"b": "${X?no}"}]})


def test_only_texts_with_variables_may_become_numbers():
    assert isinstance(put_in("$SET"), Substituted)
    assert not isinstance(put_in("80"), Substituted)


def test_what_variables_blow_a_file_up_to_is_bounded():
    interpolation = Interpolation({"LONG": "x" * (INTERPOLATED_CHARS_MAX // 4)})
    with pytest.raises(ComposeError, match=r"a\[4\]: the file is too large with its variables"):
        interpolation.apply({"a": ["$LONG"] * 5})
    with pytest.raises(ComposeError, match="too large"):
        interpolation.apply("$LONG" * 100_000, "a")


def test_the_authors_own_parts_are_left_alone(compose):
    """Docker puts variables into services, networks and volumes only."""
    text = """
x-price: 5$ a day
x-common: &common {image: "img:$TAG"}
services: {web: *common}
"""
    assert compose(text, environment={"TAG": "2"}).services["web"]["image"] == "img:2"
