"""Recordings whose headers have placeholders, estimates or other lengths than the samples."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from zpyro import UserError, datasets
from zpyro.datasets.formats import audio

COUNT = 8000
PLACEHOLDER = "no usable length in the header, read to the end of the file"
JOINED = "recordings joined in one file, read one after another"

SIZES = (0, 2_000_000_000, 0x7FFFF000, 0x7FFFFFDB, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF)


def sound(seed: int = 0, count: int = COUNT) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).uniform(-1, 1, count)


def encoded(container: str, subtype: str | None = None, seed: int = 0, rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, sound(seed), rate, format=container, subtype=subtype)
    return out.getvalue()


def changed(content: bytes, place: int, layout: str, value: int) -> bytes:
    new = struct.pack(layout, value)
    return content[:place] + new + content[place + len(new) :]


def wav(size: int, subtype: str = "PCM_16") -> bytes:
    content = encoded("WAV", subtype)
    content = changed(content, 4, "<I", min(size + 36, 0xFFFFFFFF))
    return changed(content, content.index(b"data") + 4, "<I", size)


def rifx(size: int) -> bytes:
    content = bytearray(encoded("WAV"))
    content[:4] = b"RIFX"
    for place, old, new in ((16, "<I", ">I"), (24, "<II", ">II")):
        struct.pack_into(new, content, place, *struct.unpack_from(old, content, place))
    struct.pack_into(">HH", content, 20, *struct.unpack_from("<HH", content, 20))
    struct.pack_into(">HH", content, 32, *struct.unpack_from("<HH", content, 32))
    struct.pack_into(">I", content, 40, size)
    return bytes(content[:44]) + np.frombuffer(bytes(content[44:]), "<i2").astype(">i2").tobytes()


def rf64(size: int) -> bytes:
    content = encoded("RF64", "PCM_16")
    return changed(changed(content, 20, "<Q", size), 28, "<Q", size)


def aiff(size: int, subtype: str = "PCM_16") -> bytes:
    content = encoded("AIFF", subtype)
    return changed(content, content.index(b"SSND") + 4, ">I", size)


def caf(size: int) -> bytes:
    content = encoded("CAF", "PCM_16")
    return changed(content, content.index(b"data") + 4, ">q", size)


def w64(size: int) -> bytes:
    content = encoded("W64", "PCM_16")
    return changed(content, content.index(b"data\xf3\xac") + 16, "<Q", size)


def au(size: int) -> bytes:
    return changed(encoded("AU", "PCM_16"), 8, ">I", size)


def sphere(count: str) -> bytes:
    content = encoded("NIST", "PCM_16")
    head = content[:1024].replace(b"sample_count -i 8000", f"sample_count -i {count}".encode())
    return head[:1024].ljust(1024, b"\0") + content[1024:]


def flac(total: int) -> bytes:
    content = encoded("FLAC")
    (packed,) = struct.unpack_from(">Q", content, 18)
    return changed(content, 18, ">Q", packed >> 36 << 36 | total)


UNKNOWN = {
    **{f"wav {size:#x}": wav(size) for size in SIZES},
    **{f"wav {kind} 0": wav(0, kind) for kind in ("PCM_U8", "PCM_24", "FLOAT", "ULAW")},
    **{f"wav {kind} -1": wav(0xFFFFFFFF, kind) for kind in ("PCM_U8", "PCM_24", "FLOAT", "DOUBLE")},
    **{f"rifx {size:#x}": rifx(size) for size in (0, 0x7FFFFFFF, 0xFFFFFFFF)},
    **{f"rf64 {size:#x}": rf64(size) for size in (0, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)},
    **{f"aiff {size:#x}": aiff(size) for size in SIZES},
    "aifc": aiff(0, "ULAW"),
    **{f"caf {size:#x}": caf(size) for size in (-1, 0, 4, 1 << 40, (1 << 63) - 1)},
    **{f"w64 {size:#x}": w64(size) for size in (0, 24, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)},
    **{f"au {size:#x}": au(size) for size in SIZES},
    **{f"sphere {count}": sphere(count) for count in ("0", "-1", "2147483647", "10")},
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_samples_are_read_to_the_end_without_a_length(tmp_path: Path, what: str) -> None:
    path = tmp_path / f"a.{what.split()[0]}"
    path.write_bytes(UNKNOWN[what])
    waveform, rate, remarks = audio.read_with_remarks(path)
    assert rate == 16_000
    assert len(waveform) == COUNT
    np.testing.assert_allclose(waveform, sound(), atol=0.02)
    assert remarks == {PLACEHOLDER: ""}


def test_the_length_of_an_mu_law_sphere_file_may_count_all_channels(tmp_path: Path) -> None:
    two = np.stack([sound(), sound(1)], axis=1)
    path = tmp_path / "a.sph"
    soundfile.write(path, two, 8000, format="NIST", subtype="PCM_16")
    head = path.read_bytes()
    path.write_bytes(head.replace(b"sample_count -i 8000", b"sample_count -i 16000", 1)[:1024])
    content = path.read_bytes() + head[1024:]
    path.write_bytes(content)
    assert len(audio.read(path)[0]) == COUNT


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x02\x00" + bytes(256)])
def test_flac_without_a_total_is_read(tmp_path: Path, tag: bytes) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(tag + flac(0))
    np.testing.assert_allclose(audio.read(path)[0], sound(), atol=1e-4)


def test_a_header_without_samples_is_still_empty(tmp_path: Path) -> None:
    note = b"LIST" + struct.pack("<I", 4) + b"INFO"
    content = encoded("WAV")[:40] + bytes(4)
    for number, after in enumerate((b"", note, note * 9)):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(content + after)
        with pytest.raises(UserError, match="holds no samples"):
            audio.read(path)


def test_a_file_with_sound_is_never_said_to_hold_none(tmp_path: Path) -> None:
    for number, content in enumerate(UNKNOWN.values()):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(content)
        assert len(audio.read(path)[0]) == COUNT


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.wav", encoded("WAV")),
        ("a.aiff", encoded("AIFF")),
        ("a.au", encoded("AU", "PCM_16")),
        ("a.caf", encoded("CAF")),
        ("a.w64", encoded("W64")),
        ("a.rf64", encoded("RF64")),
        ("a.sph", encoded("NIST", "PCM_16")),
        ("a.flac", encoded("FLAC")),
        ("a.mp3", encoded("MP3")),
    ],
)
def test_a_plausible_length_that_is_missed_is_cut_short(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(UserError, match=r"cut short|flac decoder lost sync") as caught:
        audio.read(path)
    assert "copy it again" in str(caught.value) or name == "a.flac"
    assert "remove it" not in str(caught.value) or name == "a.flac"


@pytest.mark.parametrize("size", [400, 8000, 12_000])
def test_samples_beyond_a_stale_length_are_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(size))
    waveform, _, remarks = audio.read_with_remarks(path)
    assert len(waveform) == COUNT
    assert PLACEHOLDER in remarks


@pytest.mark.parametrize(
    "after",
    [
        b"LIST" + struct.pack("<I", 9000) + bytes(9000),
        b"id3 " + struct.pack("<I", 4000) + b"ID3" + bytes(3997),
        b"ID3" + bytes(4000),
        b"TAG" + bytes(125),
        b"APETAGEX" + b"x" * 4000,
        bytes(5000),
        b"junk of a few bytes",
    ],
)
def test_what_follows_the_samples_is_no_sound(tmp_path: Path, after: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("WAV") + after)
    waveform, _, remarks = audio.read_with_remarks(path)
    np.testing.assert_allclose(waveform, sound(), atol=1e-4)
    assert remarks == {}


JOINABLE = {
    "a.wav": encoded("WAV"),
    "a.aiff": encoded("AIFF"),
    "a.au": encoded("AU", "PCM_16"),
    "a.w64": encoded("W64"),
    "a.sph": encoded("NIST", "PCM_16"),
    "a.flac": encoded("FLAC"),
    "a.ogg": encoded("OGG", "VORBIS"),
    "a.opus": encoded("OGG", "OPUS"),
    "a.mp3": encoded("MP3"),
}


@pytest.mark.parametrize("name", JOINABLE)
@pytest.mark.parametrize("count", [2, 3])
def test_joined_recordings_are_read_whole(tmp_path: Path, name: str, count: int) -> None:
    path = tmp_path / name
    path.write_bytes(JOINABLE[name])
    (one, _, remarks) = audio.read_with_remarks(path)
    assert remarks == {}
    path.write_bytes(JOINABLE[name] * count)
    waveform, _, remarks = audio.read_with_remarks(path)
    np.testing.assert_array_equal(waveform, np.tile(one, count))
    assert remarks == {JOINED: f"{count}"}


def test_joined_recordings_of_several_rates_are_refused(tmp_path: Path) -> None:
    for container in ("WAV", "FLAC", "MP3"):
        path = tmp_path / f"a.{container.lower()}"
        path.write_bytes(encoded(container) + encoded(container, rate=32_000))
        message = r"holds 2 recordings of 16000, 32000 samples a second"
        with pytest.raises(UserError, match=message) as caught:
            audio.read(path)
        assert str(path) in str(caught.value)


def frames_of(content: bytes) -> bytes:
    """An mp3 without the frame of its Xing header."""
    place = max(content.find(b"Xing"), content.find(b"Info"))
    start = content.rfind(b"\xff", 0, place)
    return content[content.index(content[start : start + 2], place) :]


def mp3(*, vbr: bool, rate: int = 16_000, channels: int = 1, count: int = 40_000) -> bytes:
    """Loud and then quiet, so that a variable bit rate varies."""
    loud = sound(0, count)
    loud[count // 2 :] *= 1e-3
    out = io.BytesIO()
    with soundfile.SoundFile(
        out,
        "w",
        samplerate=rate,
        channels=channels,
        format="MP3",
        bitrate_mode="VARIABLE" if vbr else "CONSTANT",
        compression_level=0.2,
    ) as file:
        file.write(np.stack([loud] * channels, axis=1))
    return out.getvalue()


ID3 = b"ID3\x04\0\0" + bytes((0, 3, 0x44, 0x10)) + b"\xff\xd8\xff\xe0" * 14_468
"""A tag with 57,872 bytes like those of a picture."""


@pytest.mark.parametrize("vbr", [True, False])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8000, 1)])
@pytest.mark.parametrize(
    "around",
    [
        lambda content: content,
        lambda content: ID3 + content,
        lambda content: content + b"TAG" + bytes(125),
        lambda content: content + b"APETAGEX" + b"\xff" * 9000,
        lambda content: ID3 + frames_of(content),
        frames_of,
        lambda content: b"\0" * 700 + frames_of(content),
    ],
    ids=["plain", "id3", "id3v1", "ape", "id3, no header", "no header", "padded"],
)
def test_mp3_is_read_to_its_last_frame(
    tmp_path: Path, around: Callable[[bytes], bytes], vbr: bool, rate: int, channels: int
) -> None:
    path = tmp_path / "a.mp3"
    content = mp3(vbr=vbr, rate=rate, channels=channels)
    path.write_bytes(content)
    whole = len(audio.read(path)[0])
    assert whole == pytest.approx(40_000, abs=2400)
    path.write_bytes(around(content))
    waveform, found = audio.read(path)
    assert found == rate
    # Without its header the silence that the encoder added is not cut off.
    assert 0 <= len(waveform) - whole <= 3500
    assert waveform[: len(waveform) // 3].std() > 0.1


def test_a_header_of_mp3_that_declares_another_number(tmp_path: Path) -> None:
    content = bytearray(mp3(vbr=True))
    place = content.index(b"Xing") + 8
    (right,) = struct.unpack_from(">I", content, place)
    path = tmp_path / "a.mp3"
    for count in (0, right // 2):
        struct.pack_into(">I", content, place, count)
        path.write_bytes(content)
        waveform, _, remarks = audio.read_with_remarks(path)
        assert len(waveform) == pytest.approx(40_000, abs=4000)
        assert PLACEHOLDER in remarks
    struct.pack_into(">I", content, place, right * 2)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is cut short, its header declares"):
        audio.read(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_recording_of_a_broadcast_begins_in_its_middle(tmp_path: Path, subtype: str) -> None:
    out = io.BytesIO()
    soundfile.write(out, sound(count=160_000), 16_000, format="OGG", subtype=subtype)
    pages = [b"OggS" + page for page in out.getvalue().split(b"OggS")[1:]]
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join(pages[:3] + pages[len(pages) // 2 :]))
    assert 40_000 < len(audio.read(path)[0]) < 120_000


def test_data_sets_note_files_without_a_length(tmp_path: Path) -> None:
    for number in range(10):
        content = wav(0xFFFFFFFF) if number < 4 else encoded("WAV", seed=number)
        (tmp_path / f"{number}.wav").write_bytes(content)
    names = "0.wav; 1.wav; 2.wav; and 1 more"
    assert datasets.load("wav", tmp_path).notes == (f"{PLACEHOLDER}: 4 recordings ({names})",)
    books = datasets.load("blizzard", tmp_path, frame_size=50, segment_length=4)
    assert f"{PLACEHOLDER}: 4 recordings ({names})" in books.notes


@pytest.mark.parametrize("container", ["WAV", "W64", "AIFF", "AU"])
def test_headers_without_end_are_refused(tmp_path: Path, container: str) -> None:
    """Millions of empty chunks, or of bytes that could begin a frame."""
    content = encoded(container)
    for number, filling in enumerate((bytes(3 << 20), b"\xff" * (3 << 20), b"ab  " + bytes(4))):
        path = tmp_path / f"{number}.mp3"
        path.write_bytes(content[:12] + filling * (1 if len(filling) > 8 else 300_000))
        with pytest.raises(UserError):
            audio.read(path)


UNFINISHED = "an Ogg stream without its end, read as far as it goes"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.95, 0.999])
def test_an_ogg_recording_that_was_cut_is_noted(tmp_path: Path, subtype: str, share: float) -> None:
    out = io.BytesIO()
    soundfile.write(out, sound(count=160_000), 16_000, format="OGG", subtype=subtype)
    path = tmp_path / "a.ogg"
    path.write_bytes(out.getvalue())
    assert audio.read_with_remarks(path)[2] == {}
    path.write_bytes(out.getvalue()[: int(share * len(out.getvalue()))])
    waveform, _, remarks = audio.read_with_remarks(path)
    assert UNFINISHED in remarks
    assert 0 < len(waveform) < 160_000


def test_an_ogg_recording_that_was_cut_in_its_first_page_is_not_to_be_removed(
    tmp_path: Path,
) -> None:
    content = encoded("OGG", "VORBIS")
    path = tmp_path / "a.ogg"
    path.write_bytes(content[: content.rindex(b"OggS") + 200])
    with pytest.raises(UserError, match=r"a\.ogg: is cut short.*; copy it again"):
        audio.read(path)


@pytest.mark.parametrize(
    "after",
    [
        b"TAG" + b"x" * 125,
        b"APETAGEX" + bytes(24),
        b"APETAGEX" + bytes(24) + b"TAG" + b"x" * 125,
        b"ID3\4\0\0\0\0\0\x46" + bytes(70),
        bytes(5000),
        b"junk of a few bytes",
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_what_follows_flac_is_no_sound(tmp_path: Path, after: bytes, count: int) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes((encoded("FLAC") + after) * count)
    waveform, _, remarks = audio.read_with_remarks(path)
    np.testing.assert_allclose(waveform, np.tile(sound(), count), atol=1e-4)
    assert remarks == ({} if count == 1 else {JOINED: f"{count}"})


@pytest.mark.parametrize("block", [None, 192, 576, 4096])
@pytest.mark.parametrize("after", [b"", b"TAG" + bytes(125), b"ID3\3\0\0\0\0\0\x10" + bytes(16)])
@pytest.mark.parametrize("total", [1, 4096, COUNT // 2, COUNT - 1])
def test_flac_that_declares_too_few_samples_is_read_whole(
    tmp_path: Path, total: int, after: bytes, block: int | None
) -> None:
    expected = COUNT if block is None else 5 * block
    total = min(total, expected - 1)
    # Frames of one size with silence are put together here.
    content = flac(total) if block is None else b"".join(silent_flac(block, total))
    path = tmp_path / "a.flac"
    path.write_bytes(content + after)
    waveform, rate, remarks = audio.read_with_remarks(path)
    assert (len(waveform), rate) == (expected, 16_000)
    assert "no usable length in the header, read to the end of the file" in remarks
    if block is None:
        np.testing.assert_allclose(waveform, sound(), atol=1e-4)


def silent_flac(block: int, total: int) -> list[bytes]:
    """A stream of five frames of silence."""
    size = struct.pack(">HH", block, block) + bytes(6)
    rate = (16_000 << 44 | 0 << 41 | 15 << 36 | total).to_bytes(8, "big")
    parts = [b"fLaC\x80\0\0\x22" + size + rate + bytes(16)]
    codes = {192: 1, 576: 2, 4096: 12}
    for number in range(5):
        header = bytes([0xFF, 0xF8, codes[block] << 4 | 5, 0 << 4 | 4 << 1, number])
        header += bytes([crc(header, 0x07, 8)])
        frame = header + bytes([0, 0, 0])  # a constant subframe of 16 bits
        parts.append(frame + crc(frame, 0x8005, 16).to_bytes(2, "big"))
    return parts


def crc(data: bytes, polynomial: int, width: int) -> int:
    value, top = 0, 1 << (width - 1)
    for byte in data:
        value ^= byte << (width - 8)
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & (2 * top - 1)
    return value


def chunked(*chunks: tuple[bytes, bytes], order: str = "<") -> bytes:
    return b"".join(
        name + struct.pack(f"{order}I", len(content)) + content + bytes(len(content) % 2)
        for name, content in chunks
    )


FORMAT = b"fmt ", struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
FIRST, SECOND = ((3000 * sound(seed, 4000)).astype("<i2").tobytes() for seed in (1, 2))


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"data", FIRST), (b"data", SECOND)],
        [(b"data", FIRST), (b"LIST", b"INFO"), (b"data", SECOND)],
        [(b"data", FIRST), FORMAT, (b"data", SECOND), (b"cue ", bytes(5))],
        [(b"data", b""), (b"data", FIRST), (b"data", SECOND)],
        [(b"JUNK", bytes(7)), (b"data", FIRST[:2000]), (b"data", FIRST[2000:]), (b"data", SECOND)],
    ],
)
def test_samples_in_several_chunks_are_read_one_after_another(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]]
) -> None:
    body = b"WAVE" + chunked(FORMAT, *chunks)
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    waveform, rate, odd = audio.read_with_remarks(tmp_path / "x.wav")
    assert rate == 16_000
    np.testing.assert_allclose(waveform, np.frombuffer(FIRST + SECOND, "<i2") / 32_768, atol=1e-6)
    assert JOINED in odd


def test_samples_of_aiff_in_several_chunks(tmp_path: Path) -> None:
    content = encoded("AIFF", "PCM_16")
    place = content.index(b"SSND")
    again = content + content[place:]
    (tmp_path / "x.aiff").write_bytes(changed(again, 4, ">I", len(again) - 8))
    waveform, _, _ = audio.read_with_remarks(tmp_path / "x.aiff")
    assert len(waveform) == 2 * COUNT
    np.testing.assert_array_equal(waveform[:COUNT], waveform[COUNT:])


def test_samples_of_two_formats_in_one_file_are_refused(tmp_path: Path) -> None:
    other = b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16_000, 2, 16)
    body = b"WAVE" + chunked(FORMAT, (b"data", FIRST), other, (b"data", SECOND))
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    with pytest.raises(UserError, match=r"x.wav: holds samples of two formats; split it"):
        audio.read_with_remarks(tmp_path / "x.wav")
