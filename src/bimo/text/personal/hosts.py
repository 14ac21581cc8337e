"""Addresses of machines: IP in both versions, and MAC.

Every rule takes a line of the shadow of a text and yields (start, end).
"""

from __future__ import annotations

import ipaddress
import re

from bimo.text.personal.cues import Spans, bare, said

__all__ = ["find_ips", "find_macs"]

_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_QUAD = rf"{_OCTET}(?:(?:\.|\[\.\]){_OCTET}){{3}}"
_IPV4 = re.compile(
    rf"(?<![0-9A-Za-z._-])(?<![A-Za-z]/)(?P<first>{_QUAD})(?:-(?P<last>{_QUAD}))?(?![0-9A-Za-z]|[.-]\d|\.[a-z])"
)
_NETWORK = re.compile(r"/(?:[12]?\d|3[01])(?!\d)")
_IPV6 = re.compile(
    r"(?:(?<![0-9A-Za-z:.])|(?<=IP:)|(?<=ip:)|(?<=ess:)|(?<=址:))(?=[0-9A-Fa-f]|::)"
    r"(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])"
)
_VERSION = re.compile(
    r"(?:版本|内核|固件|version|firmware|release|build|kernel|升级)[^,。;]{0,12}$|\bv$", re.IGNORECASE
)
_VERSION_AFTER = re.compile(" ?版")
_SECTION = re.compile(r"(?:第|§|章节|条款|\b(?:sub)?sections?|\bclauses?|\bchapters?) ?$", re.IGNORECASE)
_SECTION_AFTER = re.compile(" ?(?:小节|节|章|条|款)")
_HEADING_BEFORE, _HEADING_AFTER = re.compile(r"[\s#*>-]*"), re.compile(r"\.?\s+(?:[A-Z][a-z]|[\u4e00-\u9fff])")
_MOST_SECTIONS = 30
"""In no heading has a part of its number so many; few addresses of hosts have four parts that are less."""
_NOBODY = ("127.0.0.1", "0.0.0.0")
_LEAST_HEXADECIMAL = 6


def find_ips(text: str) -> Spans:
    """Addresses of both versions; not version numbers, and not those that every machine has."""
    for found in _IPV4.finditer(text) if text.count(".") >= 3 else ():
        versioned = said(_VERSION, text, found.start()) or _VERSION_AFTER.match(text, found.end())
        network = _NETWORK.match(text, found.end()) and not text.endswith("://", 0, found.start())
        if versioned or network or _is_section(found):
            continue
        for part in ("first", "last"):
            if found[part] and not found[part].startswith("255.255.") and found[part] not in _NOBODY:
                yield found.span(part)
    for found in _IPV6.finditer(text) if text.count(":") >= 2 else ():
        try:
            ipaddress.IPv6Address(found[0])
        except ValueError:
            continue
        if len(bare(found[0])) >= _LEAST_HEXADECIMAL and text[found.end() : found.end() + 1] != "/":
            yield found.span()


def _is_section(found: re.Match[str]) -> bool:
    """第4.1.2.3节, or the heading 3.2.1.4 Overview; what begins with 10 is of a private network."""
    text, start, end = found.string, found.start(), found.end()
    if _SECTION_AFTER.match(text, end) or said(_SECTION, text, start):
        return True
    heading = _HEADING_AFTER.match(text, end) and _HEADING_BEFORE.fullmatch(text, 0, start)
    parts = [int(part) for part in re.findall(r"\d+", found["first"])]
    return heading is not None and max(parts) < _MOST_SECTIONS and parts[0] != 10


_MAC = re.compile(
    r"(?:(?<![0-9A-Za-z:-])|(?<=MAC:)|(?<=mac:)|(?<=ddr:)|(?<=ess:)|(?<=址:))"
    r"[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![0-9A-Za-z:-])"
    r"|(?<![0-9A-Za-z.])[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?![0-9A-Za-z]|\.\d)"
)


def find_macs(text: str) -> Spans:
    """IEEE 802 addresses in pairs, or in three groups of four."""
    if max(text.count(":"), text.count("-")) < 5 and text.count(".") < 2:
        return
    for found in _MAC.finditer(text):
        if found[1] or re.search("[A-Fa-f]", found[0]):
            yield found.span()
