from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streaming.errors import SettingError
from streaming.session.forward import forward, new_workspace, weights_of
from streaming.session.loss import residual_loss, weighted_mean
from streaming.session.model import initial, sinusoidal
from streaming.session.options import Options, options_of
from streaming.session.refresh import Refresh
from streaming.session.step import loss_of
from tests.streaming.session import reference
from tests.streaming.session.samples import KINDS, SMALL, batch_of, corrected, encoded, weights

of_each_kind = pytest.mark.parametrize("options", KINDS, ids=["one layer", "two layers", "norm last"])


@of_each_kind
def test_encode_equals_the_written_out_transformer_at_every_position(options: Options) -> None:
    params, batch = weights(options), batch_of(options)
    got = encoded(params, batch.rows, batch.mask, batch.gap, options)
    plain = reference.as_float64(params)
    for i in range(3):
        rows, gap = batch.rows[i].astype(np.float64), batch.gap[i] if options.gaps else None
        wanted = reference.encode(plain, rows, batch.mask[i], options, gap)
        assert np.allclose(got[i][batch.mask[i]], wanted[batch.mask[i]], atol=1e-5)


@of_each_kind
def test_a_later_item_changes_no_earlier_output(options: Options) -> None:
    params, batch = weights(options), batch_of(options)
    before = encoded(params, batch.rows, batch.mask, batch.gap, options)
    batch.rows[0, :2] *= -2.0  # positions 0 and 1 are the latest
    after = encoded(params, batch.rows, batch.mask, batch.gap, options)
    assert np.array_equal(before[0, 2:], after[0, 2:])
    assert (np.abs(before[0, :2] - after[0, :2]).max(axis=1) > 0.001).all()


@of_each_kind
def test_padding_and_what_lies_in_it_change_nothing(options: Options) -> None:
    params, batch = weights(options), batch_of(options)
    batch.mask[:, 3:] = False
    before = encoded(params, batch.rows, batch.mask, batch.gap, options)
    batch.rows[:, 3:] = 7.0
    after = encoded(params, batch.rows, batch.mask, batch.gap, options)
    assert np.array_equal(before[batch.mask], after[batch.mask])
    if options == SMALL:
        alone = encoded(params, batch.rows[:, :3], batch.mask[:, :3], batch.gap[:, :3], options)
        assert np.allclose(alone[0], before[0, :3], atol=1e-6)


@of_each_kind
def test_correction_equals_the_written_out_one_and_is_nothing_without_items(options: Options) -> None:
    params, batch = weights(options), batch_of(options)
    got = corrected(params, batch.rows, batch.mask, batch.gap, options)
    plain = reference.as_float64(params)
    for i in range(4):
        rows = batch.rows[i].astype(np.float64)
        wanted = reference.correction(plain, rows, batch.mask[i], batch.gap[i], options)
        assert np.allclose(got[i], wanted, atol=1e-5)
    assert not got[3].any()


def test_a_masked_item_in_the_middle_is_not_seen() -> None:
    params, batch = weights(SMALL), batch_of(SMALL)
    batch.mask[:3] = [True, True, False, True, True]
    once = corrected(params, batch.rows, batch.mask, batch.gap, SMALL)
    batch.rows[:, 2] = 9.0
    assert np.array_equal(once, corrected(params, batch.rows, batch.mask, batch.gap, SMALL))


def test_correction_is_nothing_before_the_first_step() -> None:
    batch = batch_of(SMALL)
    assert not corrected(initial(SMALL, 1), batch.rows, batch.mask, batch.gap, SMALL).any()


def test_loss_and_gradient_equal_the_written_out_loss_and_its_finite_differences() -> None:
    options = SMALL._replace(hard=0.4)
    params, batch = weights(options), batch_of(options)
    loss = loss_of(options)
    value, gradient = jax.jit(jax.value_and_grad(lambda p, b: loss(p, b, None)))(params, batch)
    wanted = reference.loss(reference.as_float64(params), batch, options)
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    random, h = np.random.default_rng(3), 1e-5
    for k, slope in enumerate(jax.tree.leaves(gradient)):
        at = tuple(int(random.integers(n)) for n in slope.shape)
        values = []
        for sign in (1.0, -1.0):
            moved = reference.as_float64(params)
            jax.tree.leaves(moved)[k][at] += sign * h
            values.append(reference.loss(moved, batch, options))
        assert float(slope[at]) == pytest.approx((values[0] - values[1]) / (2 * h), rel=2e-3, abs=2e-6)


def test_a_negative_that_is_not_clear_does_not_count() -> None:
    batch = batch_of(SMALL)
    batch.clear[:, 0] = False
    losses = []
    for filling in (50.0, -50.0):
        batch.negative[0] = filling
        user = jnp.asarray(batch.user)
        losses.append(np.asarray(residual_loss(user, batch, jnp.ones(len(user)), SMALL)))
    assert np.array_equal(*losses)
    assert np.isfinite(losses).all()


def test_loss_over_a_batch_without_weight_is_nothing() -> None:
    assert float(weighted_mean(jnp.ones(3), np.zeros(3, np.float32))) == 0.0


def test_sinusoidal_positions_are_sines_and_cosines() -> None:
    wanted = np.array([reference.position_of(k, 8) for k in range(6)])
    assert np.allclose(sinusoidal(6, 8), wanted, atol=1e-6)


@of_each_kind
def test_numba_forward_equals_jax_to_1e_5(options: Options) -> None:
    params = weights(options)
    random = np.random.default_rng(5)
    rows = random.normal(size=(30, 16)).astype(np.float32)
    kernel_weights, space, out = weights_of(params, options), new_workspace(options), np.ones(8, np.float32)
    slots = random.integers(0, 30, (4, 5)).astype(np.int32)
    gaps = random.integers(0, 16, (4, 5)).astype(np.uint8)
    slots[1, 2] = slots[1, 4] = slots[2, 0] = -1  # holes, at the latest position, too
    slots[3] = -1
    mask = slots >= 0
    wanted = corrected(params, rows[slots, :8] * mask[..., None], mask, gaps.astype(np.int32), options)
    for i in range(4):
        forward(kernel_weights, rows, slots[i], gaps[i], space, out)
        assert np.allclose(out, wanted[i], atol=1e-5)


def test_refresh_gives_each_user_the_same_whatever_the_batch_and_compiles_once() -> None:
    params, batch, refresh = weights(SMALL), batch_of(SMALL), Refresh(SMALL, users=3)
    four = refresh(params, batch.rows, batch.mask, batch.gap, batch.user)
    for i in range(4):
        part = slice(i, i + 1)
        one = refresh(params, batch.rows[part], batch.mask[part], batch.gap[part], batch.user[part])
        assert np.allclose(one[0], four[i], atol=1e-6)
    assert np.array_equal(four[3], batch.user[3])  # no item: the plain query
    assert refresh.compilations == 1


def test_options_say_what_is_wrong() -> None:
    with pytest.raises(SettingError, match='Did you mean "layers"'):
        options_of({"layer": 2})
    with pytest.raises(SettingError, match="heads must divide dimension"):
        options_of({"heads": 3})
    with pytest.raises(SettingError, match="positions must be one of"):
        options_of({"positions": "learnt"})
    with pytest.raises(SettingError, match="must be a whole number"):
        options_of({"length": "many"})
