#!/usr/bin/env python3
"""Writes tests/data/images: one small image in the kinds that PNG and JPEG have.

    python3 tests/interop/make_images.py        from the root of the tree; needs: pillow (for JPEG)

The image is 16 x 12; pixel (x, y) is red 16 x, green 20 y, blue 100; its gray is 16 x.
"""
import os
import struct
import zlib

from PIL import Image

W, H = 16, 12
FOLDER = "tests/data/images/"
os.makedirs(FOLDER, exist_ok=True)


def rgb(x, y):
    return (16 * x, 20 * y, 100)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(name, depth, color, pixel, extra=b"", interlaced=False):
    """pixel(x, y): the samples; of depth bits each."""

    def row(xs, y):
        bits = "".join(f"{v:0{depth}b}" for x in xs for v in pixel(x, y))
        bits += "0" * (-len(bits) % 8)
        return b"\0" + int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:]

    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b"".join(
        row(range(x0, W, dx), y)
        for x0, y0, dx, dy in (passes if interlaced else [(0, 0, 1, 1)])
        for y in range(y0, H, dy)
        if x0 < W
    )
    header = struct.pack(">IIBBBBB", W, H, depth, color, 0, 0, interlaced)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
    with open(FOLDER + name, "wb") as f:
        f.write(data)


GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
png("rgb8.png", 8, RGB, rgb)
png("rgb16.png", 16, RGB, lambda x, y: [257 * v for v in rgb(x, y)])
png("rgba8.png", 8, RGB_ALPHA, lambda x, y: rgb(x, y) + (17 * x,))
png("rgb8_interlaced.png", 8, RGB, rgb, interlaced=True)
png("rgb8_transparent.png", 8, RGB, rgb, chunk(b"tRNS", struct.pack(">HHH", 16, 20, 100)))
png("gray8.png", 8, GRAY, lambda x, y: (16 * x,))
png("gray4.png", 4, GRAY, lambda x, y: (x,))
png("gray16_alpha.png", 16, GRAY_ALPHA, lambda x, y: (257 * 16 * x, 9))
png("gray1.png", 1, GRAY, lambda x, y: ((x + y) % 2,))
colors = b"".join(bytes(rgb(i % W, i // W)) for i in range(W * H))
png("palette8.png", 8, PALETTE, lambda x, y: (y * W + x,), chunk(b"PLTE", colors))

picture = Image.new("RGB", (W, H))
picture.putdata([rgb(x, y) for y in range(H) for x in range(W)])
picture.save(FOLDER + "rgb.jpg", quality=98, subsampling=0)
picture.save(FOLDER + "rgb_progressive.jpg", quality=98, subsampling=0, progressive=True)
picture.getchannel(0).save(FOLDER + "gray.jpg", quality=98)
picture.convert("CMYK").save(FOLDER + "cmyk.jpg")
