"""GGUF files, as llama.cpp and what is built on it load them."""

from __future__ import annotations

from pathlib import Path

from bimo.export.comparison import Engine, OurEngine
from bimo.export.llama_cpp import LlamaCpp, XLlamaCpp
from bimo.export.source import Source, source_of_gguf
from bimo.weights.chat_templates import TEMPLATE_KEY
from bimo.weights.gguf import END_OF_TURN
from bimo.weights.gguf_blocks import StoredMatrix
from bimo.weights.gguf_tokenizer import tokenizer_to_gguf
from bimo.weights.gguf_writer import write_gguf
from bimo.weights.quantize import quantised

__all__ = ["open_with_llama_cpp", "round_gguf", "write_gguf_file"]


def round_gguf(source: Source, form: str) -> dict[str, StoredMatrix]:
    """The weights as the file will have them."""
    return quantised(source.weights, form)


def write_gguf_file(path: Path, source: Source, form: str) -> None:
    """Write weights, tokenizer and chat template as one file.

    Of the ids that end an answer it names two, as the format has it: that which ends a text, and the lowest other one.
    """
    others = sorted(source.ends - {source.tokenizer.end})
    keys = {
        "general.name": source.name,
        **tokenizer_to_gguf(source.tokenizer, vocabulary=source.config.vocabulary),
        **({END_OF_TURN: others[0]} if others else {}),
        **({} if source.template is None else {TEMPLATE_KEY: source.template}),
    }
    write_gguf(path, source.config, source.weights, form=form, metadata=keys)


def open_with_llama_cpp(path: Path) -> Engine:
    """With llama.cpp where llama-cpp-python or xllamacpp is installed, else with our own reader."""
    written = source_of_gguf(path)
    for engine in (LlamaCpp, XLlamaCpp):
        try:
            return engine(path, written)
        except ImportError:
            continue
    return OurEngine(written)
