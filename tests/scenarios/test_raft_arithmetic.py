"""The arithmetic of members and majorities as scripts: testdata/raft_members and raft_quorum.

A line `$ command` is followed by its expected output; `ESSAIM_REWRITE=1` writes what came instead.

    $ members 1 2 3 + 4          the configuration to start from; learners behind a plus
    $ add 5 | promote 4 | remove 1    one change: the configuration after it, or why not
    $ committed 1 2 / 2 3 : 1=5 2=7   what a quorum acknowledged; voters before / voters after
    $ vote 1 2 3 : 1=yes 2=no         how an election stands
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.text_scripts import check_script, played

from essaim_master.raft import configurations, membership, quorum
from essaim_master.raft.errors import MembershipRefused
from essaim_master.raft.messages import Configuration
from essaim_shared.ids import MemberId

TESTDATA = Path(__file__).parent / "testdata"
SCRIPTS = sorted([*TESTDATA.glob("raft_members/*.txt"), *TESTDATA.glob("raft_quorum/*.txt")])
CHANGES: dict[str, Callable[[MemberId], membership.ConfigurationChange]] = {
    "add": membership.AddLearner,
    "promote": membership.PromoteLearner,
    "remove": membership.RemoveMember,
}


def names(text: str) -> tuple[MemberId, ...]:
    return tuple(MemberId(name) for name in text.split())


def configuration_of(text: str) -> Configuration:
    """`1 2 + 3`, or `2 3 / 1 2` in a joint change: incoming voters / outgoing ones."""
    both, _, learners = text.partition("+")
    voters, _, outgoing = both.partition("/")
    return Configuration(names(voters), names(outgoing), names(learners))


def text_of(configuration: Configuration) -> str:
    text = " ".join(configuration.voters)
    if configuration.voters_outgoing:
        text += " / " + " ".join(configuration.voters_outgoing)
    if configuration.learners:
        text += " + " + " ".join(configuration.learners)
    return text


class Script:
    def __init__(self) -> None:
        self.configuration = Configuration(())

    def run(self, line: str) -> str:
        command, _, rest = line.partition(" ")
        if command in CHANGES:
            return self.change(CHANGES[command](MemberId(rest.strip())))
        subject, _, facts = rest.partition(":")
        said = dict(fact.split("=", 1) for fact in facts.split())
        self.configuration = configuration_of(subject)
        match command:
            case "members":
                return text_of(self.configuration)
            case "committed":
                acknowledged = {MemberId(name): int(index) for name, index in said.items()}
                index = quorum.committed_index(self.configuration, acknowledged)
                return "everything" if index == quorum.INDEX_MAX else str(index)
            case "vote":
                votes = {MemberId(name): answer == "yes" for name, answer in said.items()}
                return quorum.vote_result(self.configuration, votes).value
            case _:
                raise AssertionError(f"no such command: {line}")

    def change(self, change: membership.ConfigurationChange) -> str:
        """What comes of it, after a journey through the log; the old quorums meet the new ones."""
        try:
            after = membership.changed(self.configuration, change)
        except MembershipRefused as error:
            return f"refused: {error}"
        after = configurations.decode(configurations.encode(after))
        assert len(set(after.voters) ^ set(self.configuration.voters)) <= 1
        self.configuration = after
        return text_of(after)


def replay(text: str) -> str:
    script = Script()
    return played(text, lambda command: [script.run(command)])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    check_script(path, replay)


def test_a_wrong_expectation_is_noticed() -> None:
    assert replay("$ vote 1 2 3 : 1=yes\nwon\n") != "$ vote 1 2 3 : 1=yes\nwon\n"
