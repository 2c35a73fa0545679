"""`potluck inspect`: an update that waits to leave, opened before its owner's eyes."""

import os
from dataclasses import asdict

from potluck.cli.report import say, show, size, table
from potluck.client.home import Home
from potluck.client.inspection import Gone, Inspected, inspected

WIDEST = 40  # tensors that are listed for people; --json has all


def run_inspect(item: str, *, as_json: bool) -> None:
    """Show one update of the outbox."""
    found = inspected(Home.of_user(os.environ), item)
    if isinstance(found, Gone):
        tell_gone(found, as_json=as_json)
    else:
        tell_update(found, as_json=as_json)


def tell_gone(found: Gone, *, as_json: bool) -> None:
    """Show what a receipt says of an update that has left."""
    receipt = found.receipt
    facts = {
        "update": receipt.digest.hex(),
        "lease": receipt.lease_id.hex(),
        "round": receipt.round,
        "has left": f"{receipt.verdict.lower().replace('_', ' ')}; its numbers are not kept here",
        "examples": receipt.examples,
        "weight": receipt.staleness_weight,
        "credit": receipt.credit,
        "signed by": f"{found.signer}, the coordinator; verified",
    }
    show(facts, as_json=as_json)


def beside(found: Inspected) -> dict[str, str]:
    """Return what leaves beside an update, and how: by itself, or only as part of a sum's."""
    ledger = {"also": found.privacy} if found.privacy else {}
    if not found.summed:
        losses = f", loss {found.loss_before:.4f} before and {found.loss_after:.4f} after" if found.tells_loss else ""
        told = f"{found.examples} examples, {found.steps} steps, {found.tokens} tokens{losses}"
        return {"beside it": told + ("" if found.tells_loss else "; no losses"), **ledger}
    loss = f", loss {found.loss_after:.4f} after training" if found.tells_loss else "; no loss"
    spent = "yes: a sum may have revealed it, and it goes into no other" if found.spent else "no: it goes into a sum"
    return {
        "beside it": "added up with the others', never seen singly: 1 update, whether it was shrunk, "
        f"{found.tokens} tokens{loss}",
        **({"by itself": found.privacy} if found.privacy else {}),
        "stays here": f"{found.examples} examples, {found.steps} steps",
        "spent": spent,
    }


def tell_update(found: Inspected, *, as_json: bool) -> None:
    """Show an update that waits."""
    if as_json:
        whole = asdict(found) | {"numbers": found.numbers, "path": str(found.path), "codec": dict(found.codec)}
        show(whole, as_json=True)
        return
    clip = (
        "none" if found.clip is None else f"to {found.clip:g}" + (", so it shrinks" if found.norm > found.clip else "")
    )
    facts = {
        "update": f"{found.digest}, verified",
        "of": f"round {found.round}, from version {found.version}: {found.state}",
        "leaves": f"{len(found.tensors)} tensors with {found.numbers:,} numbers, {size(found.upload)}",
        "travels": found.travels,
        "codec": ", ".join(f"{key} {value}" for key, value in found.codec.items()),
        "norm": f"{found.norm:.6g} over all tensors",
        "clipped": clip,
        "noise": found.noise,
        **beside(found),
        "recipe": found.recipe_digest,
        "signed by": f"{found.signer}, you; "
        + ("each message of a sum by itself, once one begins" if found.summed else "verified"),
        "file": f"{found.path}, {size(found.size)}",
    }
    show(facts)
    say("")
    rows = [
        (tensor.name, "×".join(map(str, tensor.shape)), f"{tensor.norm:.4g}", f"{tensor.largest:.4g}")
        for tensor in found.tensors[:WIDEST]
    ]
    table(("tensor", "shape", "norm", "largest"), rows)
    if len(found.tensors) > WIDEST:
        say(f"… and {len(found.tensors) - WIDEST} more; --json has all")
