"""The life of the process: as a member, standing by, and from one to the other.

Each phase has an event loop of its own, so nothing of the one before is left in it.
"""

import asyncio
import gc
import logging
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from essaim_master.config import MasterConfig, MemberConfig
from essaim_master.errors import MemberRemoved
from essaim_master.main import run_master
from essaim_master.standby.names import draw_name
from essaim_master.standby.record import StandbyFiles, StandbyRecord, Start, decide_start
from essaim_master.standby.waiting import stand_by
from essaim_master.state.cluster import Member
from essaim_shared.errors import ConfigError
from essaim_shared.ids import MemberId

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


def run_process(config: MasterConfig) -> None:
    """Run until a signal. Raises ConfigError when the master cannot start or must not go on."""
    if not config.standby:
        asyncio.run(run_master(config))
        return
    files, rng = StandbyFiles(Path(config.data_dir)), random.Random()
    while True:
        record, start = _on_disk(config, partial(_next_start, config, files, rng))
        if start is Start.STANDING_BY:
            if not asyncio.run(stand_by(config, files, record)):
                return
            continue
        try:
            asyncio.run(run_master(member_config(config, record, start)))
            return
        except MemberRemoved as removed:
            known = removed.others or record.members
            gone = removed.member_id
        gc.unfreeze()  # what the member held goes
        _log.warning("master %s was removed from the cluster: this host stands by now", gone)
        fresh = StandbyRecord(draw_name(config.member_id, rng), members=known)
        _on_disk(config, partial(files.write, fresh))


def member_config(config: MasterConfig, record: StandbyRecord, start: Start) -> MasterConfig:
    """What this master runs with as a member."""
    if start is Start.AS_CONFIGURED:
        return msgspec.structs.replace(config, join=not _is_first(config))
    known: tuple[Member, ...] = record.members or config.first_members
    others = tuple(
        MemberConfig(member.id, member.raft, member.http)
        for member in known
        if member.id != record.member_id and member.raft != config.raft_listen
    )
    return msgspec.structs.replace(
        config,
        member_id=record.member_id,
        join=True,
        incarnation=record.incarnation or config.incarnation,
        members=others,
    )


def _next_start(
    config: MasterConfig, files: StandbyFiles, rng: random.Random
) -> tuple[StandbyRecord, Start]:
    """How it goes on, with the files as that needs them."""
    found = files.find()
    start = decide_start(found, _is_first(config))
    if start is Start.WITH_NEW_NAME:
        if found.record is not None:
            _log.error(
                "the log of %s is lost, so it cannot take part any more: demote its node, then "
                "promote it again",
                found.record.member_id,
            )
        members = () if found.record is None else found.record.members
        record = StandbyRecord(draw_name(config.member_id, rng), members=members)
        files.write(record)
        start = Start.STANDING_BY
    else:
        record = found.record or StandbyRecord(MemberId(config.member_id))
    if start is Start.STANDING_BY:
        files.set_log_aside()
    return record, start


def _is_first(config: MasterConfig) -> bool:
    return any(member.id == config.member_id for member in config.members)


def _on_disk(config: MasterConfig, work: Callable[[], Result]) -> Result:
    try:
        return work()
    except OSError as error:
        raise ConfigError(
            f"{config.data_dir}: cannot be used: {error.strerror or error}"
        ) from error
