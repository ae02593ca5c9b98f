"""Inference on images of any size: probabilities exist only where windows are still to come.

A band of windows crosses the image along its shorter side and moves along the longer one; it moves
down an image whose file is read by rows. What no later window touches is softmaxed, reduced to a
class id and a confidence, and forgotten.

Shapes: S, T: sides along which and across which the band moves; s, t: the same of a scaled view;
r: some of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from u2pl.counting import OnProgress
from u2pl.data.channels import as_image
from u2pl.data.regions import Regions
from u2pl.errors import UserError
from u2pl.evaluate.inference import full_size
from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.evaluate.windows import starts, window_weight
from u2pl.maps import shrink_factor
from u2pl.notation import IGNORE, padding
from u2pl.pseudo.partition import doubt

#: Numbers that are softmaxed at once.
AT_ONCE = 2**24

#: Which pixels of the rows from one to another hold data, bool [h, W]; None: all of them.
ValidRows = Callable[[int, int], np.ndarray | None]
#: Makes an array, uint8, of a shape.
Room = Callable[[tuple[int, int]], np.ndarray]


def empty(shape: tuple[int, int]) -> np.ndarray:
    """An array in memory."""
    return np.empty(shape, np.uint8)


class Segmented(NamedTuple):
    """What is kept of an image's probabilities."""

    ids: np.ndarray  # uint8 [H, W], the class of the highest probability
    confidence: np.ndarray  # uint8 [H, W], that probability, 255 = 1
    mean_confidence: float  # over the pixels, in [0, 1]
    mean_doubt: float  # mean entropy relative to that of even odds, in [0, 1]


class Tally:
    """Collects `Segmented` from probabilities of some rows after the other.

    Args:
        height, width: of the image in pixels.
        wide: whether the rows are the image's columns.
        valid_rows: as `Regions.valid_rows`; what holds no data becomes 255, without confidence, and
            counts in no mean.
        room: makes the arrays.
    """

    def __init__(
        self,
        height: int,
        width: int,
        wide: bool = False,
        valid_rows: ValidRows | None = None,
        room: Room = empty,
    ) -> None:
        shape = (width, height) if wide else (height, width)
        self.ids, self.confidence = room(shape), room(shape)
        self._wide, self._done, self._sums = wide, 0, np.zeros(2)
        self._valid_rows, self._pixels = valid_rows, 0

    def add(self, prob_CrT: Tensor) -> None:
        """The next rows."""
        best, ids = prob_CrT.max(0)
        rows = slice(self._done, self._done + len(ids))
        found, sure = (each.to(torch.uint8).cpu().numpy() for each in (ids, (best * 255).round()))
        values = (best, doubt(prob_CrT[None])[0])
        valid = None if self._valid_rows is None else self._valid_rows(rows.start, rows.stop)
        if valid is None:
            self._pixels += found.size
        else:
            assert not self._wide
            found, sure = np.where(valid, found, np.uint8(IGNORE)), np.where(valid, sure, 0)
            held = torch.from_numpy(valid).to(best.device)
            values = (values[0] * held, values[1] * held)
            self._pixels += int(valid.sum())
        self.ids[rows], self.confidence[rows] = found, sure
        self._sums += [float(value.sum(dtype=torch.float64)) for value in values]
        self._done = rows.stop

    def result(self) -> Segmented:
        """What was collected of all rows."""
        assert self._done == len(self.ids)
        ids, confidence = (
            np.ascontiguousarray(found.T) if self._wide else found
            for found in (self.ids, self.confidence)
        )
        means = self._sums / max(1, self._pixels)
        return Segmented(ids, confidence, *(float(value) for value in means))


def tallied(prob_CHW: Tensor, valid_rows: ValidRows | None = None, room: Room = empty) -> Segmented:
    """What is kept of probabilities that exist at once; arguments as of `Tally`."""
    tally = Tally(prob_CHW.shape[1], prob_CHW.shape[2], False, valid_rows, room)
    for rows in _pieces(prob_CHW):
        tally.add(rows)
    return tally.result()


def segment(
    network: nn.Module,
    image: Regions,
    protocol: EvaluationProtocol,
    device: torch.device,
    progress: OnProgress | None = None,
    room: Room = empty,
) -> Segmented:
    """The same as `predict_probabilities`, up to rounding, without all of its memory.

    It takes C x crop x T numbers for each view. A scaled view is rounded to 8 bits before the
    network sees it.

    Args:
        network: in eval mode, on `device`.
        image: of any size.
        protocol: its modes `whole` and `center-crop` show the network a whole view at once.
        device: of the network.
        progress: called with (windows done, windows to do).
        room: makes the arrays of what is returned.

    Raises UserError if the image is broken, or the protocol has a dense CRF, which needs all
    probabilities at once.
    """
    if protocol.crf:
        raise UserError(
            f"--crf needs all probabilities of an image at once, which {image.width}x"
            f"{image.height} pixels do not allow: leave it out"
        )
    views = list(_views(image, protocol))
    total, done = sum(len(view.places) for view in views), 0

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    full = (image.width, image.height) if views[0].wide else (image.height, image.width)
    streams = [_resized(_logits(network, view, device, count), view.shape, full) for view in views]
    tally = Tally(image.height, image.width, views[0].wide, image.valid_rows, room)
    for together in _aligned(streams):
        prob = together[0].softmax(0)
        for logits in together[1:]:
            prob = prob.add_(logits.softmax(0))
        tally.add(prob if len(views) == 1 else prob / len(views))
    return tally.result()


@dataclass(frozen=True)
class _View:
    """An image at some scale, mirrored or not."""

    image: Regions
    height: int  # of the scaled image
    width: int
    crop: tuple[int, int]  # height and width of a window
    stride: int
    mirrored: bool
    weight: Tensor  # [crop, crop]
    wide: bool  # the band moves from left to right

    @property
    def shape(self) -> tuple[int, int]:
        """(s, t)."""
        return (self.width, self.height) if self.wide else (self.height, self.width)

    @property
    def margins(self) -> tuple[int, int]:
        """Padding on top and on the left, where a side is shorter than a window."""
        top = max(self.crop[0] - self.height, 0) // 2
        missing = max(self.crop[1] - self.width, 0)
        return top, missing - missing // 2 if self.mirrored else missing // 2

    @property
    def places(self) -> list[tuple[int, int]]:
        """Top and left of each window in the padded view, band by band."""
        down = starts(max(self.height, self.crop[0]), self.crop[0], self.stride)
        across = starts(max(self.width, self.crop[1]), self.crop[1], self.stride)
        if self.mirrored:
            whole = max(self.width, self.crop[1])
            across = sorted(whole - self.crop[1] - left for left in across)
        if self.wide:
            return [(top, left) for left, top in product(across, down)]
        return list(product(down, across))

    def window(self, top: int, left: int) -> Tensor:
        """The pixels of a window, float [1, channels, crop, crop] in [0, 1], padded."""
        above, beside = self.margins
        y0, x0 = max(top - above, 0), max(left - beside, 0)
        y1 = min(top - above + self.crop[0], self.height)
        x1 = min(left - beside + self.crop[1], self.width)
        channels = self.image.channels
        pixels = np.empty((*self.crop, channels), np.uint8)
        pixels[:] = padding(channels)
        rows = slice(y0 + above - top, y1 + above - top)
        columns = slice(x0 + beside - left, x1 + beside - left)
        pixels[rows, columns] = self._read(x0, y0, x1, y1)
        window = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        return window.flip(-1) if self.mirrored else window

    def _read(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """A rectangle of the scaled image, uint8 [h, w, channels]."""
        image, size = self.image, (self.width, self.height)
        if size == (image.width, image.height):
            return image.read(left, top, right, bottom)
        across, down = image.width / self.width, image.height / self.height
        box = (left * across, top * down, right * across, bottom * down)
        # the filter looks this far beyond the box
        reach_x, reach_y = math.ceil(max(across, 1)) + 1, math.ceil(max(down, 1)) + 1
        x0, y0 = max(math.floor(box[0]) - reach_x, 0), max(math.floor(box[1]) - reach_y, 0)
        x1 = min(math.ceil(box[2]) + reach_x, image.width)
        y1 = min(math.ceil(box[3]) + reach_y, image.height)
        part = as_image(image.read(x0, y0, x1, y1))
        inside = (box[0] - x0, box[1] - y0, min(box[2], x1) - x0, min(box[3], y1) - y0)
        wanted = (right - left, bottom - top)
        return np.asarray(part.resize(wanted, Image.Resampling.BILINEAR, box=inside))


def _views(image: Regions, protocol: EvaluationProtocol) -> Iterator[_View]:
    shrink = shrink_factor((image.height, image.width), protocol.long_side)
    slides = protocol.mode == "slide"
    for scale in (shrink * scale for scale in protocol.scales):
        height, width = (max(1, round(side * scale)) for side in (image.height, image.width))
        crop = (protocol.side(), protocol.side()) if slides else (height, width)
        weight = (
            window_weight(protocol.side(), protocol.blend) if slides else torch.ones(height, width)
        )
        stride = protocol.stride() if slides else max(height, width)
        for mirrored in (False, True) if protocol.flip else (False,):
            wide = image.width > image.height and not image.by_rows
            yield _View(image, height, width, crop, stride, mirrored, weight, wide)


def _logits(
    network: nn.Module, view: _View, device: torch.device, count: Callable[[], None]
) -> Iterator[Tensor]:
    """Logits of a view, a few rows [C, r, t] after the other."""
    if len(view.places) == 1:
        logits = full_size(network, view.window(0, 0).to(device))[0]
        count()
        above, left = view.margins
        logits = logits.flip(-1) if view.mirrored else logits
        seen = logits[:, above : above + view.height, left : left + view.width]
        yield from _pieces(_turned(seen, view.wide))
        return
    weight = _turned(view.weight.to(device), view.wide)
    crop_s, crop_t = weight.shape
    (long, cross), (before, beside) = view.shape, view.margins[:: -1 if view.wide else 1]
    padded = max(long, crop_s), max(cross, crop_t)
    band, sums, top = None, torch.zeros(crop_s, padded[1], device=device), 0
    inside = slice(beside, beside + cross)

    def finished(first: int, last: int) -> Iterator[Tensor]:
        """The rows from `first` to `last` of the padded view, without its padding."""
        assert band is not None
        first, last = max(first, before), min(last, before + long)
        rows = slice(first - top, last - top)
        for piece, weights in zip(
            _pieces(band[:, rows, inside]),
            _pieces(sums[None, rows, inside], len(band)),
            strict=True,
        ):
            yield piece / weights

    for y, x in view.places:
        place = (x, y) if view.wide else (y, x)
        if band is not None and place[0] > top:
            yield from finished(top, place[0])
            for held in (band, sums[None]):
                kept = held[:, place[0] - top :].clone()
                held[:, : kept.shape[1]] = kept
                held[:, kept.shape[1] :] = 0
            top = place[0]
        logits = full_size(network, view.window(y, x).to(device))[0]
        logits = _turned(logits.flip(-1) if view.mirrored else logits, view.wide)
        if band is None:
            band = logits.new_zeros(len(logits), crop_s, padded[1])
        own = slice(place[1], place[1] + crop_t)
        band[:, :, own] += logits * weight
        sums[:, own] += weight
        count()
    yield from finished(top, padded[0])


def _resized(
    streams: Iterator[Tensor], small: tuple[int, int], full: tuple[int, int]
) -> Iterator[Tensor]:
    """Rows of logits at the image's own size, as bilinear interpolation of all would give them.

    Args:
        streams: [C, r, t], from the first row to the last.
        small: (s, t) of the view.
        full: (S, T) of the image.
    """
    if small == full:
        yield from streams
        return
    scale, done = small[0] / full[0], 0
    held: Tensor | None = None
    first = 0  # the row of the view that `held` begins with
    for rows in streams:
        widened = F.interpolate(
            rows[None], (rows.shape[1], full[1]), mode="bilinear", align_corners=False
        )[0]
        held = widened if held is None else torch.cat([held, widened], 1)
        known = first + held.shape[1]
        # the last full row whose lower neighbour is known
        ready = full[0] if known == small[0] else max(0, math.floor((known - 0.5) / scale - 0.5))
        for piece in range(done, ready, max(1, AT_ONCE // (len(held) * full[1]))):
            until = min(piece + max(1, AT_ONCE // (len(held) * full[1])), ready)
            place = torch.arange(piece, until, dtype=torch.float64, device=held.device)
            place = ((place + 0.5) * scale - 0.5).clamp(min=0)
            low = place.floor().long().clamp(max=small[0] - 1)
            high = (low + 1).clamp(max=small[0] - 1)
            part = (place - low).float()[None, :, None]
            above, below = (held.index_select(1, rows - first) for rows in (low, high))
            yield above * (1 - part) + below * part
            done = until
        drop = max(0, math.floor((done + 0.5) * scale - 0.5)) - first
        held, first = held[:, drop:], first + drop


def _aligned(streams: list[Iterator[Tensor]]) -> Iterator[list[Tensor]]:
    """Pieces of all streams that show the same rows."""
    if len(streams) == 1:
        yield from ([piece] for piece in streams[0])
        return
    held: list[Tensor | None] = [None] * len(streams)
    while True:
        for index, stream in enumerate(streams):
            if held[index] is None:
                held[index] = next(stream, None)
        known = [piece for piece in held if piece is not None]
        if len(known) < len(streams):
            return
        rows = min(piece.shape[1] for piece in known)
        yield [piece[:, :rows] for piece in known]
        held = [piece[:, rows:] if piece.shape[1] > rows else None for piece in known]


def _pieces(held_CrT: Tensor, classes: int = 0) -> Iterator[Tensor]:
    """Some rows after the other, so that what is computed of them stays small."""
    rows = max(1, AT_ONCE // max(1, (classes or len(held_CrT)) * held_CrT.shape[-1]))
    return iter(held_CrT.split(rows, dim=1))


def _turned(map_Chw: Tensor, wide: bool) -> Tensor:
    return map_Chw.transpose(-1, -2) if wide else map_Chw
