"""What the command line takes: a dataclass for each command, and the parser that makes one of them. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro
from tyro.conf import OmitArgPrefixes, Positional, Suppress, arg, subcommand

from astseg.config import Config, override, to_dict
from astseg.config.presets import PRESETS, preset
from astseg.errors import UserError

if TYPE_CHECKING:
    from astseg.data import Reading

__all__ = [
    "CheckData",
    "Demo",
    "Evaluate",
    "Export",
    "Fit",
    "Health",
    "ImportReference",
    "Prepare",
    "Presets",
    "Report",
    "Scenes",
    "Segment",
    "Train",
    "TrainBackground",
    "parse",
    "spelled_settings",
    "usual_settings",
]

DEFAULT_PRESET = "small"

Precision: TypeAlias = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True)
class Scenes:
    """Make scenes with exact masks, in the CLEVRTEX layout."""

    out: Positional[Path]
    """Folder to make."""
    family: Literal["desk", "rooms"] = "desk"
    """desk: one textured background, changing light; rooms: a new room in every image."""
    count: int = 1000
    """How many."""
    size: int = 64
    """Side in pixels."""
    seed: int = 0
    """The same seed gives the same scenes."""
    processes: int = 2
    """How many work at once; the result does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Which scenes of a source are taken, and how they come to the size of the model."""

    split: str = "all"
    """Which scenes: all, train, val, test, or a slice such as :-50."""
    crop: float | None = None
    """Centre crop, as a part of the short side; by default what the data set declares (evaluate: as in training)."""
    resize: Literal["crop", "letterbox", "squeeze"] | None = None
    """How pictures of other proportions fit in: cut off, between bars, or squeezed; by default crop (evaluate: as in
    training)."""
    camera: int | None = None
    """ShapeStacks: one camera alone."""
    stride: int = 1
    """Videos: one frame of so many."""
    frames: int | None = None
    """Videos: at most so many frames of each."""

    @property
    def reading(self) -> Reading:
        """What is read. Raises UserError for a value outside its range."""
        from astseg.data import Reading  # loads numpy, for which --help should not wait

        return Reading(self.camera, self.stride, self.frames)


@dataclass(frozen=True)
class TrainBackground(Taken):
    """Learn the background alone: phase 1 of the curriculum. Goes on where the run folder stands."""

    data: Positional[Path]
    """Scenes: a data set, a cache, a folder of images or a video; docs/datasets.md lists what is recognised."""
    out: Path
    """Run folder."""
    preset: str = DEFAULT_PRESET
    """Named settings."""
    config: Path | None = None
    """YAML or JSON file with settings, laid over the preset."""
    seed: int = 0
    """Seed of weights, batches and dropout."""
    minutes: float | None = None
    """Time limit."""
    steps: int | None = None
    """Steps of the phase; for train those of the objects."""
    tensorboard: bool = False
    """Write RUN/tensorboard as well."""
    settings: Annotated[Config, arg(name="")] = field(default_factory=Config)

    def __post_init__(self) -> None:
        """Check what no configuration checks.

        Raises:
            UserError: A value outside its range.
        """
        _check_run(self.minutes, self.seed)


@dataclass(frozen=True)
class Train(TrainBackground):
    """Learn background and objects: the whole curriculum. Goes on where the run folder stands."""


@dataclass(frozen=True)
class Fit(Train):
    """From pictures to masks: look at them, choose settings, train, tell whether it worked. The same command goes on.

    A setting that is given is kept. The others are chosen for the pictures, whatever default stands beside them.
    """

    dry_run: bool = False
    """Print the plan alone."""
    given: Annotated[tuple[str, ...], Suppress] = ()
    """Dotted names of the settings that are given, such as ``model.slots``."""

    def __post_init__(self) -> None:
        """Check what no configuration checks.

        Raises:
            UserError: A value outside its range, or another preset.
        """
        super().__post_init__()
        if self.preset != DEFAULT_PRESET:
            raise UserError(f"fit chooses the settings itself: for the preset '{self.preset}' use astseg train")


@dataclass(frozen=True)
class Evaluate(Taken):
    """Measure one run or several on scenes with masks; of several, mean and deviation."""

    paths: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...] DATA")]
    """Run folders, and last the scenes, as for train."""
    json: Path | None = None
    """Write the figures there too, besides RUN/metrics.json."""
    csv: Path | None = None
    """Write the figures of each image there too, besides RUN/per_image.csv."""
    table: Path | None = None
    """Write a Markdown table there that puts the result beside published figures."""
    published: Literal["clevr", "clevrtex", "clevrtex-outd", "clevrtex-camo"] | None = None
    """Data set whose published figures the table holds; by default that of the run's preset."""
    protocol: Literal["astseg", "reference", "clevrtex", "genesis"] = "astseg"
    """How the figures are defined: docs/evaluation.md."""
    colour_std: float | None = None
    """By how much colours may be off by which pixels choose their layer too; 0: by the layer weights alone, as
    published; by default as the run has it."""
    proposals: bool | None = None
    """Whether slots take their places from regions that differ from the background; False: where the encoder looks, as
    published; by default as the run has it."""
    precision: Precision = "float32"
    """Of the backbone: bfloat16 takes less time where the device has units for it; auto: bfloat16 there."""
    batch_size: int = 64
    """Images at a time, at most."""

    def __post_init__(self) -> None:
        """Check what no configuration checks.

        Raises:
            UserError: Fewer than two paths, a run twice, or a noise below 0.
        """
        if self.colour_std is not None and not 0 <= self.colour_std < math.inf:
            raise UserError(f"--colour-std is {self.colour_std}, expected 0 (off) or more")
        if len(self.paths) < 2:
            raise UserError("evaluate wants a run folder (or several) and then the scenes: astseg evaluate RUN DATA")
        if len(set(self.runs)) < len(self.runs):
            raise UserError("a run is named twice: name each once, and the scenes last")

    @property
    def runs(self) -> tuple[Path, ...]:
        """The run folders."""
        return self.paths[:-1]

    @property
    def data(self) -> Path:
        """The scenes."""
        return self.paths[-1]


@dataclass(frozen=True)
class Health:
    """Tell without labels whether a run works, and in plain words what is wrong and what to try."""

    run: Positional[Path]
    """Run folder."""
    data: Positional[Path | None] = None
    """Pictures; by default some of those it learnt from."""
    split: str | None = None
    """Which of them, as for train."""


@dataclass(frozen=True)
class Report:
    """Write RUN/report.html: what a run learnt, curves, health, worst pictures; one file, for a browser or a phone."""

    run: Positional[Path]
    """Run folder."""
    data: Positional[Path | None] = None
    """Pictures; by default some of those it learnt from."""
    split: str | None = None
    """Which of them, as for train."""


@dataclass(frozen=True)
class Segment:
    """Masks for pictures and videos: label images, COCO json, CSV, overlays, backgrounds, each object cut out."""

    run: Positional[Path]
    """Run folder."""
    inputs: Annotated[Positional[tuple[Path, ...]], arg(metavar="INPUT [INPUT ...]")]
    """Images, folders of them, a pattern such as 'photos/*.jpg', videos, or scenes as for train."""
    out: Path
    """Folder for the results."""
    write: tuple[Literal["overlays", "backgrounds", "cutouts", "reconstructions", "layers"], ...] | None = None
    """What is written besides masks, coco.json and objects.csv; by default overlays, backgrounds and cutouts, of videos
    an overlay video. Layers are .npz: each object alone as RGBA, hidden parts included."""
    every: bool = False
    """Write all of that."""
    resize: Literal["crop", "letterbox", "squeeze"] | None = None
    """How images of other proportions fit in; by default letterbox if the run was trained so, else squeeze."""
    stride: int = 1
    """Videos: one frame of so many."""
    frames: int | None = None
    """Videos: at most so many frames of each."""
    precision: Precision = "float32"
    """Of the backbone: bfloat16 takes less time where the device has units for it, and changes few labels; auto:
    bfloat16 there."""
    batch_size: int = 32
    """Images at a time, at most."""

    def __post_init__(self) -> None:
        """Check what nothing else checks.

        Raises:
            UserError: No input.
        """
        if not self.inputs:
            raise UserError("segment wants a run folder and then what to segment: astseg segment RUN FOLDER --out DIR")


@dataclass(frozen=True)
class Export:
    """Hand masks over to CVAT, labelme or YOLO, as labels to mend or to train with."""

    segmented: Positional[Path]
    """What astseg segment made."""
    to: Literal["cvat", "labelme", "yolo"]
    """cvat: CVAT for images 1.1; labelme: a JSON a picture; yolo: segmentation labels, pictures and data.yaml."""
    out: Path | None = None
    """Folder for the files; by default one in SEGMENTED that is called after the format."""
    label: str = "object"
    """What the objects are called."""


@dataclass(frozen=True)
class ImportReference:
    """Take over the weights of the authors' program (a .pth file) as a run folder."""

    file: Positional[Path]
    """The .pth file."""
    out: Positional[Path]
    """Run folder to make."""
    preset: str = "clevrtex-ct"
    """What shapes do not tell: scale range, attention heads, and the image size where the file has no position map."""
    config: Path | None = None
    """YAML or JSON file with settings, laid over the preset."""
    background: Path | None = None
    """Another .pth file for the background's encoder and generator, if FILE has none."""


@dataclass(frozen=True)
class Presets:
    """List the presets, or every value of one with its source."""

    name: Positional[str | None] = None
    """Which one; without it, all of them are listed."""


@dataclass(frozen=True)
class Demo:
    """Make desk scenes, learn to find their objects, measure it on scenes never seen."""

    out: Path = Path("runs/demo")
    """Run folder."""
    family: Literal["desk", "rooms"] = "desk"
    """Which scenes."""
    scenes: int = 10_000
    """Scenes to learn from."""
    test_scenes: int = 500
    """Scenes to measure on."""
    seed: int = 0
    """Seed of scenes, weights, batches and dropout."""
    minutes: float | None = 6.0
    """Time limit of the training; on a slow machine the schedules shrink to fit."""
    steps: int | None = None
    """Steps of the objects."""

    def __post_init__(self) -> None:
        """Check what no configuration checks.

        Raises:
            UserError: A value outside its range.
        """
        _check_run(self.minutes, self.seed)
        for name, count in (("scenes", self.scenes), ("test_scenes", self.test_scenes)):
            if count < 1:
                raise UserError(f"{name} is {count}, expected at least 1")


@dataclass(frozen=True)
class CheckData:
    """Tell what a data set holds and everything that is wrong with it; exit with 2 if anything is."""

    data: Positional[Path]
    """A data set, as for train."""
    slots: int | None = None
    """Largest number of objects: labels above it are told; by default the paper's for its data sets."""
    pictures: bool = False
    """Draw a contact sheet of some scenes."""
    out: Path = Path("check-data.png")
    """Where the contact sheet goes."""
    camera: int | None = None
    """ShapeStacks: one camera alone."""
    stride: int = 1
    """Videos: one frame of so many."""
    frames: int | None = None
    """Videos: at most so many frames of each."""


@dataclass(frozen=True)
class Prepare(Taken):
    """Bring a data set into the form that trains fast: a cache of arrays. The same command goes on where it stopped."""

    data: Positional[Path]
    """A data set, as for train."""
    out: Positional[Path]
    """Folder to make."""
    size: tuple[int, int] | None = None
    """Height and width; by default the paper's for its data sets, else the pictures' own up to 128 128."""
    processes: int = 2
    """How many work at once; the result does not depend on it."""


Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Scenes, subcommand("scenes")]
    | Annotated[CheckData, subcommand("check-data")]
    | Annotated[Prepare, subcommand("prepare")]
    | Annotated[Fit, subcommand("resize")]
    | Annotated[Train, subcommand("train")]
    | Annotated[TrainBackground, subcommand("train-background")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Segment, subcommand("segment")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Health, subcommand("health")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Presets, subcommand("presets")]
    | Annotated[ImportReference, subcommand("import-reference")]
)


def parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments spell.

    Raises:
        UserError: An unknown preset, or a configuration file that is missing, broken or wrong.
        SystemExit: Any other mistake, told by the parser (2), or a request for help (0).
    """
    kinds = {"train": Train, "train-background": TrainBackground, "fit": Fit}
    if arguments and arguments[0] in kinds:
        kind = kinds[arguments[0]]
        file = _option(arguments, "--config")
        name = _option(arguments, "--preset") or DEFAULT_PRESET
        settings = usual_settings(name, None if file is None else Path(file))
        default = kind(data=tyro.MISSING, out=tyro.MISSING, settings=settings)
        command = tyro.cli(kind, prog=f"astseg {arguments[0]}", args=arguments[1:], default=default)
        if isinstance(command, Fit):
            return replace(command, given=_given(arguments, {} if file is None else read_settings(Path(file))))
        return command
    return tyro.cli(OmitArgPrefixes[Command], prog="astseg", args=arguments, description=_introduction())  # type: ignore


def usual_settings(name: str, file: Path | None) -> Config:
    """The settings of a preset with those of a file laid over it: what options are laid over in turn.

    Raises:
        UserError: An unknown preset, or a file that is missing, broken or wrong.
    """
    settings = preset(name)
    return settings if file is None else override(settings, read_settings(file))


def spelled_settings(settings: Config, usual: Config) -> list[str]:
    """The options that lead from one configuration to another, as :func:`parse` takes them."""
    words = []
    before = to_dict(usual)
    for part, values in to_dict(settings).items():
        for name, value in values.items():
            if value == before[part][name]:
                continue
            option = f"{part}.{name.replace('_', '-')}"
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--{part}.no-{name.replace('_', '-')}")
            else:
                words += [f"--{option}", *(str(one) for one in (value if isinstance(value, list) else [value]))]
    return words


def _check_run(minutes: float | None, seed: int) -> None:
    if minutes is not None and not 0 < minutes < math.inf:
        raise UserError(f"minutes is {minutes:g}, expected more than 0")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}, expected 0 to {2**32 - 1}")


def _introduction() -> str:
    """What ``astseg --help`` says first."""
    return (
        "Find, separate and redraw the objects in unlabelled images. Begin with: astseg fit FOLDER --out RUN,"
        " or, without pictures, astseg demo."
        f" Presets: {', '.join(PRESETS)}; what is in them: astseg presets."
    )


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of an option that decides the defaults of the others, before they are parsed."""
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def _given(arguments: Sequence[str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted names of the settings that arguments and a file of settings name, whatever their values."""
    usual = to_dict(Config())
    names = {f"{part}.{name}" for part, named in values.items() for name in named}
    for argument in arguments:
        part, _, name = argument.partition("=")[0].removeprefix("--").replace("-", "_").partition(".")
        if argument.startswith("--") and name and part in usual:
            names.add(f"{part}.{name if name in usual[part] else name.removeprefix('no_')}")
    return tuple(sorted(names))


def read_settings(file: Path) -> dict[str, Any]:
    """Settings from a YAML or JSON file.

    Raises:
        UserError: Missing, unreadable or not a table of names and values.
    """
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # a pipe or a device would be read for ever
            raise OSError(0, "it is no file")
        text = file.read_text()
    except OSError as error:
        raise UserError(f"'{file}' cannot be read ({error.strerror}): give a YAML or JSON file") from None
    except UnicodeDecodeError:
        raise UserError(f"'{file}' is no text: give a YAML or JSON file") from None
    import yaml

    try:
        values = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"'{file}' is broken: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            f"'{file}' holds {type(values).__name__}, expected names and values such as model: {{slots: 7}}"
        )
    return values
