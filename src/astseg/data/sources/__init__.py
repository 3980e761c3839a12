"""Readers of data sets, one a format; each is a :class:`astseg.data.source.SceneSource`."""
