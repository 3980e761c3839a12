"""The HTTP interface: what each address takes and gives. ``GET /openapi.json`` describes it to programs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, File, Query, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from astseg import __version__
from astseg.inference.segmenter import Segmenter
from astseg.serve.answers import Part, SegmentedPictures, answer_of, table_of
from astseg.serve.batcher import Batcher
from astseg.serve.guard import Guard
from astseg.serve.limits import Limits, Refused
from astseg.serve.measures import Measured, Measures
from astseg.serve.pictures import decoded
from astseg.serve.scene import Drawn, Scene, draw
from astseg.serve.watch import RunSummary, RunView, WatchedRuns

__all__ = ["make_app"]

PAGE = Path(__file__).parent / "page"

DECODERS = 2
"""Pictures that are decoded at a time, so that memory is bounded by that of two."""


class Healthy(BaseModel):
    """That the server is there, and what it serves."""

    status: Literal["ok"] = "ok"
    version: str = __version__
    model: bool = Field(description="whether it takes pictures and scenes")


def make_app(
    segmenter: Segmenter | None = None,
    *,
    runs: WatchedRuns | None = None,
    limits: Limits | None = None,
    token: str | None = None,
) -> FastAPI:
    """The application.

    Args:
        segmenter: The model; None: no pictures are taken and no scenes drawn.
        runs: The run folders that are shown; None: none.
        limits: Of a request; None: the defaults.
        token: What clients must show; None: only this machine is served.
    """
    limits = limits or Limits()
    measures = Measures()
    runs = runs or WatchedRuns()
    app = FastAPI(
        title="astseg", version=__version__, docs_url=None, redoc_url=None, description="Objects in pictures, and back."
    )

    @app.get("/healthz")
    async def healthz() -> Healthy:
        """Whether the server works, and whether it has a model."""
        return Healthy(model=segmenter is not None)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        return Response(measures.text(), media_type=measures.media_type)

    if segmenter is not None:
        _add_model(app, segmenter, limits, measures)
    _add_runs(app, runs)
    app.add_middleware(Measured, measures=measures)
    app.add_middleware(Guard, limits=limits, token=token)
    app.mount("/page", StaticFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    return app


def _add_model(app: FastAPI, segmenter: Segmenter, limits: Limits, measures: Measures) -> None:
    """The addresses that need a model."""
    batcher = Batcher(segmenter, limits, told=measures.batch)
    measures.watch_queue(lambda: len(batcher))
    decoders = asyncio.Semaphore(DECODERS)

    @app.post("/segment", responses={200: {"content": {"text/csv": {}}}})
    async def segment(
        pictures: Annotated[list[UploadFile], File(description="PNG, JPEG, WebP, TIFF or BMP files")],
        part: Annotated[list[Part], Query(description="what is wanted of each picture")] = ["labels"],  # noqa: B006
        form: Annotated[
            Literal["json", "coco", "csv"], Query(description="tables, instead of the answer here")
        ] = "json",
    ) -> SegmentedPictures:
        """Find the objects of one picture or many."""
        if len(pictures) > limits.pictures:
            raise Refused(413, f"{len(pictures)} pictures, at most {limits.pictures} are taken: send several requests")
        names = [file.filename or f"picture {number}" for number, file in enumerate(pictures, start=1)]
        images = []
        for one, file in zip(names, pictures, strict=True):
            async with decoders:
                content = await file.read()
                images.append(await asyncio.to_thread(decoded, content, one, pixels=limits.pixels))
        predictions = await batcher.predict(images, layers="layers" in part and form == "json")
        if form != "json":
            size = segmenter.appearance_size
            text = await asyncio.to_thread(table_of, names, predictions, form, appearance_size=size)
            kind = "application/json" if form == "coco" else "text/csv"
            return Response(text.encode(errors="surrogateescape"), media_type=kind)  # type: ignore[return-value]
        answers = [
            await asyncio.to_thread(answer_of, one, prediction, part)
            for one, prediction in zip(names, predictions, strict=True)
        ]
        return SegmentedPictures(pictures=answers)

    @app.post("/render")
    def render(scene: Scene) -> Drawn:
        """Draw a scene, such as the part ``scene`` of ``/segment``, as it is or changed."""
        return draw(scene, segmenter.pipeline)


def _add_runs(app: FastAPI, runs: WatchedRuns) -> None:
    """The addresses of the runs that are shown."""

    @app.get("/runs")
    def list_runs() -> list[RunSummary]:
        """The runs, by name."""
        return runs.list()

    @app.get("/runs/{name}")
    def view_run(name: str) -> RunView:
        """How a run goes: its curves as SVG, its health in words, its latest panel."""
        return runs.view(name)

    @app.get("/runs/{name}/panel", response_class=FileResponse)
    def run_panel(name: str) -> FileResponse:
        """The latest panel of a run, a PNG."""
        return FileResponse(runs.panel(name), media_type="image/png")

    @app.post("/runs/{name}/stop", status_code=202)
    def stop_run(name: str) -> RunSummary:
        """Ask a training to stop: it saves after the step that it is in."""
        return runs.stop(name)

    @app.post("/runs/{name}/go-on", status_code=202)
    def go_on_run(name: str) -> RunSummary:
        """Go on with a training that was stopped, in a process of its own."""
        return runs.go_on(name)
