"""A plan in words: why it is so, what it comes to, and all of it as lines. Facts are those of `Plan.facts`."""

from __future__ import annotations

import math
from typing import Any

from bimo.runtime import t

__all__ = ["plan_lines", "plan_reasons", "plan_summary", "text_reasons"]

MOST_READINGS = 20
"""Beyond so many a text gives little more."""


def plan_reasons(facts: dict[str, Any]) -> list[str]:
    """Why this plan, in sentences."""
    return [*_size_reasons(facts), *text_reasons(facts)]


def _size_reasons(facts: dict[str, Any]) -> list[str]:
    rates = facts["machine"]["matrix_flops"]
    reasons = [
        t(
            "This machine multiplies matrices at {bf16:,.0f} GFLOP/s in bfloat16 and {fp32:,.0f} in float32, so "
            "training computes in {dtype}.",
            bf16=rates["bfloat16"] / 1e9,
            fp32=rates["float32"] / 1e9,
            dtype=facts["machine"]["dtype"],
        )
    ]
    others = [
        t(
            "“{name}” ({parameters:.1f} M parameters, {rate:,.0f} tokens/s): {expected:.2f}",
            name=candidate["preset"],
            parameters=candidate["parameters"] / 1e6,
            rate=candidate["tokens_per_second"],
            expected=candidate["bits_per_byte"],
        )
        for candidate in facts["candidates"]
    ]
    if len(others) > 1:
        sizes = "; ".join(others)
        reasons.append(t("Bits per byte expected of the sizes that were timed: {sizes}.", sizes=sizes))
    return reasons


def text_reasons(facts: dict[str, Any]) -> list[str]:
    """Whether the text is too small or too large for the time."""
    epochs, minutes = facts["epochs"], facts["seconds"] / 60
    if epochs > MOST_READINGS:
        return [
            t(
                "The text is small for this much time: it would be read {epochs:.0f} times. More text will help more "
                "than more minutes; {enough:.1f} minutes are enough for this one.",
                epochs=epochs,
                enough=minutes * MOST_READINGS / epochs,
            )
        ]
    if epochs < 1:
        return [
            t(
                "The text is large for this much time: {share:.0%} of it will be read. With {minutes:,.10g} minutes "
                "all of it would be.",
                share=epochs,
                minutes=math.ceil(10 * minutes / epochs) / 10,
            )
        ]
    return []


def plan_summary(facts: dict[str, Any]) -> str:
    """What it comes to, in a line."""
    sizes = t(
        "{parameters:.1f} M parameters, context {context}, {tokens:.1f} M tokens in {minutes:g} min",
        parameters=facts["parameters"] / 1e6,
        context=facts["model"]["context"],
        tokens=facts["tokens"] / 1e6,
        minutes=facts["minutes"],
    )
    if facts["bits_per_byte"] is None:
        return sizes
    low, high = facts["bits_per_byte"]
    return sizes + t(
        "; expect {low:.2f}-{high:.2f} bits per byte (Kneser-Ney: {baseline:.2f})",
        low=low,
        high=high,
        baseline=facts["kneser_ney"],
    )


def plan_lines(facts: dict[str, Any]) -> list[str]:
    """A plan as lines for people."""
    model, settings = facts["model"], facts["train"]
    return [
        t(
            "Model     “{preset}”: {layers} layers of width {width}, {parameters:.1f} M parameters, context {context}",
            preset=facts["preset"],
            layers=model["layers"],
            width=model["width"],
            parameters=facts["parameters"] / 1e6,
            context=model["context"],
        ),
        t(
            "Training  {minutes:g} min at {rate:,.0f} tokens/s ({share:.0%} of this machine): {steps:,} steps of "
            "{batch} windows, {tokens:.1f} M tokens",
            minutes=facts["minutes"],
            rate=facts["tokens_per_second"],
            share=facts["share_of_peak"],
            steps=settings["steps"],
            batch=settings["batch"],
            tokens=facts["tokens"] / 1e6,
        ),
        t(
            "Text      read {epochs:.1f} times; {ratio:.2f} tokens a parameter",
            epochs=facts["epochs"],
            ratio=facts["tokens_per_parameter"],
        ),
        t(
            "Needs     {memory:,.2f} GB memory, {disk:,.2f} GB disk",
            memory=facts["memory_bytes"] / 1e9,
            disk=facts["disk_bytes"] / 1e9,
        ),
        *_expectation(facts),
        *plan_reasons(facts),
    ]


def _expectation(facts: dict[str, Any]) -> list[str]:
    if facts["bits_per_byte"] is None:
        return []
    low, high = facts["bits_per_byte"]
    return [
        t(
            "Expect    {low:.2f}-{high:.2f} bits per byte on unseen text (Kneser-Ney: {baseline:.2f})",
            low=low,
            high=high,
            baseline=facts["kneser_ney"],
        )
    ]
