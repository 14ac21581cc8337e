"""Encoders as ONNX, an operation after another as in `models/encoder.py`; any batch, any length up to the context.

B batch, T time (positions), D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bimo.files import replacing
from bimo.models.encoder import Encoder
from bimo.models.heads import Words
from bimo.runtime import USAGE, UserError

__all__ = ["INPUTS", "onnx_weights", "open_onnx", "write_onnx"]

OPERATIONS = 20
"""Of the standard set, its version: the first that has gelu."""

FILE_VERSION = 9
"""Of the format: the one that came with those operations."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Ids, 1 where they are no padding, and their kinds: all int64 [B, T]."""

OUTPUTS = {
    "none": ("last_hidden_state",),
    "words": ("logits",),
    "classes": ("logits",),
    "tokens": ("logits",),
    "span": ("start_logits", "end_logits"),
}
"""By the kind of head, as others name them who write encoders so."""

HIDDEN = -1e30
"""Stands instead of the score of what may not be seen: e to that power is 0, and nothing becomes infinite."""


def write_onnx(path: Path, model: Encoder) -> None:
    """Write an encoder with its head in float32, all or nothing. Needs the package onnx."""
    onnx = _require("onnx")
    graph = _Graph(onnx)
    _encoder(graph, model)
    kind = model.config.head.kind
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "encoder",
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["B", "T"]) for name in INPUTS],
            [
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, _shape(model, name))
                for name in (*OUTPUTS[kind], *(["pooler_output"] if kind == "none" and model.pooler else []))
            ],
            graph.constants,
        ),
        producer_name="bimo",
        opset_imports=[onnx.helper.make_opsetid("", OPERATIONS)],
        ir_version=FILE_VERSION,
    )
    onnx.checker.check_model(made)
    with replacing(path) as part:
        part.write_bytes(made.SerializeToString())


def open_onnx(path: Path, *, threads: int = 0) -> Callable[..., dict[str, np.ndarray]]:
    """What onnxruntime computes: a function of ids, and `real` and `segments` by name, all [B, T], to named outputs.

    `threads` 0 takes as many as there are cores. Needs the package onnxruntime.
    """
    runtime = _require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's own kinds of errors have no common ancestor
        raise UserError("{path} cannot be read: {error}.", path=path, error=str(error).split("\n")[0]) from None
    names = [output.name for output in session.get_outputs()]

    def run(ids: np.ndarray, *, real: np.ndarray | None = None, segments: np.ndarray | None = None) -> dict[str, Any]:
        given = (ids, np.ones_like(ids) if real is None else real, np.zeros_like(ids) if segments is None else segments)
        inputs = {name: np.asarray(values, np.int64) for name, values in zip(INPUTS, given, strict=True)}
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def onnx_weights(path: Path) -> dict[str, np.ndarray]:
    """The weights in a file that `write_onnx` wrote, as the model has them and under our names, which have a dot."""
    onnx = _require("onnx")
    try:
        constants = onnx.load(path).graph.initializer
        numbers = {each.name: onnx.numpy_helper.to_array(each) for each in constants}
    except Exception as error:  # the libraries' own kinds of errors have no common ancestor
        raise UserError("{path} cannot be read: {error}.", path=path, error=str(error).split("\n")[0]) from None
    # What vectors are multiplied with stands there the other way round.
    return {name: each if "embedding" in name else each.T for name, each in numbers.items() if "." in name}


class _Graph:
    """Operations and constants in the order in which they are added; a value is known by its name."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: set[str] = set()

    def add(self, operation: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """One operation; returns the name of what it gives."""
        name = out or f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, values: Tensor | list[int] | float) -> str:
        """Numbers that the graph holds: int64 if they are a list, else float32."""
        if name not in self._known:
            self._known.add(name)
            kind = np.int64 if isinstance(values, list) else np.float32
            found = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values
            self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(found, kind), name))
        return name

    def linear(self, x: str, name: str, layer: Any) -> str:
        """x [..., D] times the matrix of a layer, plus its bias."""
        product = self.add("MatMul", x, self.constant(f"{name}.weight", layer.weight.T))
        return self.add("Add", product, self.constant(f"{name}.bias", layer.bias))

    def norm(self, x: str, name: str, layer: Any) -> str:
        """x [..., D], normalised."""
        weight, bias = (self.constant(f"{name}.{each}", getattr(layer, each)) for each in ("weight", "bias"))
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=layer.eps)

    def activation(self, x: str, name: str) -> str:
        """An activation by its name in ModelConfig."""
        if name == "relu":
            return self.add("Relu", x)
        if name == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        return self.add("Gelu", x, approximate="tanh" if name == "gelu_tanh" else "none")


def _encoder(graph: _Graph, model: Encoder) -> None:
    config = model.config
    x = graph.norm(_embedded(graph, model), "embedding_norm", model.embedding_norm)
    seen = graph.add("Cast", "attention_mask", to=9)  # to bool
    seen = graph.add("Unsqueeze", seen, graph.constant("middle", [1, 2]))
    for number, layer in enumerate(model.layers):
        name = f"layers.{number}"
        attended = _attention(graph, x, f"{name}.attention", layer.attention, seen)
        x = graph.norm(graph.add("Add", x, attended), f"{name}.attention_norm", layer.attention_norm)
        fed = _feed_forward(graph, x, f"{name}.feed_forward", layer.feed_forward, config.feed_forward)
        x = graph.norm(graph.add("Add", x, fed), f"{name}.feed_forward_norm", layer.feed_forward_norm)
    _head(graph, x, model)


def _embedded(graph: _Graph, model: Encoder) -> str:
    """What words, places and kinds of tokens say together [B, T, D]."""
    words = graph.add("Gather", graph.constant("embedding.weight", model.embedding.weight), "input_ids")
    kinds = graph.constant("segment_embedding.weight", model.segment_embedding.weight)
    length = graph.add("Shape", "input_ids", start=1, end=2)
    places = graph.constant("position_embedding.weight", model.position_embedding.weight)
    places = graph.add("Slice", places, graph.constant("zero", [0]), length, graph.constant("zero", [0]))
    return graph.add("Add", graph.add("Add", words, places), graph.add("Gather", kinds, "token_type_ids"))


def _attention(graph: _Graph, x: str, name: str, layer: Any, seen: str) -> str:
    """[B, T, D] -> [B, T, D], of what is `seen` [B, 1, 1, T]."""
    stack = layer.config
    parted = graph.constant("parted", [0, 0, stack.heads, stack.head_width])
    q, k, v = (
        graph.add("Reshape", graph.linear(x, f"{name}.{part}", getattr(layer, part)), parted)
        for part in ("query", "key", "value")
    )
    q, v = (graph.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    scores = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 2, 3, 1]))
    scores = graph.add("Mul", scores, graph.constant("scale", stack.head_width**-0.5))
    scores = graph.add("Where", seen, scores, graph.constant("hidden", HIDDEN))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), v)
    mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = graph.add("Reshape", mixed, graph.constant("joined", [0, 0, stack.heads * stack.head_width]))
    return graph.linear(mixed, f"{name}.out", layer.out)


def _feed_forward(graph: _Graph, x: str, name: str, block: Any, activation: str) -> str:
    """[B, T, D] -> [B, T, D]"""
    inner = graph.activation(graph.linear(x, f"{name}.up", block.up), activation)
    return graph.linear(inner, f"{name}.down", block.down)


def _head(graph: _Graph, x: str, model: Encoder) -> None:
    """From the last hidden states [B, T, D] to the outputs."""
    kind, head = model.config.head.kind, model.head
    if isinstance(head, Words):
        x = graph.activation(graph.linear(x, "head.dense", head.dense), model.config.feed_forward)
        x = graph.norm(x, "head.norm", head.norm)
        # The embedding once more: it stands in the file once.
        words = graph.add("MatMul", x, graph.add("Transpose", "embedding.weight", perm=[1, 0]))
        graph.add("Add", words, graph.constant("head.bias", head.bias), out="logits")
        return
    if kind == "none":
        graph.add("Identity", x, out="last_hidden_state")
    if model.pooler is not None:
        first = graph.add("Gather", x, graph.constant("zero", [0]), axis=1)
        first = graph.add("Squeeze", first, graph.constant("one", [1]))
        pooled = graph.add("Tanh", graph.linear(first, "pooler.dense", model.pooler.dense), out="pooler_output")
        x = pooled if kind == "classes" else x
    if kind in ("classes", "tokens"):
        graph.add("Identity", graph.linear(x, "head", head), out="logits")
    if kind == "span":
        both = graph.linear(x, "head", head)
        for place, name in enumerate(OUTPUTS["span"]):
            part = graph.add("Gather", both, graph.constant(f"place_{place}", [place]), axis=2)
            graph.add("Squeeze", part, graph.constant("two", [2]), out=name)


def _shape(model: Encoder, output: str) -> list[str | int]:
    """The shape of an output."""
    head, width = model.config.head, model.config.width
    if output == "pooler_output":
        return ["B", width]
    if head.kind == "classes":
        return ["B", head.outputs]
    last = {"none": [width], "words": [model.config.vocabulary], "tokens": [head.outputs], "span": []}
    return ["B", "T", *last[head.kind]]


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        sentence = "Writing and checking ONNX needs {package}: pip install 'bimo[export]'"
        raise UserError(sentence, code=USAGE, package=package) from None
