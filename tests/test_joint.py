"The language tower trained together with its audio encoder, and a released BERT that sound and words share."

import copy
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    RobertaConfig,
    RobertaModel,
)

from wavbrivl.api.folder import build_audio
from wavbrivl.audio.frames import SoundWindows, StoredFrames, ToyWorld, encode_corpus
from wavbrivl.core.files import BadFile, BadInput
from wavbrivl.core.params import LanguageParams, OptimParams, SelectParams
from wavbrivl.core.picture_params import Params
from wavbrivl.decoders.text import PAD
from wavbrivl.gloss.bridge import Bridge
from wavbrivl.gloss.language_tower import (
    GlossTask,
    embed_stored,
    pretrained_rate,
    vocabulary_of,
)
from wavbrivl.gloss.tasks import locate_tokens, score_glosses
from wavbrivl.gloss.training import BridgeTask
from wavbrivl.training.loop import Trainer
from tiny import BRIDGE, HEARD

pytestmark = pytest.mark.usefixtures('one_thread')
LEARNS = BRIDGE.model_copy(
    update=dict(
        window=0.5,
        trainable='transformer',
        swap_fraction=0.5,
        select=SelectParams(start=0.0, every=1),
        optim=OptimParams(epochs=2, batch=8),
    )
)
CONV = 'bridge.tower.front.wavlm.model.feature_extractor'
LAYERS = 'bridge.tower.front.wavlm.model.encoder'


class HeardWorld(ToyWorld):
    "The toy corpus with sounds of its own: noise of 0.2 to 0.7 s, so that some clips have two windows."

    def __init__(self, n=32):
        super().__init__(n)
        rng = np.random.default_rng(0)
        samples = rng.integers(3200, 11200, n)
        noise = [rng.standard_normal(k).astype('float32') for k in samples]
        self.sounds = [0.1 * x for x in noise]

    def bridge(self, language=LEARNS):
        torch.manual_seed(0)
        words = vocabulary_of(self.table, 'content')
        return Bridge(HEARD, language, words, self.targets.dim)

    def windows(self, bridge, language=LEARNS):
        stored = encode_corpus(bridge.eval().tower.front, self.sounds, language.window)
        if language.trainable == 'frozen':
            return StoredFrames(stored)
        return SoundWindows(stored, None, self.sounds, language.window)

    def task(self, language=LEARNS):
        bridge = self.bridge(language)
        windows, entries = self.windows(bridge, language), len(bridge.vocab)
        return BridgeTask(
            Params(language=language),
            self.corpus,
            self.targets,
            windows,
            bridge,
            0,
            torch.randn(entries, self.targets.dim),
        )


@pytest.fixture(scope='module')
def world():
    return HeardWorld()


def fit(task, folder, epochs=2):
    optim = OptimParams(epochs=epochs, batch=8, lr=3e-3)
    return Trainer(task, optim, 0, folder).run()


# ---------------------------------------------------------------- the encoder learns


@pytest.mark.parametrize('crop', [None, 0.16])
def test_both_train_on_the_same_windows(world, crop):
    joint = LEARNS.model_copy(update=dict(crop_seconds=crop))
    frozen = joint.model_copy(update=dict(trainable='frozen'))
    tasks = world.task(joint), world.task(frozen)
    a, b = (t.batch(np.arange(8), np.random.default_rng(3)) for t in tasks)
    with torch.no_grad():
        x, real = tasks[0].bridge.tower.eval().hear(a['frames'], a['real'])
    assert torch.equal(a['pictures'], b['pictures'])
    assert torch.equal(a['words'], b['words'])
    if crop is None:
        assert torch.equal(real, b['real'])
        kept = b['frames'][real]
        torch.testing.assert_close(x[real], kept, atol=5e-3, rtol=5e-3)
    else:
        assert (real.sum(1) - b['real'].sum(1)).abs().max() <= 1
    width = a['by_gloss'].shape[2] - 1
    assert (
        tasks[0].bridge.tower.hear(a['frames'], a['real'], False)[1].shape[1] == width
    )


@pytest.mark.parametrize('trainable', ['transformer', 'whole'])
def test_what_the_gradient_reaches(world, trainable):
    task = world.task(LEARNS.model_copy(update=dict(trainable=trainable))).train()
    task(**task.batch(np.arange(8), np.random.default_rng(0))).backward()
    reached = {k for k, w in task.named_parameters() if w.grad is not None}
    reached = {k for k in reached if task.get_parameter(k).grad.abs().sum() > 0}
    assert any(k.startswith(LAYERS) for k in reached)
    assert any(k.startswith(CONV) for k in reached) == (trainable == 'whole')
    assert not any(k.startswith('slow.') for k in reached)


def test_training_moves_the_encoder_at_its_own_rate_and_not_the_convolutions(
    world, tmp_path
):
    task = world.task()
    before = copy.deepcopy(task.bridge.state_dict())
    paces = {g['pace'] for g in task.make_optimizer(OptimParams()).param_groups}
    assert paces == {1.0, LEARNS.pretrained_lr_multiplier}
    history = fit(task, tmp_path)
    assert np.isfinite(history.loss).all() and 'kept' in history
    moved = {
        k for k, v in task.bridge.state_dict().items() if not torch.equal(v, before[k])
    }
    assert any('front.wavlm.model.encoder' in k for k in moved)
    assert not any('front.wavlm.model.feature_extractor' in k for k in moved)


def test_a_killed_joint_training_ends_where_an_undisturbed_one_does(world, tmp_path):
    whole = world.task()
    fit(whole, tmp_path / 'a')
    first = world.task()
    optim = OptimParams(epochs=2, batch=8, lr=3e-3)
    trainer = Trainer(first, optim, 0, tmp_path / 'b', save_minutes=0.0)
    steps, step = [], trainer.train_step

    def die(*given):
        if len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(1)
        return step(*given)

    trainer.train_step = die
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    again = world.task()
    fit(again, tmp_path / 'b')
    for k, v in whole.bridge.state_dict().items():
        assert torch.equal(v, again.bridge.state_dict()[k]), k


def test_the_tasks_of_a_bridge_hear_the_trained_encoder(world):
    task = world.task()
    bridge = task.bridge.eval()
    with torch.no_grad():
        a = embed_stored(bridge, task.stored_frames, [0, 1])[1]
        for w in bridge.tower.front.wavlm.model.encoder.parameters():
            w.add_(0.05 * torch.randn_like(w))
        b = embed_stored(bridge, task.stored_frames, [0, 1])[1]
    assert (a - b).abs().max() > 1e-4
    found = score_glosses(bridge, task.stored_frames, world.table, 'content')
    assert found['audio_to_gloss']['pool'] == 8
    placed = locate_tokens(bridge, task.stored_frames, 0, ['DOG'])
    assert len(placed['ds_net']) == 1


def test_a_frozen_variant_is_described_as_before(world):
    kept = LanguageParams().model_dump()
    later = {'trainable', 'pretrained_lr_multiplier', 'checkpoint', 'transformer'}
    assert not later & set(kept)
    assert (
        later
        - {'checkpoint', 'transformer'}
        - set(LEARNS.model_copy(update=dict(pretrained_lr_multiplier=0.5)).model_dump())
        == set()
    )


def test_the_encoder_is_stored_with_the_model(world):
    bridge = world.bridge()
    config = dict(audio=HEARD.model_dump(), language=LEARNS.model_dump(), dim=12)
    config |= dict(words=bridge.vocab.words, window=LEARNS.window)
    other = build_audio(json.loads(json.dumps(config)), 'config.json')
    other.load_state_dict(bridge.state_dict())
    wave = torch.randn(2, 8000)
    assert torch.equal(bridge.eval()(wave), other.eval()(wave))


# ---------------------------------------------------------------- a released transformer


WORDS = ['a', 'dog', 'bark', '##s', 'rain', 'falls', '.']
MARKS = dict(
    bert=['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'],
    roberta=['[CLS]', '[PAD]', '[SEP]', '[UNK]', '[MASK]'],
)
MODELS = dict(
    bert=(BertConfig, BertModel),
    roberta=(partial(RobertaConfig, pad_token_id=1), RobertaModel),
)


def write_released(folder, kind='bert'):
    "A random model of that kind with a tokenizer."
    vocab = {w: i for i, w in enumerate(MARKS[kind] + WORDS)}
    BertTokenizerFast(vocab=vocab).save_pretrained(folder)
    make_config, make = MODELS[kind]
    sizes = dict(vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=4, intermediate_size=48)
    torch.manual_seed(0)
    model = make(make_config(**sizes, max_position_embeddings=20))
    for w in model.parameters():
        torch.nn.init.normal_(w, std=0.3)
    model.save_pretrained(folder)
    return model.eval(), BertTokenizerFast.from_pretrained(folder)


def released_bridge(folder, **changes):
    language = BRIDGE.model_copy(update=dict(checkpoint=str(folder), **changes))
    return Bridge(HEARD, language, ['barks', 'dog', 'rain'], 12).eval()


@pytest.mark.parametrize('kind', ['bert', 'roberta'])
def test_words_have_the_hidden_states_of_the_released_model(tmp_path, kind):
    model, tokenizer = write_released(tmp_path, kind)
    tower = released_bridge(tmp_path).tower
    texts = ['a dog barks.', 'rain']
    rows = tower.text_rows(texts)
    with torch.no_grad():
        o, _ = tower.encode(tower.text_inputs(rows), rows != PAD)
        for own, text in zip(o, texts):
            ids = torch.tensor([tokenizer.encode(text)])
            wanted = model(ids).last_hidden_state[0]
            found = own[: len(wanted)]
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_sizes_come_from_the_model_and_sound_is_projected_into_its_width(tmp_path):
    write_released(tmp_path)
    bridge = released_bridge(tmp_path)
    p = bridge.language
    assert (p.hidden, p.layers, p.heads, p.ffn) == (32, 2, 4, 48)
    assert bridge.tower.from_sound.out_features == 32
    assert bridge(torch.randn(2, 16000)).shape == (2, 12)
    assert len(bridge.gloss_texts(['a dog', 'zebra', ''])) == 3
    barks = bridge.tower.word.weight[bridge.vocab.index['barks']]
    table = bridge.tower.subwords.word.weight
    assert torch.allclose(barks, table[[7, 8]].mean(0))


def test_a_stored_model_opens_without_the_released_one(tmp_path):
    write_released(tmp_path)
    bridge = released_bridge(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    config = dict(audio=HEARD.model_dump(), language=bridge.language.model_dump())
    config |= dict(words=bridge.vocab.words, dim=12, window=3.0)
    other = build_audio(json.loads(json.dumps(config)), 'config.json')
    other.load_state_dict(bridge.state_dict())
    texts = ['a dog barks', 'rain falls']
    assert other.gloss_texts(texts) == bridge.gloss_texts(texts)


def test_langue2gloss_learns_on_it_at_a_lower_rate(tmp_path):
    write_released(tmp_path)
    world = ToyWorld(n=32)
    language = BRIDGE.model_copy(update=dict(checkpoint=str(tmp_path)))
    words = vocabulary_of(world.table, 'content')
    bridge = Bridge(HEARD, language, words, 12)
    assert pretrained_rate(bridge.language, 'bridge.tower.shared.layers.0') == 0.1
    assert pretrained_rate(bridge.language, 'bridge.decoder.word.weight') == 1.0
    assert pretrained_rate(BRIDGE, 'bridge.tower.shared.layers.0') == 1.0
    history = Trainer(
        GlossTask(bridge, world.table, 'content'), OptimParams(epochs=4, batch=4), 0
    ).run()
    assert history.loss.iloc[-1] < history.loss.iloc[0]


def test_other_models_and_bare_files_are_refused_in_a_sentence(tmp_path):
    write_released(tmp_path / 'bert')
    DistilBertConfig().save_pretrained(tmp_path / 'distil')
    with pytest.raises(BadFile, match='model_type is .distilbert'):
        released_bridge(tmp_path / 'distil')
    with pytest.raises(BadInput, match='neither a folder here nor'):
        released_bridge('nobody/no-such-model')
    checkpoint = tmp_path / 'speechlm.pt'
    torch.save(dict(cfg=SimpleNamespace(layers=2), model={}), checkpoint)
    with pytest.raises(BadFile, match='SimpleNamespace.*BERT or RoBERTa'):
        released_bridge(checkpoint)
    (tmp_path / 'bert/model.safetensors').unlink()
    save_file({'x': torch.zeros(1)}, tmp_path / 'bert/model.safetensors')
    with pytest.raises(BadFile, match='lacks weights|do not fit'):
        released_bridge(tmp_path / 'bert')
