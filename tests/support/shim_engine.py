"""What calls the runtime shim: an engine with a bundle, a log file and a runc that only records."""

import json
import shutil
import subprocess
from pathlib import Path

from essaim_agent import shim

CONTAINER = "3f" * 32
RUNC_EXIT = 7


class Engine:
    """`shell` is the words that stand for /bin/sh."""

    def __init__(self, directory: Path, shell: tuple[str, ...] = ("dash",)) -> None:
        self.shell = shell
        self.run_dir = directory / "run"
        self.bundle = directory / "bundle"
        self.bundle.mkdir()
        self.log = directory / "log.json"
        self.calls = directory / "calls"
        runc = directory / "runc"
        runc.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{self.calls}\nexit {RUNC_EXIT}\n')
        runc.chmod(0o755)
        self.shim = shim.install(directory / "bin", self.run_dir, runc)
        self.namespace = directory / "namespace"
        self.namespace.touch()

    def prepare(self, container: str = CONTAINER) -> None:
        shim.link_namespace(self.run_dir, container, str(self.namespace))

    def write_config(self, text: str) -> None:
        (self.bundle / "config.json").write_text(text)

    def config(self) -> dict[str, object]:
        loaded = json.loads((self.bundle / "config.json").read_text())
        assert isinstance(loaded, dict)
        return loaded

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        assert shutil.which(self.shell[0]) is not None
        return subprocess.run(
            [*self.shell, str(self.shim), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def create(self, log_format: str = "json") -> subprocess.CompletedProcess[str]:
        options = ["--root", "/run/x", "--log", str(self.log), "--log-format", log_format]
        verb = ["create", "--bundle", str(self.bundle), "--pid-file", "/p/id", CONTAINER]
        return self.run(*options, *verb)

    def runc_arguments(self) -> list[str] | None:
        return self.calls.read_text().splitlines() if self.calls.exists() else None
