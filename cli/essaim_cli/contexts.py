"""Contexts: clusters by name, with where their masters are and as whom they are asked.

    $XDG_CONFIG_HOME/essaim/contexts/NAME.json   one each, 0600: it may hold a token
    $XDG_CONFIG_HOME/essaim/context              the name of the current one

(`~/.config` without XDG_CONFIG_HOME.) Only `json` is imported here: every command comes by.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from essaim_cli.errors import CommandFailed

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
READ_BY_OTHERS = 0o077
FILE_BYTES_MAX = 256 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclasses.dataclass(frozen=True)
class Context:
    """Its repr does not show the token."""

    name: str
    hosts: tuple[str, ...]
    """URLs of masters; one that is lost is followed by the next."""
    token: str = dataclasses.field(default="", repr=False)
    certificate: str = ""
    """Directory of the certificate to show (`client_tls`)."""
    authorities: str = ""
    """Whom to believe (PEM), where there is no certificate whose directory says so."""


class Contexts:
    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        base = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        self._root = Path(base) / "essaim"
        self._directory = self._root / "contexts"
        self._current = self._root / "context"

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._directory.glob("*.json"))

    @property
    def current(self) -> str:
        """Empty when none was chosen."""
        try:
            return self._current.read_text().strip()
        except FileNotFoundError:
            return ""

    def read(self, name: str) -> Context:
        """Raises CommandFailed: what is missing or wrong."""
        path = self._path(name)
        try:
            mode = path.stat().st_mode
            content = path.read_bytes()[:FILE_BYTES_MAX]
        except FileNotFoundError as error:
            raise CommandFailed(
                f"there is no context {name}: see essaim context ls, or make it with essaim "
                "context create"
            ) from error
        except OSError as error:
            raise CommandFailed(f"{path}: {error.strerror or error}") from error
        if mode & READ_BY_OTHERS:
            raise CommandFailed(f"{path}: others may read it: run chmod 600 {path}")
        try:
            fields: dict[str, Any] = json.loads(content)
            return Context(name, tuple(fields.pop("hosts")), **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CommandFailed(f"{path}: damaged: make the context again") from error

    def write(self, context: Context) -> None:
        """Replaces one of the same name. Raises CommandFailed."""
        fields = dataclasses.asdict(context)
        del fields["name"]
        self._write(self._path(context.name), json.dumps(fields, indent=1) + "\n")

    def use(self, name: str) -> None:
        """Empty: none. Raises CommandFailed."""
        if name:
            self.read(name)
            self._write(self._current, name + "\n")
        else:
            self._current.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Raises CommandFailed."""
        path = self._path(name)
        if not path.exists():
            raise CommandFailed(f"there is no context {name}")
        path.unlink()
        if self.current == name:
            self.use("")

    def _path(self, name: str) -> Path:
        if _NAME.fullmatch(name) is None:
            raise CommandFailed(
                f"{name[:80]!r} is no name of a context: letters, digits, dots, - and _"
            )
        return self._directory / f"{name}.json"

    def _write(self, path: Path, text: str) -> None:
        """Whole, and never readable by others, not even for a moment."""
        new = path.with_name(f"{path.name}.new")
        try:
            for directory in (self._root, self._directory):
                directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            new.replace(path)
        except OSError as error:
            raise CommandFailed(f"cannot write {path}: {error.strerror or error}") from error
