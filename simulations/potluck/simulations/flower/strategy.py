"""Any pipeline of potluck.aggregation as a Flower strategy, for client apps that know nothing of Potluck.

Clients get the adapter as arrays, train it, and send it back.  One reply at a time is read, checked, and either
folded or written to a file; none is kept in memory.  A reply that does not fit is left out and named, and the round
goes on.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from logging import Logger
from pathlib import Path
from typing import Final, NamedTuple, final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy

from potluck.aggregation.combine import Aggregated, State, aggregate
from potluck.aggregation.errors import BadSetting, BadTensor, BadUpdate, PotluckError
from potluck.aggregation.lowrank import LowRank
from potluck.aggregation.pipeline import REBASING, Pipeline
from potluck.aggregation.rules.base import Coordinatewise
from potluck.aggregation.start import broadcast, singles, start
from potluck.aggregation.updates import Update, first_bad_value
from potluck.simulations.flower.metrics import Means, report_of
from potluck.simulations.flower.records import Layout, adapter_of, layout_of, record_of
from potluck.simulations.flower.replies import SCALE, Exchange, Reply, Sent, Trained, read_reply
from potluck.simulations.flower.spool import Spool

LOGGER: Final[Logger] = logging.getLogger("flwr.potluck")
"""Below Flower's own, so that a run's output is in one place."""
RANK: Final = "lora-rank"


class LeftOut(NamedTuple):
    """A reply that took no part in a round, and why."""

    node: int
    reason: str


@final
@dataclass(slots=True, eq=False)
class Round:
    """What came in for one round."""

    sent: Sent
    nodes: list[int]
    """Whose replies were taken, in the order in which they came."""
    capped: list[int]
    left_out: list[LeftOut]
    means: Means


@final
class PotluckStrategy(Strategy):
    """*pipeline* over the LoRA adapter that `Strategy.start` or `configure_train` is given as arrays.

    The arrays are "MODULE.lora_A" (r, k) and "MODULE.lora_B" (d, r), or PEFT's names.  *scale* is α/r of the clients'
    adapter config.  A client of a smaller rank trains the leading columns; one of another scale says so in the metric
    "lora-scale".  The new arrays have the rank of the pipeline, by default that of the first arrays, and are the whole
    master: base + scale·B·A is the model.  *sampling* picks nodes and names records as Flower's FedAvg does.

    With *spool* (the default) replies wait in a file without a name, in the folder it names or in the system's: every
    rule works, the memory holds one module, and no order of arrival changes a bit.  Without, they are folded as they
    come, which takes no disk, more memory, and a rule that reads every update once.

    Raises:
        BadSetting: no scale, no such folder, or a pipeline that reads updates twice without a spool.
    """

    def __init__(
        self,
        pipeline: Pipeline | None = None,
        *,
        scale: float | None = None,
        exchange: Exchange | None = None,
        sampling: FedAvg | None = None,
        spool: bool | Path = True,
        state: State | None = None,
    ) -> None:
        if scale is None or not 0 < scale < float("inf"):
            raise BadSetting(
                f"the adapter's scale is {scale}",
                fix="give scale=lora_alpha / r from the clients' adapter config (lora_alpha / sqrt(r) with use_rslora)",
            )
        if not isinstance(spool, bool) and not Path(spool).is_dir():
            raise BadSetting(f"there is no folder {spool} for the spool", fix="make it, or use spool=True")
        self.pipeline = pipeline or Pipeline()
        stages = self.pipeline.stages()
        if spool is False and (stages.steps or isinstance(stages.rule, Coordinatewise) or stages.rule.foresees):
            raise BadSetting(
                f"the rule {self.pipeline.rule!r} with {self.pipeline.weights} reads every update more than once",
                fix="leave spool on, or use the rule 'mean' with weights of single updates such as 'examples'",
            )
        self.scale = scale
        self.exchange = exchange or Exchange()
        self.sampling = sampling or FedAvg()
        self.spool = spool
        self.state = state or State()
        """What the outer step remembers; hand it to a new strategy to go on after a restart."""
        self.left_out: tuple[LeftOut, ...] = ()
        """Of the last round."""
        self._master: dict[str, LowRank] | None = None
        self._published: dict[str, bytes] = {}
        self._sent: Sent | None = None

    def summary(self) -> None:
        """Log how this strategy is set."""
        weights = ", ".join(self.pipeline.weights) or "uniform"
        LOGGER.info("\t├──> Potluck: weights (%s), rule %s, outer %s", weights, self.pipeline.rule, self.pipeline.outer)
        LOGGER.info("\t│\t├── f %d | scale %.6g | replies: %s", self.pipeline.f, self.scale, self.exchange.replies)
        LOGGER.info("\t│\t└── spool: %s", self.spool)
        self.sampling.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for each sampled node: the adapter, and its rank and scale in the config.

        Arrays that are not what the last round returned, such as the first or those of a checkpoint, become the
        master.

        Raises:
            BadTensor: the arrays are not a LoRA adapter.
        """
        layout = layout_of(arrays)
        adapter = adapter_of(arrays, layout, self.scale)
        if self._master is None or self._published != bytes_of(arrays):
            self._master = {
                module: LowRank(term.b.astype("f8") * self.scale, term.a.astype("f8"))
                for module, term in adapter.items()
            }
        rule = self.pipeline.stages().rule
        self._sent = Sent(
            layout=layout,
            adapter=adapter,
            trains=trained_in(rule.trains, self.state.rounds),
            any_start=rule.trains == "both" and not isinstance(rule, Coordinatewise) and rule.any_start,
            exchange=self.exchange,
        )
        told = ConfigRecord({**config, RANK: layout.rank, SCALE: self.scale, "lora-trains": self._sent.trains})
        messages: Iterable[Message] = self.sampling.configure_train(server_round, arrays, told, grid)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next adapter and the round's report; None for the adapter if the pipeline refuses the round.

        The metrics are the clients' own, averaged by num-examples, and those of `report_of`.

        Raises:
            BadSetting: there was no configure_train before.
        """
        if self._sent is None or self._master is None:
            raise BadSetting("there is nothing to aggregate into", fix="call configure_train first, as start does")
        sent, self._sent = self._sent, None
        taken = Round(sent, [], [], [], Means({self.sampling.weighted_by_key}))
        pipeline = self.pipeline if self.pipeline.rank else replace(self.pipeline, rank=sent.layout.rank)
        record, result = None, None
        try:
            with ExitStack() as stack:
                updates = self._updates(self._read(taken, replies), sent, stack)
                result = aggregate(updates, self._master, pipeline, self.state)
            record = self._publish(result, sent, pipeline.rank or sent.layout.rank)
        except (BadTensor, BadUpdate) as error:
            LOGGER.error("round %d leaves the adapter as it was: %s", server_round, told_of(error))  # noqa: TRY400
            result = None
        self.left_out = tuple(taken.left_out)
        nodes = [left.node for left in taken.left_out]
        report = report_of(result.report if result else None, taken.nodes, nodes, taken.capped)
        return record, MetricRecord({**taken.means.values(), **report})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for each sampled node, with the whole adapter."""
        told = ConfigRecord({**config, RANK: layout_of(arrays).rank, SCALE: self.scale})
        messages: Iterable[Message] = self.sampling.configure_evaluate(server_round, arrays, told, grid)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the clients' metrics, averaged by num-examples; replies that do not fit are left out and named."""
        means = Means({self.sampling.weighted_by_key})
        left_out = []
        for message in replies:
            try:
                means.take(message, self.sampling.weighted_by_key, self.exchange.max_examples)
            except PotluckError as error:
                left_out.append(message.metadata.src_node_id)
                LOGGER.warning("evaluation by node %d is left out: %s", left_out[-1], told_of(error))
        if not means.count:
            return None
        return MetricRecord({**means.values(), "potluck-left-out": len(left_out), "potluck-left-out-nodes": left_out})

    def _read(self, taken: Round, replies: Iterable[Message]) -> Iterator[Reply]:
        """Yield the replies that fit, one at a time; note the others."""
        for message in replies:
            node = message.metadata.src_node_id
            try:
                if node in taken.nodes:
                    raise BadUpdate("a second reply to one request", fix="answer once")
                reply = read_reply(message, taken.sent, self.sampling.weighted_by_key)
                taken.means.take(message, self.sampling.weighted_by_key, self.exchange.max_examples)
            except PotluckError as error:
                taken.left_out.append(LeftOut(node, told_of(error)))
                LOGGER.warning("the reply of node %d is left out: %s", *taken.left_out[-1])
                continue
            taken.nodes.append(node)
            if reply.capped:
                taken.capped.append(node)
            del message  # its arrays live in the reply now, and no longer than that
            yield reply

    def _updates(self, replies: Iterator[Reply], sent: Sent, stack: ExitStack) -> Iterable[Update]:
        if self.spool is False:
            return (reply.update(sent, reply.factors.__getitem__) for reply in replies)
        spool = stack.enter_context(Spool(sent, None if self.spool is True else Path(self.spool)))
        for reply in replies:
            spool.add(reply)
        return spool.updates()

    def _publish(self, result: Aggregated, sent: Sent, rank: int) -> ArrayRecord:
        """Return what to send next, and only then take the result as the master."""
        one_factor = sent.trains != "both" and self.pipeline.rule not in REBASING
        if one_factor and all(term.rank == rank for term in result.master.values()):
            adapter = {name: scaled_down(term, self.scale) for name, term in result.master.items()}
        else:
            init = "orthonormal" if self.pipeline.rule in REBASING else self.exchange.init
            seed = self.exchange.seed + result.state.rounds
            shapes = sent.layout.shapes
            adapter = start(
                broadcast(result.master, init), shapes, init=init, rank=rank, scale=self.scale, seed=seed
            ).trainable
        record = record_of(adapter, Layout(sent.layout.shapes, rank, sent.layout.style))
        self._master, self.state, self._published = result.master, result.state, bytes_of(record)
        return record


def scaled_down(term: LowRank, scale: float) -> LowRank:
    """Return *term* as float32 factors that give it at *scale*, its rows of A as they are.

    Raises:
        BadTensor: it overflows float32.
    """
    with np.errstate(over="ignore"):
        sent = singles(LowRank(term.b * (term.scale / scale), term.a, scale))
    if bad := first_bad_value(sent):
        raise BadTensor(f"{bad} overflows float32", fix="use a smaller outer step")
    return sent


def trained_in(trains: str, rounds: int) -> Trained:
    """Return which factors a rule trains in a round after so many."""
    if trains == "alternately":
        return "a" if rounds % 2 else "b"
    return "a" if trains == "a" else "b" if trains == "b" else "both"


def bytes_of(record: ArrayRecord) -> dict[str, bytes]:
    """Return the arrays' bytes, to tell one record from another."""
    return {name: array.data for name, array in record.items()}


def told_of(error: PotluckError) -> str:
    """Return what happened and the fix in one line."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])
