"""Running other programs to their end, with a bound on time and a readable refusal."""

import asyncio
from collections.abc import Sequence

from essaim_cli.lab.errors import LabError

COMMAND_TIMEOUT_S = 20.0
"""No command of the lab takes a second on a quiet machine."""


async def run_command(
    command: Sequence[str], *, input_text: str = "", timeout_s: float = COMMAND_TIMEOUT_S
) -> str:
    """Standard output of `command`. LabError with the last line of its complaint if it failed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not installed: run `make up`, which installs it") from None
    try:
        output, complaint = await asyncio.wait_for(
            process.communicate(input_text.encode()), timeout_s
        )
    except TimeoutError:
        process.kill()
        await process.wait()
        raise LabError(f"`{' '.join(command)}` did not end within {timeout_s:g} s") from None
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {process.returncode}"
        raise LabError(f"`{' '.join(command)}` failed: {reason}")
    return output.decode(errors="replace")
