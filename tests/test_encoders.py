"Released audio encoders against the library's own outputs, on tiny random models in the layouts of the hub."

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.hub import find_model
from wavbrivl.core.params import AudioParams
from wavbrivl.core.picture_params import Params
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.config import BrivlConfig
from wavbrivl.audio.encoders import (
    EncoderTower,
    describe_encoder,
    finish_training,
    load_encoder,
    make_encoder,
)
from wavbrivl.audio.frames import FrozenEncoder
from wavbrivl.audio.tower import AudioTower, compile_for_inference, embed_clips
from wavbrivl.audio.tower import embed_frames
from wavbrivl.training.audio import train_wavlm
from wavbrivl.api.onnx_export import export_onnx
from wavbrivl.api.pictures import WavBriVL
from wavbrivl.pipeline.gloss import open_wavlm

RATE = 16_000
SIZES = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
)
CONVOLUTIONS = dict(
    conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4
)
GROUP = SIZES | CONVOLUTIONS
WIDE = GROUP | dict(conv_dim=[32] * 7)
LAYER = GROUP | dict(feat_extract_norm='layer', do_stable_layer_norm=True)
COMMIT = 'c0ffee' * 6 + 'abcd'


def waveform(name, sizes, **extractor):
    "A model of the kin of Wav2Vec2, and its extractor."
    config = getattr(hf, f'{name}Config')(**sizes)
    model = getattr(hf, f'{name}Model')(config)
    return model, hf.Wav2Vec2FeatureExtractor(**extractor)


def ast():
    sizes = dict(SIZES, max_length=256, num_mel_bins=32)
    extractor = hf.ASTFeatureExtractor(max_length=256, num_mel_bins=32)
    return hf.ASTModel(hf.ASTConfig(**sizes)), extractor


def whisper():
    tower = dict(layers=2, attention_heads=2, ffn_dim=48)
    sizes = {f'encoder_{k}': v for k, v in tower.items()}
    sizes |= {f'decoder_{k}': v for k, v in tower.items()}
    marks = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config = hf.WhisperConfig(
        d_model=32,
        vocab_size=60,
        num_mel_bins=16,
        max_source_positions=150,
        decoder_start_token_id=1,
        **sizes,
        **marks,
    )
    extractor = hf.WhisperFeatureExtractor(feature_size=16, chunk_length=3)
    return hf.WhisperModel(config), extractor


PLAIN = dict(do_normalize=False, return_attention_mask=True)
UNMASKED = dict(do_normalize=True, return_attention_mask=False)
MASKED = dict(do_normalize=True, return_attention_mask=True)
RELEASED = {
    'wavlm-base': lambda: waveform('WavLM', GROUP, **PLAIN),
    'wavlm-large': lambda: waveform('WavLM', LAYER, **MASKED),
    'hubert-base': lambda: waveform('Hubert', GROUP, **UNMASKED),
    'hubert-large': lambda: waveform('Hubert', LAYER, **MASKED),
    'wav2vec2-base': lambda: waveform('Wav2Vec2', GROUP, **UNMASKED),
    'wav2vec2-large': lambda: waveform('Wav2Vec2', LAYER, **MASKED),
    'conformer': lambda: waveform('Wav2Vec2Conformer', LAYER, **MASKED),
    'data2vec': lambda: waveform('Data2VecAudio', WIDE, **MASKED),
    'unispeech': lambda: waveform('UniSpeech', GROUP, **UNMASKED),
    'unispeech-sat': lambda: waveform('UniSpeechSat', GROUP, **UNMASKED),
    'ast': ast,
    'whisper': whisper,
}
SPECTROGRAMS = 'ast', 'whisper'
WINDOW = 1.0


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Where each tiny model lies, in the released layout; made when it is first asked for."
    root = tmp_path_factory.mktemp('released')

    def find(name):
        at = root / name
        if not at.exists():
            torch.manual_seed(1)
            model, extractor = RELEASED[name]()
            model.save_pretrained(at)
            extractor.save_pretrained(at)
        return at

    return find


def sounds():
    rng = np.random.default_rng(0)
    lengths = 16_000, 9_000, 5_001, 700
    return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in lengths]


def padded(clips, size=16_000):
    waves = np.stack([np.pad(x, (0, size - len(x))) for x in clips])
    return torch.from_numpy(waves), [len(x) for x in clips]


def section(folder, **settings):
    return AudioParams(
        kind='transformers', checkpoint=str(folder), embed=24, **settings
    )


def make_tower(folder, window=WINDOW, **settings):
    torch.manual_seed(0)
    return EncoderTower(section(folder, **settings), 16, window)


def gap(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def library_states(folder, name, clips):
    "What the library computes of clips padded to one second, every frame of it."
    model = hf.AutoModel.from_pretrained(folder).eval()
    extractor = hf.AutoFeatureExtractor.from_pretrained(folder)
    options = dict(sampling_rate=RATE, return_tensors='pt')
    if name == 'whisper':
        model = model.get_encoder()
    elif name != 'ast':
        options |= dict(padding='max_length', max_length=16_000)
    inputs = extractor(clips, **options)
    if name not in SPECTROGRAMS and not extractor.return_attention_mask:
        alone = [extractor(x, sampling_rate=RATE).input_values[0] for x in clips]
        inputs = dict(input_values=padded(alone)[0])  # as its documentation asks
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True).hidden_states


@pytest.mark.parametrize('name', RELEASED)
def test_hidden_states_are_the_librarys(name, folder):
    clips = sounds()
    want = library_states(folder(name), name, clips)
    encoder = load_encoder(folder(name)).eval()
    with torch.no_grad():
        got, padding = encoder(*padded(clips))
    if name == 'ast':  # patches lie frequency by frequency, after two tokens
        n, _, width = want[0].shape
        want = [h[:, 2:].reshape(n, 2, -1, width).mean(1) for h in want]
    want = [h[:, : got[0].shape[1]] for h in want]
    # the norms of data2vec blow up the rounding of a waveform's mean and deviation
    size = max(h.abs().max() for h in want) if name == 'data2vec' else 1
    assert gap(got, want) < 1e-5 * size
    real = dict(ast=[10, 6, 3, 1], whisper=[50, 29, 16, 3]).get(name, [49, 27, 15, 1])
    assert (~padding).sum(1).tolist() == real


@pytest.mark.parametrize('name', RELEASED)
def test_alone_as_in_a_batch(name, folder):
    tower = make_tower(folder(name))
    rng = np.random.default_rng(1)
    lengths = 1, 200, 399, 5_000, 16_000, 16_001, 50_000
    clips = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in lengths]
    z, a = embed_clips(tower, clips, batch=3)
    alone = [embed_clips(tower, [c]) for c in clips]
    assert torch.isfinite(z).all() and torch.allclose(a.norm(dim=1), torch.ones(7))
    assert gap(z, [k[0][0] for k in alone]) < 1e-5
    assert gap(a, [k[1][0] for k in alone]) < 1e-5
    backwards = embed_clips(tower, clips[::-1], batch=5)[1].flip(0)
    assert gap(a, backwards) < 1e-5


@pytest.mark.parametrize('name', ['wavlm-large', 'wav2vec2-large'])
def test_what_lies_in_the_padding_is_not_heard(name, folder):
    encoder = load_encoder(folder(name)).eval()
    clip = sounds()[1]
    long, short = padded([clip], 16_000), padded([clip], 12_000)
    with torch.no_grad():
        (a, _), (b, end) = encoder(*long), encoder(*short)
    real = ~end[0]
    assert gap([h[0][: len(real)][real] for h in a], [h[0][real] for h in b]) < 1e-5


@pytest.mark.parametrize('name', RELEASED)
def test_frames_stand_where_the_sound_is(name, folder):
    tower = make_tower(folder(name), window=2.0)
    rng = np.random.default_rng(2)
    lengths = 100, 16_000, 70_000
    clips = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in lengths]
    found = embed_frames(tower, clips)
    assert [f.shape for f in found] == [(-(-n // 320), 32) for n in lengths]
    frames = torch.arange(tower.encoder.count_frames(torch.tensor(32_000)))
    middle = tower.first_frame + tower.frame_hop * frames
    assert 0 <= middle[0] < 0.1 and 1.85 < middle[-1] < 2.05


def test_longer_than_the_model_hears(folder):
    for name, longest in (('ast', 2.575), ('whisper', 3.0)):
        make_tower(folder(name), window=longest)
        with pytest.raises(BadInput, match=f'{longest:g} s that .* hears at once'):
            make_tower(folder(name), window=longest + 0.01)
    tower = make_tower(folder('whisper'), window=3.0)
    assert embed_clips(tower, [np.ones(10 * RATE, np.float32)])[0].shape == (1, 24)


def learning_steps(tower, steps=8):
    "Losses of a few steps towards fixed points."
    torch.manual_seed(0)
    wave, lengths = padded(sounds())
    target = torch.nn.functional.normalize(torch.randn(4, 16), dim=1)
    learn = [w for w in tower.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(learn, 3e-3)
    losses = []
    for _ in range(steps):
        loss = 1 - (tower.train()(wave, lengths) * target).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize('trainable', ['frozen', 'late', 'whole'])
@pytest.mark.parametrize('name', RELEASED)
def test_only_what_should_learn_learns(name, trainable, folder):
    tower = make_tower(folder(name), trainable=trainable, late_layers=1)
    before = {k: v.clone() for k, v in tower.encoder.state_dict().items()}
    losses = learning_steps(tower)
    assert losses[-1] < losses[0]
    after = tower.encoder.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    named = dict(tower.encoder.named_parameters())
    learn = {k for k, w in named.items() if w.requires_grad}
    assert moved <= learn
    graded = {k for k, w in named.items() if w.grad is not None}
    assert graded == learn, 'every weight that learns is reached'
    last = f'layers.{tower.params.layers - 1}.'
    if trainable == 'late':
        assert learn and all(last in k for k in learn)
    assert bool(learn) == (trainable != 'frozen')


def test_convolutions_kept_as_they_are(folder):
    tower = make_tower(folder('hubert-base'), freeze_conv=True)
    kept = [k for k, w in tower.encoder.named_parameters() if not w.requires_grad]
    assert kept and all('feature_extractor' in k for k in kept)


@pytest.mark.parametrize('name', RELEASED)
def test_lora(name, folder):
    pytest.importorskip('peft')
    tower = make_tower(folder(name), trainable='lora', lora_rank=2)
    plain = make_tower(folder(name), trainable='frozen')
    clips = sounds()
    assert gap(embed_clips(tower, clips), embed_clips(plain, clips)) < 1e-6
    losses = learning_steps(tower)
    assert losses[-1] < losses[0]
    named = dict(tower.encoder.named_parameters())
    thin = {k for k, w in named.items() if w.requires_grad}
    assert thin and all('lora_' in k for k in thin)
    assert all(named[k].grad.abs().sum() > 0 for k in thin), 'beside weights unused'
    learnt = embed_clips(tower, clips)
    finish_training(tower)
    assert gap(embed_clips(tower, clips), learnt) < 1e-5
    plain.load_state_dict(tower.state_dict())
    assert tower.params.trainable == 'frozen'
    assert gap(embed_clips(plain, clips), learnt) < 1e-5


def test_lora_without_its_package(folder, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'peft', None)
    with pytest.raises(BadInput, match=r'pip install .wavbrivl\[lora\]'):
        make_tower(folder('hubert-base'), trainable='lora')


@pytest.mark.parametrize('name', RELEASED)
def test_opens_without_the_released_model(name, folder, tmp_path):
    lent = tmp_path / 'lent'
    shutil.copytree(folder(name), lent)
    tower = make_tower(lent)
    shutil.rmtree(lent)
    kept = json.loads(json.dumps(tower.params.model_dump()))
    again = EncoderTower(AudioParams(**kept), 16, WINDOW)
    again.load_state_dict(tower.state_dict())
    clips = sounds()
    assert gap(embed_clips(again, clips), embed_clips(tower, clips)) == 0
    assert again.params == tower.params
    with torch.device('meta'):
        EncoderTower(AudioParams(**kept), 16, WINDOW)
    fast = compile_for_inference(tower)
    assert gap(embed_clips(fast, clips), embed_clips(tower, clips)) < 1e-5


def test_frozen_encoder_of_stored_frames(folder):
    tower = make_tower(folder('hubert-base'))
    encoder = FrozenEncoder(tower.params, pool=4)
    encoder.wavlm.load_state_dict(tower.encoder.state_dict())
    x, real = encoder(*padded(sounds()))
    assert x.shape == (4, 13, 4, 32) and real.sum(1).tolist() == [13, 7, 4, 1]
    assert encoder.frame_hop == 0.08 and not encoder.wavlm.training
    assert make_encoder(AudioParams()).params == AudioParams()


def hub_cache(root, name, files: Path, reference='main'):
    "A cache as the hub's client lays it out."
    repo = root / 'hub' / f'models--{name.replace("/", "--")}'
    (repo / 'refs' / reference).parent.mkdir(parents=True, exist_ok=True)
    (repo / 'refs' / reference).write_text(COMMIT)
    (repo / 'blobs').mkdir()
    (repo / 'snapshots' / COMMIT).mkdir(parents=True)
    for i, file in enumerate(sorted(files.iterdir())):
        shutil.copy(file, repo / 'blobs' / f'{i:040x}')
        link = repo / 'snapshots' / COMMIT / file.name
        link.symlink_to(f'../../blobs/{i:040x}')


def test_by_its_name_on_the_hub(folder, tmp_path, monkeypatch):
    hub_cache(tmp_path, 'some/hubert', folder('hubert-base'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    for revision in (None, 'main', COMMIT):
        encoder = load_encoder('some/hubert', revision)
        assert encoder.model.config.model_type == 'hubert'
    described = json.dumps(describe_encoder(encoder))
    assert str(tmp_path) not in described
    with pytest.raises(BadInput, match='`hf download some/wavlm`'):
        load_encoder('some/wavlm')
    with pytest.raises(BadInput, match='`hf download some/hubert --revision v2`'):
        load_encoder('some/hubert', 'v2')
    with pytest.raises(BadInput, match='no such folder'):
        find_model('some/folder/that/is/not')


def test_weights_in_parts(folder, tmp_path):
    model = hf.AutoModel.from_pretrained(folder('hubert-base'))
    model.save_pretrained(tmp_path, max_shard_size='20KB')
    hf.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob('*.safetensors'))) > 1
    want = load_encoder(folder('hubert-base')).state_dict()
    got = load_encoder(tmp_path).state_dict()
    assert gap(got.values(), want.values()) == 0
    next(tmp_path.glob('*.safetensors')).unlink()
    with pytest.raises(BadFile, match='does not exist'):
        load_encoder(tmp_path)


def test_a_fine_tuned_model_lends_its_encoder(folder, tmp_path):
    config = hf.AutoConfig.from_pretrained(folder('hubert-base'))
    tuned = hf.HubertForCTC(config)
    tuned.save_pretrained(tmp_path)
    hf.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    got = load_encoder(tmp_path).model.state_dict()
    assert gap(got.values(), [tuned.hubert.state_dict()[k] for k in got]) == 0


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_pickle(at):
    (at / 'model.safetensors').rename(at / 'pytorch_model.bin')


def as_code(at):
    edit(at / 'config.json', auto_map={'AutoModel': 'modeling.Ear'})


SPOILT = {
    'pickle': (as_pickle, 'a pickle, which can run code'),
    'code asked for': (as_code, 'auto_map'),
    'code': (lambda at: (at / 'modeling.py').touch(), 'brings code'),
    'weights': (lambda at: (at / 'model.safetensors').unlink(), 'does not exist'),
    'config': (lambda at: (at / 'config.json').unlink(), 'config.json'),
    'extractor': (
        lambda at: (at / 'preprocessor_config.json').unlink(),
        'fetch the whole model',
    ),
    'kind': (
        lambda at: edit(at / 'config.json', model_type='clap'),
        "model_type is 'clap'; it must be one of wavlm, hubert",
    ),
    'rate': (
        lambda at: edit(at / 'preprocessor_config.json', sampling_rate=48000),
        'takes sounds of 48000 Hz',
    ),
    'size': (lambda at: edit(at / 'config.json', hidden_size=64), 'do not fit'),
    'missing': (
        lambda at: edit(at / 'config.json', num_hidden_layers=4),
        'lacks weights of the model: encoder.layers.3',
    ),
    'nonsense': (
        lambda at: (at / 'model.safetensors').write_bytes(b'abc'),
        'no whole safetensors',
    ),
    'no configuration': (
        lambda at: edit(at / 'config.json', hidden_size='wide'),
        'config.json',
    ),
}


@pytest.mark.parametrize('fault', SPOILT)
def test_refused_with_a_sentence(fault, folder, tmp_path):
    spoil, words = SPOILT[fault]
    at = tmp_path / 'model'
    shutil.copytree(folder('hubert-base'), at)
    spoil(at)
    with pytest.raises(BadFile) as caught:
        load_encoder(at)
    assert words in str(caught.value) and '\n' not in str(caught.value)


def test_no_name_and_no_heads(folder):
    with pytest.raises(BadInput, match='audio.checkpoint names no encoder'):
        EncoderTower(AudioParams(kind='transformers'), 16)
    with pytest.raises(BadInput, match='block_heads 5 does not divide the 32'):
        make_tower(folder('hubert-base'), block_heads=5)


def test_other_kinds_are_described_as_before():
    fields = AudioParams().model_dump()
    assert 'trainable' not in fields and 'encoder' not in fields
    assert 'trainable' in AudioParams(kind='transformers').model_dump()


OURS = AudioParams(
    conv_dim=[8] * 7,
    hidden=32,
    layers=3,
    heads=2,
    ffn=48,
    pos_kernel=16,
    pos_groups=4,
    buckets=16,
    max_distance=40,
    embed=24,
    dropout=0.0,
)


@pytest.mark.parametrize('norm', ['group', 'layer'])
def test_our_wavlm_and_the_librarys_hear_the_same(norm, tmp_path):
    p = OURS.model_copy(update=dict(conv_norm=norm, normalize=norm == 'layer'))
    torch.manual_seed(0)
    ours = AudioTower(p, 16, WINDOW).eval()
    config = ours.wavlm.model.config
    config.mask_time_prob = 0.0  # no vector for hidden input
    theirs = hf.WavLMModel(config)
    theirs.load_state_dict(ours.wavlm.model.state_dict())
    theirs.save_pretrained(tmp_path)
    settings = dict(do_normalize=p.normalize, return_attention_mask=True)
    hf.Wav2Vec2FeatureExtractor(**settings).save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path).eval()
    wave, _ = padded(sounds()[:1])
    with torch.no_grad():
        assert gap(encoder(wave)[0], ours.wavlm(wave)[0]) < 1e-5
        # where padding begins is rounded differently; here both say 27 frames
        cut, end = padded([sounds()[1][: 26 * 320 + 80]])
        (got, padding), (want, _) = encoder(cut, end), ours.wavlm(cut, end)
    real = ~padding
    assert gap([h[real] for h in got], [h[real] for h in want]) < 1e-5


def test_stage_leaves_the_encoder_as_it_is(folder, tmp_path):
    params = Params(audio=section(folder('hubert-base')).model_dump())
    history = train_wavlm(params, None, tmp_path / 'wavlm', tmp_path / 'state')
    assert not len(history)
    weights, sizes = open_wavlm(tmp_path / 'wavlm', params.audio)
    tower = make_tower(folder('hubert-base'))
    assert sizes == tower.params
    released = tower.encoder.state_dict()
    assert weights.keys() == released.keys()
    assert all(torch.equal(weights[k], released[k]) for k in released)


@pytest.fixture(scope='module')
def model(folder):
    text = dict(vocab=8, hidden=16, layers=1, heads=2, ffn=16, max_length=4)
    brivl = BriVL(BrivlConfig(image_size=32, text=text))
    section = AudioParams(kind='transformers', checkpoint=str(folder('hubert-base')))
    return WavBriVL(EncoderTower(section, brivl.dim, WINDOW), brivl, None)


def test_model_folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = WavBriVL.from_pretrained(tmp_path, 'cpu')
    clip = sounds()[0]
    assert np.array_equal(again.embed_audio(clip, RATE), model.embed_audio(clip, RATE))
    assert again.fingerprint == model.fingerprint
    assert (
        'hubert (hubert-base), 3 layers of 32' in (tmp_path / 'README.md').read_text()
    )


@pytest.mark.parametrize(
    'change',
    [
        dict(config=dict(model_type='clap')),
        dict(config=dict(model_type='hubert', hidden_size=10**6)),
        dict(extractor=dict(sampling_rate=8000)),
        dict(extractor=dict(feature_size=10**9)),
        dict(config=None),
    ],
    ids=str,
)
def test_spoilt_description_in_a_model_folder(change, model, tmp_path):
    model.save_pretrained(tmp_path)
    path = tmp_path / 'config.json'
    config = json.loads(path.read_text())
    config['audio']['encoder'] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(BadFile) as caught:
        WavBriVL.from_pretrained(tmp_path, 'cpu')
    assert '\n' not in str(caught.value)


def test_no_onnx(model, tmp_path):
    pytest.importorskip('onnx')
    with pytest.raises(BadInput, match='released encoder .hubert.'):
        export_onnx(model, tmp_path, ['audio'])


def test_frozen_convolutions_keep_no_activations():
    "transformers asks for a gradient of the sound itself, unless its own method freezes them."
    from wavbrivl.audio.encoders import make_encoder
    from wavbrivl.core.params import AudioParams

    sizes = dict(conv_dim=[8] * 7, hidden=16, layers=1, heads=2, ffn=16)
    for frozen in (True, False):
        audio = AudioParams(**sizes, freeze_conv=frozen)
        first = make_encoder(audio).train().model.feature_extractor
        assert first(torch.zeros(1, 2000)).requires_grad != frozen
