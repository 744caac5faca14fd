"""The scanner finds the end of a JSON value however the text is split."""

from __future__ import annotations

import json
import time

from hypothesis import given
from hypothesis import strategies as st

from proxy.prompting.formats.scanner import JsonScanner

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def scan(pieces: list[str]) -> tuple[str, int, JsonScanner]:
    scanner = JsonScanner()
    out, taken = "", 0
    for piece in pieces:
        end, text = scanner.scan(piece)
        out, taken = out + text, taken + end
        if end < len(piece):
            break
    scanner.finish()
    return out, taken, scanner


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_json_value_ends_at_the_same_place_whole_and_split(
    value: object, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    for pieces in ([text + ",x"], [*text, ",", "x"]):
        out, taken, scanner = scan(pieces)
        assert scanner.done
        assert (out, taken) == (text, len(text))


def test_raw_control_characters_in_strings_are_escaped() -> None:
    out, _, scanner = scan(list('{"code": "a\nb\tc\x01"}'))
    assert scanner.done
    assert json.loads(out) == {"code": "a\nb\tc\x01"}


def test_json_reading_time_is_linear() -> None:
    text = json.dumps({"a": ["some text \u00e9"] * 20_000})
    scanner = JsonScanner()
    begun = time.process_time()
    for at in range(0, len(text), 4):
        scanner.scan(text[at : at + 4])
    assert scanner.done
    assert time.process_time() - begun < 2
