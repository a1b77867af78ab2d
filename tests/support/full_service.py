"""A service spec in Docker's JSON that says something of nearly everything."""

FULL_SERVICE = {
    "Name": "web",
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox",
            "Env": ["NODE={{.Node.Hostname}}"],
            "Hostname": "{{.Service.Name}}-{{.Task.Slot}}",
            "StopSignal": "RTMIN+3",
            "CapabilityAdd": ["net_admin", "CAP_SYS_TIME"],
            "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": -1}],
            "Mounts": [
                {"Type": "bind", "Source": "/srv/{{.Task.Slot}}", "Target": "/srv"},
                {"Type": "volume", "Source": "data-{{.Task.Slot}}", "Target": "/data"},
                {"Type": "volume", "Target": "/scratch"},
                {"Type": "tmpfs", "Target": "/run", "TmpfsOptions": {"Mode": 0o1777}},
                {"Type": "image", "Source": "assets:1", "Target": "/assets"},
            ],
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1_000_000},
            "Probes": {
                "Startup": {"Exec": {"Command": ["true"]}},
                "Readiness": {"HTTP": {"Port": 8080, "Path": "/ok"}, "SuccessThreshold": 2},
                "Liveness": {"TCP": {"Port": 8080}},
            },
            "PreStop": {"Command": ["sync"]},
            "Devices": [{"PathOnHost": "/dev/fuse"}],
            "SecurityOpt": ["apparmor=unconfined", "no-new-privileges"],
            "ShmSize": 1 << 26,
            "IpcMode": "shareable",
            "PidMode": "host",
            "PullPolicy": "always",
        },
        "Resources": {
            "Limits": {"MemoryBytes": 1 << 26},
            "Reservations": {
                "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}]
            },
            "SwapBytes": -1,
            "MemorySwappiness": 0,
        },
        "Placement": {
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
            "MaxReplicas": 2,
        },
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
        "Networks": [{"Target": "default", "Aliases": ["www", "shop.internal"]}],
    },
    "UpdateConfig": {
        "Parallelism": 0,
        "FailureAction": "rollback",
        "Order": "start-first",
        "MaxFailureRatio": 1,
        "Steps": [10, 50, 100],
        "ProgressDeadline": 0,
    },
    "RollbackConfig": {"Parallelism": 2, "FailureAction": "continue"},
    "EndpointSpec": {
        "Mode": "dnsrr",
        "Affinity": "client-ip",
        "ForcePorts": True,
        "Ports": [
            {"TargetPort": 53, "PublishedPort": 53, "Protocol": "udp", "PublishMode": "host"},
            {"TargetPort": 53, "PublishedPort": 53, "Protocol": "", "PublishMode": "host"},
        ],
    },
}
