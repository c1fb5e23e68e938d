"""Planning targets written as SQL: 500 questions of 1,100 tokens (a picture of 32 x 32 patches before the text), no model."""

import time

import numpy as np

from bench.turns import Row
from steercache.core.examples import TOKEN_KINDS, EncodedSample
from steercache.queries.token_clause import plan_tokens, read_token_clause
from steercache.queries.token_table import facts_of

N_QUESTIONS, SIDE, N_TEXT, TURNS = 500, 32, 76, 5
TARGET_S = 0.5
WORDS = ("how", "many", "cups", "are", "left", "of", "the", "plate", "in", "this", "picture")
CLAUSES = {
    "patches of the upper rows": "kind = 'image' and patch_row < 3",
    "the last text tokens": "kind = 'text' and from_end < 5",
    "the noun after 'left of the'": "before like '%left of the '",
    "a window over every prompt": "lag(text) over (order by position) = 'of'",
    "a weight per token": "select position, 1.0 / (1 + patch_row) as weight from tokens where kind = 'image'",
}


class _Tokenizer:
    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [str(one) for one in ids]


def sample(seed: int) -> EncodedSample:
    """A question of 1,100 tokens, each word of its text one token."""
    words = np.random.default_rng(seed).choice(WORDS, size=N_TEXT)
    n_image = SIDE * SIDE
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    none = np.full(n_image, -1, dtype=np.int32)
    rest = np.full(N_TEXT, -1, dtype=np.int32)
    row, col = np.divmod(np.arange(n_image, dtype=np.int32), np.int32(SIDE))
    return EncodedSample(
        text=" ".join(words),
        input_ids=np.concatenate([np.full(n_image, 7), np.arange(N_TEXT) + seed]).astype(np.int32),
        char_start=np.concatenate([none, (ends - [len(word) for word in words]).astype(np.int32)]),
        char_end=np.concatenate([none, ends.astype(np.int32)]),
        kind=np.array([TOKEN_KINDS.index("image")] * n_image + [TOKEN_KINDS.index("text")] * N_TEXT, dtype=np.int8),
        is_anchor=np.zeros(n_image + N_TEXT, dtype=bool),
        is_control=np.zeros(n_image + N_TEXT, dtype=bool),
        tile=np.concatenate([np.zeros(n_image, dtype=np.int32), rest]),
        patch_row=np.concatenate([row, rest]),
        patch_col=np.concatenate([col, rest]),
    )


def run(*, n: int = N_QUESTIONS, turns: int = TURNS) -> list[Row]:
    """One line for every target: the median of some turns, and how many tokens were selected."""
    samples = [sample(seed) for seed in range(n)]
    rows: list[Row] = []
    for name, text in CLAUSES.items():
        seconds, n_selected = [], 0
        for _ in range(turns):
            started = time.perf_counter()
            weights = plan_tokens(read_token_clause(text), [facts_of(one) for one in samples], tokenizer=_Tokenizer())
            seconds.append(time.perf_counter() - started)
            n_selected = int(sum(np.count_nonzero(one) for one in weights))
        value = float(np.median(seconds))
        said = f"planning {name} over {n} questions of {samples[0].n_tokens:,} tokens: {n_selected:,} selected"
        rows.append({"name": said, "value_s": value, "met": value < TARGET_S, "target": f"< {TARGET_S:g} s"})
    return rows
