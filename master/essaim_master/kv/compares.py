"""Whether the compares of a transaction hold."""

from typing import TypeVar, assert_never

from essaim_master.kv.commands import (
    Attribute,
    Compare,
    CompareAttribute,
    CompareBytes,
    CompareRevision,
    CompareValue,
    KeyValue,
    Relation,
)

Comparable = TypeVar("Comparable", int, bytes)


def holds(compare: Compare, present: KeyValue | None) -> bool:
    """`present` is what the compare's key holds, None if it does not exist."""
    match compare:
        case CompareRevision():
            return (present.modified if present else 0) == compare.modified
        case CompareValue():
            return present is not None and present.value == compare.value
        case CompareAttribute():
            number = 0 if present is None else _attribute(present, compare.attribute)
            return _related(number, compare.relation, compare.number)
        case CompareBytes():
            return present is not None and _related(present.value, compare.relation, compare.value)
        case _:
            assert_never(compare)


def _attribute(present: KeyValue, attribute: Attribute) -> int:
    match attribute:
        case Attribute.VERSION:
            return present.version
        case Attribute.CREATED:
            return present.created
        case Attribute.MODIFIED:
            return present.modified
        case Attribute.LEASE:
            return present.lease
        case _:
            assert_never(attribute)


def _related(left: Comparable, relation: Relation, right: Comparable) -> bool:
    match relation:
        case Relation.EQUAL:
            return left == right
        case Relation.NOT_EQUAL:
            return left != right
        case Relation.LESS:
            return left < right
        case Relation.GREATER:
            return left > right
        case _:
            assert_never(relation)
