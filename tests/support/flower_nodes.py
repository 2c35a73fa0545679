"""Flower nodes for tests: replies made by hand, and a client app that trains a small low-rank regression."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from potluck.aggregation import LowRank
from potluck.simulations.flower.grid import Node

Metrics = Mapping[str, Any]


def record(adapter: Mapping[str, LowRank], style: tuple[str, str] = ("lora_A", "lora_B")) -> ArrayRecord:
    """Return *adapter* as a Flower client sends it."""
    arrays = {}
    for module, term in adapter.items():
        arrays[f"{module}.{style[0]}"], arrays[f"{module}.{style[1]}"] = Array(term.a), Array(term.b)
    return ArrayRecord(arrays)


def answer(message: Message, arrays: ArrayRecord, **metrics: float | list[float]) -> Message:
    """Return a reply as FedAvg's clients send it; a metric's underscores are dashes."""
    named = {name.replace("_", "-"): value for name, value in metrics.items()}
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord(named)}), reply_to=message)


def sends(adapter: Mapping[str, LowRank], **metrics: float) -> Node:
    """Return a node that sends *adapter*, whatever it was given."""
    return lambda message: answer(message, record(adapter), **{"num_examples": 1, **metrics})


def dense(arrays: ArrayRecord, module: str, scale: float) -> np.ndarray:
    """Return s·B·A of one module, in float64."""
    a, b = (arrays[f"{module}.{name}"].numpy().astype("f8") for name in ("lora_A", "lora_B"))
    return scale * b @ a


SHAPES = {"attention": (12, 9), "mlp": (7, 10)}


class Regression:
    """Clients that fit y = x·Wᵀ per module by gradient steps on the factors they were told to train.

    Each has inputs of its own and the same W of low rank, so the loss on fresh inputs must fall.
    """

    def __init__(self, seed: int = 0, rank: int = 3, examples: int = 64, steps: int = 10) -> None:
        rng = np.random.default_rng(seed)
        self.targets = {m: rng.normal(size=(d, rank)) @ rng.normal(size=(rank, k)) / 2 for m, (d, k) in SHAPES.items()}
        self.start = {
            m: LowRank(np.zeros((d, rank), "f4"), rng.normal(size=(rank, k)).astype("f4") / 2)
            for m, (d, k) in SHAPES.items()
        }
        self.examples, self.steps = examples, steps

    def app(self, spoil: Callable[[Message, Context], Message | None] = lambda *_: None) -> ClientApp:
        """Return the client app; where *spoil* returns a reply, or raises, that is what the node does."""
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            return spoil(message, context) or self.trained(message, context)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            loss = self.loss(message.content["arrays"], message.content["config"]["lora-scale"])
            metrics = MetricRecord({"num-examples": self.examples, "eval-loss": loss, "node": context.node_id})
            return Message(RecordDict({"metrics": metrics}), reply_to=message)

        return app

    def trained(self, message: Message, context: Context) -> Message:
        """Return a node's reply after its local steps."""
        arrays, config = message.content["arrays"], message.content["config"]
        scale, trains = config["lora-scale"], config["lora-trains"]
        rng = np.random.default_rng([context.node_id, config["server-round"]])
        after = {}
        for module, target in self.targets.items():
            a, b = (arrays[f"{module}.{name}"].numpy().astype("f8") for name in ("lora_A", "lora_B"))
            x = rng.normal(size=(self.examples, target.shape[1]))
            for _ in range(self.steps):
                slope = ((scale * b @ a - target) @ x.T @ x) * (0.02 * scale / self.examples)
                step_b, step_a = slope @ a.T, b.T @ slope
                b, a = b - step_b * (trains != "a"), a - step_a * (trains != "b")
            after[module] = LowRank(b.astype("f4"), a.astype("f4"))
        return answer(message, record(after), num_examples=self.examples, local_steps=self.steps)

    def loss(self, arrays: ArrayRecord, scale: float) -> float:
        """Return the mean squared error for inputs of unit variance."""
        gaps = [dense(arrays, module, scale) - target for module, target in self.targets.items()]
        return float(np.mean([np.mean(np.sum(gap**2, axis=1)) for gap in gaps]))
