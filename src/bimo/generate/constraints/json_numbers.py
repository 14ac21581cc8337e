"""Numbers in JSON within bounds, digit by digit."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from bimo.generate.constraints.expressions import NOTHING, Characters, Expression, Repeat, choice, literal, sequence

__all__ = ["integers", "numbers"]

MOST_DIGITS = 15
"""Before the point, and behind it: what a double holds exactly."""
LARGEST = 10**MOST_DIGITS - 1
USUAL_DECIMALS = 2
"""At most so many are offered between bounds, and as many as the bounds have."""

DIGIT = Characters(((0x30, 0x39),))
SIGN = Repeat(literal("-"), 0, 1)


def integers(least: Decimal | None, most: Decimal | None) -> Expression:
    """All integers of at most 15 digits from `least` to `most`; without bounds, of any size that has as many."""
    return _scaled(least, most, decimals=0)


def numbers(least: Decimal | None, most: Decimal | None, *, open_below: bool, open_above: bool) -> Expression:
    """Numbers between bounds, which count themselves unless they are open; without any, with exponents as well."""
    if least is None and most is None:
        whole = choice([literal("0"), sequence(_digit(1, 9), Repeat(DIGIT, 0, MOST_DIGITS - 1))])
        fraction = Repeat(sequence(literal("."), Repeat(DIGIT, 1, MOST_DIGITS)), 0, 1)
        letter, signs = Characters(((0x45, 0x45), (0x65, 0x65))), Characters(((0x2B, 0x2B), (0x2D, 0x2D)))
        exponent = Repeat(sequence(letter, Repeat(signs, 0, 1), Repeat(DIGIT, 1, 2)), 0, 1)
        return sequence(SIGN, whole, fraction, exponent)
    bounds = [bound for bound in (least, most) if bound is not None]
    forms = []
    for decimals in sorted({*range(USUAL_DECIMALS + 1), *map(decimals_of, bounds)}):
        step = Decimal(1).scaleb(-decimals)
        low = least if least is None or not open_below else _next_above(least, step)
        high = most if most is None or not open_above else -_next_above(-most, step)
        forms.append(_scaled(low, high, decimals=decimals))
    return choice(forms)


def decimals_of(number: Decimal) -> int:
    """How many digits a number has behind the point."""
    exponent = number.normalize().as_tuple().exponent
    assert isinstance(exponent, int), "infinite numbers are refused before"
    return max(0, -exponent)


def _next_above(number: Decimal, step: Decimal) -> Decimal:
    """The least multiple of a step that is larger than a number."""
    return (number / step).to_integral_value(ROUND_FLOOR) * step + step


def _scaled(least: Decimal | None, most: Decimal | None, *, decimals: int) -> Expression:
    """Numbers with so many digits behind the point from `least` to `most`."""
    scale = 10**decimals
    largest = LARGEST * scale
    low = -largest if least is None else int((least * scale).to_integral_value(ROUND_CEILING))
    high = largest if most is None else int((most * scale).to_integral_value(ROUND_FLOOR))
    low, high = max(low, -largest), min(high, largest)
    forms = []
    if low < 0:
        forms.append(sequence(literal("-"), _between(max(1, -high), -low, decimals)))
    if high >= 0:
        forms.append(_between(max(0, low), high, decimals))
    return choice(forms)


def _between(low: int, high: int, point: int) -> Expression:
    """The integers from low to high, at least 0, with a point before the last `point` digits."""
    forms = []
    for digits in range(max(len(str(low)), point + 1), max(len(str(high)), point + 1) + 1):
        first = max(low, 10 ** (digits - 1) if digits > point + 1 else 0)
        last = min(high, 10**digits - 1)
        if first <= last:
            forms.append(_same_length(str(first).zfill(digits), str(last).zfill(digits), point))
    return choice(forms) if forms else NOTHING


def _same_length(low: str, high: str, point: int) -> Expression:
    """The digits between two numbers of the same length, with a point before the last `point` of them."""
    if not low:
        return literal("")
    dot = literal("." if len(low) == point else "")
    rest = len(low) - 1
    if set(low) == {"0"} and set(high) == {"9"}:
        return sequence(dot, DIGIT, _same_length(low[1:], high[1:], point))
    first, last = int(low[0]), int(high[0])
    if first == last:
        return sequence(dot, literal(low[0]), _same_length(low[1:], high[1:], point))
    lowest, highest = "0" * rest, "9" * rest
    forms = []
    if low[1:] != lowest:
        forms.append(sequence(literal(low[0]), _same_length(low[1:], highest, point)))
        first += 1
    if high[1:] != highest:
        forms.append(sequence(literal(high[0]), _same_length(lowest, high[1:], point)))
        last -= 1
    if first <= last:
        forms.append(sequence(_digit(first, last), _same_length(lowest, highest, point)))
    return sequence(dot, choice(forms))


def _digit(first: int, last: int) -> Expression:
    return Characters(((0x30 + first, 0x30 + last),))
