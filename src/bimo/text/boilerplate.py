"""Lines of page furniture (cookies, copyright, 备案, 点击阅读) taken out of texts."""

from __future__ import annotations

import re

__all__ = ["drop_boilerplate"]

_HINTS = (
    *("cookie", "copyright", "©", "(c)", "rights reserved", "skip to", "back to top", "click here", "read more"),
    *("sign up", "subscribe", "share this", "share on", "icp", "公网安备", "版权所有", "版權所有", "点击", "點擊"),
    *("阅读原文", "阅读全文", "展开全文", "扫码", "二维码", "返回顶部", "上一篇", "下一篇", "责任编辑", "分享到"),
)
_LONGEST_FURNITURE = 160
_BLANK_LINES = re.compile("\n{4,}")
_NETWORKS = "微信|朋友圈|好友|新浪|腾讯|微博|QQ|空间|豆瓣|知乎|人人网|贴吧|钉钉|facebook|twitter|linkedin|更多"
_FURNITURE_LINES = (
    r".{0,60}\ball rights reserved\b.{0,60}",
    r"(?:copyright\s*)?(?:©|\(c\))\s*(?:copyright\s*)?(?:19|20)\d\d\b.{0,80}",
    r"copyright\s+(?:19|20)\d\d\b[^.]{0,80}\.?",
    r"(?:版权所有|版權所有)(?:(?=[\W\da-z_]|翻印|翻版|盗版|侵权|侵權|违者|違者|未经|未經|不得|严禁|嚴禁|禁止).{0,40})?",
    r".{0,60}[\u4e00-\u9fff]ICP[备備证證]\s*\d+.{0,60}",
    r".{0,40}公网安备\s*\d+.{0,40}",
    r"(?:this (?:web)?site|we) uses? cookies.{0,120}",
    r"(?:accept|reject|manage) (?:all )?cookies",
    r"cookie (?:policy|settings|preferences)",
    r"(?:skip to (?:main )?content|back to top|read more|click here)\W{0,4}",
    r"(?:subscribe|sign up) (?:to|for) (?:our|the) newsletter\W{0,4}",
    r"share (?:this(?: article| post)?|on (?:facebook|twitter|x|linkedin))\W{0,4}",
    r".{0,6}(?:点击|點擊)(?:此处|这里)?(?:阅读|查看|展开|閱讀)(?:全文|原文|更多|详情)?\W{0,6}",
    r"\W{0,4}(?:阅读(?:原文|全文)|展开全文|返回顶部)\W{0,6}",
    r".{0,10}(?:扫码|长按|扫描|识别)[^。]{0,12}(?:二维码|关注)[^。]{0,10}",
    r".{0,6}点击[^。]{0,6}蓝字.{0,10}",
    r"(?:上一篇|下一篇)\s*[:：].{0,60}",
    r"\W{0,3}责任编辑\s*[:：]\s*\S{1,12}\W{0,3}",
    rf"分享到\s*(?:[:：][^，。！？]{{0,40}}|(?:(?:{_NETWORKS})[\s、，,/|]*)+\W{{0,4}})?",
)
_FURNITURE = re.compile("|".join(_FURNITURE_LINES), re.IGNORECASE)


def drop_boilerplate(text: str) -> tuple[str, int]:
    """`text` without the lines that are nothing but page furniture, and how many they were."""
    if not _has_hint(text):
        return text, 0
    lines = text.split("\n")
    kept = [line for line in lines if not _is_furniture(line)]
    if len(kept) == len(lines):
        return text, 0
    return _BLANK_LINES.sub("\n\n\n", "\n".join(kept)).strip("\n"), len(lines) - len(kept)


def _has_hint(text: str) -> bool:
    return any(map(text.lower().__contains__, _HINTS))


def _is_furniture(line: str) -> bool:
    line = line.strip()
    return 0 < len(line) <= _LONGEST_FURNITURE and _has_hint(line) and _FURNITURE.fullmatch(line) is not None
