"""The explanation pages name what exists: tests, folders of a cache, sites, row policies, roles and targets."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from steercache.cache.paths import RootPaths
from steercache.core.trials import Target
from steercache.manifests.trace import Role, RowPolicy, TraceSite
from tests.docs.blocks import REPOSITORY

EXPLANATION = REPOSITORY / "docs" / "explanation"
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (EXPLANATION / "tests.md").read_text(encoding="utf-8"))


def first_cells(page: str, header: str) -> list[str]:
    """What stands in code font in the first column of the table that has this header line."""
    after = (EXPLANATION / page).read_text(encoding="utf-8").split(f"\n{header}\n", 1)[1].splitlines()[1:]
    rows = after[: next((i for i, line in enumerate(after) if not line.startswith("|")), len(after))]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_table_of_claims_is_not_empty() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_shows_a_claim_exists(file: str, name: str) -> None:
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_folder_of_a_cache_is_in_the_table() -> None:
    paths = RootPaths(Path("root"))
    ours = [name for name, value in vars(RootPaths).items() if isinstance(value, property)]
    there = {Path(getattr(paths, name)).relative_to("root").parts[0] for name in ours}
    named = {Path(name).parts[0] for name in first_cells("data-flow.md", "| folder of a cache | holds |")}
    assert there <= named
    assert named - there <= {"inputs", "pictures", "ledger.jsonl"}


def test_sites_row_policies_roles_and_targets_are_those_of_the_code() -> None:
    sites = first_cells("layers-and-sites.md", "| site | what is kept |")
    assert {*sites} == {*get_args(TraceSite), "margin_grad"}
    rows = first_cells("layers-and-sites.md", "| `rows` in a trace manifest | what is kept |")
    policies = {found[1] for row in rows if (found := re.match(r"{policy: (\w+)", row))}
    assert policies == {*get_args(RowPolicy.model_fields["policy"].annotation)}
    page = (EXPLANATION / "layers-and-sites.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if "{policy: roles" in line and line.startswith("|"))
    assert {*re.findall(r"`(\w+)`", line.split("|")[2])} == {*get_args(Role)}
    assert {*first_cells("layers-and-sites.md", "| target | steered tokens |")} == {*get_args(Target)}
