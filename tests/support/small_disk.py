"""A disk that is too small, for one master of a lab."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.lab_cluster import Cluster, lab_command

from essaim_cli.lab.external import run_command
from essaim_cli.lab.topology import Host

FILLER = "filler"


def fill(directory: Path) -> None:
    """Leave no byte free; what is written stays written."""
    block = bytes(64 * 1024)
    with (directory / FILLER).open("wb", buffering=0) as file:
        for size in (len(block), 4096, 1):
            # The file system says how much it takes: a short write, and then none.
            try:
                while file.write(block[:size]) == size:
                    pass
            except OSError:
                continue


@asynccontextmanager
async def on_a_small_disk(cluster: Cluster, host: Host, room_bytes: int) -> AsyncIterator[Path]:
    """The master of `host` runs on a file system with so much room beside what it holds, until the
    block ends. That is taken along both ways; in the end it runs on its own disk again."""
    directory = host.data_dir / "master"
    aside = host.data_dir / "master-aside"
    await cluster.lab("kill", host.name, "master")
    held_bytes = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    directory.rename(aside)
    directory.mkdir()
    options = f"size={held_bytes + room_bytes},mode=700"
    await run_command(["mount", "-t", "tmpfs", "-o", options, "essaim-test", str(directory)])
    try:
        shutil.copytree(aside, directory, dirs_exist_ok=True)
        await cluster.lab("start", host.name, "master")
        yield directory
    finally:
        await _move_back(cluster, host, directory, aside)


async def _move_back(cluster: Cluster, host: Host, directory: Path, aside: Path) -> None:
    # It may have ended by itself: then there is nothing to kill, and the command says so.
    await cluster.run(*lab_command(cluster.topology.name, "kill", host.name, "master"))
    shutil.rmtree(aside)
    (directory / FILLER).unlink(missing_ok=True)
    shutil.copytree(directory, aside)
    await run_command(["umount", str(directory)])
    directory.rmdir()
    aside.rename(directory)
    await cluster.lab("start", host.name, "master")
