"""When the cluster's version is raised, and which build may take part."""

import pytest

from essaim_master.versions import Feature, check_speaks, common_version, is_enabled
from essaim_shared.errors import ConfigError
from essaim_shared.objects import MemberBuild


def builds(**versions: int) -> list[MemberBuild]:
    return [MemberBuild(id=name, version=version) for name, version in versions.items()]


@pytest.mark.parametrize(
    ("present", "announced", "expected"),
    [
        (0, {"m1": 1, "m2": 1, "m3": 1}, 1),
        (0, {"m1": 1, "m2": 1}, 0),  # One says nothing: it may be of an older build.
        (1, {"m1": 2, "m2": 2, "m3": 1}, 1),
        (1, {"m1": 2, "m2": 2, "m3": 2}, 2),
        (2, {"m1": 1, "m2": 2, "m3": 2}, 2),  # It never shrinks.
        (1, {"m1": 2, "m2": 2, "m3": 2, "gone": 1}, 2),  # Who left is not asked.
    ],
)
def test_the_version_is_the_newest_that_every_member_announces(
    present, announced, expected
) -> None:
    assert common_version(present, ("m1", "m2", "m3"), builds(**announced)) == expected


def test_without_members_nothing_is_concluded() -> None:
    assert common_version(1, (), builds(m1=7)) == 1


@pytest.mark.parametrize("cluster_version", [0, 4, 5])
def test_a_build_speaks_its_version_and_the_one_before(cluster_version) -> None:
    check_speaks(cluster_version, own=5)


@pytest.mark.parametrize(
    ("cluster_version", "sentence"),
    [(6, "install the version that the other masters run"), (3, "one version at a time")],
)
def test_a_build_that_is_too_far_away_does_not_take_part(cluster_version, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_speaks(cluster_version, own=5)


def test_a_feature_is_written_from_its_version_on() -> None:
    assert not is_enabled(0, Feature.HASH_CHECKS)
    assert is_enabled(1, Feature.HASH_CHECKS)
