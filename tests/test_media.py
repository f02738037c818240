"Sound, pictures and video of every format, and every way to be broken. See nbs/01_media."

import struct, tracemalloc, zlib
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from PIL import Image

from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.media.sound import (
    SAMPLE_RATE,
    load_audio,
    probe_audio,
    window_weights,
    windows,
)
from wavbrivl.media.signal import (
    apply_gain,
    log_mel,
    loudness,
    mfcc,
    mix,
    shift_pitch,
    rms_dbfs,
    change_speed,
)
from wavbrivl.media.pictures import load_picture, crop_square
from wavbrivl.media.films import read_frames

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'
needs = lambda name: pytest.mark.skipif(
    not (SHARED / name).is_dir(),
    reason=f'the folder with real data ({name}) is not beside the checkout',
)


def tone(rate=16000, seconds=1.0, hz=440):
    return (
        0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)
    ).astype(np.float32)


def refused(f, *a, **k) -> str:
    "The reason with which a file is refused."
    with pytest.raises(BadFile) as e:
        f(*a, **k)
    assert e.value.reason[-1] in '.)' and len(e.value.reason) > 15, 'a sentence'
    return e.value.reason


# ---------------------------------------------------------------- sound: what is taken


@pytest.mark.parametrize(
    'subtype',
    ['PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE', 'ALAW', 'IMA_ADPCM'],
)
def test_bit_depth(tmp_path, subtype):
    sf.write(tmp_path / 'x.wav', tone(), 16000, subtype)
    x = load_audio(tmp_path / 'x.wav')
    assert x.dtype == np.float32 and abs(len(x) - 16000) < 1100
    assert np.abs(x[1000:16000] - tone()[1000:]).max() < dict(
        PCM_U8=0.01, ALAW=0.02, IMA_ADPCM=0.06
    ).get(subtype, 1e-4)


@pytest.mark.parametrize(
    'rate', [4000, 8000, 11025, 22050, 44100, 48000, 96000, 192000]
)
def test_rate(tmp_path, rate):
    sf.write(tmp_path / 'x.flac', tone(rate), rate)
    x = load_audio(tmp_path / 'x.flac')
    assert len(x) == 16000 and np.abs(x[2000:14000] - tone()[2000:14000]).max() < 0.01


def test_nothing_folds_back():
    for hz in (8400, 9000, 15000, 20000):
        assert rms_dbfs(load_audio(tone(48000, 1, hz), 48000)[2000:14000]) < (
            -85 if hz > 8400 else -20
        )


@pytest.mark.parametrize('channels', [1, 2, 6, 8])
def test_channels_are_averaged(tmp_path, channels):
    x = np.zeros((16000, channels), np.float32)
    x[:, 0] = tone()
    sf.write(tmp_path / 'x.wav', x, 16000, 'FLOAT')
    assert np.allclose(load_audio(tmp_path / 'x.wav'), tone() / channels, atol=1e-6)


def test_one_sample_and_silence(tmp_path):
    for rate in (8000, 16000, 96000):
        sf.write(tmp_path / 'x.wav', np.array([0.5]), rate)
        assert len(load_audio(tmp_path / 'x.wav')) == round(max(1, 16000 / rate))
    sf.write(tmp_path / 's.wav', np.zeros(8000), 16000)
    assert not load_audio(tmp_path / 's.wav').any()


@pytest.mark.parametrize(
    'name',
    [
        'ä ö ü.wav',
        'two  spaces.wav',
        '犬.wav',
        'a:b.wav',
        'x#?%20.wav',
        "quote's.wav",
        'noext',
        'lies.mp3',
        'lies.raw',
    ],
)
def test_names_do_not_matter(tmp_path, name):
    sf.write(tmp_path / 'x.wav', tone(), 16000)
    (tmp_path / 'x.wav').rename(tmp_path / name)
    assert (
        len(load_audio(tmp_path / name))
        == len(load_audio(str(tmp_path / name)))
        == 16000
    )


def test_max_seconds(tmp_path):
    sf.write(tmp_path / 'x.wav', tone(44100, 3), 44100)
    whole, part = (
        load_audio(tmp_path / 'x.wav'),
        load_audio(tmp_path / 'x.wav', max_seconds=1),
    )
    assert len(part) == 16000 and np.abs(part - whole[:16000]).max() < 1e-3


def test_arrays():
    x = tone(44100)
    for a in (
        x,
        np.stack([x, x]),
        np.stack([x, x], 1),
        x[None],
        x[:, None],
        (x * 32767).astype(np.int16),
        (x.astype(float) * 2**31).astype(np.int32),
        x.astype(np.float64),
    ):
        assert (
            np.abs(load_audio(a, 44100)[2000:14000] - tone()[2000:14000]).max() < 1e-3
        )
    import torch

    assert len(load_audio(torch.from_numpy(x), 44100)) == 16000
    assert load_audio(np.zeros((2, 2, 5)).reshape(-1)[:1], 16000).shape == (1,)
    with pytest.raises(BadInput, match='sample_rate'):
        load_audio(x)
    for bad in (
        np.zeros((7, 7)),
        np.zeros((40, 50)),
        np.zeros(5, np.int64),
        np.array(['a']),
        np.zeros((1, 2, 3)),
        np.zeros(0),
        np.array([np.inf]),
        np.array(1.0),
    ):
        refused(load_audio, bad, 16000)


# ---------------------------------------------------------------- sound: what is refused


def test_refusals(tmp_path):
    p = tmp_path
    (p / 'empty.wav').touch()
    (p / 'text.wav').write_text('hello ' * 200)
    (p / 'text.mp3').write_text('hello ' * 200)
    (p / 'playlist.wav').write_text('#EXTM3U\n#EXTINF:1,\n/etc/hostname\n')
    sf.write(p / 'nan.wav', np.array([0, np.nan]), 16000, 'FLOAT')
    sf.write(p / 'inf.wav', np.array([0, -np.inf]), 16000, 'FLOAT')
    sf.write(p / 'zero.wav', np.zeros(0), 16000)
    Image.new('RGB', (8, 8)).save(p / 'picture.jpg')
    (p / 'picture.jpg').rename(p / 'picture.wav')
    assert (
        'empty' in refused(load_audio, p / 'empty.wav')
        and 'not exist' in refused(load_audio, p / 'no.wav')
        and 'folder' in refused(load_audio, p)
    )
    assert (
        'NaN' in refused(load_audio, p / 'nan.wav')
        and 'infinite' in refused(load_audio, p / 'inf.wav')
        and 'sample' in refused(load_audio, p / 'zero.wav')
    )
    for f in ('text.wav', 'text.mp3', 'playlist.wav', 'picture.wav'):
        refused(load_audio, p / f)
        refused(probe_audio, p / f)
    sf.write(p / 'slow.wav', tone(), 1)
    assert '1 Hz' in refused(load_audio, p / 'slow.wav')


@pytest.mark.parametrize(
    'share,taken', [(0.9, True), (0.6, True), (0.4, False), (0.1, False)]
)
@pytest.mark.parametrize('ext', ['wav', 'flac', 'mp3'])
def test_cut_short(tmp_path, ext, share, taken):
    f = tmp_path / f'x.{ext}'
    sf.write(
        f, np.random.default_rng(0).normal(0, 0.1, 64000).astype(np.float32), 16000
    )
    data = f.read_bytes()
    f.write_bytes(data[: int(len(data) * share)])
    if taken:
        assert abs(len(load_audio(f)) / 64000 - share) < 0.08
    else:
        assert 'cut short: 4.0' in refused(load_audio, f)


def test_a_promise_costs_no_memory(tmp_path):
    sf.write(tmp_path / 'x.wav', tone(), 16000)
    sf.write(tmp_path / 'x.flac', tone(), 16000)
    wav, flac = (
        bytearray((tmp_path / 'x.wav').read_bytes()[:1024]),
        bytearray((tmp_path / 'x.flac').read_bytes()),
    )
    wav[40:44] = struct.pack('<I', 2**32 - 2)
    flac[21] |= 15
    flac[22:26] = b'\xff' * 4
    (tmp_path / 'x.wav').write_bytes(wav)
    (tmp_path / 'x.flac').write_bytes(flac)
    tracemalloc.start()
    for f in ('x.wav', 'x.flac'):
        assert 'promised' in refused(load_audio, tmp_path / f)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_unfinished_header(tmp_path):
    "A recorder that was killed leaves a size of zero; a pipe leaves all ones. The samples are there."
    sf.write(tmp_path / 'x.wav', tone(), 16000)
    data = bytearray((tmp_path / 'x.wav').read_bytes())
    for size in (0, 2**32 - 1):
        data[40:44] = struct.pack('<I', size)
        (tmp_path / 'x.wav').write_bytes(data)
        assert len(load_audio(tmp_path / 'x.wav')) == 16000


@pytest.mark.parametrize(
    'ext', ['wav', 'flac', 'ogg', 'mp3', 'm4a', 'png', 'jpg', 'mp4']
)
def test_damage_never_surprises(tmp_path, ext):
    "Bytes changed at random: the file is read or refused, and nothing else happens."
    f, rng = tmp_path / f'x.{ext}', np.random.default_rng(1)
    picture = ext in ('png', 'jpg')
    if picture:
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(f)
    elif ext in ('m4a', 'mp4'):
        film(f, sound=True, pictures=ext == 'mp4')
    else:
        sf.write(f, tone(), 16000)
    data, outcomes = f.read_bytes(), set()
    for i in range(25):
        d = bytearray(data)
        for at in rng.integers(0, len(d) if i % 2 else min(200, len(d)), 8):
            d[at] = rng.integers(256)
        f.write_bytes(d[: rng.integers(1, len(d))] if i % 3 == 0 else d)
        try:
            if picture:
                assert load_picture(f).mode == 'RGB'
            else:
                assert np.isfinite(load_audio(f)).all()
            if ext == 'mp4':
                read_frames(f, 2)
            outcomes.add('read')
        except BadFile:
            outcomes.add('refused')
    assert 'refused' in outcomes


# ---------------------------------------------------------------- windows and level


def test_windows_cover_once():
    for n, w in ((1, 5), (5, 5), (6, 5), (160000, 32000), (100001, 32000)):
        ws, k = windows(n, w), window_weights(n, w)
        assert (
            k.sum() == n
            and (k > 0).all()
            and ws[0, 0] == 0
            and ws[-1, 1] == n
            and ws.dtype == k.dtype == np.int64
        )
        assert (n < w and ws.tolist() == [[0, n]]) or (np.diff(ws) == w).all()


def test_level_of_everything():
    for x in (
        np.zeros(1),
        np.zeros(100000),
        np.ones(1),
        tone()[:100],
        np.full(20000, 1e-9),
        100 * tone(),
    ):
        assert (
            np.isfinite(rms_dbfs(x)) and np.isfinite(loudness(x)) and loudness(x) >= -70
        )
    x = np.random.default_rng(0).normal(0, 0.01, 48000)
    assert (
        abs(loudness(10 * x) - loudness(x) - 20) < 0.05
        and abs(loudness(x[:4800]) - loudness(x)) < 1
    )
    assert abs(loudness(2 * tone(seconds=2, hz=997)) + 3.01) < 0.1, (
        'a full-scale sine at 997 Hz, as the standard defines'
    )
    y, share = apply_gain(tone(), 6.1, clip=True)
    assert np.abs(y).max() <= 1 and 0 < share < 0.2
    assert apply_gain(tone(), 40, clip=False)[0].max() > 40


def test_short_clips_survive_every_change():
    for n in (1, 2, 17, 300):
        x = tone()[:n]
        assert (
            len(shift_pitch(x, 3)) == n
            and len(change_speed(x, 2)) >= 1
            and len(mix(x, tone()[:5], 0)) == max(n, 5)
        )
        assert (
            log_mel(x).shape == (1 + n // 160, 64)
            and np.isfinite(log_mel(x)).all()
            and mfcc(x).shape[1] == 20
        )
    with pytest.raises(BadInput):
        change_speed(tone(), 0)


# ---------------------------------------------------------------- pictures


def save(path, picture, **k):
    picture.save(path, **k)
    return path


def test_sixteen_bits_and_alpha(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    got = np.asarray(load_picture(save(tmp_path / 'a.png', Image.fromarray(ramp))))
    assert (
        np.abs(got[0, :, 0].astype(int) - np.arange(256)).max() <= 1
        and load_picture(save(tmp_path / 'a.tif', Image.fromarray(ramp))).getpixel(
            (255, 0)
        )
        == (255,) * 3
    )
    for mode in ('RGBA', 'LA', 'PA'):
        p = (
            Image.new('RGBA', (4, 4), (0, 0, 0, 0)).convert(mode)
            if mode != 'PA'
            else Image.new('RGBA', (4, 4), (0, 0, 0, 0)).convert('P')
        )
        assert (
            load_picture(save(tmp_path / f'{mode}.png', p)).getpixel((0, 0))
            == (255, 255, 255)
            or mode == 'PA'
        )
    p = Image.new('P', (4, 4), 0)
    p.putpalette([9, 9, 9] * 256)
    assert load_picture(save(tmp_path / 't.png', p, transparency=0)).getpixel(
        (0, 0)
    ) == (255, 255, 255)
    assert (
        load_picture(save(tmp_path / 't.gif', p)).mode == 'RGB'
        and load_picture(
            save(tmp_path / 'f.tif', Image.new('F', (4, 4), 0.5))
        ).getpixel((0, 0))
        == (128,) * 3
    )
    cmyk = load_picture(
        save(tmp_path / 'c.jpg', Image.new('CMYK', (8, 8), (0, 255, 255, 0)))
    )
    assert cmyk.getpixel((4, 4))[0] > 200 > 60 > cmyk.getpixel((4, 4))[1]


@pytest.mark.parametrize('tag', range(1, 9))
def test_exif(tmp_path, tag):
    "All eight orientations show red in the top left corner."

    p = Image.new('RGB', (64, 32), 'blue')
    p.paste((255, 0, 0), (0, 0, 32, 16))
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[
        tag
    ]  # the transpose that undoes the tag's
    e = Image.Exif()
    e[0x0112] = tag
    stored = p if back is None else p.transpose(back)
    got = load_picture(save(tmp_path / 'x.jpg', stored, exif=e, quality=95))
    assert (
        got.size == (64, 32)
        and got.getpixel((6, 5))[0] > 200
        and got.getpixel((50, 25))[2] > 200
    )


def test_pictures_refused(tmp_path):
    (tmp_path / 'e.jpg').touch()
    (tmp_path / 't.png').write_text('no')
    f = save(tmp_path / 'h.jpg', Image.effect_noise((200, 200), 60))
    f.write_bytes(f.read_bytes()[:4000])
    assert (
        'damaged' in refused(load_picture, f)
        and 'empty' in refused(load_picture, tmp_path / 'e.jpg')
        and 'not a picture' in refused(load_picture, tmp_path / 't.png')
    )
    for side in (12000, 50000):
        png = bytearray(save(tmp_path / 'b.png', Image.new('L', (4, 4))).read_bytes())
        png[16:24] = struct.pack('>II', side, side)
        png[29:33] = struct.pack('>I', zlib.crc32(bytes(png[12:29])))
        (tmp_path / 'b.png').write_bytes(png)
        assert 'million' in refused(load_picture, tmp_path / 'b.png')
    assert 'million' in refused(
        load_picture,
        save(tmp_path / 's.png', Image.new('L', (40, 40))),
        max_pixels=1000,
    )


def test_square():
    p = Image.new('RGB', (1920, 1080), 'blue')
    p.paste((255, 0, 0), (720, 300, 1200, 780))
    assert set(
        crop_square(p, 480, 96).getdata()
        if not hasattr(Image.Image, 'get_flattened_data')
        else crop_square(p, 480, 96).get_flattened_data()
    ) == {(255, 0, 0)}
    assert crop_square(Image.new('RGB', (50, 31)), 480, 96).size == (
        96,
        96,
    ) and crop_square(Image.new('RGB', (50, 31))).size == (31, 31)


# ---------------------------------------------------------------- video


def film(path, sound=False, pictures=True, n=30, seconds=1.0):
    "A film whose grey level rises with time, with or without sound."
    with av.open(str(path), 'w') as c:
        v = c.add_stream('mpeg4', rate=30) if pictures else None
        s = c.add_stream('aac', rate=16000, layout='mono') if sound else None
        if pictures:
            v.width, v.height, v.pix_fmt = 64, 48, 'yuv420p'
            for i in range(n):
                c.mux(
                    v.encode(
                        av.VideoFrame.from_ndarray(
                            np.full((48, 64, 3), 20 + 200 * i // n, np.uint8), 'rgb24'
                        )
                    )
                )
            c.mux(v.encode(None))
        if sound:
            f = av.AudioFrame.from_ndarray(tone(16000, seconds)[None], 'fltp', 'mono')
            f.sample_rate = 16000
            for p in (*s.encode(f), *s.encode(None)):
                c.mux(p)
    return path


def test_film(tmp_path):
    f = film(tmp_path / 'x.mp4', n=90)
    grey = [np.asarray(p).mean() for p in read_frames(f, 6)]
    assert (
        len(grey) == 6
        and np.allclose(np.diff(grey), 200 / 6, atol=4)
        and abs(grey[0] - 20 - 200 / 12) < 5
    )
    assert np.asarray(read_frames(f, 3, max_seconds=1.5)[-1]).mean() < 20 + 100
    assert 'no sound' in refused(load_audio, f)
    assert len(read_frames(film(tmp_path / 'one.mp4', n=1), 4)) == 1, (
        'a film of one picture has one picture'
    )
    g = film(tmp_path / 'y.m4a', sound=True, pictures=False)
    assert 'no film' in refused(read_frames, g, 2) and 1000 <= probe_audio(g)['rate']
    long = film(tmp_path / 'long.mp4', n=30 * 45)
    assert np.allclose(
        np.diff([np.asarray(p).mean() for p in read_frames(long, 3)]), 200 / 3, atol=4
    ), 'jumps land where decoding would'


def test_a_film_is_turned_as_it_says(tmp_path):
    f = film(tmp_path / 'x.mp4')
    data, one = f.read_bytes(), 1 << 16
    plain = struct.pack('>9i', one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    at = data.index(plain, data.index(b'tkhd'))
    f.write_bytes(
        data[:at]
        + struct.pack('>9i', 0, one, 0, -one, 0, 0, 48 << 16, 0, 1 << 30)
        + data[at + 36 :]
    )
    assert read_frames(f, 1)[0].size == (48, 64)


# ---------------------------------------------------------------- real files


@needs('audio_formats')
def test_real_sounds():
    for r in pd.read_csv(SHARED / 'audio_formats/index.csv').itertuples():
        x, p = (
            load_audio(SHARED / 'audio_formats' / r.file),
            probe_audio(SHARED / 'audio_formats' / r.file),
        )
        assert (
            abs(len(x) / SAMPLE_RATE - r.seconds) < 0.05 and np.abs(x).max() > 0.01
        ), r.file
        assert (p['rate'], p['channels']) == (r.samplerate, r.channels) and abs(
            p['seconds'] - r.seconds
        ) < 0.05


@needs('audio_formats')
def test_containers_agree():
    mp3, ogg = (load_audio(SHARED / f'audio_formats/bear.{e}') for e in ('mp3', 'ogg'))
    n = min(len(mp3), len(ogg))
    a, b = (np.abs(np.fft.rfft(x[:n])) for x in (mp3, ogg))
    assert np.corrcoef(a, b)[0, 1] > 0.95


@needs('video')
def test_real_films():
    for r in pd.read_csv(SHARED / 'video/index.csv').itertuples():
        f = SHARED / 'video' / r.file
        got = read_frames(f, 4)
        assert len(got) == 4 and got[0].size == (r.width, r.height), r.file
        if r.n_audio:
            assert (
                abs(
                    len(load_audio(f)) / SAMPLE_RATE - r.audio_samples_decoded / r.arate
                )
                < 0.1
            ), r.file
        else:
            refused(load_audio, f)


@needs('esc')
def test_real_esc():
    files = sorted((SHARED / 'esc/audio').glob('*.ogg'))[::25]
    for f in files:
        assert 3 < len(load_audio(f)) / SAMPLE_RATE < 8
    assert (load_audio(files[0]) == load_audio(files[0])).all()
