"""The embedding model: a timm backbone, pooling, a linear projection, a unit vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import BenchError, unknown
from bench.suites.schema import Recipe


class GeneralizedMean(nn.Module):
    """Generalised-mean pooling of a feature map (Radenović et al., TPAMI 2019)."""

    def __init__(self, power: float, learns: bool) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power), requires_grad=learns)

    def forward(self, features: Tensor) -> Tensor:
        """Pool [B, C, H, W] to [B, C]."""
        return features.clamp(min=1e-6).pow(self.power).mean((2, 3)).pow(1 / self.power)


class Average(nn.Module):
    """Average pooling of a feature map."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool [B, C, H, W] to [B, C]."""
        return features.mean((2, 3))


class Embedder(nn.Module, ABC):
    """Images → unit embeddings [B, D]."""

    @abstractmethod
    def raw(self, images: Tensor) -> Tensor:
        """Embed a batch at the lengths that the projection gives [B, D]."""

    def forward(self, images: Tensor) -> Tensor:
        """Embed a batch."""
        return functional.normalize(self.raw(images), dim=1)


class PrecomputedEmbedder(Embedder):
    """Fixed vectors [B, F] of images, scaled to unit length, → unit embeddings: one projection."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(features, width, bias=False)

    def raw(self, images: Tensor) -> Tensor:
        """Project a batch of vectors."""
        projected: Tensor = self.project(functional.normalize(images, dim=1))
        return projected


class FixedEmbedder(Embedder):
    """Fixed vectors [B, D] → the same vectors, scaled to unit length: nothing is trained."""

    def raw(self, images: Tensor) -> Tensor:
        """Return the vectors as they are."""
        return images


class PixelEmbedder(Embedder):
    """Images [B, 3, H, W] in [0, 1] → unit embeddings [B, D]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.backbone: Any = _backbone(recipe)
        self.reduced = recipe.precision == "bfloat16"
        if self.reduced:
            _keep_exact(self.backbone, recipe.image_size)
        self.pool = (
            GeneralizedMean(recipe.gem_power, recipe.gem_learns)
            if recipe.pooling == "gem"
            else Average()
        )
        self.project = nn.Linear(self.backbone.num_features, recipe.width)
        statistics = self.backbone.pretrained_cfg
        for name, key in (("mean", "mean"), ("deviation", "std")):
            self.register_buffer(
                name, torch.tensor(statistics[key]).view(1, -1, 1, 1), persistent=False
            )

    def raw(self, images: Tensor) -> Tensor:
        """Embed a batch; whatever the backbone computes in, the rest is float32."""
        normalised = (images - self.mean) / self.deviation
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.reduced):
            features = self.backbone.forward_features(normalised)
        projected: Tensor = self.project(self.pool(features.float()))
        return projected


def _backbone(recipe: Recipe) -> Any:
    """Make the timm backbone without its classifier."""
    if not timm.is_model(recipe.backbone):
        raise unknown("timm backbone", recipe.backbone, timm.list_models())
    try:
        backbone: Any = timm.create_model(
            recipe.backbone, pretrained=recipe.pretrained, num_classes=0, **recipe.backbone_options
        )
    except Exception as error:
        if not recipe.pretrained:
            raise
        raise BenchError(
            f"timm could not get the pretrained weights of '{recipe.backbone}' "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); connect to a network once, "
            "or give a file of them with --set weights=FILE and leave pretrained out"
        ) from error
    if recipe.weights is not None:
        _load_weights(backbone, recipe)
    backbone.eval()
    with torch.no_grad():
        probe = backbone.forward_features(torch.zeros(1, 3, recipe.image_size, recipe.image_size))
    if probe.ndim != 4 or probe.shape[1] != backbone.num_features:
        raise BenchError(
            f"backbone '{recipe.backbone}' gives features of shape {tuple(probe.shape)}; "
            "expected a map [B, C, H, W], as convolutional timm models give"
        )
    return backbone


def _keep_exact(backbone: Any, size: int) -> None:
    """Make those convolutions compute in float32 whose kernel mostly hangs over their input.

    Of weights that never meet a pixel, oneDNN's gradient in bfloat16 is whatever lay in memory
    (torch 2.14.1, seen where an input is smaller than the stride, or has one pixel).
    """
    found: list[nn.Conv2d] = []

    def look(module: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        side = min(inputs[0].shape[2:])
        if side < max(module.stride) or (side == 1 and max(module.kernel_size) > 1):
            found.append(module)

    convolutions = [part for part in backbone.modules() if isinstance(part, nn.Conv2d)]
    hooks = [part.register_forward_pre_hook(look) for part in convolutions]
    with torch.no_grad():
        backbone.eval().forward_features(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    for module in found:
        module.forward = partial(_in_float32, module.forward)  # type: ignore[method-assign]


def _in_float32(forward: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return forward(features.float())


def _load_weights(backbone: Any, recipe: Recipe) -> None:
    """Load the file that a recipe names; a classifier in it is left out, and nothing else."""
    path = Path(str(recipe.weights)).expanduser()
    try:
        state = timm.models.load_state_dict(str(path), weights_only=True)
    except FileNotFoundError as error:
        raise BenchError(f"the weights {path} are not there; expected a file") from error
    except Exception as error:  # what no tensor file holds fails in many ways
        raise BenchError(
            f"the weights {path} cannot be read ({type(error).__name__}); expected safetensors, or "
            "a torch file that holds tensors alone"
        ) from error
    wanted = backbone.state_dict()
    unfit = [
        name for name in wanted if name not in state or state[name].shape != wanted[name].shape
    ]
    if unfit:
        raise BenchError(
            f"the weights {path} do not fit backbone '{recipe.backbone}': {len(unfit)} of "
            f"{len(wanted)} tensors are missing or of another shape, the first '{unfit[0]}'"
        )
    backbone.load_state_dict({name: state[name] for name in wanted})


def make_embedder(recipe: Recipe, seed: int) -> Embedder:
    """Make an embedder whose initial weights depend on recipe and seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if recipe.embeddings is not None:
            from bench.data.precomputed import read_precomputed

            if not recipe.project:
                return FixedEmbedder()
            return PrecomputedEmbedder(read_precomputed(recipe.embeddings).width, recipe.width)
        return PixelEmbedder(recipe).to(memory_format=torch.channels_last)


def make_head(classes: int, width: int, seed: int, kind: str = "cosine") -> nn.Parameter:
    """Make the bias-free classifier [C, D] of a recipe's kind.

    Of cosines only directions count; inner products begin with the lengths of `nn.Linear`.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "inner-product":
        uniform = torch.rand(classes, width, generator=generator)
        return nn.Parameter((2 * uniform - 1) / width**0.5)
    return nn.Parameter(torch.randn(classes, width, generator=generator) / width**0.5)
