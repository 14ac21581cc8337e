"""Words and sentences: Chinese cut by a dictionary, everything else by its script; nothing is lost or changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice, pairwise
from pathlib import Path

from bimo.text.encodings import read_word_list

__all__ = [
    "HAN",
    "WordList",
    "is_word",
    "iter_words",
    "mark_words",
    "segment",
    "segment_lines",
    "split_sentences",
    "word_offsets",
]

HAN = "々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, as ranges for the inside of a regular expression's brackets."""

_HAN_RUN = re.compile(f"[{HAN}]+")
_HAN_RUNS = re.compile(f"([{HAN}]+)")
_MATCHES_AT_ONCE = 5_000
_SHORT, _REMEMBERED = 16, 10_000

_LETTER = rf"[^\W\d_{HAN}]"
_LETTER_OR_DIGIT = rf"(?:[^\W_{HAN}][\u0300-\u036f]*)"
_IN_URL = r"[!#$%&'*+,\-./0-9:;=?@A-Z_a-z~]"
# Brackets belong to it in pairs, and a mark at its end belongs to the sentence.
_URL = rf"(?:(?i:https?|ftp)://|(?i:www)\.)(?:{_IN_URL}|\({_IN_URL}*\))+(?<=[#$%&)*+\-/0-9=@A-Z_a-z])"
# What stands before the @ has at most 64 characters (RFC 5321), so that no long run is searched again and again for it.
_ADDRESS = r"[A-Za-z0-9._%+\-]{1,64}@[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)+"
# Pictures as Unicode TS 51 puts them together: flags, keycaps, and pictures with colours, joined to one by U+200D.
_PICTURE = (
    r"(?:[©®‼⁉™ℹ\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff㊗㊙"
    r"\U0001f000-\U0001f1e5\U0001f200-\U0001faff])[\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
)
_EMOJI = rf"[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|{_PICTURE}(?:\u200d{_PICTURE})*"
# A number with what belongs to it: dates, times, versions, powers of ten, shares, and units in letters.
_NUMBER = (
    rf"\d+(?:(?:[.,:/·\-]|(?<=[０-９])[．，：／－](?=[０-９]))\d+)*"
    rf"(?:[eE][+\-]?\d+(?!{_LETTER_OR_DIGIT})|[%％‰℃°]|{_LETTER_OR_DIGIT}+)?"
)
_WORD = rf"{_LETTER}[\u0300-\u036f]*{_LETTER_OR_DIGIT}*(?:(?:['’\-]|(?<=\d)\.(?=\d)){_LETTER_OR_DIGIT}+)*"
_AGAIN = r"(?P<again>[…—.·!！?？~～\-=*_])(?P=again)+"
_OTHERS = rf"\s+|{_URL}|{_ADDRESS}|{_EMOJI}|{_NUMBER}|{_WORD}|{_AGAIN}|[\ud800-\udfff]+|."
"""Blanks; what is whole although there are marks in it; the same mark again and again; bytes that are no text; any
other character."""

_OTHER = re.compile(_OTHERS, re.DOTALL)
# A sentence ends with its marks and what closes behind them. In letters blanks must follow, then no small letter, or
# Han; and an initial, or an abbreviation that stands before names and numbers, is no end.
_ABBREVIATION = r"(?<!\b[A-Z])(?<!\b(?:Mr|Ms|Dr|St|No|vs|cf))(?<!\b(?:Mrs|Fig))(?<!\bProf)"
_CLOSING = """[”’」』）)"']*"""
_SENTENCE = re.compile(
    rf"""(?s:.)+?(?:[。！？…；]+{_CLOSING}\s*|[!?]+{_CLOSING}(?=[{HAN}])"""
    rf"""|(?<![.!?])(?:{_ABBREVIATION}\.|[!?])[.!?]*+[”’"')\]]*+\s++(?![a-z])|\Z)"""
)
# jieba's dictionaries: a word, how often it was met, its part of speech.
_HAN_ENTRY = re.compile(rf"([{HAN}]+)(?: +\d+)?(?: +[a-z]{{1,4}})?")
_ENTRY = re.compile(r"(.+?)(?: +\d+)?(?: +[a-z]{1,4})?")
_COUNTED_ENTRY = re.compile(r".+ \d+(?: +[a-z]{1,4})?")


class WordList:
    """Words that are kept whole: `segment(text, WordList(["云原生", "卡拉OK", "New York"]))`.

    Chinese ones weigh as much as it takes to keep the word by itself whole; where two overlap, the likelier wins.
    """

    def __init__(self, words: Iterable[str]) -> None:
        import rjieba

        words = [word for word in dict.fromkeys(words) if word]
        self._cutter = rjieba.Jieba()
        for word in filter(_HAN_RUN.fullmatch, words):
            self._cutter.add_word(word, self._cutter.suggest_freq(word), "n")
        self.token: re.Pattern[str] | None = None
        """What is looked for where some of the words are not Han alone."""
        if mixed := sorted((word for word in words if not _HAN_RUN.fullmatch(word)), key=len, reverse=True):
            # Letters are not looked for inside a word, and a Han run ends where a mixed word begins.
            either = "|".join(
                rf"(?<!{_LETTER}){word}(?!{_LETTER})" if word[0].isascii() else word for word in map(re.escape, mixed)
            )
            self.token = re.compile(rf"{either}|(?P<han>(?:(?!{either})[{HAN}])+)|{_OTHERS}", re.DOTALL)

    @classmethod
    def read(cls, path: Path) -> WordList:
        """A text file with a word on each line, or a dictionary of jieba's: word, frequency, part of speech."""
        lines = read_word_list(path)
        counted = sum(_COUNTED_ENTRY.fullmatch(line) is not None for line in lines)
        # In a plain list "Windows 11" is a word, and in a dictionary it is one that was met eleven times.
        entry = _ENTRY if 2 * counted > len(lines) else _HAN_ENTRY
        return cls(match[1] if (match := entry.fullmatch(line)) else line for line in lines)

    def cut(self, han: str) -> list[str]:
        """The words of Han runs that stand on lines of their own."""
        return self._cutter.cut(han)


def segment(text: str, words: WordList | None = None) -> list[str]:
    """The words, numbers, marks and blanks of a text in order; joined they give the text again.

    Web and mail addresses, numbers with their marks, and emoji are whole, and so are `words`.
    """
    if words and words.token:
        return _segment_mixed(text, words.token, words)
    parts = _HAN_RUNS.split(text)  # what stands between, a run, what stands between ...
    cut = _cut_lines(parts[1::2], words)
    found, start = [*_between[parts[0]]], 0
    for gap in parts[2::2]:
        end = cut.index("\n", start)
        found += cut[start:end]
        found += _between[gap]
        start = end + 1
    return found


class _Between(dict[str, list[str]]):
    """The pieces of what stands between Han runs. Short ones come again and again, and are remembered."""

    def __missing__(self, gap: str) -> list[str]:
        pieces = [match[0] for match in _OTHER.finditer(gap)]
        if len(gap) <= _SHORT:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[gap] = pieces
        return pieces


_between = _Between()


def _cut_lines(runs: list[str], words: WordList | None) -> list[str]:
    """The words of all runs, "\\n" after each run. One call for all, since calls cost more than cutting."""
    import rjieba

    return [*(words or rjieba).cut("\n".join(runs)), "\n"] if runs else []


def _segment_mixed(text: str, token: re.Pattern[str], words: WordList) -> list[str]:
    """The same by one search for everything: slower, and the only way to words of Han and letters together."""
    found: list[str] = []
    matches = token.finditer(text)
    # Few enough at a time to stay in the processor's cache.
    while block := list(islice(matches, _MATCHES_AT_ONCE)):
        cut, start = _cut_lines([run for match in block if (run := match["han"])], words), 0
        for match in block:
            if match["han"]:
                end = cut.index("\n", start)
                found += cut[start:end]
                start = end + 1
            else:
                found.append(match[0])
    return found


def word_offsets(words: Iterable[str]) -> list[tuple[int, int]]:
    """Where each word of `segment` begins and ends in its text, in characters."""
    return list(pairwise(accumulate(map(len, words), initial=0)))


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, Chinese or English, with the marks and blanks after them; joined they give it again."""
    return [match[0] for line in text.splitlines(keepends=True) for match in _SENTENCE.finditer(line) if match[0]]


def segment_lines(
    lines: Iterable[str], *, words: WordList | None = None, sentences: bool = False
) -> Iterator[list[str]]:
    """The words of each line, or of each of its sentences, without blanks."""
    for line in lines:
        for part in split_sentences(line) if sentences else [line]:
            yield [word for word in segment(part, words) if not word.isspace()]


def iter_words(text: str, words: WordList | None = None) -> Iterator[str]:
    """The words and numbers of a text, without punctuation, pictures and blanks."""
    return filter(is_word, segment(text, words))


def is_word(piece: str) -> bool:
    """Whether a piece that `segment` cut is no mark and no blank; .NET from a word list is a word."""
    return any(map(str.isalnum, piece))


def mark_words(text: str, mark: str, *, longest: int = 4) -> str:
    """`text` with `mark` between Chinese words and on both sides of each Han run; words of at most `longest` Han.

    For whoever learns merges that may not cross words. Without the marks it is the text again, unless the text held
    some. `mark` may not be a line end.
    """
    parts = _HAN_RUNS.split(text)
    if len(parts) > 1:
        cut = _cut_lines(parts[1::2], None)
        if max(map(len, cut)) > longest:
            cut = [word[start : start + longest] for word in cut for start in range(0, len(word), longest)]
        parts[1::2] = (f"{mark}{run}{mark}" for run in mark.join(cut[:-1]).split(f"{mark}\n{mark}"))
    return "".join(parts)
