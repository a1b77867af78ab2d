"""A leader and three agents for the stories that need both."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.leader_lab import Lab


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    made = Lab(tmp_path)
    await made.start()
    yield made
    await made.close()
