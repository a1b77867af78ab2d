"""Specs that were damaged at random: each is taken or refused in one line, nothing breaks."""

import copy
import random

from support.full_service import FULL_SERVICE

SEED = 20261122
SPECS = 1500

SCRAPS = (
    *(None, True, False, 0, 1, -1, 2**63 - 1, 2**64, -(2**70), 0.5, 1e300),
    *("", "x", "\0", "{{", "{{.Node.ID}}", "../..", "é" * 300, "-1", "CMD"),
    *([], {}, [[]], [None], {"": ""}, {"Type": "bind"}, [{"Target": 1}], {"a": {"b": []}}),
)


def places_of(value, found=None):
    """Every (container, key) of a JSON value."""
    found = [] if found is None else found
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], dict | list):
            places_of(value[key], found)
    return found


def whole(rng):
    """A spec in one of the modes, with all that goes with it."""
    spec = copy.deepcopy(FULL_SERVICE)
    mode = rng.choice(["Replicated", "Global", "ReplicatedJob", "GlobalJob"])
    spec["Mode"] = {mode: {}}
    if mode.startswith("Global"):
        del spec["TaskTemplate"]["Placement"]["MaxReplicas"]
    if mode.endswith("Job"):
        del spec["UpdateConfig"], spec["RollbackConfig"]
    if mode == "ReplicatedJob":
        spec["Schedule"] = {"Expression": "@hourly", "TimeZone": "UTC", "History": 3}
    return spec


def damaged(rng):
    spec = whole(rng)
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(places_of(spec))
        if isinstance(container, dict) and rng.random() < 0.2:
            del container[key]
        else:
            container[key] = copy.deepcopy(rng.choice(SCRAPS))
    return spec


async def test_whatever_is_sent_is_taken_or_refused_in_one_line(world) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    taken = 0
    for number in range(SPECS):
        spec = damaged(rng)
        if isinstance(spec.get("Name"), str) and spec["Name"]:
            spec["Name"] = f"s{number}"
        revision = world.state.revision
        answer = await world.post("/services/create", spec)
        if answer.status == 201:
            taken += 1
            shown = await world.get(f"/services/{answer.json['ID']}?insertDefaults=true")
            assert shown.status == 200, spec
            continue
        # A network that does not exist is not found.
        assert answer.status in (400, 404, 501), (spec, answer.body)
        assert "\n" not in answer.message, spec
        assert world.state.revision == revision, spec
    assert SPECS // 20 < taken < SPECS
