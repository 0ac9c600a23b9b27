"""The header of a JPEG file (ITU-T T.81, annex B), read in microseconds and without a decoder."""

from dataclasses import dataclass

# Start-of-frame markers: all of FFC0 to FFCF but DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA


@dataclass(frozen=True)
class JpegHeader:
    """Size as stored (EXIF orientation not applied), number of components, and what else decides how to decode."""

    height: int
    width: int
    components: int
    exif: bool
    """There is an EXIF block, which may turn the picture."""
    ends: bool
    """An end marker follows the first scan. Without one the file was cut, even if zeros were appended."""


def read_jpeg_header(raw: bytes) -> JpegHeader | None:
    """Walk the marker segments up to the first scan. None for what is no JPEG or makes no sense: decoders say why."""
    if raw[:2] != b"\xff\xd8":
        return None
    position, exif, frame = 2, False, None
    while position + 4 <= len(raw):
        if raw[position] != 0xFF:
            return None
        marker = raw[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = int.from_bytes(raw[position + 2 : position + 4], "big")
        body = raw[position + 4 : position + 2 + length]
        if marker in _START_OF_FRAME and len(body) >= 6:
            frame = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5]
        elif marker == 0xE1 and body[:4] == b"Exif":
            exif = True
        elif marker == _START_OF_SCAN:
            if frame is None:
                return None
            return JpegHeader(*frame, exif=exif, ends=raw.rfind(b"\xff\xd9", position) >= 0)
        position += 2 + length
    return None
