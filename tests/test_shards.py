"Corpora in tar archives: they read as loose files do, and a damaged or harmful archive does no harm."

import gzip, io, json, shutil, tarfile

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.params import CorpusParams, FoleyParams
from wavbrivl.core.picture_params import Params
from wavbrivl.data.prepare import write_corpus
from wavbrivl.data.corpus import Corpus
from wavbrivl.pipeline.lab import Lab
from wavbrivl.pipeline.training import prepare_corpus
from wavbrivl.media.containers import sniff_content
from wavbrivl.media.sound import load_audio, probe_audio
from wavbrivl.media.pictures import load_picture
from wavbrivl.data.shards import Member, pack_corpus, read_shards
from wavbrivl.training.image_text import load_pictures
from wavbrivl.training.audio import Recordings, WavlmTask


webdataset = pytest.importorskip('webdataset')


@pytest.fixture(scope='module')
def corpora(tmp_path_factory):
    "The same corpus in single files and in shards."
    d = tmp_path_factory.mktemp('shards')
    write_corpus(
        CorpusParams(
            image_size=32,
            foley=FoleyParams(
                train=10, valid=3, test=4, min_seconds=0.5, max_seconds=1.0
            ),
        ),
        d / 'loose',
        d,
        workers=1,
    )
    shutil.copytree(d / 'loose', d / 'packed')
    assert pack_corpus(d / 'packed', 4) == 3 + 1 + 1
    return Corpus(d / 'loose'), Corpus(d / 'packed')


def tar(path, *members, end=True):
    "A tar of (name, bytes) and of `TarInfo`."
    with tarfile.open(path, 'w') as t:
        for m in members:
            if isinstance(m, tarfile.TarInfo):
                t.addfile(m)
            else:
                info = tarfile.TarInfo(m[0])
                info.size = len(m[1])
                t.addfile(info, io.BytesIO(m[1]))
    return path


def special(name, kind, link=''):
    m = tarfile.TarInfo(name)
    m.type, m.linkname = kind, link
    return m


def split_up(path):
    "Names of the good members, and sentences."
    got = list(read_shards([path]))
    return [m.path.rsplit('::', 1)[1] for m in got if isinstance(m, Member)], [
        str(x) for x in got if isinstance(x, BadFile)
    ]


# ---------------------------------------------------------------- packing


def test_a_packed_corpus_reads_the_same(corpora):
    loose, packed = corpora
    assert [p.name for p in sorted(packed.folder.iterdir())] == [
        'manifest.parquet',
        'rejected.csv',
        'shards',
        'summary.json',
    ]
    pd.testing.assert_frame_equal(
        loose.table.drop(columns=['audio', 'frames']),
        packed.table.drop(columns=['audio', 'frames']),
    )
    for a, b in zip(loose.table.itertuples(), packed.table.itertuples(), strict=True):
        assert (
            np.array_equal(loose.audio(a), packed.audio(b))
            and sniff_content(packed.folder / b.audio).getvalue()
            == (loose.folder / a.audio).read_bytes()
        )
        assert len(a.frames) == len(b.frames) and all(
            np.array_equal(loose.picture(p), packed.picture(q))
            for p, q in zip(a.frames, b.frames)
        )


def test_a_training_batch_is_the_same(corpora):
    params, batches = Params(wavlm=dict(clusters=4), train=dict(window=0.5)), []
    for corpus in corpora:
        table = corpus.split('train')
        lesson = WavlmTask(params, Recordings(corpus, table))
        batches.append(
            (
                *(
                    torch.as_tensor(x)
                    for x in lesson.batch(
                        np.arange(8), np.random.default_rng(3)
                    ).values()
                ),
                load_pictures(corpus, [p for f in table.frames for p in f]),
            )
        )
    assert len(batches[0][0]) == 8 and len(batches[0][-1]) == 40
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a, b)


def test_packing_again_and_twice_gives_the_same_bytes(corpora, tmp_path):
    loose, packed = corpora
    shutil.copytree(packed.folder, tmp_path / 'c')
    assert (
        pack_corpus(tmp_path / 'c', 100) == 3
        and len(list((tmp_path / 'c/shards').iterdir())) == 3
    )
    pack_corpus(tmp_path / 'c', 4)
    everything = lambda d: {
        str(f.relative_to(d)): f.read_bytes()
        for f in sorted(d.rglob('*'))
        if f.is_file()
    }
    assert everything(tmp_path / 'c') == everything(packed.folder)


def test_what_cannot_be_packed_is_left_alone(corpora, tmp_path):
    with pytest.raises(BadInput, match='no corpus'):
        pack_corpus(tmp_path, 4)
    shutil.copytree(corpora[0].folder, tmp_path / 'c')
    with pytest.raises(BadInput, match='corpus.shard_size'):
        pack_corpus(tmp_path / 'c', 0)
    victim = next((tmp_path / 'c/audio').iterdir())
    victim.unlink()
    before = {f for f in (tmp_path / 'c').rglob('*')}
    with pytest.raises(BadFile, match='not exist'):
        pack_corpus(tmp_path / 'c', 4)
    assert {f for f in (tmp_path / 'c').rglob('*')} == before and not any(
        f.name.endswith('.part') for f in tmp_path.iterdir()
    )


def test_webdataset_reads_the_shards(corpora):
    loose, packed = corpora
    rows = {r.clip: r for r in loose.table.itertuples()}
    shards = sorted(map(str, (packed.folder / 'shards').glob('*.tar')))
    seen = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert len(seen) == len(rows)
    for s in seen:
        sample = json.loads(s['json'])
        row = rows[sample['clip']]
        assert (
            sample['captions'] == list(row.captions)
            and sample['label'] == row.label
            and f'/{sample["split"]}-' in s['__url__']
        )
        assert (
            s['flac'] == (loose.folder / row.audio).read_bytes()
            and s['0.jpg'] == (loose.folder / row.frames[0]).read_bytes()
        )
    assert len({s['__key__'] for s in seen}) == len(seen) and [
        s['__key__'] for s in seen
    ] != sorted(s['__key__'] for s in seen), 'dealt at random'


def test_names_with_dots_keep_their_samples_apart(tmp_path):
    sf.write(tmp_path / 'x.wav', np.full(8000, 0.1), 16000)
    sf.write(tmp_path / 'y.wav', np.full(8000, -0.1), 16000)
    pd.DataFrame(
        dict(
            audio=['x.wav', 'y.wav'],
            clip=['a.1', 'a.2'],
            caption=['one', 'two'],
            split=['train', 'test'],
        )
    ).to_csv(tmp_path / 'pairs.csv', index=False)
    write_corpus(
        CorpusParams(reader='folder', source='pairs.csv'),
        tmp_path / 'c',
        tmp_path,
        workers=1,
    )
    pack_corpus(tmp_path / 'c', 10)
    seen = {
        json.loads(s['json'])['clip']: s
        for s in webdataset.WebDataset(
            sorted(map(str, (tmp_path / 'c/shards').glob('*.tar'))), shardshuffle=False
        )
    }
    assert seen.keys() == {'a.1', 'a.2'} and all(
        'flac' in s and '.' not in s['__key__'] for s in seen.values()
    )
    corpus = Corpus(tmp_path / 'c')
    assert [
        corpus.audio(a).mean() > 0 for a in corpus.table.sort_values('clip').audio
    ] == [True, False]


def test_the_stage_packs_where_asked(tmp_path):
    (tmp_path / 'params.yaml').write_text(
        'corpus: {shard_size: 3, image_size: 32, foley: '
        '{train: 4, valid: 2, test: 2, min_seconds: .5, max_seconds: .6}}'
    )
    (tmp_path / 'wavbrivl').mkdir()
    (tmp_path / 'wavbrivl/foley').mkdir()
    prepare_corpus(Lab(root=tmp_path))
    assert (
        len(list((tmp_path / 'build/corpus/shards').iterdir())) == 4
        and not (tmp_path / 'build/corpus/audio').exists()
    )
    assert Params().corpus.shard_size is None


# ---------------------------------------------------------------- members as files


def test_a_member_is_read_where_a_file_is(tmp_path):
    sf.write(tmp_path / 'x.wav', np.random.default_rng(0).normal(0, 0.1, 44100), 44100)
    wav = (tmp_path / 'x.wav').read_bytes()
    tar(
        tmp_path / 's.tar',
        ('k/x.wav', wav),
        ('k/cut.wav', wav[: len(wav) // 5]),
        ('k/text.wav', b'no sound' * 99),
        ('k/empty.wav', b''),
    )
    good, cut, text, empty = (m.path for m in read_shards([tmp_path / 's.tar']))
    assert (
        np.array_equal(load_audio(good), load_audio(tmp_path / 'x.wav'))
        and probe_audio(good)['rate'] == 44100
    )
    for path, word in (
        (cut, 'cut short'),
        (text, 'neither'),
        (empty, 'empty'),
        (good.replace('s.tar', 'no.tar'), 'not exist'),
        (good.replace('+88', '+999988'), 'ends inside'),
    ):
        with pytest.raises(BadFile, match=word):
            load_audio(path)
    with pytest.raises(BadFile, match='not a picture'):
        load_picture(text)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['s.tar', 'x.wav']


# ---------------------------------------------------------------- archives from elsewhere


def test_members_that_mean_harm(tmp_path):
    bad = [
        ('../up.wav', b'x'),
        ('a/../../up.wav', b'x'),
        ('/etc/x.wav', b'x'),
        special('l.wav', tarfile.SYMTYPE, '/etc/passwd'),
        special('h.wav', tarfile.LNKTYPE, 'good.wav'),
        special('c.wav', tarfile.CHRTYPE),
        special('f.wav', tarfile.FIFOTYPE),
    ]
    names, errors = split_up(
        tar(
            tmp_path / 's.tar',
            ('good.wav', b'1'),
            *bad,
            special('folder', tarfile.DIRTYPE),
            ('b/good.wav', b'2'),
        )
    )
    assert names == ['good.wav', 'b/good.wav'] and len(errors) == len(bad)
    assert [('leads out' in s, 'link' in s, 'device' in s) for s in errors] == [
        (1, 0, 0)
    ] * 3 + [(0, 1, 0)] * 2 + [(0, 0, 1)] * 2
    assert list(tmp_path.iterdir()) == [tmp_path / 's.tar']


def test_damage_is_named_and_what_came_before_is_read(tmp_path):
    data = tar(
        tmp_path / 's.tar', *((f'{i}.bin', bytes([i]) * 700) for i in range(6))
    ).read_bytes()
    block = 512 * 3  # a header and two blocks

    def after(*changes):
        (tmp_path / 't.tar').write_bytes(b''.join(changes))
        return split_up(tmp_path / 't.tar')

    for at in (3 * block + 600, 3 * block + 100):  # inside a member, inside a header
        names, errors = after(data[:at])
        assert (
            names == ['0.bin', '1.bin', '2.bin']
            and len(errors) == 1
            and 'damaged' in errors[0]
            and '2.bin' in errors[0]
        )
    names, errors = after(data[: 2 * block], b'\xff' * 512, data[2 * block + 512 :])
    assert names == ['0.bin', '1.bin'] and 'no header' in errors[0]
    huge = bytearray(data)
    huge[124:136] = b'77777777777\0'
    huge[148:156] = b' ' * 8
    huge[148:156] = b'%06o\0 ' % sum(huge[:512])
    names, errors = after(bytes(huge))
    assert names == [] and 'unexpected end' in errors[0], (
        'a member cannot be larger than its archive'
    )
    for nothing, word in (
        (b'', 'empty'),
        (b'no tar at all' * 100, 'not a plain tar'),
        (gzip.compress(data), 'not a plain tar'),
    ):
        names, errors = after(nothing)
        assert names == [] and len(errors) == 1 and word in errors[0]
    assert split_up(tmp_path / 'missing.tar')[1] == [
        f'{tmp_path / "missing.tar"}: the file does not exist.'
    ]


def test_random_damage_never_surprises(tmp_path):
    data, rng, outcomes = (
        tar(
            tmp_path / 's.tar', *((f'{i}.bin', bytes([i]) * 700) for i in range(4))
        ).read_bytes(),
        np.random.default_rng(0),
        set(),
    )
    for i in range(200):
        d = bytearray(data)
        for at in rng.integers(0, 4 * 1536, 6):
            d[at] = rng.integers(256)
        (tmp_path / 't.tar').write_bytes(
            d[: rng.integers(1, len(d))] if i % 4 == 0 else d
        )
        for x in read_shards([tmp_path / 't.tar']):
            outcomes.add(type(x))
            if isinstance(x, Member):
                assert len(x.read()) <= len(data)
    assert outcomes == {Member, BadFile}
