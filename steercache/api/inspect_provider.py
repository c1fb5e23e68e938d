"""The model provider of inspect_ai: models by the names that `api.inspect_names` describes."""

import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final, Literal

import anyio.to_thread
import torch
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
)

from steercache.api.cache import open_cache_at
from steercache.api.inspect_names import Steering, read_model_name
from steercache.api.models import load
from steercache.cells.vectors import check_lineage
from steercache.core.errors import UsageError
from steercache.models.rope import forget_lengths
from steercache.models.spec import LoadedModel
from steercache.steering.generate import greedy
from steercache.steering.steered import steered

NOT_OFFERED: Final = (
    *("logprobs", "prompt_logprobs", "num_choices", "best_of", "logit_bias", "frequency_penalty", "presence_penalty"),
    "response_schema",
)


class SteercacheAPI(ModelAPI):  # type: ignore[misc, unused-ignore]
    """A model of this package behind inspect_ai's interface: text in, text out, one sample at a time, greedy by default."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (as inspect_ai's own providers have it)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name=model_name, base_url=base_url, api_key=api_key, config=config)
        name, steering = read_model_name(model_name, model_args)
        self._loaded, self._model = _load(name, steering)
        self._lock = threading.Lock()

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 (inspect_ai's name)
        tools: list[Any],
        tool_choice: Any,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One answer to a conversation."""
        if tools:
            raise UsageError("this provider offers no tools")
        asked = [name for name in NOT_OFFERED if getattr(config, name, None) is not None]
        if asked:
            raise UsageError(f"this provider does not offer {', '.join(asked)}")
        return await anyio.to_thread.run_sync(self._generate, list(input), config)

    def max_tokens(self) -> int | None:
        """Largest number of generated tokens where the task names none."""
        return 256

    def max_connections(self) -> int:
        """Samples at a time."""
        return 1

    def _generate(self, messages: list[ChatMessage], config: GenerateConfig) -> ModelOutput:
        started = time.perf_counter()
        inputs = _encode(self._loaded, messages)
        n_prompt, limit = inputs["input_ids"].shape[1], config.max_tokens or 256
        drawn = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
        options = {name: value for name, value in drawn.items() if value is not None} if config.temperature else {}
        if config.stop_seqs:
            options |= {"stop_strings": list(config.stop_seqs), "tokenizer": self._loaded.tokenizer}
        with self._lock, torch.inference_mode(), nullcontext() if config.temperature else greedy(self._loaded):
            if config.seed is not None:
                torch.manual_seed(config.seed)
            forget_lengths(self._loaded)
            self._model.generation_config = self._loaded.model.generation_config
            ids = self._model.generate(**inputs, max_new_tokens=limit, **options)
        new = ids[0, n_prompt:]
        text = self._loaded.tokenizer.decode(new, skip_special_tokens=True)
        for stop in config.stop_seqs or ():
            text = text.partition(stop)[0]
        reason: Literal["stop", "max_tokens"] = "max_tokens" if len(new) >= limit else "stop"
        message = ChatMessageAssistant(content=text, model=self.model_name, source="generate")
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=reason)],
            usage=ModelUsage(input_tokens=n_prompt, output_tokens=len(new), total_tokens=n_prompt + len(new)),
            time=time.perf_counter() - started,
        )


def _load(name: str, steering: Steering) -> tuple[LoadedModel, Any]:
    """A model, and the object that is called in its place."""
    if steering.vector is None:
        loaded = load(name, device=steering.device, dtype=steering.dtype, root=steering.root)
        return loaded, loaded.model
    cache = open_cache_at(steering.root)
    vector = cache.vector(steering.vector)
    loaded = load(name, device=steering.device, dtype=steering.dtype, root=cache.root)
    check_lineage(cache.folder, vector, loaded.spec, allow_foreign=steering.allow_foreign)
    made = steered(
        loaded,
        vector,
        layer=steering.layer,
        alpha=steering.alpha,
        alpha_unit=steering.alpha_unit,
        target=steering.target,
        phase=steering.phase,
        skip_first=steering.skip_first,
    )
    return loaded, made


def _encode(loaded: LoadedModel, messages: Sequence[ChatMessage]) -> dict[str, torch.Tensor]:
    """A conversation as the model reads it: through the chat template, or, without one, its texts under each other."""
    said = []
    for message in messages:
        if not isinstance(message.content, str) and any(part.type != "text" for part in message.content):
            raise UsageError("this provider reads text only", hint="cache.evaluate(...) asks questions about pictures")
        said.append((message.role, message.text))
    holder: Any = loaded.processor if getattr(loaded.processor, "chat_template", None) else loaded.tokenizer
    if holder.chat_template:
        typed = loaded.family.modality == "image"
        turns = [{"role": who, "content": [{"type": "text", "text": text}] if typed else text} for who, text in said]
        prompt = holder.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        encoded = loaded.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    else:
        encoded = loaded.tokenizer("\n\n".join(text for _, text in said), return_tensors="pt")
    device = next(loaded.model.parameters()).device
    return {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}
