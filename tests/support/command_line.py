"""Our own command line, run as a user runs it."""

import asyncio
import os
import sys


async def run_essaim(host: str, *arguments: str, limit_s: float) -> tuple[int, str, str]:
    """Exit code, stdout, stderr; asked is the master at `host`, a URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "essaim_cli",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ESSAIM_HOST": host},
    )
    out, err = await asyncio.wait_for(process.communicate(), limit_s)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
