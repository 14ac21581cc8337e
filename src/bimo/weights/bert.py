"""Encoders as Hugging Face has them: BertModel, and BertFor... with the heads that are ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bimo.models.encoder import EncoderConfig
from bimo.models.heads import Head
from bimo.weights.names import ACTIVATIONS, NamePairs, count, refuse_features, renamed, their_activation
from bimo.weights.tying import require_copies

__all__ = ["BODIES", "config_from_hf", "config_to_hf", "from_hf", "names_of", "to_hf", "with_pooler_as_found"]

BODY = (
    ("embedding", "bert.embeddings.word_embeddings"),
    ("position_embedding", "bert.embeddings.position_embeddings"),
    ("segment_embedding", "bert.embeddings.token_type_embeddings"),
    ("embedding_norm", "bert.embeddings.LayerNorm"),
    ("layers.{}.attention.query", "bert.encoder.layer.{}.attention.self.query"),
    ("layers.{}.attention.key", "bert.encoder.layer.{}.attention.self.key"),
    ("layers.{}.attention.value", "bert.encoder.layer.{}.attention.self.value"),
    ("layers.{}.attention.out", "bert.encoder.layer.{}.attention.output.dense"),
    ("layers.{}.attention_norm", "bert.encoder.layer.{}.attention.output.LayerNorm"),
    ("layers.{}.feed_forward.up", "bert.encoder.layer.{}.intermediate.dense"),
    ("layers.{}.feed_forward.down", "bert.encoder.layer.{}.output.dense"),
    ("layers.{}.feed_forward_norm", "bert.encoder.layer.{}.output.LayerNorm"),
)
POOLER = (("pooler.dense", "bert.pooler.dense"),)
"""Our modules beside Hugging Face's; `{}` is the number of the layer."""

PREFIX = "bert."
"""Of the names of the body, where there is a head."""

CLASSES = {
    "none": "BertModel",
    "words": "BertForMaskedLM",
    "classes": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
}
"""By our kinds of heads."""

SEVERAL = "multi_label_classification"

HEADS: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (),
    "words": (
        ("head.dense", "cls.predictions.transform.dense"),
        ("head.norm", "cls.predictions.transform.LayerNorm"),
        ("head", "cls.predictions"),
    ),
    "classes": (("head", "classifier"),),
    "tokens": (("head", "classifier"),),
    "span": (("head", "qa_outputs"),),
}

CONSTANTS = ("embeddings.position_ids", "embeddings.token_type_ids")
UNUSED = ("cls.", "bert.pooler.")
"""What a folder may hold beside what its head needs: of a training that had more heads than one."""

COPIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Other names of what stands in the weights already."""

OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
"""Of the norms, in folders that were made from TensorFlow's files."""


def to_hf(weights: dict[str, Tensor], config: EncoderConfig) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names; tensors are shared, not copied."""
    return renamed(weights, names_of(config).to_theirs)


def from_hf(weights: dict[str, Tensor], config: EncoderConfig) -> dict[str, Tensor]:
    """Hugging Face's state dict, with or without the prefix of its names, under ours. Unused heads are left out."""
    if "embeddings.word_embeddings.weight" in weights:
        heads = ("cls.", "classifier.", "qa_outputs.")
        weights = {name if name.startswith(heads) else f"{PREFIX}{name}": weights[name] for name in weights}
    names = _prefixed(config).to_ours
    if config.head.kind == "words":
        for copy, original in COPIES.items():
            require_copies(weights, original, [copy])
    kept = {}
    for name, tensor in weights.items():
        for old, new in OLD_NAMES.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        unused = name.startswith(UNUSED) and name.rpartition(".")[0] not in names
        if not unused and not name.endswith(CONSTANTS):
            kept[name] = tensor
    return renamed(kept, names)


def with_pooler_as_found(config: EncoderConfig, weights: dict[str, Tensor]) -> EncoderConfig:
    """Whether a BertModel has a pooler only its weights, here under our names, tell."""
    return replace(config, head=replace(config.head, pooler="pooler.dense.weight" in weights))


def config_to_hf(config: EncoderConfig) -> dict[str, Any]:
    """`config.json` of a BERT with the head of the shape."""
    labels = dict(enumerate(config.head.labels))
    return {
        "architectures": [CLASSES[config.head.kind]],
        "model_type": "bert",
        "vocab_size": config.vocabulary,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "type_vocab_size": config.segments,
        "hidden_act": their_activation(config.feed_forward),
        "layer_norm_eps": config.norm_epsilon,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "dtype": "float32",
        **({"problem_type": SEVERAL} if config.head.several else {}),
        **({"id2label": labels, "label2id": {label: number for number, label in labels.items()}} if labels else {}),
    }


def config_from_hf(settings: dict[str, Any], *, where: Path) -> EncoderConfig:
    """The shape that a `config.json` describes. Raises UserError for a feature or head that is not ours."""
    activation = settings.get("hidden_act", "gelu")
    architecture = _architecture(settings)
    kinds = {theirs: ours for ours, theirs in CLASSES.items()} | {"BertForPreTraining": "words"}
    unusual = {
        f"{architecture!r:.40}": architecture not in kinds,
        "hidden_act": activation not in ACTIVATIONS,
        "is_decoder": bool(settings.get("is_decoder")),
        "add_cross_attention": bool(settings.get("add_cross_attention")),
        "position_embedding_type": settings.get("position_embedding_type", "absolute") != "absolute",
        "tie_word_embeddings": not settings.get("tie_word_embeddings", True) and kinds.get(architecture) == "words",
    }
    refuse_features(unusual, where=where)
    kind = kinds[architecture]
    return EncoderConfig(
        vocabulary=count(settings["vocab_size"]),
        layers=count(settings["num_hidden_layers"]),
        width=count(settings["hidden_size"]),
        heads=count(settings["num_attention_heads"]),
        hidden=count(settings["intermediate_size"]),
        context=count(settings["max_position_embeddings"]),
        segments=count(settings.get("type_vocab_size", 2)),
        feed_forward=ACTIVATIONS[activation],
        norm_epsilon=float(settings.get("layer_norm_eps", 1e-12)),
        head=Head(
            kind=kind,
            labels=_labels(settings) if kind in ("classes", "tokens") else (),
            pooler=kind in ("none", "classes"),
            several=kind == "classes" and settings.get("problem_type") == SEVERAL,
        ),
    )


def names_of(config: EncoderConfig) -> NamePairs:
    """Our modules beside Hugging Face's, those of the head included."""
    names = _prefixed(config)
    return names if config.head.kind != "none" else _bare(names)


def _bare(names: NamePairs) -> NamePairs:
    return NamePairs(tuple((ours, theirs.removeprefix(PREFIX)) for ours, theirs in names.pairs))


def _prefixed(config: EncoderConfig) -> NamePairs:
    """As `names_of`, with the prefix that names have below a head, whether there is one or not."""
    return NamePairs((*BODY, *(POOLER if config.head.pooler else ()), *HEADS[config.head.kind]))


BODIES = (NamePairs((*BODY, *POOLER)), _bare(NamePairs((*BODY, *POOLER))))
"""Our modules beside theirs, without a head, with the prefix of their names and without."""


def _architecture(settings: dict[str, Any]) -> str:
    """The class that a folder was saved from; the plain encoder where that is not said."""
    named = settings.get("architectures") or [CLASSES["none"]]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise TypeError(f"architectures is {named!r}")
    return named[0]


def _labels(settings: dict[str, Any]) -> tuple[str, ...]:
    """The names of the classes, in the order of their ids; two without names where a folder says nothing of them."""
    named = settings.get("id2label")
    if named is None:
        return tuple(f"LABEL_{number}" for number in range(count(settings.get("num_labels", 2))))
    if not isinstance(named, dict):
        raise TypeError(f"id2label is {named!r:.40}")
    by_id = {int(number): str(label) for number, label in named.items()}
    if not by_id or sorted(by_id) != list(range(len(by_id))):
        raise ValueError(f"id2label has the ids {sorted(by_id)}")
    return tuple(by_id[number] for number in range(len(by_id)))
