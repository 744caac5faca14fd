"""Ten thousand answers that repeat themselves rightly: code, tables, JSON, base64, logs, poems."""

from __future__ import annotations

import base64
import json
import string
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[3]
WORDS = """river stone lantern winter apple thread copper harbour meadow candle thunder silver
    window garden feather bridge morning shadow basket engine pocket needle orchard marble"""
NOUNS = WORDS.split()
STATES = ("ok", "ok", "ok", "ok", "failed", "skipped", "yes", "no", "0", "-", "n/a")


def _files(*patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(ROOT.glob(pattern))


def _sources() -> list[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [
        *_files("proxy/**/*.py", "tests/unit/**/*.py", "proxy/web/static/**/*.js", "docs/**/*.md")
    ]
    paths += _files(
        "proxy/web/static/**/*.css", "templates/**/*.html", "*.toml", "requirements/*.txt"
    )
    paths += sorted(library.glob("*.py")) + sorted(library.glob("encodings/*.py"))
    paths += sorted(library.glob("[a-m]*/*.py"))
    texts = (path.read_text("utf-8", "replace") for path in paths if "vendor" not in path.parts)
    return [text for text in texts if len(text) > 400]


_SOURCES: list[str] = []


def source(random: Random) -> str:
    """A part of a real file: of this repository, or of Python's library."""
    if not _SOURCES:
        _SOURCES.extend(_sources())
    text = random.choice(_SOURCES)
    begin = random.randrange(max(1, len(text) - 4000))
    return text[begin : begin + random.randint(1000, 12000)]


def _name(random: Random) -> str:
    return "_".join(random.sample(NOUNS, random.randint(1, 2)))


def program(random: Random) -> str:
    """Code as models write it, with blocks that differ in a name or a number only."""
    name, lines = _name(random), []
    for number in range(random.randint(5, 40)):
        other = random.choice((str(number), _name(random)))
        lines += [f"def test_{name}_{other}():", f"    value = make_{name}({other!r})"]
        lines += ["    assert value is not None", "    assert value.state == 'ready'", ""]
    lines += ["DATA = ["] + ["    [" + "0, " * random.randint(4, 16) + "],"] * random.randint(2, 30)
    return "\n".join([*lines, "]"])


def table(random: Random) -> str:
    """Rows of a name and values, many of them equal."""
    columns, form = random.randint(2, 8), random.choice(("| {} |", "{}"))
    join = " | " if "|" in form else random.choice((",", "\t", "  "))
    rows = [[_name(random) for _ in range(columns)]]
    if "|" in form:
        rows.append(["---"] * columns)
    value = random.choice((*STATES, "not available", "see the note below"))
    for number in range(random.randint(5, 80)):
        first = random.choice((_name(random), str(number)))
        rows.append([first, *(value for _ in range(columns - 1))])
    return "\n".join(form.format(join.join(row)) for row in rows)


def records(random: Random) -> str:
    """JSON: records, matrices, and the same record a few times."""
    kind = random.randrange(4)
    if kind == 0:
        size = random.randint(3, 20)
        value: object = [[random.choice((0, 0, 0, 1)) for _ in range(size)] for _ in range(size)]
    elif kind == 1:
        value = [{"id": n, "name": _name(random), "active": True, "tags": []} for n in range(40)]
    elif kind == 2:
        same = {"type": "paragraph", "text": "", "bold": False, "children": []}
        value = {"blocks": [same] * random.randint(2, 6), "title": _name(random)}
    else:
        value = {_name(random): {"type": "string", "description": ""} for _ in range(20)}
    return json.dumps(value, indent=random.choice((None, 2, 4)))


def encoded(random: Random) -> str:
    """Base64 or hexadecimal, of noise, zeros or text, in lines or in one."""
    size = random.randint(200, 2500)
    noise, zeros = random.randbytes(size), bytes(size)
    text = " ".join(random.choices(NOUNS, k=size // 8)).encode()
    data = random.choice((noise, zeros[: size // 2], noise + zeros[:800] + noise, text))
    code = random.choice((base64.b64encode(data).decode(), data.hex(), data.hex(" ")))
    width = random.choice((64, 76, 80, len(code)))
    return "\n".join(code[at : at + width] for at in range(0, len(code), width))


def log(random: Random) -> str:
    """Lines with a time or a number, and runs of equal lines without."""
    lines, second = [], random.randrange(3600)
    texts = ["connection refused, retrying in 5 seconds", "GET /health 200", "worker is alive"]
    texts += [f"cannot open {_name(random)}.db: no such file or directory", "Downloading..."]
    for _ in range(random.randint(10, 80)):
        second += random.randint(1, 30)
        stamp = f"2026-11-26 {second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        level = random.choice(("INFO", "INFO", "WARNING"))
        lines.append(f"{stamp} {level} {random.choice(texts)}")
        if not random.randrange(20):
            lines += [random.choice(texts)] * random.randint(2, 8)
    return "\n".join(lines)


REFRAINS = (
    "Row, row, row your boat,\nGently down the stream.\n",
    "And the tide comes in, and the tide goes out,\nAnd the harbour sleeps below.\n",
    "Oh, the wind and the rain!\n",
    "La la la, la la la,\nLa la la la la.\n",
    "Hey ho, nobody home,\nMeat nor drink nor money have I none.\n",
    "Still we rise,\nStill we sing,\nStill we carry the light,\nHome through the long night.\n",
)


def poem(random: Random) -> str:
    """Verses with a refrain, which stands twice or thrice at the end."""
    refrain, parts = random.choice(REFRAINS), []
    for _ in range(random.randint(2, 8)):
        rows = (f"The {a} by the {b}," for a, b in (random.sample(NOUNS, 2) for _ in range(4)))
        parts += ["\n".join(rows), refrain * random.randint(1, 2)]
    short = len(refrain) < 120
    return "\n\n".join([*parts, refrain * random.choice((2, 3 if short else 2, 4 if short else 2))])


def drawing(random: Random) -> str:
    """Characters in rows, and rules between texts."""
    width = random.randint(20, 78)
    rows = [random.choice("#*.=- ") * width for _ in range(random.randint(4, 30))]
    rule = random.choice(("-", "=", "─", "*", "_ ")) * width
    boxes = [f"+{'-' * width}+\n|{' ' * width}|\n|{' ' * width}|\n+{'-' * width}+"] * 4
    return "\n".join([*rows, rule, _name(random), rule, *boxes])


def markup(random: Random) -> str:
    """HTML and SQL with many equal parts."""
    cell = random.choice(("<td></td>", "<li>Item</li>", '<div class="cell"></div>', "<br>"))
    rows = [f"  {cell * random.randint(1, 6)}" for _ in range(random.randint(3, 25))]
    values = [f"INSERT INTO {_name(random)} VALUES ({n}, 'active', NULL, NULL);" for n in range(30)]
    return "\n".join(["<table>", *rows, "</table>", "", *values])


def said(random: Random) -> str:
    """Texts that people ask for: a sentence some times over, letters in rows, a count."""
    sentence = f"I must not lose the {random.choice(NOUNS)}."
    rows = [f"{n}. {sentence}" for n in range(1, random.randint(10, 100))]
    alphabet = [" ".join(string.ascii_lowercase)] * random.randint(2, 5)
    again = [sentence] * random.randint(3, 10)
    return "\n".join(random.choice(([*rows], [*alphabet, *again], [*again, *rows])))


MAKERS: tuple[Callable[[Random], str], ...] = (
    *(source,) * 6,
    program,
    table,
    table,
    records,
    records,
    encoded,
    log,
    log,
    poem,
    poem,
    drawing,
    markup,
    said,
)


def answers(count: int, seed: int = 41) -> Iterator[tuple[str, str]]:
    """So many of them: the kind of each, and its text."""
    random = Random(seed)
    for number in range(count):
        make = MAKERS[number % len(MAKERS)]
        yield make.__name__, make(random)
