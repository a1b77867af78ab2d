"""A founded cluster of one master in memory."""

from pathlib import Path

import pytest
from support.founded_cluster import FoundedCluster


@pytest.fixture
async def founded(tmp_path: Path) -> FoundedCluster:
    made = FoundedCluster(tmp_path)
    await made.found()
    return made
