"""A table of embeddings through bad files, kills, full disks and several processes; memory that stays.

See nbs/21_search/02_bulk.ipynb.
"""

import json, multiprocessing, os, resource, signal, struct, tarfile, time
from pathlib import Path

import mixed_files
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch

from wavbrivl.api.pictures import WavBriVL
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.search.bulk_parts import find_sounds, cut_windows_ahead
from wavbrivl.search.bulk import embed_files
from wavbrivl.app.cli import main
from wavbrivl.core.files import BadInput
from wavbrivl.core.params import AudioParams, BrivlParams
from wavbrivl.media.sound import load_audio, stream_audio
from wavbrivl.audio.tower import AudioTower, embed_frames

RATE = 16_000
SMALL = AudioParams(
    conv_dim=[4] * 7,
    hidden=16,
    layers=1,
    heads=2,
    ffn=16,
    embed=24,
    pos_kernel=8,
    pos_groups=2,
    block_heads=2,
    buckets=16,
)
PROCESSES = multiprocessing.get_context('forkserver')
PROCESSES.set_forkserver_preload(
    [
        'wavbrivl.search.bulk',
        'wavbrivl.app.cli',
        'pandas',
        'pytest',
        'timm',
        'transformers.models.wavlm.modeling_wavlm',
        'transformers.models.bert.modeling_bert',
    ]
)  # imported once

pytestmark = pytest.mark.usefixtures(
    'one_thread'
)  # the last digit of a sum depends on the number


def new_model(seed=0):
    torch.manual_seed(seed)
    brivl = BriVL(
        BrivlParams(
            image_size=32, text=dict(vocab=60, hidden=32, layers=1, heads=2, ffn=32)
        )
    )
    return WavBriVL(AudioTower(SMALL, brivl.dim, 0.5), brivl, None)


def sounds(folder, n, seed=0, most=1.2, least=0.05):
    "Noise of all lengths and rates, some of it in a subfolder."
    rng = np.random.default_rng(seed)
    (folder / 'more').mkdir(parents=True, exist_ok=True)
    for i in range(n):
        rate = (16000, 8000, 44100)[i % 3]
        sf.write(
            folder / ('more' if i % 4 == 3 else '.') / f'{i:04d}.wav',
            rng.normal(0, 0.1, max(1, int(rate * rng.uniform(least, most)))),
            rate,
        )
    return folder


@pytest.fixture(scope='module')
def model():
    return new_model()


@pytest.fixture(scope='module')
def lab(tmp_path_factory, model, one_thread):
    "A model folder, 90 sounds of which some are bad, and what an undisturbed run makes of them."
    d = tmp_path_factory.mktemp('bulk')
    model.save_pretrained(d / 'model')
    s = sounds(d / 'sounds', 84)
    good = (s / '0000.wav').read_bytes()
    (s / '0010x.wav').touch()
    (s / '0020x.wav').write_text('no sound at all ' * 50)
    (s / '0030x.wav').mkdir()
    (s / '0040x.wav').write_bytes(good[: len(good) // 5])
    (s / '0050x.wav').write_bytes(
        good[:40] + struct.pack('<I', 4 * 3600 * 2 * RATE) + good[44:1024]
    )
    (s / '0060x.mp3').symlink_to('nowhere.mp3')
    (s / 'notes.txt').write_text('not looked at')
    (s / 'loop').symlink_to(s)
    for name, part in dict(whole=8, fine=2).items():
        embed_files(model, s, d / f'{name}.parquet', part=part, batch=5, progress=False)
    return d


def run(lab, out, kill_at=None, limit=None, report=None, **how):
    "Embed in a process of its own; die when `kill_at` files are in their place, or allow files of `limit` bytes."
    torch.set_num_threads(1)
    model = WavBriVL.from_pretrained(lab / 'model', 'cpu')
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if kill_at is not None:
        put, left = os.replace, iter(range(kill_at))

        def replace(*a):
            put(*a) if next(left, None) is not None else os.kill(
                os.getpid(), signal.SIGKILL
            )

        os.replace = replace
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        said = embed_files(
            model,
            how.pop('sources', lab / 'sounds'),
            out,
            part=how.pop('part', 8),
            batch=5,
            progress=False,
            **how,
        )
    except BadInput as e:
        said = dict(error=str(e))
    if report:
        report.send(
            said
            | dict(
                peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                before=before / 1024,
            )
        )


def started(lab, out, **how):
    p = PROCESSES.Process(target=run, args=(lab, out), kwargs=how)
    p.start()
    return p


def result(lab, out, **how):
    "What a run in its own process says of itself."
    here, there = PROCESSES.Pipe(False)
    p = started(lab, out, report=there, **how)
    there.close()
    said = here.recv()
    p.join()
    return said


def same(lab, out, name='whole'):
    "Byte for byte what the undisturbed run wrote, and nothing else beside it."
    assert out.read_bytes() == (lab / f'{name}.parquet').read_bytes()
    assert (
        out.with_suffix('.rejected.csv').read_bytes()
        == (lab / 'whole.rejected.csv').read_bytes()
    )
    assert {f.name for f in out.parent.iterdir()} == {
        out.name,
        out.with_suffix('.rejected.csv').name,
        out.with_suffix('.notes.csv').name,
    }


# ---------------------------------------------------------------- what is written


def test_table_is_what_embed_audio_says(lab, model):
    t = pd.read_parquet(lab / 'whole.parquet')
    assert (
        list(t.columns) == ['file', 'embedding', 'seconds']
        and t.seconds.dtype == np.float32
        and len(t) == 84
        and t.file.is_unique
    )
    a = np.stack(t.embedding)
    assert (
        a.dtype == np.float32
        and np.abs(a - model.embed_audio(list(t.file))).max() < 1e-6
        and np.allclose(np.linalg.norm(a, axis=1), 1, atol=1e-5)
    )
    assert np.allclose(t.seconds, [len(load_audio(f)) / RATE for f in t.file])
    assert list(t.file) == [
        f for f in find_sounds([str(lab / 'sounds')]) if f in set(t.file)
    ], 'the order of the folder'


def test_bad_files_are_set_aside_with_reasons(lab):
    bad = pd.read_csv(lab / 'whole.rejected.csv')
    reason = {Path(f).name: r for f, r in zip(bad.file, bad.reason)}
    for name, word in {
        '0010x.wav': 'empty',
        '0020x.wav': 'neither',
        '0030x.wav': 'folder',
        '0040x.wav': 'cut short',
        '0050x.wav': 'promised',
        '0060x.mp3': 'leads nowhere',
    }.items():
        assert word in reason[name]
    assert len(bad) == 6, 'the link that leads back is passed over'


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads everything')
def test_no_permission(tmp_path, model):
    sounds(tmp_path / 's', 3)
    (tmp_path / 's/0000.wav').chmod(0)
    (tmp_path / 's/more').mkdir(exist_ok=True)
    (tmp_path / 's/more').chmod(0)
    did = embed_files(model, tmp_path / 's', tmp_path / 'o.parquet', progress=False)
    reasons = pd.read_csv(tmp_path / 'o.rejected.csv').reason
    (tmp_path / 's/more').chmod(0o755)
    assert (
        did['embedded'] == 2
        and reasons.str.contains('permission').any()
        and reasons.str.contains('listed').any()
    )


def test_neither_batch_nor_threads_nor_parts_matter(lab, model, tmp_path):
    want = np.stack(pd.read_parquet(lab / 'whole.parquet').embedding)
    for k, how in enumerate(
        (dict(batch=1, part=1000, workers=1), dict(batch=64, part=3, workers=7))
    ):
        embed_files(
            model, lab / 'sounds', tmp_path / f'{k}.parquet', progress=False, **how
        )
        assert (
            np.abs(
                np.stack(pd.read_parquet(tmp_path / f'{k}.parquet').embedding) - want
            ).max()
            < 1e-6
        )


def test_frames_and_task(lab, model, tmp_path):
    files = [str(f) for f in sorted((lab / 'sounds').glob('00?[02468].wav'))]
    did = embed_files(
        model,
        files,
        tmp_path / 'o.parquet',
        kind='task',
        frames=True,
        batch=4,
        progress=False,
    )
    t = pd.read_parquet(tmp_path / 'o.parquet')
    assert did['embedded'] == len(t) == len(files) and list(t.file) == files
    assert np.allclose(
        np.stack(t.embedding), model.embed_audio(files, kind='task'), atol=1e-6
    )
    for got, want in zip(
        t.frames, embed_frames(model.audio, [load_audio(f) for f in files]), strict=True
    ):
        got = np.stack(got)
        assert (
            got.dtype == np.float16
            and got.shape == want.shape
            and np.abs(got.astype(float) - want).max() < 2e-3
        )


def test_names_of_any_kind(tmp_path, model):
    "Bytes that are no UTF-8, a comma and quotes, a line break, a link that leads to itself."
    for name in (b'\xff.wav', 'ä,"b".wav'.encode(), b'two\nlines.wav'):
        sf.write(tmp_path / 'x.flac', np.full(3000, 0.1), RATE)
        os.rename(tmp_path / 'x.flac', os.fsencode(tmp_path) + b'/' + name)
    (tmp_path / 'ring.wav').symlink_to('ring.wav')
    (tmp_path / 'a,"b\n.wav').touch()
    did = embed_files(model, tmp_path, tmp_path / 'o.parquet', progress=False)
    assert did['embedded'] == 3 and {
        Path(f).name for f in pd.read_parquet(tmp_path / 'o.parquet').file
    } == {'\\xff.wav', 'ä,"b".wav', 'two\nlines.wav'}
    assert {Path(f).name for f in pd.read_csv(tmp_path / 'o.rejected.csv').file} == {
        'ring.wav',
        'a,"b\n.wav',
    }


@pytest.mark.parametrize('rate', [8000, 16000, 44100])
def test_a_sound_in_blocks_is_the_sound(tmp_path, rate):
    for n in (1, 5, 1024, 5 * rate + 3):
        sf.write(tmp_path / 'x.flac', np.random.default_rng(n).normal(0, 0.1, n), rate)
        x = load_audio(tmp_path / 'x.flac')
        assert np.array_equal(
            np.concatenate(list(stream_audio(tmp_path / 'x.flac'))), x
        ) and sum(
            adds
            for *_, adds in cut_windows_ahead(stream_audio(tmp_path / 'x.flac'), 8000)
        ) == len(x)


def test_shards_are_sources(lab, model, tmp_path):
    files = sorted((lab / 'sounds').glob('000*.wav'))
    for k in (0, 1):
        with tarfile.open(tmp_path / f's-{k}.tar', 'w') as tar:
            for f in files[k::2]:
                tar.add(f, f'a/{f.name}')
            tar.add(lab / 'sounds/notes.txt', 'a/0000.txt')
            tar.add(lab / 'sounds/0020x.wav', 'a/bad.wav')
    did = embed_files(
        model, str(tmp_path / 's-{0..1}.tar'), tmp_path / 'o.parquet', progress=False
    )
    t = pd.read_parquet(tmp_path / 'o.parquet')
    assert (
        did['embedded'] == len(files)
        and did['rejected'] == 2
        and [Path(f).name for f in t.file] == [f.name for f in files[::2] + files[1::2]]
    )
    assert np.allclose(
        np.stack(t.embedding),
        model.embed_audio(list(map(str, files[::2] + files[1::2]))),
        atol=1e-6,
    )
    assert np.allclose(model.embed_audio(t.file[0]), t.embedding[0], atol=1e-6), (
        'the name in the table opens the member'
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'o.notes.csv',
        'o.parquet',
        'o.rejected.csv',
        's-0.tar',
        's-1.tar',
    ], 'nothing was unpacked'


# ---------------------------------------------------------------- what stops it


def test_killed_at_random_moments(lab, tmp_path):
    out, rng = tmp_path / 't/out.parquet', np.random.default_rng(os.getpid())
    parts = lambda: len(list(Path(f'{out}.parts').glob('0*.parquet')))
    for _ in range(5):
        p, there = started(lab, out, part=2), parts()
        until = time.time() + 60
        while parts() <= there and p.is_alive() and time.time() < until:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.015))
        p.kill()
        p.join()
        assert p.exitcode == -signal.SIGKILL and not out.exists(), (
            'it was killed at work'
        )
    said = result(lab, out, part=2)
    assert said['skipped'] >= 5 * 2 and said['embedded'] == 84 and said['rejected'] == 6
    same(lab, out, 'fine')


def test_every_kind_of_file_through_kills(model, tmp_path):
    "Each file is a row that is right, or named; `python tests/mixed_files.py 2000` does it with many."
    model.save_pretrained(tmp_path / 'model')
    made = mixed_files.killed_and_whole(tmp_path, PROCESSES, 36, 3, 8)
    assert mixed_files.differing(tmp_path) == []
    assert mixed_files.check_table(made, tmp_path / 'whole.parquet', model) == []


def test_killed_at_every_delicate_moment(lab, tmp_path):
    "Before each file is put in its place: whose the work is, some parts, the bad files, the notes, the table."
    out, parts = tmp_path / 't/out.parquet', -(-90 // 8)
    for k in (0, 1, 3, 2, parts - 5, 0, 0, 1, 2):
        p = started(lab, out, kill_at=k)
        p.join()
        assert p.exitcode == -signal.SIGKILL and not out.exists()
    assert (out.with_suffix('.rejected.csv')).exists() and result(lab, out)[
        'skipped'
    ] == 90
    same(lab, out)


def test_disk_full(lab, tmp_path):
    "Files may be no larger than a part's half, then than half the table."
    out = tmp_path / 't/out.parquet'
    for limit, kept in (
        (4000, False),
        ((lab / 'whole.parquet').stat().st_size // 2, True),
    ):
        said = result(lab, out, limit=limit)
        assert (
            'cannot be written' in said['error']
            and 'goes on' in said['error']
            and not out.exists()
        )
        assert any(Path(f'{out}.parts').glob('0*.parquet')) == kept
    assert result(lab, out)['skipped'] == 90
    same(lab, out)


def test_places_that_cannot_be_written(lab, model, tmp_path):
    (tmp_path / 'file').touch()
    for out in (tmp_path / 'file/o.parquet', Path('/proc/o.parquet')):
        with pytest.raises(BadInput, match='cannot be written'):
            embed_files(model, lab / 'sounds', out, progress=False)
    if os.geteuid():
        (tmp_path / 'locked').mkdir(mode=0o555)
        with pytest.raises(BadInput, match='cannot be written'):
            embed_files(
                model, lab / 'sounds', tmp_path / 'locked/o.parquet', progress=False
            )


def test_what_is_not_ours_is_left_alone(lab, model, tmp_path):
    some = lab / 'sounds/0000.wav'
    for write in (
        lambda f: f.write_text('mine'),
        lambda f: pd.DataFrame(dict(a=[1])).to_parquet(f),
        lambda f: f.mkdir(),
    ):
        out = tmp_path / f'{time.time()}.parquet'
        write(out)
        with pytest.raises(BadInput, match='is not a table of embeddings'):
            embed_files(model, some, out, progress=False)
        assert out.exists()
    (tmp_path / 'p.parquet.parts').mkdir()
    (tmp_path / 'p.parquet.parts/diary').touch()
    with pytest.raises(BadInput, match='in the way'):
        embed_files(model, some, tmp_path / 'p.parquet', progress=False)
    for bad in (dict(kind='point'), dict(rank=2, world=2), dict(batch=0)):
        with pytest.raises(BadInput):
            embed_files(model, some, tmp_path / 'q.parquet', progress=False, **bad)
    with pytest.raises(BadInput, match='.parquet'):
        embed_files(model, some, tmp_path / 'q.npy', progress=False)
    with pytest.raises(BadInput, match='No sound'):
        embed_files(model, tmp_path, tmp_path / 'q.parquet', progress=False)
    assert not (tmp_path / 'q.parquet.parts').exists()


def test_work_of_another_model_is_not_continued(lab, model, tmp_path):
    out = tmp_path / 't/out.parquet'
    p = started(lab, out, kill_at=4)
    p.join()
    for other, how, word in (
        (new_model(1), {}, 'model'),
        (model, dict(kind='task'), 'kind'),
        (model, dict(part=9), 'part'),
        (model, dict(sources=lab / 'sounds/more'), 'sources'),
    ):
        with pytest.raises(BadInput, match=f'other .*{word}'):
            embed_files(
                other,
                how.pop('sources', lab / 'sounds'),
                out,
                progress=False,
                **dict(dict(part=8), **how),
            )
    assert result(lab, out)['skipped'] == 24
    same(lab, out)
    assert (
        embed_files(model, lab / 'sounds', out, part=8, batch=5, progress=False)[
            'skipped'
        ]
        == 0
    ), 'a table of ours may be made again'
    same(lab, out)


def test_a_part_is_as_old_as_its_files(tmp_path, model):
    "Between two attempts a file was replaced and another one came: nothing old is kept, nothing is lost or doubled."
    s, out = sounds(tmp_path / 's', 20), tmp_path / 'o.parquet'
    model.save_pretrained(tmp_path / 'model')
    p = started(tmp_path, out, kill_at=4, sources=s, part=4)
    p.join()
    sf.write(s / '0001.wav', np.ones(3000) * 0.5, RATE)
    sf.write(s / '0009a.wav', np.ones(4000) * 0.5, RATE)
    did = embed_files(model, s, out, part=4, batch=5, progress=False)
    t = pd.read_parquet(out)
    assert (
        list(t.file) == list(find_sounds([str(s)]))
        and len(t) == 21
        and did['skipped'] == 4
    )
    assert np.abs(np.stack(t.embedding) - model.embed_audio(list(t.file))).max() < 1e-6


# ---------------------------------------------------------------- several processes


def test_two_processes_share_and_one_can_finish(lab, tmp_path):
    out = tmp_path / 'a/out.parquet'
    both = [started(lab, out, rank=r, world=2) for r in (0, 1)]
    for p in both:
        p.join()
    same(lab, out)
    out = tmp_path / 'b/out.parquet'
    p = started(lab, out, rank=1, world=2, kill_at=3)
    p.join()
    first = result(lab, out, rank=0, world=2)
    assert (
        first['skipped'] == 0
        and first['embedded'] + first['rejected'] == 48
        and not out.exists()
    ), 'parts of the dead one are missing'
    assert result(lab, out)['skipped'] == 48 + 2 * 8 - (
        8 if len(list(Path(f'{out}.parts').glob('0*'))) == 7 else 0
    )
    same(lab, out)


# ---------------------------------------------------------------- memory


def test_memory_does_not_grow(lab, tmp_path):
    few, many = tmp_path / 'few', tmp_path / 'many'
    for folder, n in ((few, 200), (many, 2000)):
        folder.mkdir()
        for i in range(n):
            os.link(lab / f'sounds/{i % 3:04d}.wav', folder / f'{i:04d}.wav')
    a, b = (
        result(lab, tmp_path / f'{s.name}.parquet', sources=s, part=100, workers=2)
        for s in (few, many)
    )
    assert a['embedded'] == 200 and b['embedded'] == 2000
    assert b['peak'] < 1.3 * a['peak'] and b['peak'] - a['peak'] < 25, (
        a,
        b,
    )  # MB; the windows of 2000 sounds are 61


def test_a_long_sound_is_not_held(lab, tmp_path):
    sf.write(
        tmp_path / 'short.flac',
        np.random.default_rng(0).normal(0, 0.1, 60 * RATE),
        RATE,
    )
    sf.write(
        tmp_path / 'long.flac',
        np.random.default_rng(0).normal(0, 0.1, 1200 * RATE),
        RATE,
    )
    a, b = (
        result(
            lab, tmp_path / f'{n}.parquet', sources=tmp_path / f'{n}.flac', workers=2
        )
        for n in ('short', 'long')
    )
    assert b['embedded'] == 1 and b['peak'] - a['peak'] < 30, (
        a,
        b,
    )  # MB; its samples are 73
    assert abs(pd.read_parquet(tmp_path / 'long.parquet').seconds[0] - 1200) < 1e-3


# ---------------------------------------------------------------- from a shell


def test_command_line(lab, tmp_path, capsys):
    shell = ['--model', str(lab / 'model'), '--device', 'cpu']
    assert (
        main(
            [
                'embed',
                str(lab / 'sounds'),
                '-o',
                str(tmp_path / 'o.parquet'),
                '--workers',
                '2',
                '--json',
                *shell,
            ]
        )
        == 1
    )
    said, err = capsys.readouterr()
    assert (
        json.loads(said)[0]['embedded'] == 84
        and err.count('set aside') == 6
        and 'cut short' in err
    )
    assert main(['embed', str(lab / 'sounds/0000.wav'), '--json', *shell]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert np.allclose(
        row['embedding'],
        pq.read_table(tmp_path / 'o.parquet', columns=['embedding']).to_pylist()[0][
            'embedding'
        ],
        atol=1e-6,
    )
    assert (
        main(['embed', str(lab / 'sounds/0010x.wav'), *shell]) == 2
        and main(['embed', str(tmp_path / 'nowhere.tar'), *shell]) == 2
    )
    assert (
        main(
            [
                'embed',
                str(lab / 'sounds/0000.wav'),
                '--frames',
                '-o',
                str(tmp_path / 'f.parquet'),
                *shell,
            ]
        )
        == 0
        and 'frames' in pq.read_schema(tmp_path / 'f.parquet').names
    )


def test_progress_is_a_line_a_minute_where_nobody_watches(
    lab, model, tmp_path, monkeypatch, capsys
):
    clock = iter(np.arange(0, 10_000, 10.0))
    import wavbrivl.search.bulk as bulk

    monkeypatch.setattr(bulk.time, 'time', lambda: float(next(clock)))
    embed_files(model, lab / 'sounds', tmp_path / 'o.parquet', part=8)
    lines = capsys.readouterr().err.strip().splitlines()
    assert 12 <= len(lines) <= 18 and all('files' in x and '\r' not in x for x in lines)
