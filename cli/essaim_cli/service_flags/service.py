"""Flags of the service as a whole, of where its tasks run, and of what they may use."""

from essaim_cli.flag_kinds import CREATE, UPDATE, Flag, Items, Refused, Switch, Value
from essaim_cli.grammar import containers, placement
from essaim_cli.grammar.fields import count, pair, pair_key, whole_number
from essaim_cli.service_flags.paths import CONTAINER, COUNT, RESOURCES, TEMPLATE
from essaim_cli.units import parse_cpus, parse_signed_size, parse_size

MODES = ("replicated", "global", "replicated-job", "global-job", "cron")


def _swappiness(text: str) -> int:
    return whole_number(text, -1, 100)


SERVICE: tuple[Flag, ...] = (
    Value(name="name", help="Service name; drawn at random if not given.", on=(CREATE,)),
    Value(
        name="mode",
        help="Service mode (default replicated). Essaim: cron.",
        choices=MODES,
        on=(CREATE,),
    ),
    Value(name="replicas", parse=count, metavar=COUNT, help="Number of tasks (default 1)."),
    Value(
        name="max-concurrent",
        parse=count,
        metavar=COUNT,
        help="Job tasks at the same time (default: as --replicas).",
    ),
    Items(
        name="label",
        short="l",
        noun="service label",
        parse=pair,
        identity=pair_key,
        path="Labels",
        is_map=True,
        metavar="KEY=VALUE",
    ),
    Value(name="image", path=f"{CONTAINER}.Image", help="Image of the tasks.", on=(UPDATE,)),
    Value(
        name="args",
        parse=containers.parse_words,
        path=f"{CONTAINER}.Args",
        help="Arguments of the command.",
        on=(UPDATE,),
    ),
    Switch(name="force", help="Replace the tasks even if nothing changed.", on=(UPDATE,)),
    Switch(name="rollback", help="Go back to the previous specification.", on=(UPDATE,)),
    Switch(name="with-registry-auth", help="Send the registry's credentials to the nodes."),
    Switch(name="no-resolve-image", help="Do not pin the image to a digest."),
)

PLACEMENT: tuple[Flag, ...] = (
    Items(
        name="constraint",
        noun="placement constraint",
        parse=placement.parse_constraint,
        path=f"{TEMPLATE}.Placement.Constraints",
        metavar="KEY==VALUE",
        removal_metavar="KEY==VALUE",
    ),
    Items(
        name="placement-pref",
        noun="placement preference",
        parse=placement.parse_preference,
        identity=placement.preference_identity,
        path=f"{TEMPLATE}.Placement.Preferences",
        metavar="spread=KEY",
        removal_metavar="spread=KEY",
    ),
    Value(
        name="replicas-max-per-node",
        parse=count,
        path=f"{TEMPLATE}.Placement.MaxReplicas",
        metavar=COUNT,
        help="At most this many tasks on a node (default 0: no limit).",
    ),
)

RESOURCE_FLAGS: tuple[Flag, ...] = (
    Value(
        name="limit-cpu",
        parse=parse_cpus,
        path=f"{RESOURCES}.Limits.NanoCPUs",
        metavar="DECIMAL",
        help="CPUs a task may use.",
    ),
    Value(
        name="limit-memory",
        parse=parse_size,
        path=f"{RESOURCES}.Limits.MemoryBytes",
        metavar="BYTES",
        help="Memory a task may use.",
    ),
    Value(
        name="limit-pids",
        parse=count,
        path=f"{RESOURCES}.Limits.Pids",
        metavar=COUNT,
        help="Processes a task may have (default 0: no limit).",
    ),
    Value(
        name="reserve-cpu",
        parse=parse_cpus,
        path=f"{RESOURCES}.Reservations.NanoCPUs",
        metavar="DECIMAL",
        help="CPUs set aside for a task.",
    ),
    Value(
        name="reserve-memory",
        parse=parse_size,
        path=f"{RESOURCES}.Reservations.MemoryBytes",
        metavar="BYTES",
        help="Memory set aside for a task.",
    ),
    Value(
        name="memory-swap",
        parse=parse_signed_size,
        path=f"{RESOURCES}.SwapBytes",
        metavar="BYTES",
        help="Swap beside the memory limit (-1: no limit).",
    ),
    Value(
        name="memory-swappiness",
        parse=_swappiness,
        path=f"{RESOURCES}.MemorySwappiness",
        metavar="-1…100",
        help="How readily memory is swapped; -1 for the default.",
    ),
    Items(
        name="generic-resource",
        noun="generic resource, set aside for a task",
        parse=placement.parse_generic_resource,
        identity=placement.generic_resource_identity,
        path=f"{RESOURCES}.Reservations.GenericResources",
        duplicate="duplicate generic resource",
        metavar="KIND=AMOUNT",
        removal_metavar="KIND",
        must_exist=True,
    ),
    Refused(
        name="gpus",
        reason="GPU requests are not understood yet: set GPUs aside with --generic-resource "
        "gpu=1 where nodes announce them, and pass their devices with --device",
    ),
)
