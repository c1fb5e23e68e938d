"""What the list of methods says of each: a command that parses, a test that exists, and a formula on the page."""

import ast
import json
import runpy
from typing import Any

import pytest
from click.testing import CliRunner

from steercache.api.recipes import recipe_facts
from steercache.cli.main import steercache
from steercache.fit.catalogue import CATALOGUE, METHODS
from tests.cli.test_hints import wrong_call
from tests.docs.blocks import REPOSITORY


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_methods_command_parses_and_its_test_exists(name: str) -> None:
    method = CATALOGUE[name]
    assert wrong_call(method.command.removeprefix("steercache ")) is None
    file, test = method.tested_by.split("::")
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("recipe", recipe_facts(), ids=lambda one: one["name"])
def test_a_recipes_command_parses_and_its_test_exists(recipe: dict[str, Any]) -> None:
    assert wrong_call(recipe["command"].removeprefix("steercache ")) is None
    file, test = recipe["tested_by"].split("::")
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_and_the_command_list_every_method_with_its_formula() -> None:
    page = runpy.run_path(str(REPOSITORY / "docs" / "reference" / "methods.py"))["page_text"]
    text = page(lambda columns, rows: "\n".join("|".join(map(str, row)) for row in rows))
    shown = CliRunner().invoke(steercache, ["fit", "--list"]).output
    both = json.loads(CliRunner().invoke(steercache, ["fit", "--list", "--json"]).output)
    listed, recipes = both["methods"], both["recipes"]
    assert [one["name"] for one in listed] == list(CATALOGUE)
    assert set(METHODS) < set(CATALOGUE)
    for one in listed:
        assert f"`{one['name']}`|`{one['formula']}`" in text
        assert all(one[key] in shown for key in ("name", "formula", "source", "command"))
    assert recipes == recipe_facts()
    for one in recipes:
        assert f"`{one['name']}`: {one['summary']}|`{one['formula']}`" in text
        assert all(one[key] in shown for key in ("name", "formula", "source", "command", "use"))
        assert all(sentence in text and sentence in shown for sentence in one["differs"])
