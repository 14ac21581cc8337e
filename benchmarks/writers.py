"""Contestants in writing: ours, llama.cpp and OpenVINO GenAI, all greedy, all from a GGUF file, on token ids.

llama.cpp is driven through its batch interface by the very function that drives ours: its `step` takes the same rows.

A task is {"do": "write", "prompts": [...], "tokens": n}, {"do": "read", "ids": [...]}, {"do": "score", "texts": [...]},
{"do": "tokenize", "texts": [...]}, {"do": "logits", "ids": [...], "of": [...]} or {"do": "facts"}.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from turns import Turns

__all__ = [
    "FORMATS",
    "LlamaCpp",
    "quantise",
    "read_exactly",
    "write_with_llama_cpp",
    "write_with_openvino",
    "write_with_ours",
]

SLOTS = 16
POSITIONS = 1024
LONGEST_STEP = 512
"""Rows that prompts are read in at a time."""

Array = np.ndarray


class Decoder(Protocol):
    """Rows of several sequences at once, each with its own slot and position."""

    def step(self, tokens: Array, slots: Array, positions: Array, wanted: Array) -> Array:
        """int32 tokens, slots, positions [rows] -> float32 logits [len(wanted), V] of the rows `wanted`."""


def read(decoder: Decoder, ids: list[int], *, slot: int = 0) -> Array:
    """Take a prompt into an empty slot. Returns the logits [V] after it."""
    for start in range(0, len(ids), LONGEST_STEP):
        part = np.array(ids[start : start + LONGEST_STEP], np.int32)
        positions = np.arange(start, start + len(part), dtype=np.int32)
        last = np.array([len(part) - 1], np.int32)
        logits = decoder.step(part, np.full(len(part), slot, np.int32), positions, last)
    return logits[0]


def write(decoder: Decoder, prompts: list[list[int]], count: int) -> tuple[float, list[list[int]]]:
    """Seconds for `count` greedy tokens after each prompt, without the reading of prompts; and the tokens."""
    slots = np.arange(len(prompts), dtype=np.int32)
    tokens = np.array([read(decoder, ids, slot=slot).argmax() for slot, ids in enumerate(prompts)], np.int32)
    positions = np.array([len(ids) for ids in prompts], np.int32)
    written = [tokens]
    before = time.perf_counter()
    for _ in range(count):
        tokens = decoder.step(tokens, slots, positions, slots).argmax(axis=1).astype(np.int32)
        positions = positions + 1
        written.append(tokens)
    seconds = time.perf_counter() - before
    return seconds, np.stack(written[:count], axis=1).tolist()


def score(decoder: Decoder, ids: list[int]) -> float:
    """Nats that all ids but the first cost, given those before them."""
    rows = len(ids) - 1
    every = np.arange(rows, dtype=np.int32)
    logits = decoder.step(np.array(ids[:-1], np.int32), np.zeros(rows, np.int32), every, every)
    above = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(above).sum(axis=1, dtype=np.float64)) - above[every, ids[1:]]).sum())


def serve(
    turns: Turns,
    decoder: Decoder,
    clear: Callable[[], None],
    extra: dict[str, Callable[[dict[str, Any]], Any]],
    *,
    beside: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Do the tasks with a decoder. `clear` forgets all sequences; `extra` are what only this contestant can do.

    `beside` is measured after each writing and reported with it.
    """
    for task in turns:
        clear()
        kind = task["do"]
        if kind == "write":
            seconds, texts = write(decoder, task["prompts"], task["tokens"])
            turns.report({"seconds": seconds, "texts": texts, **beside()})
        elif kind == "read":
            before = time.perf_counter()
            read(decoder, task["ids"])
            turns.report({"seconds": time.perf_counter() - before})
        elif kind == "score":
            nats = 0.0
            for ids in task["texts"]:
                nats += score(decoder, ids)
                clear()
            turns.report({"nats": nats})
        elif kind == "logits":
            turns.report([float(value) for value in read(decoder, task["ids"])[task["of"]]])
        else:
            turns.report(extra[kind](task))


def write_with_ours(turns: Turns, file: Path, threads: int) -> None:
    """A worker: ours, with the kernel where there is one. A slot is begun anew by writing to its position 0."""
    import torch

    from bimo.generate.stepping import open_steps
    from bimo.kernel import best_instructions, read_bandwidth
    from bimo.weights.gguf import read_gguf

    torch.set_num_threads(threads)
    decoder = open_steps(read_gguf(file))
    decoder.reserve(SLOTS, POSITIONS)
    facts = {"weight_bytes": getattr(decoder, "matrix_bytes", None), "system": best_instructions() or "torch"}
    # The two processors of a shared machine may come to stand nearer or farther from each other and from the memory
    # within minutes, so the limit is measured beside what it limits.
    serve(
        turns,
        decoder,
        lambda: None,
        {"facts": lambda task: facts},
        beside=lambda: {"bandwidth": read_bandwidth(threads)},
    )


def read_exactly(turns: Turns, file: Path, threads: int) -> None:
    """A worker: the same weights in float32 products without any further rounding, to judge the others by."""
    import torch

    from bimo.generate.stepping import TorchSteps
    from bimo.weights.gguf import read_gguf

    torch.set_num_threads(threads)
    decoder = TorchSteps(read_gguf(file).decoder())
    decoder.reserve(SLOTS, POSITIONS)
    serve(turns, decoder, lambda: None, {})


class LlamaCpp:
    """llama.cpp through the plain C interface that llama-cpp-python hands on, with its usual settings."""

    def __init__(self, file: Path, threads: int) -> None:
        import llama_cpp

        self._library = llama_cpp
        _silence(llama_cpp)
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot read {file.name}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = SLOTS * POSITIONS, SLOTS
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        # A batch over our own arrays, so that a step costs no Python for each row.
        self._slots = np.zeros(LONGEST_STEP, np.int32)
        self._one = np.ones(LONGEST_STEP, np.int32)
        places = self._slots.ctypes.data + self._slots.itemsize * np.arange(LONGEST_STEP)
        self._places = (ctypes.POINTER(ctypes.c_int32) * LONGEST_STEP)(
            *(ctypes.cast(int(place), ctypes.POINTER(ctypes.c_int32)) for place in places)
        )

    def step(self, tokens: Array, slots: Array, positions: Array, wanted: Array) -> Array:
        """As `Decoder` has it."""
        rows = len(tokens)
        self._slots[:rows] = slots
        asked = np.zeros(rows, np.int8)
        asked[wanted] = 1
        batch = self._library.llama_batch(
            n_tokens=rows,
            token=_pointer(tokens, ctypes.c_int32),
            embd=None,
            pos=_pointer(positions, ctypes.c_int32),
            n_seq_id=_pointer(self._one, ctypes.c_int32),
            seq_id=ctypes.cast(self._places, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=_pointer(asked, ctypes.c_int8),
        )
        failed = self._library.llama_decode(self._context, batch)
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")
        logits = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (len(wanted), self.vocabulary))

    def clear(self) -> None:
        """Forget all sequences."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), False)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        data = text.encode()
        ids = (self._library.llama_token * (len(data) + 8))()
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), ids, len(ids), False, False)
        return list(ids[:count])

    def facts(self) -> dict[str, Any]:
        """Bytes of all weights, and what the build can use."""
        system = self._library.llama_print_system_info().decode()
        return {"weight_bytes": self._library.llama_model_size(self._model), "system": system}


def _pointer(array: Array, kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


_kept: list[Any] = []


def _silence(library: Any) -> None:
    silent = library.llama_log_callback(lambda level, text, data: None)
    _kept.append(silent)  # the library calls it for as long as it lives
    library.llama_log_set(silent, None)


def write_with_llama_cpp(turns: Turns, file: Path, threads: int) -> None:
    """A worker: llama.cpp."""
    decoder = LlamaCpp(file, threads)
    extra = {
        "tokenize": lambda task: [decoder.tokenize(text) for text in task["texts"]],
        "facts": lambda task: decoder.facts(),
    }
    serve(turns, decoder, decoder.clear, extra)


FORMATS = {"Q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "Q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0", "BF16": "LLAMA_FTYPE_MOSTLY_BF16"}
"""What llama.cpp's own quantizer is asked for; F16 is left out, since it is as large as BF16 and slower here."""


def quantise(source: Path, target: Path, kind: str) -> None:
    """Write another format of a GGUF file with llama.cpp's quantizer. A worker process of its own should do it."""
    import llama_cpp

    _silence(llama_cpp)
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = getattr(llama_cpp, FORMATS[kind]), True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)):
        raise RuntimeError(f"llama.cpp could not make {kind} of {source.name}")


def write_with_openvino(turns: Turns, file: Path, threads: int) -> None:
    """A worker: OpenVINO GenAI, which reads the GGUF itself."""
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(file), "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(prompts: list[list[int]], count: int) -> tuple[float, list[list[int]]]:
        ids = np.array(prompts, np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        settings = openvino_genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
        before = time.perf_counter()
        result = pipeline.generate(inputs, settings)
        return time.perf_counter() - before, [list(tokens) for tokens in result.tokens]

    for task in turns:
        if task["do"] == "write":
            # It may keep what it has read: the second time it has, and the third as well.
            generate(task["prompts"], 1)
            reading, _ = generate(task["prompts"], 1)
            seconds, texts = generate(task["prompts"], task["tokens"] + 1)
            turns.report({"seconds": seconds - reading, "texts": [text[: task["tokens"]] for text in texts]})
        elif task["do"] == "read":
            seconds, _ = generate([task["ids"]], 1)
            turns.report({"seconds": seconds})
        else:
            turns.report({})
