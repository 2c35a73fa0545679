"""The preflight: look before you leap, in the order of what it costs.  Nothing is joined, nothing of yours is sent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from potluck.aggregation.errors import PotluckError
from potluck.client.account import CERTAIN
from potluck.client.checks import Check, Verdict, failed
from potluck.client.clock import Clock
from potluck.client.consent import (
    ConsentCard,
    Estimate,
    coordinator_words,
    kept_bytes,
    rough_estimate,
    too_large,
    update_bytes,
    update_numbers,
    update_tensors,
    words_of,
)
from potluck.client.errors import NotReady, OverBudget, Unreachable, fix_of
from potluck.client.gate import Reading
from potluck.client.limits import GIB
from potluck.client.link import ABOUT, Link
from potluck.client.probe import diagnosis
from potluck.client.software import spoken
from potluck.wire import invites
from potluck.wire.channels import PROTOCOL
from potluck.wire.invites import Invitation
from potluck.wire.recipe import Recipe
from potluck.wire.refusals import Refusal
from potluck.wire.v1.enrollment_pb2 import AboutReply, AboutRequest

RAM_MARGIN: Final = 1.2
HOPELESS_BYTES: Final = 64 * GIB  # no program that one could close frees that much
SCARCE: Final = (
    "the less text, the more a round tells of each record: name more with --data, ask the operator for more noise, or, "
    "where your own limit is passed, allow more: potluck limits max_epsilon=NUMBER"
)
USED_UP: Final = "the invite is used up or expired; it still works for a machine that has joined with it before"


def _nothing(_: Recipe) -> str:
    """Say nothing about a base model."""
    return ""


@final
@dataclass(frozen=True, slots=True)
class Site:
    """The machine, as far as joining looks at it.  What knows about text and models is handed in."""

    clock: Clock
    link: Callable[[Invitation], Link]
    reading: Reading
    data: Path
    count_examples: Callable[[Path, Recipe], int]  # raises PotluckError where the text is of no use
    estimate: Callable[[Recipe], Estimate] = rough_estimate
    afford: Callable[[Recipe, str, int], None] = lambda *_: None  # raises where a run's round on N records is too dear
    base_problem: Callable[[Recipe], str] = _nothing  # why the base model has to be downloaded; empty: it is here


@final
@dataclass(slots=True)
class Preflight:
    """What a preflight found so far.  Iterate over it to run it; it stops at the first error that hides the rest."""

    token: str
    site: Site
    checks: list[Check] = field(default_factory=list)
    invitation: Invitation | None = None
    about: AboutReply | None = None
    recipe: Recipe | None = None
    examples: int = 0

    def __iter__(self) -> Iterator[Check]:
        """Run all checks, cheapest first, and give each as soon as it is known."""
        for step in STEPS:
            for check in step(self):
                self.checks.append(check)
                yield check
            if step in NEEDED and not self.ok:
                return

    @property
    def ok(self) -> bool:
        """Whether no check so far was an error."""
        return all(check.verdict is not Verdict.ERROR for check in self.checks)

    def card(self) -> ConsentCard:
        """Return the consent card.

        Raises:
            NotReady: the preflight has not run, or found errors.
        """
        invitation, about, recipe = self.found()
        return ConsentCard(
            run_name=recipe.run.name,
            purpose=recipe.run.purpose,
            coordinator=coordinator_words(invitation.coordinator_id),
            coordinator_id=invitation.coordinator_id,
            addresses=invitation.addresses,
            members=about.members,
            model=recipe.model.base,
            model_licence=recipe.model.licence,
            adapter_licence=recipe.run.licence,
            tensors=update_tensors(recipe),
            numbers=update_numbers(recipe),
            update_bytes=update_bytes(recipe),
            adapter_bytes=about.adapter_bytes,
            estimate=self.site.estimate(recipe),
            data_path=str(self.site.data),
            versions=recipe.run.versions,
            more=recipe.data.consent,
            recipe_digest=recipe.digest(),
            **words_of(recipe),
        )

    def found(self) -> tuple[Invitation, AboutReply, Recipe]:
        """Return what enrolling needs.

        Raises:
            NotReady: the preflight has not run, or found errors.
        """
        if not self.ok or self.invitation is None or self.about is None or self.recipe is None:
            first = next((check for check in self.checks if check.verdict is Verdict.ERROR), None)
            message, fix = (first.message, first.fix) if first else ("the preflight has not run", "run it first")
            raise NotReady(message, fix=fix)
        return self.invitation, self.about, self.recipe


def check_invite(found: Preflight) -> Iterator[Check]:
    """Is the invite one, and still good by our own clock, which decides nothing?"""
    try:
        invitation = found.invitation = invites.read(found.token)
    except PotluckError as error:
        yield failed("invite", error)
        return
    left_s = invitation.expires_unix_s - found.site.clock.wall_s()
    if left_s < 0:
        yield Check(
            "invite",
            Verdict.WARNING,
            f"by this machine's clock the invite expired {-left_s / 3600:.1f} hours ago",
            "if the coordinator agrees, ask for a new one; if not, set the clock",
        )
    else:
        yield Check("invite", Verdict.OK, f"for {invitation.run_name}, good for {left_s / 3600:.0f} more hours")


def check_coordinator(found: Preflight) -> Iterator[Check]:
    """Is the coordinator there, the one that made the invite, and what does it say of the invite?"""
    if found.invitation is None:
        return
    link = found.site.link(found.invitation)
    try:
        found.about = link.patiently(ABOUT, AboutRequest(invite=found.invitation.token, protocol=spoken()))
    except Unreachable as error:
        told = [diagnosis(address, found.invitation) for address in found.invitation.addresses]
        wrong = [one for one in told if one[0]]
        if len(wrong) < len(told):  # TLS is as the invite says; something behind it is not
            yield failed("coordinator", error)
        for message, fix in wrong:
            yield Check("coordinator", Verdict.ERROR, message, fix)
    except Refusal as refusal:
        yield failed("coordinator", refusal)
    else:
        words = coordinator_words(found.invitation.coordinator_id)
        yield Check("coordinator", Verdict.OK, f"{words} at {link.address}; its key is the invite's")
        if found.about.uses_left == 0:
            yield Check("uses", Verdict.WARNING, USED_UP, "if this machine has not joined before, ask for a new invite")
    finally:
        link.close()


def check_protocol(found: Preflight) -> Iterator[Check]:
    """Do we speak a common protocol?"""
    if found.about is None:
        return
    theirs = found.about.protocol
    if theirs.oldest <= PROTOCOL <= theirs.newest:
        yield Check("protocol", Verdict.OK, f"version {PROTOCOL}")
    else:
        message = f"the coordinator speaks protocols {theirs.oldest} to {theirs.newest}, this program {PROTOCOL}"
        fix = "update potluck" if theirs.oldest > PROTOCOL else "ask the operator to update potluck"
        yield Check("protocol", Verdict.ERROR, message, fix)


def check_recipe(found: Preflight) -> Iterator[Check]:
    """Is the recipe valid, whole, and the one whose digest the coordinator names?"""
    if found.about is None:
        return
    try:
        recipe = Recipe.offered(found.about.recipe_json)
        recipe.modules()
    except PotluckError as error:
        yield failed("recipe", error)
        return
    if recipe.digest() != found.about.recipe_digest:
        fix = "update potluck: this recipe may have settings that it does not know"
        yield Check("recipe", Verdict.ERROR, "the recipe's digest is not the one that the coordinator names", fix)
    elif not recipe.complete:
        fix = "ask the operator to complete it"
        yield Check("recipe", Verdict.ERROR, "the recipe does not pin its base model", fix)
    elif problem := too_large(recipe):
        yield Check("recipe", Verdict.ERROR, problem, "tell the operator: nobody can take part in this")
    else:
        found.recipe = recipe
        yield Check("recipe", Verdict.OK, f"{recipe.run.name}: {recipe.model.base}, rank {recipe.adapter.rank}")


def check_machine(found: Preflight) -> Iterator[Check]:
    """Is there memory and disk enough?"""
    if found.recipe is None:
        return
    need = found.site.estimate(found.recipe)
    ram, disk = found.site.reading.free_ram_bytes, found.site.reading.free_disk_bytes
    if ram is None or disk is None:
        yield Check("machine", Verdict.WARNING, "free memory or disk cannot be measured here", "watch the first round")
    if ram is not None:
        message = f"{ram / GIB:.1f} GiB of memory free, about {need.ram_bytes / GIB:.1f} GiB needed"
        if ram >= need.ram_bytes * RAM_MARGIN:
            yield Check("memory", Verdict.OK, message)
        elif need.ram_bytes - ram <= HOPELESS_BYTES:
            yield Check("memory", Verdict.WARNING, message, "close programs")
        else:
            yield Check("memory", Verdict.ERROR, message, "take part from a machine with that much memory")
    if disk is not None:
        wanted = (need.download_bytes or 0) + 4 * (found.about.adapter_bytes if found.about else 0)
        wanted += kept_bytes(found.recipe)
        enough = disk >= wanted
        message = f"{disk / GIB:.1f} GiB of disk free, {wanted / GIB:.1f} GiB needed"
        yield Check("disk", Verdict.OK if enough else Verdict.ERROR, message, "" if enough else "make room")


def check_data(found: Preflight) -> Iterator[Check]:
    """Is there text to train on?"""
    if found.recipe is None:
        return
    try:
        found.examples = found.site.count_examples(found.site.data, found.recipe)
    except PotluckError as error:
        yield failed("text", error)
        return
    if found.examples == 0:
        message = f"nothing to train on in {found.site.data}"
        yield Check("text", Verdict.ERROR, message, "name a folder with text: --data FOLDER")
    else:
        yield Check("text", Verdict.OK, f"{found.examples} examples in {found.site.data}; they stay there")


def check_privacy(found: Preflight) -> Iterator[Check]:
    """Could a private round on so much text be paid, where the recipe spends the owner's privacy?"""
    if found.recipe is None or found.invitation is None or not found.examples:
        return
    terms = found.recipe.privacy.differential
    if not terms.by_example:
        return
    try:
        found.site.afford(found.recipe, found.invitation.run_id, found.examples)
    except PotluckError as error:
        # Equal samples are one record: where there are too many for delta, perhaps there are few enough.
        verdict = Verdict.WARNING if found.examples * terms.delta > CERTAIN else Verdict.ERROR
        yield Check("privacy", verdict, str(error), SCARCE if isinstance(error, OverBudget) else fix_of(error))
    else:
        yield Check("privacy", Verdict.OK, "a private round on so much text is within what the run and you allow")


def check_base(found: Preflight) -> Iterator[Check]:
    """Is the base model here already?"""
    if found.recipe is None:
        return
    problem = found.site.base_problem(found.recipe)
    if problem:
        size = found.site.estimate(found.recipe).download_bytes
        told = (
            "of a size that is not known before it is asked for, is" if size is None else f"of {size / 1e6:.0f} MB is"
        )
        yield Check("base model", Verdict.WARNING, problem, f"a base model {told} downloaded before the first round")
    else:
        yield Check("base model", Verdict.OK, f"{found.recipe.model.base} is here")


STEPS: Final[tuple[Callable[[Preflight], Iterator[Check]], ...]] = (
    check_invite,
    check_coordinator,
    check_protocol,
    check_recipe,
    check_machine,
    check_data,
    check_privacy,
    check_base,
)
NEEDED: Final = (check_invite, check_coordinator, check_protocol, check_recipe)
"""Without these the later ones have nothing to look at."""
