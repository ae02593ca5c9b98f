"""What photos and masks are inside that a person should know, from a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from u2pl.counting import amount
from u2pl.data.file_source import FileSource
from u2pl.data.ids import few
from u2pl.data.large_photos import LARGE, LIMIT, copy_size, limit
from u2pl.data.mask_checks import is_blended
from u2pl.data.orientation import STORED, UPRIGHT
from u2pl.data.reading import read_facing, read_photo_header
from u2pl.data.source import Source
from u2pl.errors import UserError
from u2pl.files import cache_folder

#: Photos whose headers are looked at, and masks that are decoded, evenly spread.
PHOTOS, MASKS = 100, 8


def photo_notes(source: Source, ids: Sequence[str]) -> list[str]:
    """Notes on photos that EXIF turns, on those of many bits and on large ones, by their headers.

    Files that cannot be read are left to those who need them.
    """
    looked_at = few(ids, PHOTOS)
    return [*_photo_notes(source, looked_at), *_large_notes(source, looked_at, len(ids))]


def mask_doubts(source: Source, ids: Sequence[str]) -> list[str]:
    """Warnings of masks that lost their ids; broken ones are left to those who need them."""
    if source.from_shapes:
        return []
    return list(_mask_doubts(source, few([id for id in ids if source.has_mask(id)], MASKS)))


def count_turned(photos: Iterable[Path]) -> int:
    """How many photos EXIF turns; those that cannot be read count as not turned."""
    turned = 0
    for photo in photos:
        try:
            turned += read_facing(photo).tag != 1
        except UserError:
            continue
    return turned


def _photo_notes(source: Source, ids: Sequence[str]) -> Iterator[str]:
    deep = turned = upright = stored = unclear = 0
    for id in ids:
        files = source.files(id)
        if files is None:
            return
        try:
            header = read_photo_header(files[0])
        except UserError:
            continue
        deep += header.deep
        if header.facing.tag == 1:
            continue
        turned += 1
        size = source.mask_size(id)
        if size is not None:
            ways = {header.facing.drawn_upright(size, rule) for rule in (UPRIGHT, STORED)}
            upright += ways == {True}
            stored += ways == {False}
            unclear += len(ways) == 2
    looked = f"of {len(ids)} photos looked at"
    if turned:
        told = [f"{upright} are read upright"] if upright else []
        told += [f"{stored} are read as they are stored"] if stored else []
        words = " and ".join(told) + (", as their masks' sizes tell" if told else "")
        rest = turned - upright - stored
        if rest:
            way = "upright" if source.exif == UPRIGHT else "as they are stored"
            words += f"{'; ' if told else ''}{rest} are read {way}, where no mask's size tells"
            words += f" ({source.exif_switch})" if unclear and source.exif_switch else ""
        yield f"EXIF turns {turned} {looked}: {words}"
    if deep:
        yield (
            f"{deep} {looked} hold more than 8 bits per channel: each is scaled by the smallest of "
            "8, 10, 12, 14 and 16 bits that its values need"
        )


def _large_notes(source: Source, ids: Sequence[str], total: int) -> Iterator[str]:
    if not isinstance(source, FileSource):
        return
    sizes = []
    for id in ids:
        try:
            file = source.files(id)[0]
            sizes.append(copy_size(file, source.has_mask(id)) if isinstance(file, Path) else 0)
        except UserError:
            continue
    if not any(sizes):
        return
    large = (
        f"{sum(map(bool, sizes))} of {len(ids)} photos looked at have {LARGE // 10**6} megapixels "
        "or more"
    )
    folder, most = cache_folder(), limit()
    if folder is None or not most:
        yield f"{large}: each crop decodes the whole photo, since no copies are kept ({LIMIT}=0)"
        return
    needed = sum(sizes) / len(ids) * total
    rest = "; what has no room is decoded for every crop" if needed > most else ""
    yield (
        f"{large}: crops are cut from decoded copies in {folder}, which take about "
        f"{amount(needed)}, at most {amount(most)}{rest} ({LIMIT} sets it, 0 for no copies)"
    )


def _mask_doubts(source: Source, ids: Sequence[str]) -> Iterator[str]:
    looked = blended = 0
    for id in ids:
        try:
            blended += is_blended(source.mask(id))
        except UserError:
            continue
        looked += 1
    if blended and 4 * blended >= looked:
        yield (
            f"{blended} of {looked} masks of {source.name} that were looked at hold several ids in "
            "thin lines alone, as after JPEG or smooth resizing, which make ids that nobody drew: "
            "train on the original masks"
        )
