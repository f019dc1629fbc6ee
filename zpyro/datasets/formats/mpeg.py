"""The frames of mp3 files, counted: few of their headers say how long they are.

A first frame that holds no sound but a header (Xing, Info or VBRI) may declare the number of
frames. Without one, libsndfile trusts the bit rate of the first frame and the size of the file,
tags and pictures included. Of files that were joined it reads as much as the first declares.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap

LARGEST_GAP = 512
"""Bytes between frames that a decoder skips; beyond, what follows is read as another stream."""

MOST_TRIES = 1 << 16
"""Places where a frame is looked for after damage, in a whole file."""

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""By the version's bits: MPEG 1, 2 and 2.5."""
_KILOBITS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
"""Of layer III by the bit rate's index, from 1."""


@dataclass(frozen=True)
class Frame:
    """What the four bytes at the beginning of a frame say.

    Attributes:
        size: bytes.
        header_place: where a Xing header would be.
        format: what frames of one stream have in common: version, sample rate, mono or not.
    """

    size: int
    header_place: int
    format: tuple[int, int, bool]


@dataclass
class Stream:
    """Frames one after another.

    Attributes:
        start: position of the first frame, or of its header.
        first_frame: position of the first frame with sound.
        frames: how many have sound.
        end: position after the last.
        declared: frames that its header declares, or nothing.
        head: a header that declares the right number.
    """

    start: int
    first_frame: int
    frames: int = 0
    end: int = 0
    declared: int | None = None
    head: bytes = b""


def after_tags(content: mmap, start: int) -> int:
    """The position after the ID3v2 tags that begin here."""
    while content[start : start + 3] == b"ID3" and start + 10 <= len(content):
        sizes = content[start + 6 : start + 10]
        if any(byte > 0x7F for byte in sizes):
            break
        footer = 10 if content[start + 5] & 0x10 else 0
        start += 10 + footer + sum(byte << (21 - 7 * i) for i, byte in enumerate(sizes))
    return min(start, len(content))


def streams(content: mmap, start: int) -> list[Stream]:
    """The layer III streams in a file; a header or a tag within begins another.

    Nothing where no two frames follow one another, as in a file that is not mp3.
    """
    found: list[Stream] = []
    place, tries, form, joins = start, 0, None, True
    while place + 4 <= len(content):
        frame = _frame_at(content, place)
        in_step = found and place == found[-1].end and frame is not None and frame.format == form
        if frame is None or not (in_step or _is_followed(content, place, frame)):
            after = after_tags(content, place)
            joins = joins or after > place
            place = after if after > place else content.find(b"\xff", place + 1)
            tries += 1
            if place < 0 or tries > MOST_TRIES:
                break
            continue
        joins = joins or place > found[-1].end + LARGEST_GAP
        header = _header(content, place, frame)
        if header is not None or joins or frame.format != form:
            found.append(Stream(place, place, declared=header or None))
            form, joins = frame.format, False
        stream = found[-1]
        if header is None and place + frame.size <= len(content):
            stream.frames += 1
        elif header is not None:
            stream.first_frame = place + frame.size
        place += frame.size
        stream.end = min(place, len(content))
    for stream in found:
        stream.head = _made_header(content[stream.first_frame : stream.first_frame + 4], stream)
    return [stream for stream in found if stream.frames]


def is_frame(content: mmap, place: int) -> bool:
    """Whether a layer III frame may begin here."""
    return place + 4 <= len(content) and _frame_at(content, place) is not None


def _frame_at(content: mmap, place: int) -> Frame | None:
    if content[place] != 0xFF:
        return None
    return _frame(int.from_bytes(content[place : place + 4], "big") & 0xFFFFFEC0)


def _is_followed(content: mmap, place: int, frame: Frame) -> bool:
    """Whether another frame of the format, or the end of the file, comes after a frame."""
    after = place + frame.size
    if after + 4 > len(content):
        return after == len(content)
    other = _frame_at(content, after)
    return other is not None and other.format == frame.format


@lru_cache(maxsize=1024)
def _frame(header: int) -> Frame | None:
    version, layer = header >> 19 & 3, header >> 17 & 3
    bits, rate = header >> 12 & 15, header >> 10 & 3
    # Only layer III; a bit rate of index 0 is "free", the length of such frames is not written.
    if header >> 21 != 0x7FF or version == 1 or layer != 1 or bits in (0, 15) or rate == 3:
        return None
    hertz, mono = _RATES[version][rate], header >> 6 & 3 == 3
    kilobits = (_KILOBITS_1 if version == 3 else _KILOBITS_2)[bits - 1]
    size = (144_000 if version == 3 else 72_000) * kilobits // hertz + (header >> 9 & 1)
    side = {(3, False): 32, (3, True): 17, (2, False): 17, (2, True): 9}[max(version, 2), mono]
    return Frame(size, 4 + side, (version, rate, mono))


def _header(content: mmap, place: int, frame: Frame) -> int | None:
    """Frames that a header in place of a frame declares, 0 if it does not say; nothing of sound."""
    at = place + frame.header_place
    if content[at : at + 4] in (b"Xing", b"Info") and at + 12 <= len(content):
        flags, count = struct.unpack_from(">II", content, at + 4)
        return count if flags & 1 else 0
    at = place + 36
    if content[at : at + 4] == b"VBRI" and at + 18 <= len(content):
        return int.from_bytes(content[at + 14 : at + 18], "big")
    return None


def _made_header(first: bytes, stream: Stream) -> bytes:
    """A frame like the first with a Xing header that declares the number of frames."""
    # No checksum, and the bit rate of index 9, so that the header fits in every format.
    word = int.from_bytes(first, "big") & 0xFFFF0DFF | 0x00019000
    frame = _frame(word & 0xFFFFFEC0)
    if frame is None:
        return b""
    head = word.to_bytes(4, "big").ljust(frame.header_place, b"\0")
    return (head + b"Xing" + struct.pack(">II", 1, stream.frames)).ljust(frame.size, b"\0")
