"""Every docker client on this machine, run against one socket."""

import asyncio
import os
import subprocess

CLIENT_TIMEOUT_S = 60


def docker_commands():
    """Each by its path: Debian's, and a newer one earlier on the PATH."""
    places = os.get_exec_path()
    found = {
        os.path.realpath(os.path.join(place, "docker"))
        for place in [*places, "/usr/bin", "/usr/local/bin"]
        if os.access(os.path.join(place, "docker"), os.X_OK)
    }
    assert found, "no docker client on this machine: install docker.io"
    return sorted(found)


async def run_docker(command, socket_path, home, *words):
    """One docker command with a home of its own; its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        command,
        *words,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "DOCKER_CONFIG": str(home / "config"),
            "DOCKER_HOST": f"unix://{socket_path}",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), CLIENT_TIMEOUT_S)
    return process.returncode, out.decode(), err.decode()


async def succeed(run, *words):
    code, out, err = await run(*words)
    assert code == 0, err
    return out
