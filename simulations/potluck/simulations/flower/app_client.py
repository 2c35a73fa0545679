"""The ClientApp: what a volunteer's program does with a lease, done where Flower runs its clients.

It trains by the very code of a volunteer's machine, seals with the recipe's codec, and keeps what error feedback leaves
over in `context.state`.  The base model stays in memory from one client of a process to the next.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from potluck.aggregation import CODECS, decode, encode, from_tensors, to_tensors
from potluck.aggregation.codecs.feedback import OWN, feed, rebased
from potluck.aggregation.errors import PotluckError
from potluck.client.lessons import Lesson, Term, all_trained
from potluck.client.sealing import Deltas
from potluck.client.work import order_of
from potluck.simulations.flower.app_messages import CLIENT, learned, measured, named, term_in
from potluck.simulations.flower.app_run import Who, settings_of, who_is
from potluck.simulations.flower.strategy import told_of

if TYPE_CHECKING:
    from potluck.client.lessons import Engine

WAITING: Final = "potluck.waiting"
"""What error feedback left over of the client's last update, in its state."""

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say who this client is."""
    return answered(message, context, lambda who: RecordDict({CLIENT: named(who.name)}))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train from the version that *message* brings, and send what changed."""
    return answered(message, context, lambda who: _train(term_in(message), who, context))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the version that *message* brings on this client's held-out text."""
    return answered(message, context, lambda who: _measure(term_in(message), who, context))


def answered(message: Message, context: Context, work: Callable[[Who], RecordDict]) -> Message:
    """Return the reply that *work* makes; where it cannot, an error with its reason and the fix."""
    try:
        return Message(work(who_is(context)), reply_to=message)
    except PotluckError as error:
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, told_of(error)), reply_to=message)


def _train(term: Term, who: Who, context: Context) -> RecordDict:
    measured_too = settings_of(context.run_config).measured
    lesson = Lesson(who.data, order_of(who.name, term.seed), measured=measured_too)
    (trained,) = all_trained(engine_of(context).train(term, [lesson]))
    return learned(who.name, trained, sealed(term, trained.deltas, context.state))


def _measure(term: Term, who: Who, context: Context) -> RecordDict:
    ((loss, tokens),) = engine_of(context).losses(term, [who.data])
    return measured(who.name, loss, tokens)


def engine_of(context: Context) -> "Engine":
    """Return this process's engine."""
    settings = settings_of(context.run_config)
    return _engine(settings.cache_folder, settings.threads)


@lru_cache(maxsize=1)
def _engine(cache: Path, threads: int) -> "Engine":
    from potluck.client.training.together.sequential import (  # noqa: PLC0415 - torch: Flower loads apps to look at them
        SequentialEngine,
    )

    return SequentialEngine(cache, threads=threads)


def sealed(term: Term, deltas: Deltas, state: RecordDict) -> bytes:
    """Return *deltas* as the recipe's codec writes them; with error feedback *state* has the rest before and after.

    The rest counts as sent once it is in an update, whatever becomes of that: nobody tells a client of Flower.

    Raises:
        BadTensor: the codec cannot hold a value.
    """
    table = term.recipe.codec
    packing = table.choose(tuple(CODECS))
    if not table.error_feedback:
        return packing.encode(deltas)
    from potluck.client.training.together.terms import started  # noqa: PLC0415 - as above

    begun, waiting = started(term, 0).trainable, {}
    if WAITING in state:
        kept = state[WAITING]
        waiting = decode(kept["left"], limits=OWN)
        if term.recipe.init != "keep":  # kept factors are trained from version to version, and never turned
            waiting = rebased(waiting, from_tensors(decode(kept["basis"], limits=OWN)), begun)
    fed = feed(deltas, waiting, packing.encode, beta=table.beta)
    state[WAITING] = ConfigRecord({"left": encode(fed.left, "fp32"), "basis": encode(to_tensors(begun), "fp16")})
    return fed.message
