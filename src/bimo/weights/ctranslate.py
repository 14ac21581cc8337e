"""CTranslate2, an engine for translation models: its folders written from ours, and opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bimo.files import read_json, replacing_folder
from bimo.models.seq2seq import EncoderDecoder
from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.huggingface import load_translator

__all__ = ["VOCABULARY", "WEIGHTS", "beam_outputs", "names_of_ids", "token_scores", "write_ctranslate2"]

VOCABULARY, WEIGHTS = "shared_vocabulary.json", "model.bin"
SCORED_AT_ONCE = 4
"""Pairs, of which each takes a number for every word at every place of its target."""

ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_tanh": "GELUTanh", "silu": "SWISH"}
"""Ours and theirs."""


def _library() -> Any:
    try:
        import ctranslate2
    except ImportError:
        raise UserError("CTranslate2 is not installed. Get it with: pip install 'bimo[export]'") from None
    return ctranslate2


def write_ctranslate2(folder: Path, model_folder: Path) -> None:
    """Write the translation model in `model_folder` to `folder` as CTranslate2 has it, in float32, all or nothing.

    As its own converter does with Marian's models, padding is left out: a target begins with zeros. Raises UserError
    when `model_folder` holds no translation model, or the library is not installed.
    """
    library = _library()
    model, tokenizer = load_translator(model_folder), load_tokenizer(model_folder)
    config = model.config
    spec = library.specs.TransformerSpec.from_config(
        (config.layers, config.decoder_layers),
        config.heads,
        pre_norm=False,
        activation=getattr(library.specs.Activation, ACTIVATIONS[config.feed_forward]),
    )
    _fill(spec, model)
    words = names_of_ids(tokenizer, config.pad)
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    end = words[tokenizer.end]
    spec.config.eos_token = spec.config.decoder_start_token = spec.config.unk_token = spec.config.bos_token = end
    spec.config.add_source_eos = spec.config.add_source_bos = False
    spec.validate()
    spec.optimize()
    with replacing_folder(folder) as part:
        spec.save(str(part))


def names_of_ids(tokenizer: Tokenizer, count: int) -> list[str]:
    """The names of the ids below `count`; those that the tokenizer does not use get one of their own."""
    return [tokenizer.inner.id_to_token(number) or f"<unused{number}>" for number in range(count)]


def _fill(spec: Any, model: EncoderDecoder) -> None:
    """Put the weights where the engine expects them."""
    pad, scale = model.config.pad, model.config.width**0.5 if model.config.scaled else 1.0
    embedding = model.embedding.weight.detach()[:pad]
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = embedding
    for half in (spec.encoder, spec.decoder):
        half.scale_embeddings = scale
        half.position_encodings.encodings = model.places
    spec.decoder.start_from_zero_embedding = True
    spec.decoder.projection.weight = embedding
    spec.decoder.projection.bias = model.head.bias.detach()[:pad]
    for theirs, ours in zip(spec.encoder.layer, model.encoder_layers, strict=True):
        _fill_attention(theirs.self_attention, ours.attention, ours.attention_norm)
        _fill_feed_forward(theirs.ffn, ours.feed_forward, ours.feed_forward_norm)
    for theirs, ours in zip(spec.decoder.layer, model.decoder_layers, strict=True):
        _fill_attention(theirs.self_attention, ours.attention, ours.attention_norm)
        _fill_attention(theirs.attention, ours.cross_attention, ours.cross_attention_norm, crossing=True)
        _fill_feed_forward(theirs.ffn, ours.feed_forward, ours.feed_forward_norm)


def _fill_attention(spec: Any, attention: Any, norm: Any, *, crossing: bool = False) -> None:
    """Queries, keys and values are one matrix; where attention crosses, keys and values are."""
    parts = [attention.query, attention.key, attention.value]
    for theirs, joined in zip(spec.linear, [parts[:1], parts[1:]] if crossing else [parts], strict=False):
        _fill_linear(theirs, *joined)
    _fill_linear(spec.linear[-1], attention.out)
    _fill_norm(spec.layer_norm, norm)


def _fill_feed_forward(spec: Any, feed_forward: Any, norm: Any) -> None:
    _fill_linear(spec.linear_0, feed_forward.up)
    _fill_linear(spec.linear_1, feed_forward.down)
    _fill_norm(spec.layer_norm, norm)


def _fill_linear(spec: Any, *joined: nn.Linear) -> None:
    spec.weight = _stacked([matrix.weight for matrix in joined])
    spec.bias = _stacked([matrix.bias for matrix in joined])


def _stacked(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach() for tensor in tensors])


def _fill_norm(spec: Any, norm: Any) -> None:
    spec.gamma, spec.beta = norm.weight.detach(), norm.bias.detach()


def beam_outputs(
    folder: Path, sources: list[list[int]], *, width: int = 4, length_penalty: float = 1.0, max_tokens: int = 256
) -> list[list[list[int]]]:
    """What CTranslate2 writes for ids of sources, each closed by the end token: `width` targets of each, best first.

    The end token is returned and counts for the length, as in generate.beam with `early`. Without a length penalty
    CTranslate2 may stop sooner: the best is the same, the others need not be.
    """
    translator, words = _open(folder)
    numbers = {word: number for number, word in enumerate(words)}
    results = translator.translate_batch(
        [[words[number] for number in source] for source in sources],
        beam_size=width,
        num_hypotheses=width,
        length_penalty=length_penalty,
        max_decoding_length=max_tokens,
        min_decoding_length=0,
        max_input_length=0,
        return_end_token=True,
    )
    return [[[numbers[word] for word in target] for target in result.hypotheses] for result in results]


def token_scores(folder: Path, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
    """The log-probabilities that CTranslate2 gives the tokens of each target, without an end; then that of the end."""
    translator, words = _open(folder)
    results = translator.score_batch(
        *([[words[number] for number in ids] for ids in rows] for rows in (sources, targets)),
        max_input_length=0,
        max_batch_size=SCORED_AT_ONCE,
    )
    return [result.log_probs for result in results]


def _open(folder: Path) -> tuple[Any, list[str]]:
    """The engine with a model, and its names of ids. Raises UserError when it cannot read the folder."""
    library = _library()
    try:
        translator = library.Translator(str(folder), device="cpu", compute_type="float32")
    except (RuntimeError, ValueError) as error:
        raise UserError("{path} cannot be read: {error}.", path=folder, error=str(error).split("\n")[0]) from None
    return translator, read_json(folder / VOCABULARY)
