"""What daemons give up of root's powers, looked at in /proc of real processes.

As an ordinary user there is nothing to give up; the tests say what they see then too."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from essaim_shared.capabilities import AGENT, LAST_CAPABILITY, MASTER, NAME_SERVER, Capability

CONFINED = """
import os, sys
from essaim_shared.capabilities import AGENT, MASTER, confine
print(confine(eval(sys.argv[1])))
exec(sys.argv[2])
"""
SHOW = "print(open('/proc/self/status').read())"
IS_ROOT = os.geteuid() == 0


def run(kept: str, then: str, *before: str) -> list[str]:
    """What a process prints that has confined itself and then does something."""
    done = subprocess.run(
        [*before, sys.executable, "-c", CONFINED, kept, then],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def status_of(lines: list[str]) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def mask(kept: Any) -> int:
    return sum(1 << number for number in kept)


def present() -> int:
    """What this process may pass on."""
    own = status_of(Path("/proc/self/status").read_text().splitlines())
    return int(own["CapPrm"], 16) & int(own["CapBnd"], 16)


@pytest.mark.parametrize("kept", ["MASTER", "AGENT"])
def test_a_confined_process_has_what_it_keeps_and_its_children_no_more(kept: str) -> None:
    wanted = mask({"MASTER": MASTER, "AGENT": AGENT}[kept]) & present()
    child = "import subprocess; subprocess.run(['cat', '/proc/self/status'])"
    for then in (SHOW, child):
        lines = run(kept, then)
        assert lines[0] == "True"
        status = status_of(lines)
        assert status["NoNewPrivs"] == "1"
        assert {status[name] for name in ("CapInh", "CapAmb")} == {"0" * 16}
        assert (int(status["CapPrm"], 16), int(status["CapEff"], 16)) == (wanted, wanted)
        if IS_ROOT:
            assert int(status["CapBnd"], 16) == wanted


def test_confining_again_changes_nothing() -> None:
    first, second = run("AGENT", f"print(confine(AGENT)); {SHOW}")[:2]
    assert (first, second) == ("True", "True")


def test_an_ordinary_user_has_nothing_to_give_up() -> None:
    as_user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if IS_ROOT else ()
    lines = run("AGENT", SHOW, *as_user)
    assert lines[0] == "True"
    status = status_of(lines)
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == 0


def test_what_the_service_manager_has_dropped_is_no_complaint() -> None:
    names = ",".join(f"+{one.name.lower()}" for one in sorted(AGENT))
    bounded = ("setpriv", f"--bounding-set=-all,{names}") if IS_ROOT else ()
    assert run("AGENT", SHOW, *bounded)[0] == "True"


def test_a_confined_process_leaves_no_core_dump() -> None:
    limits = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    assert run("MASTER", limits) == ["True", "(0, 0)"]


def test_a_confined_master_reads_its_files_listens_and_signals_its_own(tmp_path: Path) -> None:
    private = tmp_path / "seal.key"
    private.write_text("of the same user")
    private.chmod(0o600)
    bus = subprocess.Popen(["sleep", "1000"])
    work = f"""
import socket
print(open({str(private)!r}).read())
open({str(tmp_path / "new")!r}, "w").close()
one = socket.create_server(("127.0.0.1", 0)); one.close()
other = socket.socket(socket.AF_UNIX); other.bind({str(tmp_path / "socket")!r})
os.kill({bus.pid}, {int(signal.SIGTERM)})
"""
    try:
        assert run("MASTER", work) == ["True", "of the same user"]
        assert bus.wait(20) == -signal.SIGTERM
    finally:
        bus.kill()
        bus.wait()


def test_the_capabilities_kept_are_of_this_kernel() -> None:
    assert max(Capability) <= int(LAST_CAPABILITY.read_text())
    assert MASTER == NAME_SERVER == frozenset()
    assert Capability.CHOWN in AGENT


async def test_threads_of_a_confined_process_have_no_more() -> None:
    then = (
        "import threading; show = lambda: print(open('/proc/thread-self/status').read()); "
        "thread = threading.Thread(target=show); thread.start(); thread.join()"
    )
    status = status_of(await asyncio.to_thread(run, "MASTER", then))
    assert int(status["CapEff"], 16) == 0
