"""One way to begin, lock, resume and end a run, for every command that trains, by one process or by several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from astseg.config import Config
from astseg.model.astseg import AstSeg, build
from astseg.model.backbones.segformer import licence_notice
from astseg.runs.atomic import write_json
from astseg.runs.card import write_card
from astseg.runs.distributed import ReadOnlyRunFolder, World, init_world
from astseg.runs.folder import RunFolder
from astseg.runs.info import RunInfo
from astseg.training.logging import Reporter, require_tensorboard
from astseg.training.loop import train
from astseg.training.monitor import TrainingMonitor, few
from astseg.types import SceneArrays

__all__ = ["Session", "session"]


@dataclass(frozen=True)
class Session:
    """A run folder that is held for this command, and the processes that work in it.

    Attributes:
        run: The folder; read only on all ranks but the first.
        world: The processes. What looks at the data, plans or writes belongs into :meth:`World.from_main`.
        console: Quiet on all ranks but the first.
        tensorboard: Whether TensorBoard is written.
    """

    run: RunFolder
    world: World
    console: Console
    tensorboard: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the run is trained to its end."""
        state = self.run.load_state()
        return state is not None and state.phase == "done"

    def begin(self, config: Config, info: RunInfo, files: Mapping[str, Any] | None = None) -> Config:
        """Write the metadata of a new run, or make sure that a run that goes on is the same one.

        Args:
            config: Every setting.
            info: What it learns from.
            files: JSON by name; written before ``config.json``, so that a run that has begun has them.

        Returns:
            The configuration of the run.

        Raises:
            UserError: The folder holds another run, or something else, or cannot be written; or no such model can be
                built.
        """

        def write_files() -> None:
            for name, values in (files or {}).items():
                write_json(self.run.path / name, values)

        def write() -> Config:
            if self.run.is_begun:
                begun = self.run.begin(config, info)  # refuses another run before anything is written
                write_files()
                return begun
            build(config.model)  # refuses what cannot be built
            write_files()
            return self.run.begin(config, info)

        return self.world.from_main(write)

    def train(
        self,
        config: Config,
        scenes: SceneArrays,
        info: RunInfo,
        *,
        minutes: float | None = None,
        shown: SceneArrays | None = None,
        background_only: bool = False,
    ) -> AstSeg:
        """Train on from where the run stands, with log, panels and, at the end, the card.

        Args:
            config: What :meth:`begin` returned.
            scenes: The training images.
            info: What the run learns from.
            minutes: Time limit of the whole training.
            shown: Scenes for the panels; None: some of the training images.
            background_only: Stop after phase 1 of the curriculum.

        Returns:
            The trained model, in evaluation mode.

        Raises:
            UserError: See :func:`astseg.training.loop.train`.
        """
        notice = licence_notice(config.model.backbone_weights)
        if notice:
            self.console.print(notice)
        is_main, was_done = self.world.is_main, self.is_done
        log = self.run.log_path if is_main else None
        board = self.run.path / "tensorboard" if is_main and self.tensorboard else None
        with Reporter(log, console=self.console, tensorboard=board) as reporter:
            monitor = TrainingMonitor(self.run, few(shown or scenes), reporter, config) if is_main else None
            model = train(
                config,
                scenes,
                run=self.run,
                seed=info.seed,
                reporter=reporter,
                minutes=minutes,
                watch=monitor,
                background_only=background_only,
                world=self.world,
            )
            if monitor is not None and not was_done:
                monitor.draw(model, "last")
        self.write_card(config, info, only_if_missing=was_done)
        self.world.barrier()
        return model

    def write_card(self, config: Config, info: RunInfo, *, only_if_missing: bool) -> None:
        """Write the card of a trained run; it is missing where the run was killed just before."""
        if self.world.is_main and not (only_if_missing and (self.run.path / "README.md").exists()):
            write_card(self.run, config, info)


@contextmanager
def session(out: Path, console: Console, *, tensorboard: bool = False) -> Iterator[Session]:
    """Hold a run folder for this command and all processes that run it.

    Args:
        out: The folder; it may not exist yet.
        console: Where everything is printed.
        tensorboard: Whether TensorBoard is written.

    Raises:
        UserError: Another process holds the folder, or it is a file or holds something else, or TensorBoard is not
            installed.
    """
    world = init_world()
    console.quiet = not world.is_main
    run = (RunFolder if world.is_main else ReadOnlyRunFolder)(out, tell=console.print)
    if tensorboard:
        require_tensorboard()
    missing = [folder for folder in out.parents if not folder.exists()]  # innermost first
    try:
        with ExitStack() as held:

            def hold() -> None:
                run.check_new_or_begun()
                held.enter_context(run.lock())

            world.from_main(hold)
            yield Session(run, world, console, tensorboard)
    finally:
        for folder in missing if world.is_main else ():
            with suppress(OSError):  # not empty: there is a run now
                folder.rmdir()
