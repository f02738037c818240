"Messy corpora, and what is kept of them. See nbs/03_data."

import csv, os, struct, subprocess, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from PIL import Image

from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.params import CorpusParams, FoleyParams
from wavbrivl.data.manifest import (
    READERS,
    Record,
    Rejected,
    class_caption,
    reader,
    records,
)
from wavbrivl.data.clips import assign_splits, file_name
from wavbrivl.data.prepare import write_corpus
from wavbrivl.data.corpus import Corpus, pair_by_class, mismatched_pairs

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'
needs = lambda name: pytest.mark.skipif(
    not (SHARED / name).is_dir(),
    reason=f'the folder with real data ({name}) is not beside the checkout',
)


def tone(hz=440, seconds=0.3, rate=16000):
    return (
        0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)
    ).astype(np.float32)


def picture(colour='red'):
    return Image.new('RGB', (64, 48), colour)


def params(**k):
    return CorpusParams(
        **dict(dict(reader='folder', source='.', image_size=32, valid_fraction=0), **k)
    )


def table(folder, text, name='pairs.csv'):
    (folder / name).write_text(text, encoding='utf-8')
    return folder


def files(d):
    return {
        str(f.relative_to(d)): f.read_bytes()
        for f in sorted(d.rglob('*'))
        if f.is_file()
    }


@pytest.fixture
def made():
    "Register a reader for one test."
    names = []

    def register(items):
        names.append(f'made{len(names)}')
        reader(names[-1])(lambda p, root: iter(items))
        return params(reader=names[-1])

    yield register
    for n in names:
        READERS.pop(n)


def messy(folder):
    "One of each: what people have in their folders."
    put = lambda name, x, rate=16000, sub='PCM_16': sf.write(
        folder / name, x, rate, sub
    )
    put('good.wav', tone())
    put('ünï cödé.wav', tone(500))
    put('two words.flac', tone(600))
    put('eight.wav', tone(700), sub='PCM_U8')
    put('fast.wav', tone(800, rate=96000), 96000)
    put('six.wav', np.tile(tone(900)[:, None], 6))
    put('one.wav', tone()[:1])
    put('silence.wav', np.zeros(4000))
    put('nan.wav', np.array([0, np.nan]), sub='FLOAT')
    (folder / 'empty.wav').touch()
    (folder / 'text.wav').write_text('Dear all')
    data = (folder / 'good.wav').read_bytes()
    (folder / 'cut.wav').write_bytes(data[: len(data) // 5])
    (folder / 'huge.wav').write_bytes(
        data[:40] + struct.pack('<I', 10**9) + data[44:900]
    )
    picture().save(folder / 'p.jpg')
    picture().convert('CMYK').save(folder / 'cmyk.jpg')
    picture().quantize(4).save(folder / 'palette.png')
    picture().convert('RGBA').save(folder / 'alpha.png')
    Image.fromarray(np.full((40, 40), 40000, np.uint16)).save(folder / '16.png')
    noise = Image.effect_noise((200, 200), 80)
    noise.save(folder / 'half.jpg')
    (folder / 'half.jpg').write_bytes((folder / 'half.jpg').read_bytes()[:3000])
    bad = ('nan.wav', 'empty.wav', 'text.wav', 'cut.wav', 'huge.wav', 'missing.wav')
    sounds = [
        f.name
        for f in sorted(folder.iterdir())
        if f.suffix in ('.wav', '.flac') and f.name not in bad
    ]
    rows = [(s, '', 'x', 1, '') for s in (*sounds, *bad)] + [
        ('', p, 'x', 1, '')
        for p in (
            'p.jpg',
            'cmyk.jpg',
            'palette.png',
            'alpha.png',
            '16.png',
            'half.jpg',
            'gone.png',
        )
    ]
    rows += [
        ('good.wav', 'half.jpg', 'x', 1, 'half a clip'),
        ('empty.wav', 'p.jpg', 'x', 1, ''),
        ('../good.wav', '', 'x', 1, ''),
        ('/etc/passwd.wav', '', 'x', 1, ''),
        ('good.doc', '', 'x', 1, ''),
        ('one.wav', '', 'new', 2, ''),
        ('six.wav', '', 'x', 1, 'six'),
    ]
    with open(folder / 'pairs.csv', 'w', newline='', encoding='utf-8') as f:
        csv.writer(f).writerows(
            [
                ('audio', 'image', 'label', 'fold', 'caption'),
                *rows,
                ('last.wav', '', 'unheard', 2, 'never in training'),
            ]
        )
    put('last.wav', tone())
    return sounds, bad


def test_messy_folder(tmp_path):
    "Nothing good is lost because of something bad, and every refusal is a sentence."
    (tmp_path / 'in').mkdir()
    sounds, bad = messy(tmp_path / 'in')
    s = write_corpus(params(source='in', test_folds=[2]), tmp_path / 'out', tmp_path, 2)
    c = Corpus(tmp_path / 'out')
    t, r = c.table, c.rejected
    assert sorted(t['clip'][t.audio.notna()]) == sorted(
        [Path(f).stem for f in sounds] + ['last']
    )
    assert set(bad) <= set(r.file) and {
        '../good.wav',
        '/etc/passwd.wav',
        'good.doc',
        'half.jpg',
        'gone.png',
        'one.wav',
    } <= set(r.file)
    assert (t.frames.str.len() > 0).sum() == 6 and t[
        t['clip'] == 'empty'
    ].audio.isna().all(), 'a clip without sound keeps its picture'
    assert (
        r.reason.str.len().min() > 15
        and r.reason.str.rstrip().str[-1].isin(['.', ')']).all()
        and not r.file.str.contains(str(tmp_path)).any()
    )
    assert (
        s['unseen_labels'] == ['unheard']
        and r.reason.str.contains('unheard').sum() == 1
        and s['clips'] == dict(train=len(t) - 1, valid=0, test=1)
    )
    assert r.equals(
        r.sort_values(['clip', 'file', 'reason'], ignore_index=True)
    ) and list(t['clip']) == sorted(t['clip'])
    assert s['rejected'] == len(r) and s['lost'] == 5 + 2
    for row in t[t.audio.notna()].itertuples():
        assert (
            len(c.audio(row)) / 16000 == row.seconds
            and sf.info(tmp_path / 'out' / row.audio).subtype == 'PCM_16'
        )
    assert all(c.picture(p).shape == (32, 32, 3) for f in t.frames for p in f)


def test_same_bytes_whatever_the_workers(tmp_path):
    (tmp_path / 'in').mkdir()
    messy(tmp_path / 'in')
    for out, n in (('a', 1), ('b', 2), ('c', 2)):
        write_corpus(
            params(source='in/pairs.csv', valid_fraction=0.3),
            tmp_path / out,
            tmp_path,
            n,
        )
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'in').rename(tmp_path / 'elsewhere/in')
    write_corpus(
        params(source='in/pairs.csv', valid_fraction=0.3),
        tmp_path / 'd',
        tmp_path / 'elsewhere',
        1,
    )
    a, b, c, d = (files(tmp_path / x) for x in 'abcd')
    assert a == b == c == d and len(a) > 15


def test_nothing_good(tmp_path):
    table(tmp_path, 'audio\nno.wav\n')
    with pytest.raises(BadInput, match='Nothing of corpus.source.*no.wav'):
        write_corpus(params(), tmp_path / 'out', tmp_path, 1)
    assert sorted(f.name for f in tmp_path.iterdir()) == ['pairs.csv'], (
        'nothing is left behind'
    )


@pytest.mark.parametrize(
    'text,says',
    [
        ('a,b\n1,2\n', 'column named audio'),
        ('', 'nothing'),
        ('audio,label,audio\nx.wav,1,y.wav\n', 'more than one'),
        ('"audio', 'line 1 opens a quote'),
    ],
)
def test_bad_tables(tmp_path, text, says):
    with pytest.raises(BadInput, match=says):
        write_corpus(params(), tmp_path / 'out', table(tmp_path, text), 1)


def test_table_of_another_encoding(tmp_path):
    (tmp_path / 'pairs.csv').write_bytes(
        'audio,label\nx.wav,Glöckchen\n'.encode('latin-1')
    )
    with pytest.raises(BadFile, match='UTF-8'):
        list(records(params(), tmp_path))
    (tmp_path / 'pairs.csv').write_bytes(
        '\ufeffAudio;Label\r\nx.wav;Glöckchen\r\n'.encode('utf-8')
    )
    assert [r.label for r in records(params(), tmp_path)] == ['Glöckchen']


def test_source_is_named(tmp_path):
    for p, says in (
        (params(source='nope'), 'does not exist'),
        (params(source='.'), 'pairs.csv'),
        (params(reader='esc50', source='.'), 'meta/esc50.csv'),
        (params(reader='ecs50'), 'esc50'),
    ):
        with pytest.raises(BadInput, match=says):
            list(records(p, tmp_path))


def rows_of(tmp_path, text):
    return list(records(params(), table(tmp_path, text)))


def test_merging(tmp_path):
    got = rows_of(
        tmp_path,
        """audio,image,caption,label,clip,split
a.wav,1.png,one,x,,train
a.wav,2.png,two,x,,
a.wav,2.png,two,,,
a.mp3,,,,,val
b.wav,,,y,k,
b.wav,,,y,m,
c.wav,,,y,k,
,3.png,p,z,,
,3.png,q,z,,
d.wav,,,s;t,,
e.wav,,,x,,often
""",
    )
    clips, bad = (
        [r for r in got if isinstance(r, Record)],
        [r for r in got if isinstance(r, Rejected)],
    )
    assert [r.clip for r in clips] == ['a', 'a.mp3', 'k', 'm', '3', 'd']
    a = clips[0]
    assert (
        [p.name for p in a.pictures] == ['1.png', '2.png']
        and a.captions == ['one', 'two']
        and a.split == 'train'
        and clips[1].split == 'valid'
    )
    assert (
        clips[4].captions == ['p', 'q']
        and clips[4].audio is None
        and clips[5].labels == ['s', 't']
        and clips[5].label == 's'
    )
    assert (
        sum('earlier row' in r.reason for r in bad) == 1
        and sum("'often'" in r.reason for r in bad) == 1
        and sum('caption is empty' in r.reason for r in bad) == 4
    )


def test_words_that_look_like_nothing(tmp_path):
    "NA, None and 007 are names like others."
    got = rows_of(
        tmp_path, 'audio,label,clip\nx.wav,NA,007\ny.wav,None,1e3\nz.wav,null,nan\n'
    )
    assert [(r.label, r.clip) for r in got] == [
        ('NA', '007'),
        ('None', '1e3'),
        ('null', 'nan'),
    ]


def test_accents_are_found_in_either_spelling(tmp_path):
    sf.write(tmp_path / 'cafe\u0301.wav', tone(), 16000)
    assert rows_of(tmp_path, 'audio\ncaf\u00e9.wav\n')[0].audio.exists()


def test_links_inside_are_followed(tmp_path):
    (tmp_path / 'far').mkdir()
    (tmp_path / 'here').mkdir()
    sf.write(tmp_path / 'far/x.wav', tone(), 16000)
    (tmp_path / 'here/sounds').symlink_to(tmp_path / 'far')
    assert (
        write_corpus(
            params(source='here'),
            tmp_path / 'out',
            table(tmp_path / 'here', 'audio\nsounds/x.wav\n').parent,
            1,
        )['sounds']['train']
        == 1
    )


def test_film_gives_sound_and_pictures(tmp_path):
    import av

    for name, sound in (('loud', True), ('mute', False)):
        with av.open(str(tmp_path / f'{name}.mp4'), 'w') as c:
            v = c.add_stream('mpeg4', rate=10)
            v.width, v.height, v.pix_fmt = 64, 48, 'yuv420p'
            s = c.add_stream('aac', rate=16000, layout='mono') if sound else None
            for i in range(20):
                c.mux(
                    v.encode(
                        av.VideoFrame.from_ndarray(
                            np.full((48, 64, 3), 10 * i, np.uint8), 'rgb24'
                        )
                    )
                )
            c.mux(v.encode(None))
            if sound:
                f = av.AudioFrame.from_ndarray(tone(seconds=2)[None], 'fltp', 'mono')
                f.sample_rate = 16000
                for p in (*s.encode(f), *s.encode(None)):
                    c.mux(p)
    write_corpus(
        params(source='in.csv', frames=3, max_seconds=1),
        tmp_path / 'out',
        table(tmp_path, 'video,label\nloud.mp4,x\nmute.mp4,x\n', 'in.csv'),
        1,
    )
    c = Corpus(tmp_path / 'out')
    loud, mute = c.table.iloc[0], c.table.iloc[1]
    assert (
        loud.seconds == 1
        and len(loud.frames) == len(mute.frames) == 3
        and mute.audio is None
        and 'no sound' in c.rejected.reason[0]
    )
    assert c.picture(loud.frames[-1]).mean() < 110, (
        'pictures come from the seconds that are heard'
    )


# ---------------------------------------------------------------- records of every kind


def test_duplicates_and_functions(tmp_path, made):
    def broken():
        raise RuntimeError('no such instrument')

    items = [
        Record(
            'a',
            lambda: tone(),
            [lambda: np.zeros((20, 30, 3), np.uint8), picture()],
            label='x',
        ),
        Record('a', lambda: tone(), label='y'),
        Record('b', broken, [broken], label='x'),
        Record('c', lambda: 30 * tone(), label='x'),
        Record('d', label='x'),
        Record('../../e', lambda: tone(), label='x'),
        Record('A', lambda: np.ones(1), label='x'),
    ]
    s = write_corpus(made(items), tmp_path / 'out', tmp_path, 2)
    c = Corpus(tmp_path / 'out')
    assert (
        list(c.table['clip']) == ['../../e', 'A', 'a', 'c']
        and s['lost'] == 2
        and len(files(tmp_path / 'out')) == 3 + 4 + 2
    )
    assert (
        c.rejected.reason.str.contains('same name').sum() == 1
        and c.rejected.reason.str.contains('no such instrument').sum() == 2
    )
    x = c.audio(c.table[c.table['clip'] == 'c'].iloc[0])
    assert 0.99 < np.abs(x).max() <= 1 and (np.abs(x) > 0.99).mean() < 0.2, (
        'turned down, not clipped'
    )
    assert not (tmp_path / 'e.flac').exists()


def test_sixteen_bits_come_through(tmp_path, made):
    x = np.random.default_rng(0).integers(-32767, 32768, 5000).astype(np.int16)
    sf.write(tmp_path / 'x.wav', x, 16000)
    write_corpus(made([Record('x', tmp_path / 'x.wav')]), tmp_path / 'out', tmp_path, 1)
    assert np.array_equal(sf.read(tmp_path / 'out/audio/x.flac', dtype='int16')[0], x)


def test_a_decoder_that_dies(tmp_path, made):
    "A worker that is killed costs the clip that killed it."
    items = [
        Record(str(i), (lambda: os._exit(9)) if i == 3 else (lambda: tone()), label='x')
        for i in range(6)
    ]
    s = write_corpus(made(items), tmp_path / 'out', tmp_path, 2)
    assert (
        sum(s['clips'].values()) == 5
        and 'died' in Corpus(tmp_path / 'out').rejected.reason[0]
    )


def test_killed_half_way(tmp_path):
    "A killed run leaves nothing that looks like a corpus, and does not disturb the next."
    for i in range(4):
        sf.write(tmp_path / f'{i}.wav', tone(), 16000)
    table(tmp_path, 'audio\n' + ''.join(f'{i}.wav\n' for i in range(4)))
    code = f"""
import os
import wavbrivl.data.prepare as p
p.write_manifest = lambda *a: os._exit(9)
params = p.CorpusParams(reader='folder', source='.')
p.write_corpus(params, {str(tmp_path / 'out')!r}, {str(tmp_path)!r}, 1)
"""
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, '-c', code], cwd=root).returncode == 9
    assert not (tmp_path / 'out').exists() and (tmp_path / '.out.part').exists()
    with pytest.raises(BadInput, match='stage `corpus`'):
        Corpus(tmp_path / 'out')
    assert (
        write_corpus(params(), tmp_path / 'out', tmp_path, 1)['lost'] == 0
        and not (tmp_path / '.out.part').exists()
    )
    assert (
        write_corpus(params(), tmp_path / 'out', tmp_path, 1)['lost'] == 0
        and Corpus(tmp_path / 'out').rejected.empty
        and len(Corpus(tmp_path / 'out').table) == 4
    )


def test_other_folders_are_safe(tmp_path):
    (tmp_path / 'home').mkdir()
    (tmp_path / 'home/thesis.txt').write_text('years of work')
    with pytest.raises(BadInput, match='not a prepared corpus'):
        write_corpus(params(), tmp_path / 'home', table(tmp_path, 'audio\nx.wav\n'), 1)
    assert (tmp_path / 'home/thesis.txt').exists()


def test_damaged_corpus(tmp_path):
    sf.write(tmp_path / 'x.wav', tone(), 16000)
    write_corpus(params(), tmp_path / 'out', table(tmp_path, 'audio\nx.wav\n'), 1)
    c = Corpus(tmp_path / 'out')
    (tmp_path / 'out/audio/x.flac').write_text('oh')
    with pytest.raises(BadFile, match='make it again'):
        c.audio('audio/x.flac')
    (tmp_path / 'out/manifest.parquet').write_text('oh')
    with pytest.raises(BadFile, match='not a manifest'):
        Corpus(tmp_path / 'out')


# ---------------------------------------------------------------- splits


def split_of(rows, **k):
    rows = [
        dict(dict(label='x', audio='a', split=''), clip=str(i), **r)
        for i, r in enumerate(rows)
    ]
    assign_splits(rows, params(**k))
    return [r['split'] for r in rows]


def test_given_splits_are_kept():
    assert split_of(
        [dict(split='test'), dict(split='valid'), dict()], valid_fraction=0.9
    ) == ['test', 'valid', 'train']


def test_shares_are_stratified():
    got = split_of([dict(label=str(i % 5)) for i in range(1000)], valid_fraction=0.1)
    for label in range(5):
        mine = got[label::5]
        assert abs(mine.count('test') - 40) <= 1 and abs(mine.count('valid') - 16) <= 1
    assert split_of([dict(), dict()], valid_fraction=1).count('train') == 1, (
        'training is never emptied'
    )
    a, b = (split_of([dict()] * 100, valid_fraction=0.2, seed=s) for s in (0, 1))
    assert a != b


def test_few_clips_have_one_for_validation():
    for seed in range(8):
        few = [dict(label=str(i % 24), split='train') for i in range(33)]
        got = split_of(few, valid_fraction=0.01, seed=seed)
        assert 1 <= got.count('valid') < 33
    assert split_of([dict(split='train')]) == ['train']
    assert 'valid' not in split_of([dict(split='train')] * 4, valid_fraction=0)


def test_folds(tmp_path):
    for i in range(6):
        sf.write(tmp_path / f'{i}.wav', tone(300 + i), 16000)
    table(tmp_path, 'audio,fold\n' + ''.join(f'{i}.wav,{i}\n' for i in range(6)))
    s = write_corpus(
        params(train_folds=[1, 2, 3], valid_folds=[4], test_folds=[5]),
        tmp_path / 'out',
        tmp_path,
        1,
    )
    assert s['clips'] == dict(train=3, valid=1, test=1) and s['unused'] == 1
    s = write_corpus(params(test_folds=[0, 5]), tmp_path / 'out', tmp_path, 1)
    assert s['clips'] == dict(train=4, valid=0, test=2) and s['unused'] == 0


def test_leaks_are_counted(tmp_path, made):
    s = write_corpus(
        made(
            [
                Record('a', lambda: tone(), [picture()], split='train'),
                Record('b', lambda: tone(), [picture()], split='test'),
                Record('c', lambda: tone(9), split='test'),
            ]
        ),
        tmp_path / 'out',
        tmp_path,
        1,
    )
    assert s['leaks'] == dict(test=2, valid=0)


def test_pairs():
    t = pd.DataFrame(
        dict(
            clip=['a', 'b', 'c', 'd'],
            frames=[['1'], ['2'], [], ['4']],
            mismatch_rank=[0.1, 0.6, 0.2, None],
            mismatch_clip=['b', 'c', 'a', None],
        )
    )
    assert (
        mismatched_pairs(t, 0) == list('abcd')
        and mismatched_pairs(t, 0.5) == list('bbad')
        and mismatched_pairs(t, 1) == list('bbad')
    ), 'a partner without pictures changes nothing'
    with pytest.raises(BadInput):
        mismatched_pairs(t, 1.5)


def test_names():
    taken = set()
    got = [
        file_name(c, taken)
        for c in ('x', 'X', 'x/y', 'x y', 'é', '..', '.', '', 'a' * 300, 'x' * 2, 'CON')
    ]
    assert len({g.lower() for g in got}) == len(got) and all(
        g and '/' not in g and len(g) < 100 and g[0] != '.' for g in got
    )
    assert (
        class_caption('') == ''
        and class_caption('an_owl')
        and class_caption('glass') == 'a glass'
    )


# ---------------------------------------------------------------- the embedded corpus and real ones


def test_foley(tmp_path):
    s = write_corpus(
        CorpusParams(
            image_size=32, frames=2, foley=FoleyParams(train=24, valid=2, test=4)
        ),
        tmp_path / 'out',
        tmp_path,
        2,
    )
    c = Corpus(tmp_path / 'out')
    t = c.split('train')
    assert (
        s['clips'] == dict(train=24, valid=2, test=4)
        and s['rejected'] == s['leaks']['test'] == 0
    )
    assert (
        all(len(a) == len(b) > 0 for a, b in zip(t.captions, t.gloss))
        and t.events.str.len().min() > 0
        and set(t.tokens[0][0]) == {'token', 'onset', 'offset'}
    )
    wrong = sum(a != b for a, b in zip(t['clip'], mismatched_pairs(t, 0.5)))
    assert wrong == 12
    assert (
        abs(len(c.audio(t.iloc[0])) / 16000 - t.seconds[0]) < 1e-4
        and c.sheet(t.head(3)).size[0] == 3 * 96
    )


@needs('us8k')
def test_real_us8k():
    got = [
        r
        for r in records(params(reader='us8k', source='us8k'), SHARED)
        if isinstance(r, Record)
    ]
    assert (
        len(got) == 240
        and {r.fold for r in got} == {1, 2}
        and len({r.label for r in got}) == 10
        and all(r.audio.exists() for r in got)
    )


@needs('esc')
def test_real_esc_incomplete(tmp_path):
    "Someone holds a few of the clips, in another container than the table says."
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'audio').mkdir()
    t = pd.read_csv(SHARED / 'esc/meta/esc50.csv', dtype=str)
    t['filename'] = t.filename.str.replace('.ogg', '.wav')
    t.to_csv(tmp_path / 'meta/esc50.csv', index=False)
    for f in t.filename[::60]:
        (tmp_path / 'audio' / f).with_suffix('.ogg').symlink_to(
            (SHARED / 'esc/audio' / f).with_suffix('.ogg')
        )
    s = write_corpus(
        params(reader='esc50', source='.', test_folds=[1]),
        tmp_path / 'out',
        tmp_path,
        1,
    )
    assert (
        sum(s['clips'].values()) == 10
        and Corpus(tmp_path / 'out')
        .rejected.reason.str.contains('540 of the 550')
        .sum()
        == 1
    )


def esc_pairs(folder, only=None, folds=(1, 2, 3)):
    "ESC-10 sounds and small pictures of their classes as one table."
    for n in ('esc', 'images'):
        (folder / n).symlink_to(SHARED / n)
    t = pd.read_csv(SHARED / 'esc/meta/esc50.csv')
    t = t[t.esc10]
    sounds = pd.DataFrame(
        dict(path='esc/audio/' + t.filename, label=t.category, fold=t.fold)
    )
    index = pd.read_csv(SHARED / 'images/index.csv')
    shots = pd.DataFrame(
        dict(path='images/' + index.path, image_class=index.image_class)
    )
    m = pd.read_csv(SHARED / 'images/sound_image_map.csv')
    m = m[(m.sound_set == 'esc50') & (m.strength != 'weak')]
    return pair_by_class(
        sounds if only is None else sounds[sounds.label.isin(only)],
        shots,
        m.groupby('category').image_class.apply(list).to_dict(),
        folder / 'pairs.csv',
        train_folds=list(folds),
    )


@needs('images')
def test_real_pairs(tmp_path):
    t = esc_pairs(tmp_path)
    seen = t[t.image != '']
    assert seen.groupby('image').fold.nunique().max() == 1, (
        'no picture serves two folds'
    )
    assert (
        set(t[t.audio == ''].fold) <= {1, 2, 3}
        and t[t.audio != ''].audio.nunique() == 320
    )
    dog = t[(t.label == 'dog') & (t.audio != '')]
    assert (dog.groupby('audio').size() == 4).all() and dog.image.nunique() == 128
    assert (
        t[(t.label == 'chainsaw') & (t.image != '')].fold.isin([1, 2, 3]).all()
        and (t[t.label == 'rain'].image == '').all()
    )
    assert (
        t[t.image != ''].image.nunique()
        == t[t.image != ''].groupby(['image', 'fold']).ngroups
        and not t.duplicated(['audio', 'image']).any()
    )
    rest = t[t.audio == '']
    assert not set(rest.image) & set(t[t.audio != ''].image)
    assert t.equals(pair_by_class(*again(tmp_path)))


def again(folder):
    "The same call, its rows in another order."
    t = pd.read_csv(SHARED / 'esc/meta/esc50.csv').sample(frac=1, random_state=1)
    t = t[t.esc10]
    index = pd.read_csv(SHARED / 'images/index.csv').sample(frac=1, random_state=1)
    m = pd.read_csv(SHARED / 'images/sound_image_map.csv')
    m = m[(m.sound_set == 'esc50') & (m.strength != 'weak')]
    return (
        pd.DataFrame(
            dict(path='esc/audio/' + t.filename, label=t.category, fold=t.fold)
        ),
        pd.DataFrame(dict(path='images/' + index.path, image_class=index.image_class)),
        m.groupby('category').image_class.apply(list).to_dict(),
        folder / 'pairs.csv',
        0,
        4,
        [1, 2, 3],
    )


@needs('images')
def test_real_prepare(tmp_path):
    esc_pairs(tmp_path, ['rooster', 'chainsaw'])
    s = write_corpus(
        params(
            train_folds=[1, 2, 3], test_folds=[4], valid_fraction=0.1, image_size=64
        ),
        tmp_path / 'out',
        tmp_path,
        2,
    )
    assert (
        s['sounds']
        == dict(train=s['sounds']['train'], valid=s['sounds']['valid'], test=16)
        and s['rejected'] == s['lost'] == s['leaks']['test'] == 0
        and s['sounds']['valid'] > 0
    )
    c = Corpus(tmp_path / 'out')
    t = c.split('test')
    assert (t[t.label == 'chainsaw'].frames.str.len() == 0).all() and (
        t[t.label == 'rooster'].frames.str.len() == 4
    ).all()
