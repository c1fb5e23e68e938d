"""Mutated models, tokenizers, templates, data, queries, vectors, sweeps and caches: the program never says it has a bug.

One seed of each kind that loads no model runs always, many more with `-m slow`. A failure names kind and seed: run that id.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from steercache.cache.handle import open_cache
from steercache.cache.sweeps import save_sweep
from steercache.core.trials import Answer, Cell
from tests.cli.mutations import VALUES, mutated_bytes, mutated_json, mutated_safetensors
from tests.cli.small import RUN, Terminal
from tests.cli.test_exit_codes import CODES

QUICK, MANY = 1, 12
RARE = ("config", "tokenizer", "tokenizer settings", "generation")  # load or run a model for each case: slow only
Line = tuple[str, ...]
STEER = ("steer", "counting", "the cat was", "--layer", "1", "--max-new-tokens", "2", "--model", "tiny.yaml")
PLAN = ("plan", "my-trace.yaml", "--root", "fresh")
BUILD = ("build", "my-trace.yaml", "--root", "fresh")


TEMPLATE_PIECES = (
    *(
        "{{ messages[0]['content'] }}",
        "{{ messages[1].content }}",
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    ),
    *("{% for", "{{ 1 / 0 }}", "{{ [].x.y }}", "{{ raise_exception('no') }}", "{{ ''|nope }}", "{% include 'x' %}"),
    *("{{ messages | tojson }}", "{{ 'a' * 100000 }}", "{{ messages[0]['content'][0] }}", "{{ strftime_now('%Y') }}"),
    *("{{ messages.append(1) }}", "\ud83d", "", "{{ ''.__class__ }}", "{{ range(10) | list }}", "{{ none + 1 }}"),
    *(
        "{{ messages[0]['content'] | int('x') }}",
        "{% set x = y %}{{ x }}",
        "{{ messages[0]['content'].encode('ascii') }}",
    ),
    *("{{ dict(a=1)['b'] }}", "{{ 2 ** 99999 }}", "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}"),
)
GENERATION: dict[str, Any] = {
    "num_beams": 3,
    "num_return_sequences": 2,
    "return_dict_in_generate": True,
    "repetition_penalty": 0.0,
    "temperature": -1,
    "eos_token_id": [10**9],
    "pad_token_id": -5,
    "max_length": 1,
    "min_length": 99,
    "do_sample": True,
    "cache_implementation": "nope",
    "bad_words_ids": [[]],
    "forced_eos_token_id": 1,
    "use_cache": False,
    "suppress_tokens": ["x"],
}


def file_of_a_model(
    name: str, change: Callable[[bytes, random.Random], bytes]
) -> Callable[[Path, random.Random], list[Line]]:
    def damage(work: Path, chance: random.Random) -> list[Line]:
        path = work / "model" / name
        path.write_bytes(change(path.read_bytes(), chance))
        return [STEER, BUILD]

    return damage


def chat_template(work: Path, chance: random.Random) -> list[Line]:
    template = "".join(chance.sample(TEMPLATE_PIECES, chance.choice((1, 1, 2))))
    (work / "model" / "chat_template.jinja").write_bytes(template.encode("utf-8", "surrogatepass"))
    trace = yaml.safe_load((work / "my-trace.yaml").read_text())
    trace["datasets"][0]["chat"] = {"apply": True}
    (work / "my-trace.yaml").write_text(yaml.safe_dump(trace))
    return [BUILD, (*STEER, "--chat")]


def generation_settings(work: Path, chance: random.Random) -> list[Line]:
    chosen = {name: GENERATION[name] for name in chance.sample(sorted(GENERATION), 2)}
    if chance.random() < 0.3:
        chosen[chance.choice(sorted(GENERATION))] = chance.choice(VALUES)
    (work / "model" / "generation_config.json").write_text(json.dumps(chosen))
    return [STEER]


def data_file(work: Path, chance: random.Random) -> list[Line]:
    kind = chance.choice(("jsonl", "csv", "parquet", "text"))
    rows = [json.loads(line) for line in (work / "words.jsonl").read_text().splitlines()]
    for _ in range(chance.randrange(3)):
        row = chance.choice(rows)
        row[chance.choice(("text", "anchor", "concept", "m"))] = chance.choice(VALUES)
    path = work / f"words.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        columns = {name: [row.get(name) for row in rows] for name in ("text", "anchor", "concept")}
        table = pa.table(
            {k: pa.array([v if isinstance(v, str) and v.isprintable() else "x" for v in c]) for k, c in columns.items()}
        )
        twice = chance.random() < 0.3
        pq.write_table(table.append_column("text", table.column(0)) if twice else table, path)
    else:
        lines = [
            "text,anchor,concept",
            *(f"{row.get('text')},{row.get('anchor')},{row.get('concept')}" for row in rows),
        ]
        path.write_bytes("\n".join(lines).encode(chance.choice(("utf-8", "utf-16", "utf-8-sig")), "surrogatepass"))
    if chance.random() < 0.6:
        path.write_bytes(mutated_bytes(path.read_bytes(), chance))
    trace = yaml.safe_load((work / "my-trace.yaml").read_text())
    columns = {"text": "text", "anchor": "anchor", "concept": "concept"}
    source: dict[str, Any] = {"type": kind, "path": path.name} | ({} if kind == "text" else {"columns": columns})
    trace["datasets"][0]["source"] = source
    (work / "my-trace.yaml").write_text(yaml.safe_dump(trace))
    return [
        BUILD,
        ("query", "token_frequency", "--root", "fresh"),
        ("fit", "probe", "--all-concepts", "--root", "fresh"),
    ]


def manifest(work: Path, chance: random.Random) -> list[Line]:
    name = chance.choice(("my-trace.yaml", "tiny.yaml"))
    value = yaml.safe_load((work / name).read_text())
    data = mutated_json(json.dumps(value).encode(), chance)
    (work / name).write_bytes(data)
    return [("manifest", "check", name), BUILD, STEER]


def query_file(work: Path, chance: random.Random) -> list[Line]:
    text = (
        b"-- name: mine\n-- kind: table\n-- summary: x\n-- params:\n--   top: {type: int, default: 3}\n"
        b"SELECT piece, count(*) n FROM tokens GROUP BY ALL ORDER BY n LIMIT $top\n"
    )
    (work / "mine.sql").write_bytes(mutated_bytes(text, chance))
    return [("query", "-f", "mine.sql"), ("query", "-f", "mine.sql", "-p", "top=2", "--json")]


def vector_file(work: Path, chance: random.Random) -> list[Line]:
    path = chance.choice(sorted((work / "cache" / "vectors").glob("*.safetensors")))
    path.write_bytes(mutated_safetensors(path.read_bytes(), chance))
    lines: list[Line] = [("vectors", "list"), ("vectors", "show", "counting"), ("vectors", "refit", "counting"), STEER]
    return [*lines, ("query", "vector_norms"), ("vectors", "compare", "counting", "counting-probe")]


def file_of_a_cache(work: Path, chance: random.Random) -> list[Line]:
    files = sorted(
        p for p in (work / "cache").rglob("*") if p.is_file() and "models" not in p.parts and p.name != "index.duckdb"
    )
    path = chance.choice(files)
    path.write_bytes((mutated_json if path.suffix == ".json" else mutated_bytes)(path.read_bytes(), chance))
    lines: list[Line] = [("cache", "status"), ("cache", "verify"), ("query", "token_frequency"), ("cache", "rebuild")]
    return [
        *lines,
        ("fit", "mean-shift", "--concept", "counting"),
        ("build", "my-trace.yaml"),
        ("cache", "gc"),
        ("cache", "compact", RUN),
    ]


def file_of_a_sweep(work: Path, chance: random.Random) -> list[Line]:
    cells = [
        Cell(
            vector_id=v,
            layer=v and 1,
            alpha=1.0 if v else 0.0,
            target="image",
            model_fingerprint="m",
            prompt_id="plain",
        )
        for v in (None, "0" * 64)
    ]
    answers = [
        Answer(cell_id=cell.cell_id, sample_id=f"q{i}", split="search", raw="A", parsed="A", correct=bool(i % 2))
        for cell in cells
        for i in range(4)
    ]
    save_sweep(
        open_cache(work / "cache"), "mine", manifest={"kind": "grid", "sweep": "mine"}, cells=cells, answers=answers
    )
    path = chance.choice(sorted(p for p in (work / "cache" / "sweeps").rglob("*") if p.is_file()))
    data = path.read_bytes()
    path.write_bytes((mutated_json if path.suffix == ".json" and data else mutated_bytes)(data, chance))
    return [
        ("query", "select * from answers"),
        ("report", "html", "mine"),
        ("cache", "status"),
        ("cache", "rebuild"),
        ("cache", "verify"),
    ]


def model_manifest(work: Path, chance: random.Random) -> list[Line]:
    value = yaml.safe_load((work / "tiny.yaml").read_text())
    field = chance.choice(("chat_template", "dtype", "attention", "revision", "family", "backbone", "tokenizer"))
    value[field] = chance.choice(VALUES)
    (work / "tiny.yaml").write_bytes(json.dumps(value).encode())
    return [("manifest", "check", "tiny.yaml"), PLAN, STEER]


KINDS: dict[str, Callable[[Path, random.Random], list[Line]]] = {
    "config": file_of_a_model("config.json", mutated_json),
    "weights": file_of_a_model("model.safetensors", mutated_safetensors),
    "tokenizer": file_of_a_model("tokenizer.json", mutated_json),
    "tokenizer settings": file_of_a_model("tokenizer_config.json", mutated_json),
    "template": chat_template,
    "generation": generation_settings,
    "data": data_file,
    "manifest": manifest,
    "model manifest": model_manifest,
    "query": query_file,
    "vector": vector_file,
    "cache": file_of_a_cache,
    "sweep": file_of_a_sweep,
}


def cases() -> list[Any]:
    return [
        pytest.param(
            kind, seed, id=f"{kind}-{seed}", marks=() if seed < QUICK and kind not in RARE else (pytest.mark.slow,)
        )
        for kind in KINDS
        for seed in range(MANY)
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "seed"), cases())
def test_damaged_input_is_refused_with_a_remedy_and_never_a_bug(
    kind: str, seed: int, work: Path, terminal: Terminal
) -> None:
    for line in KINDS[kind](work, random.Random(f"{kind}{seed}")):
        code = terminal(*line)
        assert code in CODES, f"{line}: {terminal.err}"
        assert code == 0 or "\ntry: " in terminal.err, f"{line}: {terminal.err}"
    shutil.rmtree(work)
