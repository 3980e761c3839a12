"""The user's door: a trained run and a picture in, the objects out.

python examples/predict.py runs/demo runs/demo/scenes/test/desk_full/0/DESK_full_000000.png
"""

from __future__ import annotations

import sys

from astseg import Segmenter
from astseg.inference.prediction import Prediction


def main(run: str, picture: str) -> Prediction:
    """Segment one picture and print what is in it."""
    prediction = Segmenter.from_pretrained(run).predict(picture)
    height, width = prediction.labels.shape
    print(f"{picture}: {width}x{height} pixels, {len(prediction.objects)} objects, the front-most first")
    for found in prediction.objects:
        x, y, box_width, box_height = found.box
        print(
            f"object {found.id}: box {box_width}x{box_height} at ({x}, {y}), {found.area} pixels,"
            f" {found.visibility:.0%} of it visible"
        )
    return prediction


if __name__ == "__main__":
    main(*sys.argv[1:])
