"""Losses over classes and stored embeddings against the arithmetic of public code, written anew.

What is compared is what that code computes on the same float64 numbers: with its inner products of
un-normalised embeddings where ours takes them too, its loops over images, its convolutions. Where
ours differs on purpose the difference is named here and undone on one side.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import normalize
from torch import Tensor, nn
from torch.nn import functional

from bench.plugins.registry import make_method
from bench.protocol import Context, Method, Step

STORED, IMAGES, WIDTH, CLASSES = 120, 40, 16, 8
PLACES = [2, -1, 0, 5, 4, -1, 1, 3]  # of each class in the old classifier, which saw six


@pytest.fixture(autouse=True)
def _in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclass
class Trial:
    """A method and what it compares; `raw` is learned, `rows` are the batch's among the stored."""

    method: Method
    step: Step
    context: Context
    raw: Tensor
    raw_old: Tensor
    head: Tensor
    old_head: Tensor

    @property
    def new(self):
        return functional.normalize(self.raw, dim=1)

    @property
    def y(self):
        return self.step.labels.tolist()

    @property
    def stored(self):
        return self.context.old_embeddings[self.step.rows]


class OldModel:
    def __init__(self, raw):
        self.raw = lambda images: raw
        self.embed = lambda: functional.normalize(raw, dim=1)

    def __call__(self, images):
        return self.embed()


def trial(name, options=None, places=PLACES, products=False, **known: Any) -> Trial:
    """Set up `name`; `products` takes inner products of un-normalised embeddings for logits."""
    torch.manual_seed(0)
    all_labels = torch.randperm(STORED) % CLASSES
    rows = torch.randperm(STORED)[:IMAGES]
    extra, spread = known.pop("extra", 0), known.pop("spread", 1.0)
    raw = (2 * torch.randn(IMAGES, WIDTH + extra)).requires_grad_()
    raw_old = 3 * torch.randn(IMAGES, WIDTH)
    head = torch.randn(CLASSES, WIDTH + extra, requires_grad=True)
    old_head = torch.randn(max(places) + 1, WIDTH)
    context = Context(
        old_width=WIDTH,
        new_width=WIDTH + extra,
        class_count=CLASSES,
        temperature=0.05,
        old_head=old_head,
        old_row=torch.tensor(places),
        labels=all_labels,
        old_embeddings=functional.normalize(spread * torch.randn(STORED, WIDTH), dim=1),
        class_ids=torch.arange(CLASSES),
        dataset_classes=CLASSES,
        **{key: known.pop(key) for key in ("independent_embeddings",) if key in known},
    )
    method = make_method(name, options or {})
    method.prepare(context)
    step = Step(
        images=torch.zeros(IMAGES, 3, 1, 1),
        rows=rows,
        labels=all_labels[rows],
        new=functional.normalize(raw, dim=1),
        new_head=method.classifier(head),
        old_model=OldModel(raw_old),
        context=context,
        lengths=raw.norm(dim=1, keepdim=True) if products else None,
        **{"progress": 0.0, "epoch": 0, **known},
    )
    return Trial(method, step, context, raw, raw_old, head, old_head)


def same(ours: Tensor, theirs: Tensor, *learned: Tensor, digits: float = 1e-12) -> None:
    """Assert that two losses and their gradients into what is learned are equal."""
    torch.testing.assert_close(ours, theirs, atol=digits, rtol=digits)
    for one in learned:
        found, expected = (
            torch.autograd.grad(loss, one, retain_graph=True)[0] for loss in (ours, theirs)
        )
        assert expected.abs().max() > 1e-6
        torch.testing.assert_close(found, expected, atol=digits, rtol=digits)


def total(tried: Trial) -> tuple[Tensor, dict[str, Tensor]]:
    """The method's terms, and their sum with the loop's classification."""
    terms = tried.method.loss(tried.step)
    return sum({"classification": tried.step.classification, **terms}.values()), terms


# ------------------------------------------------------------------ the old classifier, openBCT


def test_bct_is_the_loss_of_openbct():
    """main.py: images whose class has a place in the old classifier, chosen one by one."""
    tried = trial("bct", {"unseen": "drop"}, products=True)
    chosen = [place for place, label in enumerate(tried.y) if PLACES[label] >= 0]
    targets = torch.tensor([PLACES[tried.y[place]] for place in chosen])
    output, old_output = tried.raw @ tried.head.T, tried.raw @ tried.old_head.T
    theirs = functional.cross_entropy(output, tried.step.labels) + functional.cross_entropy(
        old_output[chosen], targets
    )
    same(total(tried)[0], theirs, tried.raw, tried.head)


def test_lwf_is_the_loss_of_openbct():
    tried = trial("lwf", products=True)
    pseudo = functional.softmax(tried.raw_old @ tried.old_head.T, dim=1)
    learnt = functional.log_softmax(tried.raw @ tried.old_head.T, dim=1)
    same(tried.method.loss(tried.step)["lwf"], -torch.sum(learnt * pseudo) / IMAGES, tried.raw)


def test_bct_ract_is_the_loss_of_opencompatible():
    """trainer.py, where all classes are old and numbered alike."""
    tried = trial("bct_ract", places=list(range(CLASSES)), products=True)
    masks = functional.one_hot(tried.step.labels, num_classes=CLASSES)
    masked = tried.raw @ tried.head.T - masks * 1e9
    both = torch.cat((tried.raw @ tried.old_head.T, masked), 1)
    theirs = functional.cross_entropy(both, tried.step.labels)
    same(tried.method.loss(tried.step)["bct_ract"], theirs, tried.raw, tried.head)


def test_focal_distillation_is_opencompatibles_distance_weighted_as_in_pct():
    """trainer.py, `fd`, between unit vectors; main.py of PCT asks whether the *old* model is right.

    PCT halves its distance, which is between logits.
    """
    tried = trial("focal_distillation", places=list(range(CLASSES)), products=True)
    right = torch.argmax(tried.raw_old @ tried.old_head.T, dim=1) == tried.step.labels
    distance = functional.mse_loss(
        tried.new, functional.normalize(tried.raw_old, dim=1), reduction="none"
    ).mean(dim=1)
    theirs = torch.mul(distance, 5 * right + 1).mean()
    assert 0 < int(right.sum()) < IMAGES
    same(tried.method.loss(tried.step)["focal_distillation"], theirs, tried.raw)


# -------------------------------------------------------------- classes and stored embeddings


def test_aml_is_the_contrastive_loss_of_its_code_over_tuples():
    """functional.py packs tuples (query, positives, negatives) of one size in columns.

    Its batch has equally many images of each class here. It sums over tuples and adds 10⁻⁶ to every
    difference before it takes a distance.
    """
    tried = trial("aml", {"margin": 1.4})
    labels = torch.arange(IMAGES) % CLASSES
    tried.step.labels = labels
    old = functional.normalize(tried.raw_old, dim=1)
    columns, marks = [], []
    for image, new in enumerate(tried.new):
        others = (labels != labels[image]).nonzero().flatten().tolist()
        hard = sorted(others, key=lambda j: (new - old[j]).norm().item())[:5]
        positives = (labels == labels[image]).nonzero().flatten().tolist()
        columns += [new, *old[positives], *old[hard]]
        marks += [-1, *[1] * len(positives), *[0] * len(hard)]
    x, mark = torch.stack(columns, dim=1), torch.tensor(marks)
    size = x.size(1) // IMAGES
    asked = x[:, ::size].T.repeat(1, size - 1).view((size - 1) * IMAGES, WIDTH).T
    distance = (asked - x[:, mark != -1] + 1e-6).pow(2).sum(dim=0).sqrt()
    mark = mark[mark != -1]
    theirs = 0.5 * mark * distance**2
    theirs = theirs + 0.5 * (1 - mark) * torch.clamp(1.4 - distance, min=0) ** 2
    same(tried.method.loss(tried.step)["aml"], theirs.sum() / IMAGES, tried.raw, digits=1e-5)


def test_lce_is_the_loss_of_its_code_without_transformations():
    """main.py: centres and least cosines are written down class by class, in numpy."""
    tried = trial("lce")
    members = defaultdict(list)
    for feature, label in zip(tried.context.old_embeddings, tried.context.labels, strict=True):
        members[int(label)].append(feature.numpy())
    centres, least = [], []
    for label in range(CLASSES):
        centre = np.mean(np.array(members[label]), axis=0)
        centres.append(centre / np.linalg.norm(centre))
        least.append(min(np.dot(members[label], centres[-1])))
    old, bound = torch.tensor(np.array(centres)), torch.tensor(least)
    align = functional.mse_loss(functional.normalize(tried.head), old)
    cosine = torch.mm(tried.new, old.t()).clamp(-1, 1)
    own = torch.sum(functional.one_hot(tried.step.labels, CLASSES) * cosine, dim=1)
    beyond = (bound[tried.step.labels] - own).clamp(0)
    terms = tried.method.loss(tried.step)
    same(terms["alignment"], 100 * align, tried.head)
    same(terms["boundary"], beyond.mean(), tried.raw)


def test_nccl_is_the_third_partys_loss_of_the_same_logits():
    """compatible_learning_loss.py puts one item after the other into its queues.

    Its logits are clamped and scaled and have a margin; here both sides take those of the recipe.
    """
    options = {"queue": 60, "temperature": 0.7, "feature": 1.0, "logit": 1.0}
    tried = trial("nccl", options)
    place, marks = 0, torch.full((60,), -1)
    features, logits = torch.zeros(60, WIDTH), torch.zeros(60, CLASSES)
    classes = functional.normalize(tried.head, dim=1)
    for _ in range(2):  # the second batch writes over a part of the first
        ours = tried.method.loss(tried.step)
        for one, label in zip(tried.stored, tried.step.labels, strict=True):
            features[place], marks[place] = one, label
            logits[place] = (classes @ one).detach() / 0.05
            place = (place + 1) % 60
        positive = marks == tried.step.labels.reshape(-1, 1)
        weight = 0.5 * (tried.stored @ features.t() + 1)
        theirs = []
        for found in (
            tried.new.mm(features.t()),
            (tried.new @ classes.T / 0.05).mm(logits.t()),
        ):
            scaled = found / 0.7
            scaled = scaled - torch.max(scaled, dim=1, keepdim=True)[0].detach()
            chances = scaled - torch.log(torch.exp(scaled).sum(1, keepdim=True))
            agreed = (positive * chances * weight).sum(1) / positive.sum(1)
            theirs.append(-agreed.mean())
        same(ours["feature"], theirs[0], tried.raw)
        same(ours["logit"], theirs[1], tried.raw, tried.head)


def test_mixbct_believes_and_replaces_as_its_code_does():
    """denoise_credible.py goes through each class's rows; train.py replaces int(.3 B) images.

    Before it measures, every dimension is scaled to length one over the dataset.
    """
    tried = trial("mixbct", spread=torch.logspace(-1, 1, WIDTH))
    data = normalize(normalize(tried.context.old_embeddings.numpy()), axis=0)
    believed = np.zeros(STORED, dtype=bool)
    for label in range(CLASSES):
        rows = np.flatnonzero(tried.context.labels.numpy() == label)
        away = np.linalg.norm(data[rows] - data[rows].mean(axis=0, keepdims=True), axis=1)
        believed[rows[np.argsort(away)[: math.ceil(0.9 * len(rows))]]] = True
    assert tried.method.credible.tolist() == believed.tolist()
    ours = tried.method.loss(tried.step)["classification"]
    gradient = torch.autograd.grad(ours, tried.raw, retain_graph=True)[0]
    replaced = (gradient == 0).all(1)
    assert int(replaced.sum()) == int(IMAGES * 0.3)
    assert believed[tried.step.rows[replaced].numpy()].all()
    mixed = torch.where(replaced[:, None], tried.stored, tried.new)
    logits = mixed @ functional.normalize(tried.head, dim=1).T / 0.05
    same(ours, functional.cross_entropy(logits, tried.step.labels), tried.raw, tried.head)


def test_d_simplex_hoc_is_the_loss_of_its_code():
    """train.py and hoc.py of iamcl2r, inner products with the fixed classifier included."""
    tried = trial("d_simplex_hoc", products=True)
    old, labels = functional.normalize(tried.raw_old, dim=1), tried.step.labels
    similarity = torch.einsum("nc,mc->nm", old, tried.new) * 10
    own = -similarity[torch.eye(IMAGES, dtype=torch.bool)]
    alike = labels.unsqueeze(1).expand(-1, IMAGES) == labels.unsqueeze(0).expand(IMAGES, -1)
    added = (own + torch.logsumexp(similarity * ~alike, dim=1)).mean()
    base = functional.cross_entropy(tried.raw @ tried.method.vertices.T, labels)
    ours = sum(tried.method.loss(tried.step).values())
    same(ours, base * 0.1 + (1 - 0.1) * added, tried.raw)


@pytest.mark.parametrize("extra", [5, 12])
def test_bt2_is_the_loss_of_its_code(extra):
    """ResNet50_ortho: [e ; P(C f)] is cut before its last `extra` dimensions, the rest rotated."""
    independent = functional.normalize(torch.randn(STORED, WIDTH), dim=1)
    tried = trial("bt2", extra=extra, independent_embeddings=independent)
    method, labels = tried.method, tried.step.labels
    features = functional.normalize(tried.raw[:, :WIDTH])
    old_features = functional.normalize(tried.raw[:, WIDTH:])
    joined = torch.cat([old_features, method.rotate_new(2 * features)], dim=1)
    bct = functional.normalize(method.rotate_old(joined[:, :-extra]))
    pseudo = torch.zeros(CLASSES, WIDTH)
    for feature, label in zip(tried.context.old_embeddings, tried.context.labels, strict=True):
        pseudo[label] += feature
    pseudo /= torch.bincount(tried.context.labels)[:, None]
    wanted = independent[tried.step.rows]
    added = 5 * (1 - torch.mean(torch.sum(tried.stored * bct, dim=1)))
    added = added + 1 * (1 - torch.mean(torch.sum(wanted * features, dim=1)))
    added = added + 10 * functional.cross_entropy(bct @ pseudo.transpose(0, 1), labels)
    terms = method.loss(tried.step)
    terms.pop("classification")  # of the recipe's logits
    turned = list(method.parameters())
    same(sum(terms.values()), added, tried.raw, *turned)


def test_advbct_is_the_loss_of_its_code():
    """trainer.py bounds image by image what the old model saw, after extract_feat.py's radii.

    Its discriminator is fed un-normalised embeddings, and its radii are those of the old model's
    training images; here both sides take unit vectors and all images.
    """
    tried = trial("advbct", {"threshold": 0.9}, progress=0.4, epoch=12, epochs=30)
    method, centres, radii = tried.method, {}, {}
    for label in range(CLASSES):
        if PLACES[label] < 0:
            continue
        members = tried.context.old_embeddings[tried.context.labels == label].numpy()
        centres[label] = torch.tensor(members.mean(0))
        spread = sorted(float(np.linalg.norm(one - members.mean(0))) for one in members)
        high, low = spread[int(3 * len(spread) / 4)], spread[int(len(spread) / 4)]
        reach = 1.5 * (high - low)
        radii[label] = max(r for r in spread if low - reach <= r <= high + reach)
    limit, count = torch.zeros(()), 0
    for new, label in zip(tried.new, tried.y, strict=True):
        if label in centres:
            give = abs(radii[label] - 0.9) * torch.sigmoid(method.elasticity[label])
            radius = radii[label] + give if radii[label] < 0.9 else radii[label] - give
            excess = torch.norm(new - centres[label], p=2) - radius
            if excess > 0:
                limit, count = limit + excess, count + 1
    assert 0 < count < IMAGES
    p = (12 + 0.0) / 30
    alpha = 2 / (1 + np.exp(-10 * p)) - 1
    fed = tried.new.detach() * (1 + alpha) - alpha * tried.new  # −α of the gradient
    told = [
        functional.nll_loss(
            functional.log_softmax(method.discriminator(vectors), dim=1),
            torch.full((IMAGES,), side),
        )
        for side, vectors in enumerate((fed, functional.normalize(tried.raw_old, dim=1)))
    ]
    theirs = limit / count + sum(told) * (30 - 12 + 1) / 30
    ours = sum(method.loss(tried.step).values())
    weights = [layer.weight for layer in method.discriminator if hasattr(layer, "weight")]
    same(ours, theirs, tried.raw, method.elasticity, *weights)


def test_unibct_is_the_third_partys_refinement_with_rows_for_columns():
    """refine_prototype.py normalises over columns, which leaves the plain means, as seen here."""
    tried = trial("unibct", progress=0.5)
    method, latest = tried.method, functional.normalize(torch.randn(STORED, WIDTH), dim=1)
    method.latest.copy_(latest)

    def prototypes(axis):
        found = torch.zeros(CLASSES, WIDTH)
        for label in range(CLASSES):
            rows = tried.context.labels == label
            edges = torch.mm(latest[rows], latest[rows].t()) / 0.05
            identity = torch.eye(edges.size(0))
            edges.masked_fill_(identity.bool(), -1e9)
            edges = torch.softmax(edges, dim=axis)
            edges = (1 - 0.9) * torch.inverse(identity - 0.9 * edges)
            found[label] = torch.mean(torch.mm(edges, tried.context.old_embeddings[rows]), dim=0)
        return found

    torch.testing.assert_close(prototypes(0), tried.context.old_centres)
    assert not torch.allclose(prototypes(1), tried.context.old_centres, atol=1e-3)
    ours = method.loss(tried.step)["unibct"]
    classes = functional.normalize(prototypes(1), dim=1)
    theirs = functional.cross_entropy(tried.new @ classes.T / 0.05, tried.step.labels)
    same(ours, theirs, tried.raw, digits=1e-11)


# ----------------------------------------------------------------------------------- networks


def test_fct_is_the_network_of_its_code():
    """transformations.py of ml-fct: 1 × 1 convolutions of a 1 × 1 image, and two branches."""

    def convolution(linear, normaliser):
        made = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=normaliser is None)
        weights = {"weight": linear.weight[:, :, None, None]}
        made.load_state_dict(weights if normaliser else {**weights, "bias": linear.bias})
        if normaliser is None:
            return [made]
        norm = nn.BatchNorm2d(linear.out_features)
        norm.load_state_dict(normaliser.state_dict())
        return [made, norm, nn.ReLU()]

    tried = trial("fct", {"inner_width": 24})
    ours = tried.method
    for norm in (part for part in ours.modules() if isinstance(part, nn.BatchNorm1d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
    layers = ours.transformation
    branches = [
        nn.Sequential(*[part for layer in branch for part in convolution(layer[0], layer[1])])
        for branch in (layers.embedding, layers.side)
    ]
    mixer = [part for layer in layers.mixer for part in convolution(layer[0], layer[1])]
    mixer = nn.Sequential(*mixer, *convolution(ours.to_new, None))
    assert [layer.out_features for layer in ours.modules() if isinstance(layer, nn.Linear)] == [
        *[2 * WIDTH] * 4,
        *[24] * 2,
        WIDTH,
    ]
    old, wanted = tried.context.old_embeddings, functional.normalize(torch.randn(STORED, WIDTH))
    for training in (True, False):
        for network in (ours, mixer, *branches):
            network.train(training)
        images = old[:, :, None, None]
        moved = mixer(torch.cat([branch(images) for branch in branches], dim=1)).flatten(1)
        found = ours.to_new(ours.transformation(old))
        torch.testing.assert_close(found, moved, atol=1e-12, rtol=1e-12)
        same(functional.mse_loss(found, wanted), nn.MSELoss()(wanted, moved))
