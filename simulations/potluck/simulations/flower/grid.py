"""A Flower grid whose nodes are functions in this process: no SuperLink, no network, real messages.

Flower makes a message only in a process that it started itself.  `as_server` lends its identity to this one, and is
the one place that touches Flower's private state.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias, final
from uuid import uuid4

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN_ID: Final = 1
SERVER: Final = {"_task_id": 1, "_run_id": RUN_ID, "_node_id": 1}
"""What Flower itself gives to the server of a run; see flwr.server.compat.app."""

Node: TypeAlias = Callable[[Message], Message]
"""What a node does with a message: it returns a reply, made with Message(..., reply_to=message), or raises."""


@contextmanager
def as_server() -> Iterator[None]:
    """Let this process make Flower messages, then restore what was there.

    `Message(content, node, kind)` reads run, node and task from flwr.supercore.task_identity.TaskIdentity and raises
    RuntimeError unless all three are set, which only Flower's own processes do.  They are global to the process and
    have no public setter back to nothing, so they are set and restored by their private names.  In a process that
    Flower started nothing is touched.  Not for several threads at once.
    """
    before = {name: vars(TaskIdentity)[name] for name in SERVER}
    if None not in before.values():
        yield
        return
    try:
        for name, value in SERVER.items():
            setattr(TaskIdentity, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


@final
class LocalGrid(Grid):
    """Nodes by their ids.  A node works when its reply is read: a strategy that folds never holds two replies.

    As in Flower's own runtime, a node gets a copy of the message that it may change, and what it raises comes back
    as a reply with an error.
    """

    def __init__(self, nodes: Mapping[int, Node], run_id: int = RUN_ID) -> None:
        self._nodes = dict(nodes)
        self._run = Run.create_empty(run_id)
        self._pushed: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        """What Flower knows of the run: here no more than its number."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message; Flower advises its constructor instead."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes, ascending."""
        return sorted(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take *messages* in and return their ids, in the same order."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())  # as Flower's grids do: there is no setter
            ids.append(message.metadata.message_id)
            self._pushed[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yield the reply to each pushed message, once; a message's node works when its reply is asked for."""
        for message_id in message_ids:
            if message_id in self._pushed:
                yield self._reply(self._pushed.pop(message_id))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield the reply to each of *messages*; after *timeout* seconds no further node is asked."""
        began_s = time.monotonic()
        for message in messages:
            if timeout is not None and time.monotonic() - began_s > timeout:
                return
            yield from self.pull_messages(self.push_messages([message]))

    def _reply(self, message: Message) -> Message:
        node = self._nodes.get(message.metadata.dst_node_id)
        if node is None:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "there is no such node"), reply_to=message)
        try:
            return node(Message(metadata=message.metadata, content=copy.deepcopy(message.content)))
        except Exception as error:  # noqa: BLE001 - a researcher's code: whatever it raises is that node's reply
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def nodes_of(
    app: ClientApp, clients: int, run_config: Mapping[str, bool | float | str] | None = None
) -> dict[int, Node]:
    """Return nodes 1 to *clients* that run *app*, each with a state of its own that lasts from round to round.

    As in Flower's simulation, context.node_config has "partition-id" from 0 and "num-partitions".
    """

    def node(context: Context) -> Node:
        return lambda message: app(message, context)

    return {
        place + 1: node(
            Context(
                RUN_ID,
                place + 1,
                {"partition-id": place, "num-partitions": clients},
                RecordDict(),
                dict(run_config or {}),
            )
        )
        for place in range(clients)
    }


def play(
    strategy: Strategy,
    nodes: Mapping[int, Node],
    initial: ArrayRecord,
    *,
    rounds: int,
    config: Mapping[str, bool | float | str | bytes] | None = None,
) -> Result:
    """Run *strategy* for so many rounds over *nodes* in this process and return Flower's own result."""
    with as_server():
        return strategy.start(
            LocalGrid(nodes), initial, num_rounds=rounds, train_config=ConfigRecord(dict(config or {}))
        )
