"""Training a personal adapter over the frozen shared one, and using both.  Nothing here is given to anybody."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Self, final

import numpy as np
import torch
from peft import PeftModel

from potluck.aggregation import LowRank, broadcast, start
from potluck.client.data import Split
from potluck.client.errors import Interrupted
from potluck.client.personal import About, Losses, Personal, Wish
from potluck.client.training import bases
from potluck.client.training.adapters import TAIL, TRAINED, attach, detach, factors, mount
from potluck.client.training.bases import Base
from potluck.client.training.batches import Batches, make
from potluck.client.training.errors import BadAdapter
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.gates import add_gates, constants, gates
from potluck.client.training.local import HELD_OUT_TOKENS
from potluck.client.training.loop import train
from potluck.client.training.proximal import Proximal
from potluck.client.work import Stride, Word
from potluck.wire.recipe import Adapter, Recipe

PASSES: Final = 5
"""Times that the text is gone through, unless the owner names a number of steps."""
FEWEST: Final = 8
MOST: Final = 200
WATCHED: Final = 16
"""Batches of the training text on which the stand-ins for the gates are worked out."""

Shared = Mapping[str, LowRank]


@final
@dataclass(frozen=True, slots=True)
class Ground:
    """What a personal adapter is trained on: the base in memory, the shared adapter, the owner's text."""

    model: Any
    tokenizer: Any
    recipe: Recipe
    shared: Shared
    texts: Split

    @classmethod
    def at(cls, base: Base, recipe: Recipe, shared: Shared, texts: Split, threads: int) -> Self:
        """Return it with *base* loaded, to be worked on by so many *threads*."""
        torch.set_num_threads(threads)
        device = bases.pick_device()
        return cls(*bases.load(base, device, bases.pick_dtype(device)), recipe, shared, texts)

    def batches(self, seed: int) -> Batches:
        """Return the owner's training rows, as a round of the run would have them."""
        recipe = self.recipe
        return make(
            self.texts.train,
            self.tokenizer,
            max_tokens=recipe.data.max_tokens,
            rows=recipe.training.batch,
            seed=seed,
        )

    def loss(self, model: Any, *, adapters: bool = True) -> float:  # noqa: ANN401
        """Return the loss on the owner's held-out text, in nats per token, over at most HELD_OUT_TOKENS of it."""
        length = self.recipe.data.max_tokens
        most = max(1, HELD_OUT_TOKENS // length)
        return held_out_loss(model, self.tokenizer, self.texts.held_out, length, max_rows=most, adapters=adapters)[0]


def personalize(
    ground: Ground,
    about: About,
    earlier: Personal | None = None,
    on_step: Callable[[Stride], Word] = lambda _: Word.GO,
) -> Personal:
    """Train a personal adapter as *about*.wish says and return it with its losses; the model is as it was afterwards.

    With an *earlier* one of the same wish, training goes on from it over the present shared adapter: that is how it
    is re-based.  The pull, if any, is to the shared adapter in both cases.  Nothing is written to the disk.

    Raises:
        BadAdapter: the shared or the earlier adapter does not fit the model or the wish.
        TrainingDiverged: the loss is not finite.
        Interrupted: *on_step* said STOP or SUSPEND.
    """
    wish, recipe = about.wish, ground.recipe
    batches = ground.batches(about.version)
    before = None if earlier is None else measured(ground, earlier)
    training = recipe.training.model_copy(
        update={"steps": steps_of(wish, batches), "learning_rate": wish.learning_rate}
    )
    first = earlier or begun(ground, about)
    with carrying(ground, first, trains=True) as adapted:
        pull = Proximal.to_zero(adapted, wish.proximal)
        if train(adapted, batches, training, on_step=on_step, proximal=pull) is None:
            raise Interrupted("personalizing was stopped; nothing was kept of it", fix="potluck personalize")
        trained = factors(adapted, settings_of(recipe, wish))
        learned = gates(adapted)
        stand_in = constants(adapted, islice(batches.after(0), WATCHED)) if learned else {}
    made = Personal(about, trained, learned, stand_in)
    return replace(made, about=replace(about, losses=measured(ground, made), before=before))


def steps_of(wish: Wish, batches: Batches) -> int:
    """Return how many steps to take: as wished, or PASSES times through the text, from FEWEST to MOST."""
    tokens = sum(len(sample.ids) for sample in batches.samples)
    passes = round(PASSES * tokens / (batches.rows * batches.max_tokens))
    return wish.steps or min(MOST, max(FEWEST, passes))


def begun(ground: Ground, about: About) -> Personal:
    """Return a personal adapter that changes nothing yet: B is zero, A random or the shared one's."""
    recipe, wish = ground.recipe, about.wish
    settings = settings_of(recipe, wish)
    published = broadcast(ground.shared, "orthonormal") if wish.share_a else {}
    started = start(
        published,
        recipe.modules(),
        init="orthonormal" if wish.share_a else "fresh",
        rank=wish.rank,
        scale=settings.scale,
        seed=about.version,
    ).trainable
    terms = {name: LowRank(np.zeros_like(term.b), term.a, term.scale) for name, term in started.items()}
    return Personal(about, terms)


@contextmanager
def carrying(ground: Ground, personal: Personal, *, trains: bool = False) -> Iterator[PeftModel]:
    """Lend the model with the shared adapter and *personal* on it; the base is as it was afterwards.

    Raises:
        BadAdapter: one of them does not fit.
    """
    wish = personal.about.wish
    settings = settings_of(ground.recipe, wish)
    adapted = attach(ground.model, personal.products, ground.shared, settings, "b" if wish.share_a else "both")
    try:
        if wish.gated and (trains or personal.gates):
            add_gates(adapted, personal.gates or None)
        adapted.eval()
        yield adapted
    finally:
        detach(adapted)


def settings_of(recipe: Recipe, wish: Wish) -> Adapter:
    """Return the adapter settings of *wish*, on the modules of *recipe*."""
    return recipe.adapter.model_copy(update={"rank": wish.rank, "alpha": wish.alpha, "rslora": False})


def measured(ground: Ground, personal: Personal) -> Losses:
    """Return the five losses on the owner's held-out text."""
    with carrying(ground, personal) as adapted:
        base = ground.loss(adapted, adapters=False)
        arms = {}
        for name, on in (("shared", [TAIL]), ("personal", [TRAINED]), ("both", [TRAINED, TAIL])):
            adapted.base_model.set_adapter(on)
            arms[name] = ground.loss(adapted)
    if not personal.gates:
        return Losses(base, **arms, exported=arms["both"])
    mounted = mount(ground.model, personal.beside(ground.shared))
    try:
        exported = ground.loss(mounted)
    finally:
        detach(mounted)
    return Losses(base, **arms, exported=exported)


def fitting(personal: Personal, recipe: Recipe) -> None:
    """Refuse a personal adapter of another base model or of other modules.

    Raises:
        BadAdapter: it was made for something else.
    """
    if personal.about.base_digest != recipe.model.digest or set(personal.products) != set(recipe.modules()):
        raise BadAdapter(
            f"the personal adapter was made over {personal.about.run_name!r}, which has another base model",
            fix="personalize again: potluck personalize --data PATH --anew",
        )
