"""What is in an update that waits to leave: opened from the outbox as it lies there, and changed in nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import numpy as np

from potluck.aggregation.errors import BadTensor, UnknownName
from potluck.client.account import told_of
from potluck.client.home import Home
from potluck.client.identity import Identity, identity_at
from potluck.client.ledger import Ledger
from potluck.client.outbox.store import Outbox, joined
from potluck.client.parked import MAGIC, contribution, unpark
from potluck.client.records import KeptReceipt, Membership, Sealed, Task
from potluck.client.secure.used import UsedFile
from potluck.wire import invites
from potluck.wire.envelopes import Purpose, opened, public_bytes, sign
from potluck.wire.recipe import Recipe
from potluck.wire.sums import terms_of, vector_bytes
from potluck.wire.tensors import Manifest, open_update
from potluck.wire.v1 import work_pb2 as pb
from potluck.wire.v1.envelope_pb2 import Blob, Envelope

HIDDEN: Final = (
    "masked: the coordinator can read the sum of at least {least} updates, and not this one, unless it and more than "
    "{share} of the members work together"
)
COST: Final = "epsilon {epsilon:g} at delta {delta:g} for one record so far, rounded up, and {lines} lines of a ledger"
PLAIN: Final = "as they are: the coordinator can read every number below"


@final
@dataclass(frozen=True, slots=True)
class Numbers:
    """One tensor of an update."""

    name: str
    shape: tuple[int, ...]
    norm: float  # Frobenius
    largest: float  # absolute value


@final
@dataclass(frozen=True, slots=True)
class Inspected:
    """An update in the outbox, and all that leaves with it."""

    lease_id: str  # in hex, as all below that is bytes
    round: int
    version: int  # that it starts from
    state: str
    path: Path
    digest: str  # SHA-256 of the file, verified
    size: int  # bytes, of the file
    upload: int  # bytes, as it travels
    codec: Mapping[str, str]
    tensors: tuple[Numbers, ...]
    norm: float  # over all tensors
    summed: bool  # whether it, and what is told of it, leaves as part of a sum and never by itself
    spent: bool  # whether it may have been revealed in a sum, after which it goes into no other
    travels: str  # in which form, and who can read it
    clip: float | None  # largest norm that leaves; None: any
    noise: str
    privacy: str  # what is told of the owner's ledger; "": nothing
    tells_loss: bool  # whether loss_after leaves, in the sum or beside the update
    examples: int
    steps: int
    tokens: int
    loss_before: float
    loss_after: float
    recipe_digest: str
    signer: str  # the client's id
    signature: str  # over what is sent with it; verified; "": in a sum each message is signed by itself

    @property
    def numbers(self) -> int:
        """How many numbers leave."""
        return sum(int(np.prod(tensor.shape)) for tensor in self.tensors)


@final
@dataclass(frozen=True, slots=True)
class Gone:
    """An update that has left: what the coordinator signed for.  Its numbers are not here any more."""

    receipt: KeptReceipt
    signer: str  # the coordinator's id, verified


def inspected(home: Home, item: str = "") -> Inspected | Gone:
    """Return what *item* is: the start of a lease's id or of an update's digest, in hex; "": what leaves next.

    Raises:
        UnknownName: nothing in the outbox is called that, or more than one thing is.
        BadTensor: the update on the disk is not what was sealed.
        BadSignature: a signature does not hold.
    """
    outbox = Outbox.open(home.outbox)
    try:
        member = joined(outbox)
        sealed = [task for task in outbox.open_tasks() if task.is_sealed]
        receipts = outbox.receipts(10_000)
    finally:
        outbox.close()
    item = item.lower()
    tasks = [task for task in sealed if _called(item, task.lease_id, task.sealed)]
    gone = [one for one in receipts if item and (one.lease_id.hex().startswith(item) or _digest_is(item, one.digest))]
    if item and len(tasks) + len(gone) > 1:
        raise UnknownName(f"{len(tasks) + len(gone)} updates begin with {item!r}", fix="give more of it")
    if tasks:
        return _opened(home, member, tasks[0])
    if gone:
        return Gone(gone[0], receipt_signer(member, gone[0]))
    waiting = ", ".join(task.lease_id.hex()[:12] for task in sealed) or "none"
    raise UnknownName(
        f"no update in the outbox is called {item!r}" if item else "no update waits in the outbox",
        fix=f"waiting are: {waiting}; those that have left are in `potluck history`",
    )


def _called(item: str, lease_id: bytes, sealed: Sealed | None) -> bool:
    return lease_id.hex().startswith(item) or (sealed is not None and _digest_is(item, sealed.digest))


def _digest_is(item: str, digest: bytes) -> bool:
    return digest.hex().startswith(item)


def _opened(home: Home, member: Membership, task: Task) -> Inspected:
    """Return what is in the file of *task*."""
    sealed, recipe, identity = task.sealed, Recipe.offered(member.recipe_json), identity_at(home.key)
    if sealed is None:
        raise BadTensor("the task has no update", fix="report this bug")
    path = home.blob(sealed.digest)
    data = path.read_bytes() if path.exists() else b""
    if sha256(data).digest() != sealed.digest:
        raise BadTensor(f"{path} is not what was sealed", fix="it is dropped when its turn comes; check the disk")
    parked = data.startswith(MAGIC)
    if parked:
        data = unpark(data, identity.key, contribution(member.run_id, task.terms.version))
    message = open_update(data, Manifest.of(recipe, task.terms.version))
    tensors = tuple(_numbers(name, message.tensor(name)) for name in sorted(message.shapes))
    summed, by_example = recipe.privacy.secure_aggregation, recipe.privacy.differential.by_example
    spent = told_of(_ledger(home, identity), recipe, member.run_id) if by_example else None
    sums = terms_of(recipe, member.run_id, task.terms.version)
    return Inspected(
        lease_id=task.lease_id.hex(),
        round=task.terms.round,
        version=task.terms.version,
        state=task.state.value,
        path=path,
        digest=sealed.digest.hex(),
        size=sealed.size,
        upload=vector_bytes(sums) if summed else sealed.size,
        codec=MappingProxyType({"ring": f"of {sums.bits} bits a number"} if summed else dict(message.facts)),
        tensors=tensors,
        norm=float(np.sqrt(sum(tensor.norm**2 for tensor in tensors))),
        summed=summed,
        spent=summed and _used(home, identity).spent(contribution(member.run_id, task.terms.version)),
        travels=_travels(recipe),
        clip=recipe.privacy.clip if summed else None,
        noise=NOISES[recipe.privacy.differential.unit](recipe),
        privacy="" if spent is None else COST.format(epsilon=spent.epsilon, delta=spent.delta, lines=spent.lines),
        tells_loss=not by_example and (sums.reports_loss or not summed),
        examples=sealed.examples,
        steps=sealed.steps,
        tokens=sealed.tokens,
        loss_before=sealed.loss_before,
        loss_after=sealed.loss_after,
        recipe_digest=member.recipe_digest.hex(),
        signer=identity.client_id,
        signature="" if summed else _signed(member, task, sealed, identity, spent).signature.hex(),
    )


def _numbers(name: str, tensor: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> Numbers:
    exact = tensor.astype(np.float64)
    return Numbers(name, tensor.shape, float(np.linalg.norm(exact)), float(np.abs(exact).max(initial=0.0)))


def _used(home: Home, identity: Identity) -> UsedFile:
    return UsedFile(home.sums, home.sums_witness(identity.client_id))


def _ledger(home: Home, identity: Identity) -> Ledger:
    return Ledger.open(home.ledger, home.witness(identity.client_id))


def _signed(member: Membership, task: Task, sealed: Sealed, identity: Identity, spent: pb.Spent | None) -> Envelope:
    """Return what goes to the coordinator beside the bytes of a plain update, signed as it is then, and verified."""
    request = pb.SubmitRequest(
        lease_id=task.lease_id,
        update=Blob(digest=sealed.digest, size=sealed.size),
        manifest_digest=task.terms.manifest_digest,
        examples=sealed.examples,
        steps=sealed.steps,
        tokens=sealed.tokens,
        loss_before=sealed.loss_before,
        loss_after=sealed.loss_after,
        spent=spent,
    )
    envelope = sign(identity.key, Purpose.SUBMIT, member.coordinator_id, request)
    opened(envelope, Purpose.SUBMIT, member.coordinator_id, pb.SubmitRequest, signer=public_bytes(identity.key))
    return envelope


def receipt_signer(member: Membership, receipt: KeptReceipt) -> str:
    """Return the id of the coordinator that signed *receipt*, once that is sure.

    Raises:
        BadSignature: it was altered, or another one signed it.
    """
    envelope = Envelope.FromString(receipt.envelope)
    signer = invites.read(member.token).coordinator_key if receipt.run_id == member.run_id else None
    opened(envelope, Purpose.RECEIPT, receipt.coordinator_id, pb.Receipt, signer=signer)
    return receipt.coordinator_id


def _travels(recipe: Recipe) -> str:
    privacy = recipe.privacy
    if not privacy.secure_aggregation:
        return PLAIN
    return HIDDEN.format(least=privacy.cohort_minimum, share=privacy.corrupt_share)


def _none(_recipe: Recipe) -> str:
    return "none"


def _by_example(recipe: Recipe) -> str:
    facts = recipe.privacy.differential
    return (
        f"added while it was trained: one record's gradient counts up to {facts.clip:g}; "
        f"epsilon {facts.epsilon:g} over the run, delta {facts.delta:g}"
    )


def _by_user(recipe: Recipe) -> str:
    facts = recipe.privacy.differential
    return f"none here; the coordinator adds {facts.multiplier:.3f} times the clip to the sum, before it publishes"


NOISES: Final[Mapping[str, Callable[[Recipe], str]]] = MappingProxyType(
    {"none": _none, "example": _by_example, "user-central": _by_user}
)
