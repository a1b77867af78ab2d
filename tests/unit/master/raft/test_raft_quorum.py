"""Majorities, of one set of voters and of two at once."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from essaim_master.raft import quorum
from essaim_master.raft.messages import Configuration
from essaim_master.raft.quorum import VoteResult

VOTERS = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("voters", "match", "expected"),
    [
        ("a", {"a": 5}, 5),
        ("ab", {"a": 5, "b": 3}, 3),
        ("abc", {"a": 5, "b": 3, "c": 1}, 3),
        ("abc", {"a": 5}, 0),
        ("abcd", {"a": 9, "b": 8, "c": 7, "d": 6}, 7),
        ("abcde", {"a": 9, "b": 8, "c": 7, "d": 6, "e": 5}, 7),
        ("abc", {"a": 1, "b": 1, "c": 1, "learner": 9}, 1),
    ],
)
def test_the_committed_index_is_what_a_majority_holds(voters, match, expected):
    assert quorum.committed_index(Configuration(tuple(voters)), match) == expected


def test_a_joint_configuration_needs_both_majorities():
    joint = Configuration(("a", "b", "c"), voters_outgoing=("c", "d", "e"))
    assert quorum.committed_index(joint, {"a": 9, "b": 9, "c": 9}) == 0
    assert quorum.committed_index(joint, {"a": 9, "b": 9, "c": 7, "d": 8}) == 7
    new = {"a": True, "b": True}
    assert quorum.vote_result(joint, new) is VoteResult.PENDING
    assert quorum.vote_result(joint, {**new, "d": True, "e": True}) is VoteResult.WON
    assert quorum.vote_result(joint, {**new, "d": False, "e": False}) is VoteResult.LOST


@pytest.mark.parametrize(
    ("voters", "votes", "expected"),
    [
        ("a", {}, VoteResult.PENDING),
        ("a", {"a": True}, VoteResult.WON),
        ("ab", {"a": True, "b": False}, VoteResult.LOST),
        ("abc", {"a": True, "b": False}, VoteResult.PENDING),
        ("abc", {"a": True, "b": True}, VoteResult.WON),
        ("abc", {"a": False, "b": False}, VoteResult.LOST),
        ("abcd", {"a": True, "b": True}, VoteResult.PENDING),
        ("abcd", {"a": True, "b": True, "c": False, "d": False}, VoteResult.LOST),
        ("abc", {"a": True, "learner": True, "other": True}, VoteResult.PENDING),
    ],
)
def test_a_vote_is_won_lost_or_open(voters, votes, expected):
    assert quorum.vote_result(Configuration(tuple(voters)), votes) is expected


configurations = st.builds(
    Configuration,
    st.sets(st.sampled_from(VOTERS), min_size=1).map(tuple),
    st.sets(st.sampled_from(VOTERS)).map(tuple),
    st.just(("learner",)),
)


@given(configurations, st.dictionaries(st.sampled_from((*VOTERS, "learner")), st.integers(0, 9)))
def test_the_committed_index_is_the_highest_that_quorums_hold(configuration, match):
    """By its definition: some quorum of each set holds it, and none holds the next."""
    committed = quorum.committed_index(configuration, match)

    def is_held(index: int) -> bool:
        holders = {name for name in match if match[name] >= index}
        return quorum.has_quorum(configuration, holders)

    assert committed == 0 or is_held(committed)
    assert not is_held(committed + 1)


@given(configurations)
def test_any_two_quorums_meet(configuration):
    everybody = quorum.members(configuration)
    groups = [
        set(group)
        for size in range(len(everybody) + 1)
        for group in itertools.combinations(everybody, size)
        if quorum.has_quorum(configuration, group)
    ]
    voters = {*configuration.voters, *configuration.voters_outgoing}
    assert all(one & other & voters for one in groups for other in groups)


def test_members_are_listed_once():
    joint = Configuration(("a", "b"), voters_outgoing=("b", "c"), learners=("d",))
    assert quorum.members(joint) == ("a", "b", "c", "d")
    assert [name for name in "abcde" if quorum.is_voter(joint, name)] == ["a", "b", "c"]
