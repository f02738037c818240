"A released image-text model by a line: our embeddings are the library's own, from the same files."

import json
import socket

import numpy as np
import pytest
import tiny_teachers as tiny
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file

from wavbrivl.core.files import BadInput
from wavbrivl.core.params import BrivlParams, TeacherParams
from wavbrivl.core.picture_params import GuidanceParams, VqganParams
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.generation.guidance import search_pictures
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.teachers.clip import load_teacher, open_teacher
from wavbrivl.image_text.inputs import prepare_pixels, tokenize, train_tokenizer
from wavbrivl.teachers.teacher import as_teacher
from wavbrivl.pipeline.lab import small_lab
from wavbrivl.pipeline.training import prepare_corpus, pretrain_brivl, store_targets
from wavbrivl.training.targets import embed_pictures, embed_texts
from wavbrivl.training.vqgan import Perceptual

FAMILIES = list(tiny.SAVERS)
TEXTS = [
    'a dog barks',
    'Rain, falls!',
    '狗叫 at dusk',
    'so many words that no text tower of this size can read to their end ' * 4,
]
CLOSE = dict(atol=1e-5, rtol=0)


def draw_pictures():
    "Larger and smaller than the square, oblong both ways, odd, grey, transparent."
    rng = np.random.default_rng(0)
    sides = [(50, 40), (20, 20), (33, 90), (120, 31), (32, 32), (3, 3), (7, 200)]
    found = [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for h, w in sides
    ]
    return [*found, found[0].convert('L'), found[2].convert('RGBA')]


PICTURES = draw_pictures()


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Every family, saved once."
    home = tmp_path_factory.mktemp('released')
    for name, save in tiny.SAVERS.items():
        save(home / name)
    return home


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty hub cache, and a network that nobody may ask."
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    asked = []

    def refuse(self, address):
        asked.append(address)
        raise OSError('there is no network here')

    def look_up(*address, **_):
        asked.append(address)
        raise OSError('there are no names here')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    yield tmp_path / 'hub'
    assert not asked


def line(checkpoint, kind='transformers', revision=None):
    return TeacherParams(kind=kind, checkpoint=str(checkpoint), revision=revision)


def library_rows(folder):
    "Image and text embeddings as the library's own documentation computes them."
    model = hf.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = hf.AutoProcessor.from_pretrained(folder)
    padded = hasattr(model, 'logit_bias')  # as SigLIP was trained
    longest = dict(altclip=14, siglip2=64, chinese_clip=20).get(folder.name, 16)
    words = processor.tokenizer(
        TEXTS,
        padding='max_length' if padded else True,
        truncation=True,
        max_length=longest,
        return_tensors='pt',
    )
    images = PICTURES
    if folder.name == 'siglip2':  # its processor takes colour only
        images = [p.convert('RGB') for p in PICTURES]
    pixels = processor.image_processor(images=images, return_tensors='pt')
    with torch.no_grad():
        seen = model.get_image_features(**pixels).pooler_output
        read = model.get_text_features(**words).pooler_output
    return model, seen, read


def unit(z):
    return torch.nn.functional.normalize(z, dim=-1)


@pytest.mark.parametrize('family', FAMILIES)
def test_embeddings_are_those_of_transformers(folders, family):
    teacher = open_teacher(line(folders / family))
    model, seen, read = library_rows(folders / family)
    with torch.no_grad():
        ours = teacher.encode_image(PICTURES), teacher.encode_text(TEXTS)
        bare = teacher.encode_image(PICTURES, normalise=False)
        words = teacher.encode_text(TEXTS, normalise=False)
    assert torch.allclose(ours[0], unit(seen), **CLOSE)
    assert torch.allclose(ours[1], unit(read), **CLOSE)
    assert torch.allclose(bare, seen, **CLOSE) and torch.allclose(words, read, **CLOSE)
    assert teacher.dim == seen.shape[1]
    assert (teacher.tokenize(TEXTS).cut > 0).tolist()[::3] == [False, True]


@pytest.mark.parametrize('family', FAMILIES)
def test_alone_as_in_a_batch(folders, family):
    teacher = open_teacher(line(folders / family))
    with torch.no_grad():
        seen, read = teacher.encode_image(PICTURES), teacher.encode_text(TEXTS)
        for i, picture in enumerate(PICTURES):
            assert torch.allclose(teacher.encode_image([picture])[0], seen[i], **CLOSE)
        for i, text in enumerate(TEXTS):
            assert torch.allclose(teacher.encode_text(text)[0], read[i], **CLOSE)
    assert teacher.encode_image([]).shape == teacher.encode_text([]).shape


@pytest.mark.parametrize('family', FAMILIES)
def test_gradients_reach_the_picture(folders, family):
    teacher = open_teacher(line(folders / family))
    x = torch.rand(2, 3, 40, 60, requires_grad=True)
    (teacher.encode_image(teacher.prepare(x)) ** 3).sum().backward()
    assert x.grad.isfinite().all() and (x.grad.abs().sum((1, 2, 3)) > 0).all()
    assert all(p.grad is None for p in teacher.parameters())


def test_scores_are_the_model_s_own(folders):
    teacher = open_teacher(line(folders / 'clip'))
    model, seen, read = library_rows(folders / 'clip')
    cosines = unit(seen) @ unit(read).T
    theirs = (cosines * model.logit_scale.exp()).softmax(-1)
    assert torch.allclose(teacher.probabilities(cosines), theirs, **CLOSE)
    teacher = open_teacher(line(folders / 'siglip'))
    model, seen, read = library_rows(folders / 'siglip')
    cosines = unit(seen) @ unit(read).T
    theirs = torch.sigmoid(cosines * np.exp(2.0) - 3.0)
    assert torch.allclose(teacher.probabilities(cosines), theirs, **CLOSE)
    assert 'sigmoid' in teacher.describe()['scores']


def age_files(folder, processor, **settings):
    "The files of 2021: sides as bare numbers, a vocabulary and its merges, no tokenizer.json."
    colours = dict(image_mean=tiny.PREPROCESS['mean'], image_std=tiny.PREPROCESS['std'])
    steps = dict(do_resize=True, do_normalize=True, do_center_crop=True, resample=3)
    sides = dict(size=32, crop_size=32, feature_extractor_type=processor)
    whole = json.loads((folder / 'tokenizer.json').read_text())['model']
    (folder / 'processor_config.json').unlink()
    (folder / 'tokenizer.json').unlink()
    path = folder / 'preprocessor_config.json'
    path.write_text(json.dumps(colours | steps | sides))
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    return whole


def test_the_layout_of_2021(folders, tmp_path):
    folder = copied(folders, tmp_path)
    whole = age_files(folder, 'CLIPFeatureExtractor', model_max_length=16)
    (folder / 'vocab.json').write_text(json.dumps(whole['vocab']))
    merges = [' '.join(m) if isinstance(m, list) else m for m in whole['merges']]
    (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges, '']))
    now, old = open_teacher(line(folders / 'clip')), open_teacher(line(folder))
    with torch.no_grad():
        for name, given in dict(encode_image=PICTURES, encode_text=TEXTS).items():
            a, b = getattr(now, name)(given), getattr(old, name)(given)
            assert torch.allclose(a, b, **CLOSE), name


def test_chinese_clip_of_2022(folders, tmp_path):
    folder = copied(folders, tmp_path, 'chinese_clip')
    settings = dict(tokenizer_class='BertTokenizer', model_max_length=20)
    whole = age_files(folder, 'ChineseCLIPFeatureExtractor', **settings)
    (folder / 'vocab.txt').write_text('\n'.join(whole['vocab']))
    _, seen, read = library_rows(folders / 'chinese_clip')
    with torch.no_grad():
        old = open_teacher(line(folder))
        assert torch.allclose(old.encode_image(PICTURES), unit(seen), **CLOSE)
        assert torch.allclose(old.encode_text(TEXTS), unit(read), **CLOSE)


@pytest.mark.parametrize('family', ['clip', 'siglip', 'chinese_clip'])
def test_from_the_hub_s_cache(folders, cache, family):
    snapshot = tiny.put_into_cache(folders / family, cache, 'owner/name')
    teacher = open_teacher(line('owner/name'))
    assert teacher.source['revision'] == tiny.COMMIT == snapshot.name
    same = open_teacher(line('owner/name', revision=tiny.COMMIT))
    assert same.fingerprint == open_teacher(line(folders / family)).fingerprint
    _, seen, read = library_rows(folders / family)
    with torch.no_grad():
        assert torch.allclose(same.encode_image(PICTURES), unit(seen), **CLOSE)
        assert torch.allclose(same.encode_text(TEXTS), unit(read), **CLOSE)


def test_a_name_that_is_not_there(cache):
    with pytest.raises(BadInput, match='`hf download openai/clip-vit-base-patch32`'):
        open_teacher(line('openai/clip-vit-base-patch32'))
    with pytest.raises(BadInput, match='`hf download a/b --revision v2`'):
        open_teacher(line('a/b', revision='v2'))
    with pytest.raises(BadInput, match='no such folder'):
        open_teacher(line('/no/such/folder'))
    with pytest.raises(BadInput, match='teacher.checkpoint is not set'):
        open_teacher(TeacherParams(kind='transformers'))


def copied(folders, tmp_path, family='clip'):
    folder = tmp_path / family
    folder.mkdir()
    for p in (folders / family).iterdir():
        (folder / p.name).write_bytes(p.read_bytes())
    return folder


def leave_pickle(folder):
    torch.save(load_file(folder / 'model.safetensors'), folder / 'pytorch_model.bin')
    (folder / 'model.safetensors').unlink()


def add_code(folder):
    (folder / 'modeling_clip.py').write_text('raise SystemExit')


def name_code(folder):
    config = json.loads((folder / 'config.json').read_text())
    config['auto_map'] = dict(AutoModel='modeling_clip.CLIPModel')
    (folder / 'config.json').write_text(json.dumps(config))


def lose_weights(folder):
    weights = load_file(folder / 'model.safetensors')
    del weights['visual_projection.weight']
    save_file(weights, folder / 'model.safetensors', metadata=dict(format='pt'))


def lose_tokenizer(folder):
    (folder / 'tokenizer.json').unlink()
    (folder / 'tokenizer_config.json').unlink()


def lose_merges(folder):
    whole = json.loads((folder / 'tokenizer.json').read_text())
    vocab = whole['model']['vocab']
    (folder / 'tokenizer.json').unlink()
    (folder / 'vocab.json').write_text(json.dumps(vocab))


def cut_weights(folder):
    path = folder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:5000])


def make_vision_only(folder):
    config = hf.CLIPVisionConfig(**tiny.VISION)
    hf.CLIPVisionModel(config).save_pretrained(folder)


@pytest.mark.parametrize(
    'spoil, words',
    [
        (leave_pickle, 'pytorch_model.bin: these weights are a pickle'),
        (add_code, 'modeling_clip.py: a model that brings code'),
        (name_code, 'config.json: asks for code'),
        (lose_weights, '1 weights are missing.*visual_projection.weight'),
        (lose_tokenizer, 'merges.txt: the file does not exist'),
        (lose_merges, 'no teacher'),
        (cut_weights, 'no whole safetensors'),
        (make_vision_only, 'CLIPVisionModel is no image-text model'),
    ],
)
def test_refused_with_a_sentence(folders, tmp_path, spoil, words):
    folder = copied(folders, tmp_path)
    spoil(folder)
    with pytest.raises(BadInput, match=words) as e:
        open_teacher(line(folder))
    assert '\n' not in str(e.value)


def test_a_pickle_beside_safetensors_is_left_alone(folders, tmp_path):
    folder = copied(folders, tmp_path)
    (folder / 'pytorch_model.bin').write_bytes(b'not even a pickle')
    before = open_teacher(line(folders / 'clip')).fingerprint
    assert open_teacher(line(folder)).fingerprint == before


def test_weights_in_parts_and_in_half_precision(folders, tmp_path):
    model = hf.AutoModel.from_pretrained(folders / 'clip')
    folder = copied(folders, tmp_path)
    (folder / 'model.safetensors').unlink()
    model.half().save_pretrained(folder, max_shard_size='40KB')
    assert len(list(folder.glob('*.safetensors'))) > 1
    teacher = open_teacher(line(folder))
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    teacher.save(tmp_path / 'kept')
    assert load_teacher(tmp_path / 'kept').fingerprint == teacher.fingerprint
    next(folder.glob('*.safetensors')).unlink()
    with pytest.raises(BadInput, match='the file does not exist'):
        open_teacher(line(folder))


@pytest.mark.parametrize('weights', [True, False])
def test_saved_whole_or_by_name(folders, cache, tmp_path, weights):
    snapshot = tiny.put_into_cache(folders / 'clip', cache, 'owner/name')
    teacher = open_teacher(line('owner/name'))
    teacher.save(tmp_path / 'kept', weights)
    kept = load_teacher(tmp_path / 'kept')
    assert kept.fingerprint == teacher.fingerprint
    assert kept.describe() == teacher.describe()
    assert (tmp_path / 'kept/model.safetensors').exists() == weights
    at = tmp_path / 'kept' if weights else snapshot
    path = at / 'model.safetensors'
    other = {k: v + 1 for k, v in load_file(path).items()}
    path.unlink()
    save_file(other, path, metadata=dict(format='pt'))
    with pytest.raises(BadInput, match='owner/name'):
        load_teacher(tmp_path / 'kept')


def test_inference_in_half_precision(folders):
    teacher = open_teacher(line(folders / 'clip'))
    fast = teacher.for_inference('bf16')
    with torch.no_grad():
        a, b = teacher.encode_image(PICTURES), fast.encode_image(PICTURES)
        words = fast.encode_text(TEXTS)
    assert b.dtype == torch.float32 and (a * b).sum(-1).min() > 0.99
    assert torch.allclose(words.norm(dim=-1), torch.ones(len(TEXTS)), atol=1e-2)
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}


def test_pictures_of_other_kinds(folders):
    teacher = open_teacher(line(folders / 'clip'))
    batch = torch.randint(0, 256, (5, 3, 40, 33), dtype=torch.uint8)
    arrays = [x.movedim(0, -1).numpy() for x in batch]
    with torch.no_grad():
        rows = teacher.encode_image(batch)
        assert torch.equal(teacher.encode_image(arrays), rows)
        assert torch.equal(teacher.encode_image(teacher.prepare(batch)), rows)
    with pytest.raises(BadInput, match='picture 0 holds torch.float32'):
        teacher.prepare([batch[0].float()])
    with pytest.raises(BadInput, match='text 1 is None'):
        teacher.encode_text(['a', None])


# ---- OpenCLIP


@pytest.fixture(scope='module')
def open_clip():
    return pytest.importorskip('open_clip')


def open_clip_rows(open_clip, folder):
    place = f'local-dir:{folder}'
    model, transform = open_clip.create_model_from_pretrained(place)
    words = open_clip.get_tokenizer(place)(TEXTS)
    pixels = torch.stack([transform(p) for p in PICTURES])
    with torch.no_grad():
        return model.eval().encode_image(pixels), model.encode_text(words)


@pytest.mark.parametrize('fit', ['shortest', 'squash', 'longest'])
def test_embeddings_are_those_of_open_clip(open_clip, tmp_path, cache, fit):
    tiny.save_open_clip(tmp_path / 'model', fit)
    tiny.put_into_cache(tmp_path / 'model', cache, 'owner/name')
    seen, read = open_clip_rows(open_clip, tmp_path / 'model')
    teacher = open_teacher(line('owner/name', 'open_clip'))
    x = torch.rand(2, 3, 40, 60, requires_grad=True)
    (teacher.encode_image(teacher.prepare(x)) ** 3).sum().backward()
    assert (x.grad.abs().sum((1, 2, 3)) > 0).all()
    with torch.no_grad():
        assert torch.allclose(teacher.encode_image(PICTURES), unit(seen), **CLOSE)
        assert torch.allclose(teacher.encode_text(TEXTS), unit(read), **CLOSE)
        alone = teacher.encode_text(TEXTS[1])
    assert torch.allclose(alone, unit(read)[[1]], **CLOSE)
    assert teacher.tokenize(TEXTS).cut.tolist()[::3] == [0, 46]
    teacher.save(tmp_path / 'kept')
    assert load_teacher(tmp_path / 'kept').fingerprint == teacher.fingerprint


def test_siglip_in_open_clip_s_layout(open_clip, tmp_path, cache):
    words = tiny.unigram_tokenizer()
    text = dict(context_length=16, vocab_size=len(words), hf_tokenizer_name='any/name')
    text |= dict(width=32, heads=2, layers=2, no_causal_mask=True, pool_type='last')
    text |= dict(proj_bias=True, tokenizer_kwargs=dict(clean='canonicalize'))
    seen = dict(
        timm_model_name='test_vit', image_size=160, timm_pool='map', timm_proj='none'
    )
    tiny.save_open_clip(
        tmp_path / 'model',
        'squash',
        embed_dim=64,
        vision_cfg=seen,
        text_cfg=text,
        init_logit_bias=-10,
        custom_text=True,
    )
    words.save_pretrained(tmp_path / 'model')
    seen, read = open_clip_rows(open_clip, tmp_path / 'model')
    teacher = open_teacher(line(tmp_path / 'model', 'open_clip'))
    with torch.no_grad():
        assert torch.allclose(teacher.encode_image(PICTURES), unit(seen), **CLOSE)
        assert torch.allclose(teacher.encode_text(TEXTS), unit(read), **CLOSE)
    assert teacher.bias == -10 and 'sigmoid' in teacher.describe()['scores']


def test_open_clip_with_a_text_tower_of_the_hub(open_clip, tmp_path, cache):
    words = tiny.bert_tokenizer()
    sizes = tiny.TOWER | dict(vocab_size=len(words), max_position_embeddings=20)
    hf.BertConfig(**sizes).save_pretrained(tmp_path / 'bert')
    words.save_pretrained(tmp_path / 'bert')
    text = dict(hf_model_name=str(tmp_path / 'bert'), hf_tokenizer_name='some/bert')
    text |= dict(
        hf_model_pretrained=False, context_length=16, hf_pooler_type='mean_pooler'
    )
    tiny.save_open_clip(tmp_path / 'model', text_cfg=text, custom_text=True)
    words.save_pretrained(tmp_path / 'model')
    seen, read = open_clip_rows(open_clip, tmp_path / 'model')
    path = tmp_path / 'model/open_clip_config.json'
    whole = json.loads(path.read_text())
    whole['model_cfg']['text_cfg']['hf_model_name'] = 'some/bert'
    path.write_text(json.dumps(whole))
    tiny.put_into_cache(tmp_path / 'bert', cache, 'some/bert')
    teacher = open_teacher(line(tmp_path / 'model', 'open_clip'))
    with torch.no_grad():
        assert torch.allclose(teacher.encode_image(PICTURES), unit(seen), **CLOSE)
        assert torch.allclose(teacher.encode_text(TEXTS), unit(read), **CLOSE)


def test_open_clip_fetches_nothing(open_clip, tmp_path, cache):
    tiny.save_open_clip(tmp_path / 'model')
    path = tmp_path / 'model/open_clip_config.json'
    whole = json.loads(path.read_text())
    for section, key, value, words in (
        ('text_cfg', 'hf_model_name', 'some/bert', '`hf download some/bert`'),
        ('vision_cfg', 'timm_model_name', 'hf-hub:some/vit', 'timm network of the hub'),
        ('text_cfg', 'tokenizer_kwargs', dict(trust_remote_code=True), 'code'),
    ):
        changed = json.loads(json.dumps(whole))
        changed['model_cfg'][section][key] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(BadInput, match=words):
            open_teacher(line(tmp_path / 'model', 'open_clip'))


def test_open_clip_without_its_package(monkeypatch, tmp_path):
    found = 'wavbrivl.teachers.clip.importlib.util.find_spec'
    monkeypatch.setattr(found, lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'wavbrivl\[openclip\]'"):
        open_teacher(line(tmp_path, 'open_clip'))


def test_the_other_layout_is_named(tmp_path):
    (tmp_path / 'open_clip_config.json').write_text('{}')
    with pytest.raises(BadInput, match='set teacher.kind: open_clip'):
        open_teacher(line(tmp_path))


# ---- the tokenizer that SigLIP was released with


def save_sentencepiece(folder):
    "SigLIP's own tokenizer: a SentencePiece model, and its settings as released."
    spm = pytest.importorskip('sentencepiece')
    (folder / 'lines.txt').write_text('\n'.join(tiny.TEXTS * 9))
    spm.SentencePieceTrainer.train(
        input=str(folder / 'lines.txt'),
        model_prefix=str(folder / 'spiece'),
        vocab_size=80,
        pad_id=3,
        hard_vocab_limit=False,
    )
    settings = dict(
        tokenizer_class='SiglipTokenizer',
        model_input_names=['input_ids'],
        model_max_length=16,
        do_lower_case=True,
    )
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    (folder / 'tokenizer.json').unlink()


def test_siglip_with_its_sentencepiece(folders, tmp_path):
    folder = copied(folders, tmp_path, 'siglip')
    save_sentencepiece(folder)
    teacher = open_teacher(line(folder))
    assert type(teacher.tokenizer).__name__ == 'SiglipTokenizer'
    _, seen, read = library_rows(folder)
    with torch.no_grad():
        assert torch.allclose(teacher.encode_text(TEXTS), unit(read), **CLOSE)
        same = teacher.encode_text(['A dog, barks!', 'a dog barks'])
    assert torch.allclose(same[0], same[1], **CLOSE)
    teacher.save(tmp_path / 'kept')
    assert load_teacher(tmp_path / 'kept').fingerprint == teacher.fingerprint


def test_siglip_without_sentencepiece(folders, tmp_path, monkeypatch):
    folder = copied(folders, tmp_path, 'siglip')
    path = folder / 'tokenizer_config.json'
    path.write_text(json.dumps(dict(tokenizer_class='SiglipTokenizer')))
    found = 'wavbrivl.teachers.clip.importlib.util.find_spec'
    monkeypatch.setattr(found, lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'wavbrivl\[siglip\]'"):
        open_teacher(line(folder))


# ---- BriVL, and what asks the protocol


def test_brivl_as_a_teacher_is_bit_identical():
    torch.manual_seed(0)
    brivl = BriVL(BrivlParams()).eval()
    tokenizer = train_tokenizer(tiny.TEXTS, 80)
    teacher = as_teacher(brivl, tokenizer)
    batch = torch.randint(0, 256, (5, 3, 96, 96), dtype=torch.uint8)
    ids, lengths = tokenize(tokenizer, tiny.TEXTS, brivl.config.text.max_length)
    with torch.inference_mode():
        seen = brivl.encode_image(prepare_pixels(batch, 64))
        read = brivl.encode_text(ids, lengths)
        assert torch.equal(teacher.encode_image(batch), seen)
        assert torch.equal(teacher.encode_text(tiny.TEXTS), read)
    assert torch.equal(embed_pictures(brivl, batch), seen)
    assert torch.equal(embed_texts(brivl, tokenizer, tiny.TEXTS), read)


@pytest.mark.parametrize('family', ['clip', 'siglip', 'siglip2'])
def test_targets_of_a_released_teacher(folders, family):
    teacher = open_teacher(line(folders / family))
    drawn = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (5, 3, 4, 4), generator=drawn, dtype=torch.uint8)
    batch = coarse.repeat_interleave(24, 2).repeat_interleave(24, 3)
    with torch.no_grad():
        seen, read = teacher.encode_image(batch), teacher.encode_text(TEXTS)
    assert torch.allclose(embed_pictures(teacher, batch, 2), seen, **CLOSE)
    assert torch.allclose(embed_texts(teacher, None, TEXTS, 3), read, **CLOSE)
    views = [embed_pictures(teacher, batch, view=v, seed=1) for v in (1, 1, 2)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    assert (views[0] * seen).sum(-1).mean() > 0
    assert embed_pictures(teacher, batch[:0]).shape == (0, teacher.dim)


def test_guidance_by_a_released_teacher(folders):
    teacher = open_teacher(line(folders / 'clip'))
    torch.manual_seed(0)
    vqgan = VQGAN(VqganParams(size=32, ch=8)).eval()
    wanted = embed_texts(teacher, None, ['a dog barks', 'rain'])
    short = GuidanceParams(steps=12, prior_interval=0, cutouts=4)
    found = search_pictures(vqgan, teacher, wanted, short)
    score = (embed_pictures(teacher, found.pictures) * wanted).sum(-1)
    begun = search_pictures(
        vqgan, teacher, wanted, short.model_copy(update=dict(steps=1))
    )
    before = (embed_pictures(teacher, begun.pictures) * wanted).sum(-1)
    assert (score > before - 1e-4).all() and score.sum() > before.sum()


def test_the_lab_with_a_released_teacher(folders, tmp_path):
    teacher = dict(kind='transformers', checkpoint=str(folders / 'clip'))
    foley = dict(train=6, valid=2, test=2)
    lab = small_lab(tmp_path, teacher=teacher, corpus=dict(foley=foley))
    prepare_corpus(lab, workers=1)
    assert not len(pretrain_brivl(lab))
    names = {p.name for p in (lab.build / 'brivl').iterdir()}
    assert names == {'teacher.json', 'history.csv'}
    store_targets(lab)
    captions = [text for row in lab.corpus.table.captions for text in row]
    expected = embed_texts(open_teacher(line(folders / 'clip')), None, captions)
    assert torch.allclose(lab.targets.captions, expected, **CLOSE)
    assert lab.targets.dim == 24
    with pytest.raises(BadInput, match='set vqgan.perceptual: 0'):
        Perceptual(lab.brivl[0])
