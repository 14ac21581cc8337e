"""Bytes -> lines: which encoding a file is in, and decoding it block by block with every bad line reported."""

from __future__ import annotations

import codecs
import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from bimo.runtime import DATA_REFUSED, USAGE, UserError, t

__all__ = [
    "LONGEST_LINE",
    "SAMPLE_BYTES",
    "Refuse",
    "decode_blocks",
    "decode_late",
    "decode_lines",
    "find_encoding",
    "find_encoding_of_all",
    "lines_as_they_come",
    "read_word_list",
    "resumed",
    "utf8_as_it_comes",
]

Refuse = Callable[[int, str, str, str], None]
"""`refuse(line, reason, detail, text)`: report a piece that is kept out."""

SAMPLE_BYTES = 1 << 18
LONGEST_LINE = 1 << 24
"""Characters; a longer line is kept out, and never held as a whole."""

_BAD = "\udcff"  # a lone surrogate, which no decoder of ours gives for valid bytes
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CODECS = {"big5": "big5hkscs"}
_WESTERN = frozenset("éèêëàâäáãåçíìîïñóòôöõøúùûüßœæÉÈÀÂÄÖÜÇÑØÅ‘’“”„–—…•€£©®°·½¼¾«»¡¿ªº§±×™\xa0")
_MOST_HALVES = 0.04
"""Of the characters beyond ASCII: Russian and Thai read as Han have 0.05 and more, Chinese none but for damage."""

_ENOUGH_DIFFERENT, _LEAST_OUTSIDE = 40, 0.05
"""Characters that a sample must have to tell their script, and the share of Han outside of the block of another one:
at least 0.13 in Chinese of any kind, lists of names and poems as well, at most 0.04 in Korean and Japanese."""

_ASCII = bytes(range(128))
_PRINTABLE = bytes(range(32, 127)) + b"\t\n\r\f"


codecs.register_error("bimo.mark", lambda error: (_BAD, error.end))  # type: ignore[attr-defined]


def find_encoding(sample: bytes, *, otherwise: str | None = "utf-8") -> str | None:
    """The encoding of a file from its first SAMPLE_BYTES, or None when they are not text in one that we know.

    It is `otherwise` when they are mostly ASCII, and what else there is does not tell.

    Byte order marks decide; then validity as UTF-8; else the encoding in which most of the characters
    beyond ASCII are everyday ones: the common Han of GB18030 and Big5 lie in different blocks of bytes.
    """
    for bom, name in _BOMS:
        if sample.startswith(bom):
            return name
    if b"\0" in sample:
        wide = _best({name: _wide_share(sample, name) for name in ("utf-16-le", "utf-16-be")}, least=0.8)
        few = sample.count(0) * 10_000 <= len(sample)
        return wide or (find_encoding(sample.replace(b"\0", b""), otherwise=otherwise) if few else None)
    if sample.isascii() or _is_utf8(sample):
        return "utf-8"
    # Windows-1252 before the others: a letter that stands alone makes a good pair with the ASCII behind it, too.
    shares = {
        "utf-8": _utf8_share(sample),
        "windows-1252": _western_share(sample),
        "gb18030": _han_share(sample, "gb18030", _common_gb() | _common_big5(), foreign=_hangul_in_gb()),
        "big5": _han_share(sample, "big5", _common_big5(), foreign=_euc_in_big5()),
        "utf-16-le": _wide_share(sample, "utf-16-le"),
        "utf-16-be": _wide_share(sample, "utf-16-be"),
    }
    if shares["utf-8"] >= 0.6:
        return "utf-8"
    return _best(shares, least=0.6) or (otherwise if _readable_share(sample) >= 0.7 else None)


def find_encoding_of_all(data: bytes, *, otherwise: str | None = "utf-8") -> str | None:
    """The encoding of a file that is at hand as a whole: where its first SAMPLE_BYTES are ASCII, what follows tells."""
    encoding = find_encoding(data[:SAMPLE_BYTES], otherwise=otherwise)
    ascii_first = encoding == "utf-8" and data[:SAMPLE_BYTES].isascii()
    return (_beyond_ascii(data) or otherwise) if ascii_first else encoding


def _beyond_ascii(data: bytes) -> str | None:
    """The encoding that the first bytes beyond ASCII tell, of those in which ASCII may have come before."""
    encoding = find_encoding(data.lstrip(_ASCII)[:SAMPLE_BYTES], otherwise=None)
    return encoding if encoding in ("utf-8", "gb18030", "big5", "windows-1252") else None


def _best(shares: dict[str, float], *, least: float) -> str | None:
    name = max(shares, key=lambda key: shares[key])
    return name if shares[name] >= least else None


def _is_utf8(sample: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # a character cut at the end is no error
    except UnicodeDecodeError:
        return False
    return True


def _decode(sample: bytes, encoding: str) -> str:
    return codecs.getincrementaldecoder(_CODECS.get(encoding, encoding))("bimo.mark").decode(sample)


def _utf8_share(sample: bytes) -> float:
    text = _decode(sample, "utf-8")
    bad = text.count(_BAD)
    good = sum(len(part.encode()) for part in re.findall("[^\x00-\x7f\udcff]+", text))
    return good / (good + bad)


def _beyond_ascii_in(sample: bytes, encoding: str) -> str:
    return re.sub("[\x00-\x7f]+", "", _decode(sample, encoding))


def _share(text: str, everyday: frozenset[str]) -> float:
    """The share of `everyday` among the characters."""
    return sum(text.count(character) for character in everyday.intersection(text)) / max(1, len(text))


def _han_share(sample: bytes, encoding: str, everyday: frozenset[str], *, foreign: frozenset[str]) -> float:
    """The share of `everyday` among the characters beyond ASCII; 0 when these are the letters of another script.

    Letters of one byte, such as Cyrillic, leave half a pair at the end of every other word. Kana and Hangul of two
    bytes all lie in the block that is `foreign` when it is read as Han, and of real Han much lies outside of it.
    """
    beyond = _beyond_ascii_in(sample, encoding)
    found = {*beyond}
    if beyond.count(_BAD) > 1 + _MOST_HALVES * len(beyond):  # a single one may be damage in a short text
        return 0.0
    if len(found) >= _ENOUGH_DIFFERENT and len(found - foreign) < _LEAST_OUTSIDE * len(found):
        return 0.0
    return _share(beyond, everyday)


def _western_share(sample: bytes) -> float:
    """The same for single bytes, which explain anything: believe them between ASCII letters, but not as whole words."""
    in_words = sum(map(len, re.findall(rb"[\x80-\xff]{3,}", sample)))
    if _readable_share(sample) < 0.5 or 2 * in_words > len(sample.translate(None, _ASCII)):
        return 0.0
    return _share(_beyond_ascii_in(sample, "windows-1252"), _WESTERN)


def _readable_share(sample: bytes) -> float:
    return 1 - len(sample.translate(None, _PRINTABLE)) / len(sample)


def _wide_share(sample: bytes, encoding: str) -> float:
    """The same for two bytes a character; 0 when its length is odd, or zero bytes are not those of ASCII letters."""
    if len(sample) < SAMPLE_BYTES and len(sample) % 2:
        return 0.0
    text = _decode(sample[: len(sample) // 2 * 2], encoding)
    plain = len(text) - len(re.sub("[\x01-\x7f]+", "", text))
    if 2 * plain < sample.count(0):
        return 0.0
    return _share(text, _common_gb() | _common_big5() | _WESTERN | frozenset(_PRINTABLE.decode()))


@functools.cache
def _common_gb() -> frozenset[str]:
    """Level 1 of GB 2312 (the 3,755 everyday characters), its punctuation and the letters of pinyin."""
    return _table("gb18030", [0xA1, 0xA3, 0xA8, *range(0xB0, 0xD8)], range(0xA1, 0xFF))


@functools.cache
def _common_big5() -> frozenset[str]:
    """The frequently used characters of Big5, but for the last 63 beside its kana, and its punctuation."""
    return _table("big5", [0xA1, *range(0xA4, 0xC6)], [*range(0x40, 0x7F), *range(0xA1, 0xFF)])


@functools.cache
def _hangul_in_gb() -> frozenset[str]:
    """What GB18030 has where EUC-KR has its marks and Hangul; about a third of a Chinese text lies outside."""
    return _table("gb18030", [*range(0xA1, 0xC9)], range(0xA1, 0xFF))


@functools.cache
def _euc_in_big5() -> frozenset[str]:
    """What Big5 has where EUC-JP and EUC-KR have everything; about two fifths of a Chinese text lie outside."""
    return _table("big5", [*range(0xA1, 0xFF)], range(0xA1, 0xFF))


def _table(encoding: str, leads: list[int], trails: range | list[int]) -> frozenset[str]:
    codec = _CODECS.get(encoding, encoding)
    return frozenset(bytes((lead, trail)).decode(codec, "ignore") for lead in leads for trail in trails) - {""}


def _new_decoder(encoding: str) -> io.IncrementalNewlineDecoder:
    codec = codecs.getincrementaldecoder(_CODECS.get(encoding, encoding))("bimo.mark")
    return io.IncrementalNewlineDecoder(codec, translate=True)


def decode_blocks(blocks: Iterator[bytes], encoding: str) -> Iterator[str]:
    """The text of `blocks`, for formats in which lines mean nothing; bytes that are not valid become U+FFFD."""
    decoder = _new_decoder(encoding)
    for block in blocks:
        yield decoder.decode(block).replace(_BAD, "\ufffd")
    yield decoder.decode(b"", final=True).replace(_BAD, "\ufffd")


def decode_late(blocks: Iterator[bytes], decided: Callable[[str], None]) -> Iterator[bytes]:
    """In UTF-8, the bytes of a file that begins with ASCII: the first block beyond it decides the encoding.

    `decided` gets it. Bytes that are not valid in it are none in UTF-8 either. An error of the stream (ValueError)
    is raised behind all that came before it.
    """
    start, broken = b"", None
    try:
        for block in blocks:
            if not start and block.isascii():
                yield block
                continue
            start += block
            if len(start.lstrip(_ASCII)) >= SAMPLE_BYTES:
                break
    except ValueError as error:
        broken = error
    encoding = _beyond_ascii(start) or "utf-8"
    decided(encoding)
    yield from _in_utf8(resumed(start, broken, blocks), encoding)


def utf8_as_it_comes(
    blocks: Iterator[bytes], *, name: str | Path = "stdin", errors: str = "bimo.mark"
) -> Iterator[bytes]:
    """The blocks of a stream in UTF-8, each as soon as it is there; the first line beyond ASCII decides the encoding.

    Bytes that are not valid in it are none in UTF-8 either, unless `errors` replaces them. Raises UserError where a
    stream called `name` begins with what is no text.
    """
    first, start = True, b""
    for block in blocks:
        if not start and block.isascii() and b"\0" not in block:
            first = False
            yield block
            continue
        start += block
        if b"\n" in start.lstrip(_ASCII) or len(start) >= SAMPLE_BYTES:
            break  # before it ends, a line can be answered by nobody, and the half of a character may be all there is
    if start:
        encoding = find_encoding(start) if first else _beyond_ascii(start) or "utf-8"
        if encoding is None:
            raise UserError("{path} is not a text file.", code=DATA_REFUSED, path=name)
        yield from _in_utf8(itertools.chain([start], blocks), encoding, errors)


def _in_utf8(blocks: Iterator[bytes], encoding: str, errors: str = "bimo.mark") -> Iterator[bytes]:
    """The blocks in UTF-8; bytes that are not valid in their encoding are none in UTF-8 either."""
    if encoding == "utf-8":
        yield from blocks
        return
    errors = "surrogateescape" if encoding == "utf-8-sig" else errors
    decoder = codecs.getincrementaldecoder(_CODECS.get(encoding, encoding))(errors)
    for block in itertools.chain(blocks, [b""]):
        part = decoder.decode(block, final=not block).encode("utf-8", "surrogateescape")
        if part:  # an empty one would be the end
            yield part


def resumed(first: bytes, broken: ValueError | None, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """All blocks again, when `first` was taken from them to look at, and `broken` was met meanwhile."""
    if first:
        yield first
    if broken is not None:
        raise broken
    yield from blocks


def lines_as_they_come(blocks: Iterator[bytes], name: str | Path) -> Iterator[str]:
    """The lines of a stream with their ends, each as soon as it is there, whichever encoding they are in.

    Bytes that are not valid UTF-8 come through as half characters ("surrogateescape"), so that they can be given back.
    Raises UserError where a stream called `name` is no text.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("surrogateescape"), translate=True)
    tail: list[str] = []
    for block in itertools.chain(utf8_as_it_comes(blocks, name=name, errors="replace"), [b""]):
        first, *others = decoder.decode(block, final=not block).split("\n")
        tail.append(first)
        for piece in others:
            yield "".join(tail) + "\n"
            tail = [piece]
    if any(tail):
        yield "".join(tail)


def read_word_list(path: Path) -> list[str]:
    """The lines of a small file of somebody's own words, in any encoding that texts may have, without blanks around.

    Empty lines, and those that begin with #, are left out.
    """
    data = path.read_bytes()
    encoding = find_encoding_of_all(data)
    if encoding is None:
        raise UserError("The word list {path} is not a text file.", code=USAGE, path=path)
    lines = (line.strip() for line in "".join(decode_blocks(iter([data]), encoding)).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def decode_lines(blocks: Iterator[bytes], encoding: str, refuse: Refuse) -> Iterator[tuple[int, str]]:
    """Yields (number, line) without line ends, whichever kind they are; memory holds one block and one line.

    Lines with bytes that are not valid and lines beyond LONGEST_LINE go to `refuse`. An error of the stream
    (ValueError, such as a cut-off gz) is refused at its line; what came before it is kept.
    """
    decoder = _new_decoder(encoding)
    number, tail, skipping, last = 1, "", False, False
    while not last:
        try:
            block = next(blocks, b"")
        except ValueError as error:
            refuse(number, "unreadable", str(error), tail)
            return
        last = not block
        lines = (tail + decoder.decode(block, final=last)).split("\n")
        tail = lines.pop()
        if last and tail:
            lines.append(tail)
        damaged = any(_BAD in line for line in lines)
        for line in lines:
            if skipping:
                skipping = False
            elif damaged and _BAD in line:
                detail = t("not valid {encoding}", encoding=encoding)
                refuse(number, "bad_bytes", detail, line.replace(_BAD, "\ufffd"))
            elif len(line) > LONGEST_LINE:
                refuse(number, "too_long", _too_long(), line)
            else:
                yield number, line
            number += 1
        if len(tail) > LONGEST_LINE and not skipping:
            refuse(number, "too_long", _too_long(), tail)
            skipping = True
        if skipping:
            tail = ""


def _too_long() -> str:
    return t("a line of more than {limit:,} characters", limit=LONGEST_LINE)
