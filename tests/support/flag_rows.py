"""Flags of `service create` and `update`, what they make of the service's spec, and what must be
seen of them on the container's own engine.

Many flags share a service, so that a client's whole table takes a few services.
"""

from support.flag_table import ESSAIM, SINCE_28, Asked, Holds, MatrixService

SECOND_NS = 1_000_000_000
MIB = 1 << 20

PROCESS = MatrixService(
    "process",
    ("sleep 600",),
    (
        Asked("-e A=1 --env B=2", {"C.Env": ["A=1", "B=2"]}, {"Config.Env": Holds(("A=1", "B=2"))}),
        Asked(
            '--entrypoint "sh -c"',
            {"C.Command": ["sh", "-c"], "C.Args": ["sleep 600"]},
            {"Config.Entrypoint": ["sh", "-c"], "Config.Cmd": ["sleep 600"]},
        ),
        Asked("--workdir /etc", {"C.Dir": "/etc"}, {"Config.WorkingDir": "/etc"}, {"pwd": "/etc"}),
        Asked("--user 0:5", {"C.User": "0:5"}, {"Config.User": "0:5"}, {"id -g": "5"}),
        Asked("--group 7", {"C.Groups": ["7"]}, {"HostConfig.GroupAdd": ["7"]}),
        Asked(
            "--hostname '{{.Service.Name}}-{{.Task.Slot}}'",
            {"C.Hostname": "{{.Service.Name}}-{{.Task.Slot}}"},
            {"Config.Hostname": "process-1"},
            {"hostname": "process-1"},
        ),
        Asked("--tty", {"C.TTY": True}, {"Config.Tty": True}),
        Asked(
            "--read-only",
            {"C.ReadOnly": True},
            {"HostConfig.ReadonlyRootfs": True},
            {"touch /etc/x 2>&1": "touch: /etc/x: Read-only file system"},
        ),
        Asked("--init", {"C.Init": True}, {"HostConfig.Init": True}),
        Asked("--container-label c=d", {"C.Labels": {"c": "d"}}, {"Config.Labels.c": "d"}),
        Asked("--label s=t", {"Labels": {"s": "t"}}, {"Config.Labels.s": None}),
        Asked(
            "--stop-grace-period 1s",
            {"C.StopGracePeriod": SECOND_NS},
            {"Config.StopTimeout": 1},
        ),
        Asked(
            "--stop-signal SIGUSR1",
            {"C.StopSignal": "SIGUSR1"},
            {"Config.StopSignal": "SIGUSR1"},
        ),
        # The container asks its node's name server, which asks these for what it does not know.
        Asked("--dns 10.9.9.9", {"C.DNSConfig.Nameservers": ["10.9.9.9"]}),
        Asked(
            "--dns-option ndots:3",
            {"C.DNSConfig.Options": ["ndots:3"]},
            {"HostConfig.DnsOptions": ["ndots:3"]},
        ),
        Asked(
            "--dns-search lan",
            {"C.DNSConfig.Search": ["lan"]},
            {"HostConfig.DnsSearch": ["lan"]},
        ),
        Asked(
            "--host db:10.9.8.7",
            {"C.Hosts": ["10.9.8.7 db"]},
            {"HostConfig.ExtraHosts": Holds(("db:10.9.8.7",))},
            {"grep -c '10.9.8.7.*db' /etc/hosts": "1"},
        ),
        Asked(
            "-p 8090:80",
            {
                "EndpointSpec.Ports": [
                    {
                        "Protocol": "tcp",
                        "TargetPort": 80,
                        "PublishedPort": 8090,
                        "PublishMode": "ingress",
                    }
                ]
            },
        ),
        Asked(
            "--sysctl kernel.msgmax=9999",
            {"C.Sysctls": {"kernel.msgmax": "9999", "net.core.somaxconn": "99"}},
            {"HostConfig.Sysctls": {"kernel.msgmax": "9999"}},
        ),
        # The network namespace is not the engine's.
        Asked("--sysctl net.core.somaxconn=99", inside={"cat /proc/sys/net/core/somaxconn": "99"}),
        Asked(
            "--ulimit nofile=1000:2000",
            {"C.Ulimits": [{"Name": "nofile", "Soft": 1000, "Hard": 2000}]},
            {"HostConfig.Ulimits": [{"Name": "nofile", "Soft": 1000, "Hard": 2000}]},
        ),
        Asked(
            "--cap-add NET_ADMIN",
            {"C.CapabilityAdd": ["CAP_NET_ADMIN"]},
            {"HostConfig.CapAdd": ["CAP_NET_ADMIN"]},
        ),
        Asked(
            "--cap-drop MKNOD",
            {"C.CapabilityDrop": ["CAP_MKNOD"]},
            {"HostConfig.CapDrop": ["CAP_MKNOD"]},
        ),
        Asked(
            "--oom-score-adj 500",
            {"C.OomScoreAdj": 500},
            {"HostConfig.OomScoreAdj": 500},
            {"cat /proc/1/oom_score_adj": "500"},
            by=SINCE_28,
        ),
        Asked(
            "",
            engine={
                "HostConfig.LogConfig": {
                    "Type": "json-file",
                    "Config": {"max-size": "10m", "max-file": "3"},
                }
            },
        ),
    ),
    (
        Asked(
            "--env-add B=9 --env-add C=3 --env-rm A",
            {"C.Env": Holds(("B=9", "C=3"), ("A=1", "B=2"))},
            {"Config.Env": Holds(("B=9", "C=3"), ("A=1", "B=2"))},
        ),
        Asked(
            "--entrypoint '' --args 'sleep 700'",
            {"C.Command": None, "C.Args": ["sleep", "700"]},
            {"Config.Entrypoint": None, "Config.Cmd": ["sleep", "700"]},
        ),
        Asked("--workdir /tmp", {"C.Dir": "/tmp"}, {"Config.WorkingDir": "/tmp"}),
        Asked("--user ''", {"C.User": ""}, {"Config.User": ""}),
        Asked("--group-add 8 --group-rm 7", {"C.Groups": ["8"]}, {"HostConfig.GroupAdd": ["8"]}),
        Asked("--hostname h", {"C.Hostname": "h"}, {"Config.Hostname": "h"}),
        Asked("--tty=false", {"C.TTY": False}, {"Config.Tty": False}),
        Asked("--read-only=false", {"C.ReadOnly": False}, {"HostConfig.ReadonlyRootfs": False}),
        Asked(
            "--container-label-add e=f --container-label-rm c",
            {"C.Labels": {"e": "f"}},
            {"Config.Labels.e": "f", "Config.Labels.c": None},
        ),
        Asked("--label-add u=v --label-rm s", {"Labels": {"u": "v"}}),
        Asked(
            "--stop-signal SIGKILL",
            {"C.StopSignal": "SIGKILL"},
            {"Config.StopSignal": "SIGKILL"},
        ),
        Asked(
            "--dns-add 10.9.9.8 --dns-rm 10.9.9.9",
            {"C.DNSConfig.Nameservers": ["10.9.9.8"]},
        ),
        Asked(
            "--dns-option-add ndots:4 --dns-option-rm ndots:3",
            {"C.DNSConfig.Options": ["ndots:4"]},
            {"HostConfig.DnsOptions": ["ndots:4"]},
        ),
        Asked(
            "--dns-search-add wan --dns-search-rm lan",
            {"C.DNSConfig.Search": ["wan"]},
            {"HostConfig.DnsSearch": ["wan"]},
        ),
        Asked(
            "--host-add api:10.9.8.6 --host-rm db:10.9.8.7",
            {"C.Hosts": ["10.9.8.6 api"]},
            {"HostConfig.ExtraHosts": Holds(("api:10.9.8.6",), ("db:10.9.8.7",))},
        ),
        Asked(
            "--publish-rm 80 --publish-add 8091:81/udp",
            {
                "EndpointSpec.Ports": [
                    {
                        "Protocol": "udp",
                        "TargetPort": 81,
                        "PublishedPort": 8091,
                        "PublishMode": "ingress",
                    }
                ]
            },
        ),
        Asked(
            "--sysctl-add kernel.msgmnb=9999 --sysctl-rm kernel.msgmax "
            "--sysctl-rm net.core.somaxconn",
            {"C.Sysctls": {"kernel.msgmnb": "9999"}},
            {"HostConfig.Sysctls": {"kernel.msgmnb": "9999"}},
        ),
        Asked(
            "--ulimit-add nproc=100 --ulimit-rm nofile",
            {"C.Ulimits": [{"Name": "nproc", "Soft": 100, "Hard": 100}]},
            {"HostConfig.Ulimits": [{"Name": "nproc", "Soft": 100, "Hard": 100}]},
        ),
        # Dropping what was added takes it back only.
        Asked(
            "--cap-add SYS_TIME --cap-drop NET_ADMIN",
            {"C.CapabilityAdd": ["CAP_SYS_TIME"], "C.CapabilityDrop": ["CAP_MKNOD"]},
            {"HostConfig.CapAdd": ["CAP_SYS_TIME"], "HostConfig.CapDrop": ["CAP_MKNOD"]},
        ),
    ),
)  # fmt: skip

_RULES = {
    "Parallelism": 2,
    "Delay": SECOND_NS,
    "FailureAction": "continue",
    "Monitor": 2 * SECOND_NS,
    "MaxFailureRatio": 0.5,
    "Order": "start-first",
}


def _rules(kind: str) -> str:
    return (
        f"--{kind}-parallelism 2 --{kind}-delay 1s --{kind}-failure-action continue "
        f"--{kind}-monitor 2s --{kind}-max-failure-ratio 0.5 --{kind}-order start-first"
    )


AROUND = MatrixService(
    "around",
    (),
    (
        Asked("--env-file {env_file}", {"C.Env": ["F=1", "G=a b"]}, inside={"echo $G": "a b"}),
        Asked(
            "--limit-cpu .5 --limit-memory 64m --limit-pids 50",
            {
                "T.Resources.Limits": {
                    "NanoCPUs": SECOND_NS // 2,
                    "MemoryBytes": 64 * MIB,
                    "Pids": 50,
                }
            },
            {
                "HostConfig.NanoCpus": SECOND_NS // 2,
                "HostConfig.Memory": 64 * MIB,
                "HostConfig.PidsLimit": 50,
            },
        ),
        Asked(
            "--reserve-cpu .1 --reserve-memory 16m",
            {
                "T.Resources.Reservations": {
                    "NanoCPUs": SECOND_NS // 10,
                    "MemoryBytes": 16 * MIB,
                }
            },
            # The scheduler's alone, as in Swarm.
            {"HostConfig.MemoryReservation": 0, "HostConfig.CpuShares": 0},
        ),
        Asked(
            "--log-driver json-file --log-opt max-size=1m",
            {"T.LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}}},
            {"HostConfig.LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}},
        ),
        Asked(
            "--health-cmd true --health-interval 1s --health-timeout 2s --health-retries 4 "
            "--health-start-period 3s",
            {
                "C.Healthcheck": {
                    "Test": ["CMD-SHELL", "true"],
                    "Interval": SECOND_NS,
                    "Timeout": 2 * SECOND_NS,
                    "Retries": 4,
                    "StartPeriod": 3 * SECOND_NS,
                }
            },
            {
                "Config.Healthcheck.Test": ["CMD-SHELL", "true"],
                "Config.Healthcheck.Retries": 4,
                "State.Health.Status": "healthy",
            },
        ),
        Asked(
            "--mount type=bind,source={bind},target=/bind,readonly",
            {"C.Mounts.0.ReadOnly": True, "C.Mounts.0.Type": "bind"},
            inside={
                "cat /bind/file": "from the node",
                "touch /bind/x 2>&1 | grep -c Read-only": "1",
            },
        ),
        Asked(
            "--mount 'type=volume,source={{.Service.Name}}-v,target=/volume,volume-label=x=y'",
            {
                "C.Mounts.1.Source": "{{.Service.Name}}-v",
                "C.Mounts.1.VolumeOptions.Labels": {"x": "y"},
            },
            {"HostConfig.Mounts.1.Source": "around-v"},
        ),
        Asked(
            "--mount type=tmpfs,target=/tmpfs,tmpfs-size=1m,tmpfs-mode=1700",
            {"C.Mounts.2.TmpfsOptions": {"SizeBytes": MIB, "Mode": 0o1700}},
            {"HostConfig.Mounts.2.TmpfsOptions": {"SizeBytes": MIB, "Mode": 0o1700}},
            {"df /tmpfs | tail -n 1 | while read a b c; do echo $b; done": "1024"},
        ),
        Asked("--constraint node.hostname==h2", {"T.Placement.Constraints": ["node.hostname==h2"]}),
        Asked(
            "--placement-pref spread=node.labels.zone",
            {"T.Placement.Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}]},
        ),
        Asked("--replicas 1 --replicas-max-per-node 2", {"T.Placement.MaxReplicas": 2}),
        Asked(
            "-p published=8081,target=80,mode=host",
            {
                "EndpointSpec.Ports": [
                    {
                        "Protocol": "tcp",
                        "TargetPort": 80,
                        "PublishedPort": 8081,
                        "PublishMode": "host",
                    }
                ]
            },
        ),
        Asked("--endpoint-mode dnsrr", {"EndpointSpec.Mode": "dnsrr"}),
        Asked("--network name={network},alias=matrix", {"T.Networks.0.Aliases": ["matrix"]}),
        Asked(
            "--restart-condition on-failure --restart-delay 1s --restart-max-attempts 3 "
            "--restart-window 1m",
            {
                "T.RestartPolicy": {
                    "Condition": "on-failure",
                    "Delay": SECOND_NS,
                    "MaxAttempts": 3,
                    "Window": 60 * SECOND_NS,
                }
            },
            {"HostConfig.RestartPolicy.Name": "no"},
        ),
        Asked(_rules("update"), {"UpdateConfig": _RULES}),
        Asked(_rules("rollback"), {"RollbackConfig": _RULES}),
        Asked("--isolation default", {}, {"HostConfig.Isolation": ""}),
    ),
    (
        Asked("--force", {"T.ForceUpdate": 1}),
        Asked(
            "--limit-cpu .25 --limit-memory 128m --limit-pids 0",
            {"T.Resources.Limits": {"NanoCPUs": SECOND_NS // 4, "MemoryBytes": 128 * MIB}},
            {
                "HostConfig.NanoCpus": SECOND_NS // 4,
                "HostConfig.Memory": 128 * MIB,
                "HostConfig.PidsLimit": None,
            },
        ),
        Asked("--reserve-memory 0", {"T.Resources.Reservations.MemoryBytes": 0}),
        Asked(
            "--log-driver local",
            {"T.LogDriver": {"Name": "local"}},
            {"HostConfig.LogConfig.Type": "local"},
        ),
        Asked(
            "--no-healthcheck",
            {"C.Healthcheck": {"Test": ["NONE"]}},
            {"Config.Healthcheck.Test": ["NONE"], "State.Health": None},
        ),
        # All clients take out before they put in.
        Asked(
            "--mount-rm /bind --mount-rm /tmpfs --mount-add type=tmpfs,target=/other",
            {"C.Mounts.0.Target": "/other", "C.Mounts.1.Target": "/volume", "C.Mounts.2": None},
            {"HostConfig.Mounts.2": None},
            by=("20.10", "newer"),
        ),
        Asked(
            "--mount-rm /bind --mount-rm /tmpfs --mount-add type=tmpfs,target=/other",
            {"C.Mounts.0.Target": "/volume", "C.Mounts.1.Target": "/other", "C.Mounts.2": None},
            {"HostConfig.Mounts.2": None},
            by=ESSAIM,
        ),
        Asked(
            "--constraint-rm node.hostname==h2 --constraint-add node.hostname==h3",
            {"T.Placement.Constraints": ["node.hostname==h3"]},
        ),
        Asked(
            "--placement-pref-rm spread=node.labels.zone "
            "--placement-pref-add spread=node.labels.rack",
            {"T.Placement.Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}]},
        ),
        Asked("--replicas-max-per-node 0", {"T.Placement.MaxReplicas": 0}),
        Asked(
            "--publish-rm target=80,mode=host --publish-add published=8082,target=81,mode=host",
            {
                "EndpointSpec.Ports": [
                    {
                        "Protocol": "tcp",
                        "TargetPort": 81,
                        "PublishedPort": 8082,
                        "PublishMode": "host",
                    }
                ]
            },
        ),
        Asked("--endpoint-mode vip", {"EndpointSpec.Mode": "vip"}),
        Asked(
            "--network-rm {network} --network-add {other_network}",
            {"T.Networks.0.Aliases": None, "T.Networks.1": None},
        ),
        Asked("--restart-window 5m", {"T.RestartPolicy.Window": 300 * SECOND_NS}),
        Asked(
            "--update-parallelism 0 --rollback-order stop-first",
            {
                "UpdateConfig": {**_RULES, "Parallelism": 0},
                "RollbackConfig": {**_RULES, "Order": "stop-first"},
            },
        ),
    ),
)  # fmt: skip

OURS = MatrixService(
    "ours",
    (),
    (
        Asked(
            "--device /dev/null:/dev/nix:r",
            {"C.Devices.0.PathInContainer": "/dev/nix"},
            {"HostConfig.Devices.0.CgroupPermissions": "r"},
            {"cat /dev/nix; echo $?": "0"},
        ),
        Asked(
            "--security-opt no-new-privileges",
            {"C.SecurityOpt": ["no-new-privileges"]},
            {"HostConfig.SecurityOpt": Holds(("no-new-privileges",))},
            {"grep NoNewPrivs /proc/self/status | tr -d '\\t'": "NoNewPrivs:1"},
        ),
        Asked("--shm-size 32m", {"C.ShmSize": 32 * MIB}, {"HostConfig.ShmSize": 32 * MIB}),
        Asked("--pid host", {"C.PidMode": "host"}, {"HostConfig.PidMode": "host"}),
        Asked("--ipc shareable", {"C.IpcMode": "shareable"}, {"HostConfig.IpcMode": "shareable"}),
        Asked(
            "--constraint node.hostname==h1 --cgroup-parent {cgroup}/group",
            {},
            {"HostConfig.CgroupParent": "{cgroup}/group"},
        ),
        Asked(
            "--limit-memory 64m --memory-swap 32m",
            {"T.Resources.SwapBytes": 32 * MIB},
            {"HostConfig.MemorySwap": 96 * MIB},
        ),
        Asked("--pull never", {"C.PullPolicy": "never"}),
        Asked(
            "--startup tcp:80 --readiness http:80/ --liveness exec:true",
            {"C.Probes.Liveness.Exec.Command": ["true"], "C.Probes.Startup.TCP.Port": 80},
            {"Config.Healthcheck": None},
        ),
        Asked("--pre-stop 'echo bye'", {"C.PreStop.Command": ["echo", "bye"]}),
        Asked("--session-affinity client-ip", {"EndpointSpec.Affinity": "client-ip"}),
        Asked("--publish-force", {"EndpointSpec.ForcePorts": True}),
        Asked("--stop-when-cut-off 1m", {"T.StopWhenCutOff": 60 * SECOND_NS}),
        Asked("--restart-backoff-max 1m", {"T.RestartPolicy.BackoffMax": 60 * SECOND_NS}),
        Asked(
            "--update-deadline 1m --update-steps 50%,100%",
            {"UpdateConfig.ProgressDeadline": 60 * SECOND_NS, "UpdateConfig.Steps": [50, 100]},
        ),
    ),
    (
        Asked("--device-rm /dev/nix", {"C.Devices": None}, {"HostConfig.Devices": None}),
        Asked(
            "--security-opt-rm no-new-privileges --shm-size '' --pid '' --ipc ''",
            {"C.SecurityOpt": None, "C.ShmSize": None, "C.PidMode": None, "C.IpcMode": None},
            {"HostConfig.SecurityOpt": None, "HostConfig.ShmSize": 64 * MIB,
             "HostConfig.PidMode": "", "HostConfig.IpcMode": "private"},
        ),
        Asked("--cgroup-parent ''", {"C.CgroupParent": None}, {"HostConfig.CgroupParent": None}),
        Asked(
            "--session-affinity none --publish-force=false",
            {"EndpointSpec.Affinity": None, "EndpointSpec.ForcePorts": None},
        ),
        Asked("--memory-swap=-1", {"T.Resources.SwapBytes": -1}, {"HostConfig.MemorySwap": -1}),
        Asked(
            "--startup '' --readiness '' --liveness '' --pre-stop ''",
            {"C.Probes": None, "C.PreStop": None},
        ),
        Asked(
            "--stop-when-cut-off '' --restart-backoff-max '' --update-steps ''",
            {"T.StopWhenCutOff": None, "T.RestartPolicy.BackoffMax": None,
             "UpdateConfig.Steps": None},
        ),
    ),
    by=ESSAIM,
)  # fmt: skip

SERVICES = (PROCESS, AROUND, OURS)
