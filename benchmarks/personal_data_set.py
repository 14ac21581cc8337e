"""Makes the frozen test set of personal data, `tests/personal_data/{development,test}.jsonl.gz`.

    python benchmarks/personal_data_set.py

Nobody in it exists. Values follow the standards: GB 11643 (identity numbers), GB 32100 (credit codes), ISO/IEC 7812 and
Luhn (cards), ISO 13616 (IBAN), the US Social Security Administration's ranges, GA 36 (plates); check digits come from
python-stdnum. Sentences are drawn from `templates.toml`, in turn; every fourth round is adversarial in format:
full-width digits, blanks and dashes inside numbers, +86, zero-width characters, Chinese numerals. Names, templates and
seeds of the two halves differ. Rules are written with `development` alone; `test` is for the final figure.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import io
import json
import random
import re
import string
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from stdnum import iban, luhn
from stdnum.cn import ric, uscc

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "personal_data"
SIZES = {"development": (1200, 1200), "test": (3200, 3200)}
SEEDS = {"development": 11643, "test": 32100}
HALF = {"development": 0, "test": 1}

KINDS = (
    "id_number", "phone", "bank_card", "credit_code", "passport", "plate", "email", "address", "name", "account_id",
    "ssn", "iban", "ip", "mac", "birth_date", "secret",
)  # fmt: skip

TEMPLATES = tomllib.loads((FOLDER / "templates.toml").read_text(encoding="utf-8"))
WORDS = TEMPLATES["words"]
DIGIT_NAMES = str.maketrans("0123456789", "零一二三四五六七八九")
FULL_WIDTH = {point: point + 0xFEE0 for point in range(0x21, 0x7F)}
ZERO_WIDTH = "\u200b\u200c\u2060\ufeff"

Draw = random.Random


def digits(draw: Draw, count: int) -> str:
    """So many digits."""
    return "".join(draw.choice(string.digits) for _ in range(count))


def pick(draw: Draw, alphabet: str, count: int) -> str:
    """So many characters of an alphabet."""
    return "".join(draw.choice(alphabet) for _ in range(count))


def id_number(draw: Draw, half: int, language: str) -> str:
    """GB 11643: region, birth, order, check character by ISO 7064 MOD 11-2."""
    born = f"{draw.randint(1940, 2015)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
    body = draw.choice(WORDS["regions"]) + born + digits(draw, 3)
    check = ric.calc_check_digit(body + "0")
    return body + (check.lower() if draw.random() < 0.3 else check)


def phone(draw: Draw, half: int, language: str) -> str:
    """A mobile or a landline, as people write them."""
    if language == "zh":
        number = draw.choice(WORDS["mobile_prefixes"])
        number += digits(draw, 8)
        if draw.random() < 0.25:
            area = draw.choice(("010", "021", "020", "0755", "0571", "028", "0532", "0991"))
            local = draw.choice("2345678") + digits(draw, 7)
            return draw.choice(
                (f"{area}-{local}", f"({area}){local}", f"{area}{local}", f"{area}-{local}-{digits(draw, 3)}")
            )
        return draw.choice(
            (
                number,
                number,
                number,
                f"{number[:3]}-{number[3:7]}-{number[7:]}",
                f"{number[:3]} {number[3:7]} {number[7:]}",
            )
        )
    area, exchange, line = str(draw.randint(201, 989)), str(draw.randint(200, 999)), digits(draw, 4)
    return draw.choice(
        (
            f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"+1 {area} {exchange} {line}",
            f"{area}.{exchange}.{line}", f"+1-{area}-{exchange}-{line}", f"+44 20 {digits(draw, 4)} {line}",
        )
    )  # fmt: skip


def bank_card(draw: Draw, half: int, language: str) -> str:
    """ISO/IEC 7812 with Luhn's digit: UnionPay in Chinese, Visa, Mastercard and American Express in English."""
    if language == "zh":
        prefix, length = (
            draw.choice(("622202", "621700", "622848", "621661", "622588", "625900")),
            draw.choice((16, 19)),
        )
    else:
        prefix, length = draw.choice((("4", 16), ("51", 16), ("55", 16), ("37", 15), ("34", 15), ("6011", 16)))
    body = prefix + digits(draw, length - len(prefix) - 1)
    number = body + luhn.calc_check_digit(body)
    joint = draw.choice(("", "", " ", "-") if language == "en" else ("", "", "", " "))
    return joint.join(number[start : start + 4] for start in range(0, length, 4))


def credit_code(draw: Draw, half: int, language: str) -> str:
    """GB 32100."""
    body = (
        draw.choice(("91", "92", "12", "52"))
        + draw.choice(WORDS["regions"])
        + pick(draw, "0123456789ABCDEFGHJKLMNPQRTUWXY", 9)
    )
    return body + uscc.calc_check_digit(body + "0")


def passport(draw: Draw, half: int, language: str) -> str:
    """China: nine places, of them E, G or E with a letter at the front; the US: nine digits, or a letter and eight."""
    if language == "zh":
        head = draw.choice(("E", "G", "E" + draw.choice("ABCDEFGHJK")))
        return head + digits(draw, 9 - len(head))
    return draw.choice((digits(draw, 9), draw.choice(string.ascii_uppercase) + digits(draw, 8)))


def plate(draw: Draw, half: int, language: str) -> str:
    """GA 36: six characters, or seven where the car is electric."""
    head = draw.choice("京津冀晋蒙辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼渝川贵云藏陕甘青宁新") + draw.choice("ABCDEFGH")
    tail = draw.choice(
        (digits(draw, 5), draw.choice("ABCDEFGHJK") + digits(draw, 4), draw.choice("DF") + digits(draw, 5))
    )
    return head + draw.choice(("", "", "·")) + tail


def email(draw: Draw, half: int, language: str) -> str:
    """Local parts as people choose them."""
    user = (
        draw.choice(WORDS["first"][half]).lower()
        + draw.choice((".", "_", "", "-"))
        + draw.choice(WORDS["last"][half]).lower().replace("'", "")
    )
    user += draw.choice(("", "", digits(draw, 2), digits(draw, 4)))
    if language == "zh" and draw.random() < 0.4:
        user = digits(draw, draw.randint(6, 10))
    hosts = ("qq.com", "163.com", "126.com", "sina.com.cn", "foxmail.com") if language == "zh" else ()
    return f"{user}@{draw.choice((*hosts, 'gmail.com', 'outlook.com', 'mail.example.co.uk', 'acme-corp.io'))}"


def address(draw: Draw, half: int, language: str) -> str:
    """Down to a door."""
    if language == "en":
        number, street, town = (
            draw.randint(1, 9999),
            draw.choice(WORDS["streets"][half]),
            draw.choice(WORDS["towns"][half]),
        )
        flat = draw.choice(
            ("", "", f", Apt {draw.randint(1, 40)}{draw.choice('ABC')}", f", Suite {draw.randint(100, 900)}")
        )
        return f"{number} {street}{flat}, {town}"
    if draw.random() < 0.2:
        town, village = draw.choice(WORDS["villages"])
        return f"{town}{village}{draw.choice(('', '三组', '东街'))}{draw.randint(1, 99)}号"
    city, district = draw.choice(WORDS["places"])
    head = draw.choice((city + district, city + district, district))
    road = f"{draw.choice(WORDS['roads'][half])}{draw.randint(1, 999)}号"
    estate = draw.choice((draw.choice(WORDS["estates"][half]), ""))
    building = draw.choice(
        (
            f"{draw.randint(1, 30)}号楼{draw.randint(1, 6)}单元{draw.randint(101, 2804)}室",
            f"{draw.choice('ABC')}座{draw.randint(2, 28)}楼",
            f"{draw.randint(1, 9)}栋{draw.randint(101, 999)}",
            "",
        )
    )
    return head + road + estate + building


def name(draw: Draw, half: int, language: str) -> str:
    """Chinese or English, by the language of the sentence."""
    if language == "zh":
        surname = draw.choice(WORDS["compound"]) if draw.random() < 0.04 else draw.choice(WORDS["surnames"])
        return surname + pick(draw, WORDS["given"][half], 1 if draw.random() < 0.25 else 2)
    middle = f" {draw.choice(string.ascii_uppercase)}." if draw.random() < 0.15 else ""
    return f"{draw.choice(WORDS['first'][half])}{middle} {draw.choice(WORDS['last'][half])}"


def account_id(draw: Draw, half: int, language: str) -> str:
    """A WeChat id (a letter, then 5 to 19 of its characters) or a QQ number: the template does not say which."""
    if draw.random() < 0.5:
        return draw.choice("123456789") + digits(draw, draw.randint(5, 9))
    return (
        draw.choice(("wx", "wxid", draw.choice(WORDS["first"][half]).lower()))
        + draw.choice(("_", "-", ""))
        + pick(draw, string.ascii_lowercase + string.digits, draw.randint(5, 8))
    )


def ssn(draw: Draw, half: int, language: str) -> str:
    """Area without 000, 666 and 900 up; group and serial without zeros alone."""
    area = draw.choice([number for number in range(1, 900) if number != 666])
    joint = draw.choice(("-", "-", "-", " "))
    return f"{area:03}{joint}{draw.randint(1, 99):02}{joint}{draw.randint(1, 9999):04}"


def iban_(draw: Draw, half: int, language: str) -> str:
    """ISO 13616 for six countries, in groups of four or in one."""
    country, body = draw.choice(
        (
            ("DE", digits(draw, 18)), ("GB", pick(draw, string.ascii_uppercase, 4) + digits(draw, 14)),
            ("FR", digits(draw, 10) + pick(draw, string.ascii_uppercase + string.digits, 11) + digits(draw, 2)),
            ("NL", pick(draw, string.ascii_uppercase, 4) + digits(draw, 10)), ("ES", digits(draw, 20)),
            ("CH", digits(draw, 5) + pick(draw, string.ascii_uppercase + string.digits, 12)),
        )
    )  # fmt: skip
    number = country + iban.calc_check_digits(f"{country}00{body}") + body
    return " ".join(number[start : start + 4] for start in range(0, len(number), 4)) if draw.random() < 0.5 else number


def ip(draw: Draw, half: int, language: str) -> str:
    """Version 4, now and then version 6."""
    if draw.random() < 0.2:
        groups = [f"{draw.randrange(1, 65536):x}" for _ in range(8)]
        return draw.choice((":".join(groups), "2001:db8::" + ":".join(groups[:2]), "fe80::" + ":".join(groups[:4])))
    return ".".join(str(draw.randint(1, 254)) for _ in range(4))


def mac(draw: Draw, half: int, language: str) -> str:
    """IEEE 802: six pairs, or three groups of four."""
    pairs = [f"{draw.randrange(256):02x}" for _ in range(6)]
    text = draw.choice(
        (":".join(pairs), "-".join(pairs), ".".join(a + b for a, b in zip(pairs[::2], pairs[1::2], strict=True)))
    )
    return text.upper() if draw.random() < 0.5 else text


def birth_date(draw: Draw, half: int, language: str) -> str:
    """Of somebody who may be alive."""
    year, month, day = draw.randint(1930, 2020), draw.randint(1, 12), draw.randint(1, 28)
    if language == "zh":
        return draw.choice(
            (
                f"{year}年{month}月{day}日",
                f"{year}-{month:02}-{day:02}",
                f"{year}.{month}.{day}",
                f"{year}/{month}/{day}",
            )
        )
    return draw.choice(
        (
            f"{month:02}/{day:02}/{year}",
            f"{WORDS['months'][month - 1]} {day}, {year}",
            f"{day} {WORDS['months'][month - 1][:3]} {year}",
            f"{year}-{month:02}-{day:02}",
        )
    )


def secret(draw: Draw, half: int, language: str) -> str:
    """Keys and tokens in the shapes that providers give out."""
    letters = string.ascii_letters + string.digits
    return draw.choice(
        (
            lambda: "sk-" + pick(draw, letters, 48),
            lambda: "sk-proj-" + pick(draw, letters + "_-", 60) + pick(draw, letters, 4),
            lambda: "AKIA" + pick(draw, string.ascii_uppercase + "234567", 16),
            lambda: "ghp_" + pick(draw, letters, 36),
            lambda: "github_pat_" + pick(draw, letters, 22) + "_" + pick(draw, letters, 59),
            lambda: "hf_" + pick(draw, string.ascii_letters, 34),
            lambda: "LTAI5t" + pick(draw, letters, 18),
            lambda: "AKID" + pick(draw, letters, 32),
            lambda: "xoxb-" + digits(draw, 12) + "-" + digits(draw, 12) + "-" + pick(draw, letters, 24),
            lambda: "AIza" + pick(draw, letters + "_-", 34) + pick(draw, letters, 1),
            lambda: "sk_live_" + pick(draw, letters, 24),
            lambda: "glpat-" + pick(draw, letters, 20),
            lambda: ".".join(
                base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
                for part in ('{"alg":"HS256","typ":"JWT"}', f'{{"sub":"{digits(draw, 10)}"}}', pick(draw, letters, 32))
            ),
        )
    )()


def secret_url(draw: Draw, half: int, language: str) -> str:
    """The password between colon and at sign is what is to be found; marked here with two bars."""
    scheme, port = draw.choice(
        (("postgres", 5432), ("mysql", 3306), ("redis", 6379), ("mongodb", 27017), ("https", 443))
    )
    password = pick(draw, string.ascii_letters + string.digits + "!$_-", draw.randint(8, 16))
    return f"{scheme}://{draw.choice(('admin', 'root', 'app'))}:|{password}|@db.example.com:{port}/main"


def secret_pem(draw: Draw, half: int, language: str) -> str:
    """PEM (RFC 7468), the whole block."""
    kind = draw.choice(("RSA PRIVATE KEY", "PRIVATE KEY", "OPENSSH PRIVATE KEY", "EC PRIVATE KEY"))
    lines = "\n".join(pick(draw, string.ascii_letters + string.digits + "+/", 64) for _ in range(draw.randint(3, 8)))
    return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----"


VALUES: dict[str, Callable[[Draw, int, str], str]] = {
    **{kind: globals()[kind] for kind in KINDS if kind != "iban"},
    "iban": iban_,
    "secret_url": secret_url,
    "secret_pem": secret_pem,
}


def disguise(draw: Draw, kind: str, value: str) -> str:
    """The same value in another format; some kinds have few."""
    ways: list[Callable[[], str]] = [lambda: _insert(draw, value)]
    if kind not in ("secret", "name", "address", "birth_date", "email"):
        ways.append(lambda: value.translate(FULL_WIDTH))
    if kind in ("address", "birth_date"):
        ways.append(lambda: re.sub(r"\d", lambda digit: digit[0].translate(FULL_WIDTH), value))
    if kind == "birth_date" and "年" in value:
        ways.append(lambda: re.sub(r"\d+", lambda number: _spoken(number[0]), value))
    if kind == "email":
        ways += [lambda: value.replace("@", "＠"), lambda: value.replace("@", " @ ")]
    if kind == "name" and value.isascii():
        ways.append(value.upper)
    elif kind == "name":
        ways.append(lambda: value[0] + "　" + value[1:] if len(value) == 2 else value)
    bare = re.sub(r"\W", "", value)
    if kind in ("id_number", "bank_card", "credit_code"):
        joint = draw.choice((" ", "-", "  "))
        ways += [lambda: joint.join(bare[start : start + 4] for start in range(0, len(bare), 4))]
    if kind == "id_number":
        ways += [lambda: f"{bare[:6]} {bare[6:14]} {bare[14:]}"]
    if kind == "phone" and len(bare) == 11 and bare[0] == "1" and "+" not in value:
        ways += [
            lambda: f"+86{bare}", lambda: f"+86 {bare}", lambda: f"0086-{bare}", lambda: f"(+86){bare}",
            lambda: f"{bare[:3]}—{bare[3:7]}—{bare[7:]}", lambda: f"{bare[:3]}.{bare[3:7]}.{bare[7:]}",
            lambda: " ".join(bare), lambda: bare.translate(DIGIT_NAMES), lambda: bare.translate(DIGIT_NAMES),
        ]  # fmt: skip
    if kind == "iban":
        ways += [lambda: bare.lower(), lambda: "-".join(bare[start : start + 4] for start in range(0, len(bare), 4))]
    if kind == "ip" and "." in value:
        ways += [lambda: value.replace(".", "[.]")]
    return draw.choice(ways)()


def _spoken(number: str) -> str:
    """`1990` -> 一九九零, `12` -> 十二."""
    if len(number) == 4:
        return number.translate(DIGIT_NAMES)
    tens, ones = divmod(int(number), 10)
    head = "" if not tens else "十" if tens == 1 else f"{str(tens).translate(DIGIT_NAMES)}十"
    return head + (str(ones).translate(DIGIT_NAMES) if ones or not tens else "")


def _insert(draw: Draw, value: str) -> str:
    place = draw.randrange(1, len(value))
    return value[:place] + draw.choice(ZERO_WIDTH) + value[place:]


def harmless(draw: Draw, kind: str) -> str:
    """A number that is nobody's."""
    year = draw.randint(1995, 2025)
    month, day = draw.randint(1, 12), draw.randint(1, 28)
    ean = draw.choice(("978", "979")) + digits(draw, 9)
    hexadecimal = "0123456789abcdef"
    made: dict[str, Callable[[], str]] = {
        "digit": lambda: digits(draw, 1),
        "two": lambda: digits(draw, 2),
        "four": lambda: digits(draw, 4),
        "six": lambda: digits(draw, 6),
        "small": lambda: str(draw.randint(2, 999)),
        "count": lambda: draw.choice((f"{draw.randint(1000, 99_999_999):,}", str(draw.randint(1000, 99_999_999)))),
        "price": lambda: draw.choice((f"{draw.uniform(1, 99999):,.2f}", f"{draw.uniform(1, 999):.2f}")),
        "decimal": lambda: f"{draw.uniform(0, 180):.{draw.randint(1, 6)}f}",
        "version": lambda: ".".join(
            str(draw.randint(0, draw.choice((9, 30, 20000)))) for _ in range(draw.randint(2, 4))
        ),
        "date": lambda: draw.choice(
            (f"{year}-{month:02}-{day:02}", f"{year}年{month}月{day}日", f"{month}/{day}/{year}")
        ),
        "date8": lambda: f"{year}{digits(draw, 4)}",
        "order": lambda: f"{year}{month:02}{day:02}{digits(draw, draw.choice((6, 8, 10)))}",
        "serial": lambda: digits(draw, draw.choice((10, 12, 20, 24))),
        "tracking": lambda: draw.choice(
            (
                f"SF{digits(draw, 13)}",
                f"YT{digits(draw, 13)}",
                f"1Z{pick(draw, string.ascii_uppercase + string.digits, 16)}",
            )
        ),
        "isbn": lambda: draw.choice(
            (ean + _ean_digit(ean), f"{ean[:3]}-7-{ean[4:7]}-{ean[7:12]}-{_ean_digit(ean[:3] + '7' + ean[4:])}")
        ),
        "barcode": lambda: f"69{digits(draw, 11)}",
        "part": lambda: (
            pick(draw, string.ascii_uppercase, draw.randint(1, 3))
            + draw.choice("-/")
            + digits(draw, draw.randint(3, 6))
            + draw.choice(("", "-B", "X2", "/01"))
        ),
        "hash": lambda: pick(draw, hexadecimal, 40),
        "hash7": lambda: pick(draw, hexadecimal, 7),
        "sha256": lambda: pick(draw, hexadecimal, 64),
        "hex8": lambda: pick(draw, hexadecimal, 8).upper(),
        "uuid": lambda: "-".join(pick(draw, hexadecimal, size) for size in (8, 4, 4, 4, 12)),
        "timestamp": lambda: str(draw.randint(1_500_000_000, 1_800_000_000)) + draw.choice(("", digits(draw, 3))),
        "flight": lambda: draw.choice(("CA", "MU", "BA", "UA")) + digits(draw, 4),
        "cas": lambda: f"{draw.randint(50, 999999)}-{digits(draw, 2)}-{digits(draw, 1)}",
        "patent": lambda: f"{year}1{digits(draw, 7)}.{digits(draw, 1)}",
        "patent7": lambda: f"{draw.randint(5, 11)},{digits(draw, 3)},{digits(draw, 3)}",
        "meeting": lambda: f"{digits(draw, 3)}-{digits(draw, 5)}-{digits(draw, 1)}",
    }
    return made[kind]()


def _ean_digit(body: str) -> str:
    total = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(body))
    return str(-total % 10)


def sentence(draw: Draw, half: int, template: str, language: str, *, adversarial: bool) -> dict[str, object]:
    """A template filled in, with where each value came to stand."""
    text, spans = "", []
    for number, piece in enumerate(re.split(r"(\{\{\w+\}\}|\{\w+\})", template)):
        if number % 2 == 0:
            text += piece
        elif piece.startswith("{{"):
            text += harmless(draw, piece.strip("{}"))
        else:
            slot = piece.strip("{}")
            kind = slot.split("_")[0] if slot.startswith("secret") else slot
            value = VALUES[slot](draw, half, language)
            if slot == "secret_url":
                head, value, tail = value.split("|")
                text += head
            elif adversarial and slot != "secret_pem":
                value = disguise(draw, kind, value)
            spans.append({"start": len(text), "end": len(text) + len(value), "kind": kind})
            text += value + (tail if slot == "secret_url" else "")
    return {"text": text, "language": language, "adversarial": adversarial, "spans": spans}


def sentences(part: str) -> Iterator[dict[str, object]]:
    """First those with personal data, then those without."""
    draw = random.Random(SEEDS[part])
    templates = TEMPLATES[part]
    personal = [(template, language) for language in ("zh", "en") for template in templates[language]]
    with_data, clean = SIZES[part]
    for number in range(with_data):
        template, language = personal[number % len(personal)]
        yield sentence(draw, HALF[part], template, language, adversarial=number // len(personal) % 4 == 0)
    for number in range(clean):
        template = templates["clean"][number % len(templates["clean"])]
        language = "en" if template.isascii() else "zh"
        yield sentence(draw, HALF[part], template, language, adversarial=False)


def packed(part: str) -> bytes:
    """The set as gzipped JSON lines, the same bytes every time."""
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in sentences(part))
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", mtime=0) as file:
        file.write(lines.encode())
    return sink.getvalue()


def main() -> None:
    """Write both halves."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for part in SIZES:
        (FOLDER / f"{part}.jsonl.gz").write_bytes(packed(part))


if __name__ == "__main__":
    main()
