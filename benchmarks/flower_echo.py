"""The Flower app that flower_round.py runs: the server sends arrays, the client sends back their negatives.

It runs in Flower's environment and knows nothing of Potluck.  Flower addresses objects by their SHA-256 and does not
move what a side already has: arrays that came back unchanged, or were sent again, would cost next to nothing.  So every
round has new numbers, and so has every answer.
"""

import json
import socket
import threading
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

NODE_WAIT_S = 120
ROUND_WAIT_S = 600

server = ServerApp()
client = ClientApp()


def packed(arrays: dict[str, np.ndarray]) -> RecordDict:
    """Return *arrays* as the content of a message."""
    return RecordDict({"arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()})})


def unpacked(message: Message) -> dict[str, np.ndarray]:
    """Return the arrays in *message*."""
    return {name: array.numpy() for name, array in message.content["arrays"].items()}


@client.train()
def answer(message: Message, _context: Context) -> Message:
    """Return the negatives: numbers that the server has not seen."""
    return Message(packed({name: -array for name, array in unpacked(message).items()}), reply_to=message)


def first_node(grid: Grid) -> int:
    """Return the SuperNode once it is there."""
    pause, deadline = threading.Event(), time.monotonic() + NODE_WAIT_S
    while not (nodes := list(grid.get_node_ids())):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no SuperNode in {NODE_WAIT_S} s")
        pause.wait(0.1)
    return nodes[0]


def one_round(grid: Grid, node: int, sent: dict[str, np.ndarray]) -> float:
    """Send arrays to the client and take its answer; return the wall seconds from arrays to arrays."""
    started = time.perf_counter()
    instruction = Message(packed(sent), dst_node_id=node, message_type="train")
    (reply,) = grid.send_and_receive([instruction], timeout=ROUND_WAIT_S)
    got = unpacked(reply)
    wall_s = time.perf_counter() - started
    if not all(np.array_equal(got[name], -array) for name, array in sent.items()):
        raise RuntimeError("other arrays came back")
    return wall_s


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the benchmark asks for, one line to it before and one after each."""
    rng = np.random.default_rng(0)
    with (
        socket.create_connection(("127.0.0.1", int(context.run_config["port"]))) as line,
        line.makefile("rw", encoding="utf-8") as talk,
    ):
        shapes = json.loads(talk.readline())
        node = first_node(grid)
        while True:
            sent = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes}
            print(json.dumps({"ready": node}), file=talk, flush=True)
            if not talk.readline():
                return
            print(json.dumps({"wall_s": one_round(grid, node, sent)}), file=talk, flush=True)
