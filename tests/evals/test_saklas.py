"""A vector exported for saklas, in saklas' own hands: its reader takes it, and what it writes again comes back as the vector.

saklas scales a direction by measurements of its own, so there is no steered hidden state that both must give.
"""

from pathlib import Path

import numpy as np
import pytest

from steercache.exchange.vectors.exporting import export_vector
from steercache.exchange.vectors.importing import import_vector
from tests.evals.test_other_evaluations import run
from tests.exchange.vector_cases import some_vector

pytestmark = pytest.mark.slow


def test_saklas_reads_what_was_exported_for_it_and_what_it_writes_is_imported(tmp_path: Path) -> None:
    vector = some_vector(use=None)
    export_vector(vector, tmp_path / "ours.safetensors", to="saklas", layers="all")
    found = run("with_saklas.py", tmp_path)
    assert sorted(map(int, found)) == list(vector.layers)
    for layer in vector.layers:
        np.testing.assert_array_equal(np.float32(found[str(layer)]), vector.at(layer))
    again = import_vector(tmp_path / "theirs.safetensors", source="saklas").vector
    assert again.vector_id == vector.vector_id
