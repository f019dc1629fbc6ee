"""Recordings to fuzz: damaged files of every container, and headers made from their fields."""

from __future__ import annotations

import io
import struct
from functools import partial
from pathlib import Path

from hypothesis import strategies as st

from tests.trust.fuzz_inputs import Target, damaged, numbers

RATE = 8000


def recording(container: str, subtype: str, channels: int = 1) -> bytes:
    """A valid file of 600 samples."""
    import numpy as np
    import soundfile

    sound = 0.3 * np.sin(np.arange(600)[:, None] * (0.1 + 0.05 * np.arange(channels)))
    out = io.BytesIO()
    soundfile.write(out, sound, RATE, format=container, subtype=subtype)
    return out.getvalue()


def _read(path: Path) -> object:
    from zpyro.datasets.formats import audio

    return audio.read(path)


def with_checksums(content: bytes) -> bytes:
    """The pages of an Ogg file with the checksums that they should have."""
    changed, place = bytearray(content), 0
    while (place := changed.find(b"OggS", place)) >= 0 and place + 27 <= len(changed):
        count = changed[place + 26]
        end = place + 27 + count + sum(changed[place + 27 : place + 27 + count])
        changed[place + 22 : place + 26] = bytes(4)
        total = 0
        for byte in changed[place:end]:
            total ^= byte << 24
            for _ in range(8):
                total = (total << 1) ^ (0x104C11DB7 if total >> 31 else 0)
        changed[place + 22 : place + 26] = total.to_bytes(4, "little")
        place += 4
    return bytes(changed)


def _oggs() -> st.SearchStrategy[bytes]:
    return _damaged(("OGG", "VORBIS", 1), ("OGG", "OPUS", 1)).map(with_checksums)


def _damaged(*files: tuple[str, str, int]) -> st.SearchStrategy[bytes]:
    return damaged([recording(*each) for each in files])


@st.composite
def wav(draw: st.DrawFn) -> bytes:
    """A wav or RF64 file of chunks whose sizes may be wrong or placeholders."""
    samples = draw(st.integers(0, 300))
    width, code = draw(st.sampled_from(((16, 1), (8, 1), (24, 1), (32, 1), (32, 3), (64, 3))))
    channels = draw(numbers(16, 1, 2))
    rate = draw(numbers(32, RATE, 16_000))
    align = draw(st.sampled_from((channels * width // 8 & 0xFFFF, 1, 0)))
    form = struct.pack("<HHIIHH", code, channels, rate, rate * align & 0xFFFFFFFF, align, width)
    data = bytes(samples * width // 8)
    big = draw(st.booleans())
    size = draw(numbers(32, len(data), 0, 0xFFFFFFFF))
    chunks = [
        b"fmt " + struct.pack("<I", draw(numbers(32, len(form), len(form)))) + form,
        b"data" + struct.pack("<I", size) + data,
    ]
    if draw(st.booleans()):
        note = draw(st.binary(max_size=9))
        chunks.insert(1, b"LIST" + struct.pack("<I", draw(numbers(32, len(note)))) + note)
    if big:
        sizes = [draw(numbers(64, len(data), samples)) for _ in range(3)]
        chunks.insert(0, b"ds64" + struct.pack("<IQQQI", 28, *sizes, 0))
    body = b"WAVE" + b"".join(chunks)
    return (b"RF64" if big else b"RIFF") + struct.pack("<I", draw(numbers(32, len(body)))) + body


@st.composite
def sphere(draw: st.DrawFn) -> bytes:
    """A SPHERE file whose fields may be wrong, absent or twice there."""
    count = draw(st.integers(0, 300))
    number = st.one_of(numbers(32, count).map(str), st.text(max_size=5), st.just("-1"))
    fields = {
        "sample_count": number,
        "sample_n_bytes": st.one_of(st.just("2"), number),
        "channel_count": st.one_of(st.just("1"), number),
        "sample_rate": st.one_of(st.just("16000"), number),
        "sample_byte_format": st.sampled_from(("01", "10", "1", "x")),
        "sample_coding": st.sampled_from(("pcm", "ulaw", "alaw", "pcm,embedded-shorten-v2.00", "")),
    }
    names = draw(st.permutations([*fields, draw(st.sampled_from(list(fields)))]))
    lines = [f"{name} -i {draw(fields[name])}" for name in names[: draw(st.integers(3, 7))]]
    size = draw(st.sampled_from(("1024", "0", "-1", "x", "99999999")))
    head = "\n".join(["NIST_1A", f"{size:>7}", *lines, draw(st.sampled_from(("end_head", "")))])
    return head.encode("utf-8", "replace").ljust(1024, b"\0") + bytes(2 * count)


def _wavs() -> st.SearchStrategy[bytes]:
    plain = _damaged(("WAV", "PCM_16", 2), ("WAV", "FLOAT", 1), ("WAV", "PCM_U8", 1))
    others = _damaged(("WAV", "IMA_ADPCM", 1), ("RF64", "PCM_24", 1), ("WAVEX", "PCM_16", 1))
    return st.one_of(wav(), plain, others)


def _spheres() -> st.SearchStrategy[bytes]:
    return st.one_of(sphere(), _damaged(("NIST", "PCM_16", 1), ("NIST", "ULAW", 2)))


TARGETS: dict[str, Target] = {
    "wav": Target(_wavs, _read, "a.wav"),
    "sphere": Target(_spheres, _read, "a.sph"),
    "ogg": Target(_oggs, _read, "a.ogg"),
    **{
        name: Target(partial(_damaged, *files), _read, f"a.{name}")
        for name, files in {
            "aiff": (("AIFF", "PCM_16", 1), ("AIFF", "FLOAT", 2)),
            "flac": (("FLAC", "PCM_16", 1), ("FLAC", "PCM_24", 2)),
            "mp3": (("MP3", "MPEG_LAYER_III", 1), ("MP3", "MPEG_LAYER_III", 2)),
            "w64": (("W64", "PCM_16", 1), ("W64", "FLOAT", 2)),
            "caf": (("CAF", "PCM_16", 1), ("CAF", "ALAC_16", 1)),
            "au": (("AU", "PCM_16", 1), ("AU", "ULAW", 2)),
        }.items()
    },
}
