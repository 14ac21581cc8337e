"""The shape of a decoder as data, and what follows from it: parameters, arithmetic, memory."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from bimo.runtime import USAGE, UserError

__all__ = ["ModelConfig", "load_presets"]


@dataclass(frozen=True)
class ModelConfig:
    """A Llama- or Qwen3-shaped decoder (DESIGN, decision 1).

    `hidden` is the inner width of the SwiGLU block; `kv_heads` divides `heads` (grouped-query attention);
    `qk_norm` normalises queries and keys per head as Qwen3 does, without it the shape is Llama's;
    `tied` uses the embedding as the output matrix. Raises UserError when the numbers do not fit together.
    """

    vocabulary: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    context: int
    qk_norm: bool = True
    tied: bool = True
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "hidden", "context"):
            if getattr(self, name) < 1:
                raise UserError(
                    "The model's {name} must be at least 1, but is {value}.",
                    code=USAGE,
                    name=name,
                    value=getattr(self, name),
                )
        if self.heads % self.kv_heads:
            raise UserError(
                "The model's heads ({heads}) must be a multiple of its kv_heads ({kv_heads}).",
                code=USAGE,
                heads=self.heads,
                kv_heads=self.kv_heads,
            )
        if self.head_width % 2:
            raise UserError(
                "The model's head_width must be even for rotary positions, but is {head_width}.",
                code=USAGE,
                head_width=self.head_width,
            )

    @property
    def matrix_parameters(self) -> int:
        """Weights of the matrices inside the layers, without embedding, head and norms."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.hidden)

    @property
    def parameters(self) -> int:
        """All weights, counted once where they are shared."""
        norms = self.layers * (2 * self.width + 2 * self.head_width * self.qk_norm) + self.width
        return self.matrix_parameters + norms + self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def flops_per_token(self) -> int:
        """Forward and backward, model FLOPs as in PaLM (Chowdhery et al. 2022, appendix B): 6 N + 12 L H Q T.

        N counts the matrices that multiply, so the output matrix but not the embedding's look-up.
        """
        matrices = self.matrix_parameters + self.vocabulary * self.width
        return 6 * matrices + 12 * self.layers * self.heads * self.head_width * self.context

    def training_bytes(self, batch: int) -> int:
        """Memory of one training step in bytes: weights, gradients and optimizer state, and what backward needs.

        The factor for activations was fitted to measured peaks (docs/decisions.md); it is an estimate.
        """
        weights = 4 * self.parameters * 4
        scores = 2 * self.heads * self.context
        per_token = self.layers * 2 * (14 * self.width + 5 * self.hidden + 2 * scores) + 8 * self.vocabulary
        return weights + batch * self.context * per_token

    def with_vocabulary(self, vocabulary: int) -> ModelConfig:
        """The same shape for another tokenizer."""
        return replace(self, vocabulary=vocabulary)


def load_presets() -> dict[str, dict[str, Any]]:
    """The named shapes of `assets/presets.toml`, smallest first, without vocabulary and context."""
    text = (resources.files("bimo.assets") / "presets.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["decoder"]
