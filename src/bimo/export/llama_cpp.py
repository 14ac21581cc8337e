"""llama.cpp, by either of the packages that bring it.

Keys and values are float32 and weights stay as their file has them, so that what differs is the arithmetic alone. (What
llama.cpp makes of quantised weights for a processor's matrix units has crashed on some machines.)
"""

from __future__ import annotations

import ctypes
import functools
import json
import secrets
import urllib.error
import urllib.request
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bimo.export.comparison import LIKELIEST, render
from bimo.export.source import Source
from bimo.runtime import UserError, t

__all__ = ["LlamaCpp", "XLlamaCpp"]

CONTEXT = 512
"""Positions that are enough for a comparison."""


class LlamaCpp:
    """llama.cpp in this process, by the C interface that llama-cpp-python brings."""

    def __init__(self, path: Path, written: Source) -> None:
        import llama_cpp as native

        self._native: Any = native
        native.llama_log_set(_silence(), None)
        self.name = f"llama.cpp (llama-cpp-python {native.__version__})"
        self._written = written
        of_model = native.llama_model_default_params()
        of_model.n_gpu_layers, of_model.use_extra_bufts = 0, False
        self._model = native.llama_model_load_from_file(str(path).encode(), of_model)
        if not self._model:
            fault = t("it does not say why")
            raise UserError("{engine} cannot load what was written: {error}.", engine=self.name, error=fault)
        self._vocabulary = native.llama_model_get_vocab(self._model)
        of_context = native.llama_context_default_params()
        of_context.n_ctx = of_context.n_batch = of_context.n_ubatch = min(CONTEXT, written.config.context)
        of_context.type_k = of_context.type_v = native.GGML_TYPE_F32
        of_context.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = native.llama_init_from_model(self._model, of_context)

    def tokens(self, text: str) -> list[int]:
        """As in Engine."""
        return self._tokens(text, begin=True, special=False)

    def _tokens(self, text: str, *, begin: bool, special: bool) -> list[int]:
        raw = text.encode()
        room = len(raw) + 2
        ids = (ctypes.c_int32 * room)()
        count = self._native.llama_tokenize(self._vocabulary, raw, len(raw), ids, room, begin, special)
        return ids[:count]

    def special(self) -> dict[str, int]:
        """As in Engine."""
        names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "pad"}
        found = {
            name: getattr(self._native, f"llama_vocab_{theirs}")(self._vocabulary) for name, theirs in names.items()
        }
        return {name: number for name, number in found.items() if number >= 0}

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        """As in Engine, by the template that llama.cpp found; its own interpreter is not in the C interface."""
        raw = self._native.llama_model_chat_template(self._model, None)
        return render(replace(self._written, template=raw.decode() if raw else None), messages)

    def chat_tokens(self, text: str) -> list[int]:
        """As in Engine."""
        return self._tokens(text, begin=False, special=True)

    def predict(self, ids: list[int]) -> np.ndarray:
        """As in Engine."""
        self._native.llama_memory_clear(self._native.llama_get_memory(self._context), True)
        return self._read(ids)

    def _read(self, ids: list[int]) -> np.ndarray:
        """Log-probabilities after `ids`, which go on from what was read; float32 [V]"""
        tokens = (ctypes.c_int32 * len(ids))(*ids)  # a batch only points to them
        code = self._native.llama_decode(self._context, self._native.llama_batch_get_one(tokens, len(ids)))
        assert code == 0, f"llama_decode says {code}"
        logits = self._native.llama_get_logits_ith(self._context, -1)
        numbers = np.ctypeslib.as_array(logits, (self._native.llama_vocab_n_tokens(self._vocabulary),))
        numbers = numbers.astype(np.float64)
        return (numbers - np.logaddexp.reduce(numbers)).astype(np.float32)

    def write(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """As in Engine."""
        written = []
        for ids in prompts:
            found = [int(self.predict(ids).argmax())]
            while len(found) < count:
                found.append(int(self._read(found[-1:]).argmax()))
            written.append(found)
        return written

    def close(self) -> None:
        """As in Engine."""
        self._native.llama_free(self._context)
        self._native.llama_model_free(self._model)


@functools.cache
def _silence() -> Any:
    """What llama.cpp calls with its messages, as long as this process lives."""
    import llama_cpp as native

    return native.llama_log_callback(lambda level, text, data: None)


class XLlamaCpp:
    """llama.cpp's server in this process, through xllamacpp, on the loopback interface behind a key of its own."""

    def __init__(self, path: Path, written: Source) -> None:
        import xllamacpp

        self.name = f"llama.cpp (xllamacpp {metadata.version('xllamacpp')})"
        self._written, self._vocabulary = written, written.config.vocabulary
        self._letter = written.tokenizer.encode("a")[0]
        self._key = secrets.token_urlsafe(16)
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_parallel = min(CONTEXT, written.config.context), 1
        settings.api_keys = [self._key]
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.no_extra_bufts = True
        settings.warmup = settings.fit_params = settings.ui = False
        settings.verbosity = -1
        try:
            self._server: Any = xllamacpp.Server(settings)
        except RuntimeError as error:
            raise UserError("{engine} cannot load what was written: {error}.", engine=self.name, error=error) from None

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Post, or without a body get."""
        request = urllib.request.Request(
            self._server.listening_address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        # A proxy that the environment names has no business here.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        """As in Engine."""
        return self._ask("/tokenize", {"content": text, "add_special": True, "parse_special": False})["tokens"]

    def special(self) -> dict[str, int]:
        """As in Engine."""
        told = self._ask("/props")
        return {role: self._id(told[role]) for role in ("bos_token", "eos_token") if told[role]}

    def _id(self, token: str) -> int:
        ids = self.chat_tokens(token)
        return ids[0] if len(ids) == 1 else -1

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        """As in Engine. Without a template llama.cpp would take ChatML, which is not the model's.

        A beginning that its tokenizer puts before every text is taken away by llama.cpp, and put back here.
        """
        if self._written.template is None:
            return None
        try:
            prompt = self._ask("/apply-template", {"messages": messages})["prompt"]
        except urllib.error.HTTPError:
            return None
        whole = self._beginning + prompt
        return whole if whole == render(self._written, messages) else prompt

    @functools.cached_property
    def _beginning(self) -> str:
        """What its tokenizer puts before every text."""
        return self._ask("/props")["bos_token"] if self.tokens("") else ""

    def chat_tokens(self, text: str) -> list[int]:
        """As in Engine."""
        return self._ask("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]

    def predict(self, ids: list[int]) -> np.ndarray:
        """As in Engine, of the likeliest tokens: it takes its time over each.

        It is made to write a letter, since of tokens that end within a character llama.cpp says nothing; what it says
        of all tokens is from before it was made to.
        """
        scores = np.full(self._vocabulary, np.nan, dtype=np.float32)
        asked = {"n_predict": 1, "n_probs": min(LIKELIEST, self._vocabulary), "logit_bias": [[self._letter, 1e4]]}
        (written,) = self._ask("/completion", {"prompt": ids, **asked})["completion_probabilities"]
        for token in written["top_logprobs"]:
            scores[token["id"]] = token["logprob"]
        return scores

    def write(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """As in Engine: where it stops at an end, it is asked to go on."""
        written = []
        for ids in prompts:
            found: list[int] = []
            while len(found) < count:
                asked = {"n_predict": count - len(found), "temperature": 0, "return_tokens": True}
                found += self._ask("/completion", {"prompt": ids + found, **asked})["tokens"]
            written.append(found)
        return written

    def close(self) -> None:
        """As in Engine."""
        del self._server
