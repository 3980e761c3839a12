"""Data sets: recognise the format of a path, choose scenes of it, read them at the size the model sees."""

from astseg.data.sources import SceneSource, fingerprint, index_hash, load_scenes, open_source, select

__all__ = ["SceneSource", "fingerprint", "index_hash", "load_scenes", "open_source", "select"]
