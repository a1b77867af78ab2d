"""What a compose file makes of networks, secrets and services: Docker's JSON, name by name."""

import base64

import pytest

from essaim_cli.compose.conversion import stack_of
from essaim_cli.compose.errors import ComposeError

SECOND = 1_000_000_000
CONTAINER = "TaskTemplate.ContainerSpec"
LABEL = {"com.docker.stack.namespace": "s"}


def at(spec, path):
    for name in path.split("."):
        spec = spec.get(name) if isinstance(spec, dict) else spec[int(name)]
    return spec


def test_the_least_service(service):
    assert service("") == {
        "Name": "s_web",
        "Labels": {**LABEL, "com.docker.stack.image": "img"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "img", "Privileges": {}, "Labels": LABEL},
            "Resources": {},
            "Placement": {},
            "Networks": [{"Target": "s_default", "Aliases": ["web"]}],
        },
        "Mode": {"Replicated": {}},
        "EndpointSpec": {},
    }


@pytest.mark.parametrize(
    ("text", "path", "made"),
    [
        ("command: a 'b c'", f"{CONTAINER}.Args", ["a", "b c"]),
        ("command: [a, b c]", f"{CONTAINER}.Args", ["a", "b c"]),
        ("command: []", f"{CONTAINER}.Args", None),
        ("entrypoint: sh -c", f"{CONTAINER}.Command", ["sh", "-c"]),
        ("environment: {B: 1, A: }", f"{CONTAINER}.Env", ["A", "B=1"]),
        ("environment: [B=1, A, C=]", f"{CONTAINER}.Env", ["A", "B=1", "C="]),
        ("environment: [FROM_CALLER, 'HOME=']", f"{CONTAINER}.Env",
         ["FROM_CALLER=yes", "HOME=/users/me"]),
        ("environment: {A: 1.50, B: 1e21, C: 012}", f"{CONTAINER}.Env",
         ["A=1.5", "B=1e+21", "C=10"]),
        ("labels: [a=1, b]", f"{CONTAINER}.Labels", {**LABEL, "a": "1", "b": ""}),
        ("deploy: {labels: {a: }}", "Labels.a", ""),
        ("init: false", f"{CONTAINER}.Init", False),
        ("tty: true", f"{CONTAINER}.TTY", True),
        ("stdin_open: true", f"{CONTAINER}.OpenStdin", True),
        ("stop_grace_period: 0s", f"{CONTAINER}.StopGracePeriod", 0),
        ("isolation: default", f"{CONTAINER}.Isolation", "default"),
        ("sysctls: {net.core.somaxconn: 9}", f"{CONTAINER}.Sysctls", {"net.core.somaxconn": "9"}),
        ("ulimits: {nproc: 9}", f"{CONTAINER}.Ulimits", [{"Name": "nproc", "Soft": 9, "Hard": 9}]),
        ("oom_score_adj: -5", f"{CONTAINER}.OomScoreAdj", -5),
        ("cap_add: [net_admin]\ncap_drop: [NET_ADMIN, CHOWN]", f"{CONTAINER}.CapabilityDrop",
         ["CAP_CHOWN"]),
        ("dns_search: lan", f"{CONTAINER}.DNSConfig", {"Search": ["lan"]}),
        ("extra_hosts: {b: 1.1.1.1, a: 2.2.2.2}", f"{CONTAINER}.Hosts",
         ["2.2.2.2 a", "1.1.1.1 b"]),
        ("healthcheck: {test: x y}", f"{CONTAINER}.Healthcheck", {"Test": ["CMD-SHELL", "x y"]}),
        ("healthcheck: {disable: true}", f"{CONTAINER}.Healthcheck", {"Test": ["NONE"]}),
        ("tmpfs: /run", f"{CONTAINER}.Mounts", [{"Type": "tmpfs", "Target": "/run"}]),
        ("tmpfs: ['/run:size=1m,mode=1777,ro']", f"{CONTAINER}.Mounts",
         [{"Type": "tmpfs", "Target": "/run", "ReadOnly": True,
           "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}}]),
        ("volumes: ['./a:/b:ro']", f"{CONTAINER}.Mounts",
         [{"Type": "bind", "Source": "/stack/a", "Target": "/b", "ReadOnly": True}]),
        ("volumes: ['../a:/b']", f"{CONTAINER}.Mounts.0.Source", "/a"),
        ("volumes: ['~/a:/b']", f"{CONTAINER}.Mounts.0.Source", "/users/me/a"),
        ("volumes: [/a]", f"{CONTAINER}.Mounts", [{"Type": "volume", "Target": "/a"}]),
        ("volumes: [{type: bind, source: /a, target: /b, bind: {create_host_path: true}}]",
         f"{CONTAINER}.Mounts.0.BindOptions", {"CreateMountpoint": True}),
        ("volumes: [{type: image, source: i, target: /b, image: {subpath: x}}]",
         f"{CONTAINER}.Mounts.0.ImageOptions", {"Subpath": "x"}),
        ("volumes: [{type: tmpfs, target: /b, tmpfs: {size: 64m}}]",
         f"{CONTAINER}.Mounts.0.TmpfsOptions", {"SizeBytes": 64 << 20}),
        ("ports: [80]", "EndpointSpec.Ports",
         [{"Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress"}]),
        ("ports: ['81:80', '82:80/udp']", "EndpointSpec.Ports.1",
         {"Protocol": "udp", "TargetPort": 80, "PublishedPort": 82, "PublishMode": "ingress"}),
        ("ports: [22:22]", "EndpointSpec.Ports.0.PublishedPort", 22),
        ("ports: ['127.0.0.1:81:80']", "EndpointSpec.Ports.0.PublishedPort", 81),
        ("ports: [{target: 80, published: '81', mode: host}]", "EndpointSpec.Ports",
         [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 81, "PublishMode": "host"}]),
        ("deploy: {endpoint_mode: dnsrr}", "EndpointSpec", {"Mode": "dnsrr"}),
        ("deploy: {replicas: 0}", "Mode", {"Replicated": {"Replicas": 0}}),
        ("deploy: {mode: global}", "Mode", {"Global": {}}),
        ("deploy: {mode: replicated-job, replicas: 3}", "Mode",
         {"ReplicatedJob": {"MaxConcurrent": 3, "TotalCompletions": 3}}),
        ("deploy: {mode: global-job}", "Mode", {"GlobalJob": {}}),
        ("deploy:", "Mode", {"Replicated": {}}),
        ("deploy: {resources: {limits: {cpus: 0.5, memory: 1048576}}}",
         "TaskTemplate.Resources.Limits", {"NanoCPUs": SECOND // 2, "MemoryBytes": 1 << 20}),
        ("deploy: {update_config: {}}", "UpdateConfig", {"Parallelism": 1}),
        ("deploy: {update_config: {parallelism: 0, monitor: 1s}}", "UpdateConfig",
         {"Parallelism": 0, "Monitor": SECOND}),
        ("deploy: {restart_policy: {max_attempts: 0, window: 1m}}", "TaskTemplate.RestartPolicy",
         {"MaxAttempts": 0, "Window": 60 * SECOND}),
        ("restart: on-failure", "TaskTemplate.RestartPolicy", {"Condition": "on-failure"}),
        ("restart: on-failure:3", "TaskTemplate.RestartPolicy",
         {"Condition": "on-failure", "MaxAttempts": 3}),
        ("restart: always", "TaskTemplate.RestartPolicy", None),
        ("restart: always\ndeploy: {restart_policy: {condition: none}}",
         "TaskTemplate.RestartPolicy", {"Condition": "none"}),
        ("logging: {driver: local}", "TaskTemplate.LogDriver", {"Name": "local"}),
        ("logging: {options: {max-file: 3}}", "TaskTemplate.LogDriver",
         {"Options": {"max-file": "3"}}),
        ("deploy: {replicas: \"${N}\"}", "Mode", {"Replicated": {"Replicas": 2}}),
        ("tty: ${YES}", f"{CONTAINER}.TTY", True),
        ("ports: ['${N}:${N}']", "EndpointSpec.Ports.0.PublishedPort", 2),
        ("ports: [{target: \"${N}\"}]", "EndpointSpec.Ports.0.TargetPort", 2),
        ("deploy: {update_config: {max_failure_ratio: \"${RATIO}\"}}",
         "UpdateConfig.MaxFailureRatio", 0.25),
        ("user: ${N}", f"{CONTAINER}.User", "2"),
    ],
)  # fmt: skip
def test_a_key_makes_its_piece_of_the_specification(service, text, path, made):
    environment = {"HOME": "/users/me", "FROM_CALLER": "yes", "N": "2", "YES": "on", "RATIO": ".25"}
    assert at(service(text, environment=environment), path) == made


def test_volumes_of_the_stack_and_from_outside(service):
    top = """
volumes:
  own:
  labelled: {labels: {a: b}, driver: nfs, driver_opts: {o: rw}}
  named: {name: real}
  outside: {external: true}
  other: {external: {name: elsewhere}}
"""
    names = ("own", "labelled", "named", "outside", "other")
    listed = ", ".join(f"'{name}:/{name}'" for name in names)
    mounts = at(service(f"volumes: [{listed}]", top), f"{CONTAINER}.Mounts")
    assert [(mount["Source"], mount.get("VolumeOptions")) for mount in mounts] == [
        ("s_own", {"Labels": LABEL}),
        (
            "s_labelled",
            {
                "Labels": {"a": "b", **LABEL},
                "DriverConfig": {"Name": "nfs", "Options": {"o": "rw"}},
            },
        ),
        ("real", {"Labels": LABEL}),
        ("outside", {}),
        ("elsewhere", {}),
    ]


def test_networks_that_services_use_are_made_and_the_others_are_not(compose):
    stack = stack_of(
        "s",
        compose(
            """
services:
  web:
    image: img
    networks: {front: {aliases: [shop]}, given: , host: , default: }
  db: {image: img}
networks:
  default: {internal: true}
  front:
    name: chosen
    attachable: true
    labels: [a=b]
    driver_opts: {mtu: 1400}
    ipam: {config: [{subnet: 10.1.2.3/16, ip_range: 10.1.4.0/24, gateway: 10.1.0.1}]}
  given: {external: {name: other}}
  host: {external: true, name: host}
  unused: {}
"""
        ),
        read_file,
    )
    assert stack.networks == [
        {"Name": "s_default", "Driver": "overlay", "Labels": LABEL, "Internal": True},
        {
            "Name": "chosen",
            "Driver": "overlay",
            "Labels": {"a": "b", **LABEL},
            "Options": {"mtu": "1400"},
            "Attachable": True,
            "IPAM": {
                "Config": [
                    {"Subnet": "10.1.0.0/16", "IPRange": "10.1.4.0/24", "Gateway": "10.1.0.1"}
                ]
            },
        },
    ]
    assert stack.external_networks == ["other", "host"]
    web = next(one for one in stack.services if one["Name"] == "s_web")
    assert web["TaskTemplate"]["Networks"] == [
        {"Target": "chosen", "Aliases": ["shop", "web"]},
        {"Target": "host"},
        {"Target": "other", "Aliases": ["web"]},
        {"Target": "s_default", "Aliases": ["web"]},
    ]


def test_files_of_variables_stand_below_the_services_own(service):
    files = {"/stack/a.env": "A=1\nB=file\nFROM_CALLER\nEMPTY=\nNOWHERE\n", "/b.env": "B=later"}
    spec = service(
        "env_file: [a.env, /b.env]\nenvironment: {C: 3, A: own}", read_text=files.__getitem__
    )
    assert at(spec, f"{CONTAINER}.Env") == ["A=own", "B=later", "C=3", "EMPTY=", "FROM_CALLER=yes"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("volumes: ['nowhere:/x']", 'services.web.volumes[0]: undefined volume "nowhere"'),
        ("networks: [nowhere]", 'services.web.networks: undefined network "nowhere"'),
        ("image: ''", "services.web.image: no image specified"),
        ("deploy: {mode: global, replicas: 2}",
         "services.web.deploy.replicas: replicas can only be used with replicated"),
        ("restart: sometimes", "services.web: invalid restart policy: unknown policy 'sometimes'"),
        ("restart: on-failure:x", "services.web: invalid restart policy: maximum retry count"),
        ("healthcheck: {disable: true, test: x}",
         "services.web.healthcheck: test and disable can't be set at the same time"),
        ("volumes: [{type: tmpfs, source: x, target: /y}]",
         "services.web.volumes[0]: invalid tmpfs source, source must be empty"),
        ("volumes: [{type: bind, source: /x, target: /y, tmpfs: {size: 1}}]",
         "services.web.volumes[0]: tmpfs options are incompatible with type bind"),
        ("volumes: [{type: image, target: /y}]",
         "services.web.volumes[0]: invalid image source, source cannot be empty"),
        ("tmpfs: run", "services.web.tmpfs[0]: 'run' begins with no absolute path"),
        ("tmpfs: '/run:noexec'", "services.web.tmpfs[0]: the option 'noexec' is not supported"),
        ("tmpfs: '/run:mode=9'", "services.web.tmpfs[0]: invalid mode '9'"),
        ("cap_add: ['net admin']", "services.web.cap_add[0]: invalid capability"),
        ("deploy: {resources: {limits: {cpus: lots}}}",
         "services.web: invalid number of CPUs 'lots'"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_together_are_told_with_their_place(service, text, said):
    with pytest.raises(ComposeError) as refused:
        service(text)
    assert str(refused.value).startswith(said)


def read_file(path):
    return f"what is in {path}".encode()


def payloads(compose, *texts):
    stack = stack_of("s", compose(*texts), read_file)
    return stack, {
        body["Name"]: base64.b64decode(body["Data"]) for body in (*stack.secrets, *stack.configs)
    }


def test_secrets_and_configs_are_made_of_files_and_texts(compose):
    stack, data = payloads(
        compose,
        """
services: {web: {image: img, secrets: [a], configs: [{source: b, target: /etc/b, mode: 0440}]}}
secrets:
  a: {file: ./a.txt, labels: [x=y]}
  unused: {file: /abs/u, name: own}
  out: {external: true}
configs:
  b: {content: "${FROM_CALLER} $$x"}
""",
    )
    assert data == {
        "s_a": b"what is in /stack/a.txt",
        "own": b"what is in /abs/u",
        "s_b": b"yes $x",
    }
    assert stack.secrets[0]["Labels"] == {"x": "y", **LABEL}
    (web,) = stack.services
    container = web["TaskTemplate"]["ContainerSpec"]
    file = {"UID": "0", "GID": "0", "Mode": 0o444}
    assert container["Secrets"] == [{"SecretName": "s_a", "File": {"Name": "a", **file}}]
    assert container["Configs"] == [
        {"ConfigName": "s_b", "File": {"Name": "/etc/b", **file, "Mode": 0o440}}
    ]


def test_later_files_replace_and_add_secrets(compose):
    first = """
services: {web: {image: img, secrets: [{source: a, target: x}, b]}}
secrets: {a: {file: a}, b: {file: b}}
"""
    second = """
services: {web: {secrets: [a, c]}}
secrets: {b: {file: other}, c: {external: true, name: given}}
"""
    stack, data = payloads(compose, first, second)
    assert data == {"s_a": b"what is in /stack/a", "s_b": b"what is in /stack/other"}
    container = stack.services[0]["TaskTemplate"]["ContainerSpec"]
    assert [(one["SecretName"], one["File"]["Name"]) for one in container["Secrets"]] == [
        ("given", "c"),
        ("s_a", "a"),
        ("s_b", "b"),
    ]


def test_a_secret_that_cannot_be_is_named(compose):
    with pytest.raises(ComposeError) as refused:
        payloads(compose, "services: {web: {image: img, secrets: [nope]}}")
    assert str(refused.value) == 'services.web.secrets[0]: undefined secret "nope"'
    gone = compose("services: {web: {image: img}}\nsecrets: {a: {file: gone}}")

    def no_file(path):
        raise FileNotFoundError(2, "No such file or directory", path)

    with pytest.raises(ComposeError) as refused:
        stack_of("s", gone, no_file)
    assert str(refused.value) == "secrets.a: open /stack/gone: No such file or directory"
