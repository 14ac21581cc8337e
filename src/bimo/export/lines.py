"""An export in words."""

from __future__ import annotations

from typing import Any

from bimo.runtime import t

__all__ = ["export_lines"]


def export_lines(facts: dict[str, Any]) -> list[str]:
    """An export as lines for people."""
    found = facts["comparison"]
    return [
        t("{path}: {weights}, {size:.1f} MB", path=facts["path"], weights=facts["weights"], size=facts["bytes"] / 1e6),
        t("opened again with {engine}", engine=found["engine"]),
        *(_lines_of_decoder(facts) if "bits_per_byte" in facts else [_line_of_other(found)]),
    ]


def _line_of_other(found: dict[str, Any]) -> str:
    if "equal_translations" in found:
        return t(
            "{equal} of {texts} texts are translated alike; "
            "predictions differ by at most {largest:.2g} ({tolerance:.2g} allowed)",
            equal=found["equal_translations"],
            texts=found["prompts"],
            largest=found["largest_difference"],
            tolerance=found["tolerance"],
        )
    return t(
        "{texts} texts: predictions differ by at most {largest:.2g} ({tolerance:.2g} allowed)",
        texts=found["prompts"],
        largest=found["largest_difference"],
        tolerance=found["tolerance"],
    )


def _lines_of_decoder(facts: dict[str, Any]) -> list[str]:
    found, bits = facts["comparison"], facts["bits_per_byte"]
    equal = (
        "{prompts} prompts: ids, special tokens and chat template are equal; predictions differ by at most "
        "{largest:.2g} ({tolerance:.2g} allowed); {equal} prompts go on with the same {tokens} tokens"
        if found["chats"]
        else "{prompts} prompts: ids and special tokens are equal; predictions differ by at most {largest:.2g} "
        "({tolerance:.2g} allowed); {equal} prompts go on with the same {tokens} tokens"
    )
    return [
        t(
            equal,
            prompts=found["prompts"],
            largest=found["largest_difference"],
            tolerance=found["tolerance"],
            equal=found["equal_greedy"],
            tokens=found["new_tokens"],
        ),
        t(
            "{before:.4f} bits per byte in float32, {after:.4f} as written ({loss:+.2%})",
            before=bits["before"],
            after=bits["after"],
            loss=bits["after"] / bits["before"] - 1,
        ),
    ]
