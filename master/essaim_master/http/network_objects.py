"""Networks in the shapes of Docker's Engine API, and what services and tasks show of them. Pure.

Docker's fields come first, to the last one; `VipSubnet` and `MTU` are Essaim's. Source: moby
api/types/network, daemon/cluster/convert/network.go.
"""

from collections.abc import Container, Mapping
from typing import Any

import msgspec

from essaim_master.state.cluster_state import ClusterState
from essaim_master.state.network_uses import HOST_NETWORK, services_on
from essaim_master.state.port_claims import named_ports
from essaim_shared.clock import rfc3339
from essaim_shared.ids import NetworkId, ServiceId
from essaim_shared.objects import Attachment, Network, Service, ServiceAddresses
from essaim_shared.spec import EndpointSpec, PortConfig, ServiceSpec
from essaim_shared.task_state import TaskState

DockerObject = dict[str, Any]

VNI_OPTION = "com.docker.network.driver.overlay.vxlanid_list"


def network_object(network: Network) -> DockerObject:
    """As `docker network inspect` and `ls` show it."""
    docker: DockerObject = {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_ns),
        "Scope": "swarm",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": _ipam_config(network)},
        "Internal": network.is_internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": _options(network),
        "Labels": network.labels,
    }
    if network.driver != HOST_NETWORK:
        docker["VipSubnet"] = network.vip_subnet
        docker["MTU"] = network.mtu
    return docker


def _ipam_config(network: Network) -> list[DockerObject]:
    if not network.subnet:
        return []
    config = {"Subnet": network.subnet}
    if network.ip_range:
        config["IPRange"] = network.ip_range
    return [config]


def _options(network: Network) -> dict[str, str]:
    if network.driver == HOST_NETWORK:
        return {}
    return {VNI_OPTION: str(network.vni), **network.options}


def verbose_network_object(
    state: ClusterState, shown: Container[ServiceId], network: Network
) -> DockerObject:
    """With `verbose=true`: those of the services on the network that are shown, with their running
    tasks, and the nodes that have an address on it."""
    peers = [
        {"Name": gateway.node_id, "IP": _node_address(state, gateway.node_id)}
        for gateway in state.gateways.values()
        if gateway.network_id == network.id
    ]
    services = {
        service.spec.name: _service_on(state, service, network)
        for service in services_on(state, network)
        if service.id in shown
    }
    return {**network_object(network), "Peers": peers, "Services": services}


def _service_on(state: ClusterState, service: Service, network: Network) -> DockerObject:
    addresses = state.service_addresses.get(service.id)
    vip = next(
        (
            virtual.address
            for virtual in (() if addresses is None else addresses.virtual_addresses)
            if virtual.network_id == network.id
        ),
        "",
    )
    tasks = [
        {
            "Name": f"{task.name}.{task.id}",
            "EndpointID": task.id,
            "EndpointIP": attachment.address,
            "Info": {"Host IP": _node_address(state, task.node_id)},
        }
        for task in state.tasks_of_service(service.id).values()
        if state.observed(task.id) is TaskState.RUNNING
        for attachment in task.attachments
        if attachment.network_id == network.id
    ]
    ports = [] if addresses is None else addresses.ports
    return {
        "VIP": vip,
        "Ports": [f"{port.published_port}:{port.target_port}/{port.protocol}" for port in ports],
        "LocalLBIndex": 0,
        "Tasks": tasks,
    }


def _node_address(state: ClusterState, node_id: Any) -> str:
    status = state.node_status.get(node_id)
    return "" if status is None else status.description.address


def attachment_object(
    attachment: Attachment, networks: Mapping[NetworkId, Network]
) -> DockerObject:
    """A task's place on a network (swarm.NetworkAttachment)."""
    network = networks.get(attachment.network_id)
    if network is None:
        return {"Network": {"ID": attachment.network_id}, "Addresses": [attachment.address]}
    spec: DockerObject = {"Name": network.name, "Labels": network.labels}
    spec["DriverConfiguration"] = {"Name": network.driver}
    if network.is_internal:
        spec["Internal"] = True
    configs = _ipam_config(network)
    spec["IPAMOptions"] = {"Driver": {"Name": "default"}, "Configs": configs}
    return {
        "Network": {
            "ID": network.id,
            "Version": {},
            "CreatedAt": rfc3339(network.created_ns),
            "UpdatedAt": rfc3339(network.created_ns),
            "Spec": {**spec, "Scope": "swarm"},
            "DriverState": {"Name": network.driver, "Options": _options(network)},
            "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": configs},
        },
        "Addresses": [_with_prefix(attachment.address, network.subnet)],
    }


def endpoint_object(
    spec: ServiceSpec,
    addresses: ServiceAddresses | None,
    networks: Mapping[NetworkId, Network],
) -> DockerObject:
    """`Endpoint` of a service: what was asked for, the ports that lead to it, chosen ones with
    their number as soon as the leader has given it, and its own addresses."""
    asked = spec.endpoint or EndpointSpec()
    docker: DockerObject = {"Spec": endpoint_spec_object(asked)}
    if asked.ports:
        named = named_ports(spec, "ingress")
        given = [
            port
            for port in (() if addresses is None else addresses.ports)
            if (port.protocol, port.published_port) not in named
        ]
        docker["Ports"] = [port_object(_with_number(port, given)) for port in asked.ports]
    virtual = () if addresses is None else addresses.virtual_addresses
    if virtual:
        docker["VirtualIPs"] = [
            {
                "NetworkID": one.network_id,
                "Addr": _with_prefix(one.address, networks[one.network_id].vip_subnet),
            }
            for one in virtual
            if one.network_id in networks
        ]
    return docker


def _with_number(port: PortConfig, given: list[PortConfig]) -> PortConfig:
    """A port that was left to the cluster, as the cluster chose it; each chosen one is used up."""
    if port.published_port or port.publish_mode == "host":
        return port
    for chosen in given:
        if msgspec.structs.replace(chosen, published_port=0) == port:
            given.remove(chosen)
            return chosen
    return port


def endpoint_spec_object(endpoint: EndpointSpec) -> DockerObject:
    """`EndpointSpec` with what Docker always shows."""
    docker: DockerObject = msgspec.to_builtins(endpoint)
    if endpoint.ports:
        docker["Ports"] = [port_object(port) for port in endpoint.ports]
    return docker


def port_object(port: PortConfig) -> DockerObject:
    always = {"Protocol": port.protocol, "PublishMode": port.publish_mode or "ingress"}
    return {**msgspec.to_builtins(port), **always}


def _with_prefix(address: str, subnet: str) -> str:
    return f"{address}/{subnet.rpartition('/')[2]}" if subnet else address
