"""What no stack can be made of: told in a line, with the place in the file."""

import pytest

from essaim_cli.compose.errors import ComposeError

IN_A_SERVICE = [
    ("image: 3", "image: must be a string"),
    ("nonsense: 1", "Additional property nonsense is not allowed"),
    ('"a\\nb": 1', r"Additional property 'a\nb' is not allowed"),
    ("user: 1000", "user: must be a string"),
    ("command: {a: b}", "command: must be a string or list"),
    ("command: [1]", "command[0]: must be a string"),
    ("command: \"a 'b\"", "command: No closing quotation: quotes must come in pairs"),
    ("environment:", "environment: must be a mapping or list"),
    ("environment: {A: true}", "environment.A: must be a string, number or null"),
    ("environment: {A: [b]}", "environment.A: must be a string, number or null"),
    ("environment: [1]", "environment[0]: must be a string"),
    ("env_file: nowhere.env", "env_file[0]: cannot read nowhere.env: No such file or directory"),
    ("labels: 3", "labels: must be a mapping or list"),
    ("tty: 'yes'", "tty: must be a boolean"),
    ("tty: ${N}", "tty: must be a boolean"),
    ("read_only: 1", "read_only: must be a boolean"),
    ("ports: 80", "ports: must be a list"),
    ("ports: [true]", "ports[0]: must be a port"),
    ("ports: ['80:x']", "ports[0]: invalid target port (x)"),
    ("ports: ['1', '70000']", "ports[1]: invalid target port (70000)"),
    ("ports: ['80-82:80-81']", "ports[0]: invalid ranges"),
    ("ports: ['80/icmp']", "ports[0]: invalid protocol value 'icmp'"),
    ("ports: ['target=80']", "ports[0]: invalid target port (target=80)"),
    ("ports: [{published: 80}]", "ports[0]: a port needs its target"),
    ("ports: [{target: 80, mode: lan}]", "ports[0].mode: must be ingress or host, not 'lan'"),
    ("ports: [{target: 80, host_ip: 1.1.1.1}]",
     "ports[0]: Additional property host_ip is not allowed"),
    ("ports: [{target: 70000}]", "ports[0].target: 70000 is no port"),
    ("ports: [{target: x}]", "ports[0].target: must be an integer"),
    ("volumes: {a: b}", "volumes: must be a list"),
    ("volumes: ['']", "volumes[0]: invalid empty volume spec"),
    ("volumes: ['a:']", "volumes[0]: invalid spec: a:: empty section between colons"),
    ("volumes: [':/a']", "volumes[0]: invalid spec: :/a: empty section"),
    ("volumes: ['a:/b:ro:rw']", "volumes[0]: invalid spec: a:/b:ro:rw: too many colons"),
    ("volumes: [{type: npipe, target: a}]", "volumes[0].type: must be volume or bind"),
    ("volumes: [{type: volume}]", "volumes[0]: a volume needs its target"),
    ("volumes: [{type: bind, target: /a}]", "volumes[0]: invalid mount config for type \"bind\""),
    ("volumes: ['~/a:/b']", "volumes[0]: cannot expand '~', because the environment lacks HOME"),
    ("volumes: [3]", "volumes[0]: must be a mapping"),
    ("networks: front", "networks: must be a list or mapping"),
    ("networks: [1]", "networks[0]: must be a string"),
    ("networks: {a b: }", "networks: Additional property a b is not allowed"),
    ("networks: {a: {weight: 1}}", "networks.a: Additional property weight is not allowed"),
    ("networks: {a: {aliases: x}}", "networks.a.aliases: must be a list"),
    ("healthcheck: {interval: 5}", "healthcheck.interval: must be a string"),
    ("healthcheck: {interval: soon}", "healthcheck.interval: invalid duration 'soon'"),
    ("healthcheck: {retries: -1}", "healthcheck.retries: must not be negative: -1"),
    ("healthcheck: {test: 3}", "healthcheck.test: must be a string or list"),
    ("stop_grace_period: 10", "stop_grace_period: must be a string"),
    ("ulimits: {nofile: {soft: 1}}", "ulimits.nofile: hard is required"),
    ("ulimits: {nofile: x}", "ulimits.nofile: must be an integer"),
    ("dns: here", "dns: 'here' is no IP address"),
    ("extra_hosts: ['db']", "extra_hosts[0]: '' is no IP address"),
    ("extra_hosts: ['db:here']", "extra_hosts[0]: 'here' is no IP address"),
    ("logging: {driver: 1}", "logging.driver: must be a string"),
    ("logging: {options: [a=b]}", "logging.options: must be a mapping"),
    ("credential_spec: {file: x}", "credential_spec: credential specs are for Windows"),
    ("secrets: key", "secrets: must be a list"),
    ("secrets: [{target: x}]", "secrets[0]: source is required"),
    ("secrets: [{source: x, uid: 3}]", "secrets[0].uid: must be a string"),
    ("configs: [{source: x, mode: -1}]", "configs[0].mode: must not be negative"),
    ("configs: [{source: x, owner: me}]", "configs[0]: Additional property owner"),
    ("deploy: 3", "deploy: must be a mapping"),
    ("deploy: {replicas: two}", "deploy.replicas: must be an integer"),
    ("deploy: {replicas: -1}", "deploy.replicas: must not be negative"),
    ("deploy: {replicas: true}", "deploy.replicas: must be an integer"),
    ("deploy: {mode: worldwide}", "deploy.mode: must be replicated or global"),
    ("deploy: {resources: {limits: {memory: lots}}}",
     "deploy.resources.limits.memory: invalid size 'lots'"),
    ("deploy: {resources: {limits: {cpus: [1]}}}",
     "deploy.resources.limits.cpus: must be a string"),
    ("deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
     "deploy.resources.reservations.devices: nodes do not hand out GPUs yet"),
    ("deploy: {update_config: {order: sideways}}",
     "deploy.update_config.order: must be start-first or stop-first"),
    ('deploy: {update_config: {max_failure_ratio: "${N}x"}}',
     "deploy.update_config.max_failure_ratio: must be a number"),
    ('deploy: {update_config: {max_failure_ratio: "${BIG}"}}',
     "deploy.update_config.max_failure_ratio: must be a number"),
    ("deploy: {placement: {constraints: x}}", "deploy.placement.constraints: must be a list"),
    ("image: ${UNSET:?give an image}",
     "image: required variable UNSET is missing a value: give an image"),
    ("image: a$", 'image: invalid interpolation format: "a$"'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), IN_A_SERVICE, ids=str)
def test_a_bad_key_of_a_service(service, text, said):
    with pytest.raises(ComposeError) as refused:
        service(text, environment={"N": "2", "BIG": "1e999"})
    told = str(refused.value)
    assert told.startswith(("services.web.", "services.web: "))
    assert said in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("services: [web]", "services: must be a mapping"),
        ("services:", "services: must be a mapping"),
        ("services: {web: }", "services.web: must be a mapping"),
        ("services: {'a b': {image: x}}", "services: Additional property a b is not allowed"),
        ("nonsense: {}", "nonsense: Additional property nonsense is not allowed"),
        ("include: [x.yml]", "include: Additional property include is not allowed"),
        ("version: '2.4'", "version: unsupported Compose file version: 2.4"),
        ("version: 3.8", 'version: must be a string: write "3.8" in quotes'),
        ("version: 'x'", "version: unsupported Compose file version: x"),
        ("networks:", "networks: must be a mapping"),
        ("networks: {a: 3}", "networks.a: must be a mapping"),
        ("networks: {a: {external: maybe}}", "networks.a.external: must be a boolean"),
        ("networks: {a: {name: x, external: {name: y}}}",
         "networks.a: external.name and name conflict; only use name"),
        ("networks: {a: {enable_ipv6: true}}",
         "networks.a: Additional property enable_ipv6 is not allowed"),
        ("networks: {a: {ipam: {config: [{subnet: here}]}}}",
         "networks.a.ipam.config[0].subnet: 'here' is no subnet"),
        ("networks: {a: {ipam: {config: [{gateway: here}]}}}",
         "networks.a.ipam.config[0].gateway: 'here' is no IP address"),
        ("networks: {a: {driver_opts: {b: [c]}}}",
         "networks.a.driver_opts.b: must be a string, number or null"),
        ("volumes: {a: {external: true, driver: x}}",
         'volumes.a: conflicting parameters "external" and "driver"'),
        ("secrets: {a: {}}", "secrets.a: it needs a file"),
        ("secrets: {a: {file: x, content: y}}", "secrets.a: Additional property content"),
        ("configs: {a: {file: x, content: y}}", "configs.a: it needs a file, or to be external"),
        ("secrets: {a: {file: x, external: true}}",
         'secrets.a: conflicting parameters "external" and "file" specified'),
        ("secrets: {a: {driver: vault}}", "secrets.a.driver: Essaim keeps the data itself"),
        ("configs: {a: {template_driver: golang, file: x}}",
         "configs.a.template_driver: there are no templates"),
        ("secrets: {a/b: {file: x}}", "secrets: Additional property a/b"),
    ],
)  # fmt: skip
def test_a_bad_file(compose, text, said):
    with pytest.raises(ComposeError) as refused:
        compose(text)
    assert str(refused.value).startswith(said)


def test_what_says_nothing_of_secrets_is_no_reason_to_refuse(compose):
    assert compose("services: {web: {image: x, secrets: []}}\nsecrets: {}\nx-own: 1").services


def test_what_docker_forbids_is_told_with_what_to_write(compose):
    with pytest.raises(ComposeError) as refused:
        compose("services: {a: {image: x, extends: b}, c: {image: x, mem_limit: 1g}}")
    assert str(refused.value) == (
        "compose file contains unsupported options:\n\n"
        "extends: Support for `extends` is not implemented yet.\n\n"
        "mem_limit: Set resource limits using deploy.resources"
    )


def test_what_has_no_effect_is_named_once(compose):
    found = compose(
        """
name: shop
services:
  a: {image: x, build: ., restart: always, privileged: true, depends_on: {b: {condition: x}}}
  b: {image: x, build: {context: .}, container_name: c, expose: [80], ports: ["127.0.0.1:1:1"]}
  c: {image: x, restart: on-failure, networks: {n: {ipv4_address: 10.0.0.1}}}
networks: {n: }
"""
    )
    assert found.warnings == (
        "Ignoring unsupported options: build, depends_on, ipv4_address, name, privileged, restart",
        "Ignoring deprecated options:\n\n"
        "container_name: Setting the container name is not supported.\n\n"
        "expose: Exposing ports is unnecessary - services on the same network can access each "
        "other's containers on any port.",
        "Ignoring the IP address of the port 127.0.0.1:1:1: it is open on all addresses of the "
        "nodes",
    )


def test_a_restart_on_failure_counts_and_is_not_said_to_be_ignored(compose):
    assert compose("services: {a: {image: x, restart: on-failure:3}}").warnings == ()
