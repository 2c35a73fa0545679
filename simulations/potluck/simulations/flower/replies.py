"""What a client of a Flower round sends back: checked whole, then read as an update."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal, NamedTuple, TypeAlias, final

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from potluck.aggregation.errors import BadSetting, BadTensor, BadUpdate
from potluck.aggregation.lowrank import LowRank
from potluck.aggregation.pipeline import named
from potluck.aggregation.start import INITS
from potluck.aggregation.stored import Parts
from potluck.aggregation.updates import Update
from potluck.simulations.flower.records import Layout, Values, values_of

SCALE: Final = "lora-scale"
"""Metric of a reply, and setting of a request: s = α/r."""
STEPS: Final = "local-steps"
"""Metric of a reply: optimiser steps, for weights such as fednova."""
MAX_SCALE: Final = 1e6

Trained: TypeAlias = Literal["both", "b", "a"]


@final
@dataclass(frozen=True, slots=True)
class Exchange:
    """What travels between the strategy and its clients, and what is taken from them.

    Raises:
        UnknownName: no such init.
        BadSetting: a value out of range.
    """

    replies: Literal["trained", "delta"] = "trained"
    """Whether a reply holds the trained factors, or what training changed of those that were sent."""
    init: str = "continue"
    """How the next round's factors are cut from the master: continue or orthonormal.  A rule that trains one factor
    keeps the other as it is."""
    max_rank: int | None = None
    """Largest rank of a reply; by default the rank that was sent."""
    max_examples: int = 10_000
    """What num-examples counts at most: a client states it as it likes."""
    seed: int = 0
    """Of the rows that fill the adapter up to its rank."""

    def __post_init__(self) -> None:
        named("init", self.init, INITS)
        if self.init not in ("continue", "orthonormal"):
            raise BadSetting(
                f"the init {self.init!r} freezes a part of the master that Flower's clients know nothing of",
                fix="use 'continue' or 'orthonormal'",
            )
        if self.replies not in ("trained", "delta"):
            raise BadSetting(f"replies is {self.replies!r}", fix="use 'trained' or 'delta'")
        if self.max_examples < 1 or (self.max_rank is not None and self.max_rank < 1):
            raise BadSetting(f"max_examples is {self.max_examples} and max_rank {self.max_rank}", fix="use at least 1")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """What a round's clients were given, and what may come back."""

    layout: Layout
    adapter: Mapping[str, LowRank]
    """Float32, at the clients' scale, as they decode it."""
    trains: Trained
    """Which factors they train; the other one is public and stays as it was sent."""
    any_start: bool
    """Whether they may train another rank or scale than was sent."""
    exchange: Exchange

    @property
    def scale(self) -> float:
        """s, of every module."""
        return next(iter(self.adapter.values())).scale

    @property
    def delta(self) -> bool:
        """Whether replies hold changes."""
        return self.exchange.replies == "delta"

    def leading(self, module: str, rank: int) -> LowRank:
        """Return the first *rank* columns of what was sent: what a client of a smaller rank starts from."""
        term = self.adapter[module]
        return term if rank >= term.rank else LowRank(term.b[:, :rank], term.a[:rank], term.scale)


class Factors(NamedTuple):
    """One module as it arrived.  A factor that was not trained may be left out."""

    b: Values | None
    a: Values | None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """What one client says, found to fit."""

    node: int
    factors: Mapping[str, Factors]
    rank: int
    scale: float
    examples: int
    """As it counts: capped."""
    capped: bool
    steps: int

    def update(self, sent: Sent, read: Callable[[str], Factors], key: bytes = b"") -> Update:
        """Return this reply as an update whose modules are made when they are asked for, from what *read* returns."""

        def trained(module: str) -> LowRank:
            b, a = read(module)
            start = sent.leading(module, self.rank)
            if not sent.delta:
                return LowRank(start.b if b is None else b, start.a if a is None else a, self.scale)
            whole = (start.b.astype("f8"), start.a.astype("f8"))
            return LowRank(whole[0] if b is None else whole[0] + b, whole[1] if a is None else whole[1] + a, self.scale)

        names = tuple(sent.layout.shapes)
        starts = Parts(names, lambda module: sent.leading(module, self.rank))
        return Update(Parts(names, trained), starts, self.examples, self.steps, key=key)


def read_reply(message: Message, sent: Sent, weighted_by: str) -> Reply:
    """Return what *message* says; its arrays are views of its bytes.

    Raises:
        PotluckError: it is an error, or it is not what was asked for; the text says what is wrong.
    """
    arrays, metrics = only(message, ArrayRecord), only(message, MetricRecord)
    examples = number(metrics, weighted_by, None)
    if examples < 1:
        raise BadUpdate(f"{weighted_by} is {examples}", fix="send how many examples were trained on, 1 or more")
    scale, steps = number(metrics, SCALE, sent.scale), number(metrics, STEPS, 1)
    if not 0 < scale <= MAX_SCALE or steps < 1:
        raise BadUpdate(f"{SCALE} is {scale} and {STEPS} is {steps}", fix="send alpha / rank, and 1 step or more")
    factors, rank = read_factors(arrays, sent)
    if (rank, scale) != (sent.layout.rank, sent.scale) and not sent.any_start:
        raise BadUpdate(
            f"rank {rank} at scale {scale} where rank {sent.layout.rank} at {sent.scale} was sent",
            fix="use the rule 'mean', which takes any mix",
        )
    if sent.delta and (rank > sent.layout.rank or scale != sent.scale):
        raise BadUpdate(f"a change of rank {rank} at scale {scale} has no start", fix="send trained factors")
    limit = sent.exchange.max_examples
    return Reply(
        message.metadata.src_node_id,
        factors,
        rank,
        scale,
        examples=int(min(examples, limit)),
        capped=examples > limit,
        steps=int(min(steps, 1 << 53)),
    )


def only(message: Message, kind: type[ArrayRecord] | type[MetricRecord]) -> ArrayRecord | MetricRecord:
    """Return the one record of *kind* in *message*.

    Raises:
        BadUpdate: there is not one, or the message is an error.
    """
    if message.has_error() or not message.has_content():
        said = message.error.reason or message.error.code if message.has_error() else "nothing"
        raise BadUpdate(f"the client failed and says {said!r:.300}")
    found = [record for record in message.content.values() if isinstance(record, kind)]
    if len(found) != 1:
        raise BadUpdate(f"{len(found)} {kind.__name__}s", fix="send one ArrayRecord and one MetricRecord")
    return found[0]


def number(metrics: Mapping[str, object], key: str, otherwise: float | None) -> float:
    """Return the finite number under *key*; without a value for *otherwise* it must be there."""
    value = metrics.get(key, otherwise)
    if value is None:
        raise BadUpdate(f"the metric {key!r} is missing", fix=f"add it to the MetricRecord: {{{key!r}: ...}}")
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise BadUpdate(f"the metric {key!r} is {value!r:.50}", fix="send one finite number")
    return value


def read_factors(record: ArrayRecord, sent: Sent) -> tuple[dict[str, Factors], int]:
    """Return the modules in *record* and their one rank, every value and shape checked."""
    names = sent.layout.names
    known = {name for pair in names.values() for name in pair}
    if odd := [name for name in record if name not in known]:
        guess = get_close_matches(odd[0], known, n=1)
        raise BadTensor(
            f"{len(odd)} arrays that were not sent, such as {odd[0]!r:.200}",
            fix=f"did you mean {guess[0]!r}?" if guess else "send back the names that were received, and no others",
        )
    optional = {"both": (), "b": (0,), "a": (1,)}[sent.trains]
    for pair in names.values():
        for place, name in enumerate(pair):
            if name not in record and place not in optional:
                raise BadTensor(f"the array {name!r} is missing", fix="send back every array that was trained")
    matrices = {name: values_of(record[name], name) for name in record}
    rank = next(min(matrices[b].shape[1:], default=0) if b in matrices else len(matrices[a]) for a, b in names.values())
    most = sent.exchange.max_rank or sent.layout.rank
    if rank > most:
        raise BadTensor(f"rank {rank}, at most {most} is taken", fix="train the rank that was sent, or raise max_rank")
    factors = {}
    for module, (a, b) in names.items():
        d, k = sent.layout.shapes[module]
        for name, shape in ((b, (d, rank)), (a, (rank, k))):
            if name in matrices and matrices[name].shape != shape:
                raise BadTensor(f"{name} is {matrices[name].shape}, and {shape} fits the others")
        factors[module] = Factors(matrices.get(b), matrices.get(a))
        check_frozen(module, factors[module], sent, rank)
    return factors, rank


def check_frozen(module: str, factors: Factors, sent: Sent, rank: int) -> None:
    """Refuse a module whose public factor is not as it was sent."""
    start = sent.leading(module, rank)
    for trained, arrived, public in (("b", factors.a, start.a), ("a", factors.b, start.b)):
        if sent.trains != trained or arrived is None:
            continue
        if arrived.any() if sent.delta else not np.array_equal(arrived, public):
            raise BadUpdate(
                f"{module}: the factor {'lora_A' if trained == 'b' else 'lora_B'} has changed, and it is public",
                fix=f"train lora_{trained.upper()} only in this round",
            )
