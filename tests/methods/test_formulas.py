"""Losses and gradients against a naive float64 recomputation, loop by loop from the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.authoring.toy_upgrade import CLASSES, SITUATIONS, Upgrade
from bench.plugins.registry import make_method

SCENES = {situation.name: situation for situation in SITUATIONS}
MIXED = SITUATIONS[0]
ALL_KNOWN = SCENES["every class known to the old model"]
NONE_KNOWN = SCENES["no class at all known to the old model"]
WIDER = SCENES["the new embedding wider than the old one"]
NARROWER = SCENES["the new embedding narrower than the old one"]
ONE_CLASS = SCENES["a batch of a single known class"]
EVERYWHERE = (MIXED, ALL_KNOWN, NONE_KNOWN, WIDER, NARROWER, ONE_CLASS)
EQUAL_WIDTHS = (MIXED, ALL_KNOWN, NONE_KNOWN, ONE_CLASS)
TAU = 0.05  # of the recipe


@pytest.fixture(autouse=True)
def _in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ---------------------------------------------------------------------------- naive arithmetic


def dot(left, right):
    total = torch.zeros(())
    for one, other in zip(left, right, strict=True):
        total = total + one * other
    return total


def unit(vector):
    return [entry / dot(vector, vector).sqrt() for entry in vector]


def cosine(left, right):
    return dot(unit(left), unit(right))


def distance(left, right):
    difference = [one - other for one, other in zip(left, right, strict=True)]
    return dot(difference, difference).sqrt()


def mean(values):
    values = list(values)
    return sum(values, torch.zeros(())) / len(values) if values else torch.zeros(())


def share(logits, target):
    """−log of the softmax of `logits` at `target`."""
    return -(logits[target].exp() / sum(logit.exp() for logit in logits)).log()


def cut(values, count, largest=True):
    return sorted(values, key=lambda value: value.item(), reverse=largest)[:count]


class Naive:
    """A batch as plain lists: new embeddings `f`, their old-space images `p`, old ones `g`."""

    def __init__(self, upgrade: Upgrade, step, method):
        self.f = step.new.detach().clone().requires_grad_()
        self.head = step.new_head.detach().clone().requires_grad_()
        self.g, self.y, self.rows = step.old, step.labels.tolist(), step.rows.tolist()
        self.batch, self.context, self.method = range(len(self.y)), upgrade.context, method
        self.progress = step.progress
        projection = getattr(getattr(method, "to_old", None), "weight", None)
        self.p = [
            unit(list(f) if projection is None else [dot(row, f) for row in projection])
            for f in self.f
        ]

    def far(self, j):
        """A new embedding as a negative: by default it stays where it is."""
        return self.f[j] if self.method.config.far_gradient else self.f[j].detach()

    def negatives(self, i):
        return [j for j in self.batch if self.y[j] != self.y[i]]

    def stored(self, i):
        return self.context.old_embeddings[self.rows[i]]

    def members(self, label):
        rows = [row for row, other in enumerate(self.context.labels.tolist()) if other == label]
        return [self.context.old_embeddings[row] for row in rows]

    def centre(self, label):
        members = self.members(label)
        return [mean(member[k] for member in members) for k in range(len(members[0]))]


def classification(naive):
    return mean(
        share([dot(naive.f[i], unit(row)) / TAU for row in naive.head], naive.y[i])
        for i in naive.batch
    )


# -------------------------------------------------------------------------- the methods' terms


def l2(naive):
    squares = [
        (a - b) ** 2 for i in naive.batch for a, b in zip(naive.p[i], naive.g[i], strict=True)
    ]
    return {"l2": mean(squares)}


def contrastive(naive, count=10, new_negatives=False, name="contrastive"):
    terms = []
    for i in naive.batch:
        positive = (dot(naive.p[i], naive.g[i]) / 0.01).exp()
        to_old = [dot(naive.p[i], naive.g[j]) for j in naive.negatives(i)]
        kept = cut(to_old, count)
        if new_negatives:
            kept += cut((dot(naive.f[i], naive.far(j)) for j in naive.negatives(i)), count)
        others = sum(((similarity / 0.01).exp() for similarity in kept), torch.zeros(()))
        terms.append(-(positive / (positive + others)).log())
    return {name: mean(terms)}


def ract(naive, count=10):
    return contrastive(naive, count, new_negatives=True, name="ract")


def influence(naive, unseen):
    """Rows of the extended old classifier, and each class's row in it."""
    rows = [list(row) for row in naive.context.old_head]
    targets = naive.context.old_row.tolist()
    for label in range(CLASSES):
        if targets[label] < 0 and unseen == "synthesise":
            targets[label] = len(rows)
            rows.append(naive.centre(label))
    return rows, targets


def bct(naive, unseen="synthesise"):
    rows, targets = influence(naive, unseen)
    return {
        "bct": mean(
            share([cosine(naive.p[i], row) / TAU for row in rows], targets[naive.y[i]])
            for i in naive.batch
            if targets[naive.y[i]] >= 0
        )
    }


def bct_ract(naive, unseen="synthesise"):
    rows, targets = influence(naive, unseen)
    terms = []
    for i in naive.batch:
        if targets[naive.y[i]] >= 0:
            logits = [cosine(naive.p[i], row) / TAU for row in rows]
            others = [row for label, row in enumerate(naive.head) if label != naive.y[i]]
            logits += [dot(naive.f[i], unit(row)) / TAU for row in others]
            terms.append(share(logits, targets[naive.y[i]]))
    return {"bct_ract": mean(terms)}


def margin_ranking(naive, count, left, right):
    violations = []
    for i in naive.batch:
        positive = distance(naive.p[i], naive.g[i])
        negatives = [distance(left[i], right[j]) for j in naive.negatives(i)]
        for negative in cut(negatives, count, largest=False):
            violation = 0.8 + positive - negative
            violations.append(violation if violation > 0 else torch.zeros(()))
    return mean(violations)


def triplet(naive, count=10):
    return {"triplet": margin_ranking(naive, count, naive.p, naive.g)}


def triplet_ract(naive, count=10):
    to_old = margin_ranking(naive, count, naive.p, naive.g)
    far = [naive.far(j) for j in naive.batch]
    return {"triplet_ract": to_old + margin_ranking(naive, count, naive.f, far)}


def aml(naive, count=5, margin=0.7):
    terms = []
    for i in naive.batch:
        drawn = [
            distance(naive.p[i], naive.g[j]) ** 2 for j in naive.batch if naive.y[j] == naive.y[i]
        ]
        others = cut((distance(naive.p[i], naive.g[j]) for j in naive.negatives(i)), count, False)
        pushed = [(margin - other) ** 2 for other in others if other < margin]
        terms.append(sum(drawn + pushed, torch.zeros(())) / 2)
    return {"aml": mean(terms)}


def lwf(naive, softening=1.0):
    terms = []
    for i in naive.batch:
        taught = [cosine(naive.g[i], row) / TAU / softening for row in naive.context.old_head]
        learnt = [cosine(naive.p[i], row) / TAU / softening for row in naive.context.old_head]
        answers = range(len(taught))
        terms += [(-share(taught, row)).exp() * share(learnt, row) for row in answers]
    return {"lwf": sum(terms) / len(naive.batch)}


def focal_distillation(naive):
    terms = []
    for i in naive.batch:
        answers = [cosine(naive.g[i], row).item() for row in naive.context.old_head]
        right = answers.index(max(answers)) == naive.context.old_row[naive.y[i]]
        width = len(naive.g[i])
        terms.append((6 if right else 1) * distance(naive.p[i], naive.g[i]) ** 2 / width)
    return {"focal_distillation": mean(terms)}


def lce(naive):
    weight = getattr(naive.method.to_old, "weight", None)
    squares, outside = [], []
    for label in range(CLASSES):
        row = unit(naive.head[label])
        moved = row if weight is None else unit([dot(line, row) for line in weight])
        centre = unit(naive.centre(label))
        squares += [(one - other) ** 2 for one, other in zip(moved, centre, strict=True)]
    for i in naive.batch:
        centre = unit(naive.centre(naive.y[i]))
        least = min(dot(member, centre) for member in naive.members(naive.y[i]))
        excess = least - dot(naive.p[i], centre)
        outside.append(excess if excess > 0 else torch.zeros(()))
    return {"alignment": 100 * mean(squares), "boundary": mean(outside)}


def nccl(naive):
    """With room for all, the queue is the batch and empty places of zeros."""
    empty = 20 - len(naive.y)
    head = [unit(row) for row in naive.head.detach()]
    old_logits = [[dot(naive.stored(i), row) / TAU for row in head] for i in naive.batch]
    new_logits = [[dot(f, unit(row)) / TAU for row in naive.head] for f in naive.f]

    def consensus(similarity):
        terms = []
        for i in naive.batch:
            everything = sum(similarity(i, j).exp() for j in naive.batch) + empty
            positives = [j for j in naive.batch if naive.y[j] == naive.y[i]]
            terms.append(
                -mean(
                    (1 + dot(naive.stored(i), naive.stored(j)))
                    / 2
                    * (similarity(i, j).exp() / everything).log()
                    for j in positives
                )
            )
        return mean(terms)

    return {
        "feature": consensus(lambda i, j: dot(naive.f[i], naive.stored(j))),
        "logit": 0.01 * consensus(lambda i, j: dot(new_logits[i], old_logits[j])),
    }


def mixbct(naive):
    credible, everything = [], naive.context.old_embeddings
    lengths = [dot(column, column).sqrt() for column in everything.T]

    def away(vector, centre):
        scaled = [(a - b) / c for a, b, c in zip(vector, centre, lengths, strict=True)]
        return dot(scaled, scaled)

    for i in naive.batch:
        centre, members = naive.centre(naive.y[i]), naive.members(naive.y[i])
        farther = [m for m in members if away(m, centre) > away(naive.stored(i), centre)]
        nearer_or_self = len(members) - len(farther)
        if nearer_or_self <= math.ceil(0.9 * len(members)):
            credible.append(i)
    torch.manual_seed(5)
    chosen = [credible[k] for k in torch.randperm(len(credible)).tolist()]
    chosen = chosen[: int(0.3 * len(naive.y))]
    terms = []
    for i in naive.batch:
        mixed = naive.stored(i) if i in chosen else naive.f[i]
        terms.append(share([dot(mixed, unit(row)) / TAU for row in naive.head], naive.y[i]))
    return {"classification": mean(terms)}


def simplex_rows(width):
    """Vertices built one after the other: −1/width to all earlier ones, the rest of length new."""
    rows = torch.zeros(width + 1, width)
    for vertex in range(width + 1):
        for axis in range(min(vertex, width)):
            known = dot(rows[vertex, :axis], rows[axis, :axis])
            rows[vertex, axis] = (-1 / width - known) / rows[axis, axis]
        if vertex < width:
            rows[vertex, vertex] = (1 - dot(rows[vertex, :vertex], rows[vertex, :vertex])).sqrt()
    return rows


def d_simplex_hoc(naive):
    terms = []
    for i in naive.batch:
        similarity = [
            10 * dot(naive.g[i], naive.f[j]) * (naive.y[i] != naive.y[j]) for j in naive.batch
        ]
        everything = sum(value.exp() for value in similarity).log()
        terms.append(everything - 10 * dot(naive.g[i], naive.f[i]))
    return {"classification": 0.1 * classification(naive), "higher_order": 0.9 * mean(terms)}


def bt2(naive):
    width = naive.context.independent_embeddings.shape[1]
    old_width, method = naive.context.old_width, naive.method
    terms = {"classification": [], "independent": [], "influence": [], "old": []}
    centres = [naive.centre(label) for label in range(CLASSES)]
    for i in naive.batch:
        own, extra = unit(naive.f[i][:width]), unit(naive.f[i][width:])
        rotated = [2 * dot(row, own) for row in method.rotate_new.weight.detach()]
        merged = [*extra, *rotated][:old_width]
        old = unit([dot(row, merged) for row in method.rotate_old.weight.detach()])
        logits = [dot(own, unit(row[:width])) / TAU for row in naive.head]
        influenced = [dot(old, centre) for centre in centres]
        target = naive.context.independent_embeddings[naive.rows[i]]
        terms["classification"].append(share(logits, naive.y[i]))
        terms["independent"].append(1 - cosine(own, target))
        terms["influence"].append(10 * share(influenced, naive.y[i]))
        terms["old"].append(5 * (1 - cosine(old, naive.stored(i))))
    return {name: mean(values) for name, values in terms.items()}


def radius(naive, label):
    centre = naive.centre(label)
    ordered = sorted(distance(member, centre).item() for member in naive.members(label))
    low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    inside = [r for r in ordered if abs(r - (low + high) / 2) <= 2 * (high - low)]
    return max(inside)


def advbct(naive):
    outside = []
    for i in naive.batch:
        label = naive.y[i]
        if naive.context.old_row[label] < 0:
            continue
        give = (1 - radius(naive, label)) / (1 + (-naive.method.elasticity[label].detach()).exp())
        excess = distance(naive.p[i], naive.centre(label)) - radius(naive, label) - give
        outside += [excess] if excess > 0 else []
    discriminator = [layer for layer in naive.method.discriminator if hasattr(layer, "weight")]
    first, _, last = discriminator

    def told(embeddings, answer):
        hidden = []
        for line, shift in zip(first.weight.detach(), first.bias.detach(), strict=True):
            unit_of_all = [dot(line, embedding) + shift for embedding in embeddings]
            centre = mean(unit_of_all)
            spread = (mean((value - centre) ** 2 for value in unit_of_all) + 1e-5).sqrt()
            hidden.append([((value - centre) / spread).relu() for value in unit_of_all])
        terms = []
        for i in naive.batch:
            features = [line[i] for line in hidden]
            logits = [
                dot(line, features) + shift
                for line, shift in zip(last.weight.detach(), last.bias.detach(), strict=True)
            ]
            terms.append(share(logits, answer))
        return mean(terms)

    to_new, to_old = told(naive.p, 0), told(naive.g, 1)
    reversal = -(2 / (1 + math.exp(-10 * naive.progress)) - 1)
    passed_on = to_new.detach() + reversal * (to_new - to_new.detach())
    return {
        "boundary": mean(outside),
        "adversary": (30 - int(30 * naive.progress) + 1) / 30 * (passed_on + to_old),
    }


def unibct(naive):
    """The graph series Σ (1−λ) λᵏ Eᵏ G, over the embeddings that the method saw before."""
    prototypes = []
    for label in range(CLASSES):
        rows = [row for row, y in enumerate(naive.context.labels.tolist()) if y == label]
        weights = []
        for row in rows:
            raw = [
                0.0
                if other == row
                else math.exp(dot(naive.seen[row], naive.seen[other]).item() / 0.05)
                for other in rows
            ]
            weights.append([value / sum(raw) for value in raw])
        neighbourhood, spread = torch.tensor(weights), torch.zeros(len(rows), naive.g.shape[1])
        power = naive.context.old_embeddings[rows]
        for _ in range(400):
            spread = spread + 0.1 * power
            power = 0.9 * neighbourhood @ power
        prototypes.append(spread.sum(0) / len(rows))
    terms = [
        share([cosine(naive.p[i], row) / TAU for row in prototypes], naive.y[i])
        for i in naive.batch
    ]
    return {"unibct": mean(terms)}


# ----------------------------------------------------------------------------------- the tests


def compared(name, situation, formula, options=None, progress=0.0, seen=False):
    """Assert that a method's terms and their gradients are those of the naive formula."""
    upgrade = Upgrade(lambda: make_method(name, options), situation)
    method = upgrade.method.train()
    memory = None
    if seen:  # a first step, which the method remembers
        first = upgrade.step((0.0, 0))
        method.loss(first)
        memory = torch.zeros(len(upgrade.labels), first.new.shape[1])
        memory[first.rows] = first.new.detach()
    step = upgrade.step((progress, int(30 * progress)))
    naive = Naive(upgrade, step, method)
    naive.seen = memory
    torch.manual_seed(5)
    terms = method.loss(step)
    expected = formula(naive)
    assert set(terms) == set(expected)
    for term, value in terms.items():
        assert value.item() == pytest.approx(expected[term].item(), abs=1e-9, rel=1e-9), term
        pairs = [(step.new, naive.f), (step.new_head, naive.head)]
        for real, copy in pairs:
            if real.requires_grad:
                torch.testing.assert_close(
                    gradient(value, real), gradient(expected[term], copy), atol=1e-9, rtol=1e-9
                )


def gradient(value: Tensor, source: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(source)
    (found,) = torch.autograd.grad(value, source, retain_graph=True, allow_unused=True)
    return torch.zeros_like(source) if found is None else found


@pytest.mark.parametrize("situation", EVERYWHERE, ids=lambda situation: situation.name)
@pytest.mark.parametrize(
    "formula",
    [
        *(l2, contrastive, ract, bct, bct_ract, triplet, triplet_ract, aml, lwf),
        *(focal_distillation, lce),
    ],
    ids=lambda formula: formula.__name__,
)
def test_formula(formula, situation):
    compared(formula.__name__, situation, formula)


@pytest.mark.parametrize("situation", EQUAL_WIDTHS, ids=lambda situation: situation.name)
@pytest.mark.parametrize("formula", [mixbct, bt2], ids=lambda formula: formula.__name__)
def test_formula_of_stored_embeddings(formula, situation):
    compared(formula.__name__, situation, formula)


@pytest.mark.parametrize("situation", EQUAL_WIDTHS, ids=lambda situation: situation.name)
def test_nccl(situation):
    compared("nccl", situation, nccl, {"queue": 20})


@pytest.mark.parametrize("situation", EQUAL_WIDTHS, ids=lambda situation: situation.name)
def test_d_simplex_hoc(situation):
    compared("d_simplex_hoc", situation, d_simplex_hoc)


@pytest.mark.parametrize("situation", [MIXED, WIDER, NARROWER], ids=lambda s: s.name)
@pytest.mark.parametrize("progress", [0.0, 0.2, 0.9])
def test_advbct(situation, progress):
    compared("advbct", situation, advbct, progress=progress)


@pytest.mark.parametrize("situation", [MIXED, WIDER, NARROWER], ids=lambda s: s.name)
def test_unibct_after_a_refinement(situation):
    compared("unibct", situation, unibct, progress=0.5, seen=True)


def test_unibct_waits_for_its_first_refinement():
    compared("unibct", MIXED, lambda naive: {"unibct": torch.zeros(())}, progress=0.2)


@pytest.mark.parametrize("situation", [MIXED, NONE_KNOWN, ONE_CLASS], ids=lambda s: s.name)
@pytest.mark.parametrize("formula", [bct, bct_ract], ids=lambda formula: formula.__name__)
def test_dropping_unseen_classes(formula, situation):
    compared(formula.__name__, situation, lambda naive: formula(naive, "drop"), {"unseen": "drop"})


@pytest.mark.parametrize(
    "formula", [contrastive, ract, triplet, triplet_ract], ids=lambda formula: formula.__name__
)
def test_only_the_hardest_negatives_count(formula):
    compared(formula.__name__, MIXED, lambda naive: formula(naive, 2), {"negatives": 2})


@pytest.mark.parametrize("formula", [ract, triplet_ract], ids=lambda formula: formula.__name__)
def test_new_negatives_may_be_pushed_as_well(formula):
    compared(formula.__name__, MIXED, formula, {"far_gradient": True})


def test_softening_in_lwf():
    compared("lwf", MIXED, lambda naive: lwf(naive, 2.0), {"softening": 2.0})


@pytest.mark.parametrize("width", [1, 2, 5, 16])
def test_simplex(width):
    """The vertices differ from the naive ones by a rotation: equal in all inner products."""
    from methods._simplex import simplex

    rows = simplex_rows(width)
    torch.testing.assert_close(simplex(width) @ simplex(width).T, rows @ rows.T)
    assert torch.linalg.matrix_rank(simplex(width)) == width


def test_nccl_forgets_the_oldest():
    upgrade = Upgrade(lambda: make_method("nccl", {"queue": 10}), MIXED)
    for _ in range(2):
        step = upgrade.step()
        upgrade.method.loss(step)
    labels = step.labels.tolist()
    assert upgrade.method.label_queue.tolist() == [*labels[2:], *labels[6:], *labels[:2]]
