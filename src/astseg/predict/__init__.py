"""Use a trained model: images of any kind and size to label maps and objects, or a whole folder to files."""

from astseg.predict.folder import SegmentSummary, segment_folder
from astseg.predict.prediction import Drawing, ObjectPrediction, Prediction
from astseg.predict.result_folder import KINDS
from astseg.predict.segmenter import Segmenter, choose_device

__all__ = [
    "KINDS",
    "Drawing",
    "ObjectPrediction",
    "Prediction",
    "SegmentSummary",
    "Segmenter",
    "choose_device",
    "segment_folder",
]
