"""The card says what the run is."""

from dataclasses import replace
from pathlib import Path

from astseg.config.presets import preset
from astseg.runs.card import write_card
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo

INFO = RunInfo(
    preset="small",
    seed=41,
    data="pictures/desk",
    split=":-50",
    images=123,
    fingerprint="0123456789abcdef",
    versions={"astseg": "9.8.7"},
)


def card(tmp_path: Path, **values: object) -> str:
    run = RunFolder(tmp_path / "first")
    write_card(run, preset("small"), INFO, values or None)
    assert [path.name for path in run.path.iterdir()] == ["README.md"]
    return (run.path / "README.md").read_text()


def test_the_card_names_data_and_settings(tmp_path: Path) -> None:
    text = card(tmp_path)
    assert text.startswith("# first\n")
    assert "pictures/desk (:-50), 123 images, fingerprint 0123456789abcdef" in text
    assert "preset small, seed 41, astseg 9.8.7" in text
    slots = preset("small").model.slots
    assert f"images 64x64, at most {slots} objects, backbone cnn" in text
    assert f'Segmenter.from_pretrained("{tmp_path / "first"}")' in text
    assert "Measured" not in text
    assert "licence" not in text.lower()


def test_the_card_holds_metrics(tmp_path: Path) -> None:
    text = card(tmp_path, count=20, ari_fg=0.12345, miou=0.5, background_mse=None, protocol="astseg")
    assert "Measured on 20 scenes:" in text
    assert "| ari_fg | 0.1235 |\n| miou | 0.5000 |\n" in text
    assert "background_mse" not in text


def test_the_card_of_restricted_weights_says_so(tmp_path: Path) -> None:
    config = preset("clevr-ct")
    run = RunFolder(tmp_path)
    write_card(run, config, INFO)
    assert "not for commercial use" in (tmp_path / "README.md").read_text()
    write_card(run, replace(config, model=replace(config.model, backbone_weights=None)), INFO)
    assert "not for commercial use" not in (tmp_path / "README.md").read_text()
