"""What a model replies: by the base alone, or with an adapter, to see what the adapter changed."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import TextStreamer

from potluck.client.readers import Part
from potluck.client.training.evaluate import only_base


@dataclass(frozen=True, slots=True)
class Sampling:
    """How words are chosen: the likeliest at temperature 0, else drawn with *seed*."""

    max_new_tokens: int = 100
    temperature: float = 0.0
    top_p: float = 0.95
    seed: int = 0


def reply(
    model: Any,  # noqa: ANN401 - transformers is untyped
    tokenizer: Any,  # noqa: ANN401
    turns: Sequence[Part],
    sampling: Sampling = Sampling(),
    *,
    adapters: bool = True,
    on_text: Callable[[str], None] | None = None,
) -> str:
    """Return what *model* says next: to a chat, in its template, or to plain text, which it goes on with.

    One turn without a role, or a tokenizer without a chat template, means plain text.  *on_text* gets the words as
    they come.  With *adapters* false the base model answers.
    """
    prompt = _prompt(tokenizer, turns)
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(next(model.parameters()).device)
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **drawn if sampling.temperature > 0 else {"do_sample": False},
    )
    streamer = _Streamer(tokenizer, on_text) if on_text else None
    model.eval()
    with (
        torch.inference_mode(),
        torch.random.fork_rng(),
        only_base(model) if not adapters else contextlib.nullcontext(),
    ):
        torch.manual_seed(sampling.seed)
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            generation_config=config,
            streamer=streamer,
        )
    return str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def _prompt(tokenizer: Any, turns: Sequence[Part]) -> str:  # noqa: ANN401
    if not tokenizer.chat_template or not any(turn.role for turn in turns):
        return "\n".join(f"{turn.role}: {turn.text}" if turn.role else turn.text for turn in turns)
    messages = [{"role": turn.role or "user", "content": turn.text} for turn in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


@final
class _Streamer(TextStreamer):
    """Hands words on as soon as they are whole."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:  # noqa: ANN401
        TextStreamer.__init__(self, tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: FBT001, FBT002 - transformers'
        if text:
            self._on_text(text)
