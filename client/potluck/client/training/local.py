"""The trainer of a volunteer's machine: what the session asks for, done with torch."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from peft import PeftModel

from potluck.aggregation import Start, deltas
from potluck.client import data
from potluck.client.flags import Sieve, everything
from potluck.client.starts import begun
from potluck.client.training import bases
from potluck.client.training.adapters import attach, detach, factors
from potluck.client.training.batches import Batches, make
from potluck.client.training.errors import BadBase, OutOfMemory
from potluck.client.training.evaluate import held_out_loss
from potluck.client.training.loop import train
from potluck.client.training.losses import loss_sum
from potluck.client.training.private import account_of, how_private, rehearse, train_privately
from potluck.client.work import Job, Stride, Trained, Word
from potluck.wire.recipe import Recipe

HELD_OUT_TOKENS: Final = 4_096  # measured before and after each round; more would cost more than it tells


@final
@dataclass(frozen=True, slots=True)
class Loaded:
    """A base model in memory, checked against the recipe whose digest is *recipe*."""

    recipe: bytes
    model: Any
    tokenizer: Any


@final
class LocalTrainer:
    """Trains for a session; keeps the base model in memory from one round to the next."""

    def __init__(
        self,
        cache: Path,
        progress: Callable[[str], None] = lambda _: None,
        sieve: Sieve = everything,
    ) -> None:
        """*cache* holds base models; *progress* is told about anything slow; *sieve* leaves text out."""
        self._sieve = sieve
        self._cache = cache
        self._progress = progress
        self._loaded: Loaded | None = None

    def prepare(self, job: Job) -> None:
        """Load the base model and the data, and take one step that is thrown away.

        Raises:
            BadBase: the base model here is not the recipe's, or lacks its modules.
            BadAdapter: the shared adapter does not fit the base model.
            NoData: there is too little text.
            OverBudget: the round would spend more of the owner's privacy than is allowed.
            OutOfMemory: one step does not fit into this machine.
        """
        with self._adapted(job, begun(job)) as (model, tokenizer):
            if job.recipe.privacy.differential.by_example:
                rehearse(model, how_private(job, tokenizer, self._texts(job).train))
                return
            batch = next(_batches(job, tokenizer, self._texts(job).train).after(0)).to(next(model.parameters()).device)
            (loss_sum(model, batch) / max(1, batch.trained_tokens)).backward()
            model.zero_grad(set_to_none=True)

    def train(self, job: Job, on_step: Callable[[Stride], Word]) -> Trained | None:
        """Train as Trainer.train says; the same job on the same machine ends in the same bits.

        Where the recipe protects single records, the round is paid from the job's account before it is returned, and
        nothing is returned that was not noised: losses are 0, and examples and tokens what the recipe says.
        """
        if job.recipe.privacy.differential.by_example:
            return self._privately(job, on_step)
        began = begun(job)
        recipe = job.recipe
        texts = self._texts(job)
        with self._adapted(job, began) as (model, tokenizer):
            before = measured(model, tokenizer, recipe, texts.held_out)
            batches = _batches(job, tokenizer, texts.train)
            ran = train(model, batches, recipe.training, folder=job.folder, on_step=on_step)
            if ran is not None:
                after = measured(model, tokenizer, recipe, texts.held_out)
                trained = factors(model, recipe.adapter)
        if ran is None:
            self.free()
            return None
        return Trained(
            deltas=deltas(trained, began.trainable, recipe.moves(job.version)),
            examples=len(texts.train),
            steps=ran.steps,
            tokens=ran.tokens,
            loss_before=before,
            loss_after=after,
        )

    def _privately(self, job: Job, on_step: Callable[[Stride], Word]) -> Trained | None:
        """Train so that no record can be told from its absence; pay for it."""
        began, recipe = begun(job), job.recipe
        with self._adapted(job, began) as (model, tokenizer):
            how = how_private(job, tokenizer, self._texts(job).train)
            ran = train_privately(model, how, recipe.training, folder=job.folder, on_step=on_step)
            trained = factors(model, recipe.adapter)
        if ran is None:
            self.free()
            return None
        account_of(job).charge(how.spending, how.noise.digest)
        drawn = recipe.training.batch * recipe.training.steps
        return Trained(
            deltas=deltas(trained, began.trainable, recipe.moves(job.version)),
            examples=drawn,
            steps=ran.steps,
            tokens=0,
        )

    def free(self) -> None:
        """Give the base model's memory back; the next job loads it again."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _texts(self, job: Job) -> data.Split:
        """Return the owner's text, without what the sieve leaves out."""
        return texts_of(job.recipe, job.data, self._sieve)

    @contextmanager
    def _adapted(self, job: Job, began: Start) -> Iterator[tuple[PeftModel, Any]]:
        """Lend the base model with *began* on it; the base is as it was afterwards."""
        torch.set_num_threads(job.threads)
        loaded = self._load(job.recipe)
        moves = job.recipe.moves(job.version)
        model = attach(loaded.model, began.trainable, began.tail, job.recipe.adapter, moves)
        try:
            yield model, loaded.tokenizer
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"{job.recipe.training.batch} rows of {job.recipe.data.max_tokens} tokens do not fit: {error}",
                fix="close other programs, or join a run with a smaller batch",
            ) from None
        finally:
            detach(model)

    def _load(self, recipe: Recipe) -> Loaded:
        """Return the recipe's base model, in memory."""
        if self._loaded is None or self._loaded.recipe != recipe.digest():
            self.free()
            base = base_of(recipe, self._cache, self._progress)
            device = bases.pick_device()
            self._progress(f"loading {base.name}")
            self._loaded = Loaded(recipe.digest(), *bases.load(base, device, bases.pick_dtype(device)))
        return self._loaded


def base_of(recipe: Recipe, cache: Path, progress: Callable[[str], None] = lambda _: None) -> bases.Base:
    """Return the recipe's base model on this disk, fetched if need be.

    Raises:
        NoBase: it is nowhere and cannot be fetched.
        BadBase: what is here is another model: the files or the modules differ.
    """
    base = bases.resolve(recipe.model.base, revision=recipe.model.revision, cache=cache, progress=progress)
    if base.digest != recipe.model.digest:
        raise BadBase(
            f"{base.name} in {base.folder} has digest {base.digest[:16]}…, the run's is {recipe.model.digest[:16]}…",
            fix="use the base model and revision that the run names; remove that folder to fetch it again",
        )
    here = bases.shapes(base.folder, recipe.adapter.targets)
    wanted = dict(recipe.modules())
    if here != wanted:
        odd = sorted(set(here.items()) ^ set(wanted.items()))
        raise BadBase(
            f"{base.name} differs from the recipe in {len(odd)} modules, such as {odd[0][0]}",
            fix="tell the operator: model.modules in the recipe is not that of its base model",
        )
    return base


def texts_of(recipe: Recipe, path: Path, sieve: Sieve = everything) -> data.Split:
    """Return the owner's text: the part to train on, and the part to measure with; *sieve* leaves some out of both."""
    samples = sieve(data.read(path, recipe.data.format)).samples
    return data.split(samples, recipe.data.held_out, data.SPLIT_SEED)


def measured(model: Any, tokenizer: Any, recipe: Recipe, held_out: tuple[data.Sample, ...]) -> float:  # noqa: ANN401
    """Return the loss on *held_out* in nats per token, over at most HELD_OUT_TOKENS of it."""
    rows = max(1, HELD_OUT_TOKENS // recipe.data.max_tokens)
    return held_out_loss(model, tokenizer, held_out, recipe.data.max_tokens, max_rows=rows)[0]


def _batches(job: Job, tokenizer: Any, samples: Sequence[data.Sample]) -> Batches:  # noqa: ANN401
    """Return this job's training rows, in this job's order."""
    recipe = job.recipe
    return make(
        samples,
        tokenizer,
        max_tokens=recipe.data.max_tokens,
        rows=recipe.training.batch,
        seed=job.order,
    )
