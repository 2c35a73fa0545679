"""Folders of runs as a simulation writes them, made up: numbers that look like a run's, repeatable from a seed."""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from potluck.simulations.reports.runs import Run
from potluck.simulations.reports.tables import CLIENTS, ROUNDS, UPDATES, write_rows
from potluck.simulations.rows import ClientRow, RoundRow, UpdateRow
from potluck.wire.recipe import Recipe

ADAPTER_BYTES = 400_000
UPDATE_BYTES = 25_000
TOKENS = 960
DEVICES = ("laptop", "old laptop", "phone")
SPEED = {"laptop": 200.0, "old laptop": 60.0, "phone": 25.0}


@dataclass(frozen=True)
class MadeUp:
    """What a made-up run is like."""

    clients: int = 40
    rounds: int = 12
    cohort: int = 8
    hostile: float = 0.0
    dropout: float = 0.05
    gain: float = 0.9
    """Nats per token that it gains in the end."""
    harm: float = 0.0
    """Nats per token of that which attacks take."""
    base: str = "a tiny base"
    rule: str = "mean"
    attack: str = ""
    measured: bool = True
    seed: int = 0


def recipe_of(made: MadeUp) -> Recipe:
    """Return a recipe that a run of this kind could have."""
    table: dict[str, Any] = {
        "run": {"name": "made up", "purpose": "to try <reports> & pages"},
        "model": {"base": made.base, "digest": (made.base.encode().hex() * 64)[:64], "modules": {"q": [64, 64]}},
        "aggregation": {"rule": made.rule, "cohort": made.cohort},
    }
    return Recipe.parse(json.dumps(table))


def write_run(folder: Path, made: MadeUp = MadeUp()) -> Path:
    """Write a run to *folder* and return it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(made.seed)
    everybody = _clients(made)
    rounds, updates = [], []
    hours = 0.0
    for number in range(1, made.rounds + 1):
        leased = _leases(made, number, hours, everybody, rng)
        row = _round(made, number, hours, leased, rng)
        rounds.append(row)
        updates += leased
        hours = row.ended_h
    (folder / "recipe.json").write_text(recipe_of(made).model_dump_json(), "utf-8")
    (folder / "scenario.json").write_text(json.dumps({"seed": made.seed, "attack": made.attack}), "utf-8")
    write_rows(folder / ROUNDS, rounds, RoundRow)
    write_rows(folder / UPDATES, updates, UpdateRow)
    write_rows(folder / CLIENTS, _ended(made, everybody, updates), ClientRow)
    return folder


def loss_at(made: MadeUp, number: int) -> float:
    """Return the loss after so many rounds."""
    return 3.0 - (made.gain - made.harm) * (1 - math.exp(-number / 4))


def client_row(name: str, **values: Any) -> ClientRow:
    """Return a client with *values*, and plain ones for the rest."""
    plain = {"device": "laptop", "rank": 8, "examples": 5, "bytes_of_text": 100, "hostile": False, "leases": 1}
    return ClientRow(client=name, **plain | {"counted": 1, "loss_base": math.nan, "loss": math.nan} | values)


def update_row(name: str, share: float, weight: float, **values: Any) -> UpdateRow:
    """Return a combined update with *values*, and nothing for the rest."""
    plain = {field.name: field.type() for field in fields(UpdateRow)}
    return UpdateRow(**plain | {"client": name, "outcome": "counted", "share": share, "weight": weight} | values)


def round_row(number: int, loss: float, **values: Any) -> RoundRow:
    """Return a round with *values*, and nothing for the rest."""
    plain = {field.name: field.type() for field in fields(RoundRow)}
    return RoundRow(**plain | {"round": number, "loss": loss, "loss_worst_decile": loss} | values)


def run_of(rounds=(), updates=(), clients=(), made: MadeUp = MadeUp()) -> Run:
    """Return a run of these rows, of a recipe as *made* has it."""
    return Run(Path("run"), recipe_of(made), {}, tuple(rounds), tuple(updates), tuple(clients))


def _clients(made: MadeUp) -> list[ClientRow]:
    """Return everybody before the run: the same people for every seed, attack and rule."""
    rng = np.random.default_rng(99)
    sizes = rng.integers(2_000, 60_000, made.clients)
    losses = 3.0 + rng.normal(size=made.clients, scale=0.25)
    losses -= np.average(losses, weights=sizes) - 3.0
    return [
        ClientRow(
            client=f"client-{n:03d}",
            device=DEVICES[n % 3],
            rank=8,
            examples=int(sizes[n] // 200),
            bytes_of_text=int(sizes[n]),
            hostile=n < made.hostile * made.clients,
            leases=0,
            counted=0,
            loss_base=float(losses[n]) if made.measured else math.nan,
            loss=math.nan,
        )
        for n in range(made.clients)
    ]


def _leases(made: MadeUp, number: int, hours: float, everybody: list[ClientRow], rng: np.random.Generator):
    chosen = rng.choice(len(everybody), min(len(everybody), made.cohort + 3), replace=False)
    rows: list[UpdateRow] = []
    for n in chosen:
        who, counted = everybody[n], sum(row.outcome == "counted" for row in rows)
        gone = rng.random() < made.dropout
        outcome = "dropped" if gone else "counted" if counted < made.cohort else "late"
        staleness = int(rng.choice(3, p=[0.7, 0.2, 0.1])) if number > 3 else 0
        train_s = TOKENS / SPEED[who.device]
        before = who.loss_base - 3.0 + loss_at(made, number - 1 - staleness)
        rows.append(
            UpdateRow(
                round=number,
                client=who.client,
                version=number - 1 - staleness,
                outcome=outcome,
                staleness=staleness,
                leased_h=hours,
                ended_h=hours + (train_s + 30) / 3600,
                download_s=ADAPTER_BYTES / 1e5,
                train_s=train_s,
                upload_s=UPDATE_BYTES / 2e4,
                bytes_up=0 if gone else UPDATE_BYTES,
                examples=who.examples,
                steps=10,
                tokens=TOKENS,
                loss_before=before,
                loss_after=before - 0.05,
                share=math.nan,
                weight=math.nan,
                reason="",
                hostile=who.hostile,
            )
        )
    return _weighed(rows, rng)


def _weighed(rows: list[UpdateRow], rng: np.random.Generator) -> list[UpdateRow]:
    """Give combined updates their shares, and hostile ones a tenth of it."""
    counted = [row for row in rows if row.outcome == "counted"]
    if not counted:
        return rows
    shares = np.array([row.examples for row in counted], float) * rng.uniform(0.8, 1.25, len(counted))
    shares /= shares.sum()
    weights = shares * [0.1 if row.hostile else 1.0 for row in counted]
    weights /= weights.sum()
    place = {row.client: n for n, row in enumerate(counted)}
    return [
        row
        if row.client not in place
        else _replaced(row, shares[place[row.client]], weights[place[row.client]], "points away" if row.hostile else "")
        for row in rows
    ]


def _replaced(row: UpdateRow, share: float, weight: float, reason: str) -> UpdateRow:
    values = {name: getattr(row, name) for name in UpdateRow.__slots__}
    return UpdateRow(**values | {"share": float(share), "weight": float(weight), "reason": reason})


def _round(made: MadeUp, number: int, hours: float, leased: list[UpdateRow], rng: np.random.Generator) -> RoundRow:
    counted = [row for row in leased if row.outcome == "counted"]
    loss = loss_at(made, number) + float(rng.normal(scale=0.004)) if made.measured else math.nan
    return RoundRow(
        round=number,
        version=number,
        ended="COMMITTED",
        reason="",
        began_h=hours,
        ended_h=max(row.ended_h for row in leased),
        leases=len(leased),
        updates=len(counted),
        dropped=sum(row.outcome == "dropped" for row in leased),
        late=sum(row.outcome == "late" for row in leased),
        hostile=sum(row.hostile for row in counted),
        bytes_up=sum(row.bytes_up for row in leased),
        bytes_down=ADAPTER_BYTES * len(leased),
        tokens=sum(row.tokens for row in counted),
        loss=loss,
        loss_worst_decile=loss + 0.45,
        truncation=0.01,
        cpu_s=2.5,
        wall_s=1.5,
    )


def _ended(made: MadeUp, everybody: list[ClientRow], updates: list[UpdateRow]) -> list[ClientRow]:
    """Return everybody after the run."""
    rows = []
    for who in everybody:
        mine = [row.outcome for row in updates if row.client == who.client]
        values = {name: getattr(who, name) for name in ClientRow.__slots__}
        ended = {
            "leases": len(mine),
            "counted": mine.count("counted"),
            "loss": who.loss_base - 3.0 + loss_at(made, made.rounds),
        }
        rows.append(ClientRow(**values | ended))
    return rows
