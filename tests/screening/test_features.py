"""Every decoder row of an SAE screened at once: the numbers of a loop over features, questions and options."""

import numpy as np
import pytest

from steercache.core.errors import UsageError
from steercache.queries.session import open_session
from steercache.screening.features import screen_features
from steercache.screening.gradient_store import StoredGradients
from steercache.steering.screen import answer_gradients
from tests.screening.small_gradients import LAYERS, copied_root, small_gradients
from tests.screening.test_screening import margins_by_hand
from tests.world import World

N_FEATURES, STEP = 30, 0.2


@pytest.fixture(scope="module")
def gradients(world: World, tmp_path_factory: pytest.TempPathFactory) -> StoredGradients:
    return small_gradients(open_session(copied_root(world, tmp_path_factory.mktemp("features"))), world.loaded)


@pytest.fixture(scope="module")
def decoders(gradients: StoredGradients) -> dict[int, np.ndarray]:
    rng, width = np.random.default_rng(0), gradients.document.model.hidden_size
    found = {layer: rng.normal(size=(N_FEATURES, width)).astype(np.float32) * 3 for layer in LAYERS[:2]}
    found[LAYERS[0]][4] = 0  # a dead feature's row
    return found


@pytest.mark.parametrize("target", ["image", "text"])
def test_predictions_of_features_are_those_of_a_loop(
    gradients: StoredGradients, decoders: dict[int, np.ndarray], target: str
) -> None:
    found = screen_features(gradients, decoders, target, step=STEP, n_predicted=7)
    assert found.n_features == 2 * N_FEATURES
    assert len(found.effects) == len({(e.layer, e.feature, e.alpha > 0) for e in found.effects})
    for layer, rows in decoders.items():
        norm = gradients.row_norm(target, layer)
        mean = answer_gradients(gradients.screen(target, (layer,)), layer).astype(np.float64).mean(axis=0)
        assert found.shift[layer][4] == 0 or layer != LAYERS[0]
        for feature, row in enumerate(rows):
            if not row.any():
                continue
            unit = row / np.linalg.norm(row)
            assert found.shift[layer][feature] == pytest.approx(STEP * norm * float(mean @ unit), rel=1e-3, abs=1e-5)
        for sign in (1, -1):
            expected = [f for f in np.argsort(-sign * found.shift[layer])[:7] if sign * found.shift[layer][f] > 0]
            effects = [e for e in found.effects if e.layer == layer and np.sign(e.alpha) == sign]
            assert {e.feature for e in effects} == {*expected}
            for effect in effects:
                assert effect.alpha == pytest.approx(sign * STEP * norm)
                unit = rows[effect.feature] / np.linalg.norm(rows[effect.feature])
                before = np.array(margins_by_hand(gradients, target, layer, 0 * unit))
                after = np.array(margins_by_hand(gradients, target, layer, np.float32(effect.alpha) * unit))
                assert effect.accuracy == pytest.approx((after > 0).mean())
                assert effect.gain == pytest.approx((after > 0).mean() - (before > 0).mean(), abs=1e-6)
                assert effect.shift == pytest.approx((after - before).mean(), abs=1e-4)
                assert (effect.helped, effect.hurt) == ((after > before).sum(), (after < before).sum())


def test_a_planted_feature_comes_first(gradients: StoredGradients, decoders: dict[int, np.ndarray]) -> None:
    planted = {layer: rows.copy() for layer, rows in decoders.items()}
    layer = LAYERS[1]
    planted[layer][11] = 5 * answer_gradients(gradients.screen("image", (layer,)), layer).mean(axis=0)
    found = screen_features(gradients, planted, "image", step=STEP)
    assert found.rank_of(layer, 11) == 1
    assert [e.accuracy for e in found.effects] == sorted((e.accuracy for e in found.effects), reverse=True)
    one_side = screen_features(gradients, planted, "image", step=STEP, both_sides=False)
    assert {e.alpha > 0 for e in one_side.effects} == {True}


def test_what_cannot_be_screened_is_refused(gradients: StoredGradients, decoders: dict[int, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="strength"):
        screen_features(gradients, decoders, "image", step=0)
    with pytest.raises(UsageError, match="wide"):
        screen_features(gradients, {LAYERS[0]: np.zeros((3, 5), np.float32)}, "image")
    with pytest.raises(UsageError, match="no gradients"):
        screen_features(gradients, {0: decoders[LAYERS[0]]}, "image")
