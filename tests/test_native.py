"""The CPU kernel against its slow twin in torch: random shapes, formats, mixes of sequences, positions."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from writing import open_way, ways_here

from bimo import kernel
from bimo.generate.cache import KeyValueCache
from bimo.generate.native import FORMATS, NativeDecoder
from bimo.generate.stepping import TorchSteps, open_steps
from bimo.kernel import LIBRARY, best_instructions, load_library
from bimo.models.config import ModelConfig, RotaryScaling
from bimo.models.layers import Linear
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.weights.gguf import GGUFModel
from bimo.weights.gguf_blocks import StoredMatrix


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Models this small are sooner computed by one thread than shared out to two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ROOT = Path(__file__).parents[1]
BLOCKS = {"Q4_0": (32, 18, (0,)), "Q4_1": (32, 20, (0, 2)), "Q8_0": (32, 34, (0,)), "Q4_K": (256, 144, (0, 2))}
BLOCKS |= {"Q6_K": (256, 210, (208,))}
"""Columns and bytes of a block, and where its float16 scales stand."""
QUANTISED = tuple(BLOCKS)


def random_matrix(random: np.random.Generator, format: str, rows: int, columns: int) -> StoredMatrix:
    """Random numbers in a format, about as large as those of a model that learns."""
    size = columns**-0.5
    if format in BLOCKS:
        block_columns, block_bytes, scales = BLOCKS[format]
        blocks = random.integers(0, 256, (rows * columns // block_columns, block_bytes), dtype=np.uint8)
        largest = {"Q4_0": 8, "Q4_1": 15, "Q8_0": 127, "Q4_K": 15 * 63, "Q6_K": 32 * 127}[format]
        for place in scales:
            halves = (size * 2 / largest * random.uniform(0.5, 1.5, len(blocks))).astype("<f2")
            blocks[:, place : place + 2] = halves.view(np.uint8).reshape(-1, 2)
        return StoredMatrix(rows, columns, format, blocks.reshape(rows, -1))
    numbers = random.normal(0, size, (rows, columns)).astype("<f4")
    if format == "BF16":
        halves = (numbers.view("<u4") >> 16).astype("<u2")
        return StoredMatrix(rows, columns, format, halves.view(np.uint8))
    return StoredMatrix(rows, columns, format, numbers.astype("<f2" if format == "F16" else "<f4").view(np.uint8))


def random_config(random: np.random.Generator, columns: int) -> ModelConfig:
    """A shape whose widths are multiples of `columns`, else anything."""
    kv_heads = int(random.integers(1, 4))
    heads = kv_heads * int(random.integers(1, 5))
    head_width = 2 * int(random.integers(1, 40))
    if heads * head_width % columns:
        heads, kv_heads, head_width = (4, 2, columns // 4) if random.random() < 0.5 else (2, 1, columns // 2)
    width, hidden = (int(random.integers(1, 320 // columns + 2)) * columns for _ in range(2))
    return ModelConfig(
        vocabulary=int(random.integers(2, 200)),
        layers=int(random.integers(1, 3)),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        hidden=hidden,
        context=64,
        qk_norm=bool(random.integers(2)),
        tied=bool(random.integers(2)),
        rope_theta=float(random.choice([1e2, 1e4, 1e6])),
        norm_epsilon=float(random.choice([1e-6, 1e-5])),
        biases=str(random.choice(["none", "qkv"])),
        rope_scaling=RotaryScaling("yarn", 4.0, original=16, attention=1.1) if random.integers(2) else None,
    )


def random_weights(
    random: np.random.Generator, config: ModelConfig, formats: tuple[str, ...]
) -> dict[str, StoredMatrix]:
    """A model's weights, each matrix in one of `formats`; vectors are float32 around one."""
    weights = {}
    for name, weight in Decoder(config).named_parameters():
        if weight.ndim == 1:
            vector = random.normal(1, 0.2, (1, len(weight))).astype("<f4")
            weights[name] = StoredMatrix(1, len(weight), "F32", vector.view(np.uint8))
        else:
            weights[name] = random_matrix(random, str(random.choice(formats)), *weight.shape)
    return weights


def rounded_to_bytes(x: torch.Tensor) -> torch.Tensor:
    """Each 32 numbers as whole multiples of a 127th of the largest, as the kernel rounds them."""
    padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
    step = padded.abs().amax(-1, keepdim=True) / 127
    whole = torch.where(step > 0, (padded / step).round(), 0.0)
    return (whole * step).flatten(-2)[..., : x.shape[-1]]


def as_kept(matrix: StoredMatrix) -> np.ndarray:
    """The numbers that the kernel keeps of a matrix: those of 6 bits are rounded to bytes, a scale for every 32."""
    numbers = matrix.dequantised()
    if matrix.format != "Q6_K":
        return numbers
    groups = numbers.reshape(-1, 32)
    scale = (np.abs(groups).max(1, keepdims=True) / np.float32(127)).astype(np.float16).astype(np.float32)
    whole = np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0).round().clip(-127, 127)
    return (whole * scale).reshape(numbers.shape)


class RoundedSteps(TorchSteps):
    """The twin, rounding what the kernel rounds: 6 bits, inputs of quantised matrices, and keys and values."""

    def __init__(self, config: ModelConfig, weights: dict[str, StoredMatrix]) -> None:
        model = Decoder(config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(torch.from_numpy(as_kept(weights[name])).view(weight.shape))
        names = {id(weight): name for name, weight in model.named_parameters()}
        for module in model.modules():
            if isinstance(module, Linear) and weights[names[id(module.weight)]].format in QUANTISED:
                module.register_forward_pre_hook(lambda _, inputs: rounded_to_bytes(inputs[0]))
        super().__init__(model)
        self._kept = torch.float32 if all(matrix.format == "F32" for matrix in weights.values()) else torch.float16

    def reserve(self, slots: int, positions: int) -> None:
        self._cache = KeyValueCache(
            self.config, slots=slots, positions=positions, device=torch.device("cpu"), dtype=self._kept
        )
        self.slots, self.positions = slots, positions


def random_steps(random: np.random.Generator, config: ModelConfig, slots: int, positions: int):
    """A few steps in which sequences come, grow by one or many tokens, are copied, and leave."""
    lengths = [0] * slots
    for _ in range(int(random.integers(2, 6))):
        if random.random() < 0.2:
            source, target = (int(slot) for slot in random.integers(0, slots, 2))
            lengths[target] = int(random.integers(0, lengths[source] + 1)) if source != target else lengths[source]
            yield "copy", (source, target, lengths[target])
        tokens, slot_of, places = [], [], []
        for slot in random.permutation(slots)[: random.integers(1, slots + 1)]:
            if random.random() < 0.2:
                lengths[slot] = 0
            room = positions - lengths[slot]
            count = min(room, 1 if random.random() < 0.6 else int(random.integers(1, 40)))
            tokens += random.integers(0, config.vocabulary, count).tolist()
            slot_of += [int(slot)] * count
            places += range(lengths[slot], lengths[slot] + count)
            lengths[slot] += count
        if tokens:
            # In any order, some twice, and none too.
            wanted = random.permutation(len(tokens))[: random.integers(0, len(tokens) + 1)]
            if len(wanted) > 1:
                wanted[0] = wanted[1]
            yield "step", (np.array(tokens), np.array(slot_of), np.array(places), wanted)


def largest_difference(seed: int, formats: tuple[str, ...], instructions: str) -> float:
    """Root mean square of what kernel and twin differ by, as a share of the logits'; the worst of a few steps."""
    random = np.random.default_rng(seed)
    columns = 1 if not set(formats) & set(QUANTISED) else 256 if set(formats) & {"Q4_K", "Q6_K"} else 32
    config = random_config(random, columns)
    weights = random_weights(random, config, formats)
    slots, positions = int(random.integers(1, 7)), int(random.integers(20, 64))
    kernel = NativeDecoder(config, weights, threads=int(random.integers(1, 4)), instructions=instructions)
    twin = RoundedSteps(config, weights)
    for steps in (kernel, twin):
        steps.reserve(slots, positions)
    worst = 0.0
    for action, arguments in random_steps(random, config, slots, positions):
        if action == "copy":
            kernel.copy(*arguments)
            twin.copy(*arguments)
            continue
        found, expected = kernel.step(*arguments), twin.step(*arguments)
        assert found.shape == expected.shape == (len(arguments[-1]), config.vocabulary)
        if found.size:
            worst = max(worst, float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))))
    return worst


KINDS = {
    "float32": ("F32",),
    "16 bits": ("F16", "BF16"),
    "small blocks": ("Q4_0", "Q4_1", "Q8_0"),
    "large blocks": ("Q4_K",),
    "6 bits": ("Q6_K",),
    "mixed": FORMATS,
}
ALLOWED = {"float32": 2e-5, "16 bits": 2e-3}
"""What the worst may differ by. With bytes, one that rounds to the other side is soon 1 % of a model this small, but
few do: the median is far below, and a scale or minimum that is wrong far above."""
BYTES_ALLOWED, BYTES_MEDIAN = 4e-2, 1e-2


def check_models(kind: str, seeds: range, ways: list[str]) -> None:
    """Kernel and twin agree on a random model for each seed, in turn with each instruction set."""
    differences = {}
    for seed in seeds:
        # The plain one is slow: it has every fifth.
        way = ways[0] if seed % 5 == 0 or len(ways) == 1 else ways[1:][seed % len(ways[1:])]
        differences[seed, way] = largest_difference(seed, KINDS[kind], way)
    worst = max(differences, key=differences.__getitem__)
    assert differences[worst] < ALLOWED.get(kind, BYTES_ALLOWED), worst
    assert np.median(list(differences.values())) < min(BYTES_MEDIAN, ALLOWED.get(kind, 1))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(7))
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_kernel_computes_what_its_twin_does(kind: str, block: int) -> None:
    """6 kinds x 7 x 25 = 1,050 random models, in turn with each instruction set that is here."""
    ways = [way for way in ways_here() if way != "torch"]
    if not ways:
        pytest.skip("the kernel is not built, or BIMO_KERNEL forbids it")
    check_models(kind, range(block * 25, block * 25 + 25), ways)


@pytest.mark.parametrize("instructions", [way for way in ways_here() if way != "torch"])
def test_matrices_lie_in_as_many_regions_as_they_take(instructions: str) -> None:
    """18 MB in the layers, where a region has 16, and an embedding that is larger than one."""
    random = np.random.default_rng(3)
    config = ModelConfig(
        vocabulary=17_000, layers=5, width=256, heads=4, kv_heads=2, head_width=64, hidden=960, context=64
    )
    weights = random_weights(random, config, ("F32",))
    kernel = NativeDecoder(config, weights, threads=2, instructions=instructions)
    twin = RoundedSteps(config, weights)
    found, expected = [], []
    for steps, logits in ((kernel, found), (twin, expected)):
        steps.reserve(1, 20)
        logits.append(steps.step(np.arange(20) * 849, np.zeros(20), np.arange(20), np.arange(20)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=ALLOWED["float32"] * float(np.std(expected)) * 5)


@pytest.mark.parametrize("instructions", [way for way in ways_here() if way != "torch"])
def test_the_largest_bytes_times_the_largest_weights_of_four_bits_fit(instructions: str) -> None:
    """Whichever numbers sums are kept in: 32 products of 15 and 127, and of 15 and -127, in every group."""
    random = np.random.default_rng(4)
    config = ModelConfig(
        vocabulary=32, layers=1, width=64, heads=2, kv_heads=1, head_width=32, hidden=64, context=16, tied=False
    )
    weights = random_weights(random, config, ("F32",))
    for name in ("layers.0.attention.out.weight", "layers.0.feed_forward.down.weight"):
        weights[name].data[:] = 0  # the layer leaves what it gets as it is
    weights["norm.weight"].data[:] = np.ones((1, 64), "<f4").view(np.uint8)
    signs = np.where(np.arange(32) % 2, -1, 1).astype("<f4")
    weights["embedding.weight"].data[:] = np.repeat(signs[:, None], 64, 1).view(np.uint8)
    block = np.full((32, 2, 20), 255, np.uint8)
    block[..., :4] = np.array([1, 0], "<f2").view(np.uint8)
    weights["head.weight"] = StoredMatrix(32, 64, "Q4_1", block.reshape(32, -1))
    steps = open_way(instructions, Decoder(config), weights)
    steps.reserve(8, 4)
    found = steps.step(np.arange(8), np.arange(8), np.zeros(8), np.arange(8))
    np.testing.assert_allclose(found, np.repeat(signs[:8, None] * 15 * 64, 32, 1), rtol=1e-4)


def test_a_sequence_gets_the_same_numbers_alone_and_in_company() -> None:
    random = np.random.default_rng(5)
    config = random_config(random, 32)
    weights = random_weights(random, config, ("Q4_1", "Q8_0", "F16"))
    tokens = random.integers(0, config.vocabulary, (6, 30))
    results = []
    for together in (False, True):
        steps = open_way(best_instructions() or "plain", Decoder(config), weights)
        steps.reserve(6, 30)
        if together:
            slots, places = np.repeat(np.arange(6), 20), np.tile(np.arange(20), 6)
            steps.step(tokens[:, :20].flatten(), slots, places, np.array([], dtype=np.int32))
            results.append([steps.step(tokens[:, i], np.arange(6), np.full(6, i), np.arange(6)) for i in range(20, 30)])
        else:
            alone = [
                [steps.step(tokens[row, i : i + 1], [row], [i], [0])[0] for i in range(30)][20:] for row in range(6)
            ]
            results.append([np.stack(logits) for logits in zip(*alone, strict=True)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_bytes_and_instructions_agree_to_the_last_bit() -> None:
    """AVX2 adds up in AVX-512's order, so what one machine writes, the other writes too."""
    if not {"avx2", "avx512"} <= set(ways_here()):
        pytest.skip("this processor has not both")
    random = np.random.default_rng(1)
    config = random_config(random, 32)
    weights = random_weights(random, config, ("Q4_0", "Q8_0", "BF16", "F32"))
    logits = []
    for instructions in ("avx2", "avx512"):
        steps = open_way(instructions, Decoder(config), weights)
        steps.reserve(1, 50)
        logits.append(steps.step(np.arange(50) % config.vocabulary, np.zeros(50), np.arange(50), np.arange(50)))
    np.testing.assert_array_equal(*logits)


def test_more_threads_than_processors_change_nothing() -> None:
    random = np.random.default_rng(2)
    config = random_config(random, 32)
    weights = random_weights(random, config, ("Q4_1",))
    logits = []
    for threads in (1, 5):
        steps = open_way(best_instructions() or "plain", Decoder(config), weights, threads=threads)
        steps.reserve(1, 10)
        logits.append(steps.step(np.arange(10) % config.vocabulary, np.zeros(10), np.arange(10), np.arange(10)))
    np.testing.assert_array_equal(*logits)


def test_what_does_not_fit_is_not_computed() -> None:
    random = np.random.default_rng(3)
    config = random_config(random, 32)
    steps = open_way(best_instructions() or "plain", Decoder(config), random_weights(random, config, ("F32",)))
    steps.reserve(2, 4)
    for token, slot, place, wanted in (
        (config.vocabulary, 0, 0, 0),
        (-1, 0, 0, 0),
        (0, 2, 0, 0),
        (0, 0, 4, 0),
        (0, 0, -1, 0),
        (0, 0, 0, 1),
    ):
        with pytest.raises(AssertionError, match="refused"):
            steps.step([token], [slot], [place], [wanted])
    with pytest.raises(AssertionError, match="refused"):
        steps.copy(0, 2, 1)
    incomplete = random_weights(random, config, ("F32",))
    del incomplete["layers.0.attention.out.weight"]
    steps = open_way(best_instructions() or "plain", Decoder(config), incomplete)
    steps.reserve(1, 4)
    with pytest.raises(AssertionError, match="refused"):
        steps.step([0], [0], [0], [0])


@pytest.mark.skipif(not LIBRARY.is_file(), reason="the kernel is not built")
def test_memory_that_is_not_there_is_said() -> None:
    config = random_config(np.random.default_rng(4), 32)
    steps = NativeDecoder(config, {}, threads=1, instructions="plain")
    with pytest.raises(UserError, match="not enough memory"):
        steps.reserve(2**20, 2**20)


# --- which of the two computes


def test_a_compiler_makes_a_kernel() -> None:
    if not shutil.which("c++") and not shutil.which("g++"):
        pytest.skip("there is no C++ compiler here")
    assert LIBRARY.is_file(), "pip install . builds it where a compiler is"


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch, make_model) -> None:
    model = make_model()
    monkeypatch.setenv("BIMO_KERNEL", "torch")
    assert best_instructions() is None
    assert isinstance(open_steps(model), TorchSteps)
    monkeypatch.setenv("BIMO_KERNEL", "neon")
    with pytest.raises(UserError, match=r"BIMO_KERNEL asks for neon, but here there is: .*torch\."):
        open_steps(model)
    if LIBRARY.is_file():
        monkeypatch.setenv("BIMO_KERNEL", "plain")
        assert isinstance(open_steps(model), NativeDecoder)


def test_formats_that_the_kernel_does_not_know_are_left_to_torch() -> None:
    random = np.random.default_rng(6)
    config = random_config(random, 32)
    weights = random_weights(random, config, ("F32",))
    blocks = random.integers(0, 256, (config.hidden * config.width // 32, 22), dtype=np.uint8)
    blocks[:, :2] = np.full(len(blocks), 0.01, dtype="<f2").view(np.uint8).reshape(-1, 2)
    name = "layers.0.feed_forward.up.weight"
    weights[name] = StoredMatrix(config.hidden, config.width, "Q5_0", blocks.reshape(config.hidden, -1))
    assert isinstance(open_steps(GGUFModel(config, weights, {})), TorchSteps)


# --- sanitizers


@functools.cache
def sanitizer_runtime() -> str | None:
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    found = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return found if Path(found).is_absolute() else None


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """The same random models under the address and undefined-behaviour sanitizers, in a process of their own."""
    runtime = sanitizer_runtime()
    if runtime is None:
        pytest.skip("g++ with its sanitizers is not here")
    library = tmp_path / "libbimo.so"
    options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
    subprocess.run([sys.executable, str(ROOT / "native" / "build.py"), str(library), *options], check=True)
    script = (
        "import sys; from pathlib import Path\n"
        "from bimo import kernel\n"
        "kernel.LIBRARY = Path(sys.argv[1])\n"
        "import test_constraints, test_copying, test_fused, test_native, torch\n"
        "torch.set_num_threads(1)\n"
        "ways = kernel.INSTRUCTIONS[: kernel.INSTRUCTIONS.index(kernel.best_instructions()) + 1]\n"
        "for kind in test_native.KINDS:\n"
        "    test_native.check_models(kind, range(15), list(ways))\n"
        "test_fused.check_operations(ways, range(5))\n"
        "test_copying.test_the_longest_runs_are_those_of_the_slow_twin()\n"
        "test_constraints.test_masks_are_those_of_the_slow_twin(test_constraints.regex('(ab)*b?|a{3}中'), True)\n"
        "print('nothing found')\n"
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'src'}",
        "BIMO_KERNEL": "",
    }
    command = [sys.executable, "-c", script, str(library)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert found.stdout == "nothing found\n", found.stderr[-3000:]


@pytest.fixture
def no_library_yet() -> Iterator[None]:
    load_library.cache_clear()
    yield
    load_library.cache_clear()


def test_a_core_that_cannot_be_loaded_is_none(no_library_yet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As one that was built where GCC's libraries are, and copied to where they are not."""
    (tmp_path / "libbimo.so").write_bytes(b"no library")
    monkeypatch.setattr(kernel, "LIBRARY", tmp_path / "libbimo.so")
    monkeypatch.delenv("BIMO_KERNEL", raising=False)
    assert load_library() is None
    assert best_instructions() is None


@pytest.mark.parametrize("entries", [{}, {"bimo_interface": lambda: kernel.INTERFACE - 1}], ids=["older", "other"])
def test_a_core_of_other_sources_is_none(
    no_library_yet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, Callable[[], int]]
):
    (tmp_path / "libbimo.so").touch()
    monkeypatch.setattr(kernel, "LIBRARY", tmp_path / "libbimo.so")
    monkeypatch.setattr(kernel.ctypes, "CDLL", lambda path: SimpleNamespace(**entries))
    assert load_library() is None


def test_the_number_of_the_interface_is_that_of_the_header():
    header = (Path(__file__).parents[1] / "native" / "bimo.h").read_text(encoding="utf-8")
    assert f"#define BIMO_INTERFACE {kernel.INTERFACE}\n" in header
