"""The picture of an effect: real files, and every number in them is the summary's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import vl_convert

from steercache.report.effect import effect_chart
from steercache.report.style import save_chart
from steercache.steering.effects import WordMass, WordMassPlan
from steercache.steering.mass_curves import summarise
from tests.steering.tiny import vector

PLAN = WordMassPlan(words=("one", "two", "twenty"), prompts=("a", "b", "c"), layer=6, alphas=(1.0, 2.0), n_random=4)


def effect() -> WordMass:
    masses = np.random.default_rng(0).uniform(0, 0.1, (5, 3, 3))
    masses[0] += np.array([0, 0.2, 0.4])[:, None]
    return WordMass(
        plan=PLAN,
        concept="counting",
        alphas=(0.0, 1.0, 2.0),
        words=("one", "two"),
        probability_vapw=np.stack([masses / 4, masses * 3 / 4], axis=-1),
        left_out=("twenty",),
        vectors=tuple(vector(6, name=name) for name in ("counting", "1", "2", "3", "4")),
        cells=(),
        answers=(),
    )


def test_png_and_svg_are_written_and_say_what_is_shown(tmp_path: Path) -> None:
    png, svg = tmp_path / "deep" / "counting.png", tmp_path / "deep" / "counting.svg"
    for path in (png, svg):
        save_chart(effect_chart(effect()), path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.stat().st_size > 5_000
    text = svg.read_text()
    for said in (
        "counting, layer 6, text tokens",
        "mean of 3 prompts",
        "4 random directions",
        "one of 2 words: one, two",
    ):
        assert said in text
    assert vl_convert.svg_to_png(text).startswith(b"\x89PNG")


def test_the_chart_holds_the_summary() -> None:
    values = effect_chart(effect()).to_dict()["data"]["values"]
    for row, point in zip(values, summarise(effect()), strict=True):
        assert row["mass"] == pytest.approx(point.mass)
        assert row["random_high"] == pytest.approx(point.random_high)


def test_a_tick_says_its_strength_unrounded() -> None:
    axis = effect_chart(effect()).to_dict()["layer"][0]["encoding"]["x"]["axis"]
    assert axis["values"] == [0.0, 1.0, 2.0]
    halves = replace(effect(), alphas=(0.0, 0.5, 1.25))
    text = vl_convert.vegalite_to_svg(effect_chart(halves).to_dict())
    assert ">0.5<" in text
    assert ">1.25<" in text
