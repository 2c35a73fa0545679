"""What one volunteer's held-out text says of the base, of training alone, and of the shared adapter.

Run as a program, `python -m potluck.simulations.arms JOB.json`, in a process of its own; prints a line of JSON for
each step and each measurement.  Training alone takes the same code, the same text and as many local steps as the
volunteer gave to the run, one after the other and without a coordinator.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

from potluck.client.readers import Part
from potluck.client.starts import begun
from potluck.client.training import bases
from potluck.client.training.adapters import attach, detach, mount
from potluck.client.training.batches import make
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.export import read_peft
from potluck.client.training.generate import Sampling, reply
from potluck.client.training.local import base_of, texts_of
from potluck.client.training.loop import train
from potluck.client.work import Job, Stride, Word
from potluck.wire.recipe import Recipe

Tell = Callable[[Mapping[str, Any]], None]
ALONE_SEED: Final = 0
REPLY_TOKENS: Final = 60
TEMPERATURE: Final = 0.7  # with a fixed seed; the likeliest words alone go round in circles on a small model


@final
@dataclass(frozen=True, slots=True)
class Arms:
    """What to measure: paths as text, since it travels as JSON."""

    recipe: str  # as JSON, complete
    cache: str
    data: str
    release: str
    rounds: int
    prompt: str = ""  # put to base and shared; empty: to nobody


def measure(arms: Arms, tell: Tell) -> None:
    """Measure all arms; each result is told as soon as it is known."""
    recipe = Recipe.parse(arms.recipe)
    device = bases.pick_device()
    model, tokenizer = bases.load(base_of(recipe, Path(arms.cache)), device, bases.pick_dtype(device))
    texts = texts_of(recipe, Path(arms.data))

    def loss(name: str, adapted: Any) -> None:  # noqa: ANN401 - a model, with or without an adapter
        nats, tokens = held_out_loss(adapted, tokenizer, texts.held_out, recipe.data.max_tokens)
        tell({"event": "measured", "arm": name, "loss": nats, "tokens": tokens})

    loss("base", model)
    adapted = mount(model, read_peft(Path(arms.release)))
    loss("shared", adapted)
    for name, on in (("base", False), ("shared", True)):
        if arms.prompt:
            tell({"event": "reply", "arm": name, "text": say(adapted, tokenizer, arms.prompt, adapters=on)})
    model = detach(adapted)
    loss("alone", alone(model, tokenizer, recipe, arms, tell))


def alone(model: Any, tokenizer: Any, recipe: Recipe, arms: Arms, tell: Tell) -> Any:  # noqa: ANN401
    """Return *model* with an adapter trained on this volunteer's text only."""
    training = recipe.training.model_copy(update={"steps": recipe.training.steps * arms.rounds})
    job = Job(
        recipe=recipe,
        adapter=None,
        version=0,
        seed=ALONE_SEED,
        order=ALONE_SEED,
        data=Path(arms.data),
        folder=Path(arms.data),
        threads=1,  # of no effect here: OMP_NUM_THREADS, from the parent, is what counts
    )
    began = begun(job)
    adapted = attach(model, began.trainable, began.tail, recipe.adapter)
    rows = make(
        texts_of(recipe, job.data).train,
        tokenizer,
        max_tokens=recipe.data.max_tokens,
        rows=training.batch,
        seed=ALONE_SEED,
    )

    def on_step(stride: Stride) -> Word:
        tell({"event": "step", **asdict(stride)})
        return Word.GO

    train(adapted, rows, training, on_step=on_step)
    return adapted


def say(model: Any, tokenizer: Any, prompt: str, *, adapters: bool) -> str:  # noqa: ANN401
    """Return what the model replies to *prompt*."""
    turns = (Part(role="", text=prompt, trained=False),)
    return reply(
        model, tokenizer, turns, Sampling(max_new_tokens=REPLY_TOKENS, temperature=TEMPERATURE), adapters=adapters
    )


def main(path: str) -> None:
    """Run the job in the file at *path*."""
    arms = Arms(**json.loads(Path(path).read_text("utf-8")))
    measure(arms, lambda event: print(json.dumps(event), flush=True))  # noqa: T201 - its parent reads this


if __name__ == "__main__":
    main(sys.argv[1])
