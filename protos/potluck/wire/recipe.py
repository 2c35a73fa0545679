"""The recipe: one file that states a run, and is what volunteers consent to."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal, Self, final

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from potluck.aggregation import Pipeline, scaling
from potluck.aggregation.errors import BadSetting
from potluck.aggregation.pipeline import REBASING
from potluck.aggregation.rules.base import Coordinatewise
from potluck.aggregation.tensors import Moves, moves_at
from potluck.wire.aggregating import OFFERED, Aggregation, theirs
from potluck.wire.bases import Model
from potluck.wire.codecs import Codec
from potluck.wire.privacy import Privacy
from potluck.wire.settings import Line, Settings

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]


@final
class Run(Settings):
    """The table [run]: what it is for."""

    name: Name
    """Name of the run, letters, digits, spaces, dots and dashes."""
    purpose: Line = ""
    """What the shared adapter is for, in a sentence that volunteers will read."""
    licence: Line = "Apache-2.0"
    """Licence of the adapters that come out."""
    versions: NonNegativeInt = 0
    """Last version of the shared adapter, rollbacks counted; the run is done then.  0 means no end."""


@final
class Adapter(Settings):
    """The table [adapter]: the LoRA adapter that volunteers train."""

    rank: Annotated[int, Field(gt=0, le=256)] = 8
    """Columns of B and rows of A that a volunteer trains, 1 to 256."""
    alpha: PositiveFloat = 16.0
    """LoRA's alpha: the product counts alpha / rank times (alpha / sqrt(rank) with rslora)."""
    rslora: bool = False
    """Whether to divide alpha by the square root of the rank instead of the rank."""
    targets: tuple[Line, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Last names of the modules that get an adapter."""
    init: Literal["continue", "fresh", "half", "orthonormal"] = "continue"
    """What a volunteer's trainable part starts from; see docs/mathematics.md."""

    @property
    def scale(self) -> float:
        """The factor before B A."""
        return scaling(self.alpha, self.rank, rslora=self.rslora)


@final
class Data(Settings):
    """The table [data]: what kind of text fits."""

    format: Literal["auto", "text", "prompt", "chat"] = "auto"
    """Shape of a sample: running text, prompt and completion, or chat; auto takes all."""
    max_tokens: Annotated[int, Field(ge=8, le=131_072)] = 256
    """Tokens in one training row."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of a volunteer's samples kept for measuring and never trained on."""
    consent: Annotated[str, StringConstraints(max_length=4_000)] = ""
    """Anything volunteers should read before they agree."""


@final
class Training(Settings):
    """The table [training]: what a volunteer does in one round."""

    steps: Annotated[int, Field(gt=0, le=100_000)] = 20
    """Optimiser steps in one round."""
    batch: Annotated[int, Field(gt=0, le=1_024)] = 4
    """Rows in one step."""
    learning_rate: Annotated[float, Field(ge=1e-6, le=1e-1)] = 1e-3
    """Step size of AdamW."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight decay of AdamW, on the LoRA factors."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the step size grows to its full value."""
    clip_grad_norm: NonNegativeFloat = 1.0
    """Largest norm of a gradient; 0 means unbounded."""
    proximal: NonNegativeFloat = 0.0
    """Pull back to the round's start, mu in mu / 2 times the squared distance of the products; 0 means none."""
    checkpoint_steps: PositiveInt = 5
    """Steps between two checkpoints on the volunteer's disk."""


@final
class Admission(Settings):
    """The table [admission]: who may take part, and how much one may weigh."""

    max_members: PositiveInt = 10_000
    """Clients that may be enrolled at once."""
    max_examples: PositiveInt = 10_000
    """Examples counted of one update, whatever it claims."""


@final
class Limits(Settings):
    """The table [limits]: sizes and rates."""

    max_update_bytes: Annotated[int, Field(gt=0, le=1 << 32)] = 256 * 1024 * 1024
    """Largest update, in bytes."""
    spool_bytes: PositiveInt = 16 * 1024 * 1024 * 1024
    """Updates that may wait on the coordinator's disk, in bytes."""
    lease_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 3_600.0
    """Seconds that a lease lasts unless renewed."""
    poll_min_s: Annotated[float, Field(gt=0)] = 15.0
    """Shortest wait between two check-ins, in seconds."""
    poll_max_s: Annotated[float, Field(gt=0)] = 21_600.0
    """Longest wait between two check-ins, in seconds."""
    check_ins_per_s: PositiveFloat = 100.0
    """Check-ins per second that the operator grants to waiting clients."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.poll_max_s < self.poll_min_s:
            raise BadSetting(
                f"limits.poll_max_s is {self.poll_max_s} and poll_min_s is {self.poll_min_s}",
                fix="set poll_max_s to at least poll_min_s",
            )
        return self


@final
class Recipe(Settings):
    """One run, whole.  Two volunteers with the same digest consented to the same thing."""

    run: Run
    """What it is for."""
    model: Model
    """Which base model everybody has."""
    adapter: Adapter = Adapter()
    """The LoRA adapter that volunteers train."""
    data: Data = Data()
    """What kind of text fits."""
    training: Training = Training()
    """What a volunteer does in one round."""
    aggregation: Aggregation = Aggregation()
    """How updates become the next version."""
    codec: Codec = Codec()
    """How updates travel."""
    privacy: Privacy = Privacy()
    """Protections beyond data staying where they are."""
    admission: Admission = Admission()
    """Who may take part."""
    limits: Limits = Limits()
    """Sizes and rates."""

    @model_validator(mode="after")
    def _can_be_combined(self, info: ValidationInfo) -> Self:
        self.privacy.check_modules(self.adapter.targets)
        if not theirs(info):
            self.pipeline()
            self.privacy.check(self.aggregation, self.codec)
            self.privacy.differential.check(self)
            self.aggregation.check(self.admission.max_examples)
        return self

    @model_validator(mode="after")
    def _rule_and_start_fit(self, info: ValidationInfo) -> Self:
        if theirs(info):
            return self
        rule, adapter, pipeline = self.aggregation.rule, self.adapter, self.pipeline()
        trains = pipeline.stages().rule.trains
        if trains in {"a", "core"}:
            raise BadSetting(
                f"aggregation.rule is {rule!r}, which needs a B that is there already; a run begins with B = 0",
                fix="use another rule, such as 'rolora' or 'mean'",
            )
        zero = adapter.init == "fresh" or (adapter.init == "half" and adapter.rank == 1)
        if zero and trains == "alternately":
            raise BadSetting(
                f"adapter.init is {adapter.init!r}, so B starts at zero, and every other version of {rule!r} trains A "
                "against it: nothing would be learned",
                fix="set adapter.init to 'continue'",
            )
        if self.init == "keep" and (pipeline.rank or 0) < adapter.rank:
            raise BadSetting(
                f"aggregation.master_rank is {pipeline.rank}; {rule!r} keeps the volunteers' {adapter.rank} columns",
                fix=f"set it to at least {adapter.rank}, or to 0",
            )
        return self

    @model_validator(mode="after")
    def _feedback_has_a_basis(self) -> Self:
        if self.codec.error_feedback and self.init in {"fresh", "half"}:
            raise BadSetting(
                f"adapter.init is {self.init!r}, which draws a new basis for each version, and codec.error_feedback "
                "keeps changes that mean something in the old one only",
                fix="set adapter.init to 'continue' or 'orthonormal', or codec.error_feedback to false",
            )
        return self

    @property
    def complete(self) -> bool:
        """Whether the base model is pinned: its digest and its modules are filled in."""
        return bool(self.model.digest and self.model.modules)

    def modules(self) -> Mapping[str, tuple[int, int]]:
        """Return the shape (d, k) of every module that gets an adapter, sorted by name."""
        return self.model.expanded()

    @classmethod
    def offered(cls, text: str | bytes) -> Self:
        """Read the recipe that a coordinator offers, as strictly as parse but for the table [aggregation].

        How updates are combined is the coordinator's work; a rule or a setting of it that this program is too old to
        know is no reason to stay away.  What is unknown is kept, so the digest is the coordinator's.

        Raises:
            BadSetting, UnknownName: as parse does.
        """
        return cls.parse(text, context=OFFERED)

    @property
    def master_rank(self) -> int:
        """Columns of the shared adapter per module, at the most."""
        return self.aggregation.master_rank or 4 * self.adapter.rank

    def pipeline(self, updates: int | None = None) -> Pipeline:
        """Return what `potluck.aggregation.aggregate` is to do with a round of so many *updates*, or of a cohort."""
        return self.aggregation.pipeline(self.master_rank, self.aggregation.cohort if updates is None else updates)

    @property
    def init(self) -> str:
        """How starts are cut from the shared adapter, a key of potluck.aggregation.INITS.

        That is adapter.init, except that "continue" takes the factors as they are of a rule that trains one of them.
        """
        if self.adapter.init != "continue" or self.aggregation.trains == "both":
            return self.adapter.init
        return "orthonormal" if self.aggregation.rule in REBASING else "keep"

    @property
    def any_start(self) -> bool:
        """Whether updates from several versions can be combined.

        Rules that train one factor want the same public other one: they alternate, or have it anew in each version,
        unless it is kept.  Rules on both factors want one start, unless they work on products.
        """
        rule = self.pipeline().stages().rule
        if rule.trains != "both":
            return rule.trains != "alternately" and self.init == "keep"
        return not isinstance(rule, Coordinatewise) and rule.any_start

    def moves(self, version: int) -> Moves:
        """Return which factors volunteers who start from *version* train, and send; the other one is frozen."""
        return moves_at(self.aggregation.trains, version)

    def to_json(self) -> str:
        """Return the one JSON text of this recipe: sorted keys, no spaces, defaults written out."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> bytes:
        """SHA-256 of to_json()."""
        return hashlib.sha256(self.to_json().encode()).digest()
