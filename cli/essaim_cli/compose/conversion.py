"""Compose files → Docker's JSON: bodies of networks, secrets and configs, specifications
of services. Pure.

Names get the stack's in front (`STACK_web`), every object gets the stack's label, and a service
is known by its short name on each of its networks (docker/cli, cli/compose/convert). Nothing is
said that the files do not say, but for what Docker's client always sends.
"""

import dataclasses
from typing import Any

from essaim_cli.compose.container import container_spec
from essaim_cli.compose.errors import ComposeError
from essaim_cli.compose.loading import Compose
from essaim_cli.compose.payloads import ReadBytes, payload_bodies, payload_references
from essaim_cli.grammar.fields import present
from essaim_cli.units import parse_cpus, parse_duration

Json = dict[str, Any]

NAMESPACE_LABEL = "com.docker.stack.namespace"
IMAGE_LABEL = "com.docker.stack.image"
DEFAULT_NETWORK = "default"
DRIVER_DEFAULT = "overlay"
NODE_NETWORKS = frozenset({"host", "none", "bridge"})
"""Of every node: without aliases, and never made."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stack:
    """What a deployment asks for, in Docker's words."""

    networks: list[Json]
    """Bodies of POST /networks/create."""
    services: list[Json]
    external_networks: list[str]
    """Names of networks that have to be there."""
    secrets: list[Json]
    """Bodies of POST /secrets/create, as the next."""
    configs: list[Json]


def stack_of(name: str, compose: Compose, read_bytes: ReadBytes) -> Stack:
    """`read_bytes` is for the files of secrets and configs. Raises ComposeError where
    the parts of the files do not fit together."""
    used: set[str] = set()
    services = []
    for service_name, service in compose.services.items():
        try:
            services.append(_service(name, service_name, service, compose))
        except ValueError as error:
            raise ComposeError(f"services.{service_name}", str(error)) from error
        used.update(service.get("networks") or {DEFAULT_NETWORK: None})
    networks, external = [], []
    for network_name in sorted(used):
        network = compose.networks.get(network_name, {})
        if network.get("external"):
            external.append(network["name"])
        else:
            networks.append(_network(name, network_name, network))
    labels = {NAMESPACE_LABEL: name}
    return Stack(
        networks,
        services,
        external,
        payload_bodies(name, "secret", compose.secrets, labels, read_bytes),
        payload_bodies(name, "config", compose.configs, labels, read_bytes),
    )


def scoped(stack: str, name: str) -> str:
    return f"{stack}_{name}"


def _network(stack: str, name: str, network: Json) -> Json:
    ipam = network.get("ipam") or {}
    configuration = [
        present(
            {
                "Subnet": one.get("subnet"),
                "IPRange": one.get("ip_range"),
                "Gateway": one.get("gateway"),
            }
        )
        for one in ipam.get("config", ())
    ]
    return {
        "Name": network.get("name") or scoped(stack, name),
        "Driver": network.get("driver") or DRIVER_DEFAULT,
        "Labels": {**network.get("labels", {}), NAMESPACE_LABEL: stack},
        **present(
            {
                "Options": network.get("driver_opts"),
                "Internal": network.get("internal"),
                "Attachable": network.get("attachable"),
                "IPAM": present({"Driver": ipam.get("driver"), "Config": configuration}),
            }
        ),
    }


def _service(stack: str, name: str, service: Json, compose: Compose) -> Json:
    image = service.get("image", "")
    if not image:
        raise ComposeError(f"services.{name}.image", "no image specified")
    deploy = service.get("deploy", {})
    labels = {NAMESPACE_LABEL: stack}
    return {
        "Name": scoped(stack, name),
        "Labels": {**deploy.get("labels", {}), **labels, IMAGE_LABEL: image},
        "TaskTemplate": {
            "ContainerSpec": {
                **container_spec(stack, name, service, compose.volumes, labels),
                **_payloads(stack, name, service, compose),
            },
            "Resources": _resources(deploy.get("resources", {})),
            "Placement": _placement(deploy.get("placement", {})),
            "Networks": _attachments(stack, name, service, compose.networks),
            **present(
                {
                    "RestartPolicy": _restart_policy(service, deploy.get("restart_policy")),
                    "LogDriver": _log_driver(service.get("logging", {})),
                }
            ),
        },
        "Mode": _mode(name, deploy),
        "EndpointSpec": _endpoint(deploy, service.get("ports", ())),
        **present(
            {
                "UpdateConfig": _update_config(deploy.get("update_config")),
                "RollbackConfig": _update_config(deploy.get("rollback_config")),
            }
        ),
    }


def _payloads(stack: str, name: str, service: Json, compose: Compose) -> Json:
    path = f"services.{name}"
    secrets = payload_references(stack, path, "secret", service, compose.secrets)
    configs = payload_references(stack, path, "config", service, compose.configs)
    return present({"Secrets": secrets, "Configs": configs})


def _attachments(stack: str, name: str, service: Json, networks: Json) -> list[Json]:
    found = []
    for network_name, attachment in (service.get("networks") or {DEFAULT_NETWORK: None}).items():
        network = networks.get(network_name)
        if network is None and network_name != DEFAULT_NETWORK:
            raise ComposeError(f"services.{name}.networks", f'undefined network "{network_name}"')
        target = (network or {}).get("name") or scoped(stack, network_name)
        said = attachment or {}
        aliases = list(said.get("aliases", ()))
        if target not in NODE_NETWORKS:
            aliases.append(name)
        found.append(
            {
                "Target": target,
                **present({"Aliases": aliases, "DriverOpts": said.get("driver_opts")}),
            }
        )
    return sorted(found, key=lambda one: str(one["Target"]))


def _mode(name: str, deploy: Json) -> Json:
    mode, replicas = deploy.get("mode", "replicated"), deploy.get("replicas")
    if mode in ("global", "global-job"):
        if replicas is not None:
            raise ComposeError(
                f"services.{name}.deploy.replicas",
                "replicas can only be used with replicated or replicated-job mode",
            )
        return {"Global" if mode == "global" else "GlobalJob": {}}
    if mode == "replicated-job":
        counts = {} if replicas is None else {"MaxConcurrent": replicas}
        return {
            "ReplicatedJob": {
                **counts,
                **dict.fromkeys(["TotalCompletions"] * len(counts), replicas),
            }
        }
    return {"Replicated": {} if replicas is None else {"Replicas": replicas}}


def _endpoint(deploy: Json, ports: Any) -> Json:
    found = [
        {
            "Protocol": port.get("protocol", "tcp"),
            "TargetPort": port["target"],
            **({"PublishedPort": port["published"]} if port.get("published") else {}),
            "PublishMode": port.get("mode", "ingress"),
        }
        for port in ports
    ]
    found.sort(
        key=lambda port: (
            port.get("PublishedPort", 0),
            port["Protocol"],
            port["TargetPort"],
            port["PublishMode"],
        )
    )
    return present({"Mode": deploy.get("endpoint_mode", "").lower(), "Ports": found})


def _resources(resources: Json) -> Json:
    found: Json = {}
    for kind, group in (("limits", "Limits"), ("reservations", "Reservations")):
        if kind in resources:
            said = resources[kind]
            found[group] = present(
                {
                    "NanoCPUs": parse_cpus(said["cpus"]) if said.get("cpus") else None,
                    "MemoryBytes": int(said["memory"]) if said.get("memory") else None,
                    "Pids": said.get("pids"),
                    "GenericResources": [
                        {
                            "DiscreteResourceSpec": {
                                "Kind": one["discrete_resource_spec"].get("kind", ""),
                                "Value": one["discrete_resource_spec"].get("value", 0),
                            }
                        }
                        for one in said.get("generic_resources", ())
                        if "discrete_resource_spec" in one
                    ],
                }
            )
    return found


def _placement(placement: Json) -> Json:
    return present(
        {
            "Constraints": placement.get("constraints"),
            "Preferences": [
                {"Spread": {"SpreadDescriptor": one.get("spread", "")}}
                for one in placement.get("preferences", ())
            ],
            "MaxReplicas": placement.get("max_replicas_per_node") or None,
        }
    )


def _restart_policy(service: Json, policy: Json | None) -> Json | None:
    """The older `restart` counts where there is no policy; all but `on-failure` say what is the
    default anyway."""
    if policy is not None:
        return present(
            {
                "Condition": policy.get("condition"),
                "Delay": _nanoseconds(policy.get("delay")),
                "MaxAttempts": policy.get("max_attempts"),
                "Window": _nanoseconds(policy.get("window")),
            }
        )
    word, separator, attempts = service.get("restart", "").partition(":")
    if word not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise ValueError(
            f"invalid restart policy: unknown policy '{word}' (must be one of 'no', 'always', "
            "'unless-stopped', or 'on-failure')"
        )
    if word != "on-failure":
        return None
    if separator and not (attempts.isascii() and attempts.isdigit() and len(attempts) <= 9):
        raise ValueError("invalid restart policy: maximum retry count must be a whole number")
    return {"Condition": word, **({"MaxAttempts": int(attempts)} if int(attempts or 0) else {})}


def _update_config(config: Json | None) -> Json | None:
    if config is None:
        return None
    return {
        "Parallelism": config.get("parallelism", 1),
        **present(
            {
                "Delay": _nanoseconds(config.get("delay")),
                "FailureAction": config.get("failure_action"),
                "Monitor": _nanoseconds(config.get("monitor")),
                "MaxFailureRatio": config.get("max_failure_ratio"),
                "Order": config.get("order"),
            }
        ),
    }


def _log_driver(logging: Json) -> Json | None:
    """Options without a driver are those of the engine's own, which has no name here."""
    return present({"Name": logging.get("driver"), "Options": logging.get("options")})


def _nanoseconds(duration: str | None) -> int | None:
    return None if duration is None else parse_duration(duration)
