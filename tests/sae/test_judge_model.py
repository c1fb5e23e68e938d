"""The judge against a real language model behind a real server of the protocol, on loopback."""

from pathlib import Path

import pytest

from steercache.models.load import load_model
from steercache.sae.endpoint import JudgeEndpoint
from steercache.sae.evidence import Context, Evidence
from steercache.sae.judge import judge
from steercache.sae.replies import ReplyFiles
from steercache.sae.verdict import read_answer
from tests.models.real import SMOLLM2, shared_cache
from tests.sae.model_server import model_serving


def feature(number: int, *words: str) -> Evidence:
    contexts = tuple(
        Context(before="I saw", token=f" {word}", after=" birds in the garden.", value=4.0 - i)
        for i, word in enumerate(words)
    )
    return Evidence(layer=6, feature=number, explanation=None, contexts=contexts, source="run")


@pytest.mark.slow
def test_replies_of_a_real_model_are_kept_whole_and_read(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    loaded = load_model(SMOLLM2, cache_dir=shared_cache(pytestconfig), dtype="float32")
    features = [feature(1, "two", "three", "five"), feature(2, "red", "small", "angry")]
    replies = ReplyFiles(tmp_path)
    with model_serving(loaded.model, loaded.tokenizer) as server:
        endpoint = JudgeEndpoint(
            base_url=server.url,
            model="smollm2-135m-instruct",
            parameters={"temperature": 0, "max_tokens": 24},
            concurrency=2,
            timeout_s=120,
        )
        first = judge(features, "counting", endpoint, replies=replies)
        again = judge(features, "counting", endpoint, replies=replies)
    assert again == first
    assert len(server.seen) == 2, "the second time nothing was asked"
    assert {v.reply for v in first} == set(server.said)
    assert all(v.reply and v.answer == read_answer(v.reply) for v in first)
    assert all(v.problem is None for v in first)
