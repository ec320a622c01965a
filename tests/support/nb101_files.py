"""Files of NAS-Bench-101 in the official structure, by an independent writer."""

from __future__ import annotations

import base64
import json
import struct

from nasx.benchmarks.nb101 import Matrix, graph_hash

# The first graph of the official file, its hash, and its first run of 108 epochs.
OFFICIAL = (
    (0, 1, 0, 0, 1, 1, 0),
    (0, 0, 1, 0, 0, 0, 0),
    (0, 0, 0, 1, 0, 0, 1),
    (0, 0, 0, 0, 0, 1, 0),
    (0, 0, 0, 0, 0, 1, 0),
    (0, 0, 0, 0, 0, 0, 1),
    (0, 0, 0, 0, 0, 0, 0),
)
LABELS = ("input", "conv3x3-bn-relu", "maxpool3x3", "conv3x3-bn-relu", "conv3x3-bn-relu", "conv1x1-bn-relu", "output")
HASH = "00005c142e6f48ac74fdcf73e3439874"
VALID, TEST, PARAMS = 0.9241786599159241, 0.9211738705635071, 8_555_530


def divided(byte: int) -> int:
    """Take eight steps of the division by the polynomial of CRC-32C."""
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


REMAINDERS = [divided(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ REMAINDERS[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(valid: float, test: float, params: int = PARAMS, seconds: float = 1000.0, evaluations: int = 3) -> bytes:
    """Return a ModelMetrics message, with fields that the reader must skip."""
    out = b""
    for i in range(evaluations):
        part = i / 2 if i < 2 else 1.0
        doubles = {1: 108 * part, 2: seconds * part, 3: 1.0, 4: valid * part, 5: test * part}
        body = b"".join(bytes([n << 3 | 1]) + struct.pack("<d", x) for n, x in doubles.items()) + b"\x32\x03a/b"
        out += b"\x0a" + varint(len(body)) + body
    return out + b"\x10" + varint(params) + b"\x19" + struct.pack("<d", 4321.0)


def record(matrix: Matrix, labels: tuple[str, ...], metrics: bytes, epochs: int = 108, key: str | None = None) -> bytes:
    flat = "".join(str(x) for row in matrix for x in row)
    return json.dumps(
        [key or graph_hash(matrix, labels), epochs, flat, ",".join(labels), base64.b64encode(metrics).decode()]
    ).encode()
