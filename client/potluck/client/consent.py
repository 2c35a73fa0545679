"""The consent card: what a volunteer agrees to, as values, and as lines in plain words.

It promises nothing that the run does not do: what the coordinator can read is in plain words, either way.
"""

from dataclasses import dataclass
from typing import Final, final

import numpy as np

from potluck.aggregation.tensors import MOVING
from potluck.client.identity import display
from potluck.wire.recipe import Recipe
from potluck.wire.sums import terms_of, vector_bytes
from potluck.wire.tensors import Manifest

NEVER_LEAVES: Final = (
    "your text, and anything that quotes it",
    "names of files and folders",
    "tokens, and what the model answers to them",
    "your key, and everything else on this machine",
)
ALSO_SEEN: Final = (
    "your IP address, when you are there and how fast, the name you give, how much text you have (rounded down to a "
    "power of two), how far training is, whether it waits for the machine, the kind of an error that stopped it, and "
    "your version of this program"
)
MIND: Final = (
    "the coordinator can read each update by itself: this run has no secure aggregation and no differential privacy. "
    "Numbers that come from your text can reveal something about it to somebody who tries hard. "
    "Do not take part with text that must stay secret"
)
NOTHING: Final = "no differential privacy: nothing is promised about what others can tell from an update"
BESIDE: Final = "how many examples, tokens and steps it took; two loss numbers"
WITHDRAW: Final = (
    "`potluck leave`, at any time: updates not yet combined are dropped; those in a published version cannot be taken "
    "out of it"
)

MAX_NUMBERS: Final = 2**31  # in one update
SAMPLE: Final = 65_536  # numbers whose size is measured


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """What one round asks of this machine."""

    download_bytes: int | None  # of the base model, where it is not here yet; None: not known before it is asked for
    ram_bytes: int
    minutes: float | None  # for a round; None: not measured yet


@final
@dataclass(frozen=True, slots=True)
class ConsentCard:
    """All that a volunteer should know before saying yes."""

    run_name: str
    purpose: str
    coordinator: str  # two words and a short id
    coordinator_id: str
    addresses: tuple[str, ...]
    members: int
    model: str
    model_licence: str
    adapter_licence: str
    tensors: int  # that leave, in one update
    numbers: int  # in them
    update_bytes: int  # about, as they travel
    adapter_bytes: int  # of the shared adapter that is downloaded each round
    estimate: Estimate
    data_path: str  # where the text is; read only
    versions: int  # last version; 0: no end
    more: str  # the operator's own words
    recipe_digest: bytes
    mind: str = MIND  # what the coordinator can read, and what that can tell
    promise: str = NOTHING  # what nobody can tell, in numbers
    beside: str = BESIDE  # what is told with an update, and how

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Return the card as (heading, text) in the order to read it."""
        until = f"version {self.versions} of the shared adapter" if self.versions else "it is stopped: no end is set"
        return (
            ("Run", f"{self.run_name}: {self.purpose or 'no purpose is stated'}"),
            ("Run by", f"{self.coordinator} at {', '.join(self.addresses)}; {self.members} members so far"),
            ("Base model", f"{self.model}, licence: {self.model_licence or 'not stated'}"),
            ("Result", f"an adapter that anyone may download, licence: {self.adapter_licence}"),
            ("What leaves, each round", self._leaves()),
            ("What they also see", ALSO_SEEN),
            ("What never leaves", "; ".join(NEVER_LEAVES)),
            ("Privacy", self.promise),
            ("Mind", self.mind),
            ("Your text", f"{self.data_path}: read, never changed"),
            ("This machine", self._machine()),
            ("Until", until),
            *((("They also say", self.more),) if self.more else ()),
            ("Withdraw", WITHDRAW),
        )

    def _leaves(self) -> str:
        """Say what is in an update."""
        return (
            f"{self.tensors} tensors with {self.numbers:,} numbers, about {_size(self.update_bytes)}: how training "
            f"changed the adapter; {self.beside}"
        )

    def _machine(self) -> str:
        """Say what a round asks of the machine."""
        need = self.estimate
        minutes = "not measured yet" if need.minutes is None else f"about {need.minutes:.0f} minutes"
        base = "a base model of unknown size" if need.download_bytes is None else _size(need.download_bytes)
        return (
            f"{base} to download once and {_size(self.adapter_bytes)} each round; "
            f"about {_size(need.ram_bytes)} of memory; time for a round: {minutes}"
        )


def words_of(recipe: Recipe) -> dict[str, str]:
    """Return what the card says of a run's privacy, by its fields."""
    return {"mind": mind_of(recipe), "promise": promise_of(recipe), "beside": beside_of(recipe)}


def beside_of(recipe: Recipe) -> str:
    """Return what is told with an update, and whether by itself or only as part of a sum."""
    privacy, by_example = recipe.privacy, recipe.privacy.differential.by_example
    ledger = "what your ledger of private rounds says it cost so far" if by_example else ""
    if privacy.secure_aggregation:
        loss = "" if by_example or not privacy.sum_losses else ", a loss"
        tokens = "" if by_example else ", how many tokens it took"
        told = f"as part of the sum: that it is one{tokens}, whether it was shrunk{loss}"
        return f"{told}; by itself: {ledger}" if ledger else told
    return f"how many examples and steps the recipe asks for; {ledger}; no loss" if by_example else BESIDE


def mind_of(recipe: Recipe) -> str:
    """Return what the coordinator of a run can read, in plain words."""
    privacy = recipe.privacy
    if not privacy.secure_aggregation:
        return MIND if privacy.differential.unit == "none" else MIND.replace(" and no differential privacy", "")
    few = "; that is a small group, which hides little" if privacy.small_cohorts else ""
    return (
        f"the coordinator learns sums of at least {privacy.cohort_minimum} updates{few}, that you took part, when, and "
        f"from which address. It cannot read your update unless it controls more than {privacy.corrupt_share} of those "
        "who are summed with you; a dishonest operator could invent members, and the log of members shows who was. "
        "A sum is not differential privacy: it can reveal who took part, and something about what many have in common. "
        "An update that finds no sum waits on your disk, encrypted. "
        "Do not take part with text that must stay secret"
    )


def mode_of(recipe: Recipe) -> str:
    """Return in a few words who can read an update."""
    if recipe.privacy.secure_aggregation:
        return f"summed unseen: the coordinator learns sums of at least {recipe.privacy.cohort_minimum} updates"
    noised = ", and noise hides any one record in it" if recipe.privacy.differential.by_example else ""
    return f"plain: the coordinator can read each update by itself{noised}"


def promise_of(recipe: Recipe) -> str:
    """Return what nobody can tell, with its numbers: never an epsilon without its unit, delta and neighbours."""
    terms = recipe.privacy.differential
    numbers = f"epsilon {terms.epsilon:g} at delta {terms.delta:g}"
    if terms.by_example:
        return (
            f"nobody who sees what you send can tell whether any one record is in your text: {numbers} for one record "
            f"that is there or not, over at most {terms.participations} rounds; more is not trained. What is told is "
            "kept in a ledger of yours. This holds while your program is unmodified, and if nobody chose the recipe by "
            "your text. That you take part, when, and from where is outside of it; so is how many records you have"
        )
    if terms.by_user:
        log = ", and in its log whose updates were in each sum" if recipe.privacy.secure_aggregation else ""
        return (
            f"nobody but the coordinator can tell from the published adapters whether you took part: {numbers} for one "
            f"volunteer who is there or not, over at most {terms.participations} rounds, at least {terms.separation} "
            "apart. The coordinator adds the noise, and sees who takes part and when; who is a member, and who left, "
            f"is in its log{log}: all that is outside of it"
        )
    return NOTHING


def update_numbers(recipe: Recipe) -> int:
    """Return how many numbers one update holds; where a rule alternates between factors, of the larger kind."""
    return max(_numbers(recipe))


def update_tensors(recipe: Recipe) -> int:
    """Return how many tensors one update holds."""
    return len(recipe.modules()) * len(MOVING[recipe.moves(0)])


def _numbers(recipe: Recipe) -> tuple[int, int]:
    """Return how many numbers an update holds that starts from an even version, and from an odd one."""
    sides = recipe.modules().values()
    d, k = sum(d for d, _ in sides), sum(k for _, k in sides)
    of = {"both": d + k, "b": d, "a": k}
    return recipe.adapter.rank * of[recipe.moves(0)], recipe.adapter.rank * of[recipe.moves(1)]


def update_bytes(recipe: Recipe) -> int:
    """Return about how many bytes one update takes: noise, which compresses worst, through the recipe's codec.

    All names with one number each, and for every other number what it takes in a sample: the size of the recipe
    decides the answer, not the memory that working it out takes.
    """
    if recipe.privacy.secure_aggregation:
        return max(vector_bytes(terms_of(recipe, "", version)) for version in (0, 1))
    rng = np.random.default_rng(0)
    even, odd = _numbers(recipe)
    names = Manifest.of(recipe, int(odd > even)).entries
    packing = recipe.codec.choose((recipe.codec.name,))
    bare = len(packing.encode({name: rng.standard_normal(1, dtype=np.float32) for name, _ in names}))
    typical = min(SAMPLE, max(2, max(even, odd) // len(names)))  # of one tensor: each is compressed by itself
    one, many = (
        len(packing.encode({"sample": rng.standard_normal(count, dtype=np.float32)})) for count in (1, typical)
    )
    return bare + round((max(even, odd) - len(names)) * (many - one) / (typical - 1))


def kept_bytes(recipe: Recipe) -> int:
    """Return what error feedback takes on the disk: a float32 and a float16 a number, for two updates at a time."""
    return 2 * (4 + 2) * update_numbers(recipe) if recipe.codec.error_feedback else 0


def too_large(recipe: Recipe) -> str:
    """Return what about an update is too large for anybody, or nothing."""
    numbers = update_numbers(recipe)
    if numbers > MAX_NUMBERS:
        return f"an update would hold {numbers:,} numbers; this program takes up to {MAX_NUMBERS:,}"
    size, most = update_bytes(recipe), recipe.limits.max_update_bytes
    return f"an update takes about {size:,} bytes, and the recipe allows {most:,}" if size > most else ""


def rough_estimate(recipe: Recipe) -> Estimate:
    """Return a guess from the recipe alone: the matrices that get adapters are most of a model.

    Half again for the rest of the model, 4 bytes a number; the download is unknown and counted as 0.
    """
    numbers = sum(d * k for d, k in recipe.modules().values())
    return Estimate(download_bytes=0, ram_bytes=int(numbers * 1.5 * 4), minutes=None)


def coordinator_words(coordinator_id: str) -> str:
    """Return the short name of a coordinator, the same on every volunteer's screen."""
    return display(coordinator_id)


def _size(count: int) -> str:
    """Return a number of bytes for people."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
