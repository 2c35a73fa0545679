"""A scenario's tables: what a person writes, read as strictly as a recipe."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Final, Literal, Self, final

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potluck.aggregation.errors import BadSetting, UnknownName
from potluck.simulations.attacks import ATTACKS
from potluck.simulations.worlds.devices import DEVICES
from potluck.wire.recipe import Name
from potluck.wire.settings import Line, Settings

Share = Annotated[float, Field(gt=0, le=1)]
Hour = Annotated[float, Field(ge=0, lt=24)]
Location = Annotated[str, Field(min_length=1, max_length=4_096)]
CLOSE: Final = 1e-6  # thirds, as people write them, may be a little off


@final
class Text(Settings):
    """The table [text]: what people could hold."""

    source: Location = "shakespeare"
    """A key of potluck.simulations.worlds.corpora.SOURCES, or a path, from the scenario's folder."""
    label: Line = ""
    """Of a path: the column of .jsonl and .csv files by which "label_skew" tells rows apart."""
    owner: Line = ""
    """Of a path: the column that says whose a row is, for "natural"; empty: whose folder or file it is in."""


@final
class Partition(Settings):
    """The table [partition]: who holds what."""

    kind: Literal["natural", "iid", "label_skew", "quantity_skew"] = "natural"
    """A key of potluck.simulations.worlds.partitions.PARTITIONS."""
    alpha: Annotated[float, Field(ge=0.001, le=1_000)] = 0.5
    """Dirichlet's parameter of "label_skew" and "quantity_skew": the smaller, the more uneven."""
    minimum: Annotated[int, Field(ge=2)] = 2
    """Samples that each client holds at the least; it takes two, one to train on and one to measure with."""


@final
class DeviceShare(Settings):
    """A table of [[devices]]: a class of machines, and how many have one."""

    name: Line
    """A key of potluck.simulations.worlds.devices.DEVICES; or any name, with all three speeds."""
    share: Share = 1.0
    """Share of the people; those of all tables add up to 1."""
    tokens_per_s: NonNegativeFloat = 0.0
    """Tokens that it learns from in a second; 0 means what the name says, which is of SmolLM2-135M."""
    up_mbit_s: NonNegativeFloat = 0.0
    """Upload in Mbit/s; 0 means what the name says."""
    down_mbit_s: NonNegativeFloat = 0.0
    """Download in Mbit/s; 0 means what the name says."""
    spread: Annotated[float, Field(ge=0, le=2)] = 0.25
    """How people's machines differ: standard deviation of the logarithm of each speed."""

    @model_validator(mode="after")
    def _has_speeds(self) -> Self:
        if self.name not in DEVICES and not (self.tokens_per_s and self.up_mbit_s and self.down_mbit_s):
            guess = get_close_matches(self.name, DEVICES, n=1)
            raise UnknownName(
                f"no device is called {self.name!r}",
                fix=f"did you mean {guess[0]!r}?" if guess else "set tokens_per_s, up_mbit_s and down_mbit_s",
            )
        return self


@final
class RankShare(Settings):
    """A table of [[ranks]]: a rank, and how many train it."""

    rank: Annotated[int, Field(gt=0, le=256)]
    """Columns that they train, instead of the recipe's."""
    share: Share
    """Share of the people; those of all tables add up to 1."""


@final
class Zone(Settings):
    """A table of [[availability.diurnal.zones]]: where people live."""

    utc_h: Annotated[float, Field(ge=-12, le=14)]
    """Hours that their clocks are ahead of UTC."""
    share: Share
    """Share of the people; those of all tables add up to 1."""


@final
class Diurnal(Settings):
    """The table [availability.diurnal]: people who are there at their time of day."""

    from_h: Hour
    """Hour of the day, on their clocks, at which the window opens."""
    hours: Annotated[float, Field(gt=0, lt=24)]
    """Hours that it stays open."""
    spread_h: NonNegativeFloat = 1.0
    """How people differ: standard deviation of from_h between them, in hours."""
    jitter_h: Annotated[float, Field(ge=0, le=3)] = 0.5
    """How days differ: standard deviation of a person's opening and closing from day to day, in hours."""
    days: Share = 1.0
    """Share of the days on which a person comes at all."""
    always: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the people who are there around the clock."""
    zones: tuple[Zone, ...] = ()
    """Where people live; empty: all at UTC."""
    starts_utc_h: Hour = 12.0
    """Hour of the day at which the run begins, UTC."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        whole("availability.diurnal.zones", [zone.share for zone in self.zones])
        return self


@final
class Churn(Settings):
    """The table [availability.churn]: people who come and go at random, and some for good."""

    online_h: PositiveFloat
    """Hours that a person stays online, on average."""
    offline_h: PositiveFloat
    """Hours that a person stays offline, on average."""
    joins_h: NonNegativeFloat = 0.0
    """Hours over which people join the run, evenly; 0: all are there when it begins."""
    stays_h: NonNegativeFloat = 0.0
    """Hours from joining to leaving for good, on average; 0: nobody leaves."""

    @model_validator(mode="after")
    def _comes_and_goes(self) -> Self:
        if not 0.001 <= self.offline_h / self.online_h <= 1_000:  # noqa: PLR2004 - what the fix says
            raise BadSetting(
                f"availability.churn.offline_h is {self.offline_h:g} and online_h {self.online_h:g}: hardly ever "
                f"{'online' if self.offline_h > self.online_h else 'offline'}",
                fix="set each to at most 1000 times the other",
            )
        return self


@final
class Trace(Settings):
    """The table [availability.trace]: when real people were there, from a file."""

    path: Location
    """A .csv file with the columns person, from_h and to_h; from the scenario's folder."""
    repeats_h: NonNegativeFloat = 0.0
    """Hours after which it begins again; 0 means never, and people who reach its end are gone."""


@final
class Availability(Settings):
    """The table [availability]: when people are there; of several patterns, when all of them say so."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the leases whose client gives up though it is online."""
    diurnal: Diurnal | None = None
    """People who are there at their time of day."""
    churn: Churn | None = None
    """People who come and go at random, and some for good."""
    trace: Trace | None = None
    """When real people were there, from a file."""


@final
class Hostile(Settings):
    """The table [attack]: who sends what they did not learn."""

    name: Line = ""
    """A key of potluck.simulations.attacks.ATTACKS; empty: nobody is hostile."""
    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the people who are hostile."""
    settings: dict[Line, float] = Field(default_factory=dict)
    """Settings of the attack, such as {tau = 2.0}."""
    beyond: bool = False
    """Whether more may be hostile than the recipe says it withstands, to see what happens."""

    @model_validator(mode="after")
    def _is_an_attack(self) -> Self:
        if bool(self.name) != bool(self.share):
            raise BadSetting(
                f"attack.name is {self.name!r} and attack.share is {self.share}",
                fix="set both, or leave both out",
            )
        if self.name and self.name not in ATTACKS:
            close = get_close_matches(self.name, ATTACKS, n=1, cutoff=0)
            raise UnknownName(f"no attack is called {self.name!r}", fix=f"did you mean {close[0]!r}?")
        try:
            if self.name:
                ATTACKS[self.name](**self.settings)
        except TypeError as error:
            raise UnknownName(f"attack.settings of {self.name!r}: {error}", fix="leave that setting out") from None
        return self


@final
class Scenario(Settings):
    """A simulated world, whole."""

    name: Name
    """Name of the scenario, letters, digits, spaces, dots and dashes."""
    about: Line = ""
    """What it is like, in a sentence."""
    seed: NonNegativeInt = 0
    """For everything that chance decides in it."""
    clients: PositiveInt = 100
    """How many people it is meant for; `potluck simulate --clients` says otherwise."""
    text: Text = Text()
    """What people could hold."""
    partition: Partition = Partition()
    """Who holds what."""
    devices: tuple[DeviceShare, ...] = (DeviceShare(name="laptop"),)
    """Classes of machines, and how many have one."""
    ranks: tuple[RankShare, ...] = ()
    """Ranks that people train; empty: all the recipe's."""
    availability: Availability = Availability()
    """When people are there."""
    attack: Hostile = Hostile()
    """Who sends what they did not learn."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if not self.devices:
            raise BadSetting("devices is empty", fix="leave it out, or add a table [[devices]]")
        whole("devices", [device.share for device in self.devices])
        whole("ranks", [rank.share for rank in self.ranks])
        return self


def whole(where: str, shares: Sequence[float]) -> None:
    """See that *shares*, if there are any, add up to 1.

    Raises:
        BadSetting: they do not; with their sum.
    """
    if shares and abs(sum(shares) - 1) > CLOSE:
        raise BadSetting(
            f"the shares of {where} add up to {sum(shares):g}: {', '.join(f'{share:g}' for share in shares)}",
            fix="change them so that they add up to 1",
        )
