"""The mathematics of combining LoRA adapters: NumPy, pure, no I/O."""

from potluck.aggregation.codecs.messages import Opened, decode, encode, opened
from potluck.aggregation.codecs.registry import CODECS
from potluck.aggregation.combine import Aggregated, State, aggregate
from potluck.aggregation.container import Limits
from potluck.aggregation.errors import BadSetting, BadTensor, BadUpdate, PotluckError, UnknownName
from potluck.aggregation.lowrank import Compressed, LowRank, LowRankSum, compress, gram
from potluck.aggregation.outer.registry import OUTER
from potluck.aggregation.pipeline import Pipeline
from potluck.aggregation.report import Report, Truncation
from potluck.aggregation.rules.registry import AGGREGATORS
from potluck.aggregation.screening import Finding, Verdict
from potluck.aggregation.start import INITS, Start, broadcast, scaling, start
from potluck.aggregation.stored import Parts, StoredUpdates
from potluck.aggregation.tensors import deltas, from_deltas, from_tensors, to_tensors
from potluck.aggregation.updates import Update
from potluck.aggregation.weights.registry import WEIGHTS

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
    "Finding",
    "Limits",
    "LowRank",
    "LowRankSum",
    "Opened",
    "Parts",
    "Pipeline",
    "PotluckError",
    "Report",
    "Start",
    "State",
    "StoredUpdates",
    "Truncation",
    "UnknownName",
    "Update",
    "Verdict",
    "aggregate",
    "broadcast",
    "compress",
    "decode",
    "deltas",
    "encode",
    "from_deltas",
    "from_tensors",
    "gram",
    "opened",
    "scaling",
    "start",
    "to_tensors",
]
