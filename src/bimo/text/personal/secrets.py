"""Keys and tokens in the shapes that their providers document, private keys, and passwords in addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["find_secrets"]

_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic, DeepSeek and those that follow them
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # Amazon
    r"|gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}"
    r"|glpat-[A-Za-z0-9_-]{20,}"
    r"|hf_[A-Za-z0-9]{30,}"
    r"|LTAI[A-Za-z0-9]{12,26}"  # Alibaba Cloud
    r"|AKID[A-Za-z0-9]{13,40}"  # Tencent Cloud
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"  # Stripe
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{32,}"
    r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"  # SendGrid
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{8,}"  # JSON Web Token, RFC 7519
    r")(?![A-Za-z0-9])"
)
_BEGINNINGS = (
    *("sk-", "sk_", "rk_", "AKI", "ASIA", "LTAI", "AIza", "eyJ", "hf_", "npm_", "pypi-", "SG.", "xox"),
    *("gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat", "glpat-"),
)
_KIND = "[A-Z ]*PRIVATE KEY(?: BLOCK)?"
_PEM = re.compile(rf"-----BEGIN (?P<kind>{_KIND})-----[\sA-Za-z0-9+/=:,.\\-]*?-----END (?P=kind)-----")
_LINE = "[ \t]*[A-Za-z0-9+/]{1,76}={0,2}[ \t]*"
_FULL_LINE = (
    r"[ \t]*(?=[^\n]*[a-z])(?=[^\n]*[A-Z])(?=[^\n]*[0-9+/])"  # a digest has letters of one size
    r"(?:[A-Za-z0-9+/]{64}|[A-Za-z0-9+/]{70}|[A-Za-z0-9+/]{76})[ \t]*"
)
_PEM_ENDS = re.compile(
    rf"-----BEGIN {_KIND}-----\s*\n(?:[A-Za-z-]+: [^\n]*\n|\n)*(?:{_LINE}$\n?)+"
    rf"|^(?:{_LINE}\n){{1,100}}-----END {_KIND}-----",
    re.MULTILINE,
)
"""What is left of a private key where its text was cut into passages."""
_PEM_MIDDLE = re.compile(
    rf"^[ \t]*(?=[A-Za-z0-9+/]{{64}})(?:{_FULL_LINE}\n){{1,100}}{_FULL_LINE}$(?:\n{_LINE}$)?", re.MULTILINE
)
"""RFC 7468 has 64 characters a line, OpenSSH 70, RFC 2045 76."""
_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,64}:(?P<secret>[^\s/@]{6,128})@", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"[:=]\s?[\"']?(?P<secret>(?:[A-Za-z0-9+/_.!@#$%^*-]|&(?!\w{1,32}=)){16,128}={0,2})"  # ?token=...&user=...
)
_LABEL = re.compile(
    r"(?:(?:secret|passwd|password|api[ _-]?key|access[ _-]?key|token|密钥|口令)[\w-]{0,12}"
    r"|(?:密码|令牌|凭证)(?:[A-Za-z0-9_-]{0,12}|是|为))[\"']?\s?$",  # 密码强度：aes-256-gcm-sha384 is none
    re.IGNORECASE,
)
_LONGEST_LABEL = 24


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    """Yields (start, end)."""
    if any(beginning in text for beginning in _BEGINNINGS):
        for found in _TOKEN.finditer(text):
            yield found.span()
    if "PRIVATE KEY" in text:
        for found in (*_PEM.finditer(text), *_PEM_ENDS.finditer(text)):
            yield found.span()
    for found in _PEM_MIDDLE.finditer(text):
        yield found.span()
    if "://" in text:
        for found in _PASSWORD.finditer(text):
            yield found.span("secret")
    if "=" in text or ":" in text:
        for found in _ASSIGNED.finditer(text):
            value, place = found["secret"], found.start()
            if not _LABEL.search(text, max(0, place - _LONGEST_LABEL), place):
                continue
            # A word or a path is no key: one has letters and digits in turn, and no word in it.
            if len(re.findall(r"\d+", value)) >= 2 and re.search("[A-Za-z]", value):
                yield found.span("secret")
