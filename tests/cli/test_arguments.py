"""The command line: what it parses, what it refuses in one line, and the exit codes."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import astseg
from astseg.cli import arguments, main
from astseg.cli.arguments import COMMANDS, parse
from astseg.cli.settings import spelled_settings, usual_settings
from astseg.cli.train import spelled
from astseg.config import Config, to_dict
from astseg.config.presets import PRESETS, preset
from astseg.errors import UserError

TRAIN = "train data --out run"


def test_scenes_by_default() -> None:
    command = parse(["scenes", "here"])
    assert command == arguments.Scenes(out=Path("here"))
    assert (command.family, command.count, command.size, command.seed) == ("desk", 1000, 64, 0)


def test_train_by_default() -> None:
    command = parse(TRAIN.split())
    assert command == arguments.Train(data=Path("data"), out=Path("run"), settings=preset("small"))
    assert (command.seed, command.minutes, command.steps, command.split, command.crop) == (0, None, None, "all", None)


@pytest.mark.parametrize("name", ["train", "train-background"])
def test_every_training_command_takes_seed_minutes_and_steps(name: str) -> None:
    command = parse(f"{name} data --out run --seed 4 --minutes 2.5 --steps 70".split())
    assert isinstance(command, arguments.Train) == (name == "train")
    assert (command.seed, command.minutes, command.steps) == (4, 2.5, 70)


def test_the_demo_takes_them_too() -> None:
    command = parse(["demo", "--seed", "4", "--minutes", "2.5", "--steps", "70", "--out", "here"])
    assert command == arguments.Demo(out=Path("here"), seed=4, minutes=2.5, steps=70)
    assert parse(["demo"]) == arguments.Demo()
    assert parse(["demo", "--minutes", "None"]).minutes is None


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--split -50:", "split", "-50:"),
        ("--split -:3", "split", "-:3"),
        ("--split=-50:", "split", "-50:"),
        ("--tensorboard", "tensorboard", True),
        ("--tensorboard --no-tensorboard", "tensorboard", False),
        ("--minutes 1e1", "minutes", 10.0),
        ("--resize letterbox", "resize", "letterbox"),
        ("--camera 3", "camera", 3),
        ("--camera None", "camera", None),
    ],
)
def test_options(words: str, name: str, value: object) -> None:
    assert getattr(parse(f"{TRAIN} {words}".split()), name) == value


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--model.slots 4", "model.slots", 4),
        ("--model.image_size=48 64", None, "expected 2 arguments"),
        ("--model.image-size 48 64", "model.image_size", (48, 64)),
        ("--objects.betas 0.8 0.95", "objects.betas", (0.8, 0.95)),
        ("--model.isotropic", "model.isotropic", True),
        ("--objects.no-flip", "objects.flip", False),
        ("--objects.learning_rate 1e-4", "objects.learning_rate", 1e-4),
        ("--model.backbone-weights None", "model.backbone_weights", None),
    ],
)
def test_settings(words: str, name: str | None, value: object) -> None:
    if name is None:
        with pytest.raises(UserError, match=str(value)):
            parse(f"{TRAIN} {words}".split())
        return
    command = parse(f"fit data --out run {words}".split())
    part, setting = name.split(".")
    assert getattr(getattr(command.settings, part), setting) == value
    assert command.given == (name,)


def test_positionals_and_options_in_any_order() -> None:
    for words in ("evaluate a b data --split :9", "evaluate --split :9 a b data", "evaluate a --split :9 b data"):
        assert parse(words.split()) == arguments.Evaluate(runs=(Path("a"), Path("b")), data=Path("data"), split=":9")
    assert parse(["health", "run", "--split", ":9", "data"]) == arguments.Health(Path("run"), Path("data"), ":9")
    assert parse(["segment", "run", "--out", "masks", "a", "b", "--write", "overlays", "cutouts"]) == arguments.Segment(
        run=Path("run"), inputs=("a", "b"), out=Path("masks"), write=("overlays", "cutouts")
    )
    assert parse(["segment", "run", "a", "--out", "masks", "--write"]).write == ()
    assert parse(["evaluate", "run", "data", "--proposals", "False"]).proposals is False


@pytest.mark.parametrize("words", [["--preset", "shapestacks-bt"], ["--preset=shapestacks-bt"]])
def test_a_preset_is_the_default_of_all_settings(words: list[str]) -> None:
    command = parse(["train", "data", *words, "--out", "run", "--objects.batch", "3"])
    assert command.preset == "shapestacks-bt"
    expected = preset("shapestacks-bt")
    assert command.settings.model == expected.model
    assert command.settings.objects.scenario == "baseline"
    assert command.settings.objects.batch == 3


def test_files_are_laid_over_presets_and_options_over_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model:\n  slots: 4\n  image_size: 32\nobjects: {learning_rate: 1e-4, steps: 9}\n")
    command = parse(["fit", "data", "--out", "run", "--config", str(file), "--objects.steps", "8"])
    settings: Config = command.settings
    assert (settings.model.slots, settings.model.image_size) == (4, (32, 32))
    assert (settings.objects.learning_rate, settings.objects.steps) == (1e-4, 8)
    assert settings.background == preset("small").background
    assert command.config == file
    assert command.given == ("model.image_size", "model.slots", "objects.learning_rate", "objects.steps")
    file.with_suffix(".json").write_text('{"model": {"slots": 4, "image_size": [32, 32]}}')
    assert parse(["train", "data", "--out", "run", f"--config={file.with_suffix('.json')}"]).settings.model.slots == 4
    file.write_text("# nothing\n")
    assert parse(["train", "data", "--out", "run", "--config", str(file)]).settings == preset("small")


def test_a_setting_given_as_it_is_by_default_is_given() -> None:
    usual = preset("small")
    command = parse(f"fit data --out run --model.slots {usual.model.slots}".split())
    assert command.settings == usual
    assert command.given == ("model.slots",)
    assert parse(["fit", "data", "--out", "run"]).given == ()


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--preset clevr-ct --model.no-isotropic",
        "--model.slots 4 --model.image-size 48 64 --model.isotropic --objects.flip --objects.betas 0.8 0.95",
        "--preset clevrtex-ct --model.backbone-weights None --objects.eps 1e-7",
    ],
)
def test_settings_are_spelled_as_they_are_parsed(words: str) -> None:
    command = parse(["train", "data", "--out", "run", *words.split()])
    spelled = spelled_settings(command.settings, usual_settings(command.preset, None))
    again = parse(["train", "data", "--out", "run", "--preset", command.preset, *spelled])
    assert again.settings == command.settings
    assert bool(spelled) == bool(words)


# Help


def printed(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a request prints before it exits with 0."""
    with pytest.raises(SystemExit) as stop:
        main.run(words.split())
    assert stop.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_the_next_command_can_be_pasted_where_names_have_spaces() -> None:
    command = parse(["train-background", "my pictures", "--out", "my run", "--seed", "3"])
    assert isinstance(command, arguments.TrainBackground)
    assert shlex.split(spelled(command)) == ["my pictures", "--out", "my run", "--seed", "3"]


def test_a_made_folder_is_quoted_in_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my scenes"
    assert main.run(["scenes", str(out), "--count", "2"]) == 0
    printed = capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
    assert f"next: astseg train {shlex.quote(str(out))} --out runs/first" in printed


@pytest.mark.parametrize("file", sorted(Path(arguments.__file__).parent.glob("*.py")), ids=lambda file: file.name)
def test_no_command_is_suggested_with_a_path_that_is_not_quoted(file: Path) -> None:
    suggested = re.findall(r"astseg [a-z-]+ \{([^}]*)", file.read_text())
    assert all(re.match(r"(shlex\.)?quote\(|spelled\(", value) for value in suggested)


def test_help_lists_commands_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("--help", capsys)
    assert all(name in text for name in [*COMMANDS, *PRESETS])
    assert printed("-h", capsys) == text
    assert printed("--version", capsys) == f"astseg {astseg.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_on_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(f"{name} --help", capsys)
    assert f"usage: astseg {name} " in text
    kind = COMMANDS[name][0]
    for field in dataclasses.fields(kind):
        if "positional" in field.metadata:
            assert field.name.upper().removesuffix("S") in text
        elif "help" in field.metadata:
            assert f"--{field.name.replace('_', '-')}" in text
    if issubclass(kind, arguments.TrainBackground):
        for part, values in to_dict(preset("small")).items():
            for setting in values:
                assert f"--{part}.{setting}".replace("_", "-") in text
        assert "the largest number of objects in an image" in text  # the meaning of a setting
    assert "`" not in text


def test_parsing_loads_no_torch() -> None:
    program = (
        "import sys; from astseg.cli.main import run\n"
        "for words in ('--help', 'train --help', 'fit --help', 'presets', 'train data --out run --seed x'):\n"
        "    try: run(words.split())\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


# Mistakes and exit codes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no command: try astseg demo"),
        ("trian", "'trian' is not a command: did you mean 'train'?"),
        ("train", "the following arguments are required: --out"),
        ("train --out run", "the following arguments are required: DATA"),
        ("evaluate run", "the following arguments are required: DATA"),
        ("segment run --out masks", "the following arguments are required: INPUT"),
        (f"{TRAIN} more", "unrecognized arguments: more"),
        (f"{TRAIN} -x", "unrecognized arguments: -x"),
        (f"{TRAIN} --modle.slots 3", "unknown option --modle.slots: did you mean --model.slots?"),
        (f"{TRAIN} --model.slo 3", "unknown option --model.slo: did you mean --model.slots?"),
        (f"{TRAIN} --model.slots", "argument --model.slots: expected one argument"),
        (f"{TRAIN} --model.slots 2.5", "argument --model.slots: got '2.5', expected a whole number"),
        (f"{TRAIN} --seed 0.5", "argument --seed: got '0.5', expected a whole number"),
        (f"{TRAIN} --steps many", "argument --steps: got 'many', expected a whole number"),
        (f"{TRAIN} --resize stretch", "argument --resize: invalid choice: 'stretch'"),
        (f"{TRAIN} --fit crop", "--fit is now --resize"),
        ("segment run data --out masks --fit=squeeze", "--fit is now --resize"),
        ("evaluate run data --colour-noise 0", "--colour-noise is now --colour-std"),
        ("segment run data --out masks --write masks", "argument --write: invalid choice: 'masks'"),
        ("scenes here --family kitchen", "argument --family: invalid choice: 'kitchen'"),
        ("evaluate run data --protocol ours", "argument --protocol: invalid choice: 'ours'"),
        ("evaluate run data --proposals maybe", "argument --proposals: got 'maybe', expected True or False"),
    ],
)
def test_mistakes_are_reported_in_one_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(words.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"astseg: {message}")
    assert captured.err.endswith("--help)\n")
    assert captured.err.count("\n") == 1


def test_main_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["astseg", "train", "d", "--out", "r", "--steps", "3"])
    monkeypatch.setattr(main, "run", lambda words: len(words))
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 6


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such thing"), 2, "astseg: no such thing\n"),
        (MemoryError(), 2, "astseg: out of memory: take a smaller batch"),
        (FileNotFoundError(2, "No such file or directory", "a"), 2, "astseg: 'a': No such file or directory: check"),
        (KeyboardInterrupt(), 130, "astseg: stopped; the same command again goes on from here\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(command: object, action: str) -> int:
        raise error

    monkeypatch.setattr(main, "execute", fail)
    assert main.run(["demo"]) == code
    assert capsys.readouterr().err.startswith(line)


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: object, action: str) -> int:
        raise ValueError("ours")

    monkeypatch.setattr(main, "execute", fail)
    with pytest.raises(ValueError, match="ours"):
        main.run(["demo"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_function_that_runs_it(name: str) -> None:
    import pkgutil

    assert callable(pkgutil.resolve_name(COMMANDS[name][1]))


def test_paths_after_two_hyphens_are_left_as_they_are() -> None:
    command = parse(["segment", "run", "--out", "o", "--", "--my_dir"])
    assert command.inputs == ("--my_dir",)
