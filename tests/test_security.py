"What arrives from elsewhere runs nothing, leaves no folder, and costs no more memory than it holds."

import ast, io, json, pickle, shutil, struct, subprocess, sys, zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from PIL import Image

from tiny import SMALL
from wavbrivl.api.pictures import WavBriVL
from wavbrivl.api.painter import Painter
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import load_tokenizer, train_tokenizer
from wavbrivl.app.cli import main
from wavbrivl.core.files import BadFile, BadInput, read_json, read_tensors, read_yaml
from wavbrivl.core.params import AudioParams, BrivlParams, CorpusParams
from wavbrivl.core.picture_params import DiffusionParams, VqganParams
from wavbrivl.core.config import load_params
from wavbrivl.core.hub import find_safetensors
from wavbrivl.data.prepare import write_corpus
from wavbrivl.data.corpus import Corpus
from wavbrivl.decoders.diffusion import LatentDiffusion
from wavbrivl.generation.judge import Evaluator
from wavbrivl.pipeline.gloss import open_wavlm
from wavbrivl.media.pictures import load_picture
from wavbrivl.media.films import read_frames
from wavbrivl.audio.wav2clip import load_wav2clip
from wavbrivl.survey.answers import read_responses
from wavbrivl.training.loop import load_state
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.audio.checkpoint import load_wavlm
from wavbrivl.audio.tower import AudioTower

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures('one_thread')
tone = lambda n=16000: (0.3 * np.sin(np.arange(n) / 9)).astype(np.float32)


# ---------------------------------------------------------------- no call that runs what a file says


def dangerous(tree):
    "Calls that could run what a file or a name says: (line, what)."
    for n in ast.walk(tree):
        if isinstance(n, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in n.names] + [getattr(n, 'module', None) or '']
            if set(names) & {'cPickle', 'dill', 'cloudpickle', 'marshal', 'shelve'}:
                yield n.lineno, 'import'
        if not isinstance(n, ast.Call):
            continue
        f, given = (
            ast.unparse(n.func),
            {k.arg: ast.unparse(k.value) for k in n.keywords},
        )
        last = f.rsplit('.', 1)[-1]
        if f in ('eval', 'exec', 'compile', '__import__'):
            yield n.lineno, f
        if f in (
            'os.system',
            'os.popen',
            'joblib.load',
            'pd.read_pickle',
            'torch.hub.load',
            'torch.jit.load',
        ) or f.startswith(('os.exec', 'os.spawn')):
            yield n.lineno, f
        if f.startswith('pickle.') and last in ('load', 'loads', 'Unpickler'):
            yield n.lineno, f
        if f in ('torch.load',) and given.get('weights_only') != 'True':
            yield n.lineno, f
        if f.startswith('yaml.') and last in (
            'load',
            'load_all',
            'full_load',
            'full_load_all',
            'unsafe_load',
            'unsafe_load_all',
        ):
            yield n.lineno, f
        if (
            given.get('allow_pickle', 'False') != 'False'
            or given.get('trust_remote_code', 'False') != 'False'
            or given.get('shell', 'False') != 'False'
        ):
            yield n.lineno, f


def sources():
    "Every file and notebook of code: (name, tree)."
    for p in sorted([*ROOT.glob('wavbrivl/**/*.py'), *ROOT.glob('benchmarks/**/*.py')]):
        yield p.name, ast.parse(p.read_text())
    for p in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        code = [
            ''.join(c['source'])
            for c in json.loads(p.read_text())['cells']
            if c['cell_type'] == 'code'
        ]
        for i, s in enumerate(code):
            if not s.lstrip().startswith(('%', '!')):
                yield f'{p.name}, code cell {i}', ast.parse(s)


def test_no_call_runs_what_a_file_says():
    assert [
        (name, *found) for name, tree in sources() for found in dangerous(tree)
    ] == []


@pytest.mark.parametrize(
    'line',
    [
        'torch.load(f)',
        'torch.load(f, weights_only=False)',
        'pickle.load(f)',
        'pickle.loads(b)',
        'joblib.load(f)',
        'np.load(f, allow_pickle=True)',
        'yaml.load(s, yaml.Loader)',
        'yaml.unsafe_load(s)',
        'AutoModel.from_pretrained(p, trust_remote_code=True)',
        'eval(s)',
        'exec(s)',
        'subprocess.run(s, shell=True)',
        'os.system(s)',
        'import dill',
    ],
)
def test_such_a_call_would_be_seen(line):
    assert list(dangerous(ast.parse(line)))
    assert not list(
        dangerous(
            ast.parse(
                'self.eval(); torch.load(f, weights_only=True); np.load(f); yaml.safe_load(s); re.compile(s)'
            )
        )
    )


# ---------------------------------------------------------------- pickles


class Runs:
    "Opening it as a pickle runs a command that leaves `mark`."

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        import os

        return os.system, (f'touch {self.mark}',)


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A folder of everything that can be opened, all of it small."
    d = tmp_path_factory.mktemp('lab')
    torch.manual_seed(0)
    tokenizer = train_tokenizer(['a dog barks', 'rain falls on a roof'], 100)
    brivl = BriVL(
        BrivlParams(
            image_size=32,
            text=dict(
                vocab=tokenizer.get_vocab_size(), hidden=32, layers=1, heads=2, ffn=32
            ),
        )
    )
    audio = AudioTower(
        SMALL,
        brivl.dim,
        0.5,
    )
    WavBriVL(audio, brivl, tokenizer, dict(picture=32)).save_pretrained(d / 'model')
    vqgan = VQGAN(
        VqganParams(size=16, ch=16, ch_mult=[1, 2], attention=[], channels=16, codes=32)
    )
    Painter(
        vqgan,
        LatentDiffusion(
            DiffusionParams(ch=[16, 32], inference_steps=4),
            brivl.dim,
            vqgan.config.embed,
            vqgan.side,
        ),
    ).save(d / 'painter')
    brivl.save(d / 'brivl')
    Evaluator('test_resnet', 32, ['owl', 'train']).save(d / 'judge')
    sf.write(d / 'x.wav', tone(), 16000)
    Image.new('RGB', (32, 32)).save(d / 'x.png')
    return d


@pytest.fixture
def copy(lab, tmp_path):
    return Path(shutil.copytree(lab, tmp_path / 'lab'))


def forms(mark):
    "A pickle that runs something, in every dress a weight file comes in."
    held = dict(
        learnable=Runs(mark),
        model=Runs(mark),
        cfg={},
        state_dict={'a': torch.zeros(1), 'b': Runs(mark)},
        fingerprint='x',
    )
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(held, new)
    torch.save(held, old, _use_new_zipfile_serialization=False)
    return dict(zip=new.getvalue(), legacy=old.getvalue(), bare=pickle.dumps(held))


CHECKPOINTS = dict(
    brivl=lambda p: BriVL.from_checkpoint(p, BrivlParams()),
    wavlm=load_wavlm,
    vqgan=lambda p: VQGAN.from_checkpoint(p, VqganParams()),
    wav2clip=load_wav2clip,
    tensors=read_tensors,
)


@pytest.mark.parametrize('form', ['zip', 'legacy', 'bare'])
@pytest.mark.parametrize('what', CHECKPOINTS)
def test_a_checkpoint_that_would_run_something(tmp_path, what, form):
    mark, path = tmp_path / 'ran', tmp_path / 'weights.ckpt'
    path.write_bytes(forms(mark)[form])
    with pytest.raises(BadFile, match='weights.ckpt'):
        CHECKPOINTS[what](path)
    assert not mark.exists()


@pytest.mark.parametrize('form', ['zip', 'legacy', 'bare'])
def test_the_pickle_is_live(tmp_path, form):
    (tmp_path / 'x').write_bytes(forms(tmp_path / 'ran')[form])
    try:
        torch.load(tmp_path / 'x', weights_only=False)
    except RuntimeError:
        pass  # a bare pickle is found to be no weight file only when it has run
    assert (tmp_path / 'ran').exists()


@pytest.mark.parametrize('form', ['zip', 'legacy', 'bare'])
def test_a_training_state_that_would_run_something(tmp_path, form):
    (tmp_path / 'state.pt').write_bytes(forms(tmp_path / 'ran')[form])
    with pytest.raises((pickle.UnpicklingError, BadFile)):
        load_state(tmp_path / 'state.pt', 'x')
    assert not (tmp_path / 'ran').exists()


FOLDERS = {
    'model/model.safetensors': lambda d: WavBriVL.from_pretrained(d / 'model', 'cpu'),
    'painter/vqgan/model.safetensors': lambda d: Painter.load(d / 'painter', 'cpu'),
    'painter/diffusion/model.safetensors': lambda d: Painter.load(d / 'painter', 'cpu'),
    'judge/model.safetensors': lambda d: Evaluator.load(d / 'judge'),
    'brivl/model.safetensors': lambda d: BriVL.load(d / 'brivl'),
    'model/tokenizer.json': lambda d: WavBriVL.from_pretrained(d / 'model', 'cpu'),
    'model/config.json': lambda d: WavBriVL.from_pretrained(d / 'model', 'cpu'),
}


@pytest.mark.parametrize('where', FOLDERS)
def test_a_folder_with_a_pickle_in_it(copy, where):
    FOLDERS[where](copy)  # whole, it opens
    for content in forms(copy / 'ran').values():
        (copy / where).write_bytes(content)
        with pytest.raises(BadFile, match=where.rsplit('/', 1)[-1]):
            FOLDERS[where](copy)
        assert not (copy / 'ran').exists()


def test_the_same_from_the_command_line(copy, capsys):
    pickled = forms(copy / 'ran')['zip']
    run = lambda *words: (
        main([*map(str, words), '--model', str(copy / 'model'), '--device', 'cpu']),
        capsys.readouterr().err,
    )
    (copy / 'bad.wav').write_bytes(pickled)
    (copy / 'bad.png').write_bytes(pickled)
    assert (
        run('embed', copy / 'x.wav')[0] == 0
        and run('rank', copy / 'x.wav', copy / 'x.png')[0] == 0
    )
    for words in (
        ('embed', copy / 'bad.wav'),
        ('rank', copy / 'bad.wav', copy / 'x.png'),
        ('rank', copy / 'x.wav', copy / 'bad.png'),
    ):
        status, said = run(*words)
        assert status == 2 and 'bad.' in said
    generate = (
        'generate',
        copy / 'x.wav',
        '--painter',
        copy / 'painter',
        '--out',
        copy / 'out.png',
    )
    for where in ('painter/vqgan/model.safetensors', 'model/model.safetensors'):
        (copy / where).write_bytes(pickled)
        status, said = run(*generate)
        assert status == 2 and where in said and 'Traceback' not in said
    assert not (copy / 'ran').exists() and not (copy / 'out.png').exists()


def test_a_front_end_that_is_a_pickle(copy):
    (copy / 'model/model.safetensors').write_bytes(forms(copy / 'ran')['zip'])
    with pytest.raises(BadFile, match='model.safetensors'):
        open_wavlm(copy / 'model', AudioParams())
    assert not (copy / 'ran').exists()


def test_a_tflite_file_that_is_a_pickle(tmp_path):
    pytest.importorskip('ai_edge_litert')
    from wavbrivl.tasks.yamnet import YAMNet

    (tmp_path / 'yamnet.tflite').write_bytes(forms(tmp_path / 'ran')['bare'])
    with pytest.raises(BadFile, match='not a .tflite'):
        YAMNet(tmp_path / 'yamnet.tflite')
    assert not (tmp_path / 'ran').exists()


def test_a_tokenizer_that_brings_its_own_code(tmp_path, monkeypatch):
    (tmp_path / 'tokenizer_config.json').write_text(
        '{"tokenizer_class": "Odd", "auto_map": {"AutoTokenizer": ["odd.Odd", null]}}'
    )
    (tmp_path / 'config.json').write_text(
        '{"model_type": "odd", "auto_map": {"AutoConfig": "odd.Odd"}}'
    )
    (tmp_path / 'odd.py').write_text(
        f'open({str(tmp_path / "ran")!r}, "w")\nclass Odd: pass\n'
    )
    with pytest.raises(BadInput, match='no tokenizer'):
        load_tokenizer(tmp_path)
    assert not (tmp_path / 'ran').exists()


# ---------------------------------------------------------------- descriptions that ask for too much

HOSTILE = [
    dict(audio=dict(hidden=10**9)),
    dict(audio=dict(hidden=10**30)),
    dict(audio=dict(layers=10**9)),
    dict(audio=dict(layers='many')),
    dict(audio=[]),
    dict(dim=10**12),
    dict(dim='wide'),
    dict(brivl=dict(text=dict(vocab=10**11))),
    dict(brivl=dict(cnn='os')),
    dict(brivl=dict(cnn='hf-hub:some/thing')),
    dict(brivl=7),
    dict(window=0),
    dict(window='x'),
    dict(window=None),
    dict(window=1e9),
    dict(info='x'),
    dict(format=99),
    dict(format='new'),
    dict(language=dict(layers=3), words=['a']),
]


@pytest.mark.parametrize('change', HOSTILE, ids=lambda c: json.dumps(c)[:40])
def test_a_description_that_does_not_fit(copy, change, capsys):
    path = copy / 'model/config.json'
    config = read_json(path)
    merge = lambda a, b: {
        **a,
        **{
            k: merge(a[k], v)
            if isinstance(v, dict) and isinstance(a.get(k), dict)
            else v
            for k, v in b.items()
        },
    }
    path.write_text(json.dumps(merge(config, change)))
    with pytest.raises(BadInput) as e:
        WavBriVL.from_pretrained(copy / 'model', 'cpu')
    assert len(str(e.value)) < 1000
    assert (
        main(
            [
                'embed',
                str(copy / 'x.wav'),
                '--model',
                str(copy / 'model'),
                '--device',
                'cpu',
            ]
        )
        == 2
        and 'wavbrivl: ' in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[]',
        '3',
        '{}',
        '{"format": 1}',
        '{"a": ' + '9' * 5000 + '}',
        '[' * 100000,
        '\xff',
        'null',
    ],
)
def test_a_description_that_is_none(copy, text):
    for where, opens in FOLDERS.items():
        if not where.endswith('model.safetensors'):
            continue
        (copy / where).with_name('config.json').write_text(text, encoding='latin-1')
        if where == 'model/model.safetensors' or text != '{}':
            with pytest.raises(Exception) as e:
                opens(copy)
            if 'model/' in where[:6] or 'judge' in where or 'vqgan' in where:
                assert isinstance(e.value, BadInput), (where, e.value)


# ---------------------------------------------------------------- YAML and JSON

LAUGHS = '\n'.join(
    [f'x0: &x0 [{", ".join(["ha"] * 9)}]']
    + [f'x{i}: &x{i} [{", ".join([f"*x{i - 1}"] * 9)}]' for i in range(1, 12)]
)
MERGED = '\n'.join(
    ['x0: &x0 {a: 1}']
    + [f'x{i}: &x{i} {{<<: [{", ".join([f"*x{i - 1}"] * 9)}]}}' for i in range(1, 9)]
)
BOARDS = dict(
    tag='train: !!python/object/apply:os.system ["touch MARK"]',
    new='x: !!python/object/new:os.system ["touch MARK"]',
    module='x: !!python/module:antigravity',
    laughs=LAUGHS,
    merged=MERGED,
    loop='train: &a {train: *a}',
    deep='train: ' + '[' * 50000,
    curly='{a: ' * 3000,
    number='brivl: {seed: ' + '9' * 5000 + '}',
    hex='brivl: {queue: 0x-1}',
    big='brivl: {queue: 1e400}',
    day='brivl: {seed: 2001-99-99}',
    stamp='brivl: {seed: !!timestamp soon}',
    truth='device: !!bool perhaps',
    binary='device: "\\0"',
    bytes=b'\xff\xfe\x00',
    nul=b'train\x00: 1',
    two='a: 1\n---\nb: 2',
    number_key='1: 2',
    list='- a',
    runs='runs: [a, b]',
    run='runs: {a: 3}',
    fronts='encoders: {a: [1]}',
    arms='variants: 3',
    section='train: 3',
    many='train: {seeds: [' + 'x, ' * 5000 + ']}',
)


@pytest.mark.parametrize('name', BOARDS)
def test_a_hostile_board(tmp_path, monkeypatch, capsys, name):
    mark, text = tmp_path / 'ran', BOARDS[name]
    (tmp_path / 'params.yaml').write_bytes(
        text if isinstance(text, bytes) else text.replace('MARK', str(mark)).encode()
    )
    with pytest.raises(BadInput) as e:
        load_params(None, tmp_path)
    assert not mark.exists() and len(str(e.value)) < 20000
    monkeypatch.setenv('WAVBRIVL_ROOT', str(tmp_path))
    assert main(['params']) == 2 and capsys.readouterr().err.startswith('wavbrivl: ')
    (tmp_path / 'preset.yaml').write_bytes((tmp_path / 'params.yaml').read_bytes())
    (tmp_path / 'params.yaml').write_text('device: cpu\n')
    assert main(['params', '--preset', str(tmp_path / 'preset.yaml'), '--write']) == 2
    assert (
        tmp_path / 'params.yaml'
    ).read_text() == 'device: cpu\n' and not mark.exists()


@pytest.mark.parametrize('name', ['tag', 'laughs', 'deep', 'number', 'bytes'])
def test_a_hostile_codec_configuration(tmp_path, name):
    text = BOARDS[name]
    (tmp_path / 'c.yaml').write_bytes(
        text
        if isinstance(text, bytes)
        else text.replace('MARK', str(tmp_path / 'ran')).encode()
    )
    with pytest.raises(BadFile, match='c.yaml'):
        VQGAN.from_checkpoint(tmp_path / 'none.ckpt', tmp_path / 'c.yaml')
    assert not (tmp_path / 'ran').exists()


def test_plain_yaml_is_read(tmp_path):
    (tmp_path / 'f.yaml').write_text(
        'a: {b: [1, two, 3.5]}\n# a comment\nc: &anchor 1\n'
    )
    assert read_yaml(tmp_path / 'f.yaml') == dict(a=dict(b=[1, 'two', 3.5]), c=1)


ANSWERS = dict(
    number='{"answers": [{"trial": "t", "choice": "left", "seconds": '
    + '9' * 400
    + '}]}',
    digits='{"a": ' + '9' * 5000 + '}',
    deep='[' * 100000,
    nan='{"answers": [{"trial": "t", "choice": "left", "seconds": NaN}]}',
    infinite='{"answers": [{"trial": "t", "choice": "left", "seconds": Infinity}]}',
    names='{"answers": [{"trial": ["t"], "choice": {}, "seconds": 1}]}',
    text='{"answers": "all"}',
    bytes='\xff\xfe',
)


@pytest.mark.parametrize('name', ANSWERS)
def test_a_hostile_response(tmp_path, name):
    key = dict(
        fingerprint='f',
        trials=dict(t=dict(item=0, repeat=1, label='owl', other='dog', target='left')),
    )
    good = dict(
        fingerprint='f',
        participant='me',
        answers=[dict(trial='t', choice='left', seconds=1.5)],
    )
    (tmp_path / 'a.json').write_text(
        ANSWERS[name].replace(
            '{"answers"', '{"fingerprint": "f", "participant": "x", "answers"'
        ),
        encoding='latin-1',
    )
    (tmp_path / 'b.json').write_text(json.dumps(good))
    rows, rejected = read_responses(tmp_path, key)
    assert (
        list(rows.participant) == ['me']
        and [Path(r.path).name for r in rejected] == ['a.json']
        and len(str(rejected[0])) < 500
    )
    with pytest.raises(BadInput, match='key'):
        read_responses(tmp_path, dict(fingerprint='f', trials=[1]))


# ---------------------------------------------------------------- tables that lead elsewhere


def test_a_table_stays_in_its_folder(tmp_path):
    "Absolute paths, parents and drives are named and left out; the other rows go on, and so do links."
    d, out = tmp_path / 'mine', tmp_path / 'secret'
    for f in (d, out):
        f.mkdir()
    for f in (d / 'a.wav', out / 's.wav'):
        sf.write(f, tone(8000), 16000)
    (d / 'disk').symlink_to(out)
    (d / 'pipe.wav').symlink_to('/dev/zero')
    (d / 'nowhere.wav').symlink_to(d / 'gone.wav')
    (d / 'round.wav').symlink_to(d / 'round.wav')
    evil = [
        str(out / 's.wav'),
        '../secret/s.wav',
        'x/../../secret/s.wav',
        r'..\secret\s.wav',
        r'C:\secret\s.wav',
        'c:s.wav',
        r'\\host\share\s.wav',
        '//secret/s.wav',
        'disk/../../secret/s.wav',
    ]
    odd = [
        'pipe.wav',
        'nowhere.wav',
        'round.wav',
        'x' * 300 + '.wav',
        'x/' * 3000 + 'x.wav',
    ]
    (d / 'pairs.csv').write_text(
        'audio,label\na.wav,x\n'
        + ''.join(f'{e},z\n' for e in evil + odd)
        + 'disk/s.wav,y\n'
    )
    write_corpus(
        CorpusParams(reader='folder', source='mine', valid_fraction=0, test_fraction=0),
        tmp_path / 'data',
        tmp_path,
        1,
    )
    c = Corpus(tmp_path / 'data')
    assert sorted(c.table['clip']) == ['a', 'disk/s'] and list(c.table.label) == [
        'x',
        'y',
    ]
    assert c.rejected.reason.str.contains("leaves the table's folder").sum() == len(
        evil
    ) and set(odd) <= set(c.rejected.file)


# ---------------------------------------------------------------- pictures and sounds that promise too much


def png(width, height, rows=0, depth=8, colour=0):
    "A PNG of so many pixels that holds `rows` rows of zeros."
    chunk = lambda name, data: (
        struct.pack('>I', len(data))
        + name
        + data
        + struct.pack('>I', zlib.crc32(name + data))
    )
    z, out = zlib.compressobj(9), b''
    for _ in range(rows):
        out += z.compress(bytes(1 + width * depth // 8))
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0))
        + chunk(b'IDAT', out + z.flush())
        + chunk(b'IEND', b'')
    )


def tiff(width, height):
    "A TIFF header of so many grey pixels."
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, 100),
    ]
    return (
        b'II*\0'
        + struct.pack('<I', 8)
        + struct.pack('<H', len(tags))
        + b''.join(struct.pack('<HHII', t, kind, 1, v) for t, kind, v in tags)
        + bytes(4)
    )


def small(kind):
    b = io.BytesIO()
    Image.new('RGB', (8, 8)).save(b, kind)
    return bytearray(b.getvalue())


def huge_pictures():
    "Small files that claim, or would unfold to, billions of pixels."
    jpg, gif, bmp = small('JPEG'), small('GIF'), small('BMP')
    at = jpg.index(b'\xff\xc0') + 5
    jpg[at : at + 4] = struct.pack('>HH', 60000, 60000)
    frame = gif.index(
        b'\x2c', 13 + (3 * 2 ** ((gif[10] & 7) + 1) if gif[10] & 128 else 0)
    )
    inner = bytearray(gif)
    inner[frame + 5 : frame + 9] = struct.pack(
        '<HH', 60000, 60000
    )  # the frame larger than the screen
    gif[6:10] = struct.pack('<HH', 60000, 60000)
    bmp[18:26] = struct.pack('<ii', 60000, 60000)
    return {
        'declared.png': png(60000, 60000),
        'bomb.png': png(12000, 12000, 12000),
        'lines.png': png(2**31 - 1, 1),
        'declared.jpg': jpg,
        'screen.gif': gif,
        'frame.gif': inner,
        'declared.bmp': bmp,
        'declared.tif': tiff(60000, 60000),
        'large.tif': tiff(2**32 - 1, 2**32 - 1),
        'declared.ppm': b'P6 60000 60000 255\n' + bytes(100),
        'text.pgm': b'P2 60000 60000 255\n1 2 3',
    }


def header(channels=1, rate=16000, bits=16, data=1024, promised=None, kind=1):
    "A wav file that says whatever one likes over `data` bytes."
    n, align = data if promised is None else promised, channels * bits // 8 & 0xFFFF
    return (
        b'RIFF'
        + struct.pack('<I', 36 + n & 0xFFFFFFFF)
        + b'WAVEfmt '
        + struct.pack(
            '<IHHIIHH', 16, kind, channels, rate, rate * align & 0xFFFFFFFF, align, bits
        )
        + b'data'
        + struct.pack('<I', n)
        + bytes(data)
    )


def odd_sounds(tmp_path):
    "Files whose headers promise what is not there."
    out = dict(
        hours=header(promised=4 * 3600 * 32000),
        all=header(promised=2**32 - 2),
        silent=header(channels=0),
        still=header(rate=0),
        fast=header(rate=2**31),
        faster=header(rate=2**31 - 1),
        wide=header(channels=65535),
        bitless=header(bits=0),
        odd=header(kind=0x1234),
        text=b'Dear all, this is a letter.\n' * 40,
        riff=b'RIFF',
        zeros=bytes(1000),
    )
    for kind in ('mp3', 'flac', 'ogg'):
        f = tmp_path / f'whole.{kind}'
        sf.write(f, tone(32000), 16000)
        data = f.read_bytes()
        f.unlink()
        out |= {f'{kind}-{k}': data[:k] for k in (4, 60, len(data) // 5)}
    return out


def in_little_memory(code, *words, mib=96):
    "Run code in a process of its own; it prints what it found, and how many MiB it needed beyond what it began with."
    per_mib = 2**20 if sys.platform == 'darwin' else 2**10
    head = (
        'import resource, sys\n'
        f'peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / {per_mib}\n'
    )
    code = head + code
    done = subprocess.run(
        [sys.executable, '-c', code, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *found, used = [
        line for line in done.stdout.splitlines() if line.startswith(('=', '!'))
    ]
    assert float(used[1:]) < mib, f'{used[1:]} MiB'
    return dict(line[1:].split('\t') for line in found)


OPENS = r"""
from pathlib import Path
from wavbrivl.core.files import BadFile
from wavbrivl.media.sound import load_audio, probe_audio
from wavbrivl.media.pictures import load_picture
import soxr, PIL.Image, PIL.ImageOps, av
PIL.Image.init(); good = [f(Path(sys.argv[1])/'good'/n) for f, n in ((load_picture, 'x.png'), (load_audio, 'x.wav'))]
before = peak()
for f in sorted(Path(sys.argv[1]).iterdir()):
    if f.is_dir(): continue
    for opens in (load_picture,) if sys.argv[2] == 'picture' else (load_audio, probe_audio):
        try: said = f'{opens(f)}'[:60]
        except BadFile as e: said = 'refused: ' + e.reason
        print('=' + f.name + ' ' + opens.__name__ + '\t' + said.replace('\t', ' ').replace('\n', ' '))
print(f'!{peak() - before}')
"""


def lay(folder, files, ending=''):
    (folder / 'good').mkdir()
    Image.new('RGB', (64, 64)).save(folder / 'good/x.png')
    sf.write(folder / 'good/x.wav', tone(), 16000)
    for name, content in files.items():
        (folder / f'{name}{ending}').write_bytes(content)


def test_pictures_that_promise_too_much(tmp_path):
    made = huge_pictures()
    lay(tmp_path, made)
    assert max(map(len, made.values())) < 300_000
    said = in_little_memory(OPENS, tmp_path, 'picture')
    assert (
        len(said) == len(made)
        and [k for k, v in said.items() if not v.startswith('refused: ')] == []
    )
    for name in (
        'declared.png',
        'bomb.png',
        'lines.png',
        'declared.jpg',
        'screen.gif',
        'frame.gif',
        'declared.bmp',
        'declared.tif',
        'declared.ppm',
    ):
        assert 'million' in said[f'{name} load_picture'], said


def test_only_pictures_are_opened_as_pictures(tmp_path, monkeypatch):
    "Pillow hands EPS to Ghostscript, which is a program that runs programs."
    ran = []
    monkeypatch.setattr(subprocess, 'check_call', lambda *a, **k: ran.append(a))
    monkeypatch.setattr('PIL.EpsImagePlugin.Ghostscript', lambda *a, **k: ran.append(a))
    (tmp_path / 'x.jpg').write_text(
        '%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran) print\n%%EOF\n'
    )
    with pytest.raises(BadFile, match='PostScript'):
        load_picture(tmp_path / 'x.jpg')
    assert not ran
    from PIL import EpsImagePlugin

    with Image.open(tmp_path / 'x.jpg') as p:
        assert isinstance(p, EpsImagePlugin.EpsImageFile), 'Pillow alone would take it'


def test_sounds_that_promise_too_much(tmp_path):
    made = odd_sounds(tmp_path)
    lay(tmp_path, made, '.wav')
    said = in_little_memory(OPENS, tmp_path, 'sound')
    assert (
        len(said) == 2 * len(made)
        and [
            k
            for k, v in said.items()
            if k.endswith('load_audio') and not v.startswith('refused: ')
        ]
        == []
    )
    assert (
        '14400.00 s promised' in said['hours.wav load_audio']
        and 'sample rate' in said['faster.wav load_audio']
    )
    for f in made:
        assert said[f'{f}.wav load_audio'].rstrip()[-1] in '.', said[
            f'{f}.wav load_audio'
        ]


def test_the_same_files_in_a_corpus(tmp_path):
    "Each of them costs its own row and no other."
    d = tmp_path / 'mine'
    d.mkdir()
    lay(d, {k: v for k, v in odd_sounds(tmp_path).items()}, '.wav')
    made = huge_pictures()
    for name, content in made.items():
        (d / name).write_bytes(content)
    rows = (
        ['good/x.wav,good/x.png,x']
        + [f'{f.name},,y' for f in sorted(d.glob('*.wav'))]
        + [f',{f},y' for f in made]
    )
    (d / 'pairs.csv').write_text('audio,image,label\n' + '\n'.join(rows) + '\n')
    s = write_corpus(
        CorpusParams(reader='folder', source='mine', valid_fraction=0, test_fraction=0),
        tmp_path / 'data',
        tmp_path,
        1,
    )
    assert s['clips']['train'] == 1 and set(
        Corpus(tmp_path / 'data').rejected.file
    ) >= {*made, *(f'{k}.wav' for k in odd_sounds(tmp_path))}


def test_a_film_of_too_many_pixels(tmp_path):
    import av

    with av.open(str(tmp_path / 'x.mp4'), 'w') as c:
        v = c.add_stream('mpeg4', rate=5)
        v.width = v.height = 64
        for p in (
            *v.encode(
                av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), 'rgb24')
            ),
            *v.encode(None),
        ):
            c.mux(p)
    assert len(read_frames(tmp_path / 'x.mp4', 2)) == 1
    data = bytearray((tmp_path / 'x.mp4').read_bytes())
    at = data.index(b'mp4v') + 28
    assert struct.unpack('>HH', data[at : at + 4]) == (64, 64)
    data[at : at + 4] = struct.pack('>HH', 20000, 20000)
    (tmp_path / 'x.mp4').write_bytes(data)
    try:
        assert all(p.size == (64, 64) for p in read_frames(tmp_path / 'x.mp4', 2)), (
            'the stream itself says 64 x 64'
        )
    except BadFile as e:
        assert 'million' in str(e) or 'no picture' in str(e)


@pytest.mark.parametrize(
    'index',
    [[], {}, {'weight_map': [1]}, {'weight_map': {'w': 3}}, '../x.safetensors', '/x'],
    ids=str,
)
def test_the_parts_of_released_weights_stay_in_their_folder(tmp_path, index):
    path = tmp_path / 'model.safetensors.index.json'
    if isinstance(index, str):
        index = {'weight_map': {'w': index}}
    path.write_text(json.dumps(index))
    with pytest.raises(BadFile, match='does not name files of this folder'):
        find_safetensors(tmp_path)
