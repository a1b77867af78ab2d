"""Scripts in text: `$ command` lines with what must come of them beneath, and comments."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path


def played(text: str, run: Callable[[str], Iterable[str]]) -> str:
    """The script with the output that came, in place of the one it held. `run` carries out the
    command of a line and gives its output."""
    lines: list[str] = []
    is_output = False
    for line in text.splitlines():
        if line.startswith("$ "):
            lines += [line, *run(line[2:])]
            is_output = True
        elif not line or line.startswith("#"):
            is_output = False
            lines.append(line)
        elif not is_output:
            raise AssertionError(f"neither a command, nor its output, nor a comment: {line}")
    return "\n".join(lines) + "\n"


def check_script(path: Path, replay: Callable[[str], str]) -> None:
    """The output that a script expects is the one that comes. `ESSAIM_REWRITE=1` writes the one
    that came instead."""
    expected = path.read_text(encoding="utf-8")
    actual = replay(expected)
    if os.environ.get("ESSAIM_REWRITE") == "1":
        path.write_text(actual, encoding="utf-8")
        return
    assert actual == expected
