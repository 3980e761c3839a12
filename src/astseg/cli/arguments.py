"""What the commands take: a dataclass for each. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from astseg import __version__
from astseg.cli.parser import Parser, option, positional, required
from astseg.cli.serving import Serve
from astseg.cli.settings import chosen_settings, spelled_settings, usual_settings
from astseg.config import Config, nearest
from astseg.config.presets import PRESETS, preset
from astseg.errors import UserError

if TYPE_CHECKING:
    from astseg.data import Reading

__all__ = [
    "COMMANDS",
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
    "Selection",
    "Serve",
    "Train",
    "TrainBackground",
    "parse",
    "spelled_settings",
    "usual_settings",
]

DEFAULT_PRESET = "small"

Precision: TypeAlias = Literal["float32", "bfloat16", "auto"]
PRECISION = "Of the backbone; bfloat16 changes few labels; auto: bfloat16 where the device is faster in it."

Published: TypeAlias = Literal["clevr", "clevrtex", "clevrtex-outd", "clevrtex-camo", "objects-room", "shapestacks"]
Family: TypeAlias = Literal["desk", "rooms"]
ResizeMode: TypeAlias = Literal["crop", "letterbox", "squeeze"]


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What is read of a source."""

    camera: int | None = option(None, "ShapeStacks: one camera alone.")
    stride: int = option(1, "Videos: one frame of so many.")
    frames: int | None = option(None, "Videos: at most so many frames of each.")

    @property
    def reading(self) -> Reading:
        """What is read. Raises UserError for a value outside its range."""
        from astseg.data import Reading  # loads numpy, for which --help should not wait

        return Reading(self.camera, self.stride, self.frames)


@dataclass(frozen=True, kw_only=True)
class Selection(ReadingOptions):
    """Which scenes of a source are taken, and how they come to the size of the model."""

    split: str = option("all", "Which scenes: all, train, val, test, or a slice such as :-50.")
    crop: float | None = option(
        None, "Share of the short side. Default: as the data set declares (evaluate: as in training)."
    )
    resize: ResizeMode | None = option(None, "Of other proportions. Default: crop (evaluate, segment: as in training).")


@dataclass(frozen=True)
class Scenes:
    """Make scenes with exact masks, in the CLEVRTEX layout."""

    out: Path = positional("Folder to make.")
    family: Family = option("desk", "desk: one background, changing light; rooms: a new room in every image.")
    count: int = option(1000, "Number of scenes.")
    size: int = option(64, "Side in pixels.")
    seed: int = option(0, "The same seed gives the same scenes.")
    processes: int = option(2, "Number of worker processes; the result does not depend on it.")


@dataclass(frozen=True)
class TrainBackground(Selection):
    """Learn the background alone: phase 1 of the curriculum. Goes on where the run folder stands."""

    data: Path = positional(
        "Scenes: a data set, a cache, a folder of images or a video; docs/datasets.md lists what is recognised."
    )
    out: Path = required("Run folder.")
    preset: str = option(DEFAULT_PRESET, "Named settings; astseg presets lists them.")
    config: Path | None = option(None, "YAML or JSON file with settings, laid over the preset.")
    seed: int = option(0, "Seed of weights, batches and dropout.")
    minutes: float | None = option(None, "Time limit.")
    steps: int | None = option(None, "Steps of the phase; for train and fit those of the objects.")
    tensorboard: bool = option(False, "Write RUN/tensorboard as well.")
    settings: Config = field(default_factory=Config)

    def __post_init__(self) -> None:
        """Raise UserError for a value outside its range."""
        _check_run(self.minutes, self.seed)


@dataclass(frozen=True)
class Train(TrainBackground):
    """Learn background and objects: the whole curriculum. Goes on where the run folder stands."""


@dataclass(frozen=True)
class Fit(Train):
    """From images to masks: survey them, choose settings, train, report whether it worked. The same command goes on.

    A setting that is given is kept. The others are chosen for the images, whatever default stands beside them.
    """

    dry_run: bool = option(False, "Print the plan alone.")
    empty: Path | None = option(None, "Pictures of the same place without objects: the background is theirs.")
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UserError for a value outside its range, or another preset."""
        super().__post_init__()
        if self.preset != DEFAULT_PRESET:
            raise UserError(f"fit chooses the settings itself: for the preset '{self.preset}' use astseg train")


@dataclass(frozen=True)
class Evaluate(Selection):
    """Metrics of one run or several on scenes with masks; of several, mean and standard deviation."""

    runs: tuple[Path, ...] = positional("Run folders.")
    data: Path = positional("Scenes, as for train; what is read of them is chosen here, however the run was trained.")
    json: Path | None = option(None, "Write the metrics there too, besides RUN/metrics.json.")
    csv: Path | None = option(None, "Write the metrics of each image there too, besides RUN/per_image.csv.")
    table: Path | None = option(None, "Write a Markdown table there that puts the result beside published results.")
    published: Published | None = option(
        None, "Data set whose published results the table holds. Default: that of the run's preset."
    )
    protocol: Literal["astseg", "reference", "clevrtex", "genesis"] = option(
        "astseg", "How the metrics are defined: docs/evaluation.md."
    )
    colour_std: float | None = option(
        None,
        "Standard deviation of the colour likelihood used to assign pixels to layers. 0 uses the layer weights only"
        " (the paper). Default: the run's setting.",
    )
    proposals: bool | None = option(
        None,
        "Place slots at foreground components found by background subtraction; False: where the encoder's attention is"
        " (the paper). Default: the run's setting.",
    )
    precision: Precision = option("float32", PRECISION)
    batch_size: int = option(64, "Images a forward pass, at most.")

    def __post_init__(self) -> None:
        """Raise UserError for a run named twice, or a standard deviation below 0."""
        if self.colour_std is not None and not 0 <= self.colour_std < math.inf:
            raise UserError(f"--colour-std is {self.colour_std}, expected 0 (off) or more")
        if len(set(self.runs)) < len(self.runs):
            raise UserError("a run is named twice: name each once, and the scenes last")


@dataclass(frozen=True)
class Health:
    """Judge without labels whether a run works, and say in plain words what is wrong and what to try."""

    run: Path = positional("Run folder.")
    data: Path | None = positional(
        "Images. Default: some of those it was trained on, read and resized as they were then.",
        default=None,
    )
    split: str | None = option(None, "Which of them, as for train.")


@dataclass(frozen=True)
class Report(Health):
    """Write RUN/report.html: what a run learnt, curves, health, worst images; one file, for a browser or a phone."""


@dataclass(frozen=True)
class Segment(ReadingOptions):
    """Masks for images and videos: label images, COCO json, CSV, overlays, backgrounds, each object cut out."""

    run: Path = positional("Run folder.")
    inputs: tuple[str, ...] = positional(
        "Images, folders of them, a pattern such as 'photos/*.jpg', videos, scenes as for train; or a camera or stream:"
        " /dev/video0, rtsp://..., http://..."
    )
    out: Path = required("Folder for the results.")
    watch: bool = option(False, "Wait for pictures that appear in the folder, and segment each, until Ctrl-C.")
    write: tuple[Literal["overlays", "backgrounds", "cutouts", "reconstructions", "layers"], ...] | None = option(
        None,
        "What is written besides masks, coco.json and objects.csv; --write alone: nothing. Default: overlays,"
        " backgrounds and cutouts, of videos an overlay video. Layers are .npz: each object as RGBA, hidden parts too.",
    )
    every: bool = option(False, "Write all of that.")
    resize: ResizeMode | None = option(None, "How images of other proportions fit in. Default: as in training.")
    precision: Precision = option("float32", PRECISION)
    batch_size: int = option(32, "Images a forward pass, at most.")


@dataclass(frozen=True)
class Export:
    """Hand masks over to CVAT, labelme, YOLO, COCO readers or QuPath, as labels to correct or to train with."""

    segmented: Path = positional("What astseg segment made.")
    to: Literal["cvat", "labelme", "yolo", "coco", "geojson"] = required(
        "cvat: CVAT for images 1.1; labelme: a JSON an image; yolo: segmentation labels, images and data.yaml;"
        " coco: one JSON with polygons; geojson: a file an image, for QuPath."
    )
    out: Path | None = option(None, "Folder for the files. Default: one in SEGMENTED that is called after the format.")
    label: str = option("object", "What the objects are called.")


@dataclass(frozen=True)
class ImportReference:
    """Take over the weights of the authors' program (a .pth file) as a run folder."""

    file: Path = positional("The .pth file.")
    out: Path = positional("Run folder to make.")
    preset: str = option(
        "clevrtex-ct", "What shapes do not show: scale range, attention heads, image size if none is stored."
    )
    config: Path | None = option(None, "YAML or JSON file with settings, laid over the preset.")
    background: Path | None = option(None, "A .pth file with the background's encoder and generator, if FILE has none.")


@dataclass(frozen=True)
class Presets:
    """List the presets, or every value of one with its source."""

    name: str | None = positional("Which one. Default: all of them are listed.", default=None)


@dataclass(frozen=True)
class Demo:
    """Make desk scenes, learn to find their objects, evaluate on scenes never seen."""

    out: Path = option(Path("runs/demo"), "Run folder.")
    family: Family = option("desk", "Which scenes.")
    scenes: int = option(10_000, "Number of training scenes.")
    test_scenes: int = option(500, "Number of test scenes.")
    seed: int = option(0, "Seed of scenes, weights, batches and dropout.")
    minutes: float | None = option(6.0, "Time limit; on a slow machine the schedules shrink to fit. None: no limit.")
    steps: int | None = option(None, "Steps of the objects.")

    def __post_init__(self) -> None:
        """Raise UserError for a value outside its range."""
        _check_run(self.minutes, self.seed)
        for name, count in (("scenes", self.scenes), ("test_scenes", self.test_scenes)):
            if count < 1:
                raise UserError(f"{name} is {count}, expected at least 1")


@dataclass(frozen=True)
class CheckData(ReadingOptions):
    """Describe a data set and list everything that is wrong with it; exit with 2 if anything is."""

    data: Path = positional("A data set, as for train.")
    slots: int | None = option(None, "Report labels above it. Default: as in the paper for its data sets.")
    pictures: bool = option(False, "Draw a contact sheet of some scenes.")
    out: Path = option(Path("check-data.png"), "Where the contact sheet goes.")


@dataclass(frozen=True)
class Prepare(Selection):
    """Bring a data set into the form that trains fast: a cache of arrays. The same command goes on where it stopped."""

    data: Path = positional("A data set, as for train.")
    out: Path = positional("Folder to make.")
    size: tuple[int, int] | None = option(None, "H W. Default: the paper's for its data sets, else up to 128 128.")
    processes: int = option(2, "Number of worker processes; the result does not depend on it.")


COMMANDS: dict[str, tuple[type, str]] = {
    "demo": (Demo, "astseg.cli.demo:demo"),
    "scenes": (Scenes, "astseg.cli.scenes:make_scenes"),
    "check-data": (CheckData, "astseg.cli.data:check_data"),
    "prepare": (Prepare, "astseg.cli.data:prepare_data"),
    "fit": (Fit, "astseg.cli.fit:run_fit"),
    "train": (Train, "astseg.cli.train:train_run"),
    "train-background": (TrainBackground, "astseg.cli.train:train_run"),
    "evaluate": (Evaluate, "astseg.cli.evaluate:evaluate_run"),
    "segment": (Segment, "astseg.cli.segment:segment_input"),
    "export": (Export, "astseg.cli.segment:export_labels"),
    "serve": (Serve, "astseg.cli.serve:serve_run"),
    "health": (Health, "astseg.cli.report:health_run"),
    "report": (Report, "astseg.cli.report:report_run"),
    "presets": (Presets, "astseg.cli.presets:show_presets"),
    "import-reference": (ImportReference, "astseg.cli.import_reference:import_weights"),
}
"""The arguments of each command, and the function that runs it: (arguments, console) -> exit code."""


def parse(words: Sequence[str]) -> Any:
    """The command that words spell.

    Raises:
        UserError: A mistake in them, an unknown preset, or a configuration file that is missing, broken or wrong.
        SystemExit: A request for help or for the version, which has been printed.
    """
    name = words[0] if words else ""
    if name in ("-h", "--help", "--version"):
        print(f"astseg {__version__}" if name == "--version" else _introduction())
        raise SystemExit(0)
    if name not in COMMANDS:
        wrong = f"'{name}' is not a command: {nearest(name, COMMANDS)}" if name else "no command: try astseg demo"
        raise UserError(f"{wrong} (help: astseg --help)")
    kind = COMMANDS[name][0]
    values = Parser(kind, prog=f"astseg {name}", nested=preset(DEFAULT_PRESET)).values(words[1:])
    if issubclass(kind, TrainBackground):
        options = {dotted: values.pop(dotted) for dotted in list(values) if "." in dotted}
        chosen = chosen_settings(values.get("preset", DEFAULT_PRESET), values.get("config"), options)
        values["settings"], given = chosen
        if issubclass(kind, Fit):
            values["given"] = given
    return kind(**values)


def _check_run(minutes: float | None, seed: int) -> None:
    if minutes is not None and not 0 < minutes < math.inf:
        raise UserError(f"minutes is {minutes:g}, expected more than 0")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}, expected 0 to {2**32 - 1}")


def _introduction() -> str:
    """What ``astseg --help`` prints."""
    summaries = {name: (kind.__doc__ or "").partition("\n")[0] for name, (kind, _) in COMMANDS.items()}
    return "\n".join(
        [
            "usage: astseg COMMAND ...",
            "",
            "Find, separate and redraw the objects in unlabelled images. Begin with: astseg fit FOLDER --out RUN,",
            "or, without images, astseg demo.",
            "",
            *(f"  {name:<17} {summary}" for name, summary in summaries.items()),
            "",
            f"presets: {', '.join(PRESETS)}; what is in them: astseg presets",
            "options of a command: astseg COMMAND --help; the version: astseg --version",
        ]
    )
