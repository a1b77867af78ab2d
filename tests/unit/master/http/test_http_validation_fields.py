"""Field by field through the HTTP application: what is wrong with a service spec is said in one
line that names it, and nothing is written."""

import copy

import pytest
from support.full_service import FULL_SERVICE

BAD_CONTAINERS = [
    # Mounts (moby volume/mounts/validate.go)
    ({"Mounts": [{"Type": "bind", "Target": "/x"}]}, 400, "field Source must not be empty"),
    (
        {"Mounts": [{"Type": "bind", "Source": "data", "Target": "/x"}]},
        400,
        "invalid mount path: 'data' mount path must be absolute",
    ),
    (
        {"Mounts": [{"Type": "bind", "Source": "/d", "Target": "x"}]},
        400,
        "invalid mount path: 'x' mount path must be absolute",
    ),
    ({"Mounts": [{"Type": "volume", "Target": "/"}]}, 400, "destination can't be '/'"),
    ({"Mounts": [{"Type": "volume", "Target": ""}]}, 400, "field Target must not be empty"),
    (
        {"Mounts": [{"Type": "tmpfs", "Source": "x", "Target": "/x"}]},
        400,
        'invalid mount config for type "tmpfs": field Source must not be specified',
    ),
    (
        {"Mounts": [{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": -1}}]},
        400,
        "invalid size -1",
    ),
    (
        {"Mounts": [{"Type": "bind", "Source": "/d", "Target": "/x", "VolumeOptions": {}}]},
        400,
        "field VolumeOptions must not be specified",
    ),
    (
        {"Mounts": [{"Type": "volume", "Target": "/x", "ReadOnly": True}]},
        400,
        "must not set ReadOnly mode when using anonymous volumes",
    ),
    (
        {"Mounts": [{"Type": "volume", "Source": "a/b", "Target": "/x"}]},
        400,
        "includes invalid characters for a local volume name",
    ),
    (
        {
            "Mounts": [
                {"Type": "volume", "Source": "a", "Target": "/x"},
                {"Type": "volume", "Source": "b", "Target": "/x"},
            ]
        },
        400,
        "ContainerSpec: duplicate mount point: /x",
    ),
    ({"Mounts": [{"Type": "npipe", "Source": "a", "Target": "b"}]}, 501, "named pipes"),
    ({"mounts": [{"type": "cluster", "Source": "a", "Target": "/b"}]}, 501, "cluster volumes"),
    ({"Mounts": [{"Type": "disk", "Target": "/x"}]}, 400, 'invalid value "disk"'),
    # Health checks and probes
    ({"Healthcheck": {"Interval": 999_999}}, 400, "Interval in HealthConfig cannot be less"),
    ({"Healthcheck": {"Timeout": 1}}, 400, "Timeout in HealthConfig cannot be less than 1ms"),
    ({"Healthcheck": {"StartPeriod": -5}}, 400, "StartPeriod in HealthConfig cannot be less"),
    ({"Healthcheck": {"StartInterval": 1}}, 400, "StartInterval in HealthConfig cannot be less"),
    ({"Healthcheck": {"Retries": -1}}, 400, "Retries in HealthConfig cannot be negative"),
    ({"Healthcheck": {"Test": ["RUN", "x"]}}, 400, "invalid Test in HealthConfig"),
    ({"Healthcheck": {"Test": ["CMD"]}}, 400, "invalid Test in HealthConfig"),
    ({"Probes": {"Readiness": {}}}, 400, "exactly one of Exec, HTTP and TCP must be given"),
    (
        {"Probes": {"Liveness": {"TCP": {"Port": 1}, "HTTP": {"Port": 1}}}},
        400,
        "Probes: Liveness: exactly one of",
    ),
    ({"Probes": {"Startup": {"TCP": {"Port": 0}}}}, 400, "invalid port 0: must be from 1 to 65535"),
    ({"Probes": {"Startup": {"HTTP": {"Port": 80, "Path": "x"}}}}, 400, "must begin with /"),
    (
        {"Probes": {"Startup": {"HTTP": {"Port": 80, "Headers": {"A": "b\r\nC: d"}}}}},
        400,
        "must stay on one line",
    ),
    ({"Probes": {"Readiness": {"Exec": {"Command": []}}}}, 400, "the command is empty"),
    (
        {"Probes": {"Liveness": {"TCP": {"Port": 80}, "SuccessThreshold": 2}}},
        400,
        "SuccessThreshold must be 1",
    ),
    (
        {"Probes": {"Readiness": {"TCP": {"Port": 80}, "FailureThreshold": 0}}},
        400,
        "must be at least 1",
    ),
    ({"Probes": {"Readiness": {"TCP": {"Port": 80}, "Period": 5}}}, 400, "cannot be less than 1s"),
    ({"PreStop": {"Command": [""]}}, 400, "PreStop: the command is empty"),
    # The process and its rights
    ({"StopSignal": "SIGNOPE"}, 400, "invalid signal: SIGNOPE"),
    ({"StopSignal": "65"}, 400, "invalid signal: 65"),
    ({"Groups": [""]}, 400, "the name of a group cannot be empty"),
    ({"CapabilityAdd": ["CAP_FLY"]}, 400, 'CapabilityAdd: invalid capability: "CAP_FLY"'),
    ({"CapabilityDrop": ["fly"]}, 400, 'CapabilityDrop: invalid capability: "fly"'),
    ({"Ulimits": [{"Name": "files", "Soft": 1, "Hard": 1}]}, 400, "invalid ulimit type: files"),
    (
        {"Ulimits": [{"Name": "nofile", "Soft": 9, "Hard": 1}]},
        400,
        "soft limit must be less than or equal to hard limit: 9 > 1",
    ),
    ({"Ulimits": [{"Name": "nofile", "Soft": -1, "Hard": 1}]}, 400, "soft limit must be less"),
    (
        {"Ulimits": [{"Name": "cpu", "Soft": 1, "Hard": 1}] * 2},
        400,
        "ulimit: cpu is given twice",
    ),
    ({"Privileged": True, "CapabilityDrop": ["ALL"]}, 400, "CapabilityDrop would have no effect"),
    ({"SecurityOpt": ["colour=red"]}, 400, 'invalid --security-opt: "colour=red"'),
    (
        {"SecurityOpt": ["seccomp=unconfined"], "Privileges": {"Seccomp": {"Mode": "default"}}},
        400,
        "seccomp is given both in Privileges and in SecurityOpt",
    ),
    ({"Privileges": {"Seccomp": {"Mode": "custom"}}}, 400, "the mode custom needs a Profile"),
    ({"Privileges": {"Seccomp": {"Profile": "e30="}}}, 400, "a Profile needs the mode custom"),
    (
        {"Privileges": {"Seccomp": {"Mode": "custom", "Profile": "%%"}}},
        400,
        "Profile is not JSON in base64",
    ),
    ({"Privileges": {"CredentialSpec": {"File": "x"}}}, 501, "credential specs are for Windows"),
    ({"Isolation": "hyperv"}, 501, "isolation is a matter of Windows"),
    # Namespaces, devices, memory
    ({"PidMode": "container:x"}, 400, "invalid PidMode 'container:x'"),
    ({"IpcMode": "container:x"}, 400, "invalid IpcMode 'container:x'"),
    ({"ShmSize": 0}, 400, "ShmSize must be greater than 0"),
    ({"ShmSize": 5, "IpcMode": "host"}, 400, "ShmSize has no effect with IpcMode host"),
    ({"CgroupParent": "../up"}, 400, "invalid CgroupParent"),
    ({"Devices": [{"PathOnHost": "fuse"}]}, 400, "device path 'fuse' must be absolute"),
    (
        {"Devices": [{"PathOnHost": "/dev/fuse", "CgroupPermissions": "rx"}]},
        400,
        "invalid permissions 'rx'",
    ),
    ({"Devices": [{"PathOnHost": "/dev/a"}] * 2}, 400, "/dev/a is given twice"),
    ({"DeviceRequests": [{"Count": 1}]}, 501, "GPUs"),
    ({"Secrets": [{"SecretID": "x"}]}, 400, "missing required field `SecretName`"),
    ({"Configs": [{"ConfigName": ""}]}, 400, "malformed config reference"),
    # Templates (swarmkit template/expand.go)
    ({"Env": ["A={{.Node.Nope}}"]}, 400, "expanding env failed"),
    ({"Hostname": "{{.Service.Name"}, 400, "expanding hostname failed"),
]

BAD_TASKS = [
    ({"Resources": {"Limits": {"NanoCPUs": 1}}}, 400, "invalid cpu value 1e-09"),
    ({"Resources": {"Reservations": {"MemoryBytes": 5}}}, 400, "Must be at least 4MiB"),
    ({"Resources": {"SwapBytes": 5}}, 400, "SwapBytes needs a memory limit beside it"),
    ({"Resources": {"SwapBytes": -2}}, 400, "invalid SwapBytes -2"),
    ({"Resources": {"MemorySwappiness": 101}}, 400, "invalid MemorySwappiness 101"),
    (
        {
            "Resources": {
                "Reservations": {
                    "GenericResources": [{"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}}]
                }
            }
        },
        400,
        "invalid argument for resource gpu",
    ),
    (
        {
            "Resources": {
                "Reservations": {
                    "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 0}}]
                }
            }
        },
        400,
        "invalid argument for resource gpu: must be at least 1",
    ),
    (
        {
            "Resources": {
                "Reservations": {
                    "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}] * 2
                }
            }
        },
        400,
        "generic resource: gpu is given twice",
    ),
    ({"RestartPolicy": {"Condition": "maybe"}}, 400, 'invalid value "maybe"'),
    ({"RestartPolicy": {"Window": -1}}, 400, "restart-window cannot be negative"),
    (
        {"Placement": {"Preferences": [{"Spread": {"SpreadDescriptor": "colour"}}]}},
        400,
        "cannot spread over 'colour'",
    ),
    (
        {"Placement": {"Preferences": [{"Spread": {"SpreadDescriptor": "node.labels."}}]}},
        400,
        "cannot spread over 'node.labels.'",
    ),
    ({"LogDriver": {"Name": "json file"}}, 400, "is no name of a driver"),
    ({"Networks": [{"Target": "x"}]}, 404, "network x not found"),
    ({"Networks": [{"Target": ""}]}, 400, "the target of a network cannot be empty"),
    ({"Networks": [{"Target": "bridge"}]}, 403, "network bridge cannot be used with services"),
    ({"Networks": [{"Target": "default"}] * 2}, 400, "network default is given twice"),
    ({"Networks": [{"Target": f"n{n}"} for n in range(17)]}, 400, "on at most 16 networks"),
    (
        {"Networks": [{"Target": "default", "DriverOpts": {"mtu": "9"}}]},
        501,
        "the driver option mtu of network default",
    ),
    ({"Networks": [{"Target": "default", "Aliases": ["a b"]}]}, 400, "the alias 'a b' is not"),
    ({"Networks": [{"Target": "default", "Aliases": ["a."]}]}, 400, "the alias 'a.' is not"),
    ({"Networks": [{"Target": "default", "Aliases": ["a" * 64]}]}, 400, "valid as a DNS name"),
    (
        {"Networks": [{"Target": "default", "Aliases": [f"a{n}" for n in range(33)]}]},
        400,
        "at most 32 aliases",
    ),
    (
        {"Networks": [{"Target": "host"}, {"Target": "default"}]},
        400,
        "host-mode networking can't be used with any other type of network",
    ),
    ({"Networks": [{"Target": "host", "Aliases": ["a"]}]}, 400, "no names on the host network"),
    ({"Runtime": "plugin"}, 501, "services run containers"),
    ({"Runtime": "wasm"}, 400, 'invalid value "wasm"'),
]

JOB = {"ReplicatedJob": {}}

BAD_SERVICES = [
    ({"Mode": {"Replicated": {}, "Global": {}}}, 400, "must specify only one service mode"),
    ({"Mode": {"ReplicatedJob": {"TotalCompletions": -1}}}, 400, "TotalCompletions: invalid"),
    ({"Mode": {"ReplicatedJob": {"MaxConcurrent": 10**6}}}, 400, "MaxConcurrent: invalid value"),
    (
        {"Mode": {"ReplicatedJob": {"MaxConcurrent": 0, "TotalCompletions": 2}}},
        400,
        "the job would never run",
    ),
    (
        {"Mode": JOB, "UpdateConfig": {"Parallelism": 1}},
        400,
        "update and rollback configuration is not supported for jobs",
    ),
    (
        {"Mode": {"GlobalJob": {}}, "RollbackConfig": {"Parallelism": 1}},
        400,
        "update and rollback configuration is not supported for jobs",
    ),
    ({"UpdateConfig": {"Delay": -1}}, 400, "update-delay cannot be negative"),
    ({"UpdateConfig": {"Monitor": -1}}, 400, "update-monitor cannot be negative"),
    ({"UpdateConfig": {"Parallelism": -1}}, 400, "Parallelism cannot be negative"),
    ({"UpdateConfig": {"MaxFailureRatio": 1.1}}, 400, "less than 0 or bigger than 1"),
    ({"UpdateConfig": {"MaxFailureRatio": -0.1}}, 400, "less than 0 or bigger than 1"),
    ({"UpdateConfig": {"FailureAction": "cry"}}, 400, 'invalid value "cry"'),
    ({"UpdateConfig": {"Steps": [50, 10]}}, 400, "invalid Steps 50, 10"),
    ({"UpdateConfig": {"Steps": [0, 100]}}, 400, "invalid Steps 0, 100"),
    ({"UpdateConfig": {"Steps": [10, 101]}}, 400, "invalid Steps 10, 101"),
    ({"UpdateConfig": {"ProgressDeadline": -1}}, 400, "ProgressDeadline cannot be negative"),
    ({"RollbackConfig": {"FailureAction": "rollback"}}, 400, "must be pause or continue"),
    ({"RollbackConfig": {"Steps": [10, 100]}}, 400, "a rollback is not made in steps"),
    ({"EndpointSpec": {"Mode": "anycast"}}, 400, 'invalid value "anycast"'),
    (
        {"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 7401}]}},
        400,
        "port 7401/tcp is Essaim's own, for the masters",
    ),
    (
        {"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 22}]}},
        400,
        "port 22/tcp is listened on by node h1: publish another port, or force it",
    ),
    (
        {"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 65536}]}},
        400,
        "PublishedPort: invalid port 65536",
    ),
    (
        {"EndpointSpec": {"Ports": [{"TargetPort": n} for n in range(1, 52)]}},
        400,
        "at most 50 ports can be published in ingress mode",
    ),
    (
        {"EndpointSpec": {"Ports": [{"TargetPort": n, "PublishedPort": 9} for n in (1, 2)]}},
        400,
        "duplicate published ports provided",
    ),
    ({"EndpointSpec": {"Affinity": "moon"}}, 400, 'invalid value "moon"'),
    (
        {
            "TaskTemplate": {"Networks": [{"Target": "host"}]},
            "EndpointSpec": {"Ports": [{"TargetPort": 80}]},
        },
        400,
        "on the host network no ports are published",
    ),
    (
        {"EndpointSpec": {"Mode": "dnsrr", "Ports": [{"TargetPort": 80}]}},
        400,
        "port published with ingress mode can't be used with dnsrr mode",
    ),
    (
        {
            "EndpointSpec": {
                "Ports": [{"TargetPort": 1, "PublishedPort": 9, "PublishMode": "host"}] * 2
            }
        },
        400,
        "duplicate published ports provided",
    ),
    (
        {"EndpointSpec": {"Ports": [{"TargetPort": 70000, "PublishMode": "host"}]}},
        400,
        "TargetPort: invalid port 70000",
    ),
    ({"Networks": [{"Target": "x"}]}, 404, "network x not found"),
    ({"Schedule": {"Expression": "@hourly"}}, 400, "only a replicated job can run by a schedule"),
    ({"Mode": JOB, "Schedule": {"Expression": "x"}}, 400, "schedule 'x' is invalid"),
    (
        {"Mode": JOB, "Schedule": {"Expression": "@hourly", "TimeZone": "Mars/Base"}},
        400,
        "time zone 'Mars/Base' is not known",
    ),
    (
        {"Mode": JOB, "Schedule": {"Expression": "@hourly", "History": -1}},
        400,
        "invalid History -1",
    ),
    (
        {"Mode": JOB, "Schedule": {"Expression": "@hourly", "Concurrency": "queue"}},
        400,
        'invalid value "queue"',
    ),
    ({"Labels": {"x": "y" * 140_000}}, 400, "the service spec is too large"),
]


def changed(container=None, task=None, service=None):
    body = {"Name": "bad", "TaskTemplate": {"ContainerSpec": {"Image": "x"}}, **(service or {})}
    body["TaskTemplate"] = {**body["TaskTemplate"], **(task or {})}
    body["TaskTemplate"]["ContainerSpec"] = {"Image": "x", **(container or {})}
    return body


CASES = [
    *((changed(container=fields), *rest) for fields, *rest in BAD_CONTAINERS),
    *((changed(task=fields), *rest) for fields, *rest in BAD_TASKS),
    *((changed(service=fields), *rest) for fields, *rest in BAD_SERVICES),
]


@pytest.mark.parametrize(("body", "status", "sentence"), CASES)
async def test_each_mistake_has_its_sentence_and_changes_nothing(
    world, body, status, sentence
) -> None:
    await world.set_node_state(await world.add_node(1), 1, "ready", listening=("tcp/22",))
    web = await world.create("web")
    version = (await world.get("/services/web")).json["Version"]["Index"]
    revision = world.state.revision
    created = await world.post("/services/create", body)
    assert (created.status, "\n" in created.message) == (status, False), created.message
    assert sentence in created.message
    updated = await world.post(
        f"/services/web/update?version={version}", {**body, "Name": "web", "Mode": body.get("Mode")}
    )
    assert (updated.status, updated.message) == (status, created.message)
    assert world.state.revision == revision
    assert world.state.services[web.id] == web


async def test_a_spec_that_uses_everything_is_taken_and_shown(world) -> None:
    created = await world.post("/services/create", FULL_SERVICE)
    assert created.status == 201, created.message
    shown = (await world.get("/services/web")).json["Spec"]
    assert shown["EndpointSpec"]["Ports"][1]["Protocol"] == "tcp"
    assert shown["UpdateConfig"]["Steps"] == [10, 50, 100]
    assert [mount["Type"] for mount in shown["TaskTemplate"]["ContainerSpec"]["Mounts"]] == [
        *("bind", "volume", "volume", "tmpfs", "image")
    ]
    version = (await world.get("/services/web")).json["Version"]["Index"]
    written = await world.post(f"/services/web/update?version={version}", copy.deepcopy(shown))
    assert written.status == 200, written.message
    service = world.state.services[created.json["ID"]]
    assert (service.spec_version, service.revision) == (1, 1)
