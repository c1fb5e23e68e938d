"""`vectors export`, `import` and `show` on a cache: there and back, refusals, a layer offset from cached activations."""

import json
from pathlib import Path

import numpy as np

import steercache
from tests.cli.small import RUN, Terminal


def test_a_vector_goes_out_and_comes_back_into_another_cache(work: Path, terminal: Terminal) -> None:
    vector = steercache.open("cache").vector("counting")
    assert terminal("vectors", "export", "counting", "-o", "v.gguf") == 2
    assert "does not say which are steered" in terminal.err
    assert terminal("vectors", "export", "counting", "--layer", "1-7", "--strength", "0.5", "-o", "v.gguf") == 0, (
        terminal.err
    )
    assert "--control-vector-scaled v.gguf:0.5" in terminal.err
    assert terminal("vectors", "export", "counting", "--to", "lm-eval", "--layer", "all", "-o", "v.pt", "--json") == 0
    assert json.loads(terminal.out)["layers"] == list(range(8))
    steercache.open("other", create=True)
    assert terminal("vectors", "import", "v.pt", "--from", "lm-eval", "--root", "other", "--json") == 0, terminal.err
    assert json.loads(terminal.out)["vector_id"] == vector.vector_id
    assert terminal("vectors", "import", "v.gguf", "--name", "part", "--root", "other") == 0, terminal.err
    assert "lost: layers 0" in terminal.err
    assert terminal("vectors", "show", "part", "--root", "other") == 0
    for words in ("add 0.5 raw", "before the final norm", "counted from 0", "tiny"):
        assert words in terminal.out, words


def test_an_export_that_would_steer_other_tokens_says_why_not_and_leaves_no_file(
    work: Path, terminal: Terminal
) -> None:
    line = ("vectors", "export", "counting", "--layer", "3", "-o", "v.gguf")
    assert terminal(*line, "--target", "image", "--phase", "prompt") == 2
    assert "image tokens" in terminal.err
    assert "the prompt only" in terminal.err
    assert not Path("v.gguf").exists()


def test_what_a_file_does_not_say_is_asked_for_and_the_model_is_checked(work: Path, terminal: Terminal) -> None:
    np.savez("v.npz", layer_9=np.ones(32, np.float32))
    assert terminal("vectors", "import", "v.npz") == 2
    assert "does not say the site" in terminal.err
    line = ("vectors", "import", "v.npz", "--site", "resid_post", "--layer-offset", "0", "--norm", "keep", "--run", RUN)
    assert terminal(*line) == 2
    assert "has layers 0 to 7" in terminal.err
    assert [one.vector.name for one in steercache.open("cache").stored_vectors()].count("v") == 0


def test_a_layer_offset_is_found_from_the_activations_of_the_cache(work: Path, terminal: Terminal) -> None:
    """Numbered as indices of `hidden_states`, where the embeddings are 0."""
    vector = steercache.open("cache").vector("counting")
    np.savez("v.npz", **{f"hidden_states.{layer + 1}": 3 * vector.at(layer) for layer in vector.layers})
    line = (
        "vectors",
        "import",
        "v.npz",
        "--site",
        "resid_post",
        "--norm",
        "keep",
        "--concept",
        "counting",
        "--run",
        RUN,
    )
    assert terminal(*line, "--check-layer-offset", "--json") == 0, terminal.err
    said = json.loads(terminal.out)
    assert (said["layer_offset"]["offset"], said["layers"]) == (-1, list(vector.layers))
    assert terminal(*line, "--check-layer-offset", "--layer-offset", "0") == 2
    assert "the layer offset +0 is stated, and" in terminal.err
