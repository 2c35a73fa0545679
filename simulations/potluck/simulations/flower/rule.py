"""Any installed Flower strategy as the aggregation of a Potluck round.

Flower's strategies work entry by entry or on distances of entries, which mean something in one basis only.  So they
get the trained factor of updates that all left the same, public other factor alone; other updates are refused.
They see real messages from a grid whose nodes answer with the updates of the round.
"""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Self, final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp import strategy as installed
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import Bulyan, FedAvg, FedMedian, FedProx, FedTrimmedAvg, Krum, MultiKrum, Strategy

from potluck.aggregation.combine import Aggregated, State, summed
from potluck.aggregation.errors import BadSetting, BadUpdate
from potluck.aggregation.folding import RANK_FACTOR
from potluck.aggregation.lowrank import Floats, LowRank
from potluck.aggregation.moving import Before, moved_in_basis
from potluck.aggregation.outer.linear import FedAvg as WholeStep
from potluck.aggregation.pipeline import unknown
from potluck.aggregation.report import Report
from potluck.aggregation.rules.public import Public
from potluck.aggregation.updates import Update
from potluck.simulations.flower.basis import DEFENCES, Basis, answering, check_count, in_one_basis
from potluck.simulations.flower.grid import LocalGrid, as_server

PREFIX: Final = "flwr:"
"""Before the name of a Flower strategy where rules are named, as in flwr:FedMedian."""
UNFIT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "FedXgbBagging": "it combines trees, not arrays",
        "FedXgbCyclic": "it combines trees, not arrays",
        "QFedAvg": "it weighs by the training loss, which an update does not state",
        **dict.fromkeys(
            (name for name in installed.__all__ if name.startswith("DifferentialPrivacy")),
            "it wraps another strategy and noises its arrays",
        ),
    }
)
FORGETFUL: Final = (FedAvg, FedMedian, FedTrimmedAvg, FedProx, Krum, MultiKrum, Bulyan)
"""Strategies that remember nothing from one round to the next."""
SAME: Final = 1e-4
"""Relative difference up to which a round began where a strategy that remembers left off: publishing rounds."""


def flower_strategy(name: str, *, f: int = 0, settings: Mapping[str, float] = MappingProxyType({})) -> FedAvg:
    """Return the installed Flower strategy called *name*, such as "FedMedian" or "flwr:FedMedian".

    *settings* are those of its constructor; *f* is its num_malicious_nodes, where it has one.  It takes rounds of any
    size, where Flower's own default waits for two nodes.

    Raises:
        UnknownName: there is no such strategy, or it has no such setting.
        BadSetting: it cannot serve as a rule, or lacks a setting.
    """
    short = name.removeprefix(PREFIX)
    kinds = {each: getattr(installed, each) for each in installed.__all__ if each not in ("Result", "Strategy")}
    if short not in kinds:
        raise unknown("Flower strategy", short, set(kinds) - set(UNFIT))
    if short in UNFIT:
        raise BadSetting(f"Flower's {short} cannot be a rule: {UNFIT[short]}", fix="use FedAvg, FedMedian or Krum")
    parameters = inspect.signature(kinds[short]).parameters
    for setting in settings:
        if setting not in parameters:
            raise unknown(f"setting of Flower's {short}", setting, set(parameters))
    if short == "MultiKrum" and "num_nodes_to_select" not in settings:
        raise BadSetting("Flower's MultiKrum selects one update unless told", fix="set num_nodes_to_select, say n − f")
    hostile = {"num_malicious_nodes": f} if "num_malicious_nodes" in parameters else {}
    return kinds[short](**{"min_train_nodes": 1, "min_available_nodes": 1, **hostile, **settings})


@final
class FlowerRule:
    """A Flower strategy as a rule: `combine` takes the place of potluck.aggregation.aggregate.

    Strategies with moments or momentum (FedAdam, FedYogi, FedAdagrad, FedAvgM) are kept from round to round, and ask
    for the same public factor and a start where the last round ended, as the rule ffa keeps them.  With *f* above 0
    the strategy must withstand so many hostile updates of the n at hand, and is refused where it does not; Flower
    itself does not check.  All updates are in memory at once, as float64: that is how Flower works.

    Raises:
        BadSetting: *f* is above 0 and the strategy defends against nobody.
    """

    def __init__(self, strategy: Strategy, *, f: int = 0, rank: int | None = None) -> None:
        self.strategy = strategy
        self._f = f
        self._rank = rank
        self._rounds = 0
        self._frozen: dict[str, Floats] = {}
        self._ended: dict[str, Floats] = {}
        if f and not isinstance(strategy, DEFENCES):
            raise BadSetting(
                f"f is {f}, and Flower's {type(strategy).__name__} defends against nobody",
                fix="use FedMedian, FedTrimmedAvg, Krum, MultiKrum or Bulyan, or set f to 0",
            )

    @classmethod
    def named(
        cls,
        name: str,
        *,
        f: int = 0,
        rank: int | None = None,
        settings: Mapping[str, float] = MappingProxyType({}),
    ) -> Self:
        """Return the rule for a name such as "flwr:FedMedian"; see flower_strategy."""
        return cls(flower_strategy(name, f=f, settings=settings), f=f, rank=rank)

    def combine(self, updates: Sequence[Update], master: Mapping[str, LowRank]) -> Aggregated:
        """Return the next master, its report and the number of rounds as the state.

        G ← G + (y − x)·A, with x what the round began with, y what the strategy made of the updates' x + change, and A
        public; or B·(y − x) where A was trained.  The report has no weights: Flower does not say what counted.

        Raises:
            BadUpdate: no updates, no common basis, too few for the strategy or for f, or no result.
        """
        basis = in_one_basis(updates)
        check_count(self.strategy, basis, self._f)
        self._check_memory(basis)
        y = self._asked(basis)
        after = {}
        for module, x in basis.begun.items():
            term = basis.parts[0][module].low_rank(y[module] - x)
            before = Before(master.get(module), None, None)
            trained = max(update.trained[module].rank for update in basis.updates)
            rank = self._rank or max(RANK_FACTOR * trained, before.master.rank if before.master else 0)
            after[module] = moved_in_basis([term], before, WholeStep(), rank=rank, shape=term.shape)
        self._rounds += 1
        self._frozen, self._ended = {name: part.frozen for name, part in basis.parts[0].items()}, y
        norms = {id(u): norm_of(parts.values()) for u, parts in zip(basis.updates, basis.parts, strict=True)}
        costs = {name: each.cost for name, each in after.items()}
        report = Report((), tuple(norms[id(update)] for update in updates), costs, summed(costs))
        return Aggregated({name: each.master for name, each in after.items()}, State(rounds=self._rounds), report)

    def _asked(self, basis: Basis) -> dict[str, Floats]:
        """Return what the strategy makes of the round."""
        names = {f"{module}.lora_{basis.factor.upper()}": module for module in basis.begun}
        arrays = ArrayRecord({name: Array(basis.begun[module]) for name, module in names.items()})
        key = self.strategy.weighted_by_key if isinstance(self.strategy, FedAvg) else "num-examples"
        grid = LocalGrid({place + 1: answering(basis, place, names, key) for place in range(len(basis.updates))})
        with as_server():
            messages = self.strategy.configure_train(self._rounds + 1, arrays, ConfigRecord(), grid)
        replies = sorted(grid.send_and_receive(messages), key=lambda reply: reply.metadata.src_node_id)
        kind = type(self.strategy).__name__
        try:
            result, _ = self.strategy.aggregate_train(self._rounds + 1, replies)
        except AggregationError as error:
            raise BadUpdate(f"Flower's {kind} failed: {error}") from error
        if result is None:
            raise BadUpdate(f"Flower's {kind} made nothing of {len(replies)} updates", fix="see its log")
        found = {module: result[name].numpy() for name, module in names.items()}
        if bad := [module for module, y in found.items() if not np.isfinite(y).all()]:
            raise BadUpdate(f"Flower's {kind} returned NaN or infinity for {bad[0]}", fix="leave that update out")
        return found

    def _check_memory(self, basis: Basis) -> None:
        """Refuse a round that is not in the coordinates in which the strategy remembers."""
        if not self._rounds or type(self.strategy) in FORGETFUL:
            return
        kind = type(self.strategy).__name__
        fix = "start each round from the last one's factors, as the rule ffa keeps them, or use a new FlowerRule"
        for module, part in basis.parts[0].items():
            if not np.array_equal(part.frozen, self._frozen.get(module, np.zeros(0))):
                raise BadUpdate(f"{module} has another public factor, and Flower's {kind} remembers the last", fix=fix)
            gap = float(np.linalg.norm(basis.begun[module] - self._ended[module]))
            if gap > SAME * float(np.linalg.norm(self._ended[module])):
                raise BadUpdate(f"{module} began {gap:.3g} away from where Flower's {kind} left it", fix=fix)


def norm_of(parts: Iterable[Public]) -> float:
    """Return ‖Δ‖ of one update over all modules."""
    return math.hypot(*(part.low_rank(part.change).norm() for part in parts))


def aggregate_with_flower(
    updates: Sequence[Update], master: Mapping[str, LowRank], strategy: Strategy, *, f: int = 0, rank: int | None = None
) -> Aggregated:
    """Return what one round with *strategy* makes of *updates*; see FlowerRule, which also serves several rounds."""
    return FlowerRule(strategy, f=f, rank=rank).combine(updates, master)
