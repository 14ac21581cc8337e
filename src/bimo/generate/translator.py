"""A translation model in use: lines in, lines out."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.files import read_settings, replacing, write_json
from bimo.generate.beam import Beams, search
from bimo.models.seq2seq import EncoderDecoder
from bimo.report.facts import part
from bimo.runtime import DATA_REFUSED, USAGE, UserError, pick_device, t
from bimo.text.chinese import SCRIPTS
from bimo.text.pairs import COLUMN_OPTIONS, PairFile, names_no_languages, one_line, read_pairs
from bimo.text.untranslated import untranslated, words_in
from bimo.tokens.directions import Way, choose_tag, tags_of, ways_of
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.huggingface import load_translator
from bimo.weights.names import require_fitting

__all__ = [
    "LEARNED",
    "WORDS",
    "Translation",
    "Translator",
    "careful_lines",
    "copy_learned",
    "keep_learned",
    "load",
    "read_learned",
    "translate",
]

USUAL = Beams()

LEARNED, WORDS = "translating.json", "words.txt"
"""In `bimo/` of a model folder: what is known of the pairs that it learned from, and the words of both sides, one a
line, which stand beside prepared pairs as well."""

TOGETHER = 32
"""Sentences that are searched together, of like length."""

SHOWN = 5

AHEAD = 16 * TOGETHER
"""Texts that are read before the first is translated, so that there are some of like length."""


@dataclass(frozen=True)
class Translation:
    """The best target of a text with its score, the others after it, and what to be careful about.

    `cut`: the text was longer than what the model reads. `unfinished`: so is what the model would have written, which
    ends where no more was allowed. `unknown`: words that were in no pair it learned from, where that is known.
    `untranslated`: stretches that were left as they were.
    """

    text: str
    score: float
    others: list[str]
    cut: bool = False
    unfinished: bool = False
    unknown: tuple[str, ...] = ()
    untranslated: tuple[str, ...] = ()


class Translator:
    """An encoder-decoder with its tokenizer. `words` are those that it learned from and `learned` the facts of its
    pairs, both empty where nobody knows; `chinese` is the script that Chinese was brought into for it, or empty."""

    def __init__(
        self,
        model: EncoderDecoder,
        tokenizer: Tokenizer,
        *,
        words: frozenset[str] = frozenset(),
        learned: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.words, self.learned = model, tokenizer, words, learned or {}
        self.chinese: str = self.learned.get("chinese", "")
        self.tags = tags_of(tokenizer)

    @property
    def by_column(self) -> bool:
        """Whether a column of a file said which way its pairs went when the model learned, or its base."""
        return bool(self.learned.get("by_column"))

    @property
    def column(self) -> str:
        """What that column was called; "" where there was none."""
        return str(part(self.learned, "columns").get("to", ""))

    @property
    def column_languages(self) -> Collection[str]:
        """The languages that a column of a file may name; none where there was no such column when it learned."""
        return self.tags if self.by_column or not self.learned else ()

    def read_pairs(self, path: Path, *, to: str = "", **choices: Any) -> PairFile:
        """The pairs of a file; the column that names their languages is `to`, or called as when the model learned.

        The other `choices` are those of text.pairs.read_pairs. Raises UserError when the model does not know a language
        that is named.
        """
        known = self.tags if to else self.column_languages
        found = read_pairs(path, **choices, to=to or self.column, known=known, options=COLUMN_OPTIONS)
        if to not in ("", found.columns.to):
            raise UserError("{path} has no column {wanted} of languages.", code=DATA_REFUSED, path=path.name, wanted=to)
        if {pair.to for pair in found.pairs} - {"", *self.tags}:
            raise names_no_languages(found.columns.to, path, self.tags)
        return found

    @property
    def scripts(self) -> Sequence[str]:
        """The scripts of the sources and of the targets that it learned from; () where nobody knows."""
        return tuple(part(self.learned, "columns").get("languages", ()))

    def ways(self, found: PairFile) -> list[Way]:
        """The directions of a file's pairs that the model knows. Raises UserError when nothing tells."""
        return ways_of(found.columns, [*self.tags], scripts=self.scripts, by_column=self.by_column, file=found.name)

    def translate(
        self, texts: Iterable[str], beams: Beams = USUAL, *, to: str = "", ahead: int = AHEAD
    ) -> Iterator[Translation]:
        """The translation of each text, in their order; `ahead` are read first, to search like lengths together.

        `to` is the language of the targets where the model knows several; without it each text goes to the one that it
        is not in. A text without letters then stays as it is, and so does an empty one. What is longer than the model
        reads is cut at its end. Raises UserError when the model does not know `to`, or when a text does not tell.
        """
        if to and not self.tags:
            raise UserError("This model goes one way, so --to has no place.", code=USAGE)
        texts = iter(texts)
        choose_tag(self.tags, "", to or next(iter(self.tags), ""))
        while window := list(itertools.islice(texts, ahead)):
            yield from self._window(window, beams, to)

    def _window(self, texts: list[str], beams: Beams, to: str) -> list[Translation]:
        limit = self.model.config.context - 1 - bool(self.tags)
        done: list[Translation] = [Translation(text, 0.0, []) for text in texts]
        texts = [one_line(text, self.chinese) for text in texts]
        encoded = self.tokenizer.encode_batch(texts)
        tags = [choose_tag(self.tags, text, to) for text in texts]
        order = [i for i, ids in enumerate(encoded) if ids and tags[i] is not None]
        order.sort(key=lambda i: len(encoded[i]))
        for start in range(0, len(order), TOGETHER):
            group = order[start : start + TOGETHER]
            sources = [[*(tags[i] or ()), *encoded[i][:limit], self.tokenizer.end] for i in group]
            for i, found in zip(group, search(self.model, sources, end=self.tokenizer.end, beams=beams), strict=True):
                best, *others = [self.tokenizer.decode(hypothesis.ids) for hypothesis in found]
                unknown = words_in([texts[i]]) - self.words if self.words else ()
                done[i] = Translation(
                    best,
                    found[0].score,
                    others,
                    cut=len(encoded[i]) > limit,
                    unfinished=found[0].ids[-1] != self.tokenizer.end,
                    unknown=tuple(sorted(unknown)),
                    untranslated=tuple(untranslated(texts[i], best)),
                )
        return done


def load(path: str | Path, *, device: str = "auto") -> Translator:
    """The translation model in a Marian folder. Raises UserError when it holds none."""
    path = Path(path)
    if not path.is_dir():
        raise UserError("There is no model folder {folder}.", folder=path)
    model, tokenizer = load_translator(path, device=pick_device(device)), load_tokenizer(path)
    require_fitting(path, tokens=tokenizer.vocabulary, vocabulary=model.config.vocabulary)
    stored = path / "bimo" / WORDS
    words = frozenset(stored.read_text(encoding="utf-8", errors="replace").split()) if stored.is_file() else frozenset()
    return Translator(model, tokenizer, words=words, learned=read_learned(path))


def read_learned(folder: Path) -> dict[str, Any]:
    """What the folder of a translator says of the pairs that it learned from; empty for any other, and for one that
    says nothing. Raises UserError when that is damaged.
    """
    path = folder / "bimo" / LEARNED
    learned = read_settings(path) if path.is_file() else {}
    columns = part(learned, "columns")
    languages = columns.get("languages", [])
    fit = isinstance(languages, list) and all(type(one) is str for one in languages)
    if not fit or learned.get("chinese", "") not in ("", *SCRIPTS):
        raise UserError("{path} is damaged: {fault}.", path=path, fault="columns, chinese")
    return learned


def keep_learned(folder: Path, data: Path, facts: Mapping[str, Any]) -> None:
    """Write what a translator in `folder` learns from, by the `facts` of its pairs in `data`."""
    write_json(folder / "bimo" / LEARNED, {name: facts[name] for name in ("columns", "by_column", "chinese", "sha256")})
    with replacing(folder / "bimo" / WORDS) as written:
        shutil.copyfile(data / WORDS, written)


def copy_learned(folder: Path, other: Path) -> None:
    """Write of a translator in another folder what the folder says of what it learned from, if it does."""
    for path in (folder / "bimo" / LEARNED, folder / "bimo" / WORDS):
        if path.is_file():
            (other / "bimo").mkdir(exist_ok=True)
            shutil.copyfile(path, other / "bimo" / path.name)


def translate(path: str | Path, texts: Iterable[str], beams: Beams = USUAL, *, to: str = "") -> list[str]:
    """The translations of texts by the model at `path`, as Translator.translate makes them."""
    return [found.text for found in load(path).translate(texts, beams, to=to)]


def careful_lines(
    untranslated: Sequence[str], unknown: Sequence[str], *, cut: int = 0, unfinished: int = 0
) -> list[str]:
    """What to be careful about in translations, where there is anything, with the first of each kind."""
    lines = []
    if cut:
        lines.append(t("longer than what this model reads, and cut there: {count:,} texts", count=cut))
    if unfinished:
        lines.append(t("without an end, for no more tokens were allowed: {count:,} translations", count=unfinished))
    if untranslated:
        first = t(", ").join(f"“{stretch}”" for stretch in untranslated[:SHOWN])
        lines.append(t("left as they were: {count:,} stretches, first {first}", count=len(untranslated), first=first))
    if unknown:
        first = t(", ").join(unknown[:SHOWN])
        lines.append(t("in no pair it learned from: {count:,} words, first {first}", count=len(unknown), first=first))
    return lines
