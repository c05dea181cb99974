"""All that learns in one training, made from seeds: embedder, classifier and method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.protocol import Context, Method, PairedEmbeddings, Step
from bench.seeds import derive_seed
from bench.suites.schema import Recipe
from bench.training.models import Embedder, make_embedder, make_head


class Learner(nn.Module):
    """Everything that learns; its forward pass turns a batch into named loss terms."""

    def __init__(self, embedder: Embedder, head: nn.Parameter, method: Method) -> None:
        super().__init__()
        self.embedder, self.head, self.method = embedder, head, method
        self.gather: Callable[[Tensor], Tensor] = lambda part: part  # of a batch on one device
        self.epochs = 1  # of the training, which sets it
        self.inner_product = False  # classifies by cosines, unless the recipe says otherwise

    def forward(
        self,
        images: Tensor,
        rows: Tensor,
        labels: Tensor,
        context: Context,
        old_model: nn.Module | None,
        progress: float,
        epoch: int,
    ) -> dict[str, Tensor]:
        """Return scalar terms whose sum is the loss; `classification` is always among them."""
        raw = self.gather(self.embedder.raw(images))
        step = Step(
            images,
            rows,
            labels,
            functional.normalize(raw, dim=1),
            self.method.classifier(self.head),
            old_model,
            context,
            progress,
            epoch,
            self.gather,
            self.epochs,
            raw.norm(dim=1, keepdim=True) if self.inner_product else None,
        )
        terms = self.method.loss(step)
        return (
            terms if "classification" in terms else {"classification": step.classification, **terms}
        )


def make_learner(recipe: Recipe, seed: int, method: Method, classes: int) -> Learner:
    """Make embedder and classifier for a prepared method and seed torch for the training.

    Initial weights depend on recipe, seed and number of classes alone, never on the method.
    """
    learner = Learner(
        make_embedder(recipe, derive_seed("embedder", seed)),
        make_head(classes, recipe.width, derive_seed("head", seed), recipe.head),
        method,
    )
    learner.inner_product = recipe.head == "inner-product"
    torch.manual_seed(derive_seed("training", seed))
    return learner


def prepare_method(method: Method, context: Context, seed: int) -> Method:
    """Prepare a method on the context's device; its initial state depends on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("method", seed))
        method.prepare(context)
    return method.to(context.device)


def fit_method(method: Method, pairs: PairedEmbeddings, seed: int) -> None:
    """Fit a method on paired embeddings of the training images, reproducibly."""
    torch.manual_seed(derive_seed("fit", seed))
    method.fit(pairs)
