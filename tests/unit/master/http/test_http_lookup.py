"""What a user may type for an object: its id, its name, the beginning of its id."""

import pytest

from essaim_master.http.lookup import find_network, find_node, find_service, find_task
from essaim_shared.errors import AmbiguousName, NotFound


async def test_a_service_is_found_by_id_name_and_prefix(world) -> None:
    web = await world.create("web")
    await world.create("api")
    for reference in (web.id, "web", web.id[:8]):
        assert find_service(world.state, reference) == web


async def test_a_name_goes_before_a_prefix(world) -> None:
    web = await world.create("web")
    named_as_prefix = await world.create(web.id[:4])
    assert find_service(world.state, web.id[:4]) == named_as_prefix


async def test_what_fits_nothing_is_not_found(world) -> None:
    await world.create("web")
    for reference in ("nope", "we", ""):
        with pytest.raises(NotFound, match=f"^service {reference} not found$"):
            find_service(world.state, reference)


async def test_a_prefix_of_several_is_ambiguous(world) -> None:
    while not _shared_first_letter(world.state.services):
        await world.create(f"s{len(world.state.services)}")
    letter = _shared_first_letter(world.state.services)
    with pytest.raises(
        AmbiguousName, match=rf"^service {letter} is ambiguous \(2 matches found\)$"
    ):
        find_service(world.state, letter)


def _shared_first_letter(ids):
    letters = [identifier[0] for identifier in ids]
    return next((letter for letter in letters if letters.count(letter) == 2), None)


async def test_a_node_is_found_by_host_name_unless_two_have_it(world) -> None:
    first = await world.add_node(1)
    assert find_node(world.state, "h1").id == first
    assert find_node(world.state, first[:6]).id == first
    await world.add_node(1)
    with pytest.raises(AmbiguousName, match="node h1 is ambiguous"):
        find_node(world.state, "h1")
    assert find_node(world.state, first).id == first


async def test_a_task_is_found_by_id_full_name_and_prefix(world) -> None:
    node = await world.add_node(1)
    task = await world.add_task(await world.create("web"), 2, node)
    for reference in (task.id, f"web.2.{task.id}", task.id[:9]):
        assert find_task(world.state, reference) == task
    for reference in ("web.2", f"web.3.{task.id}", "nope", ""):
        with pytest.raises(NotFound):
            find_task(world.state, reference)


async def test_a_network_is_found_by_id_name_and_prefix(world) -> None:
    for reference in (world.network_id, "default", world.network_id[:5]):
        assert find_network(world.state, reference).id == world.network_id
    with pytest.raises(NotFound, match="network ingress not found"):
        find_network(world.state, "ingress")
