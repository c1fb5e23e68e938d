"""A server of the chat protocol on loopback that runs a real language model by transformers' own `generate`."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.sae.chat_server import Handler, says, serving


@contextmanager
def model_serving(model: Any, tokenizer: Any) -> Iterator[Any]:
    """The server; replies are greedy, at most as long as the request's `max_tokens`."""
    import torch

    lock = threading.Lock()

    def act(h: Handler) -> None:
        server: Any = h.server
        body = h.asked
        text = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
        encoded = tokenizer(text, return_tensors="pt")
        with lock, torch.no_grad():
            out = model.generate(
                **encoded, max_new_tokens=body["max_tokens"], do_sample=False, pad_token_id=tokenizer.eos_token_id
            )
        reply = tokenizer.decode(out[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        server.said.append(reply)
        says(reply)(h)

    with serving(act) as server:
        server.said = []
        yield server
