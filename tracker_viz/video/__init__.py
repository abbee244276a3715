"""Write frames into one file that a browser plays: whole or not at all, and read back before it
gets its name.

    info = write_video(len(shots), renderer.film(shots), "videos/overview", duration_s=durations)

Pixels come in; captures and layouts are unknown here.
"""

from tracker_viz.video.encoders import ENCODERS, EncoderName, encoder
from tracker_viz.video.growing import append_frames, join_film, keep_frames
from tracker_viz.video.small_copy import small_copy
from tracker_viz.video.writer import video_path, write_video

__all__ = [
    "ENCODERS",
    "EncoderName",
    "append_frames",
    "encoder",
    "join_film",
    "keep_frames",
    "small_copy",
    "video_path",
    "write_video",
]
