# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""ICC profiles of version 2, byte by byte: colours of three primaries, grey, and CMYK by a table."""

import struct

import numpy as np


D50 = np.array([0.9642, 1.0, 0.8249])
D65 = np.array([0.95047, 1.0, 1.08883])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78), **tags}
    tags[b"wtpt"] = b"XYZ " + bytes(4) + fixed(*D50)
    table, content = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(content), len(tag))
        content += tag + bytes(-len(tag) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s28x12s", 128 + len(table + content), 0x02400000, kind, space, connection,
                         b"acsp", fixed(*D50))  # fmt: skip
    return header.ljust(128, b"\0") + table + content


def curve(gamma: float | None) -> bytes:
    """A power, or the curve of sRGB."""
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    x = np.linspace(0, 1, 1024)
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", len(y)) + np.rint(y * 65535).astype(">u2").tobytes()


def rgb_profile(primaries: list[tuple[float, float]], gamma: float | None) -> bytes:
    """Of primaries (x, y) with the white of D65; `gamma` as for `curve`."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    columns = columns * np.linalg.solve(columns, D65)
    adapted = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ D65)) @ BRADFORD @ columns
    tags = {
        name: b"XYZ " + bytes(4) + fixed(*adapted[:, index]) for index, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))
    }
    return profile(b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(gamma)))


def grey_profile(gamma: float) -> bytes:
    return profile(b"GRAY", b"XYZ ", {b"kTRC": curve(gamma)})


def cmyk_profile() -> bytes:
    """Every ink alone makes white half as light, all of black no light at all; there are no hues."""
    inks = np.array([[c, m, y, k] for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)])
    lightness = 0.5 ** inks[:, :3].sum(axis=1) * (1 - inks[:, 3])
    lab = np.stack([np.rint(lightness * 255), np.full(16, 128), np.full(16, 128)], axis=1).astype(np.uint8)
    linear = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return profile(b"CMYK", b"Lab ", {b"A2B0": table + 4 * linear + lab.tobytes() + 3 * linear}, b"prtr")
