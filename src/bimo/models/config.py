"""The shape of a Transformer as data, and what follows from it: parameters, arithmetic, memory."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from importlib import resources
from typing import Any

from bimo.runtime import USAGE, UserError

__all__ = ["ModelConfig", "RotaryScaling", "load_presets", "require_choice", "require_counts"]

CHOICES = {
    "positions": ("rotary", "learned", "sinusoidal"),
    "norm": ("rms", "layer"),
    "feed_forward": ("swiglu", "gelu", "gelu_tanh", "relu", "silu"),
    "biases": ("none", "qkv", "attention", "all"),
}
"""What the fields of ModelConfig that are words may be."""

SCALINGS = ("linear", "llama3", "yarn")
GATED = "swiglu"


@dataclass(frozen=True)
class RotaryScaling:
    """How rotary positions are stretched beyond the context that a model was first trained with.

    `kind` is linear (Chen et al. 2023), llama3 (Llama 3.1: `low` and `high` are its frequency factors) or yarn (Peng et
    al. 2023: `low` and `high` are its beta_slow and beta_fast, cosines and sines are multiplied by `attention`).
    `original` is that first context.
    """

    kind: str
    factor: float
    original: int = 0
    low: float = 1.0
    high: float = 32.0
    attention: float = 1.0
    truncate: bool = True

    def __post_init__(self) -> None:
        require_choice("rope_scaling.kind", self.kind, SCALINGS)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a stack of Transformer layers. What it is by default is what Bimo trains (docs/decisions.md).

    `hidden` is the inner width of the feed-forward block; `kv_heads` divides `heads` (grouped-query attention);
    `qk_norm` normalises queries and keys per head as Qwen3 does, without it the shape is Llama's;
    `tied` uses the embedding as the output matrix. What other families have:
    `causal`: positions see themselves and what came before (decoders), or all see all (BERT);
    `positions` rotary, learned (GPT-2, BERT) or sinusoidal (Marian); `norm` rms or layer, at the start of each block
    or, with `norm_after`, behind its addition; `embedding_norm` normalises what goes into the first layer;
    `feed_forward` swiglu, or a plain block with that activation; `biases` of none, of queries, keys and values
    (Qwen2), of all four matrices of attention, or of all; `segments` counts BERT's kinds of tokens.
    Raises UserError when the numbers do not fit together.
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
    causal: bool = True
    positions: str = "rotary"
    rope_scaling: RotaryScaling | None = None
    norm: str = "rms"
    norm_after: bool = False
    embedding_norm: bool = False
    feed_forward: str = GATED
    biases: str = "none"
    segments: int = 0

    def __post_init__(self) -> None:
        require_counts(self, "vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "hidden", "context")
        for name, allowed in CHOICES.items():
            require_choice(name, getattr(self, name), allowed)
        if self.heads % self.kv_heads:
            raise UserError(
                "The model's heads ({heads}) must be a multiple of its kv_heads ({kv_heads}).",
                code=USAGE,
                heads=self.heads,
                kv_heads=self.kv_heads,
            )
        if self.head_width % 2 and self.positions == "rotary":
            raise UserError(
                "The model's head_width must be even for rotary positions, but is {head_width}.",
                code=USAGE,
                head_width=self.head_width,
            )

    @property
    def reach(self) -> int:
        """Positions up to which one text is written on: what the model looks back on."""
        return self.context

    @property
    def runs_in_kernel(self) -> bool:
        """Whether the CPU kernel computes this shape: Llama's, Qwen2's and Qwen3's, however positions are stretched."""
        looks = (self.causal, self.positions, self.norm, self.norm_after, self.embedding_norm, self.feed_forward)
        usual = (True, "rotary", "rms", False, False, GATED)
        return looks == usual and self.biases in ("none", "qkv")

    @property
    def matrix_parameters(self) -> int:
        """Weights of the matrices inside the layers, without embedding, head, norms and biases."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + (3 if self.feed_forward == GATED else 2) * self.width * self.hidden)

    @property
    def bias_parameters(self) -> int:
        """Weights of the biases of matrices inside the layers."""
        qkv = self.head_width * (self.heads + 2 * self.kv_heads)
        of_layer = {
            "none": 0,
            "qkv": qkv,
            "attention": qkv + self.width,
            "all": qkv + 2 * self.width + self.hidden * (2 if self.feed_forward == GATED else 1),
        }
        return self.layers * of_layer[self.biases]

    @property
    def parameters(self) -> int:
        """All weights, counted once where they are shared."""
        norms = 2 * self.layers + (not self.norm_after) + self.embedding_norm
        norm = self.width * (2 if self.norm == "layer" else 1)
        heads = self.layers * 2 * self.head_width * self.qk_norm
        places = self.width * (self.context * (self.positions == "learned") + self.segments)
        words = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.matrix_parameters + self.bias_parameters + norms * norm + heads + places + words

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


def require_counts(shape: object, *names: str) -> None:
    """Raises UserError when one of these sizes of a shape is below 1."""
    for name in names:
        if getattr(shape, name) < 1:
            raise UserError(
                "The model's {name} must be at least 1, but is {value}.",
                code=USAGE,
                name=name,
                value=getattr(shape, name),
            )


def require_choice(name: str, value: str, allowed: Collection[str]) -> None:
    """Raises UserError when a word in the description of a shape is none of those that it may be."""
    if value not in allowed:
        raise UserError(
            "The model's {name} must be one of {allowed}, but is {value!r}.",
            code=USAGE,
            name=name,
            allowed=", ".join(allowed),
            value=value,
        )


def load_presets(family: str = "decoder") -> dict[str, dict[str, Any]]:
    """The named shapes of a family in `assets/presets.toml`, smallest first, without vocabulary and context."""
    text = (resources.files("bimo.assets") / "presets.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)[family]
