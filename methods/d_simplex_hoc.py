"""d-Simplex-HOC: CoReS's fixed classifier and a contrastive term that captures more than the mean.

Biondi et al., "Stationary Representations: Optimally Approximating Compatibility and Implications
for Improved Model Replacements", CVPR 2024, equations 3 and 4, and its public code:
`λ·CE + (1 − λ)·mean[−μ g_i·f_i + log Σ_j exp(μ g_i·f_j·1[y_j ≠ y_i])]`, λ = 0.1, μ = 10. A pair of
one class counts with a similarity of zero, as in the code. The old model is trained with the
classifier alone, hence this method has an old system of its own (see `cores`). Logits are the
recipe's cosine logits.
"""

from __future__ import annotations

from torch import Tensor

from bench.protocol import Context, Step
from bench.settings import Settings, tunable
from methods._simplex import OnSimplex


class DSimplexHOC(OnSimplex):
    """Share a fixed simplex and match each old embedding to its new self."""

    class Config(Settings):
        classification: float = tunable(0.1, 0.01, 1.0, ge=0, le=1, description="λ")
        scale: float = tunable(
            10.0, 1.0, 100.0, gt=0, description="μ, by which similarities are multiplied"
        )

    def prepare(self, context: Context) -> None:
        """Remember whether there is an old model to compare with."""
        super().prepare(context)
        self.has_old = context.old_width > 0

    def loss(self, step: Step) -> dict[str, Tensor]:
        if not self.has_old:
            return {}
        share, similarity = self.config.classification, self.config.scale * step.old @ step.new.T
        other = step.labels.unsqueeze(1) != step.labels
        term = (similarity * other).logsumexp(1) - similarity.diagonal()
        return {
            "classification": share * step.classification,
            "higher_order": (1 - share) * term.mean(),
        }
