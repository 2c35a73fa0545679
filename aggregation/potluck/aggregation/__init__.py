"""The mathematics of combining LoRA adapters: NumPy, pure, no I/O."""

from potluck.aggregation.codecs import CODECS, decode, encode
from potluck.aggregation.combine import Aggregated, Report, State, Truncation, aggregate
from potluck.aggregation.container import Limits
from potluck.aggregation.errors import BadSetting, BadTensor, BadUpdate, PotluckError, UnknownName
from potluck.aggregation.lowrank import Compressed, LowRank, LowRankSum, compress, gram
from potluck.aggregation.outer import OUTER
from potluck.aggregation.pipeline import Pipeline
from potluck.aggregation.rules import AGGREGATORS
from potluck.aggregation.start import INITS, Start, broadcast, scaling, start
from potluck.aggregation.tensors import deltas, from_deltas, from_tensors, to_tensors
from potluck.aggregation.updates import Update
from potluck.aggregation.weights import WEIGHTS

__all__ = [
    "AGGREGATORS",
    "CODECS",
    "INITS",
    "OUTER",
    "WEIGHTS",
    "Aggregated",
    "BadSetting",
    "BadTensor",
    "BadUpdate",
    "Compressed",
    "Limits",
    "LowRank",
    "LowRankSum",
    "Pipeline",
    "PotluckError",
    "Report",
    "Start",
    "State",
    "Truncation",
    "UnknownName",
    "Update",
    "aggregate",
    "broadcast",
    "compress",
    "decode",
    "deltas",
    "encode",
    "from_deltas",
    "from_tensors",
    "gram",
    "scaling",
    "start",
    "to_tensors",
]
