"""The files of write_video as a player takes them apart: where it may begin, how large pictures
are, and which colors their numbers mean."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tracker_viz.video import append_frames, join_film, write_video

av = pytest.importorskip("av")

ENCODERS = ["opencv", "h264", "lossless"]
MOST_APART = 48  # frames from one key frame to the next
# Each is all new, as no film of ours is: encoders answer with pictures that need no earlier one.
NOISE = np.random.default_rng(0).integers(0, 256, (130, 98, 130, 3), np.uint8)


def still(_index):
    return NOISE[0]


def packets(path):
    """Return (flagged as a key frame, its bytes) of every frame, the flags as the file has them:
    FFmpeg's parsers would flag what they take for one."""
    with av.open(str(path), options={"fflags": "noparse+nofillin"}) as container:
        return [(each.is_keyframe, bytes(each)) for each in container.demux(video=0) if each.size]


def is_key(encoder, packet):
    """Return whether a decoder may begin with a packet, by what the codec itself says of it."""
    if encoder == "opencv":  # RFC 6386, section 9.1: frame_type, 0 is a key frame
        return not packet[0] & 1
    if encoder == "lossless":  # VP9 bitstream, section 6.2: frame_type of profile 1
        return not packet[0] >> 2 & 1
    kinds = set()
    while packet:  # ISO/IEC 14496-15: each unit behind its length; ITU-T H.264, table 7-1
        kinds.add(packet[4] & 31)
        packet = packet[4 + int.from_bytes(packet[:4], "big") :]
    return 5 in kinds


def boxes_of(path):
    """Return the kinds of an MP4's outer boxes, in their order."""
    contents, kinds, at = path.read_bytes(), [], 0
    while at < len(contents):
        kinds.append(contents[at + 4 : at + 8].decode())
        at += int.from_bytes(contents[at : at + 4], "big")
    return kinds


def grown_film(tmp_path, encoder):
    suffix = ".mp4" if encoder == "h264" else ".webm"
    body, film = tmp_path / f"body{suffix}", tmp_path / f"film{suffix}"
    append_frames(None, 0, 60, NOISE.__getitem__, body, encoder_name=encoder, workers=1)
    durations_s = [0.5] + [0.1] * 60
    title, last = NOISE[99], NOISE[59]
    join_film(body, 60, last, film, duration_s=durations_s, title=title, encoder_name=encoder)
    return film


def test_an_mp4_describes_its_pictures_before_it_holds_them(tmp_path):
    whole = write_video(30, still, tmp_path / "v", encoder="h264").path
    for path in (whole, grown_film(tmp_path, "h264")):
        kinds = boxes_of(path)
        assert kinds.index("moov") < kinds.index("mdat"), "a browser would load all of it first"


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("frame_at", [still, NOISE.__getitem__], ids=["still", "all new"])
def test_a_player_can_begin_where_the_file_says_so_and_that_is_never_far(
    tmp_path, encoder, frame_at
):
    path = write_video(130, frame_at, tmp_path / "v", encoder=encoder, workers=2).path
    found = packets(path)
    keys = [is_key(encoder, packet) for _, packet in found]
    assert [flag for flag, _ in found] == keys
    places = np.flatnonzero(keys)
    assert places[0] == 0
    assert max(np.diff([*places, len(keys)])) <= MOST_APART


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_player_can_begin_where_a_grown_film_says_so(tmp_path, encoder):
    found = packets(grown_film(tmp_path, encoder))
    keys = [is_key(encoder, packet) for _, packet in found]
    assert [flag for flag, _ in found] == keys
    assert keys[0], "the title"
    assert keys[1], "the first frame of the body"
    assert max(np.diff([*np.flatnonzero(keys), len(keys)])) <= MOST_APART


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [(202, 190), (640, 362), (66, 50)])
def test_pictures_come_back_in_the_size_in_which_they_were_drawn(tmp_path, encoder, size):
    width, height = size
    drawn = np.zeros((height, width, 3), np.uint8)
    drawn[-2:] = drawn[:, -2:] = 255  # not cut off, nor filled up
    info = write_video(3, lambda _: drawn, tmp_path / "v", encoder=encoder)
    assert (info.width, info.height) == size
    with av.open(str(info.path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == size
        assert not stream.sample_aspect_ratio or stream.sample_aspect_ratio == 1
        pixels = next(container.decode(stream)).to_ndarray(format="rgb24")
    assert pixels.shape == drawn.shape
    assert pixels[-1].min() > 128
    assert pixels[:, -1].min() > 128


def test_a_video_that_was_made_smaller_has_the_size_that_it_reports(tmp_path):
    whole = write_video(24, NOISE.__getitem__, tmp_path / "whole")
    info = write_video(24, NOISE.__getitem__, tmp_path / "v", max_bytes=whole.nbytes // 2)
    with av.open(str(info.path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (info.width, info.height)
    assert info.width / info.height == pytest.approx(130 / 98, rel=0.03)


# Pure colors, the dark theme's ground, and one whose channels all differ.
COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (13, 17, 23), (128, 64, 200)]
# ITU-R BT.709 and BT.601: the shares of red and blue in luma.
MATRICES = {"h264": (0.2126, 0.0722), "opencv": (0.299, 0.114)}
BT709, UNSPECIFIED, LIMITED_RANGE = 1, 2, 1  # ITU-T H.273


def luma_and_chroma(color, red_share, blue_share):
    """Return Y, Cb and Cr in the limited range of 8 bits (ITU-R BT.709-6, items 3 and 5)."""
    red, green, blue = np.array(color) / 255
    luma = red_share * red + (1 - red_share - blue_share) * green + blue_share * blue
    chroma = (blue - luma) / (2 - 2 * blue_share), (red - luma) / (2 - 2 * red_share)
    return [16 + 219 * luma, *(128 + 224 * each for each in chroma)]


@pytest.mark.parametrize("encoder", MATRICES)
def test_colors_are_stored_by_the_matrix_that_players_assume(tmp_path, encoder):
    frames = [np.broadcast_to(np.array(color, np.uint8), (96, 128, 3)) for color in COLORS]
    path = write_video(len(frames), frames.__getitem__, tmp_path / "v", encoder=encoder).path
    with av.open(str(path)) as container:
        decoded = list(itertools.islice(container.decode(video=0), len(COLORS)))
    for color, frame in zip(COLORS, decoded, strict=True):
        stored = [
            np.frombuffer(plane, np.uint8)[plane.line_size * 20 + 20] for plane in frame.planes
        ]
        expected = luma_and_chroma(color, *MATRICES[encoder])
        assert np.allclose(np.array(stored, float), expected, atol=2.0), color


def test_an_h264_stream_says_by_which_matrix_its_colors_are_stored(tmp_path):
    path = write_video(3, still, tmp_path / "v", encoder="h264").path
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        context = container.streams.video[0].codec_context
    assert (frame.colorspace, frame.color_range) == (BT709, LIMITED_RANGE)
    assert (context.color_primaries, context.color_trc) == (BT709, BT709)


def test_a_lossless_stream_claims_no_matrix_because_it_holds_rgb(tmp_path):
    path = write_video(3, NOISE.__getitem__, tmp_path / "v", encoder="lossless").path
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert frame.format.name == "gbrp"
    assert frame.colorspace == 0, "H.273: the identity, for RGB"
