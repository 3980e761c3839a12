"""Data sets: recognise the format of a path, choose scenes of it, read them at the size the model sees."""

from astseg.data.loading import fingerprint, load_scenes
from astseg.data.open import Reading, SceneSource, index_hash, open_source, select, source_hash

__all__ = ["Reading", "SceneSource", "fingerprint", "index_hash", "load_scenes", "open_source", "select", "source_hash"]
