"""Personal numbers: what is one, what only looks like one, and files without them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from gptwo.data.pii import find, is_chinese_id, is_iban, is_luhn, redact
from gptwo.data.redact import redact_files
from gptwo.errors import DataError, UsageError

FOUND = [
    ("Write to anna.b+x@mail.example.co.uk.", "email", "anna.b+x@mail.example.co.uk"),
    ("邮箱：li_ming@例 li.ming@qq.com，谢谢", "email", "li.ming@qq.com"),
    ("手机13812345678。", "phone", "13812345678"),
    ("电话 +86 138 1234 5678 转", "phone", "+86 138 1234 5678"),
    ("手机１３８１２３４５６７８！", "phone", "１３８１２３４５６７８"),
    ("座机010-62345678，", "phone", "010-62345678"),
    ("座机(0755)82345678-12", "phone", "(0755)82345678-12"),
    ("客服 400-123-4567", "phone", "400-123-4567"),
    ("Call (212) 555-0123 now", "phone", "(212) 555-0123"),
    ("ring +49 30 901820 or", "phone", "+49 30 901820"),
    ("or 0044 20 7946 0958.", "phone", "0044 20 7946 0958"),
    ("身份证11010519491231002X号", "id", "11010519491231002X"),
    ("老证号 110105491231002 的", "id", "110105491231002"),
    ("SSN 123-45-6789.", "id", "123-45-6789"),
    ("卡号 6222021234567890128。", "card", None),
    ("card 4111 1111 1111 1111 exp", "card", "4111 1111 1111 1111"),
    ("Amex 3782-822463-10005", "card", "3782-822463-10005"),
    ("IBAN DE89 3704 0044 0532 0130 00 at", "card", "DE89 3704 0044 0532 0130 00"),
]


def with_luhn(prefix: str) -> str:
    """A number with the right last digit."""
    return next(prefix + digit for digit in "0123456789" if is_luhn(prefix + digit))


@pytest.mark.parametrize(("text", "kind", "value"), FOUND)
def test_personal_numbers_are_found(text, kind, value):
    if value is None:
        value = with_luhn("622202123456789012")
        text = f"卡号 {value}。"
    assert [(one.kind, one.text) for one in find(text)] == [(kind, value)]
    assert redact(text)[0] == text.replace(value, f"[{kind.upper()}]")


@pytest.mark.parametrize(
    "text",
    [
        "order 4111111111111112 was sent",  # no check digit
        "身份证110105194912310021号",  # wrong check digit
        "id 110105194913310020",  # no such month
        "in 2019-2020, 1234567 people, 3.1415926535 and 1,234,567,890",
        "version 10.2.13.4, page 12345, year 2024",
        "a@b, @home, me@, https://example.com/a@b",
        "SSN 000-12-3456 and 666-12-3456",
        "第13812345678902条",  # a longer number
        "0000000000000000",
        "",
    ],
)
def test_other_numbers_stay(text):
    assert find(text) == []
    assert redact(text) == (text, [])


def test_check_digits():
    assert is_chinese_id("11010519491231002x")
    assert not is_chinese_id("11010519491231002")
    assert is_luhn("5500-0000-0000-0004")
    assert not is_luhn("1111 1111 1111")
    assert is_iban("GB82WEST12345698765432")


def test_kinds_can_be_chosen_and_places_never_overlap():
    text = "a@b.com 13812345678 4111111111111111 11010519491231002X"
    assert [one.kind for one in find(text)] == ["email", "phone", "card", "id"]
    assert [one.kind for one in find(text, ["phone"])] == ["phone"]
    ends = 0
    for one in find(text * 3):
        assert one.start >= ends
        assert (text * 3)[one.start : one.end] == one.text
        ends = one.end


def test_files_keep_their_format(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"one\r\ncall 13812345678\n\nlast a@b.com")
    rows = [{"text": "to li@x.cn", "n": 13812345678, "m": 7, "deep": [{"t": "4111111111111111"}]}, {"text": "none"}]
    (tmp_path / "in" / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "in" / "c.csv").write_text('text,label\n"a, ""b""\nx@y.org",1\nplain,2\n', encoding="utf-8")
    (tmp_path / "in" / "d.json").write_text(json.dumps([{"t": "010-62345678"}]), encoding="utf-8")
    done = redact_files([tmp_path / "in"], tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"one\r\ncall [PHONE]\n\nlast [EMAIL]"
    found = [json.loads(line) for line in (tmp_path / "out" / "b.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found == [{"text": "to [EMAIL]", "n": "[PHONE]", "m": 7, "deep": [{"t": "[CARD]"}]}, {"text": "none"}]
    with open(tmp_path / "out" / "c.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["text", "label"], ['a, "b"\n[EMAIL]', "1"], ["plain", "2"]]
    assert json.loads((tmp_path / "out" / "d.json").read_text()) == [{"t": "[PHONE]"}]
    assert done.kinds == {"phone": 3, "email": 3, "card": 1}
    assert done.changed == 5
    assert done.rows == 4 + 2 + 3 + 1
    lines = [json.loads(line) for line in Path(done.report).read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 7
    assert {(line["file"].rpartition("/")[2], line["row"]) for line in lines} >= {("a.txt", 2), ("b.jsonl", 1)}
    assert "13812345678" not in json.dumps(lines)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_bytes_that_are_no_text_pass_through(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe a@b.com \x80\n")
    redact_files([tmp_path / "a.txt"], tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"\xff\xfe [EMAIL] \x80\n"


def test_what_cannot_be_done_is_told_and_nothing_is_left(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nno json\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a.jsonl:2"):
        redact_files([tmp_path / "a.jsonl"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="'mail'"):
        redact_files([tmp_path / "a.txt"], tmp_path / "out", kinds=["mail"])
    with pytest.raises(UsageError, match="originals"):
        redact_files([tmp_path / "a.txt"], tmp_path, overwrite=True)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be copied"):
        redact_files([tmp_path / "a.parquet"], tmp_path / "out")
    redact_files([tmp_path / "a.txt"], tmp_path / "out")
    with pytest.raises(UsageError, match="already there"):
        redact_files([tmp_path / "a.txt"], tmp_path / "out")
    redact_files([tmp_path / "a.txt"], tmp_path / "out", overwrite=True)
