"""A recipe's rounds as a Flower strategy, for clients that know Potluck.

`PotluckStrategy` serves any client that trains what it is sent.  This one plays a recipe as volunteers do: they start
from the shared adapter by the recipe's init, send what changed by its codec, and what arrives is checked and combined
as a coordinator does, from the same bytes to the same version.
"""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from logging import Logger
from typing import Final, final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from potluck.aggregation.errors import BadUpdate, PotluckError
from potluck.aggregation.report import Report
from potluck.client.lessons import Term
from potluck.coordinator.site import Folders, Plan
from potluck.simulations.flower.app_combine import version_after
from potluck.simulations.flower.app_messages import (
    EXAMPLES,
    LOSS,
    LOSS_AFTER,
    LOSS_BEFORE,
    TOKENS,
    Arrived,
    name_in,
    read_update,
    record_of,
    told,
)
from potluck.simulations.flower.app_rows import Ended, Journal, over
from potluck.simulations.flower.app_run import Standing
from potluck.simulations.flower.metrics import report_of
from potluck.simulations.flower.replies import number, only
from potluck.simulations.flower.strategy import LeftOut, told_of
from potluck.wire.refusals import Refusal

LOGGER: Final[Logger] = logging.getLogger("flwr.potluck")
VERSION: Final = "potluck-version"


@final
@dataclass(slots=True, eq=False)
class RecipeStrategy(Strategy):
    """The rounds of *plan*'s recipe, from where it stands; versions and checkpoints are blobs in *folders*.

    `start` with `arrays()` goes on from there: a round that ended is written down before the next one begins.
    """

    plan: Plan
    folders: Folders
    standing: Standing
    journal: Journal
    names: Mapping[int, str] = field(default_factory=dict)
    """Who each node is; needed where a round has fewer clients than there are nodes."""
    measure_every: int = 1
    """Rounds between two measurements on all nodes; 0: never."""
    arrived: list[Arrived] = field(default_factory=list, init=False)
    """The updates of the last round, in the order in which they were combined."""
    left_out: list[LeftOut] = field(default_factory=list, init=False)
    """Of the last round."""

    def summary(self) -> None:
        """Log what is played."""
        pipeline, codec = self.plan.recipe.pipeline(), self.plan.recipe.codec
        weights = ", ".join(pipeline.weights) or "uniform"
        LOGGER.info("\t├──> Potluck's recipe %s %s", self.plan.recipe.run.name, self.plan.digest.hex()[:16])
        LOGGER.info("\t│\t├── weights (%s), rule %s, outer %s", weights, pipeline.rule, pipeline.outer)
        LOGGER.info("\t│\t└── f %d | codec %s | from version %d", pipeline.f, codec.name, self.standing.version)

    def arrays(self) -> ArrayRecord:
        """Return the shared adapter as it is published, for `start`; no bytes at version 0."""
        digest = self.standing.adapter
        return record_of(self.folders.blobs.read(bytes.fromhex(digest)) if digest else b"")

    def term(self) -> Term:
        """Return what clients of the present version are told."""
        version = self.standing.version
        adapter = next(iter(self.arrays().values())).data
        return Term(self.plan.recipe, version, self.plan.seed_of(version), adapter)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for each client of the round: the recipe, and the present version whatever *arrays* are."""
        content = told(self.term())
        return [Message(content, node, MessageType.TRAIN) for node in self.chosen(sorted(grid.get_node_ids()))]

    def chosen(self, nodes: Sequence[int]) -> list[int]:
        """Return the nodes of the next round: as many as the recipe's cohort, drawn by name, the same in every run."""
        cohort = self.plan.recipe.aggregation.cohort
        if len(nodes) <= cohort:
            return list(nodes)
        ordered = sorted(nodes, key=lambda node: (self.names.get(node, ""), node))
        rng = np.random.Generator(np.random.PCG64([self.plan.seed_of(self.standing.version), self.standing.rounds]))
        return [ordered[place] for place in sorted(rng.permutation(len(ordered))[:cohort])]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next version and the round's report; None for the version where the round makes none.

        Raises:
            Refusal: the disk is full.
        """
        began, began_s = self.standing, time.monotonic()
        self._take(replies)
        report, reason = self._combine(server_round)
        left_out = {self.names.get(left.node, f"node {left.node}"): left.reason for left in self.left_out}
        sent, wall_s = self._size(began.adapter), time.monotonic() - began_s
        self.journal.round_ended(Ended(began.version, self.arrived, left_out, report, reason, sent, wall_s))
        self.standing = replace(self.standing, rounds=self.standing.rounds + 1)
        self.standing.write(self.folders)
        nodes, capped = [each.node for each in self.arrived], [each.node for each in self.arrived if each.capped]
        facts = report_of(report, nodes, [each.node for each in self.left_out], capped)
        metrics = MetricRecord({**self._means(), **facts, VERSION: self.standing.version})
        return (self.arrays() if report else None), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for every node with the present version, in rounds that are measured."""
        if not self.measure_every or self.standing.rounds % self.measure_every:
            return []
        content = told(self.term())
        return [Message(content, node, MessageType.EVALUATE) for node in sorted(grid.get_node_ids())]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nats per token over all held-out text, and over the clients of the tenth that is served worst."""
        found: dict[str, tuple[float, int]] = {}
        left_out = []
        for message in replies:
            try:
                metrics = only(message, MetricRecord)
                found[name_in(message)] = (number(metrics, LOSS, None), int(number(metrics, EXAMPLES, None)))
            except PotluckError as error:
                left_out.append(message.metadata.src_node_id)
                LOGGER.warning("the measurement by node %d is left out: %s", left_out[-1], told_of(error))
        tokens = sum(count for _, count in found.values())
        if not tokens:
            return None
        self.journal.measured(found)
        loss, worst = over(list(found.values()))
        return MetricRecord(
            {
                LOSS: loss,
                "loss-worst-decile": worst,
                TOKENS: tokens,
                VERSION: self.standing.version,
                "potluck-left-out": len(left_out),
                "potluck-left-out-nodes": left_out,
            }
        )

    def _take(self, replies: Iterable[Message]) -> None:
        """Read the replies one at a time; those that fit are kept, sorted by what a coordinator sorts them by."""
        self.arrived, self.left_out = [], []
        for message in replies:
            node = message.metadata.src_node_id
            try:
                if node in {each.node for each in self.arrived}:
                    raise BadUpdate("a second reply to one request", fix="answer once")
                self.arrived.append(read_update(message, self.plan, self.standing.version))
            except PotluckError as error:
                self.left_out.append(LeftOut(node, told_of(error)))
                LOGGER.warning("the reply of node %d is left out: %s", *self.left_out[-1])
        self.arrived.sort(key=Arrived.order)

    def _combine(self, server_round: int) -> tuple[Report | None, str]:
        """Make the next version, if the round makes one; return its report, or why there is none.

        Raises:
            Refusal: the disk is full.
        """
        self.folders.spool.prepare()
        self.folders.blobs.prepare()
        try:
            self.standing, report = version_after(self.plan, self.folders, self.standing, self.arrived)
        except Refusal:
            raise
        except (PotluckError, np.linalg.LinAlgError) as error:
            LOGGER.error("round %d makes no version: %s", server_round, error)  # noqa: TRY400
            return None, str(error)
        finally:
            self.folders.spool.delete(self.folders.spool.all())
        return report, ""

    def _size(self, digest: str) -> int:
        """Return how many bytes clients download of an adapter; none at version 0."""
        return self.folders.blobs.size(bytes.fromhex(digest)) or 0 if digest else 0

    def _means(self) -> dict[str, float]:
        """Return what the clients of the round said, added up or averaged by their examples."""
        if not self.arrived:
            return {}
        examples = sum(each.examples for each in self.arrived)
        facts: dict[str, float] = {
            EXAMPLES: examples,
            TOKENS: sum(each.facts[TOKENS] for each in self.arrived),
            "bytes-up": sum(len(each.data) for each in self.arrived),
        }
        for name in (LOSS_BEFORE, LOSS_AFTER):
            facts[name] = math.fsum(each.facts[name] * each.examples for each in self.arrived) / examples
        return facts
