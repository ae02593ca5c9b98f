"""Seeded mutations of what files hold: of bytes, of text, of JSON, of TOML, of tensors, of PNGs."""

from __future__ import annotations

import copy
import json
import re
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

#: What a field of text never expects: control characters, both directions, other alphabets, none.
ODD_TEXTS = (
    *("", " ", "\0", "\x1b[2J", "a\nb", "a\r", "\u202egnp", "\u2028", "\ufeff", "Ωμέγα", "🐈"),
    *("../../x", "/etc/passwd", "<img src=x onerror=alert(1)>", "[b]x[/b]", "%s%n", "a" * 5000),
    *("~nobody", "-1", "nan", "true", "null", "x" * 300, "con", "a/b", "a\\b", "'", '"', "$(id)"),
)
#: What a field of numbers never expects.
ODD_NUMBERS = (
    *(0, -1, 1, 2, 0.5, -0.5, 1e308, -1e308, 1e-320, 10**12, 2**31, 2**63, 2**64, 10**400, 255),
    *(256, float("nan"), float("inf"), float("-inf"), -0.0, 3.0),
)
#: What JSON and TOML can hold besides.
ODD_VALUES = (True, False, [], {}, [1, 2], [[1]], ["a", "b"], {"a": 1}, [None], None)


class Mutated(NamedTuple):
    """Other bytes, and how they came about."""

    content: bytes
    words: str


Mutate = Callable[[Random, bytes], Mutated]


def in_bytes(draw: Random, content: bytes) -> Mutated:
    """One to three changes of single bits, bytes or stretches."""
    words = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        change = draw.choice(_OF_BYTES)
        content, said = change(draw, content)
        words.append(said)
    return Mutated(content, "; ".join(words))


def in_text(draw: Random, content: bytes) -> Mutated:
    """A line more or less, an odd text in between, another encoding, other ends of lines."""
    if draw.random() < 0.15:
        return in_bytes(draw, content)
    words = []
    for _ in range(draw.choice((1, 1, 2))):
        content, said = draw.choice(_OF_TEXT)(draw, content)
        words.append(said)
    return Mutated(content, "; ".join(words))


def in_json(draw: Random, content: bytes) -> Mutated:
    """Another value, a key more or less somewhere in a JSON text; at times its bytes."""
    if draw.random() < 0.2:
        return in_text(draw, content)
    found = json.loads(content)
    words = [_in_value(draw, found) for _ in range(draw.choice((1, 1, 1, 2)))]
    return Mutated(json.dumps(found, indent=draw.choice((None, 2))).encode(), "; ".join(words))


def in_json_lines(draw: Random, content: bytes) -> Mutated:
    """One of the lines, each of which is JSON, or the lines as a text."""
    lines = content.splitlines()
    if draw.random() < 0.3:
        return in_text(draw, content)
    place = draw.randrange(len(lines))
    lines[place], said = in_json(draw, lines[place])
    return Mutated(b"\n".join(lines) + b"\n", f"line {place + 1}: {said}")


def in_toml(draw: Random, content: bytes) -> Mutated:
    """Another value of one of the keys, or the text."""
    text = content.decode()
    values = [match.span(1) for match in re.finditer(r"^[\w.]+ *= *(.*)$", text, re.MULTILINE)]
    if draw.random() < 0.25 or not values:
        return in_text(draw, content)
    begin, end = draw.choice(values)
    new = as_toml(draw.choice(draw.choice((ODD_TEXTS, ODD_NUMBERS, ODD_VALUES))))
    said = f"{text[begin:end]} becomes {new[:60]}"
    return Mutated((text[:begin] + new + text[end:]).encode(), said)


def as_toml(value: object) -> str:
    """A value as TOML has it; what it has no word for as it has none."""
    if isinstance(value, float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {as_toml(each)}' for key, each in value.items())}}}"
    return json.dumps(value)


def in_safetensors(draw: Random, content: bytes) -> Mutated:
    """The header's JSON, one of the numbers behind it, or any of the bytes."""
    kind = draw.random()
    if kind < 0.3:
        return in_bytes(draw, content)
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], bytearray(content[8 + length :])
    if kind < 0.6:
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        return Mutated(content[: 8 + length] + bytes(data), f"a bit of number byte {place}")
    if kind < 0.75:
        place = 4 * draw.randrange(len(data) // 4)
        data[place : place + 4] = struct.pack("<f", draw.choice((float("nan"), float("inf"))))
        return Mutated(content[: 8 + length] + bytes(data), f"number byte {place} is not finite")
    header, said = in_json(draw, header)
    return Mutated(len(header).to_bytes(8, "little") + header + bytes(data), f"header: {said}")


def in_png(draw: Random, content: bytes) -> Mutated:
    """A chunk with a checksum that fits, or any of the bytes."""
    if draw.random() < 0.4:
        return in_bytes(draw, content)
    chunks = list(_chunks(content))
    place = draw.randrange(len(chunks))
    kind, data = chunks[place]
    action = draw.choice(("change", "change", "drop", "double", "move"))
    if action == "change" and data:
        data, said = in_bytes(draw, data)
        chunks[place] = (kind, data)
    elif action == "drop":
        del chunks[place]
    elif action == "double":
        chunks.insert(place, (kind, data))
    else:
        chunks.insert(draw.randrange(len(chunks)), chunks.pop(place))
    said = f"{action} chunk {place} {kind!r}" + (f": {said}" if action == "change" and data else "")
    return Mutated(content[:8] + b"".join(_chunk(*each) for each in chunks), said)


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + checked


def _place(draw: Random, content: bytes) -> int:
    return draw.randrange(len(content)) if content else 0


def _flip(draw: Random, content: bytes) -> Mutated:
    if not content:
        return Mutated(b"\0", "one byte")
    place, bit = _place(draw, content), draw.randrange(8)
    changed = bytes([content[place] ^ 1 << bit])
    return Mutated(content[:place] + changed + content[place + 1 :], f"bit {bit} of byte {place}")


def _replace(draw: Random, content: bytes) -> Mutated:
    place = _place(draw, content)
    value = draw.choice((0, 255, 10, 34, 127, 128, draw.randrange(256)))
    return Mutated(
        content[:place] + bytes([value]) + content[place + 1 :], f"byte {place} is {value}"
    )


def _cut(draw: Random, content: bytes) -> Mutated:
    place = draw.choice((0, 1, 8, _place(draw, content), max(0, len(content) - 1)))
    return Mutated(content[:place], f"cut off at {place}")


def _drop(draw: Random, content: bytes) -> Mutated:
    place, length = _place(draw, content), draw.choice((1, 2, 16, 100))
    return Mutated(content[:place] + content[place + length :], f"{length} bytes less at {place}")


def _insert(draw: Random, content: bytes) -> Mutated:
    place, length = _place(draw, content), draw.choice((1, 4, 100))
    new = draw.choice((bytes(length), draw.randbytes(length)))
    return Mutated(content[:place] + new + content[place:], f"{length} bytes more at {place}")


def _double(draw: Random, content: bytes) -> Mutated:
    place, length = _place(draw, content), draw.choice((4, 64, 1000))
    part = content[place : place + length]
    return Mutated(content[:place] + part + content[place:], f"{length} bytes twice at {place}")


def _add(draw: Random, content: bytes) -> Mutated:
    new = draw.choice((b"\0", b"\n", b"rest", bytes(1000), content))
    return Mutated(content + new, f"{len(new)} bytes behind the end")


_OF_BYTES = (_flip, _flip, _flip, _replace, _cut, _drop, _insert, _double, _add)


def _of_lines(draw: Random, content: bytes) -> Mutated:
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    action = draw.choice(("drop", "double", "empty", "move", "indent"))
    if action == "drop":
        del lines[place]
    elif action == "double":
        lines.insert(place, lines[place])
    elif action == "empty":
        lines.insert(place, b"")
    elif action == "move":
        lines.insert(draw.randrange(len(lines)), lines.pop(place))
    else:
        lines[place] = b" \t" + lines[place] + b" "
    return Mutated(b"\n".join(lines), f"{action} line {place + 1}")


def _odd_text(draw: Random, content: bytes) -> Mutated:
    place, odd = _place(draw, content), draw.choice(ODD_TEXTS)
    return Mutated(content[:place] + odd.encode() + content[place:], f"{odd[:30]!r} at {place}")


def _odd_token(draw: Random, content: bytes) -> Mutated:
    """A word or number becomes another one."""
    # the next one behind some place: a list of all would take seconds where a text is long
    found = re.compile(rb"[\w.+-]+").search(content, _place(draw, content))
    if not found:
        return _odd_text(draw, content)
    begin, end = found.span()
    new = str(draw.choice(draw.choice((ODD_TEXTS, ODD_NUMBERS)))).encode()
    said = f"{content[begin:end][:30]!r} becomes {new[:30]!r}"
    return Mutated(content[:begin] + new + content[end:], said)


def _encoded(draw: Random, content: bytes) -> Mutated:
    text = content.decode(errors="replace")
    name = draw.choice(("utf-8-sig", "utf-16", "latin-1", "utf-32"))
    return Mutated(text.encode(name, errors="replace"), f"written as {name}")


def _ends(draw: Random, content: bytes) -> Mutated:
    end = draw.choice((b"\r\n", b"\r", b"\n\n", b"\x0b", b"\x1c", "\u2028".encode()))
    return Mutated(content.replace(b"\n", end), f"lines end in {end!r}")


def _long(draw: Random, content: bytes) -> Mutated:
    place = _place(draw, content)
    part = draw.choice((b"a", b"a ", b"[", b"{", b'{"a":', b"9", b",", b'"', b"/"))
    new = part * (1_000_000 // len(part))
    return Mutated(content[:place] + new + content[place:], f"{new[:6]!r}... of 1 MB at {place}")


def _no_text(draw: Random, content: bytes) -> Mutated:
    place = _place(draw, content)
    new = draw.choice((b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\0"))
    return Mutated(content[:place] + new + content[place:], f"{new!r} at {place}")


_OF_TEXT = (
    *(_of_lines, _of_lines, _odd_text, _odd_text, _odd_token, _odd_token),
    *(_encoded, _ends, _long, _no_text),
)


def _in_value(draw: Random, root: Any) -> str:
    """Change something somewhere in what JSON said, and say what."""
    places = list(_places(root))
    if not places:
        return "nothing"
    holder, key = draw.choice(places)
    old = holder[key]
    action = draw.choice(("change", "change", "change", "drop", "rename", "wrap"))
    where = f"{key!r} ({str(old)[:30]!r})"
    if action == "drop":
        del holder[key]
        return f"{where} is gone"
    if action == "rename" and isinstance(holder, dict):
        holder[draw.choice(ODD_TEXTS)] = holder.pop(key)
        return f"{where} has another name"
    if action == "wrap":
        holder[key] = [old]
        return f"{where} is a list"
    new = copy.deepcopy(draw.choice(draw.choice((ODD_TEXTS, ODD_NUMBERS, ODD_VALUES))))
    holder[key] = new
    return f"{where} becomes {str(new)[:30]!r}"


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every holder and key below a value."""
    inside = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [(value, key) for key, _ in inside] + [
        place for _, each in inside for place in _places(each)
    ]
