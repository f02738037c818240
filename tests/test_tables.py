"Tables as people bring them: text stays text, and no row is lost in silence. See nbs/00_core/07_csv_text.ipynb."

import csv
import io
import random
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from wavbrivl.app.cli import main
from wavbrivl.core.config import load_params
from wavbrivl.core.csv_text import choose_separator, read_text_table
from wavbrivl.core.files import BadFile, BadInput, read_yaml
from wavbrivl.core.params import CorpusParams, DatasetsParams
from wavbrivl.data.corpus import Corpus, pair_by_class
from wavbrivl.data.manifest import Record, Rejected, records
from wavbrivl.data.prepare import similar_labels, write_corpus
from wavbrivl.data.published import DATASETS

SHARED = Path(__file__).parents[2] / 'shared' / 'data'
COLUMNS = ['audio', 'caption', 'label', 'fold']


def read(tmp_path, text, columns=COLUMNS, encoding='utf-8', **k):
    path = tmp_path / 't.csv'
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_text_table(path, columns, **k)


def refused(tmp_path, text, **k):
    with pytest.raises(BadFile) as e:
        read(tmp_path, text, **k)
    return e.value.reason


def cells(table, *columns):
    return [tuple(row[c] for c in columns) for _, row in table.rows]


# ---------------------------------------------------------------- one reader


def test_text_stays_text(tmp_path):
    words = 'NA None null nan 001 1e5 True 2024-01-02 1.0 -0 =1+2 N/A #REF!'.split()
    rows = ''.join(f'{i}.wav,{w}\n' for i, w in enumerate(words))
    table = read(tmp_path, 'audio,label\n' + rows)
    assert [label for _, label in cells(table, 'audio', 'label')] == words
    assert not table.faults and not table.notes


@pytest.mark.parametrize('encoding', 'utf-8 utf-8-sig utf-16 utf-16-le utf-32'.split())
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('separator', [',', ';', '\t'])
def test_layouts(tmp_path, encoding, end, separator):
    "Separators, line ends, encodings, capital heads, blanks after commas, blank lines."
    lines = [
        separator.join(('Audio', ' Caption', ' LABEL')),
        '',
        separator.join(('a.wav', ' "zwei, drei; vier"', ' Glöckchen ')),
        separator * 2,
        separator.join(('b.wav', '"he said ""sit"""', '犬')),
    ]
    text = end.join(lines)
    mark = '\ufeff' if encoding == 'utf-16-le' else ''
    table = read(tmp_path, mark + text, encoding=encoding)
    assert cells(table, 'audio', 'caption', 'label') == [
        ('a.wav', 'zwei, drei; vier', 'Glöckchen'),
        ('b.wav', 'he said "sit"', '犬'),
    ]
    assert [line for line, _ in table.rows] == [3, 5]


@pytest.mark.parametrize(
    'first', ['sep=;', 'sep=;\r', '"sep=;"', 'SEP=;', 'sep=;;;', '\ufeffsep=;']
)
def test_excel_says_the_separator(tmp_path, first):
    table = read(tmp_path, first + '\naudio;label\na.wav;a,b,c,d\n')
    assert cells(table, 'audio', 'label') == [('a.wav', 'a,b,c,d')]
    assert table.rows[0][0] == 3


@pytest.mark.parametrize(
    'head,separator',
    [
        ('"audio";"caption, long, plain, one"', ';'),
        ('audio;"a,b";"c,d"', ';'),
        ('Caption,"x;y;z;audio"', ','),
        ('audio\tcaption, or; none', '\t'),
        ('audio', ','),
        ('"audio","la;bel"', ','),
        ('"au\ndio;x;y",label', ','),
    ],
)
def test_separator(head, separator):
    assert choose_separator(head + '\n', COLUMNS, True) == separator


def test_long_cell(tmp_path):
    text = 'bark, ' * 50_000
    table = read(tmp_path, f'audio,caption\na.wav,"{text}"\nb.wav,x\n')
    assert len(table.rows[0][1]['caption']) == len(text) - 1 and len(table.rows) == 2
    assert csv.field_size_limit() == 131072, 'nothing outside was changed'


def test_cells_over_several_lines(tmp_path):
    "Captions in several lines are read, wherever their column is."
    poem = 'a dog barks,\nthen a man speaks,\n\nthen, after "a while", silence'
    quoted = '"' + poem.replace('"', '""') + '"'
    for text in (
        f'audio,caption,label\na.wav,{quoted},dog\nb.wav,x,dog\n',
        f'audio,caption\na.wav,{quoted}\nb.wav,x\n',
        f'caption,audio\n{quoted},a.wav\nx,b.wav\n',
        f'label;audio;caption\ndog;a.wav;{quoted}\ndog;b.wav;x\n',
    ):
        table = read(tmp_path, text)
        assert cells(table, 'audio', 'caption') == [('a.wav', poem), ('b.wav', 'x')]


def test_rows_of_the_wrong_length(tmp_path):
    table = read(
        tmp_path,
        'audio,caption,label\na.wav,one, two,dog\nb.wav\nc.wav,x,dog,,\n,,,x\nd.wav,y\n',
    )
    assert [lines for lines, _ in table.faults] == ['line 2', 'line 5']
    assert all('quotes around a text that holds a comma' in r for _, r in table.faults)
    assert cells(table, 'audio', 'label') == [
        ('b.wav', ''),
        ('c.wav', 'dog'),
        ('d.wav', ''),
    ]
    assert table.notes == [
        'lines 3, 6: fewer cells than the 3 columns; what is missing was taken for empty.'
    ]


def test_quotes_inside_cells(tmp_path):
    table = read(
        tmp_path,
        'audio,caption\na.wav,a 12" record\nb.wav,the "big" dog\nc.wav,5\' 11"\n',
    )
    assert [c for _, c in cells(table, 'audio', 'caption')] == [
        'a 12" record',
        'the "big" dog',
        '5\' 11"',
    ]
    assert len(table.notes) == 1 and table.notes[0].startswith('lines 2, 4: ')


def test_zero_bytes(tmp_path):
    table = read(tmp_path, b'audio,label\na.wav,dog\nb\0.wav,dog\nc.wav,dog\n\0\0\0\0')
    assert cells(table, 'audio') == [('a.wav',), ('c.wav',)]
    assert [lines for lines, _ in table.faults] == ['line 3', 'line 5']
    assert 'UTF-16 without its mark' in refused(
        tmp_path, 'audio,label\n', encoding='utf-16-le'
    )


# ---------------------------------------------------------------- quotes that are not closed


def opened(text):
    return re.match(r'line (\d+) opens a quote', text)[1]


TAIL = 'd.wav,a dog barks,dog\ne.wav,a dog barks,dog\n'


@pytest.mark.parametrize(
    'later',
    [
        '',
        'x.wav,"a bark, and",dog\n',
        'x.wav,"",dog\n',
        'x.wav,a bark",dog\n',
        'x.wav,a "bark",dog\n',
        'x.wav,", so it goes",dog\n',
        'x.wav,"""so"" it goes",dog\n',
        'x.wav,"\nsix",dog\n',
        'x.wav,"six\nseven",dog\n',
        'x.wav,a 12" record,dog\n',
        'x.wav,bark,"dog"\n',
        'x.wav,bark,"dog, big"\n',
    ],
)
@pytest.mark.parametrize('between', ['', TAIL])
@pytest.mark.parametrize('first', ['"a loud bark', '"a loud, deep bark'])
def test_unclosed_quote(tmp_path, later, between, first):
    "Line 3 opens a quote; whatever comes later, it is found there and no row is swallowed."
    text = f'audio,caption,label\na.wav,a dog barks,dog\nc.wav,{first},dog\n'
    reason = refused(tmp_path, text + between + later + TAIL)
    assert opened(reason) == '3'


def test_unclosed_quote_in_each_column(tmp_path):
    for row, columns in (
        ('"x.wav,a,dog', COLUMNS),
        ('x.wav,"a,dog', COLUMNS),
        ('x.wav,a,"dog', COLUMNS),
    ):
        text = f'audio,caption,label\n{TAIL}{row}\n{TAIL}'
        assert opened(refused(tmp_path, text)) == '4'
        closed = text + 'y.wav,b",dog\n' + TAIL
        assert opened(refused(tmp_path, closed)) == '4'
    assert opened(refused(tmp_path, '"audio,label\na.wav,dog\n')) == '1'
    assert opened(refused(tmp_path, 'audio\na.wav\n"b.wav\nc.wav\nd.wav"\n')) == '3'


def test_unclosed_quote_sets_nothing_aside_in_silence(tmp_path):
    "Through the reader and the command: a sentence with the line."
    (tmp_path / 'pairs.csv').write_text(f'audio,caption,label\n{TAIL}f.wav,"a,dog\n')
    params = CorpusParams(reader='folder', source='.')
    with pytest.raises(BadFile, match='pairs.csv: line 4 opens a quote'):
        write_corpus(params, tmp_path / 'out', tmp_path, 1)
    assert not (tmp_path / 'out').exists()


@pytest.mark.skipif(not (SHARED / 'cases').is_dir(), reason='no shared cases')
def test_shared_case():
    with pytest.raises(BadFile, match='line 4 opens a quote'):
        read_text_table(SHARED / 'cases/unclosed_quote.csv', COLUMNS)


@pytest.mark.parametrize(
    'data,says',
    [
        ('audio,label\na.wav,Glöckchen\n'.encode('latin-1'), 'line 2 .*Windows-1252'),
        ('audio,label\na.wav,狗叫声\n'.encode('gbk'), 'line 2 .*GBK'),
        ('audio,label\na.wav,いぬ\n'.encode('cp932'), 'line 2 .*Shift JIS'),
        ('audio,label\na.wav,дружок\n'.encode('cp1251'), 'line 2 is not UTF-8;'),
        ('audio,label\na.wav,é'.encode()[:-1], 'line 2 ends in the middle'),
        ('audio,label\na.wav,é'.encode('utf-16')[:-1], 'UTF-16'),
        (b'PK\x03\x04\x14\0\6\0', 'a workbook'),
        (b'PAR1\x15\4', 'Parquet'),
        (b'\x1f\x8b\x08\0', 'gzip'),
    ],
)
def test_other_encodings(tmp_path, data, says):
    reason = refused(tmp_path, data)
    assert re.search(says, reason) and 'CSV UTF-8' in reason


def test_no_file(tmp_path):
    for path in (tmp_path / 'none.csv', tmp_path):
        with pytest.raises(BadFile):
            read_text_table(path, COLUMNS)


# ---------------------------------------------------------------- any table

HOSTILE = (
    'dog|a dog barks|a small, brown dog|he said "sit"|zwei; drei|001|None|NA|1e5|True|café|'
    'cafe\u0301|12" disc|"quoted"|it\'s|","|",\n"|\n|,|;;|犬|🐕|a\u2028b|=1+2|  pad  |'
    'tab\there|line one\nline two|x\r\ny||2024-01-02'
).split('|')


def make_table(rng):
    "Columns, rows with hostile cells, and their text and encoding."
    n = rng.randint(1, 4)
    order = rng.sample(range(n), n)
    rows = []
    for i in range(rng.randint(1, 25)):
        row = [f'{i}.wav'] + [rng.choice(HOSTILE) for _ in range(n - 1)]
        rows.append([row[j] for j in order])
    end = rng.choice(['\n', '\r\n', '\r'])
    quoting = rng.choice([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC, csv.QUOTE_MINIMAL])
    if end != '\r\n':  # else the writer leaves cells with the other line end bare
        quoting = csv.QUOTE_ALL
    f = io.StringIO(newline='')
    out = csv.writer(
        f, delimiter=rng.choice(',;\t'), quoting=quoting, lineterminator=end
    )
    columns = [COLUMNS[j] for j in order]
    out.writerows([columns, *rows])
    encoding = rng.choice(['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
    return columns, [tuple(c.strip() for c in r) for r in rows], f.getvalue(), encoding


def covered(table, text):
    "The sounds named in rows that were read, or in lines that a fault or a note names."
    lines = re.split('\r\n|\r|\n', text)
    seen = {row['audio'].strip('"') for _, row in table.rows}
    notes = [n.partition(':')[0] for n in table.notes if 'and' not in n[:30]]
    for where in [where for where, _ in table.faults] + notes:
        a, *b = map(int, re.findall(r'\d+', where))
        seen |= set(re.findall(r'\d+\.wav', ' '.join(lines[a - 1 : (b or [a])[0]])))
    return seen


def test_round_trip(tmp_path):
    "Every table that a CSV writer makes is read as it was, or refused with a line; next to none is refused."
    refusals = 0
    for seed in range(400):
        columns, rows, text, encoding = make_table(random.Random(seed))
        try:
            table = read(tmp_path, text, encoding=encoding)
        except BadFile as e:
            assert re.match(r'line \d+ ', e.reason), e
            refusals += 1
            continue
        assert cells(table, *columns) == rows, seed
        assert not table.faults and not table.notes, seed
    assert refusals <= 4


def test_a_quote_is_lost(tmp_path):
    "One quote less anywhere: the table is refused with a line, or every row is right or reported."
    read_on = refusals = 0
    for seed in range(300):
        rng = random.Random(seed)
        columns, rows, text, encoding = make_table(rng)
        places = [i for i, c in enumerate(text) if c == '"']
        for i in rng.sample(places, min(4, len(places))):
            try:
                table = read(tmp_path, text[:i] + text[i + 1 :], encoding=encoding)
            except BadFile as e:
                assert re.match(r'line \d+ ', e.reason), e
                refusals += 1
                continue
            read_on += 1
            wrong = set(rows) - set(cells(table, *columns))
            assert not wrong or table.faults or table.notes, (seed, i)
            assert {f'{k}.wav' for k in range(len(rows))} <= covered(table, text)
    assert read_on > 50 and refusals > 300


def test_a_table_is_cut(tmp_path):
    "A file that ends early: all rows before the end are right; the last is right, shorter, or reported."
    for seed in range(300):
        rng = random.Random(seed)
        columns, rows, text, encoding = make_table(rng)
        data = text.encode(encoding)
        data = data[: rng.randrange(len(data) // 2, len(data))]
        try:
            table = read(tmp_path, data)
        except BadFile:
            continue
        if set(columns) != set(table.columns):
            continue
        whole = cells(table, *columns)
        assert whole[:-1] == rows[: len(whole) - 1], seed
        last, true = whole[-1] if whole else (), rows[len(whole) - 1]
        same = [a == b for a, b in zip(last, true)]
        short = last and same[:-1] == [True] * (len(last) - 1)
        assert table.faults or table.notes or all(same) or short, seed


# ---------------------------------------------------------------- readers


def tone(path, hz=440):
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, 0.4 * np.sin(np.arange(1600) * hz / 16000 * 6.283), 16000)


def found(reader, root, source='.'):
    got = list(records(CorpusParams(reader=reader, source=str(source)), root))
    clips = {r.clip: r for r in got if isinstance(r, Record)}
    return clips, [r for r in got if isinstance(r, Rejected)]


ESC = 'filename,fold,target,category,esc10,src_file,take\n'
ESC += '1-1-A-0.wav,1,0,dog,True,1,A\n2-2-A-3.wav,2,3,cow,False,2,A\n'
ESC_SOUNDS = ('1-1-A-0.wav', '2-2-A-3.wav')


@pytest.mark.parametrize(
    'yes,no,fold',
    [('TRUE', 'FALSE', '1'), ('WAHR', 'FALSCH', '1.0'), ('1', '0', '1,0')],
)
def test_esc50_saved_again(tmp_path, yes, no, fold):
    "A spreadsheet writes truth and numbers its own way."
    text = ESC.replace('True', yes).replace('False', no).replace(',', ';')
    text = '\ufeff' + text.replace('wav;1;', f'wav;{fold};').replace('\n', '\r\n')
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta/esc50.csv').write_bytes(text.encode())
    for name in ESC_SOUNDS:
        tone(tmp_path / 'audio' / name)
    clips, bad = found('esc50', tmp_path)
    assert {c: (r.fold, r.label) for c, r in clips.items()} == {
        '1-1-A-0': (1, 'dog'),
        '2-2-A-3': (2, 'cow'),
    }
    ten, _ = found('esc10', tmp_path)
    assert list(ten) == ['1-1-A-0'] and not bad


@pytest.mark.parametrize(
    'table,folder',
    [
        ('esc50.csv', 'audio/audio'),
        ('esc50.csv', 'audio/audio/44100'),
        ('esc50.csv', 'esc50/wav'),
        ('ESC-50-master/meta/esc50.csv', 'ESC-50-master/audio'),
        ('ESC50_labels.csv', ''),
    ],
)
def test_esc50_copies(tmp_path, table, folder):
    (tmp_path / table).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / table).write_text(ESC)
    for name in ESC_SOUNDS:
        tone(tmp_path / folder / name)
    clips, bad = found('esc50', tmp_path)
    assert {r.label for r in clips.values()} == {'dog', 'cow'} and not bad


def test_esc50_in_two_rates(tmp_path):
    "A copy that holds every clip twice: the larger file is taken, and that is said."
    (tmp_path / 'esc50.csv').write_text(ESC)
    for name in ESC_SOUNDS:
        tone(tmp_path / 'audio/audio/16000' / name)
        (tmp_path / 'audio/audio/44100').mkdir(exist_ok=True)
        sf.write(tmp_path / 'audio/audio/44100' / name, np.zeros(4410), 44100)
    clips, bad = found('esc50', tmp_path)
    assert {r.audio.parent.name for r in clips.values()} == {'44100'}
    assert len(bad) == 1 and '2 clips have several files' in bad[0].reason


US8K = 'slice_file_name,fsID,start,end,salience,fold,classID,class\n'
US8K += '1-3-0-0.wav,1,0,1,1,1,3,dog_bark\n2-1-0-0.wav,2,0,1,1,10,1,car_horn\n'


@pytest.mark.parametrize(
    'table,folder',
    [
        ('UrbanSound8K.csv', ''),
        ('metadata/UrbanSound8K.csv', 'audio'),
        ('UrbanSound8K/metadata/UrbanSound8K.csv', 'UrbanSound8K/audio'),
        ('us8k_meta.csv', 'sounds'),
    ],
)
def test_us8k_copies(tmp_path, table, folder):
    (tmp_path / table).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / table).write_text(US8K)
    tone(tmp_path / folder / 'fold1/1-3-0-0.wav')
    tone(tmp_path / folder / 'fold10/2-1-0-0.wav')
    clips, bad = found('us8k', tmp_path)
    assert {(r.label, r.fold) for r in clips.values()} == {
        ('dog_bark', 1),
        ('car_horn', 10),
    } and not bad


FSD = dict(
    dev='fname,labels,mids,split\n64760,"Bark,Dog","/m/1,/m/2",train\n16399,Rain,/m/3,val\n',
    eval='fname,labels,mids\n37199,Dog,/m/2\n',
    vocabulary='0,Bark,/m/1\n1,Dog,/m/2\n2,Rain,/m/3\n',
)


@pytest.mark.parametrize(
    'labels,sounds',
    [
        ('FSD50K.ground_truth', 'FSD50K.{}_audio'),
        ('FSD50K.ground_truth', 'FSD50K.{}_audio_16k'),
        ('FSD50K.ground_truth', 'FSD50K.{0}_audio/FSD50K.{0}_audio'),
        ('FSD50K.ground_truth/FSD50K.ground_truth', 'FSD50K.{0}_audio_16k/x'),
        ('labels', 'clips/{}'),
        ('', 'wav/{}'),
    ],
)
def test_fsd50k_copies(tmp_path, labels, sounds):
    for name, text in FSD.items():
        (tmp_path / labels).mkdir(parents=True, exist_ok=True)
        (tmp_path / labels / f'{name}.csv').write_text(text)
    for part, name in (('dev', '64760'), ('dev', '16399'), ('eval', '37199')):
        tone(tmp_path / sounds.format(part) / f'{name}.wav')
    clips, bad = found('fsd50k', tmp_path)
    assert {c: (r.split, r.labels) for c, r in clips.items()} == {
        '64760': ('train', ['Bark', 'Dog']),
        '16399': ('valid', ['Rain']),
        '37199': ('test', ['Dog']),
    } and not bad


@pytest.mark.parametrize('name', ['64760', '64760.0', '064760', '64760,0'])
def test_names_that_became_numbers(tmp_path, name):
    "The file is 064760.wav; the table has the number, with or without a point."
    for part, text in FSD.items():
        (tmp_path / f'{part}.csv').write_text(text.replace('64760', f'"{name}"'))
    for sound in ('064760', '16399', '37199'):
        tone(tmp_path / f'{sound}.wav')
    clips, bad = found('fsd50k', tmp_path)
    if name == '64760,0':  # no number in the tables' own way of writing
        assert len(clips) == 2 and 'have no file' in bad[0].reason
        return
    assert len(clips) == 3 and clips[name].audio.name == '064760.wav'
    assert [r.reason for r in bad] == [
        f'1 name of files had become numbers in the table, as {name} for 064760; '
        'the files were found by number.'
    ] or (name == '064760' and not bad)


def test_numbers_that_several_files_have(tmp_path):
    for part, text in FSD.items():
        (tmp_path / f'{part}.csv').write_text(text)
    for sound in ('064760', '0064760', '16399', '37199'):
        tone(tmp_path / f'{sound}.wav')
    clips, bad = found('fsd50k', tmp_path)
    assert '64760' not in clips and any('have no file' in r.reason for r in bad)


@pytest.mark.parametrize(
    'source', ['data/esc', '../lab/data/esc', '~/esc', '.', 'link']
)
def test_relative_sources(tmp_path, monkeypatch, source):
    lab = tmp_path / 'lab'
    at = lab / 'data/esc'
    (at / 'meta').mkdir(parents=True)
    (at / 'meta/esc50.csv').write_text(ESC)
    for name in ESC_SOUNDS:
        tone(at / 'audio' / name)
    (lab / 'link').symlink_to(at)
    monkeypatch.setenv('HOME', str(lab / 'data'))
    root = at if source == '.' else lab
    clips, bad = found('esc50', root, source)
    assert len(clips) == 2 and not bad
    (at / 'meta/esc50.csv').write_text(ESC + 'gone.wav,1,0,dog,True,1,A\n')
    params = CorpusParams(reader='esc50', source=source, image_size=32)
    assert write_corpus(params, tmp_path / 'out', root, 1)['sounds']['train'] > 0
    assert not Corpus(tmp_path / 'out').rejected.file.str.startswith('/').any()


def test_relative_table(tmp_path, monkeypatch):
    tone(tmp_path / 'home/mine/sounds/001.wav')
    (tmp_path / 'home/mine/pairs.csv').write_text('audio,label\n001.wav,007\n')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    params = CorpusParams(reader='folder', source='~/mine', root='~/mine/sounds')
    (r,) = records(params, tmp_path)
    assert r.audio.exists() and (r.clip, r.label) == ('001', '007')


# ---------------------------------------------------------------- labels


def test_labels_that_are_nearly_the_same(tmp_path):
    "Case, blanks and dots: different classes and named, once a group; accents in two spellings: one."
    labels = [
        'Dog',
        'dog',
        'dog.',
        'sea waves',
        'sea  waves',
        'caf\u00e9',
        'cafe\u0301',
    ]
    text = 'audio,label\n'
    for i, label in enumerate(2 * labels):
        tone(tmp_path / f'{i}.wav', 300 + 20 * i)
        text += f'{i}.wav,{label}\n'
    (tmp_path / 'pairs.csv').write_text(text + '13.wav,caf\u00e9\n')
    params = CorpusParams(reader='folder', source='.', image_size=32)
    summary = write_corpus(params, tmp_path / 'out', tmp_path, 1)
    corpus = Corpus(tmp_path / 'out')
    assert summary['similar_labels'] == [
        ['Dog', 'dog', 'dog.'],
        ['sea  waves', 'sea waves'],
    ]
    assert 'caf\u00e9' in corpus.labels and 'cafe\u0301' not in corpus.labels
    assert corpus.table.label.eq('caf\u00e9').sum() == 4
    notes = [r for r in corpus.rejected.reason if 'taken' in r]
    assert len(notes) == 3 and summary['rejected'] == 3
    assert (
        sum("'Dog' (2 clips), 'dog' (2 clips), 'dog.' (2 clips)" in n for n in notes)
        == 1
    )
    assert sum('two spellings of its accents' in n for n in notes) == 1


def test_plain_labels_are_left_alone():
    rows = [dict(labels=[l]) for l in ('dog', 'dog bark', 'dogs', 'cat', 'd.o.g')]
    assert similar_labels(rows) == []


# ---------------------------------------------------------------- pair

SOUNDS = 'filename,category,fold\n001.wav,None,1\n2,NA,2\n3.wav,001,1.0\n4.wav,001,2\n'
PICTURES = 'path,image_class\n' + ''.join(
    f'{c}-{i}.jpg,{c}\n' for c in ('null', 'True', '1e5') for i in range(4)
)
CLASSES = 'label,image_class\nNone,null\nNA,True\n001,1e5\n'


def pair(tmp_path, *words, sounds=SOUNDS, pictures=PICTURES, classes=CLASSES):
    for name, text in (('s', sounds), ('p', pictures), ('c', classes)):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / f'{name}.csv').write_bytes(data)
    tables = [str(tmp_path / f'{n}.csv') for n in 'spc']
    try:
        status = main(['pair', *tables, '-o', str(tmp_path / 'out.csv'), *words])
    except SystemExit as e:  # argparse's own refusal
        status = e.code
    out = tmp_path / 'out.csv'
    if not out.exists():
        return status, None
    table = read_text_table(out, ['audio', 'image', 'caption', 'label', 'fold'])
    return status, [row for _, row in table.rows]


def test_pair_keeps_text(tmp_path, capsys):
    status, rows = pair(tmp_path, '--each', '1')
    assert status == 0 and 'set aside' not in capsys.readouterr().err
    heard = {r['audio']: (r['label'], r['fold']) for r in rows if r['audio']}
    assert heard == {
        '001.wav': ('None', '1'),
        '2': ('NA', '2'),
        '3.wav': ('001', '1'),
        '4.wav': ('001', '2'),
    }
    assert all(r['image'] for r in rows if r['audio'])
    assert not (tmp_path / 'out.rejected.csv').exists()


def test_pair_reads_what_the_readers_read(tmp_path):
    "Semicolons, capital heads, blanks after the separator, UTF-16."
    sounds = (
        SOUNDS.title().replace('.Wav', '.wav').replace('Na,', 'NA,').replace(',', '; ')
    )
    status, rows = pair(tmp_path, sounds=('sep=;\r\n' + sounds).encode('utf-16'))
    assert status == 0 and {r['label'] for r in rows if r['audio']} == {
        'None',
        'NA',
        '001',
    }


def test_pair_names_every_row_it_does_not_use(tmp_path, capsys):
    sounds = (
        SOUNDS
        + '5.wav,NA,\n6.wav,,1\n,NA,1\n7.wav,NA,one\n8.wav,NA,1,more\n3.wav,NA,1\n'
    )
    pictures = PICTURES + 'zebra.jpg,zebra\n' * 1 + 'x.jpg,\n'
    classes = CLASSES + 'cow,null\nNA,cow\n'
    status, rows = pair(tmp_path, sounds=sounds, pictures=pictures, classes=classes)
    assert status == 1 and {r['audio'] for r in rows} == {
        '',
        '001.wav',
        '2',
        '3.wav',
        '4.wav',
    }
    said = capsys.readouterr().err.splitlines()
    with open(tmp_path / 'out.rejected.csv', newline='', encoding='utf-8') as f:
        aside = list(csv.DictReader(f))
    assert len(aside) == len(said) == 10
    lines = {(Path(r['table']).name, r['lines']) for r in aside}
    assert lines == {('s.csv', f'line {n}') for n in range(6, 12)} | {
        ('p.csv', 'line 14'),
        ('p.csv', 'line 15'),
        ('c.csv', 'line 5'),
        ('c.csv', 'line 6'),
    }
    assert all(r['reason'].endswith('.') for r in aside)


def test_pair_names_twenty(tmp_path, capsys):
    sounds = SOUNDS + ''.join(f'x{i}.wav,NA,\n' for i in range(50))
    status, _ = pair(tmp_path, sounds=sounds)
    said = capsys.readouterr().err.splitlines()
    assert status == 1 and len(said) == 21 and '30 more' in said[-1]


@pytest.mark.parametrize(
    'words,says',
    [
        ('--each 0', '--each'),
        ('--each=-3', '--each'),
        ('--only nonsense', '--only names nonsense'),
        ('--only ,', '--only names nothing'),
        ('--only NA,nonsense', '--only names nonsense'),
    ],
)
def test_pair_refuses(tmp_path, capsys, words, says):
    status, rows = pair(tmp_path, *shlex.split(words))
    assert status == 2 and rows is None and says in capsys.readouterr().err


def test_pair_that_makes_nothing_fails(tmp_path, capsys):
    for k in (
        dict(classes='label,image_class\nNone,cow\n'),
        dict(classes='label,image_class\n'),
        dict(pictures='path,image_class\n'),
        dict(classes=CLASSES + '"x,y\n'),
        dict(sounds=SOUNDS + '"x,y\n'),
    ):
        status, rows = pair(tmp_path, **k)
        assert status == 2 and rows is None and capsys.readouterr().err


def test_pair_only(tmp_path):
    status, rows = pair(tmp_path, '--only', ' NA , 001')
    assert status == 0 and {r['audio'] for r in rows if r['audio']} == {
        '2',
        '3.wav',
        '4.wav',
    }


def test_pair_by_class_wants_whole_tables(tmp_path):
    import pandas as pd

    sounds = pd.DataFrame(dict(path=['a', 'b'], label=['x', None], fold=[1, 2]))
    pictures = pd.DataFrame(dict(path=['p'], image_class=['x']))
    for table, k, says in (
        (sounds, 4, 'Row 1 of the table, from 0, has no label'),
        (sounds[:1], 0, '0 pictures for each sound'),
        (sounds[:0], 4, 'no rows'),
    ):
        with pytest.raises(BadInput, match=says):
            pair_by_class(table, pictures, {'x': ['x']}, tmp_path / 'o.csv', k=k)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    'text',
    [
        'corpus: {reader: folder, source: data/mine.csv}',
        'corpus: {reader: folder, source: mine.csv, root: ./data}',
        'datasets: {us8k: LAB/data/us8k}',
        'runs: {a: {datasets: {us8k: recordings/../data/us8k}}}',
    ],
)
def test_a_source_is_not_where_dvc_deletes(tmp_path, text):
    (tmp_path / 'params.yaml').write_text(text.replace('LAB', str(tmp_path)))
    with pytest.raises(BadInput, match='in the folder data that DVC empties'):
        load_params('a' if 'runs' in text else None, tmp_path)
    beside = text.replace('LAB', str(tmp_path)).replace('data/', 'database/')
    (tmp_path / 'params.yaml').write_text(beside.replace('./data}', '.}'))
    load_params('a' if 'runs' in text else None, tmp_path)


def test_a_corpus_is_named_once(tmp_path):
    path = tmp_path / 'params.yaml'
    for reader in DATASETS:
        path.write_text(
            f'corpus: {{reader: {reader}}}\ndatasets: {{{reader}: data/x}}\n'
        )
        with pytest.raises(
            BadInput, match=f'both name {reader}; set datasets.{reader}'
        ):
            load_params(root=tmp_path)
    path.write_text('corpus: {reader: esc50}\ndatasets: {us8k: sets/x, esc50: null}\n')
    assert load_params(root=tmp_path).datasets.us8k == 'sets/x'
    path.write_text('runs: {a: {corpus: {reader: us8k}}}\ndatasets: {us8k: data/x}\n')
    with pytest.raises(BadInput, match='run a: .*both name us8k'):
        load_params('a', tmp_path)


def test_a_setting_stands_once(tmp_path):
    path = tmp_path / 'p.yaml'
    path.write_text('datasets:\n  esc50: a\n  us8k: b\n  esc50: null\n')
    with pytest.raises(BadFile, match='esc50 stands twice, in lines 2 and 4'):
        read_yaml(path)
    path.write_text('a: {x: 1}\nb: [{x: 1}, {x: 2}]\n')
    assert read_yaml(path) == dict(a=dict(x=1), b=[dict(x=1), dict(x=2)])


def test_every_dataset_is_a_setting():
    others = {'max_seconds', 'frames'}
    assert set(DatasetsParams.model_fields) - others == set(DATASETS)
