"""The command line as people use it: folders, labels, notes, names, closed pipes, and the status it ends with."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import soundfile as sf
import torch
from mixed_files import PICTURES, SOUND_KINDS, OTHERS, SNDFILE, FFMPEG, FILMS
from mixed_files import MISNAMED, picture_bytes, sound_bytes, tone
from tiny import SMALL

from wavbrivl.api.pictures import WavBriVL
from wavbrivl.app import commands
from wavbrivl.app.cli import main
from wavbrivl.search.index import Index
from wavbrivl.audio.tower import AudioTower
from wavbrivl.core.files import BadFile, note_file
from wavbrivl.core.params import BrivlParams
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.media.kinds import (
    ENDINGS,
    kind_by_ending,
    kind_of,
    sniff_kind,
    walk_files,
)

RATE = 16_000
ENDING = {k: v[0] for k, v in (SNDFILE | FFMPEG | FILMS | MISNAMED).items()}

pytestmark = pytest.mark.usefixtures('one_thread')


def new_model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(['a dog barks', 'rain falls on a roof'], 100)
    text = dict(vocab=tokenizer.get_vocab_size(), hidden=32, layers=1, heads=2, ffn=32)
    brivl = BriVL(BrivlParams(image_size=32, text=text))
    tower = AudioTower(SMALL, brivl.dim, 0.5)
    return WavBriVL(tower, brivl, tokenizer, dict(picture=32))


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A model, and a folder with a file of every kind."
    d = tmp_path_factory.mktemp('cli')
    new_model().save_pretrained(d / 'model')
    there = d / 'things'
    there.mkdir()
    for i, kind in enumerate(SOUND_KINDS):
        (there / f's{i:02d}{ENDING[kind]}').write_bytes(sound_bytes(kind, tone(i)))
    for k, kind in enumerate(PICTURES):
        (there / f'p{k}.{kind}').write_bytes(picture_bytes(kind, k))
    (there / 'wrong.wav').write_bytes(picture_bytes('jpg', 9))
    for name, data in OTHERS.items():
        (there / name).parent.mkdir(exist_ok=True)
        (there / name).write_bytes(data)
    (there / 'round').symlink_to(there)
    return d


@pytest.fixture
def run(lab, capsys):
    "The command line: exit status, standard output, standard error."

    def call(*words):
        model = ['--model', str(lab / 'model'), '--device', 'cpu']
        if words[0] in ('pair', 'params', 'import'):
            model = []
        try:
            status = main([*map(str, words), *model])
        except SystemExit as e:
            status = e.code
        return status, *capsys.readouterr()

    return call


def names(files):
    return sorted(os.path.basename(f) for f in files)


# ---------------------------------------------------------------- kinds of files


def test_every_kind_is_told_by_its_bytes(tmp_path):
    for kind in SOUND_KINDS:
        path = tmp_path / 'x'
        path.write_bytes(sound_bytes(kind, tone(7)))
        wanted = 'film' if kind in FILMS else 'sound'
        if kind == '3gp' or kind in ('m4a', 'm4a.bin'):
            wanted = sniff_kind(path)  # its brand may be that of any MP4
            assert wanted in ('sound', 'film')
        assert sniff_kind(path) == wanted, kind
    for kind in PICTURES:
        path.write_bytes(picture_bytes(kind, 0))
        assert sniff_kind(path) == 'picture', kind
    for data in (*OTHERS.values(), b'', b'\0' * 4000, os.urandom(3) + b' text'):
        path.write_bytes(data)
        if data != b'RIFF':
            assert sniff_kind(path) is None, data


def test_bytes_of_formats_that_nothing_here_writes(tmp_path):
    heads = {
        b'#!AMR\n\x3c': 'sound',
        b'MAC \x96\x0f\0\0': 'sound',
        b'\0\0\0\x18ftypheic\0\0\0\0': 'picture',
        b'\0\0\0\x18ftypM4A \0\0\0\0': 'sound',
        b'\0\0\0\x14ftypqt  \0\0\0\0': 'film',
        b'\0\0\0\x08wide\0\0\1\0mdat': 'film',
        b'RIFF\0\0\0\0AVI LIST': 'film',
        b'RIFX\0\0\0\0WAVEfmt ': 'sound',
        b'FORM\0\0\0\0AIFCFVER': 'sound',
        b'OggS\0\2' + bytes(22) + b'\x80theora': 'film',
        b'II+\0\x08\0\0\0': 'picture',
        b'P6\n# made by hand\n4 4\n255\n' + bytes(48): 'picture',
        (b'G' + bytes(187)) * 5: 'film',
        b'\0\0\0\0' + (b'G' + bytes(191)) * 5: 'film',
        b'%PDF-1.7': None,
        b'PK\3\4': None,
        b'G' * 40: None,
        b'<svg xmlns=': None,
        b'P5 is a player': None,
    }
    for head, kind in heads.items():
        (tmp_path / 'x').write_bytes(head)
        assert sniff_kind(tmp_path / 'x') == kind, head


def test_what_cannot_be_read_has_no_content(tmp_path):
    os.mkfifo(tmp_path / 'pipe.wav')
    assert sniff_kind(tmp_path / 'pipe.wav') is None, 'and nobody waits for it'
    assert sniff_kind(tmp_path) is None and sniff_kind(tmp_path / 'gone') is None
    assert kind_of(tmp_path / 'gone.JPG') == 'picture'
    assert kind_by_ending('a/.wav') is None


def test_endings_are_of_one_kind():
    every = [e for known in ENDINGS.values() for e in known]
    assert len(every) == len(set(every)) and all(e == e.lower() for e in every)


def test_one_walk_for_all(lab):
    here = lab / 'things'
    sounds = {f's{i:02d}{ENDING[k]}' for i, k in enumerate(SOUND_KINDS)}
    pictures = {f'p{k}.{kind}' for k, kind in enumerate(PICTURES)}
    heard = names(walk_files(here, ('sound', 'film')))
    assert set(heard) == sounds | {'wrong.wav'} and len(heard) == len(sounds) + 1
    seen = set(names(walk_files(here, ['picture'])))
    mistaken = {n for n in sounds if n.endswith('.jpg')}
    assert seen == pictures | {'wrong.wav'} | mistaken


def test_links_are_followed_once(tmp_path):
    for d in 'ab':
        (tmp_path / d).mkdir()
        (tmp_path / d / f'{d}.wav').touch()
    (tmp_path / 'a/to b').symlink_to(tmp_path / 'b')
    (tmp_path / 'b/to a').symlink_to(tmp_path / 'a')
    (tmp_path / 'a/self').symlink_to('self')
    (tmp_path / 'a/gone.wav').symlink_to('nowhere')
    found = list(walk_files(tmp_path / 'a'))
    assert names(found) == ['a.wav', 'b.wav', 'gone.wav']
    found = names(walk_files(tmp_path))
    assert found == ['a.wav', 'a.wav', 'b.wav', 'b.wav', 'gone.wav', 'gone.wav']


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    (tmp_path / 'shut').mkdir()
    (tmp_path / 'x.wav').touch()
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith('shut'):
            raise PermissionError(13, 'Permission denied')
        return scan(folder)

    monkeypatch.setattr(os, 'scandir', refuse)
    bad, good = walk_files(tmp_path)
    assert isinstance(bad, BadFile) and 'Permission denied' in bad.reason
    assert good.endswith('x.wav')


# ---------------------------------------------------------------- the commands agree


def test_folder_commands_take_the_same(run, lab, tmp_path):
    here = lab / 'things'
    status, out, _ = run('embed', here, '-o', tmp_path / 't.parquet', '--json')
    bad = commands.first_rows(tmp_path / 't.rejected.csv')
    embedded = json.loads(out)[0]['embedded']
    assert embedded + len(bad) == len(SOUND_KINDS) + 1 and status == 1
    status, out, err = run('index', here, '-o', tmp_path / 'i', '--json')
    index = Index.open(tmp_path / 'i')
    rows = index.names.to_pylist()
    sounds = [r['name'] for r in rows if r['kind'] == 'sound']
    pictures = [r['name'] for r in rows if r['kind'] == 'picture']
    assert len(sounds) == embedded
    assert 'wrong.wav' in names(pictures), 'the content decides'
    status, out, err = run('classify', here, '--label', 'a', '--label', 'b', '--json')
    assert len(json.loads(out)) == embedded and err.count('set aside') == len(bad)
    status, out, err = run('rank', sounds[0], here, '--json')
    ranked = [r['picture'] for r in json.loads(out)]
    assert set(ranked) == set(pictures)


def test_queries_are_told_by_content(run, lab, tmp_path):
    run('index', lab / 'things/s00.wav', lab / 'things/p1.png', '-o', tmp_path / 'i')
    (tmp_path / 'q.wav').write_bytes(picture_bytes('png', 1))
    status, out, _ = run('search', tmp_path / 'i', tmp_path / 'q.wav', '--json')
    (hit, _) = json.loads(out)[0]['hits']
    assert status == 0 and hit['kind'] == 'picture' and hit['cosine'] > 0.9999


def test_nothing_found_says_so(run, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty/notes.txt').write_text('nothing')
    (tmp_path / 'bad.wav').write_bytes(b'')
    e = tmp_path / 'empty'
    for words in (
        ('embed', e, '-o', tmp_path / 't.parquet'),
        ('embed', tmp_path / 'bad.wav'),
        ('classify', e, '-l', 'a,b'),
        ('classify', tmp_path / 'bad.wav', '-l', 'a,b'),
        ('index', e, '-o', tmp_path / 'i'),
        ('index', tmp_path / 'bad.wav', '-o', tmp_path / 'i'),
        ('rank', tmp_path / 'bad.wav', e),
    ):
        status, out, err = run(*words)
        assert status == 2 and err.strip() and 'Traceback' not in err, words
        assert not (tmp_path / 't.parquet').exists() and not (tmp_path / 'i').exists()


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    'words, said',
    [
        ('classify x.wav -l a,b --top 0', 'at least 1'),
        ('classify x.wav -l a,b --top -1', 'at least 1'),
        ('classify x.wav -l a,b --top 1.5', '1.5'),
        ('rank x.wav y.jpg --top 0', 'at least 1'),
        ('search i x.wav --top -3', 'at least 1'),
        ('embed x.wav --workers -1', 'at least 1'),
        ('embed x.wav --workers 0', 'at least 1'),
        ('embed x.wav --batch 0', 'at least 1'),
        ('embed x.wav --rank 3 --world 2', 'rank'),
        ('embed x.wav --rank -1', 'rank'),
        ('embed x.wav --device nonsense', 'nonsense'),
        ('embed x.wav --device cuda', 'cuda'),
        ('embed x.wav -o t.csv', '.parquet'),
        ('classify x.wav', 'give names to choose among'),
        ('classify x.wav -l dog', 'two class names'),
        ('classify x.wav -l dog,', 'two class names'),
        ('classify x.wav -l dog,dog', 'two class names'),
        ('classify x.wav -l a,b --templates no', 'no'),
        ('embed x.wav --model nowhere', 'nowhere'),
    ],
)
def test_bad_usage_is_a_sentence(lab, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    sf.write('x.wav', tone(0), RATE)
    words = words.split()
    words = words if '--model' in words else [*words, '--model', str(lab / 'model')]
    try:
        status = main(words)
    except SystemExit as e:
        status = e.code
    out, err = capsys.readouterr()
    assert status == 2 and said in err and not out
    assert sorted(os.listdir()) == ['x.wav']


# ---------------------------------------------------------------- labels

SPEECH = 'Male speech, man speaking'


def labels_of(run, lab, *words):
    sound = lab / 'things/s00.wav'
    status, out, err = run('classify', sound, *words, '--top', 9, '--json')
    assert status == 0, err
    return sorted(c['label'] for c in json.loads(out)[0]['classes'])


def test_labels_with_commas(run, lab, tmp_path):
    (tmp_path / 'l.txt').write_text(f'\ufeff{SPEECH}\nBark\n\n"Dog, wet"\n')
    (tmp_path / 'audioset.csv').write_text(
        f'index,mid,display_name\n0,/m/05,"{SPEECH}"\n1,/m/06,Bark\n2,/m/06,Bark\n'
    )
    (tmp_path / 'one.csv').write_text(f'"{SPEECH}"\nBark\n')
    both = ['Bark', SPEECH]
    assert labels_of(run, lab, '--label', SPEECH, '--label', 'Bark') == both
    assert labels_of(run, lab, '-l', f'"{SPEECH}", Bark') == both
    assert labels_of(run, lab, '-l', tmp_path / 'audioset.csv') == both
    assert labels_of(run, lab, '-l', tmp_path / 'one.csv') == both
    three = ['Bark', 'Dog, wet', SPEECH]
    assert labels_of(run, lab, '-l', tmp_path / 'l.txt') == three
    assert labels_of(run, lab, '-l', 'Bark,Rain', '--label', SPEECH) == [
        'Bark',
        SPEECH,
        'Rain',
    ]


def test_labels_that_are_no_list(run, lab, tmp_path):
    (tmp_path / 'x.csv').write_text('a,b\n1,2\n')
    (tmp_path / 'latin.txt').write_bytes(b'caf\xe9\nbar\n')
    (tmp_path / 'none.csv').write_text('')
    for name, said in (
        ('x.csv', 'a, b'),
        ('latin.txt', 'UTF-8'),
        ('none.csv', 'two class names'),
        ('gone.txt', 'gone.txt is one name, and no file'),
    ):
        sound = lab / 'things/s00.wav'
        status, out, err = run('classify', sound, '-l', tmp_path / name)
        assert status == 2 and said in err and len(err.splitlines()) == 1


# ---------------------------------------------------------------- what is said beside


def test_notes_are_lines(run, lab, tmp_path, monkeypatch):
    "Whatever the environment says of warnings; other libraries are not heard."
    from wavbrivl.api import model as api

    load = api.load_audio

    def noting(source, *a, **k):
        note_file(source, 'it ends early;\nthe rest is used.')
        note_file(source, 'it ends early;\nthe rest is used.')
        warnings.warn('noise of a library')
        return load(source, *a, **k)

    monkeypatch.setattr(api, 'load_audio', noting)
    warnings.simplefilter('ignore')
    sound = lab / 'things/s00.wav'
    status, out, err = run('classify', sound, '-l', 'a,b')
    assert status == 0
    assert [x for x in err.splitlines() if 'early' in x] == [
        f'note: {sound}: it ends early;\\nthe rest is used.'
    ]
    assert 'noise' not in err


def test_notes_of_a_table_lie_beside_it(run, lab, tmp_path, monkeypatch):
    from wavbrivl.search import bulk_parts

    stream = bulk_parts.stream_audio

    def noting(path):
        if 's01' in path or path.endswith('bad.wav'):
            note_file(path, 'the channels cancel; the left one is used.')
        yield from stream(path)

    monkeypatch.setattr(bulk_parts, 'stream_audio', noting)
    (tmp_path / 'bad.wav').write_bytes(b'')
    files = [lab / f'things/{n}' for n in ('s00.wav', 's01.WAVE', 's06.flac')]
    files.append(tmp_path / 'bad.wav')
    out = tmp_path / 't.parquet'
    status, _, err = run('embed', *files, '-o', out, '--workers', 3)
    notes = commands.first_rows(tmp_path / 't.notes.csv')
    said = 'the channels cancel; the left one is used.'
    assert notes == [dict(file=str(files[1]), note=said)]
    assert status == 1 and f'note: {files[1]}: {said}' in err.splitlines()
    assert err.count('note:') == 1 and err.count('set aside') == 1
    status, _, err = run('embed', *files[:3])
    assert status == 0 and err.splitlines() == [f'note: {files[1]}: {said}']


# ---------------------------------------------------------------- names


def test_names_that_are_no_text(run, lab, tmp_path):
    folder = os.fsencode(tmp_path / 'f')
    os.mkdir(folder)
    wav, png = (lab / f'things/{n}' for n in ('s00.wav', 'p1.png'))
    for name, file in ((b'caf\xe9.wav', wav), (b'two\nlines.wav', wav)):
        with open(folder + b'/' + name, 'wb') as f:
            f.write(file.read_bytes())
    with open(folder + b'/\xff.png', 'wb') as f:
        f.write(png.read_bytes())
    f = tmp_path / 'f'
    status, out, err = run('index', f, '-o', tmp_path / 'i')
    assert status == 0 and len(Index.open(tmp_path / 'i')) == 3 and not err
    status, out, _ = run('search', tmp_path / 'i', wav)
    assert status == 0 and 'caf\\xe9.wav' in out and 'two\\nlines.wav' in out
    status, out, _ = run('classify', f, '-l', 'a,b')
    assert status == 0 and 'caf\\udce9.wav' in out and len(out.splitlines()) == 2
    status, out, _ = run('classify', f, '-l', 'a,b', '--json')
    found = [os.fsencode(r['file']) for r in json.loads(out)]
    assert found == [folder + b'/caf\xe9.wav', folder + b'/two\nlines.wav']
    status, out, _ = run('rank', wav, f)
    assert status == 0 and '\\udcff.png' in out
    status, out, err = run('embed', f)
    assert status == 0 and 'caf\\xe9.wav' in out and len(out.splitlines()) == 2


# ---------------------------------------------------------------- places


def test_places_that_cannot_be_written(run, lab, tmp_path):
    sound = lab / 'things/s00.wav'
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'folder.parquet').mkdir()
    run('index', sound, '-o', tmp_path / 'made/deeper/index')
    assert (tmp_path / 'made/deeper/index/index.json').exists()
    status, _, _ = run('embed', sound, '-o', tmp_path / 'new/deeper/t.parquet')
    assert status == 0 and (tmp_path / 'new/deeper/t.parquet').exists()
    for words in (
        ('embed', sound, '-o', tmp_path / 'file/t.parquet'),
        ('embed', sound, '-o', tmp_path / 'folder.parquet'),
        ('embed', sound, '-o', '/proc/t.parquet'),
        ('index', sound, '-o', tmp_path / 'file'),
        ('index', sound, '-o', tmp_path / 'file/i'),
        ('index', sound, '-o', '/proc/i'),
        ('search', tmp_path / 'made/deeper/index', sound, '--sheet', '/proc/x.png'),
        ('search', tmp_path / 'file', sound),
    ):
        status, _, err = run(*words)
        assert status == 2 and 'Traceback' not in err, words
        assert len(err.splitlines()) == 1 and err.startswith('wavbrivl: '), err
    assert (tmp_path / 'file').read_text() == 'mine'


# ---------------------------------------------------------------- how it ends

SHELL = 'import sys; from wavbrivl.app.cli import main; sys.exit(main())'


def shell(lab, *words, **how):
    model = ['--model', str(lab / 'model'), '--device', 'cpu']
    return subprocess.Popen(
        [sys.executable, '-c', SHELL, *map(str, words), *model],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **how,
    )


def test_a_closed_pipe_is_quiet(lab):
    process = shell(lab, 'classify', lab / 'things/s00.wav', '-l', 'a,b', '--json')
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait() == 141 and err == ''


def test_ctrl_c_is_a_line(lab, tmp_path):
    out = tmp_path / 't.parquet'
    files = [lab / 'things/s00.wav'] * 4000
    process = shell(lab, 'embed', *files, '-o', out, '--workers', '2')
    while process.poll() is None and not (tmp_path / 't.parquet.parts').exists():
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130 and len(err.splitlines()) == 1, err
    assert not out.exists()


def test_an_old_terminal_takes_every_name(lab, tmp_path):
    "Standard output in ASCII: what it cannot show is escaped, and JSON stays JSON."
    sound = tmp_path / 'ö.wav'
    sound.write_bytes((lab / 'things/s00.wav').read_bytes())
    env = os.environ | dict(PYTHONIOENCODING='ascii')
    process = shell(lab, 'classify', sound, '-l', 'ä,b', '--json', env=env)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out.decode('ascii'))[0]['file'] == str(sound)
