"""Losses and gradients against the arithmetic of public code, written a second time.

Of OpenCompatible, of D3still for `csd` and `d3still`, and of bc-emb. What OpenCompatible's code
does and our files do otherwise: a mask of 10⁹ stands for what is no negative, cross-entropy with
target 0 for the contrast, a mean over all kept places for the ranking, and new embeddings gathered
over devices have no gradient. Its inputs are un-normalised. D3still's code sorts all similarities,
weighs every pair of neighbours by 0 or 1, and puts 1 where a difference is 0.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bench.plugins.registry import make_method
from bench.protocol import Context, Step

IMAGES, WIDTH, CLASSES, KEPT, MASK = 40, 16, 8, 10, 1e9


@pytest.fixture(autouse=True)
def _in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def contrast(new, old, gathered, same, kinds):
    own = torch.einsum("bd,bd->b", new, old)[:, None]
    others = [(new @ other.T - MASK * same).topk(KEPT).values for other in kinds(old, gathered)]
    logits = torch.cat([own, *others], dim=1) / 0.01
    return functional.cross_entropy(logits, torch.zeros(IMAGES, dtype=torch.int64))


def ranking(new, old, gathered, same, kinds):
    own = (new - old).square().sum(1).sqrt()[:, None].expand(-1, KEPT)
    total = torch.zeros(())
    for other in kinds(old, gathered):
        far = (torch.cdist(new, other) + MASK * same).topk(KEPT, largest=False).values
        total = total + functional.margin_ranking_loss(
            far, own, torch.ones_like(own), margin=0.8, reduction="mean"
        )
    return total


def similarities(new, old):
    """Old similarities of every image to the batch, best first, and the new ones beside them."""
    taught, rows = torch.sort(old @ old.T, dim=1, descending=True)
    return taught, torch.gather(new @ old.T, 1, rows)


def contextual(new, old, gathered, same, neighbours=256):
    taught, learnt = (part[:, :neighbours] for part in similarities(new, old))
    wanted, found = functional.softmax(taught / 0.01, 1), functional.log_softmax(learnt, 1)
    return 10 * functional.kl_div(found, wanted, reduction="sum") / IMAGES


def differential(new, old, gathered, same):
    taught, learnt = similarities(new, old)
    own = 100 * torch.norm(taught[:, 0] - learnt[:, 0], p=2) / IMAGES
    pairs = [part[:, 1:KEPT] for part in (taught, learnt)]
    wanted, found = ((p[:, None] - p[:, :, None]).reshape(IMAGES, -1) for p in pairs)
    wanted = torch.where(wanted == 0, 1.0, wanted)
    sign = torch.sign(found / wanted).detach()
    found = torch.where(found == 0, 1.0, found)
    change = (found - wanted) / (0.1 + wanted.abs())
    wrong, right = (
        torch.norm((sign == side) * change, p=2, dim=1).mean() / (KEPT - 1) for side in (-1, 1)
    )
    return own + 5 * wrong + 1 * right


def only_old(old, gathered):
    return [old]


def both(old, gathered):
    return [old, gathered]


PUBLISHED = {
    "l2": lambda new, old, gathered, same: functional.mse_loss(new, old),
    "contrastive": lambda *given: contrast(*given, only_old),
    "ract": lambda *given: contrast(*given, both),
    "triplet": lambda *given: ranking(*given, only_old),
    "triplet_ract": lambda *given: ranking(*given, both),
    "csd": contextual,
    "d3still": differential,
}


def prepared(name, options, new, old, labels):
    """A method and its step on a batch of old and new embeddings."""
    context = Context(
        old_width=old.shape[1],
        new_width=new.shape[1],
        class_count=CLASSES,
        temperature=0.05,
        old_head=torch.randn(CLASSES, old.shape[1]),
        old_row=torch.arange(CLASSES),
        labels=labels,
        old_embeddings=old,
    )
    method = make_method(name, options)
    method.prepare(context)
    return method, Step(
        images=torch.zeros(IMAGES, 3, 1, 1),
        rows=torch.arange(IMAGES),
        labels=labels,
        new=new,
        new_head=torch.randn(CLASSES, WIDTH),
        old_model=lambda images: old,
        context=context,
        progress=0.0,
        epoch=0,
    )


AS_GATHERED = [(name, {}) for name in PUBLISHED]
# As on one device, which has nothing to gather.
ALONE = [(name, {"far_gradient": True}) for name in ("ract", "triplet_ract")]


@pytest.mark.parametrize(("name", "options"), [*AS_GATHERED, *ALONE, ("csd", {"neighbours": 12})])
def test_loss_and_gradient_are_those_of_the_public_code(name, options):
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (IMAGES,))
    old = functional.normalize(torch.randn(IMAGES, WIDTH), dim=1)
    raw = torch.randn(IMAGES, WIDTH, requires_grad=True)
    new = functional.normalize(raw, dim=1)
    method, step = prepared(name, options, new, old, labels)
    ours = sum(method.loss(step).values(), torch.zeros(()))
    gathered = new if options.get("far_gradient") else new.detach()
    count = [options["neighbours"]] if "neighbours" in options else []
    published = PUBLISHED[name](new, old, gathered, (labels[:, None] == labels).double(), *count)
    found, expected = (
        torch.autograd.grad(loss, raw, retain_graph=True)[0] for loss in (ours, published)
    )
    torch.testing.assert_close(ours, published, atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("old_width", [WIDTH, 9])
def test_bc_aligner_is_the_single_step_loss_of_bc_emb(old_width):
    """The difference of a linear map, squared and averaged; the map learns by it too."""
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (IMAGES,))
    old = functional.normalize(torch.randn(IMAGES, old_width), dim=1)
    new = functional.normalize(torch.randn(IMAGES, WIDTH), dim=1).requires_grad_()
    method, step = prepared("bc_aligner", {}, new, old, labels)
    ours = method.loss(step)["bc_aligner"]
    weight = method.to_old.weight.detach().clone().requires_grad_()
    published = 16 * torch.mean((old - functional.linear(new, weight)) ** 2)
    torch.testing.assert_close(ours, published, atol=1e-13, rtol=1e-13)
    found = torch.autograd.grad(ours, [new, method.to_old.weight])
    expected = torch.autograd.grad(published, [new, weight])
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=1e-12)
