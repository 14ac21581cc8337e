"""Hugging Face folders, as transformers, peft and vLLM load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from bimo.export.comparison import Engine, OurEngine
from bimo.export.source import Source, open_source
from bimo.files import replacing, write_json
from bimo.runtime import UserError
from bimo.tokens.tokenizer import ROLES
from bimo.weights.chat_templates import TEMPLATE_FILE
from bimo.weights.gguf_blocks import StoredMatrix, quantise
from bimo.weights.layouts import model_config_to_hf, to_hf

__all__ = ["load_there", "open_hf", "round_hf", "write_hf"]

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def round_hf(source: Source, form: str) -> dict[str, StoredMatrix]:
    """The weights as the folder will have them, norms in the same format as everything."""
    return {
        name: matrix
        if matrix.format == form
        else StoredMatrix(matrix.rows, matrix.columns, form, quantise(matrix.dequantised(), form))
        for name, matrix in source.weights.items()
    }


def write_hf(folder: Path, source: Source, form: str) -> None:
    """Write configuration, weights, tokenizer, chat template and generation settings."""
    dtype = DTYPES[form]
    special = {f"{role}_id": number for role, number in source.special.items() if role in ("bos_token", "pad_token")}
    settings = model_config_to_hf(source.config, end=source.tokenizer.end) | special
    write_json(folder / "config.json", settings | {"dtype": str(dtype).removeprefix("torch.")})
    ends = sorted(source.ends)
    generation = source.generation | {"eos_token_id": ends[0] if len(ends) == 1 else ends}
    write_json(folder / "generation_config.json", generation)
    source.tokenizer.save(folder, context=source.config.context)
    if source.template is not None:
        with replacing(folder / TEMPLATE_FILE) as part:
            part.write_bytes(source.template.encode())
    tensors = {}
    for name, matrix in source.weights.items():
        numbers = torch.from_numpy(matrix.dequantised())
        tensors[name] = (numbers[0] if matrix.rows == 1 else numbers).to(dtype)
    with replacing(folder / "model.safetensors") as part:
        save_file(to_hf(tensors, source.config), part, metadata={"format": "pt"})


def open_hf(folder: Path) -> Engine:
    """With transformers where it is installed, else with our own reader."""
    try:
        return _Transformers(folder)
    except ImportError:
        return OurEngine(open_source(folder))


def load_there(folder: Path, kind: str) -> tuple[str, Any, Any]:
    """(transformers and its version, the model of such a class in float32, the tokenizer).

    Raises ImportError where transformers is not installed, and UserError when it cannot load the folder.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError("{engine} cannot load what was written: {error}.", engine="transformers", error=error) from None
    return f"transformers {transformers.__version__}", model, tokenizer


class _Transformers:
    """A folder in transformers, in float32."""

    def __init__(self, folder: Path) -> None:
        self.name, self._model, self._tokenizer = load_there(folder, "AutoModelForCausalLM")

    def tokens(self, text: str) -> list[int]:
        """As in Engine."""
        return self._tokenizer(text).input_ids

    def special(self) -> dict[str, int]:
        """As in Engine."""
        found = {role: getattr(self._tokenizer, f"{role}_id", None) for role in ROLES}
        return {role: number for role, number in found.items() if number is not None}

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        """As in Engine."""
        from jinja2.exceptions import TemplateError

        if self._tokenizer.chat_template is None:
            return None
        try:
            return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
            return None

    def chat_tokens(self, text: str) -> list[int]:
        """As in Engine."""
        return self._tokenizer(text, add_special_tokens=False).input_ids

    @torch.inference_mode()
    def predict(self, ids: list[int]) -> np.ndarray:
        """As in Engine."""
        return self._model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1).numpy()

    def write(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """As in Engine."""
        from transformers import GenerationConfig

        # Without an end it goes on for all tokens.
        self._model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, max_new_tokens=count)
        written = []
        for ids in prompts:
            inputs = torch.tensor([ids])
            found = self._model.generate(inputs, attention_mask=torch.ones_like(inputs))
            written.append(found[0, len(ids) :].tolist())
        return written

    def close(self) -> None:
        """As in Engine."""
        del self._model
