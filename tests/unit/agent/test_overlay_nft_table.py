"""Tables of nftables as values: an increment leads where loading the whole table leads."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_agent.overlay.nft_table import (
    Chain,
    Set,
    Table,
    differences,
    increment,
    listed_elements,
    whole,
)

Model = tuple[dict[str, tuple[str, ...]], dict[str, dict[str, str]]]
"""Rules by chain, elements by set."""


class Kernel:
    """Carries scripts out as nftables does: what is not there cannot be changed, and a chain that
    something leads to cannot be deleted."""

    def __init__(self) -> None:
        self.chains: dict[str, list[str]] = {}
        self.sets: dict[str, dict[str, str]] = {}

    def load(self, script: str) -> None:
        inside = ""
        for line in script.splitlines():
            text = line.strip()
            if re.fullmatch(r"table ip t( \{)?", text) or text == "}":
                inside = "" if text == "}" and line.startswith("  ") else inside
            elif text == "delete table ip t":
                self.chains, self.sets = {}, {}
            elif match := re.fullmatch(r"chain (\S+) \{", text):
                inside = match[1]
                self.chains[inside] = []
            elif match := re.fullmatch(r"(?:set|map) (\S+) \{ typeof .*; \}", text):
                self.sets[match[1]] = {}
            elif inside:
                self.chains[inside] += [] if text.startswith("type ") else [text]
            else:
                self._command(text)
        self._no_loose_ends()

    def _command(self, text: str) -> None:
        verb, what, rest = re.fullmatch(r"(\w+) (\w+) ip t (.+)", text).groups()  # type: ignore[union-attr]
        name, _, body = rest.partition(" ")
        match verb, what:
            case "add", "chain":
                self.chains.setdefault(name, [])
            case "flush", "chain":
                self.chains[name].clear()
            case "delete", "chain":
                del self.chains[name]
            case "add", "rule":
                self.chains[name].append(body)
            case (("add" | "delete"), "element"):
                for element in body.strip("{} ").split(", "):
                    key, _, value = element.partition(" : ")
                    if verb == "delete":
                        del self.sets[name][key]
                    else:
                        assert key not in self.sets[name]
                        self.sets[name][key] = value
            case _:
                raise AssertionError(text)

    def _no_loose_ends(self) -> None:
        for elements in self.sets.values():
            for value in elements.values():
                assert not value or value.removeprefix("goto ") in self.chains
        assert all(
            rule.removeprefix("goto ") in self.chains
            for rules in self.chains.values()
            for rule in rules
            if rule.startswith("goto ")
        )

    @property
    def model(self) -> Model:
        return {name: tuple(rules) for name, rules in self.chains.items()}, self.sets


def model_of(table: Table) -> Model:
    if not table.chains:
        return {}, {}
    return (
        {name: chain.rules for name, chain in table.chains.items()},
        {name: dict(declared.elements) for name, declared in table.sets.items()},
    )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    services = draw(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), max_size=6))
    if not services and draw(st.booleans()):
        return Table("t")
    chains = {f"c-{name}": Chain((f"rule {number}",)) for name, number in services.items()}
    hook = draw(st.sampled_from(["nat hook prerouting priority -1", "nat hook input priority 2"]))
    chains["base"] = Chain(tuple(f"goto c-{name}" for name in sorted(services)[:2]), hook)
    elements = {f"{draw(st.integers(1, 3))}.{name}": f"goto c-{name}" for name in sorted(services)}
    return Table("t", chains, {"m": Set("ip daddr : verdict", elements)})


@given(st.lists(tables(), min_size=1, max_size=6))
def test_increments_lead_where_loading_anew_leads(history: list[Table]) -> None:
    kernel = Kernel()
    kernel.load(whole(history[0]))
    for held, wanted in pairwise(history):
        kernel.load(increment(held, wanted))
        assert kernel.model == model_of(wanted)


@given(tables())
def test_nothing_is_loaded_when_nothing_differs(table: Table) -> None:
    assert increment(table, table) == ""


def table(rules: dict[str, str], elements: dict[str, str]) -> Table:
    base = Chain((), "nat hook prerouting priority -1")
    chains = {name: Chain((rule,)) for name, rule in rules.items()}
    return Table("t", {**chains, "base": base}, {"m": Set("ip daddr : verdict", elements)})


def test_one_changed_chain_is_all_that_a_script_mentions() -> None:
    many = {f"c{i}": f"rule {i}" for i in range(1000)}
    assert increment(table(many, {}), table({**many, "c5": "rule x"}, {})).splitlines() == [
        "flush chain ip t c5",
        "add rule ip t c5 rule x",
    ]


def test_what_leads_to_a_chain_goes_before_it_and_comes_after_it() -> None:
    with_it = table({"c": "rule"}, {"10.0.0.1": "goto c"})
    without = table({}, {})
    assert increment(without, with_it).splitlines() == [
        "add chain ip t c",
        "add rule ip t c rule",
        "add element ip t m { 10.0.0.1 : goto c }",
    ]
    assert increment(with_it, without).splitlines() == [
        "delete element ip t m { 10.0.0.1 }",
        "flush chain ip t c",
        "delete chain ip t c",
    ]


def test_another_hook_makes_the_whole_table_anew() -> None:
    moved = Table("t", {"base": Chain((), "nat hook output priority -1")}, table({}, {}).sets)
    assert increment(table({}, {}), moved) == whole(moved)


def test_a_table_without_chains_is_deleted_whatever_was_there() -> None:
    script = ["table ip t", "delete table ip t"]
    assert whole(Table("t")).splitlines() == script
    assert increment(table({}, {}), Table("t")).splitlines() == script
    assert increment(Table("t"), Table("t")) == ""


LISTING = """\
table ip t {
  map m {
    typeof ip daddr : verdict
    elements = { 10.0.0.1 : goto a,
                 10.0.0.2 : goto b }
  }

  chain a {
    dnat to numgen random mod 2 map { 0 : 10.1.0.1, 1 : 10.1.0.2 }
  }
}
"""


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (LISTING, []),
        ("", ["nft table t was gone"]),
        (
            LISTING.replace("mod 2", "mod 3"),
            ["lacked: chain a: dnat", "had besides: chain a: dnat"],
        ),
        (
            LISTING.replace("10.0.0.1 : goto a,\n                 ", ""),
            ["lacked: map m: 10.0.0.1 : goto a"],
        ),
        (LISTING.replace("  }\n}", "    accept\n  }\n}"), ["had besides: chain a: accept"]),
    ],
)
def test_differences_are_told_in_words(found: str, words: list[str]) -> None:
    told = differences(found, LISTING, "t", most=16)
    assert len(told) == len(words)
    assert all(word in sentence for word, sentence in zip(words, told, strict=True)), told


def test_of_many_differences_the_rest_is_counted() -> None:
    rules = [f"    rule {i}" for i in random.Random(1).sample(range(100), 50)]
    found = LISTING.replace("  }\n}", "\n".join([*rules, "  }\n}"]))
    told = differences(found, LISTING, "t", most=4)
    assert len(told) == 4
    assert told[-1] == "nft table t: 47 more differences"


SETS = """\
table ip essaim {
    set nodes {
        typeof ip daddr
        elements = { 10.97.0.1,
                 10.97.0.2 }
    }

    set internal {
        typeof iifname
        elements = { "es-b1",
                 "es-b2" }
    }

    set empty {
        typeof iifname
    }

    chain forward {
        iifname @internal drop
    }
}
"""


def test_the_elements_of_a_set_are_read_from_a_listing() -> None:
    assert listed_elements(SETS, "internal") == {"es-b1", "es-b2"}
    assert listed_elements(SETS, "nodes") == {"10.97.0.1", "10.97.0.2"}
    assert listed_elements(SETS, "empty") == frozenset()
    assert listed_elements("", "internal") == frozenset()
