"""FLAC streams whose header declares fewer samples than their frames hold.

Encoders that write to a pipe leave the total of an earlier file or of a part, and decoders stop
there. A frame declares its own position: the last frames tell how many samples there are.

Source: RFC 9639, sections 8.2 (stream information) and 9.1 (frame headers).
"""

from __future__ import annotations

from mmap import mmap

HEADER = 26
"""Bytes up to the end of the total: magic, head of the first block, and 18 of its bytes."""

LONGEST_HEADER = 16
MOST_CANDIDATES = 10_000
"""Places that look like a frame; more are not tried, so that a hostile file takes no time."""

_SIZES = {
    1: 192,
    **{code: 576 << (code - 2) for code in range(2, 6)},
    **{code: 256 << (code - 8) for code in range(8, 16)},
}
"""Samples in a frame by the code in its header."""


def corrected_header(content: mmap, begin: int, end: int) -> bytes | None:
    """A header with the right total for a stream that holds more samples than declared.

    Args:
        content: the file.
        begin: where the stream begins, with its magic.
        end: where it ends.

    Returns:
        The first :data:`HEADER` bytes with the total of the frames; None where the stream holds
        no more than declared, or declares nothing.
    """
    head = bytearray(content[begin : begin + HEADER])
    if len(head) < HEADER:
        return None
    declared = int.from_bytes(head[21:26], "big") & ((1 << 36) - 1)
    held = _held(content, begin, end, int.from_bytes(head[8:10], "big")) if declared else 0
    if held <= declared or held >= 1 << 36:
        return None
    head[21:26] = ((head[21] & 0xF0) << 32 | held).to_bytes(5, "big")
    return bytes(head)


def _held(content: mmap, begin: int, end: int, block: int) -> int:
    """Samples up to the end of the last frame; 0 where two frames in a row cannot be found.

    Args:
        content: the file.
        begin: of the stream.
        end: of the stream.
        block: samples in a frame of a stream with frames of one size.
    """
    later: set[tuple[int, int]] = set()
    place = end
    for _ in range(MOST_CANDIDATES):
        place = content.rfind(b"\xff", begin, place)
        if place < 0:
            return 0
        frame = _frame(content[place : place + LONGEST_HEADER], block)
        if frame is None:
            continue
        start, size = frame
        # Bytes of a frame may look like the header of another: two must follow each other.
        follower = max((each for each in later if each[0] == start + size), default=None)
        if follower is not None:
            return sum(follower)
        later.add(frame)
    return 0


def _frame(header: bytes, block: int) -> tuple[int, int] | None:
    """First sample and number of samples of a frame, or None where no header begins."""
    if len(header) < 6 or header[1] not in (0xF8, 0xF9) or header[3] & 1:
        return None
    if 0x80 <= header[4] < 0xC0:
        return None
    code, rate = header[2] >> 4, header[2] & 15
    length = 1 if header[4] < 0x80 else 8 - (header[4] ^ 0xFF).bit_length()
    after = 4 + length
    extra = {6: 1, 7: 2}.get(code, 0)
    rest = after + extra + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if code == 0 or rate == 15 or length > 7 or rest >= len(header) or _crc8(header[: rest + 1]):
        return None
    number = header[4] & (0x7F if length == 1 else (1 << (7 - length)) - 1)
    for byte in header[5:after]:
        number = number << 6 | byte & 0x3F
    size = _SIZES.get(code) or int.from_bytes(header[after : after + extra], "big") + 1
    return number if header[1] == 0xF9 else number * block, size


def _crc8(data: bytes) -> int:
    """The checksum of a frame's header, polynomial x^8 + x^2 + x + 1; 0 if it is included."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07) & 0xFF if value & 0x80 else value << 1
    return value
