"""Ids that stay with objects from frame to frame; ours, not in the paper."""

from astseg.inference.tracking.tracker import Tracker

__all__ = ["Tracker"]
