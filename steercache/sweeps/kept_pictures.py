"""Keeps small pictures of the questions that a page about a sweep shows, so that it needs no benchmark files."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from steercache.benchmarks.pictures import MAX_SIDE, read_pictures, save_pictures
from steercache.benchmarks.task import EncodedQuestion
from steercache.core.errors import DamagedError, SteercacheError
from steercache.data.pixels import small_jpeg
from steercache.sweeps.changes import changes_of
from steercache.sweeps.choosing import Answers


def keep_pictures(
    folder: Path, asked: Iterable[EncodedQuestion], answers: Answers, *, baseline: str, arms: Mapping[str, str]
) -> int:
    """Store the pictures of the questions that are shown of these arms' cells; returns how many are stored.

    Pictures that cannot be read any more are left out: the answers are there without them.
    """
    by_id = {one.sample_id: one for one in asked if one.encoded is not None and len(one.images) == 1}
    wanted: dict[str, EncodedQuestion] = {}
    for cell_id in arms.values():
        for one in changes_of(answers, list(by_id), before=baseline, after=cell_id).shown:
            question = by_id[one.sample_id]
            if question.encoded is not None and len(question.encoded.image_digests) == 1:
                wanted[question.encoded.image_digests[0]] = question
    kept: dict[str, bytes] = {}
    with suppress(DamagedError):  # written anew
        kept = read_pictures(folder)
    if wanted.keys() <= kept.keys():
        return len(kept)
    for digest, question in wanted.items():
        if digest not in kept:
            with suppress(OSError, ValueError, SteercacheError):
                kept[digest] = small_jpeg(question.images[0].load(), MAX_SIDE)
    save_pictures(folder, kept)
    return len(kept)
