"A teacher of two packages, a CNN of pictures as an ear, and presets/real.yaml at a tiny size on generated files."

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import timm
import tiny_teachers as tiny
import torch
import transformers as hf
import yaml
from PIL import Image
from safetensors.torch import save_file

from wavbrivl.api.pictures import WavBriVL
from wavbrivl.audio.cnn import CnnTower, mel_picture
from wavbrivl.audio.tower import embed_clips
from wavbrivl.core.config import merge_config
from wavbrivl.core.files import BadFile, BadInput, read_json
from wavbrivl.core.params import AudioParams, BrivlParams, TeacherParams
from wavbrivl.data.tables import write_class_pairs
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import prepare_pixels
from wavbrivl.image_text.pretrained import (
    PACKAGES,
    find_package,
    load_pretrained,
    pretrained_config,
    read_cnn,
)
from wavbrivl.pipeline.evaluation import evaluate_run
from wavbrivl.pipeline.lab import Lab
from wavbrivl.pipeline.training import (
    prepare_corpus,
    prepare_datasets,
    pretrain_brivl,
    pretrain_wavlm,
    store_targets,
    train_run,
)
from wavbrivl.teachers.clip import load_teacher, open_teacher
from wavbrivl.teachers.conse import check_pooling, mix_sentences, open_conse
from wavbrivl.training.audio import make_audio_encoder
from wavbrivl.training.image_text import caption_tokenizer, new_brivl

ROOT = Path(__file__).parents[1]
CLOSE = dict(atol=1e-5, rtol=0)
NAMES = ['a dog', 'a wolf', 'a boat', 'rain', 'a siren']
SEEN = dict(mean=[0.5] * 3, std=[0.5] * 3, input_size=[3, 32, 32], crop_pct=0.875)
pytestmark = pytest.mark.usefixtures('one_thread')
rng = np.random.default_rng(0)
picture = rng.integers(0, 256, (40, 60, 3), np.uint8)
sound = (0.3 * np.sin(np.arange(9_000) / 7)).astype(np.float32)


def save_cnn(folder, **changes):
    "A tiny classifier in timm's layout."
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    cnn = timm.create_model('test_efficientnet', num_classes=len(NAMES)).eval()
    weights = {k: v.contiguous() for k, v in cnn.state_dict().items()}
    save_file(weights, folder / 'model.safetensors')
    about = dict(architecture='test_efficientnet', pretrained_cfg=SEEN)
    about |= dict(label_names=NAMES) | changes
    (folder / 'config.json').write_text(json.dumps(about))
    return cnn


def save_words(folder):
    "A tiny sentence encoder."
    torch.manual_seed(1)
    words = tiny.bert_tokenizer()
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    more = dict(intermediate_size=32, max_position_embeddings=24)
    bert = hf.BertModel(hf.BertConfig(**sizes, **more, vocab_size=len(words)))
    bert.save_pretrained(folder)
    words.save_pretrained(folder)
    return bert.eval()


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
    "Both models of a teacher, saved: the line that names them."
    root = tmp_path_factory.mktemp('parts')
    save_cnn(root / 'cnn')
    save_words(root / 'words')
    return root


def line(parts, **changes):
    name = f'{parts / "cnn"} + {parts / "words"}'
    return TeacherParams(kind='conse', checkpoint=name, **changes)


@pytest.fixture(scope='module')
def teacher(parts):
    return open_teacher(line(parts, top_k=3, temperature=0.5))


def installed(name):
    try:
        return find_package(name)
    except BadInput:
        pytest.skip(f'{PACKAGES[name].distribution} is not installed')


# the packages themselves


def test_lite0_is_timms_network():
    path = installed('efficientnet-lite0')
    found = read_cnn('efficientnet-lite0')
    assert found.facts['mean'] == (0.5,) * 3 and found.facts['std'] == (0.5,) * 3
    wanted = timm.create_model('tf_efficientnet_lite0').eval()
    raw = torch.load(path, weights_only=True)
    wanted.load_state_dict(dict(zip(wanted.state_dict(), raw.values())))
    installed('minilm')
    ours = open_teacher(
        TeacherParams(kind='conse', checkpoint='efficientnet-lite0 + minilm')
    )
    transform = timm.data.create_transform(
        **timm.data.resolve_data_config({}, model=wanted)
    )
    pixels = transform(Image.fromarray(picture))[None]
    assert torch.allclose(ours.prepare([picture]), pixels, **CLOSE)
    with torch.no_grad():
        assert torch.allclose(ours.model.cnn(pixels), wanted(pixels), **CLOSE)


def test_minilm_is_transformers_mean_pooling():
    folder = installed('minilm')
    installed('efficientnet-lite0')
    ours = open_conse('efficientnet-lite0 + minilm')
    texts = ['A dog barks.', 'the sea', 'rain falls on a tin roof in the early morning']
    words = hf.AutoTokenizer.from_pretrained(folder)
    bert = hf.AutoModel.from_pretrained(folder).eval()
    made = words(texts, padding=True, return_tensors='pt')
    with torch.no_grad():
        hidden = bert(**made).last_hidden_state
    mask = made['attention_mask'][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    wanted = torch.nn.functional.normalize(mean, dim=-1)
    assert torch.allclose(ours.encode_text(texts), wanted, **CLOSE)
    assert ours.longest == 256 and len(ours.labels) == 1000
    near = ours.encode_text(['a barking dog'] + texts)
    assert near[0] @ near[1] > near[0] @ near[2]


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES['minilm'].module, None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'wavbrivl\[real\]'"):
        find_package('minilm')


# ConSE


@pytest.mark.parametrize(
    'temperature, top_k', [(1.0, 1), (0.5, 3), (2.0, 10), (1.0, 99)]
)
def test_conse_is_a_naive_loop(temperature, top_k):
    scores, sentences = torch.randn(4, 12), torch.randn(12, 5)
    found = mix_sentences(scores, sentences, temperature, top_k)
    for row, got in zip(scores, found):
        p = [float(np.exp(s / temperature)) for s in row]
        best = sorted(range(12), key=lambda c: -p[c])[:top_k]
        total = sum(p[c] for c in best)
        wanted = sum(p[c] / total * sentences[c] for c in best)
        assert torch.allclose(got, wanted, **CLOSE)


def test_a_teacher_of_two_folders(teacher, parts):
    cnn = save_cnn(parts / 'again')
    x = teacher.prepare([picture])
    with torch.no_grad():
        wanted = mix_sentences(cnn(x), teacher.encode_text(NAMES), 0.5, 3)
    assert torch.allclose(teacher.encode_image(x, normalise=False), wanted, **CLOSE)
    pixels = torch.rand(1, 3, 50, 50, requires_grad=True)
    mixed = teacher.encode_image(teacher.prepare(pixels))
    (mixed * torch.randn(mixed.shape)).sum().backward()
    assert pixels.grad.abs().sum() > 0
    two = teacher.encode_text(['a', 'a much longer sentence'])
    assert torch.allclose(two[:1], teacher.encode_text('a'), **CLOSE)
    assert not teacher.train().model.training
    assert 'best 3 of 5 classes' in teacher.describe()['pictures']
    fast = teacher.for_inference()
    assert torch.allclose(fast.encode_image(x), teacher.encode_image(x), **CLOSE)


@pytest.mark.parametrize('weights', [True, False])
def test_save_and_load(teacher, tmp_path, weights):
    teacher.save(tmp_path, weights)
    again = load_teacher(tmp_path)
    assert again.fingerprint == teacher.fingerprint
    assert (again.temperature, again.top_k) == (0.5, 3)
    assert torch.equal(again.encode_image([picture]), teacher.encode_image([picture]))
    assert (tmp_path / 'cnn.safetensors').is_file() is weights


def test_settings_are_part_of_the_fingerprint(teacher, parts):
    other = open_teacher(line(parts, top_k=2, temperature=0.5))
    assert other.fingerprint != teacher.fingerprint


def test_names_that_lead_nowhere(parts, tmp_path):
    for name, said in (
        ('efficientnet-lite0', 'is a CNN and a sentence encoder'),
        ('a + b + c', 'is a CNN and a sentence encoder'),
        (f'{parts / "cnn"} + owner/name', 'hf download owner/name'),
        (f'{parts / "words"} + {parts / "words"}', 'names no architecture'),
        (f'{parts / "cnn"} + {parts / "cnn"}', 'the text tower is a BERT'),
    ):
        with pytest.raises(BadInput, match=said):
            open_teacher(TeacherParams(kind='conse', checkpoint=name))
    with pytest.raises(BadInput, match='leave out the revision'):
        open_teacher(line(parts, revision='main'))
    save_cnn(tmp_path / 'cnn', label_names=NAMES[:2])
    with pytest.raises(BadInput, match='give label_names'):
        open_conse(f'{tmp_path / "cnn"} + {parts / "words"}')


def test_hostile_folders(parts, teacher, tmp_path):
    shutil.copytree(parts / 'cnn', tmp_path / 'code')
    (tmp_path / 'code/model.py').write_text('raise SystemExit')
    with pytest.raises(BadFile, match='brings code'):
        open_conse(f'{tmp_path / "code"} + {parts / "words"}')
    teacher.save(tmp_path / 'kept')
    for name, text in (('conse.json', '{}'), ('teacher.json', '{"kind": "conse"}')):
        good = (tmp_path / 'kept' / name).read_text()
        (tmp_path / 'kept' / name).write_text(text)
        with pytest.raises(BadInput):
            load_teacher(tmp_path / 'kept')
        (tmp_path / 'kept' / name).write_text(good)
    torch.save(dict(x=Path('a')), tmp_path / 'objects.pth')
    with pytest.raises(BadFile, match='pickled objects'):
        read_cnn(tmp_path / 'objects.pth', 'test_efficientnet')
    (tmp_path / 'words/1_Pooling').mkdir(parents=True)
    pooling = dict(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    (tmp_path / 'words/1_Pooling/config.json').write_text(json.dumps(pooling))
    with pytest.raises(BadFile, match='does not average'):
        check_pooling(tmp_path / 'words')


# a BriVL that begins from pretrained parts


def test_brivl_begins_from_pretrained_parts(parts, tmp_path):
    p = BrivlParams(
        cnn_weights=str(parts / 'cnn'),
        output_stride=32,
        text=dict(checkpoint=str(parts / 'words'), max_length=12),
    )
    model = new_brivl(p, vocab=64).eval()
    assert model.config.cnn_mean == (0.5,) * 3 and model.config.text.hidden == 16
    cnn, bert = save_cnn(tmp_path / 'cnn'), save_words(tmp_path / 'words')
    x = torch.rand(2, 3, 64, 64)
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        seen = model.image.feature_map(prepare_pixels(x, 64))
        read = model.text.tokens(ids)
        assert torch.allclose(seen, cnn.forward_features((x - 0.5) / 0.5), atol=1e-4)
        assert torch.allclose(read, bert(ids).last_hidden_state, **CLOSE)
    words = caption_tokenizer(p, ['not read'])
    assert words.encode('a dog').ids == tiny.bert_tokenizer()('a dog')['input_ids']
    assert (
        words.get_vocab_size() == len(tiny.bert_tokenizer())
        and not words.padding
        and not words.truncation
    )
    model.save(tmp_path / 'brivl')
    again = BriVL.load(tmp_path / 'brivl')
    assert again.config == model.config


def test_a_brivl_without_them_is_stored_as_before():
    fields = BrivlParams().model_dump()
    assert not {'cnn_weights', 'cnn_mean', 'cnn_std'} & fields.keys()
    assert 'checkpoint' not in fields['text']
    assert 'cnn_mean' not in pretrained_config(BrivlParams()).model_dump()


def test_weights_of_another_network(parts):
    p = BrivlParams(cnn='test_resnet', cnn_weights=str(parts / 'cnn'))
    with pytest.raises(BadInput, match='set brivl.cnn: test_efficientnet'):
        load_pretrained(BriVL(BrivlParams()), p)


# the ear


def ear(parts, **changes):
    fields = dict(kind='cnn', checkpoint=str(parts / 'cnn'), trainable='frozen')
    return AudioParams(**fields | dict(embed=24) | changes)


def test_the_ear_is_the_networks_early_stages(parts, tmp_path):
    tower = make_audio_encoder(ear(parts), 16, 1.0)
    assert isinstance(tower, CnnTower)
    cnn = save_cnn(tmp_path / 'cnn')
    wave = torch.from_numpy(sound)[None]
    maps = tower.maps(wave)
    x = mel_picture(wave, tower.filters)[:, None].expand(-1, 3, -1, -1)
    with torch.no_grad():
        wanted = cnn.forward_intermediates(
            (x - 0.5) / 0.5, indices=[2, 3], intermediates_only=True
        )
    assert all(torch.allclose(a, b, **CLOSE) for a, b in zip(maps, wanted))


def test_an_embedding_does_not_depend_on_its_batch(parts):
    tower = make_audio_encoder(ear(parts), 16, 1.0).eval()
    clips = [sound, sound[:700], np.zeros(50, np.float32), np.tile(sound, 4)]
    together = embed_clips(tower, clips)[1]
    alone = [embed_clips(tower, [x])[1] for x in clips]
    assert torch.allclose(together, torch.cat(alone), **CLOSE)
    silent = np.concatenate([np.zeros(3_000, np.float32), sound])
    same = embed_clips(tower, [silent[:16_000]])[1]
    assert torch.allclose(same, together[:1], atol=1e-4)


def test_frozen_stages_stay(parts):
    tower = make_audio_encoder(ear(parts), 16, 1.0).train()
    before = {k: v.clone() for k, v in tower.cnn.state_dict().items()}
    waves = torch.from_numpy(np.stack([sound, sound[::-1].copy()]))
    tower(waves).sum().backward()
    assert all(p.grad is None for p in tower.cnn.parameters())
    after = tower.cnn.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    whole = make_audio_encoder(ear(parts, trainable='whole'), 16, 1.0).train()
    whole(waves)[:, 0].sum().backward()
    assert whole.cnn.conv_stem.weight.grad.abs().sum() > 0


def test_ears_that_cannot_be(parts):
    for changes, said in (
        (dict(trainable='lora'), 'frozen or whole'),
        (dict(checkpoint=None), 'efficientnet-lite0'),
        (dict(checkpoint='owner/name'), 'hf download'),
    ):
        with pytest.raises(BadInput, match=said):
            make_audio_encoder(ear(parts, **changes), 16, 1.0)
    tower = make_audio_encoder(ear(parts), 16, 0.5)
    with pytest.raises(BadInput, match='more than the window'):
        tower(torch.zeros(1, 16_000))


# presets/real.yaml


def save_recordings(root):
    "Twenty sounds of two classes and pictures of what makes them; a third class has none."
    sounds, pictures = [], {}
    for k, label in enumerate(('low', 'high', 'mute')):
        for i in range(10):
            hz = 200 * (1 + 4 * k) * (1 + 0.01 * i)
            wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(12_000) / 16_000)
            sf.write(root / f'{label}{i}.wav', wave, 16_000)
            split = 'test' if i > 6 else 'train'
            sounds.append(dict(audio=f'{label}{i}.wav', label=label, split=split))
        if label == 'mute':
            continue
        for i in range(4):
            x = rng.integers(0, 90, (48, 48, 3)) + 120 * k
            Image.fromarray(x.astype(np.uint8)).save(root / f'{label}{i}.png')
        pictures[label] = [f'{label}{i}.png' for i in range(4)]
    return write_class_pairs(root / 'pairs.csv', sounds, pictures, per_clip=2)


def test_the_preset_at_a_tiny_size(parts, tmp_path):
    files = tmp_path / 'files'
    files.mkdir()
    assert save_recordings(files) == 50
    preset = yaml.safe_load((ROOT / 'presets/real.yaml').read_text())
    small = dict(
        corpus=dict(source=str(files / 'pairs.csv'), root=str(files), image_size=48),
        teacher=dict(checkpoint=line(parts).checkpoint),
        audio=dict(checkpoint=str(parts / 'cnn'), embed=24),
        train=dict(window=1.0, seeds=[0], optim=dict(epochs=2, batch=4)),
        evaluate=dict(probe_seeds=1, batch=8),
    )
    (tmp_path / 'params.yaml').write_text(yaml.safe_dump(merge_config(preset, small)))
    (tmp_path / 'data').symlink_to(tmp_path / 'build/corpus')
    lab = Lab('wavbrivl', tmp_path)
    prepare_corpus(lab, workers=1)
    assert not len(pretrain_brivl(lab)) and not lab.corpus.summary['leaks']['test']
    store_targets(lab)
    assert not len(pretrain_wavlm(lab))
    prepare_datasets(lab)
    assert train_run(lab).loss.notna().all()
    (metrics,) = evaluate_run(lab)
    tasks = metrics['tasks']
    assert {'zero_shot', 'probe', 'audio_to_image_class'} <= tasks.keys()
    folder = lab.model_folder(0)
    model = WavBriVL.from_pretrained(folder, 'cpu')
    names = ['low', 'high', 'mute']
    assert len(model.classify(files / 'low0.wav', names)) == 3
    assert 'first stages of test_efficientnet' in (folder / 'README.md').read_text()
    shutil.move(parts / 'cnn', parts / 'gone')
    try:
        again = WavBriVL.from_pretrained(folder, 'cpu')
        same = again.embed_audio(files / 'low0.wav')
        assert np.allclose(same, model.embed_audio(files / 'low0.wav'), atol=1e-6)
    finally:
        shutil.move(parts / 'gone', parts / 'cnn')
    assert read_json(folder / 'config.json')['audio']['encoder']['architecture']
