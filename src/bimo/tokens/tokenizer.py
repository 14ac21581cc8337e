"""Text <-> token ids: byte-level BPE whose merges are learned inside words (docs/decisions.md)."""

from __future__ import annotations

import functools
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

from bimo.files import LARGEST_JSON, replacing, write_json
from bimo.runtime import UserError
from bimo.text.segment import mark_words
from bimo.tokens.roles import END_OF_TEXT, ROLES, as_control_tokens, settings_beside, tokens_by_role
from bimo.tokens.shards import join_documents
from bimo.tokens.tokenizer_file import require_harmless
from bimo.tokens.wordpiece import read_wordpiece

__all__ = [
    "END_OF_TEXT",
    "PADDING",
    "ROLES",
    "StreamDecoder",
    "Tokenizer",
    "ahead",
    "choose_vocabulary",
    "in_batches",
    "load_tokenizer",
    "longest_tokens",
    "train_tokenizer",
    "with_padding",
]

PADDING = "<pad>"
"""As Marian's models call it: converters look for the name."""

# The pre-tokenizer of Qwen2, which transformers, llama.cpp and vLLM know by name.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORD_MARK = "\ue000"
"""Marks the borders of words while merges are learned. A private-use character: `clean` keeps it out of the text."""

Item = TypeVar("Item")

LONGEST_TOKEN_BYTES = 32
TOKENS_BEFORE = 8
"""On which it may depend what a token looks like: as many as the longest character can have."""
SMALLEST_VOCABULARY = 512
LARGEST_VOCABULARY = 32_768


class Tokenizer:
    """A tokenizer whose special tokens are known by their roles. What we train brings any text back exactly.

    `special` has roles as `tokenizer_config.json` names them (`eos_token`), and the tokens that have them; without it
    END_OF_TEXT has all roles. `end` is the id that ends a text, `begin` are those that stand before it.
    Text that spells a special token is encoded as ordinary text: nobody's words can become a control token. Whatever
    has a role is one, but for single characters, without which texts could not be written.
    """

    def __init__(self, inner: tokenizers.Tokenizer, special: dict[str, str] | None = None) -> None:
        self.inner = inner
        inner.encode_special_tokens = True
        self.special = special or dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
        inner.add_special_tokens(as_control_tokens(inner, self.special.values()))
        name = self.special.get("eos_token") or self.special.get("sep_token") or END_OF_TEXT
        end = inner.token_to_id(name)
        if end is None:
            raise UserError(
                "The tokenizer has no {token} token, which Bimo puts between documents. Add it, or train a tokenizer.",
                token=name,
            )
        self.end: int = end
        if special is None:
            # Other libraries then begin a text as training did, whatever the tokenizer that was brought did before.
            inner.post_processor = processors.TemplateProcessing(
                single=f"{END_OF_TEXT} $A",
                pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
                special_tokens=[(END_OF_TEXT, end)],
            )
        framed = inner.encode("a")
        marks = itertools.takewhile(bool, framed.special_tokens_mask)
        self.begin: list[int] = framed.ids[: len(list(marks))]
        if len(self.begin) == len(framed.ids) and self.begin[1:] == [end]:  # it has no "a", and frames nothing
            self.begin.pop()

    @property
    def vocabulary(self) -> int:
        """How many ids there are, special ones included."""
        return self.inner.get_vocab_size(with_added_tokens=True)

    def special_id(self, role: str) -> int:
        """The id of the special token that has a role. Raises UserError when none has it."""
        found = self.inner.token_to_id(self.special[role]) if role in self.special else None
        if found is None:
            raise UserError("The tokenizer has no {role}, which this model needs.", role=role)
        return found

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        ids = self.inner.encode(text, add_special_tokens=False).ids
        return ids if self._forbidden.isdisjoint(ids) else [id for id, _ in self.plain_ids(text)]

    def plain_ids(self, text: str, *, inside: bool = False) -> list[tuple[int, int]]:
        """(id, where in the text it begins) for each token of a text, none of them a special one but the unknown.

        `inside` says that the text follows another. Some vocabularies hold special tokens as words like others. Raises
        UserError when one of them is a character.
        """
        found: list[tuple[int, int]] = []
        parts = [(0, text)]
        while parts:
            begin, part = parts.pop()
            inner = self._inside if inside or begin else self.inner
            encoding = inner.encode(part, add_special_tokens=False)
            if self._forbidden.isdisjoint(encoding.ids):
                found += ((id, begin + start) for id, (start, _) in zip(encoding.ids, encoding.offsets, strict=True))
                continue
            spelled = [span for id, span in zip(encoding.ids, encoding.offsets, strict=True) if id in self._forbidden]
            if any(end - start < 2 for start, end in spelled):
                raise UserError("The tokenizer takes {part!r} for a special token.", part=part[slice(*spelled[0])])
            cuts = [0, *(start + 1 for start, _ in spelled), len(part)]
            parts += [(begin + start, part[start:end]) for start, end in itertools.pairwise(cuts)][::-1]
        return found

    @functools.cached_property
    def _inside(self) -> tokenizers.Tokenizer:
        """As `inner` encodes what does not begin a text: the library puts the blank of SentencePiece at its place 0."""
        first, never = ('"prepend_scheme":"first"', '"prepend_scheme":"never"')
        described = self.inner.to_str()
        if first not in described:
            return self.inner
        inner = tokenizers.Tokenizer.from_str(described.replace(first, never))
        inner.encode_special_tokens = True
        return inner

    @functools.cached_property
    def _forbidden(self) -> frozenset[int]:
        """Special tokens that no text may become; the one for what is unknown may be, unless it also ends a text."""
        model = self.inner.model
        unknown = getattr(model, "unk_token", None) and self.inner.token_to_id(model.unk_token)
        if isinstance(model, models.Unigram):
            unknown = json.loads(self.inner.to_str())["model"].get("unk_id")
        special = (number for number, token in self.inner.get_added_tokens_decoder().items() if token.special)
        return frozenset(number for number in special if number != unknown or number == self.end)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of many texts, each as `encode` gives them; on all cores."""
        ids, ends = self.encode_flat(texts)
        flat = ids.tolist()
        return [flat[start:end] for start, end in itertools.pairwise([0, *ends.tolist()])]

    def encode_flat(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(The ids of all texts one after another, uint32; the position where each text ends, int64); on all cores."""
        if self._encoder is None:
            encodings = self.inner.encode_batch_fast(texts, add_special_tokens=False)
            found = zip((encoding.ids for encoding in encodings), texts, strict=True)
            plain = (ids if self._forbidden.isdisjoint(ids) else self.encode(text) for ids, text in found)
            return join_documents(list(plain))
        ids, bounds = self._encoder.encode_batch_flat(texts)
        return np.frombuffer(ids, "<u4"), np.frombuffer(bounds, "<u8")[1:].astype(np.int64)

    @functools.cached_property
    def _encoder(self) -> Any:
        return _fast_encoder(self.inner)

    def decode(self, ids: list[int]) -> str:
        """The text of ids; special tokens are left out. A character that was cut becomes U+FFFD."""
        return self.inner.decode(ids, skip_special_tokens=True)

    def pieces(self, text: str) -> list[str]:
        """The text cut at the borders of its tokens; a character that spans several tokens stays with the first."""
        offsets = self.inner.encode(text, add_special_tokens=False).offsets
        cuts = [0, *(start for (_, last), (start, _) in itertools.pairwise(offsets) if start >= last)]
        return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]

    def save(self, folder: Path, *, context: int | None = None) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` as transformers reads them."""
        with replacing(folder / "tokenizer.json") as part:
            part.write_text(self.inner.to_str(), encoding="utf-8")
        # Encoders tell a first text from a second; what is not named here other libraries give no model, or every one.
        kinds = ["token_type_ids"] if {"cls_token", "sep_token", "mask_token"} <= self.special.keys() else []
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", *kinds, "attention_mask"],
            **self.special,
            "add_bos_token": bool(self.begin),
            "clean_up_tokenization_spaces": False,
        }
        if context is not None:
            settings["model_max_length"] = context
        write_json(folder / "tokenizer_config.json", settings)


class StreamDecoder:
    """Turns ids that arrive one by one into text, never cutting a character in two.

    They follow the ids `after`, where there is text before: at the beginning of a text some tokenizers drop a blank.
    """

    def __init__(self, tokenizer: Tokenizer, *, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # SentencePiece's tokens of bytes: as long as a run of them is no text, each comes out as a U+FFFD of its own.
        self._in_runs = tokenizer.inner.token_to_id("<0xE4>") is not None
        # From the last token whose text was given whole: what the next one looks like may depend on it.
        before = [*after[-TOKENS_BEFORE:]]
        text = tokenizer.decode(before)
        # A character may have its first bytes further back.
        while len(before) > 1 and text.startswith("\ufffd"):
            before = before[1:]
            text = tokenizer.decode(before)
        self._ids, self._given = before, len(text)

    def push(self, token: int) -> str:
        """The text that is certain now; empty while a character is not complete."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        # A last U+FFFD may be a character of which bytes are missing; what stands before it is final.
        certain = len(text.rstrip("\ufffd")) if self._in_runs else len(text) - text.endswith("\ufffd")
        ready, self._given = text[self._given : certain], max(self._given, certain)
        if certain == len(text):
            alone = self._tokenizer.decode([token])
            if not (self._in_runs and alone.endswith("\ufffd")):
                self._ids, self._given = [token], len(alone)
        return ready

    def finish(self) -> str:
        """What is left when no more ids come."""
        text = self._tokenizer.decode(self._ids)[self._given :]
        self._ids, self._given = [], 0
        return text


def choose_vocabulary(train_bytes: int) -> int:
    """A vocabulary size for a corpus of so many UTF-8 bytes.

    Roughly the cube root, so that every token is met often enough to be learned (measured in docs/log.md).
    """
    wanted = 26 * max(train_bytes, 1) ** (1 / 3)
    return int(min(max(wanted // 256 * 256, SMALLEST_VOCABULARY), LARGEST_VOCABULARY))


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
    """Learn a byte-level BPE of at most `vocabulary` tokens from texts.

    Merges never cross the borders of segmented words (which also bounds memory on unspaced Chinese); text is
    encoded with the Qwen2 pre-tokenizer, as every engine of the ecosystem can.
    """
    inner = _untrained()
    cut_as_encoding = inner.pre_tokenizer
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(WORD_MARK, "removed"), cut_as_encoding])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=LONGEST_TOKEN_BYTES,
        show_progress=False,
    )
    marked = ([mark_words(text, WORD_MARK) for text in batch] for batch in in_batches(texts, characters=200_000))
    inner.train_from_iterator(ahead(marked), trainer)
    inner.pre_tokenizer = cut_as_encoding
    inner.decoder = decoders.ByteLevel()
    return Tokenizer(inner)


def with_padding(tokenizer: Tokenizer, *, before: Sequence[str] = ()) -> Tokenizer:
    """The same tokenizer with one more token, the last, that fills up batches; other libraries then end each text.

    So Marian's models have it: the end token says that a source is over, the padding begins a target. `before` are
    more special tokens.
    """
    inner = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    inner.add_special_tokens([*before, PADDING])
    end = str(inner.id_to_token(tokenizer.end))
    inner.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, tokenizer.end)])
    return Tokenizer(inner, {"eos_token": end, "unk_token": end, "pad_token": PADDING})


def _untrained() -> tokenizers.Tokenizer:
    """Byte-level BPE that cuts text as Qwen2 does, before it has a vocabulary and merges."""
    inner = tokenizers.Tokenizer(models.BPE())
    steps = [
        pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    inner.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return inner


def _fast_encoder(inner: tokenizers.Tokenizer) -> Any:
    """The same BPE in an engine that is much faster, if but vocabulary and merges it is as `train_tokenizer` makes it.

    None for every other tokenizer that somebody brings: nobody has shown that the ids would be the same.
    """
    import fastokens

    settings, ours = json.loads(inner.to_str()), json.loads(_untrained().to_str())
    merged = {"".join(pair) for pair in settings["model"].get("merges") or ()}
    # The engine does not look whether merges lead to a special token.
    if any(not token["special"] or token["content"] in merged for token in settings["added_tokens"]):
        return None
    # Special tokens are not looked for in text, and neither what frames it nor decoding is asked of the engine.
    settings |= {"added_tokens": [], "post_processor": None, "decoder": None}
    ours["model"] |= {name: settings["model"].get(name) for name in ("vocab", "merges")}
    if settings != ours or not ours["model"]["vocab"].keys() >= set(pre_tokenizers.ByteLevel.alphabet()):
        return None
    return fastokens.Tokenizer.from_json_str(json.dumps(settings))


def load_tokenizer(path: Path) -> Tokenizer:
    """Read `tokenizer.json`, given as that file or the folder that holds it. Raises UserError when it is none.

    `tokenizer_config.json` beside it, or the older `special_tokens_map.json`, says which tokens have special roles. A
    folder of BERT's may hold `vocab.txt` instead.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    settings = settings_beside(file)
    words = file.with_name("vocab.txt")
    try:
        if path.is_dir() and not file.exists() and words.is_file():
            return Tokenizer(*read_wordpiece(words, settings))
        if not file.is_file():
            raise FileNotFoundError
        with file.open("rb") as opened:
            raw = opened.read(LARGEST_JSON + 1)
        require_harmless(raw, where=file)
        inner = tokenizers.Tokenizer.from_str(raw.decode("utf-8"))
        # How long texts may be is not for a tokenizer to say.
        inner.no_padding()
        inner.no_truncation()
        if isinstance(inner.model, models.BPE):
            inner.model.dropout = None  # it was for training: the ids of a text are to be the same each time
        return Tokenizer(inner, tokens_by_role(inner, settings))
    except FileNotFoundError:
        raise UserError("There is no tokenizer at {path}: it needs a tokenizer.json.", path=path) from None
    except UserError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # on a malformed file the library raises bare Exception, or panics, which is none
        reason = str(error)[:200].rstrip(".")
        raise UserError("{file} is not a tokenizer that can be read: {error}.", file=file, error=reason) from None


def longest_tokens(tokenizer: Tokenizer, count: int) -> list[str]:
    """The longest tokens that are whole text, in characters."""
    texts = (tokenizer.decode([token]) for token in range(tokenizer.vocabulary))
    return sorted((text for text in texts if "\ufffd" not in text), key=len, reverse=True)[:count]


def in_batches(texts: Iterable[str], *, characters: int = 1_000_000) -> Iterator[list[str]]:
    """Group texts so that each group holds about so many characters: enough for all cores, little for memory."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def ahead(items: Iterable[Item], *, count: int = 2) -> Iterator[Item]:
    """The items, none of them None, in their order; a thread makes up to `count` of them before they are asked for.

    Worth it where whoever takes them lets go of the interpreter meanwhile, as encoding and training do.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, iterator, None) for _ in range(count))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, iterator, None))
            yield item
