"""The recipe's table [codec]: how updates travel, what else the coordinator takes, and what a client sends of these."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple, Self, final

from pydantic import Field, StringConstraints, model_validator

from potluck.aggregation import CODECS, encode
from potluck.aggregation.codecs.registry import facts_of, make_codec
from potluck.aggregation.errors import BadSetting, BadTensor, UnknownName
from potluck.aggregation.lowrank import Array
from potluck.wire.settings import Settings

Word = Annotated[str, StringConstraints(max_length=40)]
EXACT: Final = ("int8", "fp16", "fp32")
"""Codecs that are taken in place of a coarser one, where a recipe does not say which: the smallest first."""
PREFIX: Final = "codec:"
"""Of the names of codecs among a peer's capabilities."""


class Packing(NamedTuple):
    """A codec, its settings, and whether its messages are compressed."""

    name: str
    settings: Mapping[str, int]
    lossless: bool

    def encode(self, tensors: Mapping[str, Array]) -> bytes:
        """Return *tensors* as a message.  Raises as `potluck.aggregation.encode` does."""
        return encode(tensors, self.name, lossless=self.lossless, **self.settings)


@final
class Codec(Settings):
    """The table [codec]: how updates travel."""

    name: Word = "fp16"
    """A key of potluck.aggregation.CODECS."""
    settings: dict[Word, int] = Field(default_factory=dict)
    """Settings of the codec, such as {k = 64} for sparse2bit or topk, or {block = 128} for int4."""
    lossless: bool = True
    """Whether updates are also compressed by zstandard, each tensor by itself."""
    error_feedback: bool = False
    """Whether volunteers keep what the codec leaves out of an update, and add it to their next one."""
    beta: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Share of the kept rest that is added to the next update."""
    accepts: tuple[Word, ...] = ()
    """Codecs that are taken beside this one; empty means those of int8, fp16 and fp32 that are more exact."""
    may_forget: bool = False
    """Whether levels, topk or sparse2bit may do without error feedback: what they leave out is then never learned."""

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        make_codec(self.name, **self.settings)
        for name in self.accepts:
            make_codec(name)
        if "fp64" in self.accepted:
            raise BadSetting("codec: updates do not travel as fp64", fix="use 'fp32'")
        return self

    @model_validator(mode="after")
    def _forgets_nothing(self) -> Self:
        coarse = [name for name in self.accepted if make_codec(name).forgets]
        if coarse and not (self.error_feedback or self.may_forget):
            raise BadSetting(
                f"codec {coarse[0]!r} leaves much of an update out, and codec.error_feedback is false",
                fix="set codec.error_feedback to true, or codec.may_forget if that is what you want to study",
            )
        return self

    @property
    def accepted(self) -> tuple[str, ...]:
        """The codecs that the coordinator takes: the recipe's first, then the others in the order of preference."""
        order = list(CODECS)
        finer = [name for name in EXACT if order.index(name) < order.index(self.name)]
        return (self.name, *(self.accepts or finer))

    def choose(self, able: Collection[str]) -> Packing:
        """Return the first of the accepted codecs that is among those that a client is *able* to write.

        Raises:
            UnknownName: none is.
        """
        for name in self.accepted:
            if name in able:
                return Packing(name, MappingProxyType(self.settings if name == self.name else {}), self.lossless)
        raise UnknownName(
            f"the coordinator takes {', '.join(self.accepted)}, and this program writes {', '.join(able) or 'none'}",
            fix="update potluck",
        )

    def check(self, facts: Mapping[str, str]) -> None:
        """Return quietly when a message with these *facts* is one that the coordinator takes.

        The recipe's own codec must have the recipe's settings: others may be larger, or leave out more.

        Raises:
            BadTensor: it is another.
        """
        name = facts["codec"]
        if name not in self.accepted:
            raise BadTensor(
                f"the update is encoded as {name[:40]}, and this run takes {', '.join(self.accepted)}",
                fix="use the recipe's codec",
            )
        wanted = facts_of(name, make_codec(name, **self.settings)) if name == self.name else {}
        for setting, value in wanted.items():
            if (found := facts.get(setting, "")) != value:
                raise BadTensor(
                    f"the update has {name} with {setting} {found[:20]}, and the recipe says {value}",
                    fix="use the recipe's settings",
                )


def codecs_in(capabilities: Collection[str]) -> tuple[str, ...]:
    """Return the codecs that a peer's *capabilities* name; none where it does not speak of codecs."""
    return tuple(name.removeprefix(PREFIX) for name in capabilities if name.startswith(PREFIX))
