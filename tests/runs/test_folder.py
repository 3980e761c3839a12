"""The run folder: written whole or not at all, read strictly, refused where it is another run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from astseg.config import BackgroundConfig, Config, ObjectsConfig, to_dict
from astseg.errors import UserError
from astseg.model.astseg import AstSeg, build
from astseg.runs.atomic import write_json
from astseg.runs.folder import FORMAT, RunFolder, TrainingState, load_model
from astseg.runs.info import RunInfo
from tiny import PAPER_FORM

CONFIG = PAPER_FORM
INFO = RunInfo(preset="small", seed=7, fingerprint="abc", data="scenes")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def built(seed: int = 0) -> AstSeg:
    torch.manual_seed(seed)
    return build(CONFIG.model)


def linear(value: float) -> nn.Module:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(value)
    return layer


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# Weights and configuration


def test_what_is_saved_is_loaded(run: RunFolder) -> None:
    model = built()
    run.save_config(CONFIG, INFO)
    run.save_weights(model)
    loaded, config, info = load_model(run.path)
    assert (config, info) == (CONFIG, INFO)
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert run.load_config() == (CONFIG, INFO)
    assert {path.name for path in run.path.iterdir()} == {"config.json", "model.safetensors"}


def test_a_trained_model_needs_no_pretrained_weights(run: RunFolder) -> None:
    """They are in its own file; the hub may be out of reach, and the notice names them still."""
    config = replace(CONFIG, model=replace(CONFIG.model, backbone_weights="nvidia/mit-b0"))
    run.save_config(config, INFO)
    run.save_weights(built())
    _, loaded, _ = load_model(run.path)
    assert loaded.model.backbone_weights == "nvidia/mit-b0"


def test_loading_what_is_not_there(tmp_path: Path, run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"'.*nothing' is not there, expected a run folder made by 'astseg train'"):
        load_model(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"'.*' has no config.json, expected a run folder"):
        load_model(tmp_path)
    run.save_config(CONFIG, INFO)
    with pytest.raises(UserError, match=r"'.*run' has no model.safetensors: its training has not saved any weights"):
        load_model(run.path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"'.*file' is a file, expected a run folder"):
        RunFolder(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config.json' is broken"),
        ("[1, 2]", r"config.json' is broken"),
        ('"text"', r"config.json' is broken"),
        ('{"model": {}}', r"config.json' is broken"),
        ('{"model": {"slotz": 3}, "background": {}, "objects": {}}', r"'model.slotz' is not a setting: .* 'slots'"),
        ('{"model": 3, "background": {}, "objects": {}}', r"model is 3, expected names and values"),
        (b"\xff\xfe", r"config.json' is broken"),
        ('{"format": 0}', r"config.json' is broken \(format is 0, expected a whole number from 1\): restore it"),
        ('{"format": 1.5}', r"\(format is 1.5, expected a whole number from 1\)"),
        ('{"format": true}', r"\(format is True, expected a whole number from 1\)"),
        ('{"format": "1"}', r"\(format is '1', expected a whole number from 1\)"),
        ('{"format": 9}', r"config.json' is of a later format than 2: install a newer astseg"),
    ],
)
def test_a_broken_configuration(run: RunFolder, text: str | bytes, message: str) -> None:
    run.path.mkdir()
    (run.path / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError, match=message) as error:
        run.load_config()
    one_line(error)


def test_settings_that_a_configuration_lacks_have_their_defaults(run: RunFolder) -> None:
    run.save_config(CONFIG, INFO)
    values = json.loads((run.path / "config.json").read_text())
    del values["augment"], values["inference"], values["run"]["camera"]
    (run.path / "config.json").write_text(json.dumps(values))
    assert run.load_config() == (CONFIG, INFO)


def test_a_locked_folder_is_not_locked_again(run: RunFolder) -> None:
    with run.lock():
        assert (run.path / ".lock").exists()
        with pytest.raises(UserError, match=r"run' is being trained by process"):
            run.lock().__enter__()


def test_by_default_a_broken_state_is_a_warning(run: RunFolder) -> None:
    for step in (1, 2):
        run.save_state(TrainingState("joint", step, 1.0, 2.0, 7), linear(0), None)
    (run.path / "training_state" / "model.safetensors").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"is broken \(.*\): going on from the state before it"):
        assert RunFolder(run.path).load_state() == TrainingState("joint", 1, 1.0, 2.0, 7)


def test_broken_and_other_weights(run: RunFolder) -> None:
    run.save_config(CONFIG, INFO)
    file = run.path / "model.safetensors"
    run.save_weights(built())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model.safetensors' is broken \(.*\): restore it or train again") as error:
        load_model(run.path)
    one_line(error)
    run.save_weights(built())
    run.save_weights(nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"does not fit the model that config.json describes: .*[Mm]issing") as error:
        load_model(run.path)
    assert len(one_line(error)) < 500
    run.save_weights(build(replace(CONFIG.model, slots=4)))
    with pytest.raises(UserError, match=r"does not fit the model that config.json describes: .*size mismatch"):
        load_model(run.path)


def test_json_is_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "down" / "a.json"
    write_json(file, {"a": [1, 2]})
    assert file.read_text() == '{\n  "a": [\n    1,\n    2\n  ]\n}\n'  # a person reads it too
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": [1, 2]}
    with pytest.raises(UserError, match=r"'.*a.json/b.json' cannot be written"):
        write_json(file / "b.json", {})
    with pytest.raises(UserError, match=r"'.*down' cannot be written"):
        write_json(file.parent, {})
    assert [path.name for path in file.parent.iterdir()] == ["a.json"]


# Beginning and going on


def test_begin_writes_once(run: RunFolder) -> None:
    assert not run.is_begun
    assert run.begin(CONFIG, INFO) == CONFIG
    assert run.is_begun
    assert json.loads((run.path / "config.json").read_text()) == {
        "format": FORMAT,
        "run": INFO.to_dict(),
        **to_dict(CONFIG),
    }
    assert run.begin(CONFIG, INFO) == CONFIG


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (CONFIG, {"seed": 8}, r"differs in seed \(7, now 8\): choose another folder"),
        (CONFIG, {"fingerprint": "abd"}, r"differs in fingerprint \(abc, now abd\)"),
        (replace(CONFIG, model=replace(CONFIG.model, slots=4)), {}, r"differs in model.slots \(3, now 4\)"),
        (replace(CONFIG, background=BackgroundConfig(batch=3)), {}, r"differs in background.batch \(128, now 3\)"),
        (replace(CONFIG, objects=ObjectsConfig(steps=9, eps=1e-8)), {"seed": 0}, r"seed .*, objects.steps .*, objects"),
    ],
)
@pytest.mark.parametrize("step", [None, 3])
def test_another_run_is_refused(
    run: RunFolder, config: Config, changes: dict[str, Any], message: str, step: int | None
) -> None:
    run.begin(CONFIG, INFO)
    if step is not None:
        run.save_state(TrainingState("objects", step, 1.0, 2.0, 7), linear(0), None)
    before = (run.path / "config.json").read_bytes()
    with pytest.raises(UserError, match=message) as error:
        run.begin(config, replace(INFO, **changes))
    one_line(error)
    assert (run.path / "config.json").read_bytes() == before


def test_between_the_phases_the_objects_may_be_planned_anew(run: RunFolder) -> None:
    background = BackgroundConfig(steps=50)
    run.begin(replace(CONFIG, background=background), INFO)
    run.save_state(TrainingState("objects", 0, 0.0, 2.0, 7), linear(0), None)
    objects = ObjectsConfig(steps=9)
    config = run.begin(replace(CONFIG, objects=objects), INFO)
    assert config == replace(CONFIG, background=background, objects=objects)
    assert run.load_config() == (config, INFO)
    with pytest.raises(UserError, match=r"differs in model.slots"):
        run.begin(replace(CONFIG, model=replace(CONFIG.model, slots=4)), INFO)


def test_how_fast_a_step_is_may_change(run: RunFolder) -> None:
    run.begin(CONFIG, INFO)
    run.save_state(TrainingState("objects", 3, 1.0, 2.0, 7), linear(0), None)
    slower = replace(
        CONFIG,
        background=replace(CONFIG.background, cuda_graphs=False),
        objects=replace(CONFIG.objects, cuda_graphs=False),
    )
    assert run.begin(slower, INFO) == slower
    assert run.load_config()[0] == slower


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match=r"is not empty and holds no run: choose another folder"):
        RunFolder(tmp_path).begin(CONFIG, INFO)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_folder_of_scenes_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    run = RunFolder(tmp_path)
    assert run.begin(CONFIG, INFO) == CONFIG
    assert run.is_begun


@pytest.mark.parametrize("left", [".lock", "config.json.part"])
def test_what_a_run_leaves_that_was_killed_as_it_began_is_no_obstacle(tmp_path: Path, left: str) -> None:
    (tmp_path / left).touch()
    run = RunFolder(tmp_path)
    run.begin(CONFIG, INFO)
    assert run.load_config() == (CONFIG, INFO)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written"):
        RunFolder(tmp_path / "file" / "run").begin(CONFIG, INFO)


# Log


def test_the_log_and_the_panels_have_their_places(run: RunFolder) -> None:
    assert (run.log_path, run.panels) == (run.path / "log.jsonl", run.path / "panels")


def test_the_log_is_cut_back_to_the_state(run: RunFolder) -> None:
    run.path.mkdir()
    entries = [("background", 5), ("background", 9), ("objects", 5), ("objects", 10), ("joint", 15)]
    lines = [json.dumps({"phase": phase, "step": step}) + "\n" for phase, step in entries]
    for phase, step, kept in [
        ("done", 15, 5),
        ("joint", 15, 5),
        ("joint", 14, 4),
        ("objects", 9, 3),
        ("objects", 0, 2),
        ("background", 5, 1),
        ("background", 0, 0),
    ]:
        run.log_path.write_text("".join(lines) + '{"phase": "joi')
        run.trim_log(phase, step)
        assert run.log_path.read_text() == "".join(lines[:kept])
    assert [path.name for path in run.path.iterdir()] == ["log.jsonl"]


def test_steps_with_pseudo_labels_after_the_background_s_state_are_cut_from_the_log(run: RunFolder) -> None:
    """The state between the two loops is called objects, step 0; the first steps after it may be of pseudo_labels."""
    steps = [("background", step) for step in (5, 6)] + [("pseudo_labels", step) for step in (1, 2)]
    steps += [("objects", 3), ("joint", 4)]
    lines = [json.dumps({"phase": phase, "step": step}) + "\n" for phase, step in steps]
    run.path.mkdir()
    cases = [("joint", 4, 6), ("done", 4, 6), ("objects", 3, 5), ("pseudo_labels", 2, 4), ("objects", 0, 2)]
    for phase, step, kept in cases:
        run.log_path.write_text("".join(lines))
        run.trim_log(phase, step)
        assert run.log_path.read_text() == "".join(lines[:kept])


def test_a_broken_line_of_the_log_is_dropped_alone(run: RunFolder) -> None:
    run.path.mkdir()
    before, after = b'{"phase": "joint", "step": 1}\n', b'{"phase": "joint", "step": 2}\n'
    run.log_path.write_bytes(before + b'{"phase": "\xff\n' + b"[]\n" + b'{"phase": "lunch", "step": 1}\n' + after)
    run.trim_log("joint", 2)
    assert run.log_path.read_bytes() == before + after


def test_no_state_is_saved_before_its_log_is_on_the_disk(run: RunFolder, read_only: Any) -> None:
    run.path.mkdir()
    run.log_path.write_text("{}\n")
    with (
        read_only(run.log_path, 0),
        pytest.raises(UserError, match=r"log.jsonl' cannot be written \(Permission denied\): choose another"),
    ):
        run.save_state(TrainingState("joint", 1, 1.0, 2.0, 7), linear(0), None)
    assert run.load_state() is None


def test_begin_cuts_the_log(run: RunFolder) -> None:
    def log(*steps: int) -> str:
        return "".join(json.dumps({"phase": "background", "step": step}) + "\n" for step in steps)

    run.begin(CONFIG, INFO)
    run.log_path.write_text(log(0, 1, 2, 3))
    run.save_state(TrainingState("background", 2, 1.0, 0.0, 7), linear(0), None)
    run.begin(CONFIG, INFO)
    assert run.log_path.read_text() == log(0, 1, 2)
    shutil.rmtree(run.path / "training_state")
    run.begin(CONFIG, INFO)  # there is no state: the run starts again
    assert run.log_path.read_text() == log(0)


def test_begin_removes_what_a_killed_save_left(run: RunFolder) -> None:
    run.begin(CONFIG, INFO)
    run.save_state(TrainingState("done", 2, 1.0, 0.0, 7), linear(0), None)
    left = run.path / "training_state.part"
    shutil.copytree(run.path / "training_state", left)
    run.panels.mkdir()
    files = [run.path / "README.md.part", run.panels / "joint_000002.png.part"]
    for file in files:
        file.write_text("half")
    run.begin(CONFIG, INFO)  # nothing is left to do, so nothing is saved that would remove them
    assert not any(path.exists() for path in (left, *files))
    assert run.states.load() == TrainingState("done", 2, 1.0, 0.0, 7)
