"""The files of a stack on the disk, and on standard input."""

import posixpath
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from essaim_cli.compose.document import TEXT_BYTES_MAX, read_document
from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.loading import Compose, load
from essaim_shared.limits import CONFIG_BYTES_MAX

STDIN = "-"
FILES_MAX = 64


def load_files(
    names: Sequence[str], environment: Mapping[str, str], *, is_interpolated: bool = True
) -> Compose:
    """What the compose files of these names say together; `-` is standard input. Raises
    ComposeError."""
    if not names:
        raise ComposeError("", "specify a Compose file (with --compose-file)")
    if len(names) > FILES_MAX:
        raise ComposeError("", f"{len(names)} Compose files are too many: {FILES_MAX} at most")
    directory = Path.cwd() if names[0] == STDIN else Path(names[0]).absolute().parent
    documents = [_document(name) for name in names]
    return load(
        documents,
        posixpath.normpath(directory),
        environment,
        _read_text,
        is_interpolated=is_interpolated,
    )


def _document(name: str) -> dict[str, Any]:
    try:
        if name == STDIN:
            source = sys.stdin.buffer.read(TEXT_BYTES_MAX + 1)
        else:
            with Path(name).open("rb") as file:
                source = file.read(TEXT_BYTES_MAX + 1)
    except OSError as error:
        raise ComposeError("", f"open {name}: {error.strerror or error}") from error
    try:
        return read_document(source)
    except ComposeError as error:
        raise ComposeError("", f"{name}: {error}") from error


def read_payload(path: str) -> bytes:
    """What is in the file of a secret or config; one byte more than any may have is read, for the
    masters to refuse. Raises OSError."""
    with Path(path).open("rb") as file:
        return file.read(CONFIG_BYTES_MAX + 1)


def _read_text(path: str) -> str:
    with Path(path).open("rb") as file:
        source = file.read(TEXT_BYTES_MAX + 1)
    if len(source) > TEXT_BYTES_MAX:
        raise ValueError(f"the file is larger than {TEXT_BYTES_MAX >> 20} MiB")
    return source.decode()
