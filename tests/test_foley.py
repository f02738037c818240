"The generated corpus: the same bytes on every machine, and a truth that agrees with sounds, pictures and words."

import hashlib
import io
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from PIL import Image
from scipy.stats import spearmanr

import wavbrivl
from wavbrivl.core.files import BadInput
from wavbrivl.core.params import FoleyParams
from wavbrivl.foley.scene import (
    CLASSES,
    INDOORS,
    CLASS_TABLE,
    PLACES,
    LEVEL_RANGE_DB,
    FOLEY_RATE,
    alter,
    make_scene,
    draw_mismatches,
    read_table,
    make_scenes,
)
from wavbrivl.foley.captions import describe_scene
from wavbrivl.foley.sounds import render_sound, render_source
from wavbrivl.foley.canvas import SHAPES, Sheet, fill_polygon, paint_sheets
from wavbrivl.foley.pictures import REST, action_stage, draw_source, render_picture

PARAMS = FoleyParams()
CALM = FoleyParams(noise=0, overlap=0)
STEPS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def digest(split, index):
    "Everything a scene renders to, in one hash."
    s = make_scene(PARAMS, 5, split, index)
    return hashlib.sha256(
        render_sound(s).tobytes()
        + b''.join(render_picture(s, f).tobytes() for f in range(4))
        + repr(describe_scene(s)).encode()
    ).hexdigest()


def db(x):
    "Level of a sound, dBFS."
    return 20 * np.log10(np.sqrt(np.mean(np.square(x, dtype=float))))


def drawn(scene, size=192):
    "The object alone, on white."
    image = Image.new('RGB', (size, size), (255, 255, 255))
    paint_sheets(image, *draw_source(scene, 0, 1, size, 0.5, 0.95))
    return np.asarray(image).astype(int)


def of(label, params=CALM, seed=1, split='test', turn=0):
    "The scene of a class in the `turn`-th round of the 24 classes."
    return make_scene(params, seed, split, CLASSES.index(label) + len(CLASSES) * turn)


def test_tables_are_complete():
    "Each place has its words and its ground, and each outline is drawn by a class that exists."
    for column in ('where', 'ground'):
        assert set(read_table('places')[column]) == set(PLACES)
    code = ''.join(p.read_text() for p in Path(wavbrivl.__file__).parent.rglob('*.py'))
    for name, points in SHAPES.items():
        assert f"SHAPES['{name}']" in code, name
        assert points.shape[1] == 2 and np.isfinite(points).all()
        assert name.split()[0] in {*CLASSES, *PLACES, 'cloud'}


PLAIN = dict(  # no vector instructions in NumPy, OpenBLAS and the C library
    NPY_DISABLE_CPU_FEATURES='X86_V3 X86_V4 AVX512_ICL',
    OPENBLAS_CORETYPE='Prescott',
    GLIBC_TUNABLES='glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F',
)


@pytest.mark.parametrize('instructions', [{}, PLAIN], ids=['all', 'plain'])
def test_same_bytes_in_another_process(instructions):
    want = [digest('train', i) for i in range(0, 24, 3)]
    code = "from test_foley import digest; print(*[digest('train', i) for i in range(21, -1, -3)])"
    changes = {'PYTHONHASHSEED': '7', 'OMP_NUM_THREADS': '2', **instructions}
    got = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        cwd=__file__.rsplit('/', 1)[0],
        env={**os.environ, **changes},
    )
    assert got.stdout.split() == want[::-1]


def test_same_bytes_on_every_machine():
    "These were rendered once; x86-64 without AVX and FMA gives the same, and so does arm64."
    every = ' '.join(digest('train', i) for i in range(24))
    golden = 'b4f4e524623f469ca0e35e478b10d37adf1c5d43473daca52da105a8139ff399'
    assert hashlib.sha256(every.encode()).hexdigest() == golden


def holds(corners, x, y):
    "Whether a ray from (x, y) to the left crosses the outline an odd number of times."
    odd = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        if min(y0, y1) <= y < max(y0, y1):
            odd ^= x0 + Fraction((y - y0) * (x1 - x0), y1 - y0) // 1 <= x
    return odd


def test_a_polygon_holds_the_pixels_whose_centres_are_inside():
    rng = np.random.default_rng(0)
    for _ in range(20):
        steps = rng.integers(
            -80, 480, (rng.integers(3, 9), 2)
        )  # sixteenths of a pixel, some outside
        image = Image.new('RGB', (24, 20))
        fill_polygon(image, steps / 16, (0, 0, 255))
        want = [
            [holds(steps.tolist(), 16 * x + 8, 16 * y + 8) for x in range(24)]
            for y in range(20)
        ]
        assert np.array_equal(np.asarray(image)[:, :, 2] > 0, want)


def test_a_line_is_as_wide_as_asked_and_later_marks_lie_above():
    image = Image.new('RGB', (40, 40))
    sheet = Sheet()
    sheet.stroke([(5, 20), (35, 20)], (255, 0, 0), 6)
    sheet.stroke([(20, 5), (20, 35)], (0, 255, 0), 4)
    sheet.stroke([(8, 8)], (0, 0, 255), 6)
    paint_sheets(image, sheet)
    red, green, blue = np.moveaxis(np.asarray(image) > 0, 2, 0)
    assert red[:, 10].sum() == 6 and green[10].sum() == 4
    assert green[20].sum() == 4 and not red[green].any()
    assert blue.sum() == 32 and blue[5:11, 5:11].sum() == 32  # a disc of 6 pixels
    paint_sheets(image, Sheet())


def test_a_scene_travels_by_pickle():
    s = make_scene(PARAMS, 0, 'valid', 7)
    assert np.array_equal(render_sound(pickle.loads(pickle.dumps(s))), render_sound(s))


def test_splits_and_seeds_share_nothing():
    keys = [
        repr(replace(s, split='', index=0, seed=0))
        for seed in (0, 1)
        for split in ('train', 'valid', 'test')
        for s in make_scenes(FoleyParams(train=96, valid=96, test=96), seed, split)
    ]
    assert len(set(keys)) == len(keys)


def test_a_scene_does_not_depend_on_how_many_there_are():
    assert make_scene(FoleyParams(train=30), 0, 'train', 29) == make_scene(
        FoleyParams(train=3000), 0, 'train', 29
    )


def test_classes_are_balanced_and_overlap_is_as_asked():
    drawn_scenes = list(make_scenes(FoleyParams(train=960), 0, 'train'))
    assert [s.label for s in drawn_scenes[:24]] == list(CLASSES)
    assert len(set(CLASSES)) == len(CLASSES)
    overlap = np.mean([s.behind is not None for s in drawn_scenes])
    assert abs(overlap - PARAMS.overlap) < 0.06
    for s in drawn_scenes:
        assert not s.behind or s.behind.label != s.label
        for c in s.labels:
            assert s.place in CLASS_TABLE[c].places.split()
    assert set(INDOORS) < set(PLACES)


@pytest.mark.parametrize(
    'params',
    [
        PARAMS,
        FoleyParams(noise=1, overlap=1),
        FoleyParams(noise=0, min_seconds=0.4, max_seconds=0.6),
        FoleyParams(min_seconds=5, max_seconds=5),
    ],
)
def test_sound_has_the_length_and_level_of_its_scene(params):
    for i in range(0, 72, 2):
        s = make_scene(params, 2, 'train', i)
        x = render_sound(s)
        assert (
            x.dtype == np.float32
            and x.shape == (round(s.seconds * FOLEY_RATE),)
            and np.isfinite(x).all()
            and np.abs(x).max() < 1
        )
        assert params.min_seconds - 0.001 <= s.seconds <= params.max_seconds + 0.001
        assert abs(db(x) - s.level) < 1, s.label


@pytest.mark.parametrize('size', [32, 96, 200])
def test_pictures_have_any_size(size):
    p = render_picture(of('dog', PARAMS), 2, size)
    assert p.shape == (size, size, 3) and p.dtype == np.uint8 and p.std() > 5


def test_a_picture_shows_what_is_heard_when_it_is_taken():
    s = replace(of('dog', CALM), seconds=4.0)
    bark = replace(s.main, times=((0.3, 0.7), (2.6, 2.7)), count=1)
    s = replace(s, main=bark)
    stages = [action_stage(bark, s, k) for k in range(4)]
    assert stages == [pytest.approx(0.25), REST, REST, REST]
    calm = [render_picture(s, k) for k in range(4)]
    assert np.array_equal(calm[1], calm[3]) and not np.array_equal(calm[0], calm[1])
    rain = of('rain', CALM)
    lasting = replace(rain.main, times=((0.0, rain.seconds),))
    stages = [action_stage(lasting, rain, k) for k in range(4)]
    assert stages == [0, 0.25, 0.5, 0.75]


def test_a_summary_is_short_and_true():
    for i in range(48):
        s = make_scene(PARAMS, 5, 'train', i)
        d = describe_scene(s)
        words = d['summary'].lower().rstrip('.').split()
        assert 3 <= len(words) <= 16 and len(d['description'].split()) > len(words)
        assert ('while' in words or 'then' in words) == (s.behind is not None)
        assert d['description'].count('.') == 2 * len(s.sources) + 1


def test_frames_differ_but_little():
    for c in CLASSES:
        s = of(c, PARAMS)
        a, b = (render_picture(s, f).astype(float) for f in (0, 1))
        assert 0 < np.abs(a - b).mean() < 60, c


@pytest.mark.parametrize('label', CLASSES)
def test_events_match_energy(label):
    for turn in range(3):
        s = of(label, turn=turn)
        x = render_sound(s).astype(float) ** 2
        inside = np.zeros(len(x), bool)
        for onset, offset in s.main.times:
            assert 0 <= onset < offset <= s.seconds + 1e-6
            a, b = round(onset * FOLEY_RATE), round(offset * FOLEY_RATE)
            inside[a:b] = True
            assert x[a:b].mean() > 0.02 * x.mean(), f'{label}: a silent event'
        assert x[inside].sum() > 0.98 * x.sum(), f'{label}: sound outside its events'


@pytest.mark.parametrize('label', CLASSES)
def test_intensity_is_heard_and_seen(label):
    s = of(label, PARAMS, turn=1)
    levels = [db(render_sound(alter(s, intensity=v))) for v in STEPS]
    assert (
        np.all(np.diff(levels) > 0)
        and abs(levels[-1] - levels[0] - LEVEL_RANGE_DB) < 1.5
    )
    quiet = drawn(alter(s, intensity=0.0))
    ink = [(drawn(alter(s, intensity=v)) != quiet).any(2).sum() for v in STEPS]
    assert spearmanr(STEPS, ink)[0] > 0.8, ink


@pytest.mark.parametrize('label', [c for c in CLASSES if CLASS_TABLE[c].pitch])
def test_pitch_is_heard_and_seen(label):
    centroids, area = [], []
    for v in STEPS:
        s = alter(of(label), pitch=v)
        p = np.abs(np.fft.rfft(render_source(s)))
        centroids.append((p * np.linspace(0, 8000, len(p))).sum() / p.sum())
        area.append((drawn(s) != 255).any(2).sum())
    assert spearmanr(STEPS, centroids)[0] > 0.8, centroids
    assert spearmanr(STEPS, area)[0] < -0.8, area


@pytest.mark.parametrize('label', [c for c in CLASSES if CLASS_TABLE[c].rate])
def test_rate_is_heard_and_seen(label):
    s = of(label)
    if CLASS_TABLE[label].count > 1:
        s = alter(of(label, FoleyParams(noise=0, overlap=0, min_seconds=3)), count=1)
    slow, fast = alter(s, rate=0.0), alter(s, rate=1.0)
    if CLASS_TABLE[label].length[1]:
        assert len(fast.main.times) > len(slow.main.times)
    else:
        assert fast.main.hz > slow.main.hz
        assert not np.array_equal(render_sound(fast), render_sound(slow))
    pictures = [drawn(alter(s, rate=v)) for v in STEPS]
    assert len({p.tobytes() for p in pictures}) >= 3
    assert (pictures[0] != pictures[-1]).any(2).sum() > 100


@pytest.mark.parametrize('label', [c for c in CLASSES if CLASS_TABLE[c].count > 1])
def test_count_is_heard_and_seen(label):
    one, more = (alter(of(label), count=k) for k in (1, CLASS_TABLE[label].count))
    assert len(more.main.times) >= len(one.main.times) and not np.array_equal(
        drawn(one), drawn(more)
    )
    if CLASS_TABLE[label].counted:
        assert len(more.main.times) == more.main.count


def test_words():
    vocabulary, seen = set(), set()
    for split in ('train', 'test'):
        for s in make_scenes(PARAMS, 0, split):
            d = describe_scene(s)
            assert (
                2 <= len(d['captions']) <= 5
                and len(d['gloss']) == len(d['captions'])
                and len(set(d['captions'])) == len(d['captions'])
            )
            for c, g in zip(d['captions'], d['gloss']):
                spoken = c.lower().strip('.').replace(',', '').split()
                assert s.label in ' '.join(spoken), c
                assert (
                    c[0].isupper()
                    and c.endswith('.')
                    and '|' not in c
                    and '_' not in c
                    and '  ' not in c
                )
                assert g == g.upper() and 1 < len(g.split()) <= len(spoken)
                vocabulary |= set(spoken)
            assert [t['token'] for t in d['tokens']] == d['gloss'][0].split()
            for label in d['labels']:
                assert label in d['captions'][0].lower()
            seen.add(s.label)
    assert seen == set(CLASSES) and 100 < len(vocabulary) < 600


def test_gloss_keeps_the_order_of_the_words():
    for i in range(48):
        d = describe_scene(make_scene(PARAMS, 3, 'train', i))
        for c, g in zip(d['captions'], d['gloss']):
            words, at = c.lower().strip('.').replace(',', '').split(), -1
            for token in g.split():
                at = next(
                    k
                    for k in range(at + 1, len(words))
                    if words[k].startswith(token.lower()[:2])
                )


def test_truth_is_aligned():
    for i in range(240):
        s = make_scene(FoleyParams(overlap=1), 0, 'train', i)
        d = describe_scene(s)
        spans = {(src.times[0][0], max(t[1] for t in src.times)) for src in s.sources}
        assert {(t['onset'], t['offset']) for t in d['tokens']} == spans
        assert [e['label'] for e in d['events']] == [
            src.label for src in s.sources for _ in src.times
        ] and d['labels'] == [s.label, s.behind.label]
        values = {a['name']: a['value'] for a in d['attributes']}
        assert 0 <= values['intensity'] <= 1 and values['level'] == pytest.approx(
            s.level, abs=0.001
        )
        assert ('pitch' in values) == s.main.kind.pitch and (
            'rate' in values
        ) == s.main.kind.rate


def test_mismatches():
    rank, partner = draw_mismatches(PARAMS, 0, 500)
    again = draw_mismatches(PARAMS, 0, 500)
    assert np.array_equal(rank, again[0]) and np.array_equal(partner, again[1])
    for r in (0.1, 0.25, 0.5):
        assert (rank < r).sum() == 500 * r
    for i in range(500):
        a, b = (make_scene(PARAMS, 0, 'train', int(k)) for k in (i, partner[i]))
        assert not set(a.labels) & set(b.labels)
    assert not np.array_equal(draw_mismatches(PARAMS, 1, 500)[1], partner)


def test_small_enough_to_keep():
    sound = pictures = 0
    for i in range(72):
        s = make_scene(PARAMS, 0, 'train', i)
        a, b = io.BytesIO(), io.BytesIO()
        (
            sf.write(a, render_sound(s), FOLEY_RATE, format='FLAC', subtype='PCM_16'),
            Image.fromarray(render_picture(s, 0)).save(b, 'JPEG', quality=90),
        )
        sound, pictures = sound + len(a.getvalue()), pictures + len(b.getvalue())
    assert (sound + 4 * pictures) / 72 * 1480 < 80e6 and pictures / 72 < 4500


@pytest.mark.parametrize(
    'call',
    [
        lambda: make_scene(PARAMS, 0, 'dev', 0),
        lambda: make_scene(PARAMS, 0, 'train', -1),
        lambda: make_scenes(PARAMS, 0, 'dev'),
        lambda: make_scene(FoleyParams(min_seconds=3, max_seconds=2), 0, 'train', 0),
        lambda: render_picture(of('dog'), 0, 2),
        lambda: draw_mismatches(PARAMS, 0, 1),
        lambda: alter(of('rain'), rate=0.5),
        lambda: alter(of('dog'), pitch=2),
        lambda: alter(of('dog'), count=9),
        lambda: alter(of('dog'), colour=1),
    ],
)
def test_refuses_with_a_sentence(call):
    with pytest.raises(BadInput) as e:
        call()
    assert str(e.value).endswith('.') and len(str(e.value)) > 30


@pytest.mark.parametrize('size', [8, 11, 16, 17])
def test_every_place_is_drawn_small(size):
    places = {}
    for i in range(400):
        if (s := make_scene(FoleyParams(), 0, 'train', i)).place not in places:
            places[s.place] = s
    assert 'office' in places and len(places) == 11
    for s in places.values():
        assert render_picture(s, 1, size).shape == (size, size, 3)
