"""Small examples whose losses, gradients and searches were worked out with pencil and paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch.nn import functional

from bench.plugins.registry import make_method
from bench.protocol import Context, PairedEmbeddings, Step, StoredEmbeddings

RIGHT, UP, LEFT = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def tried(name, new, old, labels, old_head=(RIGHT, UP), old_row=(0, 1), **options):
    """Terms of a method on a batch of plane vectors at temperature 1, and the new embeddings."""
    new = torch.tensor(new, requires_grad=True)
    old, labels = torch.tensor(old), torch.tensor(labels)
    context = Context(
        old_width=2,
        new_width=2,
        class_count=len(old_row),
        temperature=1.0,
        old_head=torch.tensor(old_head),
        old_row=torch.tensor(old_row),
        labels=labels,
        old_embeddings=old,
    )
    method = make_method(name, options)
    method.prepare(context)
    step = Step(
        images=torch.zeros(len(new), 3, 1, 1),
        rows=torch.arange(len(new)),
        labels=labels,
        new=new,
        new_head=torch.tensor([RIGHT, UP]),
        old_model=lambda images: old,
        context=context,
        progress=0.0,
        epoch=0,
    )
    return method.loss(step), new


def test_l2_of_a_right_angle_and_a_half_turn():
    terms, _ = tried("l2", [RIGHT, RIGHT], [UP, LEFT], [0, 1])
    assert terms["l2"].item() == pytest.approx((2 + 4) / 2 / 2)


def test_bct_of_embeddings_on_their_old_class_vectors():
    """Each logit is 1 for its own class and 0 for the other: −log(e / (e + 1))."""
    terms, _ = tried("bct", [RIGHT, UP], [RIGHT, UP], [0, 1])
    assert terms["bct"].item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_bct_gives_an_unseen_class_the_mean_old_embedding():
    """Class 1 is new to the old head [(1, 0)]; its row becomes (0, 1), the mean of its image."""
    terms, _ = tried("bct", [RIGHT, UP], [RIGHT, UP], [0, 1], old_head=[RIGHT], old_row=[0, -1])
    assert terms["bct"].item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_bct_may_leave_an_unseen_class_out():
    """What remains is one image against one class, which costs nothing."""
    terms, _ = tried(
        "bct", [RIGHT, UP], [RIGHT, UP], [0, 1], old_head=[RIGHT], old_row=[0, -1], unseen="drop"
    )
    assert terms["bct"].item() == pytest.approx(0)


def test_contrastive_of_two_classes_at_a_right_angle():
    """Positive e¹ against one old negative e⁰."""
    terms, _ = tried("contrastive", [RIGHT, UP], [RIGHT, UP], [0, 1], temperature=1.0)
    assert terms["contrastive"].item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_ract_of_two_classes_at_a_right_angle():
    """Positive e¹ against one old and one new negative, e⁰ each."""
    terms, _ = tried("ract", [RIGHT, UP], [RIGHT, UP], [0, 1], temperature=1.0)
    assert terms["ract"].item() == pytest.approx(math.log(1 + 2 * math.exp(-1)))


def test_ract_never_takes_the_same_class_as_a_negative():
    terms, _ = tried("ract", [RIGHT, UP], [RIGHT, UP], [0, 0], temperature=1.0)
    assert terms["ract"].item() == pytest.approx(0)


def test_ract_has_gradient_through_one_or_both_sides_of_the_new_to_new_similarity():
    """With q = e⁻¹/(1 + 2e⁻¹) on each negative, f₁ moves by ½[−2q·g₁ + q·g₂ + (q + q)·f₂].

    The last q comes from f₁ as a negative of f₂; as published, f₂ alone moves there. f is
    normalised again before it meets g, which takes the part along f off.
    """
    q = math.exp(-1) / (1 + 2 * math.exp(-1))
    for both, pushed in ((False, q), (True, 2 * q)):
        options = {"temperature": 1.0, "far_gradient": both}
        terms, new = tried("ract", [RIGHT, UP], [RIGHT, UP], [0, 1], **options)
        terms["ract"].backward()
        assert new.grad[0, 1].item() == pytest.approx((q + pushed) / 2)
        assert new.grad[1, 0].item() == pytest.approx((q + pushed) / 2)


def test_triplet_ract_adds_new_negatives_to_old_ones():
    """d⁺ = 0, d⁻ = √2 > margin for the old; made equal to the new image, d⁻ = 0 costs 0.8."""
    terms, _ = tried("triplet", [RIGHT, RIGHT], [RIGHT, RIGHT], [0, 1])
    assert terms["triplet"].item() == pytest.approx(0.8, abs=1e-5)
    terms, _ = tried("triplet_ract", [RIGHT, UP], [RIGHT, UP], [0, 1])
    assert terms["triplet_ract"].item() == pytest.approx(0)


def test_focal_distillation_weighs_by_the_old_model():
    """The old model is right about image 0 only: (6·2 + 1·2) / 2 images / 2 dimensions."""
    terms, _ = tried("focal_distillation", [UP, UP], [RIGHT, RIGHT], [0, 1])
    assert terms["focal_distillation"].item() == pytest.approx(3.5)


def test_mixing_replaces_a_share_of_the_batch_and_stops_its_gradient():
    terms, new = tried("mixbct", [UP] * 4, [RIGHT] * 4, [0] * 4, mixed=0.5, credible=1.0)
    terms["classification"].backward()
    assert (new.grad.abs().sum(1) == 0).sum() == 2
    kept, replaced = math.log(1 + math.exp(1)), math.log(1 + math.exp(-1))
    assert terms["classification"].item() == pytest.approx((kept + replaced) / 2)


# ---------------------------------------------------------------------- what is fitted afterwards


def bank(old_width=6, new_width=6, count=200):
    """New embeddings around five class vectors; old ones are a rotation of them with noise."""
    draw = torch.Generator().manual_seed(0)
    head = functional.normalize(torch.randn(5, new_width, generator=draw), dim=1)
    labels = torch.arange(count) % 5
    spread = 0.3 * torch.randn(count, new_width, generator=draw)
    new = functional.normalize(head[labels] + spread, dim=1)
    mixing = torch.linalg.qr(torch.randn(max(old_width, new_width), 99, generator=draw)).Q
    old = new @ mixing[:new_width, :old_width]
    old = functional.normalize(old + 0.05 * torch.randn(old.shape, generator=draw), dim=1)
    return PairedEmbeddings(old, new, labels, head)


def fitted(name, pairs, **options):
    method = make_method(name, options)
    method.prepare(
        Context(
            old_width=pairs.old.shape[1],
            new_width=pairs.new.shape[1],
            class_count=5,
            temperature=0.05,
            old_head=pairs.old[:5],
            old_row=torch.arange(5),
            labels=pairs.labels,
            old_embeddings=pairs.old,
            independent_embeddings=pairs.new,
            independent_head=pairs.new_head,
        )
    )
    method.fit(pairs)
    return method.eval()


def cross_similarity(method, pairs):
    """Mean cosine of an image's query with its own not yet backfilled entry."""
    with torch.no_grad():
        query = method.query(StoredEmbeddings(old=pairs.old, new=pairs.new), "old")
        gallery = method.gallery(StoredEmbeddings(old=pairs.old), "old")
    return functional.cosine_similarity(query, gallery).mean().item()


def test_procrustes_is_the_reference_solution():
    pairs = bank()
    reference, _ = orthogonal_procrustes(pairs.old.numpy(), pairs.new.numpy())
    np.testing.assert_allclose(fitted("procrustes", pairs).rotation, reference, atol=1e-5)


@pytest.mark.parametrize("widths", [(4, 6), (6, 4)])
def test_procrustes_between_unequal_widths_has_orthonormal_rows_or_columns(widths):
    rotation = fitted("procrustes", bank(*widths)).rotation
    narrow = rotation @ rotation.T if widths[0] < widths[1] else rotation.T @ rotation
    torch.testing.assert_close(narrow, torch.eye(4), atol=1e-5, rtol=0)


def test_low_rank_adapter_of_full_rank_is_least_squares():
    pairs = bank()
    method = fitted("low_rank_adapter", pairs)
    inputs = np.hstack([pairs.new.numpy(), np.ones((200, 1))])
    solution = np.linalg.lstsq(inputs, pairs.old.numpy(), rcond=None)[0]
    np.testing.assert_allclose(method.matrix, solution[:-1], atol=1e-4)
    np.testing.assert_allclose(method.shift, solution[-1], atol=1e-4)


@pytest.mark.parametrize("widths", [(6, 6), (4, 6), (6, 4)])
def test_low_rank_adapter_is_the_best_map_of_its_rank(widths):
    """No gradient descent over factors U, V from the solution, nor from elsewhere, beats it."""
    pairs = bank(*widths)
    method = fitted("low_rank_adapter", pairs, rank=2)
    assert torch.linalg.matrix_rank(method.matrix, atol=1e-4) == 2

    def error(matrix, shift):
        return (pairs.new @ matrix + shift - pairs.old).square().mean()

    best = error(method.matrix, method.shift).item()
    torch.manual_seed(0)
    factors = [torch.randn(widths[1], 2), torch.randn(2, widths[0]), torch.zeros(widths[0])]
    factors = [factor.requires_grad_() for factor in factors]
    optimizer = torch.optim.Adam(factors, lr=0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        loss = error(factors[0] @ factors[1], factors[2])
        loss.backward()
        optimizer.step()
    assert best <= loss.item() + 1e-6
    assert best == pytest.approx(loss.item(), rel=0.05)


@pytest.mark.parametrize("widths", [(6, 6), (6, 4)])
@pytest.mark.parametrize(
    ("name", "options", "at_least"),
    [
        ("procrustes", {}, 0.9),
        ("low_rank_adapter", {}, 0.9),
        ("mlp_adapter", {"epochs": 300, "learning_rate": 0.01}, 0.9),
        ("fct", {"inner_width": 64, "epochs": 120}, 0.9),
        ("fastfill", {"inner_width": 64, "epochs": 120}, 0.6),  # it is drawn to classes as well
    ],
)
def test_fitting_makes_old_and_new_comparable(name, options, at_least, widths):
    torch.manual_seed(0)
    pairs = bank(*widths)
    assert cross_similarity(fitted(name, pairs, **options), pairs) > at_least


def test_fastfill_minimises_its_formula():
    """½e^{−s}ℓ + ½s with ℓ = ‖h − φ‖² + smoothed cross-entropy, image by image."""
    pairs = bank()
    method = fitted("fastfill", pairs, inner_width=8, epochs=1)
    rows = torch.tensor([3, 11, 40])
    with torch.no_grad():
        terms = []
        for row in rows.tolist():
            hidden = method.transformation(pairs.old[row : row + 1])
            moved, s = method.to_new(hidden)[0], method.log_variance(hidden).item()
            logits = [(moved @ vector / vector.norm()).item() / 0.05 for vector in pairs.new_head]
            normaliser = math.log(sum(math.exp(logit) for logit in logits))
            losses = [normaliser - logit for logit in logits]
            smoothed = 0.9 * losses[pairs.labels[row]] + 0.1 * sum(losses) / len(losses)
            alignment = ((moved - pairs.new[row]) ** 2).sum().item() + smoothed
            terms.append(0.5 * math.exp(-s) * alignment + 0.5 * s)
        expected = sum(terms) / len(terms)
        assert method.fit_loss(pairs, rows).item() == pytest.approx(expected, rel=1e-5)


def test_fastfill_is_least_certain_of_what_it_fits_worst():
    """Half of the old embeddings are noise that says nothing of the new ones."""
    torch.manual_seed(0)
    pairs = bank(count=400)
    noise = functional.normalize(torch.randn(200, 6) + torch.tensor([4.0, 0, 0, 0, 0, 0]), dim=1)
    pairs = PairedEmbeddings(
        torch.cat([pairs.old[:200], noise]), pairs.new, pairs.labels, pairs.new_head
    )
    method = fitted("fastfill", pairs, inner_width=64, epochs=120)
    with torch.no_grad():
        uncertainty = method.uncertainty(StoredEmbeddings(old=pairs.old))
    assert uncertainty[200:].median() > uncertainty[:200].median()


# --------------------------------------------------------------------------- two models at once


@pytest.mark.parametrize("name", ["rank_merge", "reciprocal_rank_fusion"])
def test_each_part_of_the_gallery_is_asked_by_its_own_model(name):
    method, view = make_method(name), StoredEmbeddings(old=torch.eye(2), new=torch.eye(3))
    assert method.query(view, "old") is view.old
    assert method.query(view, "new") is view.new


def test_reciprocal_rank_fusion_interleaves_by_rank():
    """Ranks 2, 1, 3 among the old and 1, 2 among the new, whatever the scores' sizes."""
    old, new = make_method("reciprocal_rank_fusion").merge(
        torch.tensor([[0.2, 0.9, 0.1]]), torch.tensor([[0.05, 0.01]])
    )
    torch.testing.assert_close(old, torch.tensor([[1 / 62, 1 / 61, 1 / 63]]))
    torch.testing.assert_close(new, torch.tensor([[1 / 61, 1 / 62]]))


def test_reciprocal_rank_fusion_breaks_ties_by_item():
    old, _ = make_method("reciprocal_rank_fusion").merge(torch.zeros(1, 3), torch.zeros(1, 0))
    torch.testing.assert_close(old, 1 / torch.tensor([[61.0, 62.0, 63.0]]))


def test_methods_of_one_width_refuse_another_before_training():
    from bench.errors import BenchError

    pairs = bank(4, 6)
    with pytest.raises(BenchError, match="method 'nccl' needs old and new embeddings of one width"):
        fitted("nccl", pairs)
    with pytest.raises(BenchError, match="method 'mixbct' needs old and new embeddings of one"):
        fitted("mixbct", pairs)
    with pytest.raises(BenchError, match="method 'cores' shares one classifier between versions"):
        fitted("cores", pairs)
