"""What travels between the two halves of the Flower app: a term to its clients, and what one of them learned back.

An adapter and an update travel as the very bytes that a coordinator publishes and a volunteer uploads, one array each:
Flower sends arrays one by one, and an adapter has hundreds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final, final

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from potluck.aggregation.errors import BadTensor, BadUpdate
from potluck.client.lessons import Term
from potluck.client.work import Trained
from potluck.coordinator.intake import check_values
from potluck.coordinator.site import Plan
from potluck.simulations.flower.replies import STEPS, number, only
from potluck.wire.recipe import Recipe
from potluck.wire.tensors import open_update

BYTES: Final = "potluck.bytes"
"""What Flower calls the way in which an array is written: here its bytes are a message of potluck.aggregation."""
ARRAYS: Final = "arrays"
CONFIG: Final = "config"
METRICS: Final = "metrics"
CLIENT: Final = "client"
EXAMPLES: Final = "num-examples"
TOKENS: Final = "tokens"
LOSS: Final = "loss"
LOSS_BEFORE: Final = "loss-before"
LOSS_AFTER: Final = "loss-after"
LONGEST_NAME: Final = 120
SEED_BYTES: Final = 8


def record_of(data: bytes) -> ArrayRecord:
    """Return *data* as Flower's arrays: one, whose bytes they are."""
    return ArrayRecord({BYTES: Array(dtype="uint8", shape=(len(data),), stype=BYTES, data=data)})


def bytes_in(record: ArrayRecord) -> bytes:
    """Return the bytes that record_of was given.

    Raises:
        BadTensor: it is another record.
    """
    found = record.get(BYTES)
    if found is None or len(record) != 1 or found.stype != BYTES:
        named = ", ".join(f"{name!r:.40}" for name in list(record)[:3]) or "none"
        raise BadTensor(
            f"there are {len(record)} arrays ({named}), and one called {BYTES!r} is wanted",
            fix="use the ClientApp and the ServerApp of potluck.simulations.flower together",
        )
    return bytes(found.data)


def told(term: Term) -> RecordDict:
    """Return what a client is told of *term*."""
    facts = {
        "recipe": term.recipe.to_json(),
        "version": term.version,
        "seed": term.seed.to_bytes(SEED_BYTES, "big"),  # Flower's integers have a sign
    }
    return RecordDict({ARRAYS: record_of(term.adapter), CONFIG: ConfigRecord(facts)})


def term_in(message: Message) -> Term:
    """Return the term that *message* tells of.

    Raises:
        BadTensor: it is not the message of this ServerApp.
        BadSetting, UnknownName: its recipe cannot be read.
    """
    arrays, config = message.content.get(ARRAYS), message.content.get(CONFIG)
    if not isinstance(arrays, ArrayRecord) or not isinstance(config, ConfigRecord) or "recipe" not in config:
        raise BadTensor(
            f"there is no recipe in a message of {', '.join(message.content) or 'nothing'}",
            fix="use the ServerApp of potluck.simulations.flower",
        )
    return Term(
        recipe=_recipe(str(config["recipe"])),
        version=int(config["version"]),
        seed=int.from_bytes(config["seed"], "big"),
        adapter=bytes_in(arrays),
    )


@lru_cache(maxsize=2)
def _recipe(text: str) -> Recipe:
    return Recipe.offered(text)


def learned(name: str, trained: Trained, data: bytes) -> RecordDict:
    """Return what the client called *name* says after its training: *data* is its update, encoded."""
    metrics = {
        EXAMPLES: trained.examples,
        STEPS: trained.steps,
        TOKENS: trained.tokens,
        LOSS_BEFORE: trained.loss_before,
        LOSS_AFTER: trained.loss_after,
    }
    return RecordDict({ARRAYS: record_of(data), METRICS: MetricRecord(metrics), CLIENT: named(name)})


def measured(name: str, loss: float, tokens: int) -> RecordDict:
    """Return what the client called *name* says of the shared adapter: nats per token of its held-out text."""
    return RecordDict({METRICS: MetricRecord({LOSS: loss, EXAMPLES: tokens}), CLIENT: named(name)})


def named(name: str) -> ConfigRecord:
    """Return who a client is."""
    return ConfigRecord({"name": name})


def name_in(message: Message) -> str:
    """Return who sent *message*.

    Raises:
        BadUpdate: it does not say, or it is an error.
    """
    if message.has_error() or not message.has_content():
        raise BadUpdate(f"the client failed and says {message.error.reason if message.has_error() else 'nothing'!r}")
    client = message.content.get(CLIENT)
    name = client.get("name") if isinstance(client, ConfigRecord) else None
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise BadUpdate("the client does not say who it is", fix="use the ClientApp of potluck.simulations.flower")
    return name


@final
@dataclass(frozen=True, slots=True)
class Arrived:
    """An update that fits: what it claims of itself is capped, as a coordinator does."""

    node: int
    name: str
    data: bytes
    examples: int
    steps: int
    facts: Mapping[str, float]
    """What else the client says: tokens, and nats per token before and after."""
    capped: bool = False
    """Whether it claimed more examples than count."""

    def order(self) -> tuple[bytes, int, int, str]:
        """Return what updates are sorted by before they are combined: a coordinator's order."""
        return sha256(self.data).digest(), self.examples, self.steps, self.name


def read_update(message: Message, plan: Plan, version: int) -> Arrived:
    """Return the update in a reply, trusting none of it; it started from *version*.

    Raises:
        PotluckError: it is an error, or what a coordinator would refuse; the text says what is wrong.
    """
    name = name_in(message)
    metrics, data = only(message, MetricRecord), bytes_in(only(message, ArrayRecord))
    examples, steps = number(metrics, EXAMPLES, None), number(metrics, STEPS, 1)
    if examples < 1:
        raise BadUpdate(f"{EXAMPLES} is {examples}", fix="send how many examples were trained on, 1 or more")
    recipe = plan.recipe
    if len(data) > recipe.limits.max_update_bytes:
        raise BadUpdate(
            f"the update has {len(data)} bytes, and {recipe.limits.max_update_bytes} are taken",
            fix="raise limits.max_update_bytes in the recipe",
        )
    opened = open_update(data, plan.manifest(version))
    recipe.codec.check(opened.facts)
    check_values(opened)
    return Arrived(
        node=message.metadata.src_node_id,
        name=name,
        data=data,
        examples=int(min(examples, recipe.admission.max_examples)),
        steps=int(min(max(steps, 1), recipe.training.steps)),
        facts={key: number(metrics, key, 0.0) for key in (TOKENS, LOSS_BEFORE, LOSS_AFTER)},
        capped=examples > recipe.admission.max_examples,
    )
