"Sound of every format, whole, joined, cut and damaged: all of it is heard, or a sentence says what is not."

import gzip
import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf
import soxr

from sound_writers import by_ffmpeg, by_soundfile
from wavbrivl.core.files import BadFile, BadInput, gather_notes
from wavbrivl.media import decoding
from wavbrivl.media.sound import load_audio, probe_audio, stream_audio

CASES = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'cases'


def sweep(rate, seconds, channels=1, low=200, high=900):
    "A rising tone [n, channels] that swells: its place in time can be told."
    t = np.arange(round(rate * seconds)) / rate
    tone = np.sin(2 * np.pi * (low * t + (high - low) * t**2 / (2 * seconds)))
    tone *= 0.2 + 0.2 * np.sin(2 * np.pi * 3 * t)
    return np.stack([tone / (1 + c / 2) for c in range(channels)], 1).astype('f4')


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


U32 = (0, 2**32 - 1, 2**32 - 37, 2**32 - 45, 0x7FFFF000, 0x7FFFF024)
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
        assert len(notes) == 1 and ' s promised' in notes[0], notes
        assert kind == 'tta' or 'cut short: ' in notes[0], notes
        promised, found = (float(w) for w in notes[0].split() if w[0].isdigit())
        assert abs(promised - 4) < 0.2 and abs(found - len(y) / 16000) < 0.02, notes
    for share in (0.4, 0.2):
        reason = refused(data[: head + int((len(data) - head) * share)])
        assert 'cut short' in reason and 'promised' in reason
    y, notes = heard(data)
    assert not notes
    y, notes = heard(data + data[: head + int((len(data) - head) * 0.7)])
    assert abs(len(y) / 16000 - 6.8) < 4 * coarse + 0.1 and len(notes) == 1, (
        len(y),
        notes,
    )


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


# ---------------------------------------------------------------- channels that cancel


def stereo(*channels):
    return np.stack(channels, 1).astype('f4')


RNG = np.random.default_rng(6)
HISS = RNG.normal(0, 0.1, 80000)
TONE = beats(16000, 5, 300)[:, 0]
CANCELLING = {
    'right = -left': stereo(TONE, -TONE),
    'right = -0.8 left': stereo(TONE, -0.8 * TONE),
    'left = -0.8 right': stereo(-0.8 * TONE, TONE),
    'with some hiss': stereo(TONE, -TONE + 0.3 * HISS),
    'behind silence': stereo(*np.concatenate([np.zeros((2, 40000)), [TONE, -TONE]], 1)),
    'a sound and its opposite among four': stereo(TONE, -TONE, 0 * TONE, 0 * TONE),
}
ORDINARY = {
    'the same': stereo(TONE, TONE),
    'right silent': stereo(TONE, 0 * TONE),
    'independent': stereo(TONE, HISS),
    'a quarter turn': stereo(TONE, np.roll(TONE, 40)),
    'half of it': stereo(TONE, -0.5 * TONE),
    'silence': stereo(0 * TONE, 0 * TONE),
    'six, one of them heard': stereo(TONE, *[0 * TONE] * 5),
    '64 of hiss': RNG.normal(0, 0.1, (16000, 64)).astype('f4'),
}


@pytest.mark.parametrize('kind', CANCELLING)
def test_cancelling_channels(kind, monkeypatch, tmp_path):
    x = CANCELLING[kind]
    best = x[:, (x**2).sum(0).argmax()]
    sf.write(tmp_path / 'x.wav', x, 16000, 'FLOAT')
    sf.write(tmp_path / 'x.flac', x, 16000, 'PCM_24')
    for block in (100, 1000, 1 << 16):
        monkeypatch.setattr(decoding, 'BLOCK', block)
        y, notes = heard(tmp_path / 'x.wav')
        assert (y == best).all() and len(notes) == 1 and 'cancel' in notes[0]
        y, notes = heard(tmp_path / 'x.wav', max_seconds=0.3)
        assert (y == best[:4800]).all()
    y, notes = heard(tmp_path / 'x.flac')
    assert np.abs(y - best).max() < 1e-6 and len(notes) == 1
    for a in (x, x.T):
        y, notes = heard(a, sample_rate=16000)
        assert (y == best).all() and len(notes) == 1 and 'cancel' in notes[0]


@pytest.mark.parametrize('kind', ORDINARY)
def test_ordinary_channels(kind, tmp_path):
    "The mean of the channels, to the bit, and no note."
    x = ORDINARY[kind]
    sf.write(tmp_path / 'x.wav', x, 16000, 'FLOAT')
    y, notes = heard(tmp_path / 'x.wav')
    assert (y == x.mean(1)).all() and not notes
    if x.shape[1] < 32:
        y, notes = heard(x, sample_rate=16000)
        assert (y == x.mean(1)).all() and not notes


def test_channels_that_cancel_later():
    x = np.concatenate([stereo(HISS, HISS)] * 4 + [stereo(HISS, -HISS)] * 6)
    y, notes = heard(by_soundfile(x, 16000, 'FLOAT', 'WAV'))
    assert (y == x.mean(1)).all()
    assert len(notes) == 1 and 'later' in notes[0]


# ---------------------------------------------------------------- in memory


class Pipe(io.RawIOBase):
    "Bytes that come once, in short pieces."

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        piece = self.data.read(min(len(buffer), 1000))
        buffer[: len(piece)] = piece
        return len(piece)


def test_files_in_memory(tmp_path):
    x = beats(16000, 1, 440)
    for kind in ('wav', 'flac', 'mp3', 'caf', 'mp4'):
        data = (PROMISING | {'wav': written('FLOAT', 'WAV')})[kind](x, 16000)
        (tmp_path / 'x').write_bytes(data)
        y = load_audio(tmp_path / 'x')
        same = [data, bytearray(data), memoryview(data), io.BytesIO(data), Pipe(data)]
        same += [
            {'bytes': data, 'path': None},
            {'bytes': None, 'path': str(tmp_path / 'x')},
        ]
        same += [os.fsencode(tmp_path / 'x').decode(), open(tmp_path / 'x', 'rb')]
        for source in same:
            assert (load_audio(source) == y).all(), (kind, source)
        behind = io.BytesIO(b'header' + data)
        behind.seek(6)
        assert (load_audio(behind) == y).all() and behind.tell() == 6
        assert (load_audio(behind) == y).all()
        assert abs(probe_audio(data)['seconds'] - len(y) / 16000) < 0.05
        assert (np.concatenate(list(stream_audio(io.BytesIO(data)))) == y).all()
    assert 'text' in refused(io.StringIO('hello'))
    assert 'empty' in refused(b'') and 'empty' in refused(io.BytesIO())


def test_samples_in_memory():
    import torch

    x = beats(16000, 1, 440)[:, 0]
    full = np.round(x.astype(float) * 32767).astype(np.int16)
    for sound, error in (
        (x, 0),
        (x.tolist(), 0),
        (tuple(x.tolist()), 0),
        (x.astype(np.float64), 0),
        (x.astype(np.float16), 1e-3),
        (full, 1e-4),
        (full.astype('>i2'), 1e-4),
        (full.astype(np.int32) << 16, 1e-4),
        ((full >> 8).astype(np.int8), 0.01),
        (((full >> 8) + 128).astype(np.uint8), 0.01),
        (torch.from_numpy(x), 0),
        (torch.from_numpy(x).half(), 1e-3),
        (torch.from_numpy(x).bfloat16(), 1e-2),
        (torch.from_numpy(x).double().requires_grad_(), 0),
        (torch.from_numpy(full)[None], 1e-4),
        ([x.tolist(), x.tolist()], 0),
        (np.ma.array(x), 0),
    ):
        y = load_audio(sound, 16000)
        assert y.dtype == np.float32 and np.abs(y - x).max() <= error + 1e-7
    for sound in (
        (x, 16000),
        (16000, x),
        (np.int64(16000), full),
        (torch.from_numpy(x), 16000.0),
        {'array': x, 'sampling_rate': 16000, 'path': 'a.wav'},
        {'raw': x, 'sampling_rate': 16000},
        {'waveform': torch.from_numpy(x)[None], 'sample_rate': 16000},
    ):
        assert np.abs(load_audio(sound) - x).max() < 1e-4
        assert len(load_audio(sound, sample_rate=16000)) == 16000
        assert '48000' in refused(sound, sample_rate=48000)
    assert len(load_audio((0.1, 0.2), 16000)) == 2
    assert len(load_audio((8000, x))) == 32000


def test_samples_that_are_refused():
    x = beats(16000, 1, 440)[:, 0]
    assert 'sample_rate' in refused(x) and 'sample_rate' in refused([0.1, 0.2])
    assert 'number' in refused(x, sample_rate='16k')
    for bad in (np.nan, np.inf, -np.inf):
        y = x.copy()
        y[8000] = bad
        assert '0.50 s' in refused(y, 16000) and '0.50 s' in refused(
            np.stack([y, y]), 16000
        )
    for bad in (
        [1, 2, 3],
        np.zeros(9, np.int64),
        np.zeros(9, bool),
        np.zeros(9, complex),
        np.array(['a']),
        [[0.1], [0.2, 0.3]],
        [None, 0.1],
        [],
        np.zeros((7, 7)),
        np.zeros((1, 2, 3)),
        object(),
        None,
        0.5,
    ):
        refused(bad, 16000)
    for bad in ({}, {'path': None}, {'wave': x}):
        assert 'dictionary' in refused(bad)
    for rate in (0, -1, 1, float('nan'), float('inf'), 10**9):
        assert 'Hz' in refused(x, rate)
    y, notes = heard(x * 32768, sample_rate=16000)
    assert len(notes) == 1 and 'full scale' in notes[0]


# ---------------------------------------------------------------- what is no sound


def zip_of(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z:
        z.writestr('a.mp3', data)
    return out.getvalue()


FOREIGN = {
    'zip': lambda: zip_of(vbr(beats(44100, 3, 440), 44100)),
    'web page': lambda: (
        b'\r\n <!DOCTYPE html>\n<html><body>404 Not Found</body></html>'
    ),
    'XML': lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    'text': lambda: 'Dear reader, this is not a sound. Ünïcode'.encode(),
    'text ': lambda: 'Dear reader, this is no sound either.'.encode('utf-16'),
    'PDF': lambda: b'%PDF-1.4 ' + bytes(100),
    'picture': lambda: b'\x89PNG\r\n\x1a\n' + bytes(100),
    'gzip': lambda: gzip.compress(
        written('PCM_16', 'WAV')(beats(16000, 1, 440), 16000)
    ),
    'Git LFS': lambda: (
        b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
    ),
    'playlist': lambda: b'#EXTM3U\n#EXTINF:1,\n/etc/hostname\n',
    'MIDI': lambda: b'MThd\0\0\0\6\0\1\0\2\1\xe0' + bytes(50),
    'zeros': lambda: bytes(5000),
}


@pytest.mark.parametrize('what', FOREIGN)
@pytest.mark.parametrize('ending', ['wav', 'mp3', 'flac'])
def test_what_is_no_sound_is_named(what, ending, tmp_path):
    f = tmp_path / f'x.{ending}'
    f.write_bytes(FOREIGN[what]())
    assert what.strip() in refused(f)
    with pytest.raises(BadFile, match=what.strip()):
        probe_audio(f)


def test_names_and_places(tmp_path):
    data = written('PCM_16', 'WAV')(beats(16000, 1, 440), 16000)
    mp3 = vbr(beats(16000, 1, 440), 16000)
    for name in (
        b'bad\xff\xfename.wav',
        b'new\nline.mp3',
        b'-.wav',
        b'%s.wav',
        b'http:x.mp3',
    ):
        for content in (data, mp3):
            f = os.path.join(os.fsencode(tmp_path), name)
            with open(f, 'wb') as out:
                out.write(content)
            assert len(load_audio(os.fsdecode(f))) == 16000
            assert len(load_audio(Path(os.fsdecode(f)))) == 16000
    os.symlink('loop.wav', tmp_path / 'loop.wav')
    os.symlink('nowhere', tmp_path / 'dead.wav')
    os.mkfifo(tmp_path / 'pipe.wav')
    (tmp_path / 'folder.wav').mkdir()
    for name, word in dict(
        loop='links', dead='nowhere', pipe='pipe', folder='folder'
    ).items():
        assert word in refused(tmp_path / f'{name}.wav')
    assert 'device' in refused('/dev/zero')
    assert 'zero byte' in refused('a\0b.wav')
    refused('x' * 5000)


def test_leading_bytes():
    "Tags and zeros before a sound, of every kind."
    x = beats(16000, 1, 440)
    tag = b'ID3\x04\0\0\0\0\1\x10' + b'TIT2' + bytes(140)
    for write in (
        written('PCM_16', 'WAV'),
        written('PCM_16', 'FLAC'),
        vbr,
        coded('aac', 'adts'),
    ):
        want = load_audio(write(x, 16000))
        for lead in (tag, bytes(300), tag + bytes(999), tag + tag):
            y, notes = heard(lead + write(x, 16000))
            assert (y == want).all() and not notes
    y, notes = heard(vbr(x, 16000) + tag)
    assert len(y) == 16000 and not notes


def test_many_channels_and_short():
    x = np.repeat(beats(48000, 1, 440), 64, 1)
    y = load_audio(by_soundfile(x, 48000, 'PCM_16', 'WAV'))
    assert difference(y, expected(x[:, :1], 48000)) < 1e-3
    for rate in (8000, 192000):
        for seconds in (0.001, 0.01, 0.1):
            y = load_audio(
                by_soundfile(beats(rate, seconds, 440), rate, 'PCM_24', 'WAV')
            )
            assert len(y) == round(16000 * seconds)


def test_sound_tracks_of_a_film(tmp_path):
    "The second is marked as the one to play."
    f = str(tmp_path / 'x.mkv')
    with av.open(f, 'w') as c:
        tracks = [c.add_stream('aac', rate=16000, layout='mono') for _ in range(2)]
        tracks[0].metadata['language'], tracks[1].metadata['language'] = 'fra', 'deu'
        tracks[0].disposition = av.stream.Disposition(0)
        tracks[1].disposition = av.stream.Disposition.default
        for track, hz in zip(tracks, (400, 700)):
            frame = av.AudioFrame.from_ndarray(beats(16000, 2, hz).T, 'fltp', 'mono')
            frame.sample_rate = 16000
            for packet in (*track.encode(frame), *track.encode(None)):
                c.mux(packet)
    y, notes = heard(f)
    assert abs(pitch(y) - 700) < 3
    assert (
        len(notes) == 1
        and '2 sound tracks' in notes[0]
        and 'ger' in notes[0] + 'deuger'
    )


def test_memory_stays_flat(tmp_path):
    "Ten minutes, twenty times what is held."
    x = np.tile(RNG.normal(0, 0.1, (44100, 2)).astype('f4'), (600, 1))
    for kind in ('WAV', 'FLAC'):
        sf.write(tmp_path / 'x.bin', x, 44100, 'PCM_16', format=kind)
        tracemalloc.start()
        n = sum(map(len, stream_audio(tmp_path / 'x.bin')))
        assert n == 9600000 and tracemalloc.get_traced_memory()[1] < 3e7
        tracemalloc.stop()


# ---------------------------------------------------------------- the cases people bring


@pytest.mark.skipif(
    not CASES.is_dir(), reason='the folder with cases is not beside the checkout'
)
def test_cases():
    seconds = dict.fromkeys(('joined.mp3', 'chained.ogg', 'rate_changes.aac'), 6)
    for name, n in (seconds | {'unknown_length.flac': 2, 'mp3_in_wav.wav': 2}).items():
        y, notes = heard(CASES / name)
        assert abs(len(y) / 16000 - n) < 0.2 and not notes, name
        peaks = np.abs(y[: len(y) // 500 * 500].reshape(-1, 500)).max(1)
        assert np.mean(peaks < 0.1) < 0.05
    for name in ('data_size_7ffff000_sox.wav', 'data_size_7fffffff.wav'):
        assert len(load_audio(CASES / name)) == 32000
    wav, mp3 = load_audio(CASES / 'scene.wav'), load_audio(CASES / 'scene.mp3')
    assert difference(mp3, wav) < 0.3
    y, notes = heard(CASES / 'antiphase.wav')
    assert np.abs(y).max() > 0.2 and len(notes) == 1
