"""The states of a run: whole at any moment, checked when read, the one before in reserve."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from astseg.errors import UserError
from astseg.runs import states
from astseg.runs.atomic import BrokenFileError, read, write_json
from astseg.runs.folder import RunFolder
from astseg.runs.states import MANIFEST, MOMENTS, WEIGHTS, TrainingState
from astseg.runs.tensors import load_tensors


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path: Path, told: list[str]) -> RunFolder:
    return RunFolder(tmp_path / "run", tell=told.append)


def linear(value: float) -> nn.Module:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(value)
    return layer


def state_at(step: int) -> TrainingState:
    return TrainingState("joint", step, 0.5, 2.25, 7)


def saved(run: RunFolder, *steps: int) -> None:
    """States whose weights are all equal to their step."""
    for step in steps:
        model = linear(float(step))
        run.save_state(state_at(step), model, torch.optim.Adam(model.parameters()))


def restored(run: RunFolder) -> float:
    model = linear(-1.0)
    run.restore(model)
    values = {value for parameter in model.parameters() for value in parameter.flatten().tolist()}
    (value,) = values
    return value


def again(run: RunFolder, told: list[str]) -> RunFolder:
    """As another process sees it."""
    return RunFolder(run.path, tell=told.append)


def test_state_there_and_back(run: RunFolder) -> None:
    assert run.load_state() is None
    state = TrainingState("joint", 12, 3.25, 1.5, 7)
    run.save_state(state, linear(2.0), None)
    assert run.load_state() == state
    assert restored(run) == 2
    assert [path.name for path in run.path.iterdir()] == ["training_state"]


def test_the_manifest_says_what_lies_beside_it(run: RunFolder) -> None:
    saved(run, 5)
    folder = run.path / "training_state"
    manifest = json.loads((folder / MANIFEST).read_text())
    assert {key: manifest[key] for key in ("phase", "step", "seconds", "background_seconds", "seed")} == {
        "phase": "joint",
        "step": 5,
        "seconds": 0.5,
        "background_seconds": 2.25,
        "seed": 7,
    }
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (WEIGHTS, MOMENTS)}
    assert manifest["files"] == files
    assert {path.name for path in folder.iterdir()} == {MANIFEST, WEIGHTS}.union(
        {MOMENTS} if (folder / MOMENTS).exists() else set()
    )


def test_moments_lie_as_their_parameters_do(run: RunFolder) -> None:
    """A fused step takes all tensors in the order of memory: other strides would swap moments among weights."""

    def model_and_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        convolution: nn.Module = nn.Conv2d(3, 4, (3, 2))
        convolution = convolution.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return convolution, torch.optim.Adam(convolution.parameters(), lr=0.1, fused=True)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        optimizer.zero_grad()
        loss: Tensor = model(torch.randn(2, 3, 8, 7)).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    model, optimizer = model_and_optimizer()
    step(model, optimizer, 2)
    run.save_state(TrainingState("joint", 1, 0.0, 0.0, 0), model, optimizer)
    step(model, optimizer, 3)
    other, restored = model_and_optimizer()
    run.restore(other, restored)
    (weight, _) = other.parameters()
    assert restored.state[weight]["exp_avg"].stride() == weight.stride()
    step(other, restored, 3)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


# Two are kept


def test_the_last_two_are_kept(run: RunFolder, told: list[str]) -> None:
    saved(run, 1, 2, 3)
    assert {path.name for path in run.path.iterdir()} == {"training_state", "training_state.before"}
    assert (run.load_state(), restored(run)) == (state_at(3), 3)
    shutil.rmtree(run.path / "training_state")
    assert (run.load_state(), restored(run)) == (state_at(2), 2)
    assert told == []  # a rename that was cut off is no damage


def change(values: dict[str, Any], **others: Any) -> bytes:
    return json.dumps({**values, **others}).encode()


def without(values: dict[str, Any], name: str) -> bytes:
    return json.dumps({key: value for key, value in values.items() if key != name}).encode()


DAMAGES = {
    "truncated weights": (WEIGHTS, lambda data: data[:-5]),
    "flipped weights": (WEIGHTS, lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]),
    "flipped header": (WEIGHTS, lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:]),
    "empty weights": (WEIGHTS, lambda data: b""),
    "no weights": (WEIGHTS, None),
    "truncated moments": (MOMENTS, lambda data: data[:-1]),
    "no moments": (MOMENTS, None),
    "half a manifest": (MANIFEST, lambda data: data[:40]),
    "no manifest": (MANIFEST, None),
    "list": (MANIFEST, lambda data: b"[]"),
    "an unknown phase": (MANIFEST, lambda data: change(json.loads(data), phase="lunch")),
    "half a step": (MANIFEST, lambda data: change(json.loads(data), step=1.5)),
    "no seed": (MANIFEST, lambda data: without(json.loads(data), "seed")),
    "no files": (MANIFEST, lambda data: change(json.loads(data), files={})),
    "no text": (MANIFEST, lambda data: b"\xff\xfe"),
    "nested": (MANIFEST, lambda data: b"[" * 100_000),
}


def with_moments(run: RunFolder, step: int) -> None:
    model = linear(float(step))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    run.save_state(state_at(step), model, optimizer)


def damage(folder: Path, kind: str) -> None:
    name, edit = DAMAGES[kind]
    file = folder / name
    file.unlink() if edit is None else file.write_bytes(edit(file.read_bytes()))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_state_is_noticed_and_the_one_before_is_used(run: RunFolder, told: list[str], kind: str) -> None:
    with_moments(run, 1)
    with_moments(run, 2)
    damage(run.path / "training_state", kind)
    later = again(run, told)
    assert later.load_state() == state_at(1)
    assert later.load_state() == state_at(1)
    assert restored(later) == 1
    (line,) = told  # once, not at every look
    assert "\n" not in line
    assert str(run.path / "training_state") + os.sep in line
    assert line.endswith("going on from the state before it, phase 'joint', step 1")
    with_moments(later, 3)
    assert again(run, told).load_state() == state_at(3)
    shutil.rmtree(run.path / "training_state")
    assert again(run, told).load_state() == state_at(1)  # the damaged one did not take its place


@pytest.mark.parametrize("kind", DAMAGES)
def test_states_that_are_all_damaged(run: RunFolder, told: list[str], kind: str) -> None:
    with_moments(run, 1)
    damage(run.path / "training_state", kind)
    with pytest.raises(
        UserError, match=r"(is broken \(.*\)|is not there): remove .*training_state to start afresh"
    ) as e:
        again(run, told).load_state()
    assert "\n" not in str(e.value)
    shutil.rmtree(run.path / "training_state")
    with_moments(run, 1)
    with_moments(run, 2)
    for folder in ("training_state", "training_state.before"):
        damage(run.path / folder, kind)
    with pytest.raises(UserError, match=r"remove .*training_state and .*training_state.before to start afresh"):
        again(run, told).load_state()
    assert told == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated weights", r"model.safetensors' is broken \(truncated or changed after it was written\)"),
        ("no moments", r"optimizer.safetensors' is not there"),
        ("half a manifest", r"state.json' is broken \((Expecting|Unterminated) [\w ']+: line \d.*\)"),
        ("no files", r"state.json' is broken \(changed after it was written\)"),
    ],
)
def test_a_damage_is_named(run: RunFolder, kind: str, reason: str) -> None:
    with_moments(run, 1)
    damage(run.path / "training_state", kind)
    with pytest.raises(UserError, match=rf"{reason}: remove"):
        RunFolder(run.path).load_state()


@pytest.mark.parametrize("edit", [{"step": 3}, {"seed": 5}, {"sha256": "0" * 64}])
def test_an_edited_manifest_is_refused(run: RunFolder, edit: dict[str, Any]) -> None:
    with_moments(run, 1)
    manifest = run.path / "training_state" / MANIFEST
    manifest.write_bytes(change(json.loads(manifest.read_bytes()), **edit))
    with pytest.raises(UserError, match=r"state.json' is broken \(changed after it was written\)"):
        RunFolder(run.path).load_state()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), name=st.sampled_from([WEIGHTS, MOMENTS]))
def test_any_flipped_bit_is_noticed(tmp_path_factory: Any, place: float, bit: int, name: str) -> None:
    run = RunFolder(tmp_path_factory.mktemp("flip") / "run", tell=lambda line: None)
    with_moments(run, 1)
    file = run.path / "training_state" / name
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match=rf"{name}' is broken"):
        RunFolder(run.path).load_state()


@pytest.mark.parametrize("name", [WEIGHTS, MOMENTS])
def test_files_that_change_after_the_state_was_loaded_are_noticed(run: RunFolder, name: str) -> None:
    with_moments(run, 1)
    assert run.load_state() == state_at(1)
    file = run.path / "training_state" / name
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    model = linear(0.0)
    with pytest.raises(UserError, match=rf"{name}' is broken \(truncated or changed"):
        run.restore(model, torch.optim.Adam(model.parameters()))


def test_moments_of_another_model(run: RunFolder) -> None:
    with_moments(run, 1)
    other = nn.Linear(5, 7)
    with pytest.raises(UserError, match=r"model.safetensors' does not fit the model"):
        run.restore(other, torch.optim.Adam(other.parameters()))
    model = linear(0.0)
    (one, *_) = model.parameters()
    with pytest.raises(UserError, match=r"optimizer.safetensors' is broken \(.*\): remove .* to start afresh"):
        run.restore(model, torch.optim.Adam([one]))


def test_a_state_without_moments_has_none_to_give(run: RunFolder) -> None:
    run.save_state(state_at(1), linear(1.0), None)
    model = linear(0.0)
    with pytest.raises(UserError, match=r"optimizer.safetensors' is broken \(.*No such file"):
        run.restore(model, torch.optim.Adam(model.parameters()))


def test_nothing_to_restore(run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"model.safetensors' is not there: the run holds no weights"):
        run.restore(linear(0.0))


# Death at any moment


@pytest.mark.parametrize("moment", range(26))
def test_a_state_survives_death_at_any_moment(
    run: RunFolder, told: list[str], moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old or new, but whole; also when the save before died as well."""
    saved(run, 0, 1)
    calls = 0

    def dying(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > moment:
                raise Killed
            return function(*args, **kwargs)

        return call

    def half_removed(folder: Path, **options: Any) -> None:
        """As rmtree leaves a folder that it dies in."""
        for file in sorted(folder.glob("*"))[:1]:
            file.unlink()
        remove(folder, **options)

    remove = dying(shutil.rmtree)
    for step in (2, 3):
        calls = 0
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "replace", dying(os.replace))
            patch.setattr(os, "fsync", dying(os.fsync))
            patch.setattr(states.shutil, "rmtree", half_removed)
            patch.setattr(Path, "write_bytes", dying(Path.write_bytes))
            saved(run, step)
            raise Killed  # it died right after
        run = again(run, told)
        state = run.load_state()
        assert state is not None
        assert 1 <= state.step <= step
        assert restored(run) == state.step
    saved(run, 4)
    assert again(run, told).load_state() == state_at(4)
    assert {path.name for path in run.path.iterdir()} == {"training_state", "training_state.before"}
    assert told == []


def test_a_state_is_on_the_disk_before_it_has_its_name(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and its folder are synced before the rename that shows them, and the run folder after it."""
    seen: list[str] = []
    names: dict[int, str] = {}
    opened, synced, renamed = os.open, os.fsync, os.replace

    def note_open(path: Any, *rest: Any, **options: Any) -> int:
        descriptor = opened(path, *rest, **options)
        names[descriptor] = Path(path).name
        return descriptor

    def note_sync(descriptor: int) -> None:
        seen.append(f"sync {names[descriptor]}")
        synced(descriptor)

    def note_rename(one: Any, other: Any) -> None:
        seen.append(f"{Path(one).name} -> {Path(other).name}")
        renamed(one, other)

    run.path.mkdir()
    run.log_path.write_text("{}\n")
    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    run.save_state(state_at(1), linear(1.0), None)
    assert seen == [
        "sync log.jsonl",
        f"sync {WEIGHTS}.part",
        f"{WEIGHTS}.part -> {WEIGHTS}",
        "sync training_state.part",
        f"sync {MANIFEST}.part",
        f"{MANIFEST}.part -> {MANIFEST}",
        "sync training_state.part",
        "training_state.part -> training_state",
        "sync run",
    ]


# Where nothing can be written


def test_a_full_disk_leaves_the_last_state(run: RunFolder, told: list[str], limited_files: Any) -> None:
    saved(run, 1, 2)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with limited_files(300), pytest.raises(UserError, match=r"cannot be written \(File too large\).*free space"):
        saved(run, 3)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert not (run.path / "training_state.part").exists()
    saved(run, 3)
    assert again(run, told).load_state() == state_at(3)


def test_a_folder_that_cannot_be_written(run: RunFolder, read_only: Any) -> None:
    saved(run, 1)
    with (
        read_only(run.path),
        pytest.raises(UserError, match=r"cannot be written \(Permission denied\): choose another"),
    ):
        saved(run, 2)
    assert restored(run) == 1


def test_a_folder_that_gives_no_new_names(run: RunFolder, read_only: Any) -> None:
    """What a killed run left there can be written into; the rename fails."""
    saved(run, 1)
    (run.path / "training_state.part").mkdir()
    with (
        read_only(run.path),
        pytest.raises(UserError, match=r"training_state' cannot be written \(Permission denied\): choose another"),
    ):
        saved(run, 2)
    assert restored(run) == 1


def test_folders_that_were_made_in_vain_are_removed(tmp_path: Path, limited_files: Any) -> None:
    (tmp_path / "old").mkdir()
    for name in ("new", "old", "one/in another"):
        with limited_files(5), pytest.raises(UserError, match=r"a.json' cannot be written \(File too large\)"):
            write_json(tmp_path / name / "a.json", {"a": 1})
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


def test_weights_that_are_not_finite_are_refused(run: RunFolder) -> None:
    run.save_state(state_at(1), linear(float("nan")), None)
    with pytest.raises(UserError, match=r"is broken \('bias' holds numbers that are not finite\)"):
        run.restore(linear(0.0))


def test_weights_that_are_not_there_or_no_weights(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"a.safetensors' is not there: the run holds no weights"):
        states.load_weights(linear(0.0), file)
    file.write_bytes(b"text")
    with pytest.raises(BrokenFileError, match=r"^Error while deserializing:? [\w:. ]+$"):
        load_tensors(file)


def test_what_cannot_be_read_says_why(tmp_path: Path, read_only: Any) -> None:
    with pytest.raises(BrokenFileError, match="^it is no file$"):
        read(tmp_path)
    (tmp_path / "secret").touch()
    with read_only(tmp_path / "secret", 0), pytest.raises(BrokenFileError, match="^Permission denied$"):
        read(tmp_path / "secret")
