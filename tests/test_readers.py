"Public corpora in miniature, whole and broken, in the layouts they were published in. See nbs/03_data."

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.params import CorpusParams
from wavbrivl.data.manifest import READERS, Record, Rejected, records
from wavbrivl.data.tables import Refusal
from wavbrivl.data.published import DATASETS, media_files, name_stem
from wavbrivl.data.published_sets import VEGAS_CLASSES, clip_names, stratify
from wavbrivl.data.clips import clip_events
from wavbrivl.data.prepare import write_corpus
from wavbrivl.data.corpus import Corpus

SHARED = Path(__file__).parents[2] / 'shared' / 'data'
needs = lambda name: pytest.mark.skipif(
    not (SHARED / name).exists(),
    reason=f'the folder with real data ({name}) is not beside the checkout',
)
PUBLIC = sorted(DATASETS)


def lay(at, tables=None, sounds=(), seconds=0.2):
    "Files in a folder: tables as text or bytes, sounds as tones of their own, .jpg as pictures."
    for name, text in (tables or {}).items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for i, name in enumerate(sounds):
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith('.jpg'):
            Image.new('RGB', (40, 40), (10 * i, 90, 9)).save(at / name)
        else:
            sf.write(
                at / name,
                0.4 * np.sin(np.arange(round(16000 * seconds)) * (0.1 + 0.01 * i)),
                16000,
            )
    return at


def read(reader, at):
    "Clips by name, and sentences."
    found = list(records(CorpusParams(reader=reader, source='.'), at))
    assert all(r.reason[-1] in '.)' for r in found if isinstance(r, Rejected)), (
        'sentences'
    )
    clips = [r for r in found if isinstance(r, Record)]
    assert len({r.clip for r in clips}) == len(clips)
    return {r.clip: r for r in clips}, [r for r in found if isinstance(r, Rejected)]


def say(bad, *words):
    return [r for r in bad if all(w in f'{r.clip} {r.file} {r.reason}' for w in words)]


def film(path, seconds=1):
    "A film with sound; its picture gets brighter."
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as c:
        v, s = (
            c.add_stream('mpeg4', rate=10),
            c.add_stream('aac', rate=16000, layout='mono'),
        )
        v.width, v.height, v.pix_fmt = 64, 48, 'yuv420p'
        for i in range(10 * seconds):
            c.mux(
                v.encode(
                    av.VideoFrame.from_ndarray(
                        np.full((48, 64, 3), 20 * i, np.uint8), 'rgb24'
                    )
                )
            )
        c.mux(v.encode(None))
        f = av.AudioFrame.from_ndarray(
            0.3 * np.sin(np.arange(16000 * seconds, dtype=np.float32) * 0.2)[None],
            'fltp',
            'mono',
        )
        f.sample_rate = 16000
        for p in (*s.encode(f), *s.encode(None)):
            c.mux(p)


# ---------------------------------------------------------------- what is there is read

ESC = 'filename,fold,target,category,esc10,src_file,take\n'
US8K = 'slice_file_name,fsID,start,end,salience,fold,classID,class\n'


def test_esc50_and_esc10(tmp_path):
    lay(
        tmp_path,
        {
            'meta/esc50.csv': ESC
            + '1-1-A-0.wav,1,0,dog,True,1,A\n2-2-A-3.wav,2,3,cow,False,2,A\n5-3-A-0.wav,5,0,dog,True,3,A\n'
        },
        ['audio/1-1-A-0.wav', 'audio/2-2-A-3.ogg', 'audio/5-3-A-0.flac'],
    )
    clips, bad = read('esc50', tmp_path)
    assert not bad and {c: (r.fold, r.label, r.split) for c, r in clips.items()} == {
        '1-1-A-0': (1, 'dog', ''),
        '2-2-A-3': (2, 'cow', ''),
        '5-3-A-0': (5, 'dog', ''),
    }
    assert (
        clips['2-2-A-3'].audio.suffix == '.ogg'
        and clips['1-1-A-0'].captions == ['a dog']
        and clips['1-1-A-0'].source == 'freesound 1'
        and 'NC' in clips['1-1-A-0'].licence
    )
    ten, bad = read('esc10', tmp_path)
    assert (
        not bad
        and set(ten) == {'1-1-A-0', '5-3-A-0'}
        and ten['1-1-A-0'].licence == 'CC BY 3.0'
    ), 'the other 40 classes are no strays'


def test_us8k(tmp_path):
    lay(
        tmp_path,
        {
            'metadata/UrbanSound8K.csv': US8K
            + '1-0-0-1.wav,1,0,4,1,1,0,air_conditioner\n2-1-0-1.wav,2,0,4,1,10,1,car_horn\n'
        },
        ['audio/fold1/1-0-0-1.wav', 'audio/fold10/2-1-0-1.wav'],
    )
    clips, bad = read('us8k', tmp_path)
    assert not bad and [(r.fold, r.label, r.captions) for r in clips.values()] == [
        (1, 'air_conditioner', ['an air conditioner']),
        (10, 'car_horn', ['a car horn']),
    ]


FSD = 'FSD50K.ground_truth/'
VOCABULARY = {
    FSD
    + 'vocabulary.csv': '0,Bark,/m/1\n1,Dog,/m/2\n2,Rain,/m/3\n3,Crying_and_sobbing,/m/4\n'
}


def test_fsd50k(tmp_path):
    lay(
        tmp_path,
        VOCABULARY
        | {
            FSD
            + 'dev.csv': 'fname,labels,mids,split\n64760,"Bark,Dog","/m/1,/m/2",train\n16399,Rain,/m/3,val\n',
            FSD + 'eval.csv': 'fname,labels,mids\n37199,"Rain,Dog","/m/3,/m/2"\n',
        },
        [
            'FSD50K.dev_audio/64760.wav',
            'FSD50K.dev_audio/16399.wav',
            'FSD50K.eval_audio/37199.wav',
        ],
    )
    clips, bad = read('fsd50k', tmp_path)
    assert not bad and {c: (r.split, r.labels) for c, r in clips.items()} == {
        '64760': ('train', ['Bark', 'Dog']),
        '16399': ('valid', ['Rain']),
        '37199': ('test', ['Rain', 'Dog']),
    }
    s = write_corpus(
        CorpusParams(reader='fsd50k', source='.', image_size=32),
        tmp_path / 'out',
        tmp_path,
        1,
    )
    assert (
        s['clips'] == dict(train=1, valid=1, test=1)
        and s['unseen_labels'] == ['Rain']
        and 'Rain' in Corpus(tmp_path / 'out').rejected.reason.str.cat()
    )


def test_vggsound_with_films(tmp_path):
    "Sound and frames out of one film; a sound beside its film is preferred; commas in a class."
    lay(
        tmp_path,
        {
            'vggsound.csv': """---g-f_I2yQ,1,people marching,test
--0PQM4-hqg,30,"bird chirping, tweeting",train
--5wwLlnXUo,20,"bird chirping, tweeting",train
"""
        },
        [
            'audio/--0PQM4-hqg_000030.flac',
            'frames/--5wwLlnXUo_000020.jpg',
            'audio/--5wwLlnXUo_20.wav',
        ],
    )
    for name in ('---g-f_I2yQ_000001', '--0PQM4-hqg_000030'):
        film(tmp_path / f'video/{name}.mp4')
    clips, bad = read('vggsound', tmp_path)
    assert not bad and [(c, r.split, r.label) for c, r in clips.items()] == [
        ('---g-f_I2yQ_000001', 'test', 'people marching'),
        ('--0PQM4-hqg_000030', 'train', 'bird chirping, tweeting'),
        ('--5wwLlnXUo_000020', 'train', 'bird chirping, tweeting'),
    ]
    assert (
        clips['--0PQM4-hqg_000030'].audio.suffix == '.flac'
        and clips['--0PQM4-hqg_000030'].pictures[0].suffix == '.mp4'
        and clips['---g-f_I2yQ_000001'].audio.suffix == '.mp4'
    )
    s = write_corpus(
        CorpusParams(
            reader='vggsound', source='.', image_size=32, frames=3, valid_fraction=0
        ),
        tmp_path / 'out',
        tmp_path,
        1,
    )
    assert (
        s['clips'] == dict(train=2, valid=0, test=1)
        and s['sounds'] == s['clips']
        and s['pictures'] == dict(train=6 - 3, valid=0, test=3)
    )


@pytest.mark.parametrize(
    'name',
    [
        '{}_000030',
        '{}_30',
        '{}_30000',
        '{}_30_40',
        '{}_30000_40000',
        '{}_30.000_40.000',
        'Y{}_30',
        'Y{}',
        '{}',
    ],
)
def test_names_of_moments(tmp_path, name):
    for i, film_id in enumerate(('glLQrEijrKg', '-Yqz3ab_000', 'Y_aaaaaaaaa')):
        at = tmp_path / str(i)
        lay(
            at,
            {'vggsound.csv': f'{film_id},30,x,train\n'},
            [f'deep/er/{name.format(film_id)}.wav'],
        )
        clips, bad = read('vggsound', at)
        assert list(clips) == [f'{film_id}_000030'] and not bad


def test_vggsound_older_tables(tmp_path):
    lay(
        tmp_path,
        {
            'train.csv': 'a_000030.mp4,"heart sounds, heartbeat"\n',
            'test_part.csv': 'glLQrEijrKg_000300.mp4,playing hammond organ\n',
        },
        ['a_000030.wav', 'x/glLQrEijrKg_000300.flac'],
    )
    clips, bad = read('vggsound', tmp_path)
    assert not bad and {c: (r.split, r.label) for c, r in clips.items()} == {
        'a_000030': ('train', 'heart sounds, heartbeat'),
        'glLQrEijrKg_000300': ('test', 'playing hammond organ'),
    }


TAU = 'filename_audio\tfilename_video\tscene_label'


@pytest.mark.parametrize('held', ['evaluate', 'test'])
def test_tau(tmp_path, held):
    "The test list with scenes, and the one without, for which meta.csv knows them."
    rows = {
        s: f'audio/{s}-lyon-1-2.wav\tvideo/{s}-lyon-1-2.mp4' for s in ('bus', 'park')
    }
    lay(
        tmp_path,
        {
            'meta.csv': f'{TAU}\tidentifier\n'
            + ''.join(f'{r}\t{s}\tlyon-1\n' for s, r in rows.items()),
            'evaluation_setup/fold1_train.csv': f'{TAU}\n{rows["bus"]}\tbus\n',
            f'evaluation_setup/fold1_{held}.csv': f'{TAU}\n{rows["park"]}\tpark\n'
            if held == 'evaluate'
            else f'filename_audio\tfilename_video\n{rows["park"]}\n',
        },
        ['audio/bus-lyon-1-2.wav', 'audio/park-lyon-1-2.wav'],
    )
    film(tmp_path / 'video/bus-lyon-1-2.mp4')
    clips, bad = read('tau', tmp_path)
    assert not bad and {c: (r.split, r.label) for c, r in clips.items()} == {
        'bus-lyon-1-2': ('train', 'bus'),
        'park-lyon-1-2': ('test', 'park'),
    }
    bus = clips['bus-lyon-1-2']
    assert bus.audio.suffix == '.wav' and [p.suffix for p in bus.pictures] == ['.mp4']


EVENTS = 'filename\tonset\toffset\tevent_label\n'
SYNTH, REAL = (
    'metadata/train/synthetic21_train/soundscapes.tsv',
    'metadata/validation/validation.tsv',
)


@pytest.mark.parametrize(
    'real',
    [
        'audio/validation/validation',
        'audio/validation',
        'audio/validation/validation_16k',
    ],
)
@pytest.mark.parametrize('top', ['', 'dataset/'])
def test_desed(tmp_path, top, real):
    "Numbers for names recur in training and validation; folders of three challenges; strong labels only."
    valid = 'validation/synthetic21_validation/soundscapes'
    lay(
        tmp_path,
        {
            top + SYNTH: EVENTS
            + '0.wav\t0.02\t0.1\tDog\n0.wav\t0.05\t0.15\tSpeech\n0.wav\t0.05\t0.15\tSpeech\n',
            top + f'metadata/{valid}.tsv': EVENTS + '0.wav\t0\t0.1\tCat\n',
            top + 'metadata/train/audioset_strong.tsv': EVENTS
            + 'Yq_0_10.wav\t0\t0.1\tFrying\n',
            top + 'metadata/train/weak.tsv': 'filename\tevent_labels\nw.wav\tDog,Cat\n',
            top + REAL: EVENTS + 'Ya_0.000_10.000.wav\t0.1\t0.2\tDog\nYb.wav\t\t\t\n',
        },
        [
            top + f
            for f in (
                'audio/train/synthetic21_train/soundscapes/0.wav',
                f'audio/{valid}/0.wav',
                'audio/train/strong_label_real/Yq_0_10.wav',
                'audio/train/weak/w.wav',
                'audio/train/unlabel_in_domain/u.wav',
                f'{real}/Ya_0.000_10.000.wav',
                f'{real}/Yb.wav',
            )
        ],
    )
    clips, bad = read('desed', tmp_path)
    assert not bad and {c: r.split for c, r in clips.items()} == {
        'train/0': 'train',
        'train/Yq_0_10': 'train',
        'valid/0': 'valid',
        'test/Ya_0.000_10.000': 'test',
        'test/Yb': 'test',
    }
    assert clips['train/0'].events == [
        dict(label='Dog', onset=0.02, offset=0.1),
        dict(label='Speech', onset=0.05, offset=0.15),
    ] and clips['train/0'].labels == ['Dog', 'Speech']
    assert (
        clips['test/Yb'].events == clips['test/Yb'].labels == []
        and clips['valid/0'].audio != clips['train/0'].audio
    )
    write_corpus(
        CorpusParams(reader='desed', source='.'), tmp_path / 'out', tmp_path, 1
    )
    t = Corpus(tmp_path / 'out').table.set_index('clip')
    assert [e['label'] for e in t.events['train/0']] == ['Dog', 'Speech'] and t.events[
        'train/0'
    ][1]['offset'] == 0.15


CLOTHO = 'file_name,' + ','.join(f'caption_{i}' for i in range(1, 6)) + '\n'


@pytest.mark.parametrize(
    'folder', ['{}', 'clotho_audio_{}', 'audio/clotho_audio_{}', 'clotho_audio_{0}/{0}']
)
def test_clotho(tmp_path, folder):
    parts = dict(development='train', validation='valid', evaluation='test')
    lay(
        tmp_path,
        {
            f'clotho_captions_{p}.csv': CLOTHO
            + 'Rain. On, a roof (1) .wav,"One, two",Two,Three,Four,Five\n'.replace(
                'Rain.', '"Rain.'
            ).replace(' .wav', ' .wav"')
            for p in parts
        },
        [f'{folder.format(p)}/Rain. On, a roof (1) .wav' for p in parts],
    )
    clips, bad = read('clotho', tmp_path)
    assert (
        not bad
        and [r.split for r in clips.values()] == list(parts.values())
        and all(
            r.captions == ['One, two', 'Two', 'Three', 'Four', 'Five'] and r.label == ''
            for r in clips.values()
        )
    )
    assert len({r.audio for r in clips.values()}) == 3, (
        'the same name in three folders is three clips'
    )


CAPS = 'audiocap_id,youtube_id,start_time,caption\n'


@pytest.mark.parametrize(
    'name',
    ['{}', 'Y{}', '{}_130', '{}_130000', 'Y{}_130', '{}_130_140', '{}_000130', '11'],
)
def test_audiocaps(tmp_path, name):
    for i, film_id in enumerate(('vfY_TJq7n_U', 'YdWhHV3X25Q')):
        at = lay(
            tmp_path / str(i),
            {
                'dataset/train.csv': CAPS
                + '91139,r1nicOVtvkQ,130,"A woman talks, as water pours"\n',
                'dataset/val.csv': CAPS,
                'dataset/test.csv': CAPS
                + ''.join(
                    f'{10 + k},{film_id},130,Ducks quack {min(k, 3)}\n'
                    for k in range(5)
                )
                + f'12,{film_id},130,Ducks quack 2\n',
            },
            ['audio/train/r1nicOVtvkQ.wav', f'audio/test/{name.format(film_id)}.flac'],
        )
        clips, bad = read('audiocaps', at)
        assert (
            not bad
            and {c: r.split for c, r in clips.items()}
            == {'r1nicOVtvkQ': 'train', film_id: 'test'}
            and clips['r1nicOVtvkQ'].captions == ['A woman talks, as water pours']
        )
        assert clips[film_id].captions == [
            f'Ducks quack {k}' for k in (0, 1, 2, 3, 3)
        ], 'equal sentences of two people count twice, a repeated row once'


@pytest.mark.parametrize('top', ['', 'data/', 'VEGAS/data/'])
def test_vegas(tmp_path, top):
    lay(
        tmp_path,
        {},
        [f'{top}{c}/audios/video_00001.wav' for c in VEGAS_CLASSES]
        + [f'{top}dog/img/video_00001.jpg', f'{top}snoring/audios/video_00001.wav'],
    )
    film(tmp_path / f'{top}fireworks/videos/video_00002.mp4')
    clips, bad = read('vegas', tmp_path)
    assert (
        not bad
        and {r.label for r in clips.values()} == set(VEGAS_CLASSES)
        and len(clips) == 6
        and {r.split for r in clips.values()} == {''}
    )
    assert (
        clips['dog/video_00001'].pictures[0].suffix == '.jpg'
        and clips['fireworks/video_00002'].audio
        == clips['fireworks/video_00002'].pictures[0]
    )


# ---------------------------------------------------------------- what is not there is told


def test_facts():
    assert list(DATASETS) == [
        'esc50',
        'us8k',
        'fsd50k',
        'vggsound',
        'tau',
        'desed',
        'clotho',
        'audiocaps',
        'vegas',
    ] and set(DATASETS) <= set(READERS)
    assert [d.name for d in DATASETS.values()] == [
        'ESC-50',
        'UrbanSound8K',
        'FSD50K',
        'VGGSound',
        'TAU Audio',
        'DESED',
        'Clotho',
        'AudioCaps',
        'VEGAS',
    ]
    from wavbrivl.report.papers import read_printed_table

    for name, task, _, classes, metric in read_printed_table('BGTAI', 1).itertuples():
        d = next(d for d in DATASETS.values() if d.name == name.removesuffix(' (CMR)'))
        assert task in d.task and metric in d.metric and str(d.classes) == classes


@pytest.mark.parametrize('name', PUBLIC)
def test_absent_folder(tmp_path, name):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').write_text('x')
    for source, says in (
        ('nowhere', 'does not exist'),
        ('empty', 'needs'),
        ('file', 'needs'),
    ):
        with pytest.raises(BadInput, match=says) as e:
            list(records(CorpusParams(reader=name, source=source), tmp_path))
        assert source in str(e.value) and (
            source == 'nowhere' or DATASETS[name].holds in str(e.value)
        )


MINI = dict(  # tables of two clips each, and where their sounds lie
    esc50=(
        {'meta/esc50.csv': ESC + 'a.wav,1,0,dog,True,1,A\nb.wav,2,1,cow,True,2,A\n'},
        'audio/{}.wav',
    ),
    us8k=(
        {
            'metadata/UrbanSound8K.csv': US8K
            + 'a.wav,1,0,4,1,1,0,dog\nb.wav,2,0,4,1,1,1,cow\n'
        },
        'audio/fold1/{}.wav',
    ),
    fsd50k=(
        VOCABULARY
        | {
            FSD
            + 'dev.csv': 'fname,labels,mids,split\na,Dog,/m/2,train\nb,Rain,/m/3,val\n',
            FSD + 'eval.csv': 'fname,labels,mids\n',
        },
        'FSD50K.dev_audio/{}.wav',
    ),
    vggsound=({'vggsound.csv': 'a,1,x,train\nb,1,y,train\n'}, '{}_000001.wav'),
    tau=(
        {
            'meta.csv': TAU + '\n',
            'evaluation_setup/fold1_train.csv': TAU
            + '\naudio/a.wav\t\tbus\naudio/b.wav\t\tpark\n',
            'evaluation_setup/fold1_evaluate.csv': TAU + '\n',
        },
        'audio/{}.wav',
    ),
    desed=(
        {SYNTH: EVENTS + 'a.wav\t0\t.1\tDog\nb.wav\t0\t.1\tCat\nb.wav\t0\t.1\tDog\n'}
        | {
            f'metadata/{t}.tsv': EVENTS
            for t in (
                'train/audioset_strong',
                'validation/synthetic21_validation/soundscapes',
                'validation/validation',
            )
        },
        'audio/train/synthetic21_train/soundscapes/{}.wav',
    ),
    clotho=(
        {
            f'clotho_captions_{p}.csv': CLOTHO + r
            for p, r in (
                ('development', 'a.wav,1,2,3,4,5\nb.wav,1,2,3,4,5\n'),
                ('validation', ''),
                ('evaluation', ''),
            )
        },
        'development/{}.wav',
    ),
    audiocaps=(
        {'train.csv': CAPS + '1,a,0,x\n2,b,0,y\n', 'val.csv': CAPS, 'test.csv': CAPS},
        '{}.wav',
    ),
)


@pytest.mark.parametrize('name', MINI)
def test_incomplete_and_strange_folder(tmp_path, name):
    "One sentence for all clips without file, one for all files without clip; the good clip goes on."
    tables, place = MINI[name]
    whole = lay(tmp_path / 'whole', tables, [place.format(x) for x in 'ab'])
    clips, bad = read(name, whole)
    assert len(clips) == 2 and not bad
    part = lay(
        tmp_path / 'part',
        tables,
        [place.format(x) for x in ('b', 'stray', 'stray2', '.hidden')]
        + ['elsewhere/cover.jpg'],
    )
    clips, bad = read(name, part)
    assert len(clips) == 1 and len(bad) == 2
    assert say(
        bad,
        '1 of the 2 clips in the tables have no file',
        'the first is ',
        'Going on with 1.',
    ) and say(bad, '2 files are named by no table', 'stray')
    s = write_corpus(
        CorpusParams(reader=name, source='part', image_size=32),
        tmp_path / 'out',
        tmp_path,
        1,
    )
    assert (
        sum(s['clips'].values()) == 1
        and not Corpus(tmp_path / 'out').rejected.file.str.contains(str(tmp_path)).any()
    )
    lay(tmp_path / 'none', tables)
    with pytest.raises(BadInput, match='2 of the 2 clips in the tables have no file'):
        write_corpus(
            CorpusParams(reader=name, source='none'), tmp_path / 'out2', tmp_path, 1
        )


@pytest.mark.parametrize('name', MINI)
def test_windows_tables(tmp_path, name):
    "A byte-order mark, CRLF and blank lines, as spreadsheets write them."
    tables, place = MINI[name]
    at = lay(
        tmp_path,
        {
            n: b'\xef\xbb\xbf' + (t + '\n').replace('\n', '\r\n').encode()
            for n, t in tables.items()
        },
        [place.format(x) for x in 'ab'],
    )
    clips, bad = read(name, at)
    assert (
        len(clips) == 2
        and not bad
        and all(
            '\ufeff' not in f'{r.clip}{r.labels}{r.captions}' for r in clips.values()
        )
    )


@pytest.mark.parametrize('name', MINI)
@pytest.mark.parametrize('evil', ['../x', '/etc/x', 'C:/x', '..\\x'])
def test_paths_stay_inside(tmp_path, name, evil):
    "A table from elsewhere does not choose which files of this machine are read."
    tables, place = MINI[name]
    sf.write(tmp_path / 'x.wav', np.ones(99) / 2, 16000)
    sf.write(tmp_path / 'x_000001.wav', np.ones(99) / 2, 16000)
    change = lambda t: (
        t.replace('\na.wav', f'\n{evil}.wav')
        .replace('audio/a.wav', f'{evil}.wav')
        .replace('\na,', f'\n{evil},')
        .replace('1,a,', f'1,{evil},')
        if name != 'vggsound'
        else t.replace('a,1', f'{evil},1')
    )
    at = lay(
        tmp_path / 'in',
        {n: change(t) for n, t in tables.items()},
        [place.format(x) for x in 'ab'],
    )
    clips, bad = read(name, at)
    assert len(clips) == 1 and say(bad, 'leaves the table'), [r.reason for r in bad]


@pytest.mark.parametrize('name', MINI)
def test_missing_column_and_other_bytes(tmp_path, name):
    tables, place = MINI[name]
    table = list(tables)[-1] if name != 'fsd50k' else FSD + 'dev.csv'
    at = lay(
        tmp_path / 'a',
        tables | {table: b'\xff\xfe\x00rubbish\n\x80\x81'},
        [place.format('a')],
    )
    with pytest.raises(BadFile, match='UTF-8|not a CSV|no column'):
        read(name, at)
    if name == 'vggsound':
        return
    at = lay(tmp_path / 'b', tables | {table: 'x,y\n1,2\n'}, [place.format('a')])
    with pytest.raises(BadFile, match='has no column .*; it has x'):
        read(name, at)


def test_absent_tables_of_some_splits(tmp_path):
    tables, place = MINI['audiocaps']
    tables = {'train.csv': tables['train.csv']}
    clips, bad = read(
        'audiocaps', lay(tmp_path, tables, [place.format(x) for x in 'ab'])
    )
    assert (
        len(clips) == 2
        and [r.file for r in bad] == ['val.csv', 'test.csv']
        and all('not there' in r.reason for r in bad)
    )


# ---------------------------------------------------------------- rows that are wrong


def test_twice_in_a_table_loses_no_label(tmp_path):
    "The same clip with another class has both; labels, captions and events add up; equal rows are one."
    clips, bad = read(
        'vggsound',
        lay(
            tmp_path / 'v',
            {'vggsound.csv': 'a,1,x,train\na,1,y,train\na,1,x,train\n'},
            ['a_1.wav'],
        ),
    )
    assert (
        not bad
        and clips['a_000001'].labels == ['x', 'y']
        and clips['a_000001'].label == 'x'
    )
    clips, bad = read(
        'fsd50k',
        lay(
            tmp_path / 'f',
            VOCABULARY
            | {
                FSD
                + 'dev.csv': 'fname,labels,mids,split\n1,"Bark,Dog",,train\n1,"Dog,Rain",,train\n',
                FSD + 'eval.csv': 'fname,labels,mids\n',
            },
            ['FSD50K.dev_audio/1.wav'],
        ),
    )
    assert not bad and clips['1'].labels == ['Bark', 'Dog', 'Rain']
    clips, bad = read(
        'clotho',
        lay(
            tmp_path / 'c',
            MINI['clotho'][0]
            | {
                'clotho_captions_development.csv': CLOTHO
                + 'a.wav,1,2,3,4,5\na.wav,1,2,6,7,8\n'
            },
            ['development/a.wav'],
        ),
    )
    assert not bad and clips['development/a'].captions == list('12345678')
    clips, bad = read(
        'esc50',
        lay(
            tmp_path / 'e',
            {'meta/esc50.csv': ESC + 'a.wav,1,0,,True,1,A\na.wav,1,0,dog,True,1,A\n'},
            ['audio/a.wav'],
        ),
    )
    assert (
        clips['a'].label == 'dog'
        and clips['a'].labels == ['dog']
        and clips['a'].captions == ['a dog']
    )


def test_two_splits_for_one_clip(tmp_path):
    "It stays in the first, so that test and training do not share it, and keeps both labels."
    clips, bad = read(
        'vggsound',
        lay(tmp_path / 'v', {'vggsound.csv': 'a,1,x,train\na,1,y,test\n'}, ['a_1.wav']),
    )
    assert (
        clips['a_000001'].split == 'train'
        and clips['a_000001'].labels == ['x', 'y']
        and len(bad) == 1
        and say(bad, 'a_000001', 'into test', 'into train')
    )
    clips, bad = read(
        'esc50',
        lay(
            tmp_path / 'e',
            {
                'meta/esc50.csv': ESC
                + 'a.wav,1,0,dog,True,1,A\na.wav,2,0,dog,True,1,A\n'
            },
            ['audio/a.wav'],
        ),
    )
    assert clips['a'].fold == 1 and say(bad, 'fold 2', 'fold 1')


def test_two_clips_with_one_file(tmp_path):
    clips, bad = read(
        'vggsound',
        lay(tmp_path, {'vggsound.csv': 'a,1,x,train\na,30,y,test\n'}, ['a.wav']),
    )
    assert list(clips) == ['a_000001'] and say(
        bad, 'a_000030', "that of clip 'a_000001' already"
    )


def test_odd_cells(tmp_path):
    "A fold, a split, a start that are none; a class nobody knows; too many cells, too few."
    clips, bad = read(
        'esc50',
        lay(
            tmp_path / 'e',
            {
                'meta/esc50.csv': ESC
                + """a.wav,one,0,dog,True,1,A
b.wav,2,0,dog,True,1,A,more
c.wav,3,0
d.wav,4,0,dog,True,1,A,,
,1,0,dog,True,1,A
"""
            },
            [f'audio/{x}.wav' for x in 'abcd'],
        ),
    )
    assert (
        set(clips) == {'c', 'd'}
        and clips['c'].labels == []
        and say(bad, 'a', "fold is 'one'")
        and say(bad, 'line 3', 'more cells')
        and say(bad, 'c', 'class is empty')
        and say(bad, 'names no file')
    )
    clips, bad = read(
        'vggsound',
        lay(
            tmp_path / 'v',
            {'vggsound.csv': 'a,1,x,trian\nb,soon,x,train\nc,1.0,x,Test\n'},
            ['a_1.wav', 'b_1.wav', 'c_1.wav'],
        ),
    )
    assert (
        list(clips.values())[0].split == 'test'
        and len(clips) == 1
        and say(bad, "'trian'")
        and say(bad, "'soon'")
    )
    clips, bad = read(
        'fsd50k',
        lay(
            tmp_path / 'f',
            VOCABULARY
            | {
                FSD
                + 'dev.csv': 'fname,labels,mids,split\n1,"Bark,Barking",,train\n2,Nonsense,,train\n',
                FSD + 'eval.csv': 'fname,labels,mids\n',
            },
            ['FSD50K.dev_audio/1.wav', 'FSD50K.dev_audio/2.wav'],
        ),
    )
    assert (
        clips['1'].labels == ['Bark']
        and clips['2'].labels == []
        and len(say(bad, 'vocabulary.csv')) == 2
    )


def test_empty_captions(tmp_path):
    clips, bad = read(
        'clotho',
        lay(
            tmp_path / 'c',
            MINI['clotho'][0]
            | {
                'clotho_captions_development.csv': CLOTHO
                + 'a.wav,One,  ,Three,,Five\nb.wav,,,,,\n'
            },
            ['development/a.wav', 'development/b.wav'],
        ),
    )
    assert (
        clips['development/a'].captions == ['One', 'Three', 'Five']
        and clips['development/b'].captions == []
        and say(bad, 'development/a', '2 of 5')
        and say(bad, 'development/b', '5 of 5')
    )
    clips, bad = read(
        'audiocaps',
        lay(
            tmp_path / 'a',
            MINI['audiocaps'][0] | {'test.csv': CAPS + '7,t,0,\n8,t,0,Rain\n'},
            ['a.wav', 'b.wav', 't.wav'],
        ),
    )
    assert (
        clips['t'].captions == ['Rain']
        and len(bad) == 1
        and say(bad, 't', '1 of 2 captions')
    )


def test_events_that_cannot_be(tmp_path):
    "Impossible times are reported when read, times past the end when the length is known; the rest goes on."
    rows = [
        '.1\t.3\tDog',
        '.4\t.2\tCat',
        'x\t.2\tSpeech',
        '-.5\t.2\tDishes',
        '.5\t9\tFrying',
        '1.02\t1.05\tLate',
        '2\t3\tBlender',
        '.2\t.2\tZero',
        '\t\tWeak',
        '.1\t.2\t',
        '.5\tinf\tEndless',
        '.9\t1.05\tRounded',
        '.6\tnan\tNaN',
    ]
    at = lay(
        tmp_path / 'in',
        MINI['desed'][0] | {SYNTH: EVENTS + ''.join(f'a.wav\t{r}\n' for r in rows)},
        ['audio/train/synthetic21_train/soundscapes/a.wav'],
        seconds=1,
    )
    clips, bad = read('desed', at)
    assert [e['label'] for e in clips['train/a'].events] == [
        'Dog',
        'Dishes',
        'Frying',
        'Late',
        'Blender',
        'Rounded',
    ] and clips['train/a'].events[1]['onset'] == 0
    for label in ('Cat', 'Speech', 'Zero', 'Weak', 'without a class', 'Endless', 'NaN'):
        assert len(say(bad, 'train/a', f'event {label} ', 'left out')) == 1, label
    assert (
        say(bad, 'event Dishes', 'from 0 on')
        and len(bad) == 8
        and 'Cat' in clips['train/a'].labels
    )
    write_corpus(
        CorpusParams(reader='desed', source='in'), tmp_path / 'out', tmp_path, 1
    )
    c = Corpus(tmp_path / 'out')
    t = c.table.iloc[0]
    assert {e['label']: (e['onset'], e['offset']) for e in t.events} == dict(
        Dog=(0.1, 0.3), Dishes=(0, 0.2), Frying=(0.5, 1), Rounded=(0.9, 1)
    ) and t.seconds == 1
    assert {
        l: c.rejected.reason.str.contains(f"'{l}'.*ends at 1.00 s").sum()
        for l in ('Frying', 'Late', 'Blender', 'Rounded', 'Dog')
    } == dict(Frying=1, Late=1, Blender=1, Rounded=0, Dog=0)


def test_events_of_a_sound_that_is_cut(tmp_path):
    r = Record(
        'a',
        events=[
            dict(label='x', onset=0.0, offset=4.0),
            dict(label='y', onset=5.0, offset=6.0),
        ],
    )
    kept, bad = clip_events(r, 2.0)
    assert (
        kept == [dict(label='x', onset=0.0, offset=2.0)]
        and len(bad) == 2
        and r.events[0]['offset'] == 4
    ), 'the record itself is not changed'


def test_a_decoder_s_refusal_costs_one_clip(tmp_path):
    at = lay(
        tmp_path / 'in',
        MINI['desed'][0],
        ['audio/train/synthetic21_train/soundscapes/b.wav'],
    )
    (at / 'audio/train/synthetic21_train/soundscapes/a.wav').write_text('no sound')
    s = write_corpus(
        CorpusParams(reader='desed', source='in'), tmp_path / 'out', tmp_path, 1
    )
    assert sum(s['clips'].values()) == 1 and s['lost'] == 1


def test_links(tmp_path):
    "Clips on another disk are linked; a link that leads in a circle is no trap."
    tables, place = MINI['audiocaps']
    lay(tmp_path / 'disk', {}, [place.format(x) for x in 'ab'])
    at = lay(tmp_path / 'in', tables)
    (at / 'clips').symlink_to(tmp_path / 'disk')
    (at / 'again').symlink_to(at)
    (at / 'gone.wav').symlink_to(tmp_path / 'gone.wav')
    clips, bad = read('audiocaps', at)
    assert (
        len(clips) == 2
        and say(bad, 'gone.wav')
        and len(bad) == 1
        and len(media_files(at)) == 3
    ), 'each file once'


def test_accents(tmp_path):
    "Two spellings of the same letter, in the table and on the disk."
    clips, bad = read(
        'clotho',
        lay(
            tmp_path,
            MINI['clotho'][0]
            | {'clotho_captions_development.csv': CLOTHO + 'caf\u00e9.wav,1,2,3,4,5\n'},
            ['development/cafe\u0301.wav'],
        ),
    )
    assert len(clips) == 1 and not bad


def test_stem_and_names():
    assert (
        name_stem('a/b/c.d.WAV') == 'c.d'
        and name_stem('37199') == '37199'
        and name_stem('Y-_0.000_10.000.wav') == 'Y-_0.000_10.000'
        and name_stem(' x .wav') == 'x'
    )
    for wrong in ('..', '../a', 'a/../../b', '/a', 'C:a', '\\\\share\\a', '', '.'):
        with pytest.raises(Refusal):
            name_stem(wrong)
    assert len(set(clip_names('abc', '130'))) == len(list(clip_names('abc', '130')))
    with pytest.raises(Refusal):
        list(clip_names('abc', '-1'))


# ---------------------------------------------------------------- a smaller corpus


def test_stratified():
    crowd = [
        Record(f'{s} {l} {i}', label=l, split=s)
        for s in ('train', 'test')
        for l, n in (('a', 500), ('b', 250), ('c', 40), ('d', 1))
        for i in range(n)
    ]
    told = Rejected('', '', 'something.')
    got = stratify([told, *crowd], 100, 7)
    assert got[0] is told and [r for r in crowd if r in got[1:]] == got[1:], (
        'in the order they came'
    )
    for s in ('train', 'test'):
        n = {l: sum(r.split == s and r.label == l for r in got[1:]) for l in 'abcd'}
        assert (
            sum(n.values()) == 100
            and all(
                abs(n[l] - 100 * k / 791) <= 1.5
                for l, k in (('a', 500), ('b', 250), ('c', 40), ('d', 1))
            )
            and n['d'] == 1
        )
    names = lambda n, seed=7, crowd=crowd: {r.clip for r in stratify(crowd, n, seed)}
    assert (
        names(100) < names(101) < names(400)
        and names(100) != names(100, 8)
        and names(9999) == {r.clip for r in crowd}
        and names(0) == set()
    )
    assert names(100) == names(100, crowd=crowd[::-1]), (
        'the order of the table does not matter'
    )
    assert (
        len(
            names(100)
            ^ names(100, crowd=crowd + [Record('new', label='a', split='train')])
        )
        <= 4
    ), 'one clip more moves hardly any other'
    assert len({next(r.label for r in crowd if r.clip == c) for c in names(4)}) == 4, (
        'every class from the start'
    )


# ---------------------------------------------------------------- real tables


@needs('esc')
def test_real_esc():
    clips, bad = read('esc50', SHARED / 'esc')
    assert (
        len(clips) == 550
        and len({r.label for r in clips.values()}) == 50
        and {r.fold for r in clips.values()}
        == {1, 2, 3, 4, 5}
        - ({5} if not any(r.fold == 5 for r in clips.values()) else set())
        and not bad
    )
    assert len(read('esc10', SHARED / 'esc')[0]) == sum(
        r['esc10'] == 'True'
        for r in csv.DictReader(open(SHARED / 'esc/meta/esc50.csv'))
    )


@needs('us8k')
def test_real_us8k_incomplete(tmp_path):
    (tmp_path / 'metadata').symlink_to(SHARED / 'us8k/metadata')
    (tmp_path / 'audio').mkdir()
    (tmp_path / 'audio/fold2').symlink_to(SHARED / 'us8k/audio/fold2')
    clips, bad = read('us8k', tmp_path)
    n = len(list((SHARED / 'us8k/audio/fold2').iterdir()))
    assert (
        len(clips) == n > 50
        and {r.fold for r in clips.values()} == {2}
        and len(bad) == 1
        and say(bad, f'{240 - n} of the 240 clips', f'Going on with {n}.')
    )


@needs('captions/clotho')
def test_real_clotho(tmp_path):
    (tmp_path / 'clotho_captions_development.csv').symlink_to(
        SHARED / 'captions/clotho/clotho_captions_development.csv'
    )
    rows = list(
        csv.DictReader(
            open(
                SHARED / 'captions/clotho/clotho_captions_development.csv',
                encoding='utf-8',
            )
        )
    )
    lay(tmp_path, {}, ['development/' + r['file_name'] for r in rows[::400]])
    clips, bad = read('clotho', tmp_path)
    assert (
        len(clips) == len(rows[::400])
        and all(len(r.captions) == 5 and r.split == 'train' for r in clips.values())
        and say(bad, f'{len(rows) - len(clips)} of the {len(rows)} clips')
        and len(bad) == 3
    )
    assert (
        clips['development/' + Path(rows[0]['file_name']).stem].captions[0]
        == rows[0]['caption_1']
    )


@needs('captions/audiocaps')
def test_real_audiocaps(tmp_path):
    for s in ('train', 'val'):
        (tmp_path / f'{s}.csv').symlink_to(SHARED / f'captions/audiocaps/{s}.csv')
    val = list(csv.DictReader(open(SHARED / 'captions/audiocaps/val.csv')))
    ids = sorted({r['youtube_id'] for r in val})
    lay(
        tmp_path,
        {},
        [f'val/{i}.wav' for i in ids[:3]]
        + [
            f'val/Y{r["youtube_id"]}_{r["start_time"]}.wav'
            for r in val
            if r['youtube_id'] == ids[3]
        ][:1]
        + ['train/r1nicOVtvkQ.wav'],
    )
    clips, bad = read('audiocaps', tmp_path)
    assert (
        set(clips) == {*ids[:4], 'r1nicOVtvkQ'}
        and all(
            len(clips[i].captions) == 5 and clips[i].split == 'valid' for i in ids[:4]
        )
        and clips['r1nicOVtvkQ'].captions == ['A woman talks nearby as water pours']
    )
    assert say(
        bad, f'{49838 + 495 - 5} of the {49838 + 495} clips', 'train 49837, val 491'
    ) and say(bad, 'test.csv', 'not there')


@needs('captions/vggsound')
def test_real_vggsound(tmp_path):
    (tmp_path / 'test_part.csv').symlink_to(SHARED / 'captions/vggsound/test_part.csv')
    rows = list(
        csv.reader(open(SHARED / 'captions/vggsound/test_part.csv', encoding='utf-8'))
    )
    lay(tmp_path, {}, [f'wav/{r[0][:-4]}.wav' for r in rows[:40:8]])
    film(tmp_path / 'video' / next(r[0] for r in rows if ',' in r[1]))
    clips, bad = read('vggsound', tmp_path)
    assert (
        len(clips) == 6
        and {r.split for r in clips.values()} == {'test'}
        and all(
            [r.label] == [x[1] for x in rows if x[0] == f'{c}.mp4']
            for c, r in clips.items()
        )
    )
    assert say(
        bad, f'{len(rows) - 6} of the {len(rows)} clips', f'test {len(rows) - 6}'
    ) and say(bad, 'train.csv', 'not there')
