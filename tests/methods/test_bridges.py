"""Bridges and what they learn from pairs, against second derivations and worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch.nn import functional

from bench.plugins.registry import make_method
from bench.protocol import PairedEmbeddings, StoredEmbeddings
from methods import _calibration
from methods.mct import supervised_contrast
from methods.slerp import slerp
from tests.methods.test_by_hand import bank, fitted


def asked(method, pairs, state="old"):
    with torch.no_grad():
        return method.query(StoredEmbeddings(old=pairs.old, new=pairs.new), state)


# ---------------------------------------------------------------------------------------- slerp


def test_slerp_goes_along_the_circle():
    right, up = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    for share in (0.0, 0.25, 1.0):
        angle = share * math.pi / 2
        expected = torch.tensor([[math.cos(angle), math.sin(angle)]])
        torch.testing.assert_close(slerp(right, up, share), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(slerp(right, right, 0.5), right, atol=1e-3, rtol=0)


@pytest.mark.parametrize("widths", [(6, 6), (4, 6), (6, 4)])
def test_slerp_rotates_new_queries_and_pads_the_narrower_old_side(widths):
    pairs = bank(*widths)
    method = fitted("slerp", pairs, alpha=1.0)
    wide = max(widths)
    old = functional.pad(pairs.old, (0, wide - widths[0]))
    left, _, right = np.linalg.svd((pairs.new.T @ old).numpy(), full_matrices=False)
    np.testing.assert_allclose(method.rotation, left @ right, atol=1e-5)
    if widths == (6, 6):
        reference, _ = orthogonal_procrustes(pairs.new.numpy(), pairs.old.numpy())
        np.testing.assert_allclose(method.rotation, reference, atol=1e-5)
    torch.testing.assert_close(
        asked(method, pairs),
        functional.normalize(pairs.new @ method.rotation, dim=1),
        atol=1e-5,
        rtol=0,
    )
    half = fitted("slerp", pairs, alpha=0.5)
    between = functional.normalize(old + functional.normalize(pairs.new @ half.rotation), dim=1)
    torch.testing.assert_close(asked(half, pairs), between, atol=1e-4, rtol=0)


def test_slerp_trusts_the_new_model_as_far_as_the_old_index_allows():
    torch.manual_seed(0)
    pairs = bank()
    turned = torch.linalg.qr(torch.randn(6, 6)).Q
    same = PairedEmbeddings(pairs.new @ turned, pairs.new, pairs.labels, pairs.new_head)
    assert float(fitted("slerp", same).alpha) == 1
    torch.manual_seed(0)
    noise = functional.normalize(torch.randn(200, 6), dim=1)
    unrelated = PairedEmbeddings(pairs.old, noise, pairs.labels, pairs.new_head)
    assert float(fitted("slerp", unrelated).alpha) < 0.8


# ------------------------------------------------------------------- drift, centring, scaling


def test_query_drift_takes_the_mean_difference_off():
    old = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    new = torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    pairs = PairedEmbeddings(old, new, torch.tensor([0, 1]), old)
    method = fitted("query_drift", pairs)  # mean drift (-0.2, 0.4)
    torch.testing.assert_close(asked(method, pairs), torch.tensor([[0.2, 0.6], [0.8, 0.4]]))
    assert torch.equal(asked(method, pairs, "new"), new)


def test_centred_procrustes_finds_a_rotation_behind_a_shift():
    torch.manual_seed(1)
    old, turn = torch.randn(300, 5), torch.linalg.qr(torch.randn(5, 5)).Q
    shift = torch.tensor([3.0, 0, 0, -2, 0])
    pairs = PairedEmbeddings(old + 2, old @ turn + shift, torch.arange(300) % 5, torch.eye(5))
    method = fitted("procrustes", pairs, centre=True)
    torch.testing.assert_close(method.rotation, turn, atol=1e-4, rtol=0)
    with torch.no_grad():
        moved = method.gallery(StoredEmbeddings(old=pairs.old), "old")
    torch.testing.assert_close(moved, pairs.new, atol=1e-3, rtol=0)
    plain = fitted("procrustes", pairs)
    assert not torch.allclose(plain.rotation, turn, atol=0.05)


@pytest.mark.parametrize("centre", [False, True])
def test_scaled_procrustes_is_least_squares_in_each_dimension(centre):
    pairs = bank()
    method = fitted("procrustes", pairs, centre=centre, scale=True)
    old, new = (part.numpy().astype(float) for part in (pairs.old, pairs.new))
    if centre:
        old, new = old - old.mean(0), new - new.mean(0)
    moved = old @ orthogonal_procrustes(old, new)[0]
    slopes = [
        np.linalg.lstsq(moved[:, [k]], new[:, k], rcond=None)[0][0] for k in range(new.shape[1])
    ]
    np.testing.assert_allclose(method.factors, slopes, atol=1e-4)
    with torch.no_grad():
        stored = method.gallery(StoredEmbeddings(old=pairs.old), "old")
    expected = moved * slopes + (pairs.new.mean(0).numpy() if centre else 0)
    np.testing.assert_allclose(stored, expected, atol=1e-4)


# ---------------------------------------------------------------------------------- calibration


def test_the_isotonic_map_goes_through_the_middles_of_the_blocks(monkeypatch):
    """The blocks by the max-min formula of isotonic regression (Barlow et al., 1972)."""
    monkeypatch.setattr(_calibration, "KNOTS", 20_001)
    torch.manual_seed(0)
    old = torch.rand(60, dtype=torch.float64) * 2 - 1
    new = 0.3 + 0.5 * old**3 + 0.1 * torch.randn(60, dtype=torch.float64)
    order = old.argsort()
    x, y = old[order].tolist(), new[order].tolist()

    def mean(first, last):
        return sum(y[first : last + 1]) / (last + 1 - first)

    fitted_y = [
        max(min(mean(first, last) for last in range(i, 60)) for first in range(i + 1))
        for i in range(60)
    ]
    assert len({round(value, 9) for value in fitted_y}) < 40  # there are blocks
    knots = _calibration.isotonic_knots(old, new)
    for value in set(fitted_y):
        block = [x[i] for i in range(60) if abs(fitted_y[i] - value) < 1e-12]
        middle = torch.tensor([sum(block) / len(block)], dtype=torch.float64)
        found = _calibration.interpolated(middle, knots).item()
        assert found == pytest.approx(value, abs=2e-3)
    wide = torch.linspace(-1.5, 1.5, 1000, dtype=torch.float64)
    assert bool((_calibration.interpolated(wide, knots).diff() > 0).all())  # no two are equal
    beyond = _calibration.interpolated(torch.tensor([1.2, 1.3], dtype=torch.float64), knots)
    assert float(beyond.diff()) == pytest.approx(0.1)


def test_interpolation_by_hand():
    knots = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.3, 0.9]])
    found = _calibration.interpolated(torch.tensor([[-1.0, 0.25], [0.75, 1.5]]), knots)
    torch.testing.assert_close(found, torch.tensor([[-0.8, 0.25], [0.6, 1.4]]))


def test_equal_scores_calibrate_to_a_shift():
    old, new = torch.full((50,), 0.4), torch.full((50,), 0.1)
    knots = _calibration.isotonic_knots(old, new)
    found = _calibration.interpolated(torch.tensor([0.4, 0.5]), knots)
    torch.testing.assert_close(found, torch.tensor([0.1, 0.2]), atol=1e-6, rtol=0)


def test_training_scores_are_of_pairs_and_never_of_an_item_with_itself():
    torch.manual_seed(0)
    pairs = bank(4, 6)
    old, new = _calibration.training_scores((pairs.old, pairs.old), (pairs.new, pairs.new), 50)
    assert len(old) == len(new) >= 50 * 10
    assert float(old.max()) < 1 - 1e-6  # that of an item with itself is 1
    every = {
        (round(a, 5), round(b, 5))
        for a, b in zip(
            (pairs.old @ pairs.old.T).flatten().tolist(),
            (pairs.new @ pairs.new.T).flatten().tolist(),
            strict=True,
        )
    }
    near = {(a + x / 1e5, b + y / 1e5) for a, b in every for x in (-1, 0, 1) for y in (-1, 0, 1)}
    near = {(round(a, 5), round(b, 5)) for a, b in near}
    told = zip(old.tolist(), new.tolist(), strict=True)
    assert all((round(a, 5), round(b, 5)) in near for a, b in told)


def test_calibrated_merge_maps_old_scores_to_the_scale_of_the_new():
    """The old model's cosines are squeezed by a shared direction; rank merge does not know."""
    torch.manual_seed(0)
    pairs = bank()
    common = functional.pad(pairs.old, (0, 1), value=1.0)
    squeezed = PairedEmbeddings(
        functional.normalize(common, dim=1), pairs.new, pairs.labels, pairs.new_head
    )
    method = fitted("calibrated_merge", squeezed, images=200)
    old = squeezed.old[:50].double() @ squeezed.old[50:].double().T
    new = pairs.new[:50].double() @ pairs.new[50:].double().T
    mapped, untouched = method.merge(old, new)
    assert untouched is new
    assert float((old - new).abs().mean()) > 4 * float((mapped - new).abs().mean())
    assert bool((mapped.flatten()[old.flatten().argsort()].diff() >= 0).all())


def test_calibrated_merge_and_cascade_ask_each_part_by_its_own_model():
    pairs = bank(4, 6)
    for name in ("calibrated_merge", "cascade"):
        method = make_method(name)
        assert asked(method, pairs) is pairs.old
        assert asked(method, pairs, "new") is pairs.new
    assert make_method("cascade", {"candidates": 7}).purchases == 7
    assert make_method("calibrated_merge").purchases == 0


PROJECTING = ("l2", "bct", "ract", "csd", "bc_aligner", "low_rank_adapter", "mlp_adapter")


@pytest.mark.parametrize("name", PROJECTING)
def test_projected_scores_are_calibrated_where_widths_differ_and_nowhere_else(name):
    small = {"epochs": 2} if name == "mlp_adapter" else {}
    pairs = bank(4, 6)
    method = fitted(name, pairs, **small)
    assert method.fits(4, 6)
    view = StoredEmbeddings(old=pairs.old, new=pairs.new)
    with torch.no_grad():
        scores = [
            functional.normalize(method.query(view, state).double(), dim=1)
            @ functional.normalize(method.gallery(view, state).double(), dim=1).T
            for state in ("old", "new")
        ]
        mapped, untouched = method.merge(*scores)
    assert untouched is scores[1]
    assert bool((mapped.flatten()[scores[0].flatten().argsort()].diff() >= 0).all())
    off = ~torch.eye(200, dtype=torch.bool)
    error, before = (float((s - scores[1])[off].square().mean()) for s in (mapped, scores[0]))
    assert error < before
    assert fitted(name, pairs, calibrated=False, **small).merge is None
    assert fitted(name, bank(6, 6), **small).merge is None
    assert make_method(name).merge is None  # nothing is prepared


@pytest.mark.parametrize("name", ["l2", "low_rank_adapter"])
def test_a_calibration_compares_queries_with_what_is_stored(monkeypatch, name):
    seen, pairs = [], bank(4, 6)
    original = _calibration.training_scores

    def spy(old, new, images):
        seen.append((old, new))
        return original(old, new, images)

    monkeypatch.setattr(_calibration, "training_scores", spy)
    method = fitted(name, pairs)
    view = StoredEmbeddings(old=pairs.old, new=pairs.new)
    with torch.no_grad():
        expected = [(method.query(view, s), method.gallery(view, s)) for s in ("old", "new")]
    for one, other in zip(seen[-1], expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(*expected[0])


def test_only_what_is_fitted_has_training_images_embedded():
    trained, bridge = make_method("ract"), make_method("low_rank_adapter")
    assert not trained.fits(6, 6)
    assert trained.fits(4, 6)
    assert not make_method("ract", {"calibrated": False}).fits(4, 6)
    assert bridge.fits(6, 6)
    assert make_method("bict").fits(6, 6)
    assert not make_method("independent").fits(4, 6)
    assert not make_method("cores").fits(0, 6)


# ------------------------------------------------------------------------------ mct and bict


def test_supervised_contrast_by_loops():
    torch.manual_seed(0)
    labels, logits = torch.tensor([0, 1, 0, 2]), torch.randn(4, 8)
    total = 0.0
    for i in range(4):
        others = [j for j in range(8) if j % 4 != i]
        normaliser = math.log(sum(math.exp(logits[i, j]) for j in others))
        same = [j for j in others if labels[j % 4] == labels[i]]
        total += sum(normaliser - logits[i, j].item() for j in same) / max(1, len(same))
    assert supervised_contrast(logits, labels).item() == pytest.approx(total / 4, rel=1e-5)


def test_mct_minimises_its_formula():
    torch.manual_seed(0)
    pairs = bank(4, 6)
    method = fitted("mct", pairs, epochs=1, weight=0.3, temperature=0.2)
    rows = torch.tensor([3, 8, 11, 40])  # two of class 3
    with torch.no_grad():
        raw = asked(method, pairs)[rows]
        moved = functional.normalize(raw, dim=1)
        old, new = pairs.old[rows], pairs.new[rows]
        error = sum(((raw[i] - old[i]) ** 2).sum().item() for i in range(4)) / (4 * 4)
        total = 0.0
        for i in range(4):
            others = [j for j in range(4) if j != i]
            scores = [(j, (moved[i] @ old[j]).item() / 0.2) for j in others]
            scores += [(j, (new[i] @ new[j]).item() / 0.2) for j in others]
            normaliser = math.log(sum(math.exp(score) for _, score in scores))
            same = [s for j, s in scores if pairs.labels[rows[j]] == pairs.labels[rows[i]]]
            total += sum(normaliser - s for s in same) / max(1, len(same))
        expected = error + 0.3 * total / 4
        assert method.fit_loss(pairs, rows).item() == pytest.approx(expected, rel=1e-5)


def test_bict_is_bct_with_a_gallery_that_is_moved():
    pairs = bank(4, 6)
    torch.manual_seed(0)
    method = fitted("bict", pairs, inner_width=64, epochs=120)
    with torch.no_grad():
        view = StoredEmbeddings(old=pairs.old)
        moved = method.gallery(view, "old")
    assert asked(method, pairs) is pairs.new
    assert functional.cosine_similarity(moved, pairs.new).mean() > 0.9
