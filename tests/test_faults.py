"""The disk is full, the folder cannot be written, the writer is killed.

What was there before is still whole, or there is nothing; and the next run works.
"""

import errno, json, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from wavbrivl.core.files import (
    BadFile,
    BadInput,
    STALE_SECONDS,
    read_json,
    atomic_write,
    write_json,
    write_model,
)

ROOT = Path(__file__).parents[1]


# ---------------------------------------------------------------- one file


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    f = tmp_path / 'x.json'
    write_json(dict(a=1), f)
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error):
            with atomic_write(f) as tmp:
                tmp.write_text('{"half')
                raise error
    with pytest.raises(ValueError):
        write_json(dict(a=float('nan')), f)
    with pytest.raises(TypeError):
        write_json({(1, 2): 3}, f)
    assert read_json(f) == dict(a=1) and os.listdir(tmp_path) == ['x.json']


@pytest.mark.parametrize(
    'code, words',
    [
        (errno.ENOSPC, 'No space left'),
        (errno.EFBIG, 'too large'),
        (errno.EROFS, 'Read-only'),
        (errno.EDQUOT, 'uota'),
        (errno.EIO, 'nput/output'),
    ],
)
def test_what_the_system_refuses_is_a_sentence(tmp_path, code, words):
    write_json(dict(a=1), tmp_path / 'x.json')
    with pytest.raises(
        BadFile, match=f'x.json: cannot be written .*{words}.*; make room'
    ) as e:
        with atomic_write(tmp_path / 'x.json'):
            raise OSError(code, os.strerror(code))
    assert (
        e.value.__cause__.errno == code
        and read_json(tmp_path / 'x.json') == dict(a=1)
        and os.listdir(tmp_path) == ['x.json']
    )


def test_other_errors_are_left_alone(tmp_path):
    with pytest.raises(ConnectionResetError):
        with atomic_write(tmp_path / 'x'):
            raise ConnectionResetError(errno.ECONNRESET, 'reset')
    with pytest.raises(BadFile, match='^elsewhere: '):
        with atomic_write(tmp_path / 'x'):
            raise BadFile('elsewhere', 'odd.')
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be(tmp_path):
    (tmp_path / 'file').write_text('a file')
    (tmp_path / 'folder').mkdir()
    for path in (
        tmp_path / 'file/x.json',
        tmp_path / 'file/deeper/x.json',
        tmp_path / 'folder',
        tmp_path / ('x' * 300),
    ):
        with pytest.raises(BadFile, match='cannot be written'):
            write_json({}, path)
    assert (
        (tmp_path / 'file').read_text() == 'a file'
        and sorted(os.listdir(tmp_path)) == ['file', 'folder']
        and not os.listdir(tmp_path / 'folder')
    )


@pytest.mark.skipif(
    not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write anywhere'
)
def test_a_folder_that_may_not_be_written(tmp_path):
    write_json(dict(a=1), tmp_path / 'x.json')
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(BadFile, match='Permission denied'):
            write_json(dict(a=2), tmp_path / 'x.json')
        assert read_json(tmp_path / 'x.json') == dict(a=1)
    finally:
        tmp_path.chmod(0o755)


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(
        os, 'fsync', lambda fd: (order.append(('sync', os.fstat(fd).st_size)), sync(fd))
    )
    monkeypatch.setattr(
        os,
        'replace',
        lambda a, b: (
            order.append(('move', Path(a).parent == Path(b).parent)),
            move(a, b),
        ),
    )
    with atomic_write(tmp_path / 'x') as tmp:
        tmp.write_bytes(bytes(1000))
    assert (
        order == [('sync', 1000), ('move', True)]
        and (tmp_path / 'x').stat().st_mode & 0o600 == 0o600
    )


def test_what_killed_writers_left_is_swept_up(tmp_path):
    "Old temporary files of the same name go; young ones, and those of other names, stay."
    names = [
        '.x.json-abcd1234.json',
        '.x.json-young123.json',
        '.y.json-abcd1234.json',
        '.x.json-abcd1234.txt',
        '.xx.json-abcd1234.json',
        '.x-y.json-abcd1234.json',
        'x.json-abcd1234.json',
    ]
    for n in names:
        (tmp_path / n).write_text('half')
        if 'young' not in n:
            os.utime(tmp_path / n, times=(time.time() - STALE_SECONDS - 60,) * 2)
    write_json({}, tmp_path / 'x.json')
    assert sorted(os.listdir(tmp_path)) == sorted({*names, 'x.json'} - {names[0]})
    with atomic_write(tmp_path / '[x]*.json') as tmp:
        tmp.write_text('1')
    assert sorted(os.listdir(tmp_path)) == sorted(
        {*names, 'x.json', '[x]*.json'} - {names[0]}
    )


def test_two_writers_of_one_file(tmp_path):
    with atomic_write(tmp_path / 'x') as a, atomic_write(tmp_path / 'x') as b:
        assert a != b
        a.write_text('a')
        b.write_text('b')
    assert (tmp_path / 'x').read_text() in 'ab' and os.listdir(tmp_path) == ['x']


def test_a_model_is_written_as_one(tmp_path):
    import torch

    write_model(tmp_path, dict(a=1), dict(w=torch.ones(3)))
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    with pytest.raises(ValueError):
        write_model(tmp_path, dict(a=float('nan')), dict(w=torch.zeros(3)))
    with pytest.raises(AttributeError):
        write_model(tmp_path, dict(a=2), dict(w='no tensor'))
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


# ---------------------------------------------------------------- everything that is written

NAMES = 'model painter vqgan diffusion brivl judge state corpus targets png gif mp4 json'.split()
visible = lambda files: {
    k: v for k, v in files.items() if not k.rsplit('/', 1)[-1].startswith('.')
}
forks = pytest.mark.skipif(
    not hasattr(os, 'fork') or not hasattr(signal, 'SIGXFSZ'),
    reason='this system has no fork, or no limit on the size of a file',
)


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    "Everything that writes, written once, on a full disk, and by writers that are killed: what each left."
    d = tmp_path_factory.mktemp('faults')
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tests/write_everything.py'), str(d)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(
        next(line for line in done.stdout.splitlines() if line.startswith('found '))[6:]
    ) | dict(lab=d / 'first')


@forks
def test_everything_is_written(found):
    assert list(found['first']) == NAMES and all(found['first'].values())
    assert all(visible(files) == files for files in found['first'].values()), (
        'no temporary file is left'
    )


@forks
@pytest.mark.parametrize('limit', [0, 700])
def test_the_disk_is_full(found, limit):
    "No file may grow past `limit` bytes, which to a writer is a full disk."
    each = found[f'full-{limit}']
    assert [
        n for n in NAMES if each[n]['said'][1] == 'written' or each[n]['said'][0]
    ] == [], each
    assert [n for n in NAMES if each[n]['after'] != found['first'][n]] == [], (
        'the old one is whole, and nothing is beside it'
    )
    said = {n: each[n]['said'][1] for n in NAMES}
    assert [
        n
        for n in NAMES
        if not said[n].startswith('True BadFile') or 'cannot be written' not in said[n]
    ] == [], said
    assert [
        n
        for n in NAMES
        if found[f'full-{limit}-next'][n].keys() != found['first'][n].keys()
        or found[f'full-{limit}-next'][n] == found['first'][n]
    ] == [], 'the next run works'


@forks
def test_the_disk_fills_up_at_a_sound(found):
    "Pictures still fit, the sounds do not: no corpus comes of it."
    assert found['sounds']['said'][1] != 'written' and found['sounds']['after'] == {}


@forks
@pytest.mark.parametrize('name', [n for n in NAMES if n != 'corpus'])
def test_the_writer_is_killed_before_the_name_is_given(found, name):
    for when in ('content', '0'):
        f = found[f'killed-{name}-{when}']
        old = {
            k: v
            for k, v in found['first'][name].items()
            if not k.endswith('config.json')
        }
        assert (
            f['said'][0] == signal.SIGKILL
            and {k: v for k, v in visible(f['after']).items() if k in old} == old
        ), (
            'the old one is whole, or has no config.json while the new one takes its place'
        )
        assert when == '0' or visible(f['after']) != f['after'], (
            'the killed writer could not tidy up'
        )
        assert (
            f['next'].keys() == found['first'][name].keys()
            and f['next'] != found['first'][name]
        ), 'the next run works, and sweeps up'


@forks
@pytest.mark.parametrize('when', [0, 1])
def test_the_corpus_is_killed_on_its_way_to_its_name(found, when):
    f = found[f'killed-corpus-{when}']
    assert f['said'][0] == signal.SIGKILL and f['after'] == (
        None if when else found['first']['corpus']
    ), 'the old one is whole, or nothing is there'
    assert (
        f['next'].keys()
        and f['next'] != found['first']['corpus']
        and f['beside'] == sorted(NAMES)
    )


@forks
def test_half_a_folder_is_not_believed(found, tmp_path):
    "A folder that lost a file, or the end of one, is refused by name."
    import shutil
    from wavbrivl.api.pictures import WavBriVL
    from wavbrivl.data.corpus import Corpus

    model = lambda d: WavBriVL.from_pretrained(d, 'cpu')
    for name, opens, file in (
        ('model', model, 'model.safetensors'),
        ('model', model, 'config.json'),
        ('corpus', Corpus, 'manifest.parquet'),
        ('corpus', Corpus, 'summary.json'),
    ):
        for cut in (True, False):
            d = shutil.copytree(found['lab'] / name, tmp_path / f'{name}-{file}-{cut}')
            opens(d)
            if cut:
                (d / file).write_bytes((d / file).read_bytes()[:-20])
            else:
                (d / file).unlink()
            with pytest.raises(BadInput, match=file.split('.')[0]):
                opens(d)


@forks
def test_the_command_line_says_what_cannot_be_written(found, tmp_path, capsys):
    from wavbrivl.app.cli import main

    sf.write(tmp_path / 'x.wav', np.zeros(8000), 16000)
    (tmp_path / 'file').write_text('a file')
    assert (
        main(
            [
                'embed',
                str(tmp_path / 'x.wav'),
                '--model',
                str(found['lab'] / 'model'),
                '--device',
                'cpu',
                '--out',
                str(tmp_path / 'file/x.parquet'),
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert (
        said.startswith('wavbrivl: ')
        and 'file/x.parquet' in said
        and 'cannot be written' in said
    )
