"""The fixed d-simplex classifier that `cores` and `d_simplex_hoc` share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bench.errors import BenchError
from bench.protocol import Context, Method


def simplex(width: int) -> Tensor:
    """Unit vectors [width + 1, width] to the vertices of a regular simplex around the origin."""
    corner = torch.full((1, width), (1 - (1 + width) ** 0.5) / width)
    vertices = torch.cat([torch.eye(width), corner])
    return functional.normalize(vertices - vertices.mean(0), dim=1)


class OnSimplex(Method):
    """Base of methods whose old and new models share one fixed classifier.

    An embedding of width D has the D + 1 vertices of a simplex; each class of the dataset, old,
    new or to come, has its own vertex from the start. Nothing else ties the versions together.
    """

    trains_old = True
    vertices: Tensor

    def prepare(self, context: Context) -> None:
        """Assign each class its vertex."""
        name = type(self).__module__.rpartition(".")[2]
        if context.old_width not in (0, context.new_width):
            raise BenchError(
                f"method '{name}' shares one classifier between versions, but the old embeddings "
                f"have {context.old_width} dimensions and the new ones {context.new_width}; leave "
                "it out of this scenario"
            )
        if context.dataset_classes > context.new_width + 1:
            raise BenchError(
                f"method '{name}' needs a vertex for each of the {context.dataset_classes} classes "
                f"but embeddings of width {context.new_width} have {context.new_width + 1}; set "
                f"width={context.dataset_classes - 1} or more"
            )
        vertices = simplex(context.new_width).to(context.device)[context.class_ids]
        self.register_buffer("vertices", vertices, persistent=False)

    def classifier(self, head: Tensor) -> Tensor:
        """Classify by the vertices; nothing of the classifier is learned."""
        return self.vertices
