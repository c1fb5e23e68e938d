"""Verification of features by a language model behind an OpenAI-compatible endpoint."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from steercache.core.ids import digest
from steercache.sae.endpoint import Client, JudgeEndpoint, Reply, ReplyError
from steercache.sae.evidence import Evidence
from steercache.sae.replies import ReplyFiles, earlier_request_of, request_of
from steercache.sae.verdict import PROMPT_VERSION, Verdict, messages_for, read_answer, request_body

Result = TypeVar("Result")
Progress = Callable[[str, int, int | None], None]


def judge(
    features: Sequence[Evidence],
    concept: str,
    endpoint: JudgeEndpoint,
    *,
    replies: ReplyFiles | None = None,
    description: str | None = None,
    progress: Progress | None = None,
) -> tuple[Verdict, ...]:
    """A verdict on each feature, in their order; a feature that no reply came for has the answer None and the problem.

    Replies that `replies` holds are not asked for again, and new ones are kept there as they come. `description` says in words
    what the concept means.
    """
    return _run(_judge(features, concept, endpoint, replies, description, progress))


async def _judge(
    features: Sequence[Evidence],
    concept: str,
    endpoint: JudgeEndpoint,
    replies: ReplyFiles | None,
    description: str | None,
    progress: Progress | None,
) -> tuple[Verdict, ...]:
    done = 0

    async def one(client: Client, evidence: Evidence) -> Verdict:
        nonlocal done
        body = request_body(
            endpoint.model, messages_for(concept, evidence, description=description), endpoint.parameters
        )
        verdict = await _verdict(client, evidence, body, replies)
        done += 1
        if progress is not None:
            progress("asking the judge", done, len(features))
        return verdict

    try:
        async with Client(endpoint) as client, asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(client, evidence)) for evidence in features]
    except ExceptionGroup as several:  # the disk is full, for instance: one of them says it
        raise several.exceptions[0] from None
    return tuple(task.result() for task in tasks)


async def _verdict(client: Client, evidence: Evidence, body: dict[str, Any], replies: ReplyFiles | None) -> Verdict:
    request = request_of(body)
    request_digest = digest(request)
    reply = None
    if replies is not None:
        reply = replies.read(request_digest) or replies.read(digest(earlier_request_of(client.endpoint, body)))
    problem = None
    if reply is None:
        try:
            reply = await client.ask(body)
        except ReplyError as error:
            problem = error.message
        else:
            if replies is not None:
                replies.write(request, reply, endpoint=client.endpoint)
    return _said(evidence, client.endpoint, request_digest, reply, problem)


def _said(
    evidence: Evidence, endpoint: JudgeEndpoint, request_digest: str, reply: Reply | None, problem: str | None
) -> Verdict:
    return Verdict(
        layer=evidence.layer,
        feature=evidence.feature,
        answer=None if reply is None else read_answer(reply.text),
        by=endpoint.model,
        reply=None if reply is None else reply.text,
        digest=request_digest,
        prompt_version=PROMPT_VERSION,
        explanation=evidence.explanation,
        problem=problem,
    )


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end, also where a notebook runs a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "steercache-judge") as pool:
        return pool.submit(asyncio.run, work).result()
