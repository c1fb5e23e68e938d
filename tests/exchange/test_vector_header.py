"""The published schema of a vector's header holds for what is written, and not for what is wrong."""

import copy
import json
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from steercache.cache.vector_files import header_of
from steercache.cache.vector_schema import DIALECT, vector_schema
from steercache.cli.main import steercache as command
from steercache.core.vector_use import VectorUse
from steercache.steering.targets import TARGETS
from tests.exchange.vector_cases import some_vector

FULL = VectorUse(
    operation="clamp",
    parameters={"value": 1.5},
    layers=(2, 4),
    strength=0.5,
    strength_unit="resid_norm",
    strength_range=(0.1, 0.9),
    damage={"limit": 0.1},
    target="text",
    skip_first=True,
    phase="both",
    n_generated=4,
    bos=True,
    chat="template",
    source={"sweep": "s"},
)


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = vector_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def head(use: VectorUse | None = FULL) -> Any:
    return json.loads(json.dumps(header_of(some_vector(use=use))))


@pytest.mark.parametrize(
    "use", [None, VectorUse(), VectorUse(target="sql: position = 1"), FULL], ids=["none", "least", "sql", "full"]
)
def test_what_is_written_fits_the_schema(validator: jsonschema.Draft202012Validator, use: VectorUse | None) -> None:
    assert list(validator.iter_errors(head(use))) == []
    assert VectorUse.from_json(head()["use"]) == FULL


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), 4),
        (("layers",), []),
        (("vector_id",), "abc"),
        (("use", "operation"), "subtract"),
        (("use", "place"), "residual stream"),
        (("use", "layer_indexing"), "from 1"),
        (("use", "strength"), "2"),
        (("use", "strength_range"), [1]),
        (("use", "phase"), "prefill"),
        (("use", "target"), None),
        (("fitted_on", "modality"), "sound"),
        (("fitted_on", "chat"), "yes"),
        (("diagnostics",), {}),
    ],
)
def test_a_wrong_header_does_not_fit(
    validator: jsonschema.Draft202012Validator, place: tuple[str, ...], value: Any
) -> None:
    wrong = copy.deepcopy(head())
    inner = wrong
    for key in place[:-1]:
        inner = inner[key]
    assert place[-1] in inner
    inner[place[-1]] = value
    assert list(validator.iter_errors(wrong)) != []


def test_every_field_of_a_header_is_described() -> None:
    schema = vector_schema()
    assert set(head()) == set(schema["properties"])
    for part in ("use", "fitted_on"):
        assert set(head()[part]) == set(schema["properties"][part]["properties"])


def test_the_targets_are_those_of_steering() -> None:
    targets = vector_schema()["properties"]["use"]["properties"]["target"]["oneOf"]
    assert {one["const"] for one in targets if "const" in one} == set(TARGETS)
    assert [one["pattern"] for one in targets if "const" not in one] == ["^sql: "]


def test_the_command_prints_the_schema() -> None:
    done = CliRunner().invoke(command, ["vectors", "schema"])
    assert done.exit_code == 0
    assert json.loads(done.output)["$schema"] == DIALECT
