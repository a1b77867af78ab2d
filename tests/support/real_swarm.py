"""Docker Swarm itself, of one node, on an engine of the lab: what Essaim is compared with."""

import json
import os
import signal
from typing import Any

from support.lab_cluster import Cluster, Done

from essaim_cli.lab.topology import Host


class RealSwarm:
    """Containers of both stand on that host's engine, told apart by Essaim's label."""

    def __init__(self, cluster: Cluster, host: Host) -> None:
        self.cluster = cluster
        self.host = host

    async def form(self) -> None:
        await self._set_live_restore(False)
        done = await self.docker("swarm", "init", "--advertise-addr", self.host.address)
        assert done.code == 0, done.stderr

    async def leave(self) -> None:
        await self.docker("swarm", "leave", "--force")
        await self._set_live_restore(True)

    async def docker(self, *words: str, client: str = "docker") -> Done:
        return await self.cluster.docker(self.host.name, *words, client=client)

    async def _set_live_restore(self, wanted: bool) -> None:
        """Swarm refuses engines with live-restore; they change it when they are told to reload."""
        path = self.host.config_file("engine")
        config: dict[str, Any] = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "live-restore": wanted}))
        os.kill(int(self.host.engine_pid_file.read_text()), signal.SIGHUP)

        async def is_set() -> bool:
            done = await self.docker("info", "--format", "{{.LiveRestoreEnabled}}")
            return done.stdout.strip() == str(wanted).lower()

        await self.cluster.until(is_set, f"live-restore is {wanted}")
