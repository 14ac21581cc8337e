"""An LSTM in Keras on TensorFlow, trained an epoch for each line that comes in: the peer of keras_lstm.py.

Run by the Python of its own environment, where there is nothing of Bimo's: python keras_worker.py TEXT SETTINGS
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}


def character_windows(text: str, context: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Windows [N, context + 1] to learn from and to test with, each beginning where one ends; and the vocabulary."""
    characters = sorted(set(text))
    ids = {character: number for number, character in enumerate(characters)}
    data = np.array([ids[character] for character in text], dtype=np.int64)
    cut = len(data) * 9 // 10
    parts = []
    for part in (data[:cut], data[cut:]):
        windows = (len(part) - 1) // context
        parts.append(np.stack([part[i * context : i * context + context + 1] for i in range(windows)]))
    return parts[0], parts[1], len(characters)


def epoch(windows: np.ndarray, batch: int, seed: int, number: int) -> np.ndarray:
    """The windows in the order of an epoch, whole batches of them."""
    order = np.random.default_rng([seed, number]).permutation(len(windows))
    return windows[order[: len(order) // batch * batch]]


def build(keras: Any, vocabulary: int, settings: dict[str, Any]) -> Any:
    """Keras' own layers, compiled by TensorFlow or by XLA."""
    cells = [keras.layers.LSTM(settings["width"], return_sequences=True) for _ in range(settings["layers"])]
    embedding = [keras.layers.Embedding(vocabulary, settings["width"])]
    if settings["one_hot"]:
        evenly = keras.initializers.RandomUniform(-0.05, 0.05)  # as an Embedding starts
        product = keras.layers.Dense(settings["width"], use_bias=False, kernel_initializer=evenly)
        embedding = [keras.layers.Lambda(lambda ids: keras.ops.one_hot(ids, vocabulary)), product]
    model = keras.Sequential([keras.Input((settings["context"],)), *embedding, *cells, keras.layers.Dense(vocabulary)])
    model.compile(
        optimizer=keras.optimizers.Adam(settings["rate"], **ADAM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=settings["xla"],
    )
    return model


def main() -> None:
    """Answers a line {"seed", "epoch"} with one of facts; epoch 0 begins with a new model."""
    import keras
    import tensorflow as tf

    settings = json.loads(sys.argv[2])
    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.config.set_dtype_policy(settings["dtype"])
    train, test, vocabulary = character_windows(Path(sys.argv[1]).read_text(encoding="utf-8"), settings["context"])
    batch = settings["batch"]
    for line in sys.stdin:
        task = json.loads(line)
        if task["epoch"] == 0:
            keras.utils.set_random_seed(task["seed"])
            model = build(keras, vocabulary, settings)
        windows = epoch(train, batch, task["seed"], task["epoch"])
        given = tf.data.Dataset.from_tensor_slices((windows[:, :-1], windows[:, 1:])).batch(batch).prefetch(4)
        start = time.perf_counter()
        model.fit(given, epochs=1, verbose=0)
        seconds = time.perf_counter() - start
        loss = model.evaluate(test[:, :-1], test[:, 1:], batch_size=batch, verbose=0)
        facts = {
            "tokens_per_second": windows.shape[0] * settings["context"] / seconds,
            "loss": float(loss),
            "parameters": model.count_params(),
            "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        }
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
