"""Names of people where a record names them: after a label, before a form of address, or beside other personal data.

Stories name people all the time and name nobody real; so a name alone, without any of these, is left as it is.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import resources

__all__ = ["find_names"]

_BESIDE = 60
"""So many characters from other personal data a name counts as part of the same record."""

_HAN = "[\u4e00-\u9fff]"
_LABELS = (
    "姓名|联系人|收件人|寄件人|发件人|收货人|发货人|户名|收款人|付款人|汇款人|借款人|贷款人|担保人|申请人|投保人|被保险人|受益人"
    "|患者|病人|家长|监护人|法定代表人|法人代表|法人|负责人|经办人|签收人|预订人|入住人|产权人|业主|房东|租客|驾驶员|司机|车主"
    "|被告人|被告|原告|嫌疑人|被害人|证人|甲方|乙方|丙方|紧急联系人|主治医师|主治医生|医师|护士|班主任|辅导员|导师|客户|旅客"
    "|乘客|员工|职员|经理|会员|用户名|真实姓名|名字|学生|考生|报名人|推荐人|介绍人|作者本人|当事人|委托人|代理人|持卡人|开户人|参会人"
)
_LABEL = re.compile(rf"(?:{_LABELS})(?:姓名|名字|名称)?(?:\(.{{1,6}}\))? ?(?P<verb>:|是|为) ?")
_SURELY_A_NAME = re.compile("(?:姓名|名字) ?: ?$")
_ORGANISATION = re.compile(
    rf"{_HAN}{{0,8}}(?:公司(?!地址|名称|类型|电话)|集团|银行|事务所|合作社)|大学|学院|中学|小学|学校|医院|科技|有限|股份|委员会"
)
_NEVER_KINDS = tuple("tmrdfcp")
"""Times, numerals, pronouns, adverbs, places, conjunctions and prepositions, as the segmenter tags them."""
_BEHIND = 12
"""So many characters behind a label are cut into words."""
_GREETED = re.compile(r"(?:尊敬的|亲爱的) ?")
_TITLES = "先生|女士|小姐|太太|老师|同学|医生|大夫|律师|教授|师傅|警官"
_HELLO = re.compile(rf"(?:{_TITLES}) ?(?:您好|你好|[:：])")
_TITLE = re.compile(_TITLES)
_NEVER_GIVEN = frozenset(
    "的了是在和与及把被让请给对向从说打去找要会能可不没也就都还您你我他她它们这那个吗呢吧啊着过将已等或但因所且又再很"
)
_RARELY_LAST = _NEVER_GIVEN | frozenset(
    "到来有先女老师为而以并更最太上下里外前后左右昨今每各某本该此其之于由自做看听想知道觉用拿放开关出入进回签收付款寄送电话住址号码身份证件男岁"
    "年月日时同"
)
_SURE_GIVEN = 2

_ENGLISH = r"[A-Z][a-zA-Z'’-]+(?: (?:[A-Z]\.|[A-Z][a-zA-Z'’-]+)){1,4}"
_ENGLISH_NAME = re.compile(rf"(?<![A-Za-z])(?:{_ENGLISH})(?![A-Za-z])")
_ENGLISH_LABEL = re.compile(
    r"\b(?:(?:full |first |last |given |family |account )?name(?: on card)?|contact|customer|client|patient|employee"
    r"|applicant|beneficiary|holder|recipient|sender|attendee|participant|guest|from|to|cc|signed|ship to|bill to|attn"
    r"|student|member|tenant|driver|owner|passenger)s? ?$",
    re.IGNORECASE,
)
_LONGEST_LABEL = 24
_LETTER = re.compile(
    r"\b(?:[Dd]ear|DEAR) (?:(?:[Mm]rs?|[Mm]s|[Mm]iss|[Dd]r|[Pp]rof)\.? )?"
    r"|\b(?:[Ss]incerely|[Rr]egards)(?: [Yy]ours)?,\s"
)
_ALSO = re.compile(r"(?:,? and |, )(?=[A-Z])")


@functools.cache
def _not_names() -> frozenset[str]:
    """English words that are written with a capital and are no part of a name."""
    return frozenset((resources.files("bimo.assets") / "not_names.en.txt").read_text(encoding="utf-8").split())


@functools.cache
def _surnames() -> tuple[frozenset[str], frozenset[str]]:
    """(of one character, of two)"""
    words = (resources.files("bimo.assets") / "surnames.zh.txt").read_text(encoding="utf-8").split()
    return frozenset("".join(words[:2])), frozenset(words[2:])


def find_names(text: str, others: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yields (start, end). `others` are the spans of other personal data in the text, sorted."""
    if not text.isascii():
        yield from _chinese(text, others)
    yield from _english(text, others)


def _is_beside(place: int, ends: Sequence[int], others: Sequence[tuple[int, int]]) -> bool:
    """Whether other personal data stands near a place."""
    index = bisect.bisect_left(ends, place)
    near = (others[each] for each in (index - 1, index) if 0 <= each < len(others))
    return any(start - _BESIDE <= place <= end + _BESIDE for start, end in near)


def _chinese(text: str, others: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for cue in _LABEL.finditer(text):
        end = _labelled_end(text, cue)
        if end is not None:
            yield cue.end(), end
    for cue in _GREETED.finditer(text):
        end = _chinese_end(text, cue.end())
        if end is not None and _TITLE.match(text, end):
            yield cue.end(), end
    for cue in _HELLO.finditer(text):
        for length in (4, 3, 2):
            start = cue.start() - length
            if start >= 0 and _chinese_end(text, start) == cue.start() and not _joins(text, start):
                yield start, cue.start()
                break
    ends = [end for _, end in others]
    for start, end in _stretches(text, others):
        yield from _tagged(text, start, end, lambda place: _is_beside(place, ends, others))


def _joins(text: str, start: int) -> bool:
    """Whether the character before belongs to the same stretch of Han."""
    return start > 0 and "\u4e00" <= text[start - 1 : start] <= "\u9fff"


def _chinese_end(text: str, start: int) -> int | None:
    """Where a name ends that begins with a surname here; None when none does."""
    single, double = _surnames()
    size = 2 if text[start : start + 2] in double else 1 if text[start : start + 1] in single else 0
    if not size:
        return None
    place = start + size
    if text[place : place + 1] == " " and re.match(rf" {_HAN}(?!{_HAN})", text[place : place + 3]):
        return place + 2
    given = re.match(rf"{_HAN}{{1,{_SURE_GIVEN}}}", text[place : place + _SURE_GIVEN])
    if given is None or given[0][0] in _NEVER_GIVEN or _TITLE.match(text, place):
        return None
    short = len(given[0]) == 1 or given[0][1] in _RARELY_LAST or _TITLE.match(text, place + 1) is not None
    return place + (1 if short else 2)


def _labelled_end(text: str, cue: re.Match[str]) -> int | None:
    """Where a name behind a label ends; None where words or an organisation stand there: 客户为何, 甲方：华为公司."""
    start = cue.end()
    end = _chinese_end(text, start)
    if end is None or _SURELY_A_NAME.search(cue[0]):
        return end
    titled = _TITLE.match(text, end)
    alone = titled or not _joins(text, end + 1)
    for word, low, high in _known_words(text, cue.start(), start + _BEHIND):
        if high <= start or low >= end or word in _surnames()[1]:
            continue
        if low < start:
            return None
        kind = _kind_alone(word)
        if low == start and kind.startswith("nr"):
            end = max(end, high)
        elif low == start:
            whole = high == end and cue["verb"] != ":" and not titled
            if len(word) > 2 or not alone or whole or text[end - 1] == "人":
                return None  # but 高原 or 许家|印 may be somebody, where nothing more follows
        elif kind.startswith(_NEVER_KINDS) and cue["verb"] != ":":
            return None  # 于|去年
        elif high > end:
            end = low  # 张伟|明天, not 张伟明|天
    return None if end - start < 2 or _ORGANISATION.match(text, end) else end


def _known_words(text: str, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """(word, start, end) of the words of two characters and more that are in the segmenter's dictionary."""
    import rjieba

    for word in rjieba.cut(text[start:end]):
        if len(word) > 1 and rjieba.has_word(word):
            yield word, start, start + len(word)
        start += len(word)


def _kind_alone(word: str) -> str:
    """The kind of a known word, the same in every text; empty where the segmenter takes it apart when it is alone.

    To tag a whole stretch takes five times as long as to cut it.
    """
    import rjieba

    kinds = [kind for _, kind in rjieba.tag(word)]
    return kinds[0] if len(kinds) == 1 else ""


def _stretches(text: str, others: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of the text around other personal data, in whole lines, each once."""
    done = 0
    for start, end in others:
        low = max(done, text.rfind("\n", 0, max(0, start - _BESIDE)) + 1)
        high = text.find("\n", end + _BESIDE)
        high = len(text) if high < 0 else high
        if low < high:
            yield low, min(high, end + 4 * _BESIDE)
            done = min(high, end + 4 * _BESIDE)


def _tagged(text: str, start: int, end: int, is_near: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
    """What the segmenter takes for a person's name, as far as it begins with a surname, near enough, and is whole."""
    import rjieba

    words = rjieba.cut(text[start:end])
    kinds: list[str] = []
    place = start
    for index, word in enumerate(words):
        where, place = place, place + len(word)
        found = _chinese_end(text, where)
        if found is None or not is_near(where):
            continue
        if len(word) == 1:
            if len(words[index + 1 : index + 2]) == 1 and len(words[index + 1]) == 1:
                yield where, found  # the segmenter does not know it and leaves single characters
            continue
        known = rjieba.has_word(word)
        if len(word) in (2, 3) and found == place and not known:
            yield where, found  # the segmenter made it up
            continue
        kind = _kind_alone(word) if known else ""
        if not kind:
            kinds = kinds or [kind for _, kind in rjieba.tag(text[start:end])]
            kind = kinds[index]
        if kind.startswith("nr"):
            yield where, max(place, found) if len(word) == 2 else place


def _english(text: str, others: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for place in _english_cues(text):
        while found := _ENGLISH_NAME.match(text, place):
            span = _english_span(found)
            if span is None:
                break
            yield span
            also = _ALSO.match(text, span[1])
            if also is None:
                break
            place = also.end()
    ends = [end for _, end in others]
    done = 0
    for start, end in others:
        for found in _ENGLISH_NAME.finditer(text, max(done, start - 2 * _BESIDE), end + 2 * _BESIDE):
            done = found.end()
            if _is_beside(found.start(), ends, others) and (span := _english_span(found)):
                yield span


def _english_cues(text: str) -> Iterator[int]:
    """Places after a label, or after the words that a letter begins or ends with."""
    for mark in ":=":
        colon = text.find(mark)
        while colon >= 0:
            end = colon + 1 + text.startswith(" ", colon + 1)
            capital = "A" <= text[end : end + 1] <= "Z"
            if capital and _ENGLISH_LABEL.search(text, max(0, colon - _LONGEST_LABEL), colon):
                yield end
            colon = text.find(mark, end)
    if "ear " in text or "EAR " in text or "egards" in text or "incerely" in text:
        for cue in _LETTER.finditer(text):
            yield cue.end()


def _english_span(found: re.Match[str]) -> tuple[int, int] | None:
    """The name without words before and behind that are no part of one; None when fewer than two words are left."""
    words = [(word.start(), word.end()) for word in re.finditer(r"[A-Za-z.'’-]+", found[0])]
    while words and found[0][words[0][0] : words[0][1]].strip(".").lower() in _not_names():
        words.pop(0)
    kept = []
    for start, end in words:
        word = found[0][start:end]
        if word.strip(".").lower() in _not_names() and not re.fullmatch(r"[A-Z]\.", word):
            break
        kept.append((start, end))
    if len(kept) < 2:
        return None
    return found.start() + kept[0][0], found.start() + kept[-1][1]
