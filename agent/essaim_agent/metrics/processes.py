"""/proc files → values: tasks that are plain processes, the host's memory, names of disks. Pure.

Source of the formats: proc(5).
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from essaim_agent.metrics.cgroups import TICKS_PER_S
from essaim_agent.metrics.samples import BlockCounters, Reading


class ProcessStat(msgspec.Struct, frozen=True, gc=False):
    """/proc/PID/stat, the fields used here."""

    pid: int
    session: int
    state: str
    user_s: float
    """Of the process and of those of its children that ended and were waited for."""
    system_s: float
    resident_pages: int
    minor_faults: int
    major_faults: int


_ENDED_STATES: Final = ("Z", "X", "x")


def parse_stat(text: str) -> ProcessStat:
    # The command stands in parentheses and may hold spaces and parentheses itself.
    pid = int(text[: text.index(" ")])
    fields = text[text.rindex(")") + 2 :].split()
    # fields[0] is number 3 of proc(5)'s numbering.
    return ProcessStat(
        pid=pid,
        session=int(fields[3]),
        state=fields[0],
        user_s=(int(fields[11]) + int(fields[13])) / TICKS_PER_S,
        system_s=(int(fields[12]) + int(fields[14])) / TICKS_PER_S,
        resident_pages=int(fields[21]),
        minor_faults=int(fields[7]),
        major_faults=int(fields[9]),
    )


def parse_io(text: str) -> BlockCounters:
    """/proc/PID/io: what really came from or went to a disk."""
    values = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    return BlockCounters(
        read_bytes=int(values.get("read_bytes", 0)), write_bytes=int(values.get("write_bytes", 0))
    )


def reading_of_session(
    stats: Iterable[ProcessStat], io: Iterable[BlockCounters], page_bytes: int
) -> Reading | None:
    """All processes of one session together; None when none of them is alive.

    The process executor starts each task as a session of its own. Resident pages that processes
    share are counted once for each, so memory is rather too high than too low.
    """
    alive = [stat for stat in stats if stat.state not in _ENDED_STATES]
    if not alive:
        return None
    user_s = sum(stat.user_s for stat in alive)
    system_s = sum(stat.system_s for stat in alive)
    resident_bytes = page_bytes * sum(stat.resident_pages for stat in alive)
    read_bytes = write_bytes = 0
    for counters in io:
        read_bytes += counters.read_bytes
        write_bytes += counters.write_bytes
    block = BlockCounters(read_bytes=read_bytes, write_bytes=write_bytes)
    return Reading(
        cpu_usage_s=user_s + system_s,
        cpu_user_s=user_s,
        cpu_system_s=system_s,
        memory_usage_bytes=resident_bytes,
        memory_working_set_bytes=resident_bytes,
        memory_rss_bytes=resident_bytes,
        page_faults=sum(stat.minor_faults + stat.major_faults for stat in alive),
        major_page_faults=sum(stat.major_faults for stat in alive),
        process_count=len(alive),
        block={"": block} if read_bytes or write_bytes else {},
    )


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo, in bytes where it says kB, else as it stands (HugePages_*)."""
    memory: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        memory[name] = int(number) * 1024 if unit == "kB" else int(number)
    return memory


def parse_partitions(text: str) -> dict[str, str]:
    """/proc/partitions: name of a block device by its number, `MAJOR:MINOR`."""
    names: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and words[0].isdecimal():
            names[f"{words[0]}:{words[1]}"] = words[3]
    return names
