"""The page about models: the table of families, and what the tests check of classes that are not in it."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from steercache.models.families import FAMILIES
from steercache.models.family import Family
from tests.models.derived import CLASSES, FULL, REFUSED, Class
from tests.models.other_backbones import BACKBONES, Around

INTRODUCTION = """
Two kinds of models can be traced and steered.

**In the table**: families of which facts are needed that the class does not say, such as image tokens, patches and
template tokens.

**Derived**: any other decoder that transformers can load as a causal language model. Blocks, embedding, final norm and
head are found in the structure of its class, and then shown on the loaded weights, on two prompts, before anything is
read or added: blocks run in order, each once, and hand one residual stream on; their outputs are the model's own hidden
states; the last one goes through the final norm; a change of one row moves that row and later ones only; padding on
either side moves the last bits at most. Attention and MLP outputs can be read where two parts of each block add up to
what it changes. Branches are tried on the first batch. A model that fails is refused, and the error says what was seen.
In Python, `load(...).evidence` is the list. For 135 million parameters the proof takes 1.4 s on two cores.

A model whose blocks cannot be run alone (their state is more than keys and values) is computed in full, and its answers
say so. Branch and replay equal the full forward bit for bit where every cell runs alone in the batch as it was recorded;
a mixture of experts computes padding beside the tokens, and a replay of a padded batch, whose padding is not stored, equals
it within rounding.
"""


SHARED_KEYS = """
## Blocks without keys of their own

The upper blocks of Gemma 4's E2B (15 to 34) and E4B (24 to 41) make no keys and values: they read those of the last block
below that has the same kind of attention. What is added to a token from the last block with keys of its own on (14 in E2B,
23 in E4B) reaches no other token. So image tokens and the text of a prompt are steered below it; above it only the last token
of the prompt, and tokens that are generated, move the answer. Asked for the logits of the last token, which is what `generate`
does, these blocks compute that token alone; branches, replays and hooks do the same, to the last bit.
"""


STREAMS = """
## Several residual streams

Gemma 3n's blocks hand on four residual streams (AltUp). The hidden state of a token is the first, the active one: it is kept,
and vectors are added to it. Branches carry all four, to the last bit. A run keeps one, so that nothing is replayed. Its vision
tower is a model of timm, which a checkpoint with pictures asks for when it is loaded: `pip install timm`.
"""

_READS = {
    "pictures": lambda family: family.modality == "image",
    "videos": lambda family: family.video is not None,
    "sounds": lambda family: family.audio is not None,
}


def page_text(table: Any) -> str:
    """The page; `table` makes a Markdown table of column names and rows."""
    columns = ["`model_type`", "reads", "attention and MLP outputs", "execution modes", "checked"]
    rows = [*(_known(family) for family in FAMILIES), *(_derived(name, one) for name, one in CLASSES.items())]
    around = [_around(one) for one in BACKBONES.values()]
    refused = [[f"`{name}`", reason] for name, (_, reason) in REFUSED.items()]
    return "\n\n".join(
        [
            INTRODUCTION.strip(),
            table(columns, rows),
            "Weights of these classes other than SmolLM2, *tiny* and *demo* were never loaded here; no number in this"
            " documentation is theirs. “By value” means: a small random model of the real class, rows and answers"
            " compared with a plain forward and `generate`.",
            SHARED_KEYS.strip(),
            STREAMS.strip(),
            "## Pictures before a derived text model",
            "A model that reads pictures is in the table by its own type. Its text model may be of any type that the table has"
            " or that can be derived: `aya_vision` is always around `cohere2`, which is derived. Such a model is marked as"
            " derived and proven on text. Tried by value:",
            table(["`model_type`", "attention and MLP outputs", "execution modes"], around),
            "## Refused",
            "Among the classes that were tried, these are refused; the words are part of the error.",
            table(["`model_type`", "because"], refused),
        ]
    )


def _known(family: Family) -> list[object]:
    types = ", ".join(_type(one) for one in family.model_types)
    shown = [word for word, has in _READS.items() if has(family)]
    reads = " and ".join(filter(None, (", ".join(shown), "text")))
    modes = f"full ({FULL[family.name]})" if family.name in FULL else f"branch, {_replay(family)}full"
    parts = "yes" if family.attn_out else "no"
    checked = "in the table; by value, and by layout at real size"
    if family.name in ("llama4", "molmo2"):
        checked += "; its image processor, which needs torchvision, was run by hand only"
    if family.name == "gemma3n":
        checked += "; its vision tower, which needs timm and torchvision, was run by hand only"
    return [types, reads, parts, modes, checked]


def _type(written: str) -> str:
    """A type of the table; `a/b` is `a` with a vision tower of type `b`."""
    model, _, tower = written.partition("/")
    return f"`{model}` with a tower `{tower}`" if tower else f"`{model}`"


def _around(one: Around) -> list[object]:
    parts = "yes" if one.attn_out else "no"
    return [f"`{one.family}` around `{one.text['model_type']}`", parts, "branch, replay, full"]


def _replay(family: Family) -> str:
    if family.stream is not None:
        return ""  # a run keeps one of its streams
    if family.name == "gemma4":
        return "replay (of E2B and E4B with the pictures and sounds), "
    return "replay (from the first layers with the pictures), " if family.deepstack else "replay, "


def _derived(name: str, one: Class) -> list[object]:
    parts = "yes" if one.attn_out else "no"
    modes = f"full ({one.full})" if one.full else "branch, replay, full"
    return [f"`{name}`", "text", parts, modes, "derived; by value, and by layout at real size"]
