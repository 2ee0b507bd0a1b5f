#!/usr/bin/env python3
"""Writes distill/models/unicode_tables.c from Python's copy of the Unicode character database.

    python3 tests/interop/make_unicode.py        from the root of the tree
"""
import unicodedata

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def ranges(letter):
    out = []
    for c in POINTS:
        if unicodedata.category(chr(c))[0] != letter:
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def lower_case():
    """[first, last, step, what to add]; U+0130 becomes two characters and is left to the code."""
    out = []
    for c in POINTS:
        lower = chr(c).lower()
        if lower == chr(c) or len(lower) != 1:
            continue
        add = ord(lower) - c
        last = out[-1] if out else None
        if last and last[3] == add and c - last[1] in (1, 2) and (last[0] == last[1] or last[2] == c - last[1]):
            last[2] = c - last[1]
            last[1] = c
        else:
            out.append([c, c, 1, add])
    return out


def table(kind, name, rows):
    numbers = [str(n) for row in rows for n in row]
    lines, line = [], "   "
    for n in numbers:
        if len(line) + len(n) + 2 > 100:
            lines.append(line)
            line = "   "
        line += f" {n},"
    return f"\nconst {kind} {name}[] = {{\n" + "\n".join(lines + [line]) + f"\n}};\nconst size_t {name}_count = {len(rows)};\n"


with open("distill/models/unicode_tables.c", "w") as f:
    f.write(
        f"/* Made by tests/interop/make_unicode.py from Unicode {unicodedata.unidata_version}; see unicode_int.h. */\n"
        '#include "distill/models/unicode_int.h"\n\n/* clang-format off */\n'
        + table("uint32_t", "ck_unicode__letters", ranges("L"))
        + table("uint32_t", "ck_unicode__numbers", ranges("N"))
        + table("int32_t", "ck_unicode__lower", lower_case())
    )
