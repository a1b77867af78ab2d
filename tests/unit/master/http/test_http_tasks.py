"""`/tasks`: what `docker service ps` and the converge display read."""

from essaim_shared.task_state import TaskState


async def ids(world, query=""):
    answer = await world.get(f"/v1.41/tasks{query}")
    assert answer.status == 200, answer.body
    return {shown["ID"] for shown in answer.json}


async def test_filters_by_service_and_node_take_names_and_ids(world) -> None:
    one, two = await world.add_node(1), await world.add_node(2)
    web, api = await world.create("web"), await world.create("api")
    first = await world.add_task(web, 1, one)
    second = await world.add_task(web, 2, two)
    third = await world.add_task(api, 1, one)
    assert await ids(world) == {first.id, second.id, third.id}
    for word in ("web", web.id, web.id[:10]):
        assert await ids(world, f'?filters={{"service":{{"{word}":true}}}}') == {
            first.id,
            second.id,
        }
    assert await ids(world, '?filters={"service":["web","api","web"]}') == {
        first.id,
        second.id,
        third.id,
    }
    assert await ids(world, '?filters={"node":["h1"]}') == {first.id, third.id}
    assert await ids(world, '?filters={"node":["h1"],"service":["api"]}') == {third.id}


async def test_a_filter_for_what_does_not_exist_is_not_found(world) -> None:
    for kind in ("service", "node"):
        answer = await world.get(f'/tasks?filters={{"{kind}":["nope"]}}')
        assert (answer.status, answer.message) == (404, f"{kind} nope not found")


async def test_up_to_date_tasks_are_those_of_the_present_template(world) -> None:
    node = await world.add_node(1)
    web = await world.create("web")
    await world.add_task(web, 1, node, spec_version=0)
    new = await world.add_task(web, 2, node)
    query = '?filters={"service":{"web":true},"_up-to-date":{"true":true}}'
    assert await ids(world, query) == {new.id}


async def test_tasks_outlive_their_service_in_the_list(world) -> None:
    node = await world.add_node(1)
    web = await world.create("web")
    task = await world.add_task(web, 1, node, desired=TaskState.REMOVE)
    await world.call("DELETE", "/services/web")
    assert await ids(world) == {task.id}
    assert await ids(world, f'?filters={{"service":["{web.id}"]}}') == {task.id}
    shown = (await world.get(f"/tasks/{task.id}")).json
    assert (shown["DesiredState"], shown["Status"]["State"]) == ("remove", "running")
    query = f'?filters={{"service":["{web.id}"],"_up-to-date":["true"]}}'
    assert await ids(world, query) == set()


async def test_a_new_status_shows_at_once_and_raises_the_version(world) -> None:
    node = await world.add_node(1)
    task = await world.add_task(await world.create("web"), 1, node, TaskState.PREPARING)
    before = (await world.get(f"/tasks/{task.id[:12]}")).json
    await world.observe(task, TaskState.FAILED, err="no such image", exit_code=1)
    after = (await world.get(f"/tasks/{task.id}")).json
    assert (before["Status"]["State"], after["Status"]["State"]) == ("preparing", "failed")
    assert after["Status"]["Err"] == "no such image"
    assert after["Version"]["Index"] > before["Version"]["Index"]


async def test_a_pending_task_shows_the_schedulers_reason(world) -> None:
    web = await world.create("web")
    reason = "no suitable node (insufficient resources on 3 nodes)"
    task = await world.add_task(web, 1, None, TaskState.PENDING, err=reason)
    shown = (await world.get(f"/tasks/{task.id}")).json
    assert (shown["Status"]["State"], shown["Status"]["Err"]) == ("pending", reason)
    assert "NodeID" not in shown


async def test_an_unknown_task_is_not_found(world) -> None:
    answer = await world.get("/tasks/nope")
    assert (answer.status, answer.message) == (404, "task nope not found")


async def test_bad_filters_are_refused_before_the_state_is_asked(world) -> None:
    world.cluster.available = False
    answer = await world.get('/tasks?filters={"desired-state":["x"]}')
    assert (answer.status, answer.message) == (400, "invalid filter 'desired-state=x'")
