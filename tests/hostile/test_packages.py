"""A manifest that names a package runs none of its code."""

import sys
from pathlib import Path

import pytest

from steercache.core.errors import MissingExtraError, NotFoundError
from steercache.models.gguf import file_in_package

RUNS = "raise RuntimeError('imported')"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages that must not be imported (`outer`, `outer.inner`, `outer.inner.deep`), and the namespace `spaced.part`."""
    for name in ("outer", "outer/inner", "outer/inner/deep"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(RUNS)
        (tmp_path / name / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "spaced" / "part").mkdir(parents=True)
    (tmp_path / "spaced" / "part" / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("package", ["outer", "outer.inner", "outer.inner.deep", "spaced.part"])
def test_a_package_and_its_parents_are_searched_without_being_imported(package: str, site: Path) -> None:
    before = set(sys.modules)
    assert file_in_package(package, "model.gguf") == site.joinpath(*package.split("."), "model.gguf")
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in ("outer", "spaced")}


@pytest.mark.parametrize("package", ["outer.none", "outer.model", "nothing.at.all", "__main__", "sys.path"])
def test_a_package_that_is_not_there_is_named(package: str, site: Path) -> None:
    with pytest.raises(MissingExtraError, match="is not installed"):
        file_in_package(package, "model.gguf")


def test_a_file_that_the_package_lacks_is_named(site: Path) -> None:
    with pytest.raises(NotFoundError, match=r"model\.gguf"):
        file_in_package("outer.inner", "other.gguf")
