"""What the commands besides train and doctor can be asked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from u2pl.errors import UserError
from u2pl.run.request import Request, default_of
from u2pl.run.sweep.options import shared_options

if TYPE_CHECKING:
    from u2pl.model.model import View

SCORED = typer.Argument(
    help="a run folder (its last model), a folder with model.safetensors, RUN/best, or a name on "
    "the hub: user/name or user/name@revision"
)
CPU = typer.Option("--cpu", help="do not use a GPU")


@dataclass(frozen=True, kw_only=True)
class ModelRequest:
    """A network, and how images are shown to it."""

    checkpoint: Annotated[Path, SCORED]
    mode: Annotated[
        Literal["whole", "center-crop", "slide"] | None,
        typer.Option(help="how images are shown to the network; the run's own way if left out"),
    ] = None
    crop: Annotated[
        int | None,
        typer.Option(
            help="side of the centre crop or the sliding window in pixels; the run's if left out"
        ),
    ] = None
    blend: Annotated[
        Literal["mean", "linear", "gaussian"] | None,
        typer.Option(
            help="how overlapping windows are averaged: alike, or weighted by the distance from "
            "their edges; the run's own way if left out"
        ),
    ] = None
    scales: Annotated[
        list[float] | None,
        typer.Option(
            help="sizes relative to the image's own whose predictions are averaged, repeatable"
        ),
    ] = None
    flip: Annotated[bool, typer.Option("--flip", help="average with the mirrored image")] = False
    crf: Annotated[
        bool,
        typer.Option("--crf", help="a dense CRF behind the network; needs uv sync --extra crf"),
    ] = False
    cpu: Annotated[bool, CPU] = False

    @property
    def view(self) -> View:
        """What differs from the network's own protocol."""
        return {
            "mode": self.mode,
            "crop": self.crop,
            "blend": self.blend,
            "scales": self.scales or None,
            "flip": self.flip or None,
            "crf": self.crf or None,
        }


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(ModelRequest):
    """What `evaluate` can be asked."""

    data: Annotated[
        str | None, typer.Option(help="a data source; the one it was trained on if left out")
    ] = None
    split: Annotated[
        str | None,
        typer.Option(help="which images; val, or what the run was scored on, if left out"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PredictRequest(ModelRequest):
    """What `predict` can be asked."""

    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them; any size")]
    out: Annotated[
        Path, typer.Option(help="folder for ids/, colour/, overlay/, confidence/ and the rest")
    ]
    ignore_below: Annotated[
        float,
        typer.Option(
            help="pixels of a lower confidence become 255 in ids/, which training ignores"
        ),
    ] = 0.0
    format: Annotated[
        list[str] | None,
        typer.Option(
            help="also polygons: coco, cvat, geojson (of GeoTIFFs), labelme or yolo; repeatable"
        ),
    ] = None
    min_area: Annotated[
        int,
        typer.Option(
            help="of --format: parts of fewer pixels get no polygon but become their neighbour's"
        ),
    ] = 64
    tolerance: Annotated[
        float,
        typer.Option(help="of --format: pixels that a polygon may be off the mask; 0 = exact"),
    ] = 0.75
    gallery: Annotated[
        bool,
        typer.Option(
            "--gallery", help="also gallery.html, to look through the predictions in a browser"
        ),
    ] = False
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="show images in windows of so many pixels, which takes little memory; images of "
            "more than 25 megapixels are shown so in any case",
        ),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="leave out the images of --out that are done")
    ] = False
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="replace files in --out that predict did not write"),
    ] = False
    stored_pixels: Annotated[
        bool,
        typer.Option(
            "--stored-pixels",
            help="predict photos as they are stored; by default EXIF turns them, as viewers do",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ConvertRequest:
    """What `convert` can be asked."""

    source: Annotated[
        str,
        typer.Argument(
            help="any data: a folder, what a labelling program wrote, SCHEME:PATH, or a demo"
        ),
    ]
    to: Annotated[Path, typer.Option(help="folder to make; must not exist")]
    copy: Annotated[
        bool, typer.Option("--copy", help="copy the images; by default they are links")
    ] = False


@dataclass(frozen=True, kw_only=True)
class ImportRequest:
    """What `import` can be asked."""

    file: Annotated[Path, typer.Argument(help="a .pth or .safetensors file")]
    to: Annotated[Path, typer.Option(help="folder to write the model to; must not exist")]
    classes: Annotated[
        str | None,
        typer.Option(help="cityscapes, voc or a classes.txt; by their number if left out"),
    ] = None
    prefix: Annotated[
        str | None,
        typer.Option(help="which network, if the file holds several: what its keys begin with"),
    ] = None
    output_stride: Annotated[
        int | None,
        typer.Option(help="of the encoder's last map, 16 or 32; 32 if left out, AFA's is 16"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """What `report` can be asked."""

    run: Annotated[Path, typer.Argument(help="folder of a run, finished or not")]
    cpu: Annotated[bool, CPU] = False


@dataclass(frozen=True, kw_only=True)
class ShareRequest:
    """A network that is to go elsewhere."""

    checkpoint: Annotated[Path, SCORED]
    best: Annotated[
        bool,
        typer.Option(
            "--best", help="the network with the highest mIoU of a run, instead of the last one"
        ),
    ] = False

    @property
    def network(self) -> Path:
        """Where the network lies; UserError if there is no best one."""
        best = self.checkpoint / "best"
        if self.best and not best.is_dir():
            raise UserError(
                f"--best: {self.checkpoint} has no best/, for it is no run or nothing was scored; "
                "leave --best out"
            )
        return best if self.best else self.checkpoint


@dataclass(frozen=True, kw_only=True)
class ExportRequest(ShareRequest):
    """What `export` can be asked."""

    to: Annotated[
        Path, typer.Option(help="folder for model.safetensors, config.json and README.md")
    ]
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx",
            help="also model.onnx, for runtimes without PyTorch: uint8 RGB in, probabilities and "
            "class ids out, for any size and batch; needs uv sync --extra onnx",
        ),
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the model that is in --to")
    ] = False


@dataclass(frozen=True, kw_only=True)
class PushRequest(ShareRequest):
    """What `push` can be asked."""

    name: Annotated[str, typer.Argument(help="user/name, or a name of your own on the hub")]
    private: Annotated[
        bool, typer.Option("--private", help="for nobody but you, if the name is new")
    ] = False


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What `compare` can be asked."""

    runs: Annotated[list[Path], typer.Argument(help="folders of runs, or folders that hold runs")]
    against: Annotated[
        str | None,
        typer.Option(
            help="the variant to compare with, by its name in the table; the method that learns "
            "from labels alone, if left out"
        ),
    ] = None
    markdown: Annotated[Path | None, typer.Option(help="file to write the tables to")] = None
    csv: Annotated[Path | None, typer.Option(help="file to write the numbers to")] = None
    html: Annotated[Path | None, typer.Option(help="file to write a page with charts to")] = None


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """What `sweep` can be asked, besides the options of `train` that its runs share."""

    file: Annotated[
        Path | None,
        typer.Argument(help="TOML file: methods, seeds, tables of variants, options of train"),
    ] = None
    methods: Annotated[
        str | None, typer.Option(help="such as suponly,u2plplus; instead of those of the file")
    ] = None
    seeds: Annotated[
        str | None, typer.Option(help="such as 0-2 or 0,1,5; instead of those of the file")
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(help="folder for the runs and their comparison; runs/FILE if left out"),
    ] = None
    jobs: Annotated[
        int, typer.Option(min=1, help="runs at once; with more than one, each has one thread")
    ] = 1
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the commands, train nothing")
    ] = False


def sweep_request(request: type[Request]) -> type[SweepRequest]:
    """What `sweep` of an app can be asked.

    Args:
        request: what its `train` can be asked.
    """
    hints = get_type_hints(request, include_extras=True)
    shared: list[tuple[str, Any, Any]] = [
        (
            name,
            hints[name],
            dataclasses.field(default_factory=partial(default_of, request, name)),
        )
        for name in shared_options(request)
    ]
    return dataclasses.make_dataclass(
        "SweepRequest", shared, bases=(SweepRequest,), frozen=True, kw_only=True
    )


@dataclass(frozen=True, kw_only=True)
class ShowRequest:
    """What `show` can be asked."""

    method: Annotated[str | None, typer.Argument(help="a method, see `methods`")] = None
    method_file: Annotated[
        Path | None, typer.Option(help="a method of your own instead: a .py file")
    ] = None
    preset: Annotated[
        str, typer.Option(help="a preset, see `presets`, or a .toml file of your own")
    ] = "light"
    set: Annotated[list[str] | None, typer.Option(help="section.key=value, repeatable")] = None


@dataclass(frozen=True, kw_only=True)
class NoRequest:
    """A command without options."""
