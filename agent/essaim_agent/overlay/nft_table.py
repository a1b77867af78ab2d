"""A table of nftables as a value, and the scripts that lead from one to another. Pure.

A driver loads a script in one transaction: packets see the table before or the table after it.
What cannot be changed in place (a hook, the type of a set) makes the whole table anew, which
connections under way do not notice: the kernel remembers how it translates them.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

FAMILY = "ip"

ELEMENTS_PER_COMMAND_MAX = 500


class Chain(msgspec.Struct, frozen=True):
    rules: tuple[str, ...]
    hook: str = ""
    """`TYPE hook HOOK priority NUMBER`; empty for a chain that others go to."""


class Set(msgspec.Struct, frozen=True):
    """A set, or a map when its elements have values."""

    type: str
    """By expressions, `iifname . ip daddr`, with `: verdict` for a map of verdicts."""
    elements: Mapping[str, str]
    """Key and value; the value is empty in a set."""

    @property
    def keyword(self) -> str:
        return "map" if ":" in self.type else "set"


class Table(msgspec.Struct, frozen=True):
    """Without chains it is not there at all."""

    name: str
    chains: Mapping[str, Chain] = {}
    sets: Mapping[str, Set] = {}


def whole(table: Table) -> str:
    """The table anew, whatever was there; or none."""
    name = f"{FAMILY} {table.name}"
    # Declaring the table first makes the deletion succeed where there was none.
    lines = [f"table {name}", f"delete table {name}"]
    if table.chains:
        lines.append(f"table {name} {{")
        for set_name, declared in table.sets.items():
            lines.append(f"  {declared.keyword} {set_name} {{ typeof {declared.type}; }}")
        for chain_name, chain in table.chains.items():
            lines.append(f"  chain {chain_name} {{")
            if chain.hook:
                lines.append(f"    type {chain.hook}; policy accept;")
            lines += [f"    {rule}" for rule in chain.rules]
            lines.append("  }")
        lines.append("}")
        for set_name, declared in table.sets.items():
            lines += _elements("add", table.name, set_name, declared.elements)
    return "\n".join(lines) + "\n"


def increment(held: Table, wanted: Table) -> str:
    """From one table to another of the same name, mentioning only what differs; empty when
    nothing does."""
    if held == wanted or not (held.chains or wanted.chains):
        return ""
    if not wanted.chains or not held.chains or _is_made_anew(held, wanted):
        return whole(wanted)
    name = f"{FAMILY} {wanted.name}"
    gone = [chain for chain in held.chains if chain not in wanted.chains]
    changed = [
        chain
        for chain, want in wanted.chains.items()
        if (have := held.chains.get(chain)) is not want and have != want
    ]
    # Chains are there before anything leads to them, and nothing leads to one that goes.
    lines = [
        f"flush chain {name} {chain}" if chain in held.chains else f"add chain {name} {chain}"
        for chain in changed
    ]
    for set_name, declared in wanted.sets.items():
        loaded = held.sets[set_name].elements
        outdated = {k: "" for k, value in loaded.items() if declared.elements.get(k) != value}
        lines += _elements("delete", wanted.name, set_name, outdated)
    for chain in changed:
        lines += [f"add rule {name} {chain} {rule}" for rule in wanted.chains[chain].rules]
    for set_name, declared in wanted.sets.items():
        loaded = held.sets[set_name].elements
        missing = {k: v for k, v in declared.elements.items() if loaded.get(k) != v}
        lines += _elements("add", wanted.name, set_name, missing)
    # Those that are gone may lead to each other.
    lines += [f"flush chain {name} {chain}" for chain in gone]
    lines += [f"delete chain {name} {chain}" for chain in gone]
    return "\n".join(lines) + "\n" if lines else ""


def _is_made_anew(held: Table, wanted: Table) -> bool:
    if {name: s.type for name, s in held.sets.items()} != {
        name: s.type for name, s in wanted.sets.items()
    }:
        return True
    return _hooks(held) != _hooks(wanted)


def _hooks(table: Table) -> dict[str, str]:
    return {name: chain.hook for name, chain in table.chains.items() if chain.hook}


def _elements(verb: str, table: str, set_name: str, elements: Mapping[str, str]) -> Iterator[str]:
    listed = [f"{key} : {value}" if value else key for key, value in elements.items()]
    for start in range(0, len(listed), ELEMENTS_PER_COMMAND_MAX):
        part = ", ".join(listed[start : start + ELEMENTS_PER_COMMAND_MAX])
        yield f"{verb} element {FAMILY} {table} {set_name} {{ {part} }}"


def differences(found: str, right: str, table: str, most: int) -> tuple[str, ...]:
    """In words: what a listing of a table has too much and lacks, compared with a right one."""
    if found == right:
        return ()
    if not found:
        return (f"nft table {table} was gone",)
    have, want = _listed(found), _listed(right)
    words = [
        *(f"nft table {table} lacked: {line}" for line in _without(want, have)),
        *(f"nft table {table} had besides: {line}" for line in _without(have, want)),
    ]
    if len(words) > most:
        words = [*words[: most - 1], f"nft table {table}: {len(words) - most + 1} more differences"]
    return tuple(words)


def listed_elements(listing: str, set_name: str) -> frozenset[str]:
    """Of one set of a table that nft listed; unquoted."""
    is_inside = False
    for line in _unwrapped(listing):
        if line.endswith("{"):
            is_inside = line == f"set {set_name} {{"
        elif is_inside and line.startswith("elements = {"):
            inner = line.removeprefix("elements = {").removesuffix("}")
            return frozenset(element.strip().strip('"') for element in inner.split(","))
    return frozenset()


def _listed(listing: str) -> dict[str, int]:
    """Rules with their chains and elements with their sets, counted, for a rule can stand twice."""
    counted: dict[str, int] = {}
    place = ""
    for line in _unwrapped(listing):
        kind, _, rest = line.partition(" ")
        if kind in ("chain", "map", "set") and line.endswith("{"):
            place = f"{kind} {rest.removesuffix('{').strip()}"
            words = [place]
        elif line.startswith("elements = {"):
            inner = line.removeprefix("elements = {").removesuffix("}")
            words = [f"{place}: {element.strip()}" for element in inner.split(",")]
        else:
            words = [f"{place}: {line}"] if line not in ("}", "") else []
        for word in words:
            counted[word] = counted.get(word, 0) + 1
    return counted


def _unwrapped(listing: str) -> Iterator[str]:
    """nft breaks long lists of elements over lines, each but the last ending in a comma."""
    begun = ""
    for line in listing.splitlines():
        begun = f"{begun} {line.strip()}".strip()
        if not begun.endswith(","):
            yield begun
            begun = ""
    if begun:
        yield begun


def _without(counted: Mapping[str, int], others: Mapping[str, int]) -> Iterable[str]:
    return sorted(word for word, count in counted.items() if others.get(word, 0) < count)
