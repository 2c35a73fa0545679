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
        "leaves": f"{len(found.tensors)} tensors with {found.numbers:,} numbers, {size(found.size)}",
        "travels": found.travels,
        "codec": ", ".join(f"{key} {value}" for key, value in found.codec.items()),
        "norm": f"{found.norm:.6g} over all tensors",
        "clipped": clip,
        "noise": found.noise,
        "beside it": f"{found.examples} examples, {found.steps} steps, {found.tokens} tokens, "
        f"loss {found.loss_before:.4f} before and {found.loss_after:.4f} after",
        "recipe": found.recipe_digest,
        "signed by": f"{found.signer}, you; verified",
        "file": str(found.path),
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
