"""The shipped sentences keep the promises of their card."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from steercache.core.examples import Example
from steercache.data import open_dataset
from steercache.data.concept_set import FOLDER
from steercache.manifests.dataset import CONCEPTS, ConceptsSource, DatasetManifest


def read(*concepts: str) -> list[Example]:
    source = ConceptsSource(type="concepts", concepts=concepts or CONCEPTS)  # type: ignore[arg-type]
    return list(open_dataset(DatasetManifest(kind="dataset", version=1, name="c", source=source), base_dir=Path()))


EXAMPLES = read()


def anchor_of(example: Example) -> str:
    start, end = example.labels.anchors[0]
    return example.text[start:end]


def where(example: Example) -> float:
    """How far into the sentence the anchor begins: 0 at the first word, 1 at the last."""
    return example.text[: example.labels.anchors[0][0]].count(" ") / (len(example.text.split()) - 1)


def test_there_are_eight_files_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(CONCEPTS)
    assert len(CONCEPTS) == 8


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_concept_has_20_sentences_with_20_anchors(concept: str) -> None:
    own = [example for example in EXAMPLES if example.labels.concept == concept]
    assert own == read(concept)
    assert len({example.text for example in own}) == 20
    assert len({anchor_of(example).lower() for example in own}) == 20
    assert sum(" " in anchor_of(example) for example in own) >= 3


def test_every_anchor_is_in_its_sentence_once_or_more_and_never_first() -> None:
    for example in EXAMPLES:
        assert example.labels.anchors, example.text
        first = example.labels.anchors[0][0]
        assert re.search(r"\w", example.text[:first]), example.text


@pytest.mark.parametrize("concept", CONCEPTS)
def test_anchors_stand_early_in_the_middle_and_late(concept: str) -> None:
    places = [where(example) for example in EXAMPLES if example.labels.concept == concept]
    thirds = Counter(min(int(place * 3), 2) for place in places)
    assert min(thirds[0], thirds[1], thirds[2]) >= 3
    assert 0.4 <= sum(places) / len(places) <= 0.6


@pytest.mark.parametrize("concept", CONCEPTS)
def test_lengths_vary(concept: str) -> None:
    lengths = [len(example.text.split()) for example in EXAMPLES if example.labels.concept == concept]
    assert 5 <= min(lengths) <= 10
    assert 13 <= max(lengths) <= 22
    assert len(set(lengths)) >= 6


def test_no_template_is_repeated() -> None:
    openings = Counter(" ".join(example.text.lower().split()[:3]) for example in EXAMPLES)
    endings = Counter(" ".join(example.text.lower().split()[-3:]) for example in EXAMPLES)
    assert openings.most_common(1)[0][1] == 1
    assert endings.most_common(1)[0][1] == 1
    sets = [set(re.findall(r"\w+", example.text.lower())) for example in EXAMPLES]
    nearest = max(len(a & b) / len(a | b) for a, b in combinations(sets, 2))
    assert nearest < 0.4


def test_an_anchor_of_a_concept_is_not_an_unmarked_word_of_another_of_its_sentences() -> None:
    """Such a word would be counted among the controls of its own concept."""
    common = {"on", "one", "most", "left", "no", "not"}  # short words with other uses are looked at by hand
    for concept in set(CONCEPTS) - {"entity"}:
        own = [example for example in EXAMPLES if example.labels.concept == concept]
        for example in own:
            spans = example.labels.anchors
            rest = "".join(c for i, c in enumerate(example.text.lower()) if not any(a <= i < b for a, b in spans))
            words = set(re.findall(r"[\w'-]+", rest))
            others = {anchor_of(other).lower() for other in own if other is not example}
            assert not (words & others) - common, (example.text, words & others)


def test_sentences_are_plain_english_with_a_capital_and_an_end() -> None:
    for example in EXAMPLES:
        assert re.fullmatch(r"[A-Z][\w ,'’-]*[.?!]", example.text), example.text
        assert "  " not in example.text


def test_each_concept_has_a_question_a_request_or_a_turned_order() -> None:
    asks = Counter(
        e.labels.concept for e in EXAMPLES if re.search(r"\?$|^(Please|Take|Wash|Ask|Lift|Fold|You|Careful)", e.text)
    )
    assert set(asks) == set(CONCEPTS)
