"""Three masters in memory, ended without a broken assumption."""

from collections.abc import AsyncIterator

import pytest
from support.masters_in_memory import FIRST, Masters

from essaim_master.raft.messages import Configuration


@pytest.fixture
async def masters() -> AsyncIterator[Masters]:
    made = Masters()
    for member in FIRST:
        await made.start(member, Configuration(tuple(m.id for m in FIRST)))
    yield made
    for master in made.all.values():
        await master.stop()
    await made.network.close()
    assert made.fatal_errors == []
