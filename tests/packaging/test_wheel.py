"""The wheel, installed into an environment of its own, works from any folder and never sees the repository."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

import steercache
from tests.tracing import write_small_trace

REPOSITORY = Path(__file__).resolve().parents[2]
READ_BY_ZARR = """
import sys
from pathlib import Path
import numpy as np, zarr
for generation, target in zip(sys.argv[1::2], sys.argv[2::2]):
    array = zarr.open_group(generation, mode="r")["resid_post"]
    assert array.dtype == "bfloat16", array.dtype
    np.save(target, np.asarray(array[:]).astype("float32"))
assert "steercache.cache" not in sys.modules, "zarr reads it, not we"
"""
READ_BY_US = """
import sys
import numpy as np
import steercache
cache = steercache.open(sys.argv[1])
rows = cache.sql("SELECT row_idx FROM tokens WHERE row_idx IS NOT NULL ORDER BY 1").to_arrow_table()["row_idx"].to_numpy()
source = cache.folder.source(cache.run("small").run_id)
blocks = [source.gather("resid_post", layer, rows) for layer in source.layers("resid_post")]
np.savez(sys.argv[2], rows=rows, values=np.stack(blocks).astype("float32"))
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that holds the wheel; `folder` is outside the repository."""

    python: Path
    folder: Path

    def run(self, *command: str, code: int = 0) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "STEERCACHE", "VIRTUAL_ENV"))}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def steercache(self, *words: str, code: int = 0) -> str:
        return self.run(str(self.python.with_name("steercache")), *words, code=code)

    def execute(self, code: str, *words: str) -> str:
        return self.run(str(self.python), "-c", code, *words)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def install(wheel: Path, folder: Path, packages: Iterable[Path]) -> Installed:
    """Nothing is downloaded: `packages` are linked in from the environment that runs the tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    for entry in packages:
        if not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    (folder / "work").mkdir()
    return Installed(python, folder / "work")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """With every package that there is."""
    everything = Path(sysconfig.get_path("purelib")).iterdir()
    others = (entry for entry in everything if entry.suffix != ".pth" and "steercache" not in entry.name)
    return install(wheel, tmp_path_factory.mktemp("outside"), others)


def required(name: str, found: dict[str, Distribution]) -> dict[str, Distribution]:
    """The distributions that `pip install name` brings, without extras of ours; those that markers leave out are not there."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"] if name == "steercache" else distribution(name).requires or ():
        requirement = Requirement(line)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in found:
            found[requirement.name] = distribution(requirement.name)
            required(requirement.name, found)
    return found


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """With what `pip install steercache` brings, and nothing else: no torch, no scikit-learn, no plots."""
    site = Path(sysconfig.get_path("purelib"))
    files = (file for dist in required("steercache", {}).values() for file in dist.files or ())
    tops = sorted({file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")})
    assert not {"torch", "transformers", "sklearn", "altair"} & set(tops)
    return install(wheel, tmp_path_factory.mktemp("bare"), (site / top for top in tops))


def test_the_wheel_holds_every_file_of_the_package_and_what_the_repository_ships(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "steercache", "manifests", "queries"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert len(tracked) > 200
    wanted = {name if name.startswith("steercache/") else f"steercache/_shipped/{name}" for name in tracked}
    on_disk = {name for name in tracked if (REPOSITORY / name).exists()}
    gone = {name for name in tracked if name not in on_disk}
    assert wanted - gone <= names
    assert "steercache/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "bench", "cache", "manifests", "queries"))]


@pytest.mark.slow
def test_the_training_of_the_shipped_models_stays_out_of_the_wheel_and_their_weights_are_in_it(
    wheel: Path, installed: Installed
) -> None:
    with zipfile.ZipFile(wheel) as packed:
        code = {
            n: packed.read(n).decode() for n in packed.namelist() if n.startswith("steercache/") and n.endswith(".py")
        }
    assert {n.removeprefix("steercache/zoo/").removesuffix(".py") for n in code if n.startswith("steercache/zoo/")} == {
        *("__init__", "saes", "shelf", "smollm2", "source"),
        *("demo/__init__", "demo/assemble", "demo/chat", "demo/lora", "demo/shape"),
    }
    assert [
        n for n, text in code.items() if "torch.optim" in text or re.search(r"^\s*(from|import) bench[. ]", text, re.M)
    ] == []
    assert "model.safetensors" in installed.steercache("zoo", "build", "tiny", "here", "--json")
    assert "sae_weights.safetensors" in installed.steercache("zoo", "build", "smollm2-135m-l15", "sae", "--json")


def test_the_installed_package_is_the_wheels_and_not_the_repositorys(installed: Installed) -> None:
    seen = installed.execute("import steercache, sys, json; print(json.dumps([steercache.__file__, *sys.path]))")
    where, *path = json.loads(seen)
    assert Path(where).is_relative_to(installed.python.parents[1])
    assert not [entry for entry in path if entry and Path(entry).resolve() == REPOSITORY]
    assert installed.steercache("--version").split()[-1] == steercache.__version__


def test_what_ships_is_found_by_name(installed: Installed) -> None:
    assert "steercache build" in installed.steercache("--help")
    assert "smollm2-concepts" in installed.steercache("manifest", "list")
    assert "anchor_vs_control" in installed.steercache("query", "--list")
    assert installed.steercache("manifest", "check", "--rows", "concepts").startswith("ok: dataset concepts")


@pytest.mark.slow
def test_a_bfloat16_cache_is_built_and_zarr_python_opens_it_by_the_entry_points(
    installed: Installed, tmp_path: Path
) -> None:
    trace = write_small_trace(tmp_path / "trace", n=20, dtype="bfloat16")
    root = tmp_path / "root"
    built = json.loads(installed.steercache("build", str(trace.manifest), "--root", str(root), "--json"))
    installed.execute(READ_BY_US, str(root), str(tmp_path / "ours.npz"))
    installed.steercache("cache", "compact", "small", "--codec", "pcodec", "--root", str(root))
    (run,) = (root / "runs").iterdir()
    both = [run / "g0001", run / "g0002"]
    targets = [tmp_path / "raw.npy", tmp_path / "pcodec.npy"]
    installed.execute(READ_BY_ZARR, *(str(part) for pair in zip(both, targets, strict=True) for part in pair))
    ours = np.load(tmp_path / "ours.npz")
    assert len(ours["rows"]) == built["n_rows"]
    for target in targets:
        by_zarr = np.load(target)
        np.testing.assert_array_equal(by_zarr[:, ours["rows"]], ours["values"])
        assert np.isnan(np.delete(by_zarr, ours["rows"], axis=1)).all()


@pytest.mark.slow
def test_without_extras_a_cache_is_queried_fitted_and_kept_and_what_needs_one_names_it(
    bare: Installed, tmp_path: Path
) -> None:
    trace = write_small_trace(tmp_path / "trace", n=30, dtype="bfloat16")
    trace.build(tmp_path / "root")
    at = ("--root", str(tmp_path / "root"))
    assert "steercache build" in bare.steercache("--help")
    assert bare.steercache("manifest", "check", "--rows", "concepts", "smollm2-concepts")
    counted = json.loads(bare.steercache("query", "select count(*) as n from tokens", "--json", *at))
    assert counted[0]["n"] > 100
    rows = "select run_id, row_idx, is_anchor as label from tokens where is_anchor or is_control"
    bare.steercache("fit", "mean-shift", "--query", rows, "--name", "mine", *at)
    assert "mine" in bare.steercache("vectors", "show", "mine", *at)
    bare.steercache("cache", "compact", "small", "--codec", "pcodec", *at)
    assert "the same" in bare.steercache("vectors", "refit", "mine", *at)
    bare.steercache("cache", "rebuild", *at)
    bare.steercache("cache", "verify", *at)
    assert "try: pip install 'steercache[models]'" in bare.steercache("build", str(trace.manifest), *at, code=6)
    assert "try: pip install 'steercache[fit]'" in bare.steercache("fit", "probe", "--query", rows, *at, code=6)
