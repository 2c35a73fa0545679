"""What all parts of one simulated run share."""

from dataclasses import dataclass, replace
from typing import final

from potluck.coordinator import rounds
from potluck.coordinator.phases import Phase
from potluck.coordinator.site import Plan
from potluck.simulations.rows import UpdateRow
from potluck.simulations.running.fleet import Fleet
from potluck.simulations.running.kept import Asked, Folder, Rows
from potluck.simulations.running.packing import Packing
from potluck.simulations.running.standing import Lease, Standing
from potluck.simulations.worlds.base import Person, World
from potluck.wire.recipe import Recipe

NAN = float("nan")
HOUR_S = 3_600.0


def terms_of(recipe: Recipe) -> rounds.Terms:
    """Return the recipe's terms without an end: how many rounds are played is the simulation's own affair."""
    return replace(rounds.Terms.of(recipe), last_version=0)


@final
@dataclass(frozen=True, slots=True)
class Table:
    """One run."""

    plan: Plan
    terms: rounds.Terms
    world: World
    fleet: Fleet
    asked: Asked
    folder: Folder
    packing: Packing
    standing: Standing
    rows: Rows

    def person(self, lease: Lease) -> Person:
        """Return whose lease it is."""
        return self.world.people[lease.person]

    def look(self) -> rounds.Situation:
        """Return where the run stands, as the coordinator's decisions see it; a round is combined in no time."""
        at, tally, now_s = self.standing, self.standing.tally, self.standing.at_s
        leased = 0
        if self.terms.synchronous:
            leased = sum(lease.round == at.round and lease.alive(now_s) for lease in at.leases.values())
        return rounds.Situation(
            version=at.version,
            combining=0,
            round=at.round,
            phase=Phase[at.phase],
            received=len(at.waiting),
            leased=leased,
            age_s=None if tally.began_s is None else now_s - tally.began_s,
            paused=False,
        )

    def verdict(self, lease: Lease) -> rounds.Verdict:
        """Return what an update for *lease* would count as, were it here now."""
        client = self.standing.clients[lease.person]
        hold = rounds.Hold(b"", lease.round, lease.version, alive=lease.alive(self.standing.at_s), open=True)
        contributed = lease.version == client.counted_version or client.counted_round == self.standing.round
        return rounds.verdict(self.terms, self.look(), hold, contributed=contributed)

    def end(self, lease: Lease, outcome: str, **facts: object) -> None:
        """Write down that *lease* has ended so."""
        sealed, tally = lease.sealed, self.standing.tally
        if outcome in {"dropped", "expired"}:
            tally.dropped += 1
        elif outcome == "late":
            tally.late += 1
        row = UpdateRow(
            round=self.standing.round,
            client=self.person(lease).name,
            version=lease.version,
            outcome=outcome,
            staleness=self.standing.version - lease.version,
            leased_h=lease.granted_s / HOUR_S,
            ended_h=self.standing.at_s / HOUR_S,
            download_s=lease.download_s,
            train_s=lease.train_s,
            upload_s=lease.upload_s,
            bytes_up=sealed.size if sealed and lease.upload_s else 0,
            examples=sealed.examples if sealed else 0,
            steps=sealed.steps if sealed else 0,
            tokens=sealed.tokens if sealed else 0,
            loss_before=sealed.loss_before if sealed else 0.0,
            loss_after=sealed.loss_after if sealed else 0.0,
            share=NAN,
            weight=NAN,
            reason="",
            hostile=self.person(lease).hostile,
        )
        self.rows.updates.append(replace(row, **facts))  # type: ignore[arg-type]
