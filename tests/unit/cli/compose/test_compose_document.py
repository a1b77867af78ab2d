"""YAML as Docker's client reads it, and what is refused before it costs anything."""

import pytest

from essaim_cli.compose.document import (
    DEPTH_MAX,
    TEXT_BYTES_MAX,
    read_document,
    write_document,
)
from essaim_cli.compose.errors import ComposeError


def value_of(text):
    return read_document(f"key: {text}\n".encode())["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22:22", "22:22"),
        ("1:30:45", "1:30:45"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("", None),
        ("~", None),
        ("null", None),
        ("'~'", "~"),
        ("80", 80),
        ("-1", -1),
        ("010", 8),
        ("0o17", 15),
        ("0x1f", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("'80'", "80"),
        ("!!str 80", "80"),
        ("! 80", "80"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("08", 8.0),
        ("9" * 30, 1e30),
        ("9" * 400, "9" * 400),
        (".inf", ".inf"),
        ("2026-11-28", "2026-11-28"),
        ("3.8", 3.8),
        ("a_b", "a_b"),
        ("[a, 1]", ["a", 1]),
        ("{a: 1}", {"a": 1}),
        ("|\n  two\n  lines", "two\nlines\n"),
        ("'<<'", "<<"),
    ],
)
def test_a_scalar_means_what_dockers_client_takes_it_for(text, value):
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


def test_anchors_and_merge_keys():
    document = read_document(
        b"""
x-base: &base {image: app, user: nobody}
x-more: &more {user: root, tty: true}
services:
  one: {<<: *base, image: other}
  two: {<<: [*base, *more]}
  three: *base
"""
    )
    assert document["services"] == {
        "one": {"image": "other", "user": "nobody"},
        "two": {"image": "app", "user": "nobody", "tty": True},
        "three": {"image": "app", "user": "nobody"},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "top-level object must be a mapping"),
        ("- a", "top-level object must be a mapping"),
        ("a: 1\nb: 2\na: 3", 'yaml: line 3: mapping key "a" already defined at line 1'),
        ("a: 1\n'a': 3", 'yaml: line 2: mapping key "a" already defined at line 1'),
        ("1: a", "yaml: line 1: the key 1 is not text: put it in quotes"),
        ("true: a", "yaml: line 1: the key True is not text"),
        ("~: a", "yaml: line 1: the key None is not text"),
        ("{a: 1}: b", "yaml: line 1: a list or mapping cannot be a key"),
        ("a: b\n---\nc: d", "yaml: line 2: a second document begins"),
        ("a: *nowhere", "yaml: line 1: unknown anchor 'nowhere' referenced"),
        ("a: &a [*a]", "yaml: line 1: anchor 'a' value contains itself"),
        ("a: &a {b: *a}", "yaml: line 1: anchor 'a' value contains itself"),
        ("a: !!python/object:os.system x", "the tag tag:yaml.org,2002:python/object:os.system"),
        ("a: !reset []", "yaml: line 1: the tag !reset is not understood"),
        ("a: !!binary aGk=", "yaml: line 1: the tag tag:yaml.org,2002:binary is not"),
        ("<<: 3", "yaml: line 1: map merge requires map or sequence of maps"),
        ("<<: [{a: 1}, 2]", "yaml: line 1: map merge requires map or sequence of maps"),
        ("a: [", "yaml: line "),
        ("a:\n\t- b", "yaml: line 2: "),
        ("a: 'b", "yaml: line "),
        ("a: \x07", "yaml: "),
    ],
)
def test_what_is_no_compose_file_is_refused_in_a_line(text, said):
    with pytest.raises(ComposeError) as refused:
        read_document(text.encode())
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text():
    with pytest.raises(ComposeError, match="yaml: byte 3 is not UTF-8"):
        read_document(b"a: \xff")
    assert read_document("\ufeffa: é".encode()) == {"a": "é"}


BILLION_LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 30)
)
MERGE_BOMB = "m0: &m0 {a: lol, b: lol}\n" + "".join(
    f"m{level}: &m{level} {{x: *m{level - 1}, y: *m{level - 1}, <<: *m{level - 1}}}\n"
    for level in range(1, 60)
)


LONG_TEXT = f"a: &a {'x' * 500_000}\nb: [*a, *a, *a, *a, *a]"


@pytest.mark.parametrize("text", [BILLION_LAUGHS, MERGE_BOMB, LONG_TEXT])
def test_aliases_count_with_all_that_they_stand_for(text):
    with pytest.raises(ComposeError, match="too large with its aliases written out"):
        read_document(text.encode())


def test_size_and_depth_are_bounded():
    with pytest.raises(ComposeError, match="larger than 1 MiB"):
        read_document(b"#" * (TEXT_BYTES_MAX + 1))
    with pytest.raises(ComposeError, match=f"nested deeper than {DEPTH_MAX} levels"):
        read_document(b"a: " + b"[" * (DEPTH_MAX + 1))
    with pytest.raises(ComposeError):
        read_document(b"a: " + b"[" * 100_000)


def test_what_is_written_is_read_as_the_same():
    value = {
        "b": ["true", "yes", "22:22", "010", None, 1, 1.5, True, ""],
        "a": {"text": "two\nlines\n", "empty": {}, "none": [], "ünï": "ö"},
    }
    shared = [value["a"], value["a"]]
    text = write_document({**value, "shared": shared})
    assert "&" not in text
    assert text.startswith("b:\n  - 'true'\n")
    assert read_document(text.encode()) == {**value, "shared": shared}
