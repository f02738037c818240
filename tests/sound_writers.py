"Sounds as libsndfile and ffmpeg write them, for the tests that read them."

import io
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile as sf

LAYOUTS = {1: 'mono', 2: 'stereo', 6: '5.1'}


def by_soundfile(x, rate, subtype, container):
    "The bytes of x [n] or [n, channels], written by libsndfile."
    out = io.BytesIO()
    sf.write(out, x, rate, subtype, format=container)
    return out.getvalue()


def film_track(container):
    "Add a small film to a container."
    codec = 'mpeg1video' if container.format.name == 'mpeg' else 'mpeg4'
    track = container.add_stream(codec, rate=25)
    track.width, track.height, track.pix_fmt = 64, 48, 'yuv420p'
    return track


def grey_packets(track, seconds):
    "The packets of a grey film."
    for k in range(max(1, int(25 * seconds))):
        frame = av.VideoFrame(64, 48, 'yuv420p')
        frame.pts = k
        yield track.encode(frame)
    yield track.encode(None)


def audio_track(container, codec, rate, layout, options):
    "Add a track of a coder's first sample format."
    track = container.add_stream(codec, rate=rate, layout=layout, options=options)
    if 'global_quality' not in options:
        track.bit_rate = 128000
    best = track.codec_context.codec.audio_formats or [None]
    track.codec_context.format = best[0].name if best[0] else 's16'
    return track


def by_ffmpeg(x, rate, codec, container, coded=None, film=False, **options):
    "The bytes of x [n, channels], encoded by ffmpeg at the rate `coded`; with a film if asked."
    out, layout = tempfile.NamedTemporaryFile(), LAYOUTS[x.shape[1]]
    coded = coded or rate
    with av.open(out.name, 'w', format=container, options=options.pop('mux', {})) as c:
        pictures = film_track(c) if film else None
        track = audio_track(c, codec, coded, layout, options)
        for packets in grey_packets(pictures, len(x) / rate) if film else ():
            c.mux(packets)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(x.T), 'fltp', layout)
        frame.sample_rate, frame.pts = rate, 0
        turn = av.AudioResampler(track.codec_context.format.name, layout, coded)
        for f in (*turn.resample(frame), *turn.resample(None)):
            c.mux(track.encode(f))
        c.mux(track.encode(None))
    with out:
        return Path(out.name).read_bytes()
