"""The codecs by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from potluck.aggregation.codecs.base import Codec
from potluck.aggregation.codecs.blocks import Int4, Int8, Nf4
from potluck.aggregation.codecs.levels import Levels
from potluck.aggregation.codecs.plain import Fp16, Fp32, Fp64
from potluck.aggregation.codecs.sparse import Sparse2Bit, TopK
from potluck.aggregation.errors import BadSetting, BadTensor
from potluck.aggregation.pipeline import named, settings_of, unknown

CODECS: Final[Mapping[str, Callable[..., Codec]]] = MappingProxyType(
    {
        "fp64": Fp64,
        "fp32": Fp32,
        "fp16": Fp16,
        "int8": Int8,
        "nf4": Nf4,
        "int4": Int4,
        "levels": Levels,
        "topk": TopK,
        "sparse2bit": Sparse2Bit,
    }
)
"""From the most to the least exact."""

MAX_DIGITS: Final = 9


def make_codec(name: str, **settings: int) -> Codec:
    """Return the codec called *name*.

    Raises:
        UnknownName: no such codec, or it has no such setting.
        BadSetting: a setting out of range.
    """
    kind = named("codec", name, CODECS)
    for setting in settings:
        if setting not in settings_of(kind):
            raise unknown(f"setting of {name}", setting, set(settings_of(kind)))
    codec: Codec = kind(**settings)
    return codec


def facts_of(name: str, codec: Codec) -> dict[str, str]:
    """Return what a message's metadata says of *codec*, beside its version: its name and all its settings."""
    return {"codec": name} | {setting: str(getattr(codec, setting)) for setting in settings_of(CODECS[name])}


def codec_of(facts: Mapping[str, str]) -> Codec:
    """Return the codec that a message's metadata names.

    Raises:
        BadTensor: it is unknown, or its settings are not numbers in range.
    """
    name = facts["codec"]
    if name not in CODECS:
        raise BadTensor("the message names a codec that we do not know", fix="update potluck")
    settings = {}
    for setting in settings_of(CODECS[name]):
        text = facts.get(setting, "")
        if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
            raise BadTensor(f"the message says {name} without a number for {setting}")
        settings[setting] = int(text)
    try:
        return CODECS[name](**settings)
    except BadSetting as error:
        raise BadTensor(str(error)) from None
