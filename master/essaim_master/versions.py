"""How masters of two builds work together: the cluster version. Pure.

Every master announces the newest version that it speaks (`/member_builds/ID`); the leader raises
the cluster's version (`/cluster/version`) to the least of them. Whatever a build adds to the log,
a command or a field with a meaning, gets a number here and is written only from that version on.
A build speaks its own version and the one before, so a cluster is updated one master at a time,
one version at a time, and nothing is lost while both are there.

To add something that older builds do not know: raise CLUSTER_VERSION by one if the last release
has the present number, add a Feature with that number, and ask `is_enabled` before writing.
"""

from collections.abc import Iterable
from enum import IntEnum

from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId
from essaim_shared.objects import MemberBuild

CLUSTER_VERSION = 1
"""The newest version that this build speaks."""


class Feature(IntEnum):
    """The number is the cluster version from which on it may be written."""

    HASH_CHECKS = 1
    USER_KEYS = 1
    """Leases, ranges, compares and compacting in transactions: `/essaim/kv`."""
    SESSIONS = 1
    """Of the clients of the native key-value protocol."""


def is_enabled(cluster_version: int, feature: Feature) -> bool:
    return cluster_version >= feature


def common_version(present: int, members: Iterable[MemberId], builds: Iterable[MemberBuild]) -> int:
    """What the cluster's version should be: the newest that every member announces, and never
    less than it is. A member that announced nothing keeps it where it is."""
    announced = {build.id: build.version for build in builds}
    versions = [announced.get(member) for member in members]
    known = [version for version in versions if version is not None]
    if not versions or len(known) < len(versions):
        return present
    return max(present, min(known))


def check_speaks(cluster_version: int, own: int = CLUSTER_VERSION) -> None:
    """Raises ConfigError when this build and the cluster are more than one version apart."""
    if cluster_version > own:
        raise ConfigError(
            f"the cluster is at version {cluster_version}, this build of essaim-master speaks "
            f"{own} and older: install the version that the other masters run"
        )
    if 0 < cluster_version < own - 1:
        raise ConfigError(
            f"the cluster is at version {cluster_version}, this build of essaim-master speaks "
            f"{own - 1} and {own}: update the masters one version at a time"
        )
