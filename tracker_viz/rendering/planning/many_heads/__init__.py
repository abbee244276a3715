"""Models with too many heads for a map of each: a map of their roles or a mosaic, and zooms."""

from tracker_viz.rendering.planning.many_heads.place import place_many_heads

__all__ = ["place_many_heads"]
