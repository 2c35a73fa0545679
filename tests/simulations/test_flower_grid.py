"""Flower's messages and strategies in one process: real objects, no SuperLink."""

from threading import Event

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from flower_nodes import answer
from potluck.simulations.flower.grid import LocalGrid, as_server, nodes_of, play


def request(node: int, value: float = 0.0) -> Message:
    return Message(RecordDict({"arrays": ArrayRecord({"x": Array(np.full(2, value))})}), node, "train")


def echo(message: Message) -> Message:
    return Message(message.content, reply_to=message)


def test_a_message_can_be_made_inside_as_server_and_what_was_there_is_restored():
    """The identity is global to the process: whoever comes after must find it as it was."""
    with as_server():
        assert request(1).metadata.run_id == 1
        with as_server():
            assert request(1).metadata.src_node_id == 1
        assert request(1).metadata.dst_node_id == 1
    with pytest.raises(RuntimeError, match="not set"):
        request(1)


def test_the_identity_is_restored_after_an_error_too():
    with pytest.raises(ZeroDivisionError), as_server():
        _ = 1 / 0
    with pytest.raises(RuntimeError, match="not set"):
        request(1)


def test_a_process_that_flower_started_keeps_its_own_identity():
    """There run and node have numbers that Flower's servers look up."""
    names = ("_run_id", "_node_id", "_task_id")
    before = {name: vars(TaskIdentity)[name] for name in names}
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 77, 78, 79
    try:
        with as_server():
            inside = request(1).metadata
        after = (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id)
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)

    assert (inside.run_id, inside.src_node_id, inside.src_task_id) == (77, 78, 79)
    assert after == (77, 78, 79)


def test_a_node_works_when_its_reply_is_read():
    """So a strategy that folds never holds two replies."""
    worked = []

    def node(message: Message) -> Message:
        worked.append(message.metadata.dst_node_id)
        return echo(message)

    with as_server():
        replies = LocalGrid({1: node, 2: node}).send_and_receive([request(2), request(1)])
        assert worked == []
        first = next(replies)
        assert worked == [2]
        rest = list(replies)

    assert [reply.metadata.src_node_id for reply in (first, *rest)] == [2, 1]
    assert first.metadata.reply_to_message_id != rest[0].metadata.reply_to_message_id


def test_a_pushed_message_is_answered_once():
    with as_server():
        grid = LocalGrid({4: echo, 3: echo})
        ids = grid.push_messages([request(3), request(4)])
        replies = list(grid.pull_messages(ids[1:]))

    assert grid.get_node_ids() == [3, 4]
    assert [node.node_id for node in grid.get_nodes()] == [3, 4]
    assert [reply.metadata.reply_to_message_id for reply in replies] == ids[1:]
    assert list(grid.pull_messages([ids[1], "unheard of"])) == []
    assert len(list(grid.pull_messages(ids))) == 1


def test_a_node_that_raises_and_one_that_is_not_there_answer_with_an_error():
    def broken(message: Message) -> Message:
        raise ValueError(f"no data for {message.metadata.message_type}")

    with as_server():
        replies = list(LocalGrid({1: broken}).send_and_receive([request(1), request(9)]))

    assert [reply.error.code for reply in replies] == [
        ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
        ErrorCode.NODE_UNAVAILABLE,
    ]
    assert replies[0].error.reason == "ValueError: no data for train"


def test_a_node_may_change_its_message_without_harm_to_others():
    """Over a wire every node has its own copy; strategies give all nodes the same record."""

    def greedy(message: Message) -> Message:
        del message.content["arrays"]["x"]
        message.content["arrays"]["y"] = Array(np.zeros(1))
        return echo(message)

    with as_server():
        shared = request(1).content
        messages = [Message(shared, node, "train") for node in (1, 2)]
        replies = list(LocalGrid({1: greedy, 2: greedy}).send_and_receive(messages))

    assert [list(reply.content["arrays"]) for reply in replies] == [["y"], ["y"]]
    assert list(shared["arrays"]) == ["x"]


def test_after_the_timeout_no_further_node_is_asked():
    def slow(message: Message) -> Message:
        Event().wait(0.05)
        return echo(message)

    with as_server():
        grid = LocalGrid({1: slow, 2: slow})
        assert len(list(grid.send_and_receive([request(1), request(2)], timeout=0.01))) == 1
        assert len(list(grid.send_and_receive([request(1), request(2)], timeout=60))) == 2
        assert len(list(grid.send_and_receive([request(1), request(2)]))) == 2


def test_the_grid_has_a_run_and_makes_messages_as_flower_asks():
    grid = LocalGrid({})
    assert grid.run.run_id == 1
    grid.set_run(Run.create_empty(5))
    assert grid.run.run_id == 5
    with as_server():
        message = grid.create_message(RecordDict(), "train", 3, "round-1", ttl=60.0)
    assert (message.metadata.dst_node_id, message.metadata.group_id, message.metadata.ttl) == (3, "round-1", 60.0)


def test_flowers_own_fedavg_plays_rounds_with_client_apps_that_keep_state():
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen = context.state["seen"]["rounds"] + 1 if "seen" in context.state else 1
        context.state["seen"] = MetricRecord({"rounds": seen})
        step = context.node_config["partition-id"] + context.run_config["bonus"]
        arrays = ArrayRecord({"x": Array(message.content["arrays"]["x"].numpy() + step)})
        return answer(message, arrays, num_examples=2, seen=float(seen), lr=message.content["config"]["lr"])

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, ArrayRecord(), num_examples=1, parts=float(context.node_config["num-partitions"]))

    initial = ArrayRecord({"x": Array(np.zeros(3))})
    result = play(FedAvg(), nodes_of(app, 3, {"bonus": 0.5}), initial, rounds=4, config={"lr": 0.25})

    assert result.arrays["x"].numpy() == pytest.approx(np.full(3, 4 * 1.5))
    assert [metrics["seen"] for metrics in result.train_metrics_clientapp.values()] == [1, 2, 3, 4]
    assert result.train_metrics_clientapp[1]["lr"] == 0.25
    assert result.evaluate_metrics_clientapp[4]["parts"] == 3
