"""Where the samples of a recording are, whatever length its header declares.

Programs that stream write a header before they know the length: 0, or a number about as large as
there is. libsndfile reads some such files as empty, and files that were cut short without a word.
Files that were joined byte by byte it reads up to the end of the first.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from zpyro.datasets.formats import flac, mpeg
from zpyro.errors import UserError

SPHERE_MAGIC = b"NIST_1A\n"
SPHERE_LIMIT = 1 << 16
"""No header is longer; the usual one has 1,024 bytes."""

LARGE = 1 << 30
"""Bytes from which a declared length is a placeholder, if less than half of it is there."""

PLACEHOLDERS = (range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))
"""Lengths that are placeholders however long the file is."""

CUT_SHORT = 0.95
"""A file that has less than this share of what it declares was cut short."""

MOST_CHUNKS = 10_000

TAGS = (b"TAG", b"APETAGEX", b"ID3", b"LYRICSBEGIN")
"""How tags begin that programs append to a recording of any container."""

_FORMATS = (b"fmt ", b"COMM", b"desc")
"""How the names of chunks begin that say how samples are stored."""

_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")


@dataclass(frozen=True)
class Part:
    """One recording within a file: a header, then bytes of the file.

    Attributes:
        head: bytes that stand for those of the file before ``start``.
        start: position of the first byte of the file that counts.
        end: position after the last.
        placeholder: whether the file's own length was not used.
        unfinished: whether an Ogg stream lacks its end.
    """

    head: bytes
    start: int
    end: int
    placeholder: bool = False
    unfinished: bool = False


class PartFile(io.RawIOBase):
    """A part as a file that libsndfile can read.

    Args:
        path: of the whole file.
        part: which bytes.
    """

    def __init__(self, path: Path, part: Part) -> None:
        super().__init__()
        self._stream = path.open("rb")
        self._part = part
        self._size = len(part.head) + part.end - part.start
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        view, head = memoryview(buffer).cast("B"), self._part.head
        if self._place < len(head):
            piece = head[self._place : self._place + len(view)]
            view[: len(piece)] = piece
            count = len(piece)
        else:
            count = max(0, min(len(view), self._size - self._place))
            self._stream.seek(self._part.start + self._place - len(head))
            count = self._stream.readinto(view[:count])
        self._place += count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


@dataclass(frozen=True)
class _Chunks:
    """How a container of chunks is laid out.

    Attributes:
        first: position of the first chunk.
        name_size: bytes of a chunk's name; its size follows.
        size_format: of the size.
        data: name of the chunk that holds the samples.
        before: bytes of that chunk before the samples.
        counts_itself: whether sizes include name and size.
        align: chunks begin at multiples of this.
    """

    first: int
    name_size: int
    size_format: str
    data: bytes
    before: int = 0
    counts_itself: bool = False
    align: int = 2


@dataclass(frozen=True)
class _Samples:
    """What a header says of its samples.

    Attributes:
        start: position of the first byte.
        declared: how many bytes, or nothing where the container has a value for "unknown".
        head: from a number of bytes to a header, all before ``start``, that declares it.
        chunks: how what follows is laid out, or nothing if only samples can follow.
    """

    start: int
    declared: int | None
    head: Callable[[int], bytes]
    chunks: _Chunks | None = None


def parts(path: Path) -> list[Part]:
    """The recordings in a file, mostly one.

    Raises:
        UserError: if the file cannot be opened, is empty or cut short, has a damaged SPHERE
            header, or is SPHERE compressed with shorten, which nothing here can expand.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if size == 0:
                raise UserError(f"{path}: is an empty file; remove it")
            with mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
                return list(_parts(path, content))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be opened ({error.strerror}); repair or remove it"
        ) from error


def _parts(path: Path, content: mmap) -> Iterator[Part]:
    start, size = mpeg.after_tags(content, 0), len(content)
    if start == size:
        yield Part(b"", 0, size)
    if content[start : start + 4] in (b"OggS", b"fLaC"):
        borders = [*_beginnings(content, start), size]
        is_ogg = content[start : start + 4] == b"OggS"
        for begin, end in pairwise(borders):
            head = None if is_ogg else flac.corrected_header(content, begin, end)
            if head is not None:
                yield Part(head, begin + len(head), end, placeholder=True)
            else:
                yield Part(b"", begin, end, unfinished=is_ogg and not _ends(content, begin, end))
        return
    while start < size:
        samples = _samples(path, content, start)
        if samples is None:
            yield from _others(path, content, start)
            return
        blocks = _blocks(path, content, start, samples)
        if blocks:
            yield from blocks
            start = _end_of_chunks(content, samples.start, samples.declared or 0, samples.chunks)
        else:
            part = _measured(path, content, start, samples)
            yield part
            start = part.end
        if _samples(path, content, start) is None:
            return


def _others(path: Path, content: mmap, start: int) -> Iterator[Part]:
    """Of an mp3 its streams, of anything else the file as it is."""
    is_mpeg = path.suffix.lower() == ".mp3" or mpeg.is_frame(content, start)
    streams = mpeg.streams(content, start) if is_mpeg else []
    if not streams:
        yield Part(b"", start, len(content))
    for stream in streams:
        if stream.declared is not None and stream.frames < CUT_SHORT * stream.declared:
            raise UserError(
                f"{path}: is cut short, its header declares {stream.declared} mp3 frames and it has"
                f" {stream.frames}; copy it again"
            )
        right = stream.declared is not None and stream.frames <= stream.declared / CUT_SHORT
        if right or not stream.head:
            yield Part(b"", stream.start, stream.end)
        else:
            yield Part(stream.head, stream.first_frame, stream.end, placeholder=True)


def _beginnings(content: mmap, start: int) -> list[int]:
    """Where the FLAC or Ogg streams of a file begin."""
    ogg = content[start : start + 4] == b"OggS"
    # Of FLAC the magic and the head of its first block, which may be its last.
    marks = (b"OggS\0\x02",) if ogg else (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")
    found = {start}
    for mark in marks:
        place = content.find(mark, start + 1)
        while place >= 0:
            found.add(place)
            place = content.find(mark, place + 1)
    if not ogg:
        return sorted(found)
    # Several streams side by side begin with pages one right after another.
    ends = {_page_end(content, place) for place in found}
    return sorted({start, *(found - ends)})


def _page_end(content: mmap, place: int) -> int:
    count = content[place + 26] if place + 26 < len(content) else 0
    return place + 27 + count + sum(content[place + 27 : place + 27 + count])


def _ends(content: mmap, begin: int, end: int) -> bool:
    """Whether the last page of Ogg before a position is whole and marked as the last."""
    place = content.rfind(b"OggS\0", begin, end)
    return _page_end(content, place) <= end and bool(content[place + 5] & 0x04)


def _measured(path: Path, content: mmap, begin: int, samples: _Samples) -> Part:
    """The part of a file that begins with a header."""
    size, declared, start = len(content), samples.declared, samples.start
    held = size - start
    if declared is not None and declared > held and not _is_placeholder(declared, held):
        raise UserError(
            f"{path}: is cut short, its header declares {start + declared} bytes and it has {size};"
            " copy it again"
        )
    end = size
    if declared is not None and declared <= held:
        end = _end_of_chunks(content, start, declared, samples.chunks)
        ignored = content[end : end + 16].startswith(TAGS) or _samples_begin(content, end)
        small = size - end <= (1 - CUT_SHORT) * (end - begin)
        if ignored or small or not _any_set(content, end):
            return Part(b"", begin, end if ignored else size)
    return Part(samples.head(size - start), start, size, placeholder=True)


def _blocks(path: Path, content: mmap, begin: int, samples: _Samples) -> list[Part]:
    """The parts of a recording whose samples are in several chunks; none if they are in one.

    Raises:
        UserError: if a chunk between them declares another format.
    """
    chunks, declared = samples.chunks, samples.declared
    if chunks is None or declared is None or samples.start + declared > len(content):
        return []
    formats = {
        name: content[place : place + size]
        for place, name, size in _walk(content, begin + chunks.first, chunks)
        if place < samples.start and name[:4] in _FORMATS
    }
    found = [(samples.start, declared)]
    padding = -(declared + chunks.before) % chunks.align
    for place, name, size in _walk(content, samples.start + declared + padding, chunks):
        if not _is_name(name) or size < 0 or place + size > len(content):
            break
        if name == chunks.data and size > chunks.before:
            found.append((place + chunks.before, size - chunks.before))
        elif name in formats and formats[name] != content[place : place + size]:
            raise UserError(f"{path}: holds samples of two formats; split it")
    if len(found) == 1:
        return []
    return [Part(samples.head(count), first, first + count) for first, count in found if count > 0]


def _is_placeholder(declared: int, held: int) -> bool:
    return any(declared in each for each in PLACEHOLDERS) or declared >= max(LARGE, 2 * held)


def _any_set(content: mmap, start: int) -> bool:
    """Whether any byte from here on is not zero."""
    return any(
        any(content[place : place + (1 << 20)]) for place in range(start, len(content), 1 << 20)
    )


def _end_of_chunks(content: mmap, start: int, count: int, chunks: _Chunks | None) -> int:
    """Where the chunks end that follow so many bytes of samples."""
    end = start + count
    if chunks is None:
        return end
    padding = -(count + chunks.before) % chunks.align
    for place, name, size in _walk(content, end + padding, chunks):
        if not _is_name(name) or place + size > len(content):
            break
        end = place + size
    return end


def _is_name(name: bytes) -> bool:
    # Names of W64 are the four letters and a tail.
    return all(0x20 <= byte < 0x7F for byte in name[:4])


def _walk(content: mmap, place: int, chunks: _Chunks) -> Iterator[tuple[int, bytes, int]]:
    """Position of the contents, name, and size of the chunks from a position on."""
    head = chunks.name_size + struct.calcsize(chunks.size_format)
    for _ in range(MOST_CHUNKS):
        if place + head > len(content) or content[place : place + 4] in _MAGICS:
            return
        name = content[place : place + chunks.name_size]
        (size,) = struct.unpack_from(chunks.size_format, content, place + chunks.name_size)
        size -= head if chunks.counts_itself else 0
        yield place + head, name, size
        if size < 0:
            return
        place += head + size + -size % chunks.align


def _samples_begin(content: mmap, start: int) -> bool:
    """Whether a header that is known begins here."""
    return content[start : start + 4] in _MAGICS or content[start : start + 8] == SPHERE_MAGIC


def _samples(path: Path, content: mmap, start: int) -> _Samples | None:
    """What the header at a position says, or nothing where none is known."""
    magic, form = content[start : start + 4], content[start + 8 : start + 12]
    if content[start : start + 8] == SPHERE_MAGIC:
        return _sphere(path, content, start)
    if magic in (b".snd", b"dns."):
        return _au(content, start, ">" if magic == b".snd" else "<")
    if magic in (b"RIFF", b"RF64", b"BW64", b"RIFX") and form == b"WAVE":
        order = ">" if magic == b"RIFX" else "<"
        return _chunked(content, start, _Chunks(12, 4, f"{order}I", b"data"))
    if magic == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _chunked(content, start, _Chunks(12, 4, ">I", b"SSND", before=8))
    if magic == b"FORM" and form in (b"8SVX", b"16SV"):
        return _chunked(content, start, _Chunks(12, 4, ">I", b"BODY"))
    if magic == b"caff":
        return _chunked(content, start, _Chunks(8, 4, ">q", b"data", before=4, align=1))
    if content[start : start + 16] == _W64_RIFF:
        layout = _Chunks(40, 16, "<Q", b"data" + _W64_TAIL, counts_itself=True, align=8)
        return _chunked(content, start, layout)
    return None


_MAGICS = (b"RIFF", b"RF64", b"BW64", b"RIFX", b"FORM", b"caff", b"riff", b".snd", b"dns.")


def _chunked(content: mmap, begin: int, chunks: _Chunks) -> _Samples | None:
    large: int | None = None
    for place, name, size in _walk(content, begin + chunks.first, chunks):
        if name == b"ds64" and place + 16 <= len(content):
            large = place + 8
        if name != chunks.data:
            continue
        start = place + chunks.before
        width = struct.calcsize(chunks.size_format)
        field, size_format, declared = place - width, chunks.size_format, size
        if large is not None:
            field, size_format = large, "<Q"
            (declared,) = struct.unpack_from("<Q", content, large)
        declared -= chunks.before
        extra = chunks.before + (chunks.name_size + width if chunks.counts_itself else 0)
        head = _Corrected(content[begin:start], field - begin, size_format, extra)
        # A negative size means "unknown" in CAF; elsewhere it is that of no samples.
        unknown = declared < 0 or (declared == 0 and _holds_no_chunks(content, start, chunks))
        return _Samples(start, None if unknown else declared, head, chunks)
    return None


def _holds_no_chunks(content: mmap, start: int, chunks: _Chunks) -> bool:
    """Whether samples follow a header that declares none, in place of other chunks."""
    rest = len(content) - start
    return rest > 0 and _end_of_chunks(content, start, 0, chunks) < start + CUT_SHORT * rest


@dataclass(frozen=True)
class _Corrected:
    """A header with another number of bytes in one field."""

    head: bytes
    place: int
    size_format: str
    extra: int

    def __call__(self, count: int) -> bytes:
        most = (1 << (8 * struct.calcsize(self.size_format) - 1)) - 1
        value = struct.pack(self.size_format, min(count + self.extra, 2 * most))
        return self.head[: self.place] + value + self.head[self.place + len(value) :]


def _au(content: mmap, begin: int, order: str) -> _Samples | None:
    if begin + 12 > len(content):
        return None
    offset, declared = struct.unpack_from(f"{order}II", content, begin + 4)
    start = begin + offset
    if not 24 <= offset <= len(content) - begin:
        return None
    head = _Corrected(content[begin:start], 8, f"{order}I", 0)
    unknown = declared == 0xFFFFFFFF or (declared == 0 and start < len(content))
    return _Samples(start, None if unknown else declared, head)


def _sphere(path: Path, content: mmap, begin: int) -> _Samples:
    text, mark, _ = content[begin : begin + SPHERE_LIMIT].partition(b"end_head")
    if not mark:
        raise UserError(f"{path}: its SPHERE header has no end; copy it again")
    lines = (line.split(None, 2) for line in text.decode("latin-1").splitlines()[2:])
    fields = {parts[0]: parts[2] for parts in lines if len(parts) == 3}
    coding = fields.get("sample_coding", "pcm")
    if "shorten" in coding:
        raise UserError(
            f"{path}: is SPHERE compressed with shorten ({coding}); expand it with"
            " `w_decode -o pcm` of the LDC's SPHERE tools first"
        )
    try:
        size, width = int(content[begin + 8 : begin + 16]), int(fields["sample_n_bytes"])
        channels = int(fields.get("channel_count", "1"))
        count = int(fields.get("sample_count", "0"))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its SPHERE header is damaged ({error}); copy it again") from error
    if not 0 < size <= len(content) - begin or width < 1 or channels < 1:
        raise UserError(f"{path}: its SPHERE header is damaged ({size} bytes); copy it again")
    held = len(content) - begin - size
    # Some programs count the samples of all channels.
    each = 1 if count * width == held else channels
    head = content[begin : begin + size]
    # libsndfile does not use the count.
    return _Samples(begin + size, count * width * each if count > 0 else None, lambda _: head)
