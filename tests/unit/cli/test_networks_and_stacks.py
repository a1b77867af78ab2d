"""Networks and stacks from the command line to a real master's state, and back."""

import json

import pytest

FILE = """
services:
  web:
    image: img:${TAG:-1}
    ports: ["8080:80"]
    networks: [front, back]
    deploy: {replicas: 2, update_config: {monitor: 1ns}}
  db:
    image: img:1
    networks: {back: {aliases: [database]}}
    deploy: {update_config: {monitor: 1ns}}
networks:
  front:
  back: {internal: true}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "shop.yml"
    path.write_text(FILE)
    return str(path)


async def network(master, name):
    return json.loads(await master.ok("network", "inspect", name))[0]


async def test_a_network_comes_is_listed_and_goes(master):
    made = (await master.ok("network", "create", "--label", "a=1", "--internal", "front")).strip()
    found = await network(master, "front")
    assert found["Id"] == made
    assert found["Internal"] is True
    assert found["Labels"] == {"a": "1"}
    assert made[:12] in await master.ok("network", "ls", "-f", "label=a=1")
    assert "front" in await master.ok("network", "ls", "--format", "{{.Name}}")
    assert await master.ok("network", "rm", made[:12]) == f"{made[:12]}\n"
    gone = await master.run("network", "rm", "front")
    assert gone.code == 1
    assert "front not found" in gone.err


@pytest.mark.parametrize(
    "flags",
    [
        "--attachable",
        "--ipv6",
        "--ingress",
        "--config-only",
        "-d bridge",
        "--scope local",
        "-o encrypted",
        "--ipam-driver dhcp",
        "--config-from other",
        "--subnet 10.9.0.0/16 --gateway 10.9.0.1",
        "--ipv4=false",
    ],
)
async def test_what_the_masters_refuse_comes_with_a_reason(master, flags):
    done = await master.run("network", "create", *flags.split(), "front")
    assert done.code == 1, done
    assert done.err.startswith("Error: ")
    assert len(done.err.splitlines()) == 1
    assert done.out == ""


async def test_two_networks_of_one_name_or_subnet(master):
    await master.ok("network", "create", "--subnet", "10.77.0.0/16", "front")
    same = await master.run("network", "create", "front")
    assert (same.code, "front already exists" in same.err) == (1, True), same
    overlaps = await master.run("network", "create", "--subnet", "10.77.4.0/24", "back")
    assert overlaps.code == 1, overlaps


async def test_services_name_their_networks_and_show_them(master):
    for name in ("front", "back"):
        await master.ok("network", "create", name)
    flags = ["--network", "front", "--network", "name=back,alias=api", "-p", "8080:80"]
    await master.ok("service", "create", "-d", "--name", "web", *flags, "img")
    shown = await master.ok("service", "inspect", "--pretty", "web")
    assert "Networks:           front back\n" in shown
    assert "*:8080->80/tcp" in await master.ok("service", "ls")
    flags = ["--network-rm", "front", "--network-add", "name=back,alias=db"]
    affinity = ["--session-affinity", "client-ip", "--publish-force"]
    await master.ok("service", "update", "-d", *flags, *affinity, "web")
    (found,) = json.loads(await master.ok("service", "inspect", "web"))
    (attachment,) = found["Spec"]["TaskTemplate"]["Networks"]
    assert attachment == {"Target": (await network(master, "back"))["Id"], "Aliases": ["db"]}
    assert found["Spec"]["EndpointSpec"]["Affinity"] == "client-ip"
    assert found["Spec"]["EndpointSpec"]["ForcePorts"] is True
    await master.ok("service", "update", "-d", "--session-affinity", "none",
                    "--publish-force=false", "--publish-rm", "80", "web")  # fmt: skip
    (found,) = json.loads(await master.ok("service", "inspect", "web"))
    assert found["Spec"]["EndpointSpec"].get("Affinity") is None
    assert not found["Spec"]["EndpointSpec"].get("Ports")
    used = await master.run("network", "rm", "back")
    assert (used.code, "in use" in used.err) == (1, True), used


async def test_a_stack_from_its_file_to_its_end(master, file):
    done = await master.run("stack", "deploy", "-q", "-c", file, "shop")
    assert done.code == 0, done
    assert sorted(done.out.splitlines()) == [
        "Creating network shop_back",
        "Creating network shop_front",
        "Creating service shop_db",
        "Creating service shop_web",
    ]
    assert "shop   2" in await master.ok("stack", "ls")
    assert "shop_web" in await master.ok("stack", "services", "shop")
    assert "shop_web.2" in await master.ok("stack", "ps", "shop")
    assert (await network(master, "shop_back"))["Internal"] is True
    again = await master.run("stack", "deploy", "-d", "-c", file, "shop", TAG="2")
    assert again.code == 0, again
    assert [line.split(" (")[0] for line in sorted(again.out.splitlines())] == [
        "Keeping service shop_db",
        "Updating service shop_web",
    ]
    assert (await master.ok("stack", "rm", "shop")).splitlines() == [
        "Removing service shop_db",
        "Removing service shop_web",
        "Removing network shop_back",
        "Removing network shop_front",
    ]
    gone = await master.run("stack", "rm", "shop")
    assert (gone.code, gone.err) == (0, "Nothing found in stack: shop\n")
    assert await master.ok("stack", "ls") == "NAME   SERVICES\n"


async def test_services_that_left_the_file_go_when_asked(master, file, tmp_path):
    await master.ok("stack", "deploy", "-d", "-c", file, "shop")
    less = tmp_path / "less.yml"
    less.write_text(FILE.replace("  web:\n", "  other:\n"))
    done = await master.ok("stack", "deploy", "-d", "--prune", "-c", str(less), "shop")
    assert "Removing service shop_web" in done.splitlines()
    assert "Creating service shop_other" in done.splitlines()


async def test_a_mistake_in_one_service_makes_nothing(master, tmp_path):
    path = tmp_path / "bad.yml"
    path.write_text(FILE.replace("replicas: 2", "replicas: 200000"))
    done = await master.run("stack", "deploy", "-c", str(path), "shop")
    assert done.code == 1
    assert "service shop_web: " in done.err
    assert await master.ok("stack", "ls") == "NAME   SERVICES\n"
    assert "shop" not in await master.ok("network", "ls")
