"""Pictures as PNG files: small, and read by every browser.

Only what is written here is read again: eight bits a channel, no interlacing, no filter.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from reseed.errors import StoreError

Pixels = NDArray[np.uint8]

_START = b"\x89PNG\r\n\x1a\n"
_COLOURS = {1: 0, 3: 2, 4: 6}
"""Channels to the colour type of the PNG specification (ISO/IEC 15948, table 11.1)."""


def png_bytes(pixels: Pixels) -> bytes:
    """A picture `[height, width, channels]` of 1 (grey), 3 (RGB) or 4 (RGBA) channels as PNG."""
    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # 0 before each: no filter
    lines[:, 1:] = pixels.reshape(height, -1)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")
    return _START + b"".join(_chunk(*part) for part in parts)


def png_pixels(content: bytes) -> Pixels:
    """`[height, width, channels]` of what `png_bytes` wrote.

    Raises:
        StoreError: if it was written by something else, or is damaged.
    """
    try:
        width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", content[16:29])
        channels = {kind: n for n, kind in _COLOURS.items()}[colour]
        if not content.startswith(_START) or depth != 8 or any(rest):
            raise ValueError("another kind of PNG")
        size = struct.unpack(">I", content[33:37])[0]
        lines = np.frombuffer(zlib.decompress(content[41 : 41 + size]), np.uint8)
        lines = lines.reshape(height, 1 + width * channels)
        if lines[:, 0].any():
            raise ValueError("filtered lines")
    except (struct.error, KeyError, ValueError, zlib.error) as error:
        raise StoreError(f"a picture kept with the evidence cannot be read: {error}") from error
    return lines[:, 1:].reshape(height, width, channels)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
