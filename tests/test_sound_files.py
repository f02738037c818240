"Sound of every format, whole, joined, cut and damaged: all of it is heard, or a sentence says what is not."

import io
import os
import struct
import tempfile
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf
import soxr

from wavbrivl.core.files import BadFile, BadInput, gather_notes
from wavbrivl.media import decoding
from wavbrivl.media.sound import load_audio, probe_audio, stream_audio

CASES = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'cases'
LAYOUTS = {1: 'mono', 2: 'stereo', 6: '5.1'}


def sweep(rate, seconds, channels=1, low=200, high=900):
    "A rising tone [n, channels] that swells: its place in time can be told."
    t = np.arange(round(rate * seconds)) / rate
    tone = np.sin(2 * np.pi * (low * t + (high - low) * t**2 / (2 * seconds)))
    tone *= 0.2 + 0.2 * np.sin(2 * np.pi * 3 * t)
    return np.stack([tone / (1 + c / 2) for c in range(channels)], 1).astype('f4')


def by_ffmpeg(x, rate, codec, container, **options):
    "The bytes of x [n, channels], encoded."
    out, layout = tempfile.NamedTemporaryFile(), LAYOUTS[x.shape[1]]
    with av.open(out.name, 'w', format=container, options=options.pop('mux', {})) as c:
        track = c.add_stream(codec, rate=rate, layout=layout, options=options)
        if 'global_quality' not in options:
            track.bit_rate = 128000
        plane = np.ascontiguousarray(x.T)
        frame = av.AudioFrame.from_ndarray(plane, 'fltp', layout)
        frame.sample_rate, frame.pts = rate, 0
        best = track.codec_context.codec.audio_formats or [None]
        name = best[0].name if best[0] else 's16'
        track.codec_context.format = name
        turn = av.AudioResampler(name, layout, rate)
        for f in (*turn.resample(frame), *turn.resample(None)):
            for packet in track.encode(f):
                c.mux(packet)
        for packet in track.encode(None):
            c.mux(packet)
    with out:
        return Path(out.name).read_bytes()


def by_soundfile(x, rate, subtype, container):
    out = io.BytesIO()
    sf.write(out, x, rate, subtype, format=container)
    return out.getvalue()


def heard(data, **k):
    "The sound, and the notes on it."
    with gather_notes() as notes:
        x = load_audio(data, **k)
    return x, [n.text for n in notes]


def refused(source, *a, **k) -> str:
    with pytest.raises(BadInput) as e:
        load_audio(source, *a, **k)
    reason = getattr(e.value, 'reason', str(e.value))
    assert reason[-1] in '.)' and len(reason) > 15, 'a sentence'
    return reason


def expected(x, rate):
    return soxr.resample(x.mean(1).astype('f4'), rate, 16000, 'HQ')


def difference(y, x):
    "The error inside, where both are there, as a share of the sound."
    n = min(len(x), len(y)) - 800
    if n < 800:
        return 0.0
    a, b = y[400:n], x[400:n]
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


# name: writer, arguments, rates, samples of 16 kHz that may be added, delay in samples of its rate, error
CODINGS = {
    'mp3': (
        by_ffmpeg,
        ('libmp3lame', 'mp3'),
        (16000, 22050, 44100, 48000),
        60,
        0,
        0.07,
    ),
    'mp3 vbr': (by_ffmpeg, ('libmp3lame', 'mp3'), (16000, 44100), 60, 0, 0.07),
    'mp3 vbr of libsndfile': (
        by_soundfile,
        ('MPEG_LAYER_III', 'MP3'),
        (44100, 32000),
        2,
        0,
        0.07,
    ),
    'mp3 in wav': (by_ffmpeg, ('libmp3lame', 'wav'), (44100,), 900, 1105, 0.07),
    'mp3 in matroska': (by_ffmpeg, ('libmp3lame', 'matroska'), (44100,), 2, 0, 0.07),
    'mp2': (by_ffmpeg, ('mp2', 'mp2'), (44100, 48000), 500, 481, 0.15),
    'aac in mp4': (by_ffmpeg, ('aac', 'mp4'), (16000, 44100, 48000), 1100, 0, 0.15),
    'aac in adts': (by_ffmpeg, ('aac', 'adts'), (16000, 44100), 2100, 1024, 0.25),
    'aac in matroska': (by_ffmpeg, ('aac', 'matroska'), (44100,), 500, 0, 0.15),
    'opus': (by_ffmpeg, ('libopus', 'ogg'), (48000, 16000), 2, 0, 0.05),
    'opus in webm': (by_ffmpeg, ('libopus', 'webm'), (48000,), 2, 0, 0.05),
    'opus of libsndfile': (by_soundfile, ('OPUS', 'OGG'), (48000, 16000), 2, 0, 0.05),
    'vorbis': (by_soundfile, ('VORBIS', 'OGG'), (8000, 16000, 44100), 2, 0, 0.06),
    'flac': (
        by_soundfile,
        ('PCM_16', 'FLAC'),
        (8000, 16000, 44100, 192000),
        0,
        0,
        0.001,
    ),
    'flac 24': (by_soundfile, ('PCM_24', 'FLAC'), (44100,), 0, 0, 0.001),
    'flac in ogg': (by_ffmpeg, ('flac', 'ogg'), (44100,), 0, 0, 0.001),
    'alac': (by_ffmpeg, ('alac', 'mp4'), (44100,), 0, 0, 0.001),
    'alac of libsndfile': (by_soundfile, ('ALAC_16', 'CAF'), (44100,), 0, 0, 0.001),
    'ac3': (by_ffmpeg, ('ac3', 'ac3'), (48000,), 600, 256, 0.1),
    'wavpack': (by_ffmpeg, ('wavpack', 'wv'), (44100,), 0, 0, 0.01),
    'tta': (by_ffmpeg, ('tta', 'tta'), (44100,), 2, 0, 0.01),
    'ima adpcm': (by_soundfile, ('IMA_ADPCM', 'WAV'), (8000, 44100), 1300, 0, 0.05),
    'ms adpcm': (by_soundfile, ('MS_ADPCM', 'WAV'), (8000, 44100), 1100, 0, 0.05),
    'gsm': (by_soundfile, ('GSM610', 'WAV'), (8000,), 1000, 0, 0.3),
    'g721': (by_soundfile, ('G721_32', 'AU'), (8000,), 300, 0, 0.1),
    'mu-law': (by_soundfile, ('ULAW', 'WAV'), (8000, 16000), 0, 0, 0.02),
    'a-law': (by_soundfile, ('ALAW', 'AU'), (8000,), 0, 0, 0.02),
    'wav 8': (by_soundfile, ('PCM_U8', 'WAV'), (11025,), 0, 0, 0.05),
    'wav 16': (by_soundfile, ('PCM_16', 'WAV'), (8000, 44100, 192000), 0, 0, 0.001),
    'wav 24': (by_soundfile, ('PCM_24', 'WAVEX'), (48000,), 0, 0, 0.001),
    'wav float': (by_soundfile, ('FLOAT', 'RF64'), (48000,), 0, 0, 0.001),
    'aiff': (by_soundfile, ('PCM_24', 'AIFF'), (44100,), 0, 0, 0.001),
    'caf': (by_soundfile, ('PCM_16', 'CAF'), (44100,), 0, 0, 0.001),
    'w64': (by_soundfile, ('PCM_16', 'W64'), (44100,), 0, 0, 0.001),
    'pcm in matroska': (by_ffmpeg, ('pcm_s16le', 'matroska'), (44100,), 0, 0, 0.001),
    'pcm in mov': (by_ffmpeg, ('pcm_s16be', 'mov'), (44100,), 0, 0, 0.001),
    'amr': (by_ffmpeg, ('libopencore_amrnb', 'amr'), (8000,), 700, 40, 0.5),
}
ONE_CHANNEL = ('gsm', 'g721', 'amr', 'mp3 in wav')


@pytest.mark.parametrize('name', CODINGS)
def test_blocks_are_the_whole(name, monkeypatch, tmp_path):
    "Six inputs a coding: length, place in time, values, the independent decoder, and what the probe says."
    write, how, rates, extra, delay, error = CODINGS[name]
    rng = np.random.default_rng(list(name.encode()))
    options = (
        {'flags': '+qscale', 'global_quality': '472', 'q': '4'} if 'vbr' in name else {}
    )
    for i in range(6):
        rate = int(rng.choice(rates))
        channels = 1 if name in ONE_CHANNEL else int(rng.integers(1, 3))
        seconds = float(rng.choice([0.1, 0.5, 1, 2.345])) + float(rng.uniform(0, 0.1))
        x = sweep(rate, seconds, channels)
        data = write(x, rate, *how, **(options if write is by_ffmpeg else {}))
        want = expected(x, rate)
        late = round(delay * 16000 / rate)
        label = name, rate, channels, seconds
        monkeypatch.setattr(
            decoding, 'BLOCK', int(rng.choice([97, 1024, 5000, 1 << 17]))
        )
        f = tmp_path / f'{i}.bin'
        f.write_bytes(data)
        with gather_notes() as notes:
            y = np.concatenate(list(stream_audio(f)))
        assert not notes, (label, notes)
        assert (y == load_audio(io.BytesIO(data))).all()
        assert -17 <= len(y) - len(want) <= extra + late, (label, len(y) - len(want))
        assert difference(y[late:], want) < error, (label, difference(y[late:], want))
        found = probe_audio(f)
        assert found['channels'] == channels, label
        if found['seconds'] is not None:
            assert abs(found['seconds'] - len(y) / 16000) < 0.05, (label, found)
        try:
            other = sf.read(io.BytesIO(data), always_2d=True)[0]
        except sf.LibsndfileError:
            continue
        own_rate = sf.info(io.BytesIO(data)).samplerate
        assert difference(y, expected(other, own_rate)) < 0.02, label


def test_wma():
    "ffmpeg takes off two frames, as of files by Microsoft; its own have one in front."
    x = sweep(44100, 1.05)
    y, notes = heard(by_ffmpeg(x, 44100, 'wmav2', 'asf'))
    assert abs(len(y) / 16000 - 1.05) < 0.05 and not notes
    assert difference(y, expected(x, 44100)[743:]) < 0.1


# ---------------------------------------------------------------- sounds behind sounds


def beats(rate, seconds, hz):
    "A tone [n, 1] of one pitch."
    t = np.arange(round(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * hz * t))[:, None].astype('f4')


def pitch(y):
    "The frequency of the greatest line in Hz."
    return np.abs(np.fft.rfft(y * np.hanning(len(y)))).argmax() * 16000 / len(y)


VBR = dict(flags='+qscale', global_quality='472')


def coded(codec, container, **k):
    return lambda x, rate: by_ffmpeg(x, rate, codec, container, **k)


def written(subtype, container):
    return lambda x, rate: by_soundfile(x, rate, subtype, container)


vbr = coded('libmp3lame', 'mp3', **VBR)


def cbr(x, rate):
    return by_ffmpeg(x, rate, 'libmp3lame', 'mp3', mux={'write_xing': '0'})


def tagged(x, rate):
    tag = b'ID3\x03\0\0\0\0\x20\0' + b'APIC' + bytes(range(256)) * 15 + bytes(252)
    return tag + vbr(x, rate) + b'TAG' + bytes(125)


JOINED = {
    'mp3': (vbr, vbr),
    'mp3 with tags': (tagged, tagged),
    'mp3, then one with tags': (vbr, tagged),
    'mp3 without xing': (cbr, cbr),
    'mp3 without xing, then with': (cbr, vbr),
    'adts': (coded('aac', 'adts'), coded('aac', 'adts')),
    'vorbis': (written('VORBIS', 'OGG'), written('VORBIS', 'OGG')),
    'opus': (coded('libopus', 'ogg'), coded('libopus', 'ogg')),
    'flac in ogg': (coded('flac', 'ogg'), coded('flac', 'ogg')),
    'vorbis, then opus': (written('VORBIS', 'OGG'), coded('libopus', 'ogg')),
    'flac': (written('PCM_16', 'FLAC'), written('PCM_24', 'FLAC')),
    'wav': (written('PCM_16', 'WAV'), written('PCM_16', 'WAV')),
    'wav, then rf64': (written('PCM_16', 'WAV'), written('FLOAT', 'RF64')),
    'wav, then mp3': (written('PCM_16', 'WAV'), tagged),
    'aiff': (written('PCM_16', 'AIFF'), written('FLOAT', 'AIFF')),
    'au': (written('PCM_16', 'AU'), written('PCM_16', 'AU')),
    'caf': (written('PCM_16', 'CAF'), written('PCM_16', 'CAF')),
    'w64': (written('PCM_16', 'W64'), written('PCM_16', 'W64')),
    'mp4': (coded('aac', 'mp4'), coded('alac', 'mp4')),
    'matroska': (coded('libopus', 'matroska'), coded('libopus', 'webm')),
    'asf': (coded('wmav2', 'asf'), coded('wmav2', 'asf')),
    'tta': (coded('tta', 'tta'), coded('tta', 'tta')),
    'wavpack': (coded('wavpack', 'wv'), coded('wavpack', 'wv')),
    'ac3': (coded('ac3', 'ac3'), coded('ac3', 'ac3')),
    'amr': (coded('libopencore_amrnb', 'amr'), coded('libopencore_amrnb', 'amr')),
}


@pytest.mark.parametrize('change', ['same', 'rate', 'channels'])
@pytest.mark.parametrize('kind', JOINED)
def test_joined(kind, change):
    "The first lasts 1 s and has 400 Hz, the second lasts 2 s and has 700 Hz."
    first, second = JOINED[kind]
    rates = (44100, 22050) if change == 'rate' else (48000, 48000)
    if change == 'rate' and ('opus' in kind or kind in ('matroska', 'ac3')):
        rates = (48000, 32000) if kind == 'ac3' else (48000, 24000)
    if kind == 'amr':
        rates = 8000, 8000
    b = beats(rates[1], 2, 700)
    if change == 'channels' and kind != 'amr':
        b = np.repeat(b, 2, 1)
    data = first(beats(rates[0], 1, 400), rates[0]) + second(b, rates[1])
    y, notes = heard(data)
    assert abs(len(y) / 16000 - 3) < 0.2, (len(y) / 16000, notes)
    assert abs(pitch(y[2000:13000]) - 400) < 5
    assert abs(pitch(y[20000:46000]) - 700) < 5
    quiet = np.abs(y[20000:46000].reshape(-1, 500)).max(1).min()
    assert quiet > 0.2 and not notes, (quiet, notes)
    seconds = probe_audio(data)['seconds']
    assert seconds is None or abs(seconds - len(y) / 16000) < 0.1, seconds


# ---------------------------------------------------------------- lengths that are not known


def patched(data, *patches):
    data = bytearray(data)
    for at, new in patches:
        data[at : at + len(new)] = new
    return bytes(data)


U32 = (0, 2**32 - 1, 2**32 - 37, 2**32 - 45, 2**32 - 2, 0x7FFFF000, 0x7FFFF024)
U32 += (0x7FFFFFFF, 0x7FFFFFFF - 36, 2**31)
U64 = (0, 2**64 - 1, 2**63 - 1, 2**32 - 1)


def unknown_lengths():
    x, rate = beats(16000, 2, 500), 16000
    wav = by_soundfile(x, rate, 'PCM_16', 'WAV')
    for n in U32:
        size = struct.pack('<I', n)
        yield f'wav {n:x}', patched(wav, (40, size), (4, size))
    rf64 = by_soundfile(x, rate, 'FLOAT', 'RF64')
    at = rf64.index(b'ds64')
    for n in U64:
        size = struct.pack('<QQ', n, n)
        yield f'rf64 {n:x}', patched(rf64, (at + 8, size))
    w64 = by_soundfile(x, rate, 'PCM_16', 'W64')
    at = w64.index(b'data')
    for n in U64:
        yield f'w64 {n:x}', patched(w64, (at + 16, struct.pack('<Q', n)))
    aiff = by_soundfile(x, rate, 'PCM_16', 'AIFF')
    frames, size = aiff.index(b'COMM') + 10, aiff.index(b'SSND') + 4
    for n in (0, 2**32 - 1, 2**31 - 1):
        number = struct.pack('>I', n)
        yield f'aiff {n:x}', patched(aiff, (frames, number), (size, number))
    au = by_soundfile(x, rate, 'PCM_16', 'AU')
    for n in (0, 2**32 - 1, 2**31 - 1):
        yield f'au {n:x}', patched(au, (8, struct.pack('>I', n)))
    caf = by_soundfile(x, rate, 'PCM_16', 'CAF')
    at = caf.index(b'data') + 4
    for n in (0, 2**64 - 1, 2**63 - 1):
        yield f'caf {n:x}', patched(caf, (at, struct.pack('>Q', n)))
    flac = by_soundfile(x, rate, 'PCM_16', 'FLAC')
    yield 'flac 0', patched(flac, (21, bytes([flac[21] & 240]) + bytes(4)))
    yield (
        'flac frames',
        patched(flac, (12, bytes(6)), (21, bytes([flac[21] & 240]) + bytes(4))),
    )
    adpcm = by_soundfile(x, rate, 'MS_ADPCM', 'WAV')
    at = adpcm.index(b'data') + 4
    yield 'adpcm', patched(adpcm, (at, b'\xff' * 4))
    live = by_ffmpeg(x, rate, 'libopus', 'webm', mux={'live': '1'})
    yield 'webm live', live


UNKNOWN = dict(unknown_lengths())


@pytest.mark.parametrize('kind', UNKNOWN)
def test_unknown_length(kind, tmp_path):
    "Two seconds are there, and nobody says that anything is missing; behind it another one is found, too."
    (tmp_path / 'x.dat').write_bytes(UNKNOWN[kind])
    y, notes = heard(tmp_path / 'x.dat')
    assert abs(len(y) / 16000 - 2) < 0.07 and not notes, (len(y), notes)
    assert abs(pitch(y) - 500) < 2 and np.abs(y).max() > 0.3
    assert abs(probe_audio(tmp_path / 'x.dat')['seconds'] - 2) < 0.07
    y, notes = heard(UNKNOWN[kind] + UNKNOWN[kind])
    assert abs(len(y) / 16000 - 4) < 0.14 and not notes, (len(y), notes)


# ---------------------------------------------------------------- cut and damaged

PROMISING = {
    'wav': written('PCM_16', 'WAV'),
    'rf64': written('PCM_24', 'RF64'),
    'w64': written('PCM_16', 'W64'),
    'aiff': written('PCM_16', 'AIFF'),
    'au': written('PCM_16', 'AU'),
    'caf': written('PCM_16', 'CAF'),
    'adpcm': written('IMA_ADPCM', 'WAV'),
    'mp3 in wav': coded('libmp3lame', 'wav'),
    'flac': written('PCM_16', 'FLAC'),
    'mp3': vbr,
    'mp3 of constant rate': coded('libmp3lame', 'mp3'),
    'mp4': coded('aac', 'mp4', mux={'movflags': 'faststart'}),
    'alac': coded('alac', 'mp4', mux={'movflags': 'faststart'}),
    'matroska': coded('aac', 'matroska'),
    'asf': coded('wmav2', 'asf'),
    'tta': coded('tta', 'tta'),
    'wavpack': coded('wavpack', 'wv'),
}


@pytest.mark.parametrize('kind', PROMISING)
def test_cut(kind):
    "Of four seconds a share is there."
    rng = np.random.default_rng(3)
    x = beats(44100, 4, 500) + rng.normal(0, 0.02, (4 * 44100, 1)).astype('f4')
    data = PROMISING[kind](x, 44100)
    head = data.find(b'mdat') if kind in ('mp4', 'alac') else 0
    for share in (0.96, 0.8, 0.65):
        y, notes = heard(data[: head + int((len(data) - head) * share)])
        coarse = 0.28 if kind in ('tta', 'wavpack') else 0.08  # frames of a second
        assert abs(len(y) / 64000 - share) < coarse
        assert len(notes) == 1 and 'cut short: ' in notes[0], notes
        promised, found = (float(w) for w in notes[0].split() if w[0].isdigit())
        assert abs(promised - 4) < 0.2 and abs(found - len(y) / 16000) < 0.02, notes
    for share in (0.4, 0.2):
        reason = refused(data[: head + int((len(data) - head) * share)])
        assert 'cut short' in reason and 'promised' in reason
    y, notes = heard(data)
    assert not notes
    y, notes = heard(data + data[: head + int((len(data) - head) * 0.7)])
    assert abs(len(y) / 16000 - 6.8) < 0.4 and len(notes) == 1, (len(y), notes)


@pytest.mark.parametrize(
    'kind',
    [
        'flac',
        'mp3',
        'aac',
        'alac',
        'opus',
        'vorbis',
        'matroska',
        'wavpack',
        'tta',
        'mp4',
    ],
)
def test_damaged_in_the_middle(kind):
    "Two stretches of a sound of six seconds are overwritten."
    rng = np.random.default_rng(4)
    x = beats(44100, 6, 500) + rng.normal(0, 0.05, (6 * 44100, 1)).astype('f4')
    more = {
        'aac': coded('aac', 'adts'),
        'opus': coded('libopus', 'ogg'),
        'vorbis': written('VORBIS', 'OGG'),
    }
    rate = 48000 if kind == 'opus' else 44100
    data = (PROMISING | more)[kind](x, rate)
    a, b = len(data) * 2 // 5, len(data) * 3 // 5
    noise = rng.bytes(len(data) // 20)
    y, notes = heard(patched(data, (a, noise), (b, noise)))
    assert len(notes) == 1 and (' s ' in notes[0]), notes
    print(kind, len(y) / 16000, notes)
    assert 3.2 < len(y) / 16000 < 6.2


def test_noise_is_no_mp3():
    rng = np.random.default_rng(5)
    for n in (100, 5000, 3 << 20):
        refused(rng.bytes(n))
    refused(b'ID3\x03\0\0\0\0\x10\0' + rng.bytes(1 << 20))
