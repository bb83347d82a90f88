"""Opening files, parsing JSON and showing text that others wrote."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertft.untrusted import parse_json, read_bytes, read_json, shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("1" * 4301, "too many digits"),
        ("{", "not JSON"),
        ("", "not JSON"),
        (b"\xff\xfe{", "not"),
        (b'{"a": "\xff"}', "not UTF-8"),
    ],
    ids=["lists", "objects", "digits", "open", "empty", "utf-16", "utf-8"],
)
def test_what_is_no_json_gives_one_kind_of_error(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_json_is_read_as_python_reads_it(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this platform")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(OSError, match="Not a regular file"):
        read_json(tmp_path / "config.json")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero on this platform")
def test_a_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="Not a regular file"):
        read_bytes(tmp_path / "link")


def test_a_folder_and_a_missing_file_keep_their_own_errors(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "absent")


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    left = {char for char in shown(text) if not char.isprintable() and char not in "\n\t\u200c\u200d"}
    assert all(unicodedata.category(char) == "Zs" for char in left)  # such as a no-break space


@pytest.mark.parametrize(
    "text", ["plain", "naïve café", "日本語", "שלום", "a\u0301", "line\nbreak", "नमस्ते", "👩\u200d🔬", ""]
)
def test_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize("char", ["\x1b", "\x07", "\x00", "\x7f", "\x9b", "\u202e", "\u2066", "\ud800", "\r"])
def test_controls_are_written_as_escapes(char: str) -> None:
    assert shown(f"a{char}b").startswith("a\\")
    assert char not in shown(f"a{char}b")
