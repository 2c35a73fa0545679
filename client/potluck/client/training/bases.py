"""The base model: where it comes from, whether it may be loaded, and how."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from potluck.client.training import carried, digests
from potluck.client.training.errors import BadBase, NoBase

PACKAGE: Final = "package:"
FORBIDDEN: Final = ("auto_map", "trust_remote_code", "_attn_implementation_internal")
QUANTIZED: Final = frozenset({"bitsandbytes"})  # what peft trains on without folding anything into the weights
FILES: Final = [*digests.DEFINING, "generation_config.json", "README.md"]


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this disk: the name it was asked for by, its folder, what it is, and its licence if stated."""

    name: str
    folder: Path
    digest: str
    licence: str


def resolve(
    base: str, *, revision: str = "main", cache: Path, progress: Callable[[str], None] = lambda _: None
) -> Base:
    """Find the base model called *base*, fetch and convert it if that was never done, and say what it is.

    *base* is "package:NAME" for a model that a Python package carries, a local folder, or a Hugging Face id, of which
    *revision* is taken from the Hugging Face cache or the network.  *progress* is told about anything slow.

    Raises:
        NoBase: it is nowhere and could not be fetched.
        BadBase: its configuration asks for code of its own, or it holds no safetensors.
        UnknownName: no such package is known to carry a model.
    """
    if base.startswith(PACKAGE):
        package = base.removeprefix(PACKAGE)
        folder = carried.carried(package, cache, progress)
        return Base(base, folder, digests.digest(folder), carried.CARRIED[package].licence)
    local = Path(base).expanduser()
    folder = local.resolve() if local.is_dir() else _from_hub(base, revision, progress)
    check(folder)
    kept = cache / "digests" / f"{sha256(str(folder).encode()).hexdigest()[:32]}.json"
    return Base(base, folder, digests.digest(folder, kept), _licence(folder))


def check(folder: Path) -> dict[str, Any]:
    """Return the configuration in *folder*, if nothing in it asks for more than data to be loaded.

    Raises:
        BadBase: config.json is missing or malformed, wants code of its own or an unknown quantization, or there are no
            safetensors.
    """
    config: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "config.json"):
        if name == "config.json" or (folder / name).exists():
            config = _json(folder / name)
            asked = sorted(key for key in _keys(config) if key in FORBIDDEN or key.startswith("custom_"))
            if asked:
                raise BadBase(
                    f"{folder / name} asks for {', '.join(asked)}: code of its own, or something near it",
                    fix="use a model that transformers runs by itself; code from elsewhere is never run",
                )
    quantized = config.get("quantization_config")
    if quantized is not None and (not isinstance(quantized, dict) or quantized.get("quant_method") not in QUANTIZED):
        raise BadBase(
            f"{folder} is quantized in a way that cannot be trained on",
            fix=f"use the unquantized model, or one of {', '.join(QUANTIZED)}",
        )
    if not any(folder.glob("*.safetensors")):
        raise BadBase(f"{folder} holds no .safetensors", fix="pickled weights are never loaded; convert them first")
    return config


def load(base: Base, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return (model, tokenizer) of *base*, frozen, in evaluation mode, on *device*.

    Raises:
        BadBase: the configuration is refused, or transformers cannot make a causal language model of it.
    """
    check(base.folder)
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            base.folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise BadBase(f"{base.name} cannot be loaded: {error}", fix="use a causal language model") from error
    return model.to(device).requires_grad_(requires_grad=False).eval(), tokenizer


def shapes(folder: Path, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return (d, k) of every linear module whose last name is in *targets*, by its full name, loading no weights.

    Raises:
        BadBase: a target is not in the model; the message lists what is.
    """
    check(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    known = {name.rsplit(".", 1)[-1] for name in linear} - {"lm_head"}
    if missing := sorted(set(targets) - known):
        raise BadBase(
            f"{folder} has no linear module called {', '.join(missing)}", fix=f"use {', '.join(sorted(known))}"
        )
    return {
        name: (module.out_features, module.in_features)
        for name, module in sorted(linear.items())
        if name.rsplit(".", 1)[-1] in targets
    }


def pick_device() -> torch.device:
    """Return the best device there is: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where *device* computes in it, float32 where it would be emulated, and slower."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def _from_hub(name: str, revision: str, progress: Callable[[str], None], *, cache: Path | None = None) -> Path:
    """Return the snapshot folder of a Hugging Face id: what the hub has, else what its cache has."""
    try:
        try:
            progress(f"looking for {name} on the Hugging Face hub")
            return Path(
                huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=FILES, cache_dir=cache)
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
            return Path(
                huggingface_hub.snapshot_download(
                    name, revision=revision, allow_patterns=FILES, cache_dir=cache, local_files_only=True
                )
            )
    except (LocalEntryNotFoundError, HFValidationError) as error:
        first = str(error).strip().splitlines()[0]
        raise NoBase(
            f"{name!r} is no folder here, and no Hugging Face id that could be fetched at revision {revision}: {first}",
            fix=f"check the name and the network, or use {PACKAGE}{next(iter(carried.CARRIED))}",
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadBase(f"{path} cannot be read: {error}", fix="name the folder of a Hugging Face model") from None
    if not isinstance(content, dict):
        raise BadBase(f"{path} is not a JSON object", fix="name the folder of a Hugging Face model")
    return content


def _keys(content: object) -> set[str]:
    """Return every key in *content*, however deep."""
    if isinstance(content, Mapping):
        return set(content) | {key for value in content.values() for key in _keys(value)}
    if isinstance(content, list):
        return {key for value in content for key in _keys(value)}
    return set()


def _licence(folder: Path) -> str:
    """Return the licence that the model card states, or an empty text."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    found = re.search(r"^license:\s*(\S+)\s*$", card.read_text("utf-8", "replace")[:4096], re.MULTILINE)
    return found.group(1) if found else ""
