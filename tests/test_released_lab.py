"The lab with a released teacher, encoder and decoder, all by their names, and the model that comes of it."

import json
import shutil
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_decoders
import tiny_teachers as tiny
import torch
import transformers as hf
import yaml
from PIL import Image, ImageOps
from tiny import SMALL

from wavbrivl.api.onnx_export import export_onnx
from wavbrivl.api.painter import Painter
from wavbrivl.api.pictures import WavBriVL
from wavbrivl.core.config import merge_config
from wavbrivl.core.files import BadFile, BadInput, read_json
from wavbrivl.core.params import BrivlParams, TeacherParams
from wavbrivl.app.cli import main
from wavbrivl.core.picture_params import GeneratorParams, GuidanceParams, VqganParams
from wavbrivl.decoders.condition import EmbeddingFacts, open_decoder
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.teachers.clip import open_teacher
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.teachers.teacher import as_teacher
from wavbrivl.image_text.words import TextNote
from wavbrivl.pipeline.evaluation import evaluate_run
from wavbrivl.pipeline.lab import Lab
from wavbrivl.pipeline.pictures import (
    draw_pictures,
    train_codec,
    train_evaluators,
    train_painter,
)
from wavbrivl.pipeline.sources import picture_columns
from wavbrivl.report.picture_figures import pictures_figure
from wavbrivl.pipeline.studies import draw_manipulations, make_survey, study_edits
from wavbrivl.pipeline.training import (
    prepare_corpus,
    prepare_datasets,
    pretrain_brivl,
    pretrain_wavlm,
    store_targets,
    train_run,
)
from wavbrivl.training.audio import make_audio_encoder

ROOT = Path(__file__).parents[1]
RATE = 16_000
CLIP = 'openai/clip-vit-large-patch14'
UNCLIP = 'sd2-community/stable-diffusion-2-1-unclip-small'
HUBERT = 'facebook/hubert-base-ls960'
CLOSE = dict(atol=1e-5, rtol=0)
TINY = dict(
    device='cpu',
    precision='fp32',
    corpus=dict(
        reader='foley',
        source='wavbrivl/foley',
        max_clips=None,
        frames=2,
        image_size=48,
        foley=dict(train=16, valid=6, test=8, min_seconds=0.6, max_seconds=1.0),
    ),
    targets=dict(views=1, batch=16),
    audio=dict(checkpoint=HUBERT, embed=32),
    train=dict(window=1.0, seeds=[0], queue=32, optim=dict(epochs=2, batch=8)),
    evaluate=dict(tasks=['zero_shot', 'probe', 'retrieval'], probe_seeds=1, batch=8),
    generator=dict(steps=2, shift=0.5),
    evaluator=dict(size=32, optim=dict(epochs=1, batch=8)),
    generate=dict(sounds=3, candidates=2, prompts=2),
    study=dict(sounds=2, gains=[-6.0, 6.0], pitches=[4.0], speeds=[2.0], resamples=9),
)

pytestmark = pytest.mark.usefixtures('one_thread')
noise = np.random.default_rng(0).standard_normal(9_000).astype(np.float32) / 9


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    "A hub cache with both models, and no way out of this machine."
    root = tmp_path_factory.mktemp('hub')
    with pytest.MonkeyPatch.context() as patched:
        tiny.fill_cache(root, patched, {CLIP: tiny.save_clip, HUBERT: tiny.save_hubert})
        clip = root / f'hub/models--{CLIP.replace("/", "--")}/snapshots' / tiny.COMMIT
        tiny_decoders.save_unclip(root / 'made', clip)
        tiny.put_into_cache(root / 'made', root / 'hub', UNCLIP)

        def refuse(*address, **_):
            raise OSError('there is no network here')

        patched.setattr(socket.socket, 'connect', refuse)
        patched.setattr(socket, 'getaddrinfo', refuse)
        yield root / 'hub'


@pytest.fixture(scope='module')
def lab(cache, tmp_path_factory):
    "The lab of presets/clip.yaml at a tiny size, trained and evaluated."
    root = tmp_path_factory.mktemp('lab')
    preset = yaml.safe_load((ROOT / 'presets/clip.yaml').read_text())
    config = merge_config(preset, TINY)
    (root / 'params.yaml').write_text(yaml.safe_dump(config))
    (root / 'data').symlink_to(root / 'build/corpus')
    lab = Lab('wavbrivl', root)
    prepare_corpus(lab, workers=1)
    assert not len(pretrain_brivl(lab)), 'nothing is trained'
    store_targets(lab)
    assert not len(pretrain_wavlm(lab))
    prepare_datasets(lab)
    history = train_run(lab)
    assert len(history) == 2 and history.loss.notna().all()
    (lab.metrics,) = evaluate_run(lab)
    return lab


@pytest.fixture(scope='module')
def folder(lab):
    return lab.model_folder(0)


def test_the_whole_lab(lab, folder, cache, tmp_path):
    tasks = lab.metrics['tasks']
    assert {'audio_to_image', 'audio_to_text', 'zero_shot', 'probe'} <= tasks.keys()
    assert 0 <= tasks['zero_shot']['top1']['mean'] <= 1
    assert read_json(lab.build / 'brivl/teacher.json')['name'] == CLIP
    card = (folder / 'README.md').read_text()
    assert f'| teacher | {CLIP}, revision {tiny.COMMIT} |' in card
    made_from = yaml.safe_load(card.split('---')[1])['base_model']
    assert made_from == [CLIP, HUBERT]
    model = WavBriVL.from_pretrained(folder, 'cpu')
    sound = next((lab.build / 'corpus/audio').glob('*'))
    pictures = sorted((lab.build / 'corpus').rglob('*.jpg'))[:3]
    names = ['dog', 'rain', 'siren']
    scores = model.classify(sound, names)
    assert abs(sum(p for _, p in scores) - 1) < 1e-5
    cosines = model.embed_text(names) @ model.embed_audio(sound)[0]
    best = torch.softmax(torch.from_numpy(cosines) * model.brivl.scale, 0)
    said = dict(model.classify(sound, names, templates='bare'))
    assert np.allclose([said[n] for n in names], best, **CLOSE)
    ranked = model.rank(sound, pictures)
    shutil.move(cache, tmp_path / 'hub')  # another machine has no such cache
    shutil.copytree(folder, tmp_path / 'copy')
    again = WavBriVL.from_pretrained(tmp_path / 'copy', 'cpu')
    again.save_pretrained(tmp_path / 'third')
    third = WavBriVL.from_pretrained(tmp_path / 'third', 'cpu')
    shutil.move(tmp_path / 'hub', cache)
    for other in (again, third):
        assert other.fingerprint == model.fingerprint
        assert other.classify(sound, names) == scores
        assert other.rank(sound, pictures) == ranked
    assert (tmp_path / 'third/README.md').read_text() == card
    files = [p.relative_to(folder) for p in folder.rglob('*') if p.is_file()]
    for name in files:
        same = (tmp_path / 'third' / name).read_bytes()
        assert same == (folder / name).read_bytes(), name


# ---- a released decoder


@pytest.fixture(scope='module')
def painted(lab):
    "The lab after the stages of pictures."
    assert len(train_evaluators(lab))
    assert not len(train_codec(lab)) and not len(train_painter(lab))
    lab.pictures = draw_pictures(lab)[0]['tasks']
    return lab


def test_the_lab_draws_by_a_released_decoder(painted):
    kinds = {'pipeline', 'ranked', 'retrieved', 'prompts', 'prompts_ranked'}
    assert painted.pictures.keys() == kinds
    info = read_json(painted.model_folder(0) / 'config.json')['info']
    clip = painted.brivl[0]
    picture = next((painted.build / 'corpus').rglob('*.jpg'))
    seen = clip.encode_image([Image.open(picture)], normalise=False)
    assert abs(info['embeddings']['norm'] / seen.norm().item() - 1) < 0.2
    stored = np.load(painted.build / 'pictures/wavbrivl/pipeline.npz')
    assert len(stored['pictures']) == 8 and stored['pictures'].std() > 0
    named = read_json(painted.root / 'models/painter/pipeline/generator.json')
    assert (named['checkpoint'], named['revision']) == (UNCLIP, tiny.COMMIT)
    assert not list((painted.root / 'models/painter/vqgan').iterdir())
    rows = draw_manipulations(painted)
    assert len(rows) == 16 and all(len(r['steps']) for r in rows)
    (name,) = study_edits(painted)
    assert name == 'wavbrivl'
    assert len(make_survey(painted)['trials'])
    columns = picture_columns(painted, 3, own=True)
    assert {'true', 'pipeline', 'ranked', 'retrieved'} == columns[0]['pictures'].keys()
    assert pictures_figure(columns).axes
    with pytest.raises(BadInput, match='dvc repro -f vqgan diffusion'):
        painted.painter


def test_the_models_folder_draws(painted, folder, tmp_path, capsys):
    sound = next((painted.build / 'corpus/audio').glob('*'))
    model = WavBriVL.from_pretrained(folder, 'cpu')
    place = painted.root / 'models/painter'
    (picture,) = model.generate(sound, place, candidates=3)
    seen = model.brivl.encode_image([picture])[0].detach().numpy()
    cosine = (seen * model.embed_audio(sound)[0]).sum()
    assert abs(picture.info['cosine'] - cosine) < 1e-4 and picture.size == (16, 16)
    (alone,) = model.generate(sound, place)
    assert alone.info['cosine'] <= picture.info['cosine']
    said = model.generate('a dog barks', place, text=True)[0]
    assert said.size == (16, 16)
    assert len(model.generate_film(sound, place)) >= 1
    with pytest.raises(BadInput, match='begins with noise'):
        model.generate(sound, place, start=picture)
    with pytest.raises(BadInput, match='no codec'):
        model.generate(sound, place, kind='guided')
    named = GeneratorParams(kind='pipeline', checkpoint=UNCLIP, steps=2, shift=0.5)
    assert np.array_equal(model.generate(sound, named)[0], alone)
    line = ['generate', str(sound), '-m', str(folder), '--device', 'cpu', '--seed', '0']
    shown = [*line, '--painter', str(place), '-o', str(tmp_path / 'a.png')]
    assert main(shown) == 0
    assert np.array_equal(Image.open(tmp_path / 'a.png'), alone)
    settings = ['--set', 'steps=2', '--set', 'shift=0.5']
    named = [*line, '--decoder', UNCLIP, *settings, '-o', str(tmp_path / 'b.png')]
    assert main(named) == 0
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()
    for spoilt, words in (
        (['--decoder', 'owner/lost'], '`hf download owner/lost`'),
        (['--decoder', UNCLIP, '--set', 'steps=0'], 'steps'),
        (['--decoder', UNCLIP, '--set', 'stepps=3'], 'stepps'),
        (['--decoder', UNCLIP, '--set', 'steps'], 'KEY=VALUE'),
        (['--decoder', UNCLIP, '--set', 'steps=['], 'not YAML'),
        (['--decoder', UNCLIP, '--set', 'prompt=2024-99-99'], 'not YAML'),
        (['--decoder', UNCLIP, '--set', 'steps=many'], 'generator.steps is'),
        (['--decoder', UNCLIP, '--set', 'kind=diffusion'], '--kind says'),
        (['--decoder', UNCLIP, '--kind', 'mosaic'], 'no codec'),
    ):
        assert main([*line, *spoilt, '-o', str(tmp_path / 'c.png')]) != 0
        said = capsys.readouterr().err
        assert words in said and 'Traceback' not in said, said


def test_a_decoder_of_another_teacher_is_refused_before_training(lab, tmp_path):
    torch.manual_seed(9)
    tiny.save_clip(tmp_path / 'clip')
    other = hf.CLIPModel.from_pretrained(tmp_path / 'clip')
    torch.nn.init.normal_(other.visual_projection.weight)
    other.save_pretrained(tmp_path / 'clip')
    tiny_decoders.save_unclip(tmp_path / 'unclip', tmp_path / 'clip')
    named = GeneratorParams(kind='pipeline', checkpoint=str(tmp_path / 'unclip'))
    with pytest.raises(BadInput, match=f'the teacher of these sounds is {CLIP}'):
        open_decoder(named, lab.brivl[0], EmbeddingFacts())


# ---- a model with each kind of teacher


def saved_teacher(folder, kind='clip'):
    tiny.SAVERS[kind](folder)
    return open_teacher(TeacherParams(kind='transformers', checkpoint=str(folder)))


def model_of(teacher, **info):
    torch.manual_seed(0)
    tower = make_audio_encoder(SMALL, teacher.dim, 1.0)
    return WavBriVL(tower, teacher, None, info)


@pytest.fixture(scope='module', params=['clip', 'siglip', 'siglip2', 'chinese_clip'])
def model(request, tmp_path_factory):
    home = tmp_path_factory.mktemp('teacher')
    return model_of(saved_teacher(home / request.param, request.param), run='tiny')


def test_a_model_with_any_teacher(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = WavBriVL.from_pretrained(tmp_path, 'cpu')
    fast = again.for_inference('fp32')
    assert again.fingerprint == model.fingerprint == fast.fingerprint
    texts = ['a dog barks', 'rain falls']
    rows = model.brivl.encode_text(texts).detach().numpy()
    assert np.allclose(model.embed_text(texts), rows, **CLOSE)
    for other in (again, fast):
        assert np.allclose(other.embed_text(texts), rows, **CLOSE)
        heard = other.embed_audio(noise, RATE)
        assert np.allclose(heard, model.embed_audio(noise, RATE), **CLOSE)
    with pytest.raises(BadInput, match='copy for inference'):
        fast.save_pretrained(tmp_path)


def test_whole_pictures_upright(model, tmp_path):
    rng = np.random.default_rng(0)
    wide = Image.fromarray(rng.integers(0, 256, (40, 90, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    wide.save(tmp_path / 'turned.png', exif=turned)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / 'turned.png'))
    assert upright.size == (40, 90)
    seen = model.brivl.encode_image([wide, upright]).detach().numpy()
    (tmp_path / 'text.png').write_text('no picture')
    given = [wide, tmp_path / 'text.png', tmp_path / 'turned.png']
    with pytest.warns(UserWarning, match='text.png'):
        rows = model.embed_image(given)
    assert np.isnan(rows[1]).all() and np.allclose(rows[[0, 2]], seen, **CLOSE)
    alone = [model.embed_image(p)[0] for p in (wide, upright)]
    assert np.allclose(alone, seen, **CLOSE)
    assert model.embed_image([]).shape == (0, model.dim)
    strip = Image.new('L', (30_000, 1))  # enlarged as a whole it would fill the memory
    assert np.isfinite(model.embed_image(strip)).all()


def test_scores_are_the_teachers(model):
    names = ['dog', 'cat', 'sun']
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', TextNote)
        found = dict(model.classify(noise, names, RATE, templates='bare'))
        texts = model.embed_text(names)
    z = texts @ model.embed_audio(noise, RATE)[0] * model.brivl.scale
    want = np.exp(z) / np.exp(z).sum()
    if model.brivl.bias is not None:
        want = 1 / (1 + np.exp(-z - model.brivl.bias))
    assert np.allclose([found[n] for n in names], want, **CLOSE)


def test_a_picture_for_a_sound(model):
    torch.manual_seed(0)
    painter = Painter(VQGAN(VqganParams(size=32, ch=8)).eval())
    short = GuidanceParams(steps=3, prior_interval=0, cutouts=2)
    (made,) = model.generate(noise, painter, RATE, kind='bare', guide=short)
    cosine = model.embed_image(made)[0] @ model.embed_audio(noise, RATE)[0]
    assert abs(cosine - made.info['cosine']) < 1e-5


def test_what_is_said_of_texts(model):
    kind, longest = model.brivl.model.config.model_type, model.brivl.longest
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        rows = model.embed_text(['a dog', 'a dog barks ' * 40, '  '])
    said = [str(w.message) for w in caught if w.category is TextNote]
    assert len(said) == 1 and f'used the first {longest} of' in said[0]
    assert said[0].endswith('tokens.') and np.isfinite(rows[:2]).all()
    assert np.isnan(rows[2]).all() and 'no word' in model.rejected[0]['reason']
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        model.embed_text(['a dog ж'])
    said = [str(w.message) for w in caught if w.category is TextNote]
    assert [s.endswith(': ж.') for s in said] == [True] * (kind != 'clip')


# ---- the folder


@pytest.fixture
def clip(tmp_path):
    return model_of(saved_teacher(tmp_path / 'clip'), run='tiny')


def test_only_the_name_of_the_teacher(cache, tmp_path):
    teacher = open_teacher(TeacherParams(kind='transformers', checkpoint=CLIP))
    model_of(teacher).save_pretrained(tmp_path / 'named', teacher_weights=False)
    kept = read_json(tmp_path / 'named/config.json')
    assert kept['teacher']['revision'] == tiny.COMMIT and kept['format'] == 4
    assert len(list((tmp_path / 'named').rglob('*.safetensors'))) == 1
    WavBriVL.from_pretrained(tmp_path / 'named', 'cpu')
    shutil.move(cache, tmp_path / 'hub')
    with pytest.raises(BadInput, match=f'hf download {CLIP} --revision'):
        WavBriVL.from_pretrained(tmp_path / 'named', 'cpu')
    shutil.move(tmp_path / 'hub', cache)


def test_saving_over_another_model(clip, tmp_path):
    tokenizer = train_tokenizer(tiny.TEXTS, 80)
    brivl = BriVL(BrivlParams(text=dict(vocab=80)))
    tower = make_audio_encoder(SMALL, brivl.dim, 1.0)
    plain = WavBriVL(tower, brivl, tokenizer)
    plain.save_pretrained(tmp_path / 'm')
    clip.save_pretrained(tmp_path / 'm')
    assert not (tmp_path / 'm/tokenizer.json').exists()
    other = model_of(saved_teacher(tmp_path / 'siglip', 'siglip'))
    other.save_pretrained(tmp_path / 'm')
    assert len(list((tmp_path / 'm').glob('teacher-*'))) == 1
    again = WavBriVL.from_pretrained(tmp_path / 'm', 'cpu')
    assert again.fingerprint == other.fingerprint
    again.save_pretrained(tmp_path / 'm')  # onto the files it was opened from
    WavBriVL.from_pretrained(tmp_path / 'm', 'cpu')
    plain.save_pretrained(tmp_path / 'm')
    assert not list((tmp_path / 'm').glob('teacher-*'))
    assert read_json(tmp_path / 'm/config.json')['format'] == 3


def test_brivl_opened_as_a_teacher_is_brivl(tmp_path):
    tokenizer = train_tokenizer(tiny.TEXTS, 80)
    brivl = BriVL(BrivlParams(text=dict(vocab=80)))
    tower = make_audio_encoder(SMALL, brivl.dim, 1.0)
    one = WavBriVL(tower, brivl, tokenizer)
    two = WavBriVL(tower, as_teacher(brivl, tokenizer), None)
    assert one.fingerprint == two.fingerprint and not two.released
    for model, name in ((one, 'one'), (two, 'two')):
        model.save_pretrained(tmp_path / name)
    for file in (tmp_path / 'one').iterdir():
        assert file.read_bytes() == (tmp_path / 'two' / file.name).read_bytes()


def lose_weights(at):
    next(at.glob('teacher-*/model.safetensors')).unlink()


def exchange_name(at):
    path = next(at.glob('teacher-*/teacher.json'))
    path.write_text(json.dumps(read_json(path) | dict(name='another/name')))


def change_config(at, **fields):
    config = read_json(at / 'config.json')
    config['teacher'] |= fields
    (at / 'config.json').write_text(json.dumps(config))


def exchange_weights(at):
    from safetensors.torch import load_file, save_file

    path = next(at.glob('teacher-*/model.safetensors'))
    weights = load_file(path)
    name = next(k for k in weights if k.endswith('weight'))
    weights[name] = weights[name] + 1
    save_file(weights, path, dict(format='pt'))


SPOILT = {
    'weights': (lose_weights, 'the file does not exist'),
    'name': (exchange_name, 'is not what config.json names'),
    'way out': (
        lambda at: change_config(at, fingerprint='../../../../etc'),
        'is no SHA-256',
    ),
    'kind': (lambda at: change_config(at, kind='brivl'), 'is not what config.json'),
    'numbers': (exchange_weights, 'has other weights or words now'),
    'list': (
        lambda at: next(at.glob('teacher-*/teacher.json')).write_text('[]'),
        'is not what config.json names',
    ),
}


@pytest.mark.parametrize('fault', SPOILT)
def test_refused_with_a_sentence(fault, clip, tmp_path):
    spoil, words = SPOILT[fault]
    clip.save_pretrained(tmp_path / 'm')
    spoil(tmp_path / 'm')
    with pytest.raises(BadInput, match=words) as caught:
        WavBriVL.from_pretrained(tmp_path / 'm', 'cpu')
    assert '\n' not in str(caught.value)


def test_a_teacher_whose_files_are_gone(clip, tmp_path):
    shutil.rmtree(tmp_path / 'clip')
    with pytest.raises(BadFile, match='put it back to save'):
        clip.save_pretrained(tmp_path / 'm')
    assert not (tmp_path / 'm/config.json').exists()


def test_other_dimensions_and_no_onnx(clip, tmp_path):
    tower = make_audio_encoder(SMALL, clip.dim + 1, 1.0)
    with pytest.raises(BadInput, match='25 dimensions, the image-text model in 24'):
        WavBriVL(tower, clip.brivl, None)
    with pytest.raises(BadInput, match='for BriVL only'):
        export_onnx(clip, tmp_path / 'onnx')


@pytest.mark.parametrize('stage', ['brivl', 'wavlm', 'vqgan'])
def test_a_stage_that_trains_nothing_has_its_report(lab, cache, stage, monkeypatch):
    "The notebook says so, and does not fail for want of a curve."
    import papermill

    monkeypatch.setenv('HF_HUB_CACHE', str(cache))
    source, target = ROOT / f'nbs/stages/{stage}.ipynb', lab.root / f'{stage}.ipynb'
    papermill.execute_notebook(source, target, cwd=lab.root, kernel_name='python3')
    assert 'Error' not in target.read_text()
