"""Sorted tables in LevelDB's format, as TensorFlow writes them: keys and values in prefix-compressed blocks.

Format: https://github.com/google/leveldb/blob/main/doc/table_format.md; compressed blocks:
https://github.com/google/snappy/blob/main/format_description.txt. Every block's CRC-32C is checked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gptwo.errors import DataError
from gptwo.model.crc32c import crc32c, masked

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48  # two block handles, padded to 40 bytes, and the magic number
TRAILER_BYTES = 5  # compression type and checksum behind every block
PLAIN, SNAPPY = 0, 1


def read_table(file: Path) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, in order.

    Raises:
        DataError: not a table, or a damaged one; with the file and the offset.
    """
    content = file.read_bytes()
    footer = len(content) - FOOTER_BYTES
    if footer < 0 or int.from_bytes(content[-8:], "little") != MAGIC:
        raise damaged("This is not a LevelDB-format table, or it was cut short.", file, max(footer, 0))
    try:
        _, at = read_handle(content, footer)  # the block of statistics, which says nothing about the rows
        index, _ = read_handle(content, at)
    except IndexError as error:
        raise damaged("The table's footer is damaged.", file, footer) from error
    for _, handle in read_block(content, index, file):
        yield from read_block(content, read_handle(handle, 0)[0], file)


def read_block(content: bytes, handle: tuple[int, int], file: Path) -> list[tuple[bytes, bytes]]:
    """Keys and values of the block at `handle` = (offset, size)."""
    offset, size = handle
    if offset + size + TRAILER_BYTES > len(content):
        raise damaged(f"A block of the table reaches behind the file's end (byte {len(content)}).", file, offset)
    kind, checksum = struct.unpack_from("<BI", content, offset + size)
    if masked(crc32c(np.frombuffer(content, np.uint8, size + 1, offset))) != checksum:
        raise damaged("A block of the table does not have its checksum.", file, offset)
    if kind not in (PLAIN, SNAPPY):
        raise damaged(f"A block of the table is compressed in an unknown way ({kind}).", file, offset)
    try:
        block = content[offset : offset + size]
        return split_block(block if kind == PLAIN else expand_snappy(block))
    except (IndexError, struct.error, ValueError) as error:
        raise damaged("A block of the table cannot be read.", file, offset) from error


def split_block(block: bytes) -> list[tuple[bytes, bytes]]:
    """Rows of an expanded block: each key shares its first bytes with the key before it."""
    restarts = struct.unpack_from("<I", block, len(block) - 4)[0]
    end = len(block) - 4 * (restarts + 1)
    rows, at, key = [], 0, b""
    while at < end:
        shared, at = read_varint(block, at)
        fresh, at = read_varint(block, at)
        length, at = read_varint(block, at)
        if shared > len(key) or at + fresh + length > end:
            raise ValueError("a row reaches behind the block's end")
        key = key[:shared] + block[at : at + fresh]
        at += fresh + length
        rows.append((key, block[at - length : at]))
    return rows


def read_handle(content: bytes, at: int) -> tuple[tuple[int, int], int]:
    """A block's (offset, size), and the position behind it."""
    offset, at = read_varint(content, at)
    size, at = read_varint(content, at)
    return (offset, size), at


def read_varint(content: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer (seven bits a byte, lowest first) and the position behind it.

    Raises:
        IndexError: the content ends within it.
    """
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def expand_snappy(packed: bytes) -> bytes:
    """The bytes that Snappy packed: literals, and copies of what was written before.

    Raises:
        IndexError, ValueError: damaged.
    """
    size, at = read_varint(packed, 0)
    out = bytearray()
    while at < len(packed):
        tag, at = packed[at], at + 1
        kind, length = tag & 3, (tag >> 2) + 1
        if kind == 0:  # literal; a length above 60 stands in the next one to four bytes
            if length > 60:
                width = length - 60
                length, at = int.from_bytes(packed[at : at + width], "little") + 1, at + width
            out += packed[at : at + length]
            at += length
            continue
        if kind == 1:
            length, distance, at = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | packed[at], at + 1
        else:
            width = 2 if kind == 2 else 4
            distance, at = int.from_bytes(packed[at : at + width], "little"), at + width
        if not 0 < distance <= len(out):
            raise ValueError("a copy from before the beginning")
        while length:  # a copy may overlap itself
            piece = out[-distance:][:length]
            out += piece
            length -= len(piece)
    if len(out) != size:
        raise ValueError(f"{len(out)} bytes instead of {size}")
    return bytes(out)


def damaged(what: str, file: Path, offset: int) -> DataError:
    """The error that says where a file is not what it should be."""
    return DataError(what, where=f"{file}, byte {offset}", fix="download or copy the file again")
