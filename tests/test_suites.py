"Suites that others report: HEAR's rules as its validator checks them, and MTEB's scores against ours."

import importlib
import warnings

import numpy as np
import pytest
import torch
from tiny import SMALL

from wavbrivl.api.model import WavBriVL
from wavbrivl.audio.tower import AudioTower
from wavbrivl.core.files import BadInput
from wavbrivl.core.params import AudioParams, BrivlParams, FoleyParams
from wavbrivl.foley.pictures import render_picture
from wavbrivl.foley.scene import make_scene
from wavbrivl.foley.sounds import render_sound
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.media.sound import SAMPLE_RATE
from wavbrivl.metrics.classification import accuracy_at
from wavbrivl.metrics.retrieval import rank_relevant, score_retrieval
from wavbrivl.training.audio import make_audio_encoder

pytestmark = pytest.mark.usefixtures('one_thread')
TEXT = dict(hidden=32, layers=1, heads=2, ffn=32)
WORDS = ['a dog barks', 'rain falls', 'a cat', 'a phone rings', 'the sound of a bell']


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS, 200)
    text = TEXT | dict(vocab=tokenizer.get_vocab_size())
    brivl = BriVL(BrivlParams(image_size=32, text=text, text_heads=2))
    return WavBriVL(AudioTower(SMALL, brivl.dim, 1.0), brivl, tokenizer)


@pytest.fixture(scope='module')
def hear(model, tmp_path_factory):
    "The module as HEAR imports it, and its model."
    folder = tmp_path_factory.mktemp('hear') / 'model'
    model.save_pretrained(folder)
    module = importlib.import_module('wavbrivl.suites.hear')
    return module, module.load_model(str(folder))


def noise(n, seconds, seed=0):
    x = np.random.default_rng(seed).uniform(-1, 1, (n, int(seconds * SAMPLE_RATE)))
    return torch.from_numpy(x).float()


def test_hear_model(hear):
    module, model = hear
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate in (16000, 22050, 44100, 48000)
    assert type(model.scene_embedding_size) is int
    assert type(model.timestamp_embedding_size) is int
    assert model.to('cpu') is model
    with pytest.raises(BadInput, match='name one'):
        module.load_model()
    with pytest.raises(BadInput, match='not a folder'):
        module.load_model('nowhere/at/all')


@pytest.mark.parametrize('seconds', [0.004, 0.5, 1.07, 1.0695, 1.98, 4.0])
def test_hear_timestamps(hear, seconds):
    module, model = hear
    audio = noise(2, seconds)
    rows, times = module.get_timestamp_embeddings(audio, model)
    assert rows.dtype == times.dtype == torch.float32
    assert rows.ndim == 3 and rows.shape[:2] == times.shape
    assert rows.shape[2] == model.timestamp_embedding_size
    assert rows.device == times.device == audio.device
    assert torch.isfinite(rows).all()
    length = audio.shape[1] / 16
    assert times.min() > 0 and times.max() <= length
    assert times.max() > length - 20 - 1e-3
    steps = times.diff(dim=1)
    assert (steps == 20).all()


@pytest.mark.parametrize('kind', ['task', 'joint'])
def test_hear_scenes(hear, kind):
    module, model = hear
    model = module.HearModel(model.audio, kind)
    audio = noise(4, 1.74)
    rows = module.get_scene_embeddings(audio, model)
    assert rows.dtype == torch.float32 and rows.device == audio.device
    assert rows.shape == (4, model.scene_embedding_size)
    torch.nn.Linear(rows.shape[1], 2)(rows).sum().backward()  # a probe can be trained


def test_hear_embeddings_do_not_depend_on_the_batch(hear):
    module, model = hear
    audio = noise(3, 1.3)
    scenes = module.get_scene_embeddings(audio, model)
    frames, _ = module.get_timestamp_embeddings(audio, model)
    for i in range(3):
        one = audio[i : i + 1]
        assert (module.get_scene_embeddings(one, model) - scenes[i]).abs().max() < 1e-5
        alone, _ = module.get_timestamp_embeddings(one, model)
        assert (alone[0] - frames[i]).abs().max() < 1e-5
    empty = audio[:0]
    assert module.get_scene_embeddings(empty, model).shape == (0, scenes.shape[1])
    assert module.get_timestamp_embeddings(empty, model)[0].shape[0] == 0


def test_hear_refuses_what_is_no_batch(hear):
    module, model = hear
    for wrong in (torch.zeros(100), torch.zeros(2, 0), torch.full((2, 9), torch.nan)):
        for embed in (module.get_scene_embeddings, module.get_timestamp_embeddings):
            with pytest.raises(BadInput):
                embed(wrong, model)


def test_hear_with_a_coarse_tower():
    "Wav2CLIP has a frame each 320 ms; HEAR still gets one each 20 ms."
    module = importlib.import_module('wavbrivl.suites.hear')
    tower = make_audio_encoder(AudioParams(kind='wav2clip', width=8), 16, 1.0)
    model = module.HearModel(tower)
    rows, times = module.get_timestamp_embeddings(noise(1, 1.0), model)
    assert rows.shape == (1, 50, model.timestamp_embedding_size)
    assert times[0, -1] == 990


mteb = pytest.importorskip('mteb')
HOW = dict(cache=None, show_progress_bar=False, co2_tracker=False)


@pytest.fixture(scope='module')
def scenes():
    kinds = [i + 24 * k for k in range(4) for i in (0, 1, 6)]
    foley = FoleyParams(overlap=0, min_seconds=0.5, max_seconds=0.8)
    return [make_scene(foley, 7, 'test', i) for i in kinds]


@pytest.fixture(scope='module')
def data(scenes):
    names = sorted({s.label for s in scenes})
    sounds = [render_sound(s) for s in scenes]
    return dict(
        sounds=sounds,
        heard=[dict(array=x.tolist(), sampling_rate=SAMPLE_RATE) for x in sounds],
        pictures=[render_picture(s, 0) for s in scenes],
        texts=[f'a {s.label} number {i}' for i, s in enumerate(scenes)],
        names=names,
        y=[names.index(s.label) for s in scenes],
    )


@pytest.fixture(scope='module')
def encoder(data):
    from wavbrivl.suites.mteb import MtebEncoder

    torch.manual_seed(1)
    tokenizer = train_tokenizer(data['texts'], 300)
    text = TEXT | dict(vocab=tokenizer.get_vocab_size())
    brivl = BriVL(BrivlParams(image_size=32, text=text, text_heads=2))
    return MtebEncoder(WavBriVL(AudioTower(SMALL, brivl.dim, 1.0), brivl, tokenizer))


def describe(kind, inputs, category, score):
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        dataset=dict(path='none', revision='none'),
        name='Tiny',
        description='tiny',
        type=kind,
        modalities=inputs,
        category=category,
        eval_splits=['test'],
        eval_langs=['eng-Latn'],
        main_score=score,
    )


def score(encoder, task):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return mteb.evaluate(encoder, task, **HOW).task_results[0]


def test_encoder_is_one_of_mteb(encoder):
    from mteb.models import EncoderProtocol

    assert isinstance(encoder, EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert meta.revision == encoder.model.fingerprint
    assert meta.modalities == ['text', 'image', 'audio']
    assert encoder.encode([]).shape == (0, encoder.model.dim)


def test_mteb_zero_shot_is_ours(encoder, data):
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification

    class Tiny(AbsTaskZeroShotClassification):
        input_column_name = 'audio'
        kind = 'AudioZeroshotClassification'
        metadata = describe(kind, ['audio', 'text'], 'a2t', 'accuracy')

        def load_data(self, **kwargs):
            rows = Dataset.from_dict(dict(audio=data['heard'], label=data['y']))
            self.dataset, self.data_loaded = DatasetDict(test=rows), True

        def get_candidate_labels(self):
            return data['names']

    found = score(encoder, Tiny())
    model = encoder.model
    heard, words = model.embed_audio(data['sounds'], 16_000), data['names']
    ours = accuracy_at(heard @ model.embed_text(words).T, np.array(data['y']))
    assert found.get_score() == pytest.approx(ours)


def test_mteb_probe_is_ours(encoder, data):
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification
    from sklearn.linear_model import LogisticRegression

    class Tiny(AbsTaskClassification):
        input_column_name = 'audio'
        n_experiments = 1
        samples_per_label = 9
        evaluator_model = LogisticRegression(max_iter=100)
        metadata = describe('AudioClassification', ['audio'], 'a2c', 'accuracy')

        def load_data(self, **kwargs):
            rows = Dataset.from_dict(dict(audio=data['heard'], label=data['y']))
            halves = dict(train=rows.select(range(6)), test=rows.select(range(6, 12)))
            self.dataset, self.data_loaded = DatasetDict(halves), True

    found = score(encoder, Tiny())
    x, y = encoder.model.embed_audio(data['sounds'], 16_000), np.array(data['y'])
    probe = LogisticRegression(max_iter=100).fit(x[:6], y[:6])
    ours = accuracy_at(probe.predict_proba(x[6:]), y[6:])
    assert found.get_score() == pytest.approx(ours)


@pytest.mark.parametrize('other', ['text', 'image'])
def test_mteb_retrieval_is_ours(encoder, data, other):
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    column = data['texts'] if other == 'text' else data['pictures']
    inputs, category = ['audio', other], f'a2{other[0]}'

    class Tiny(AbsTaskRetrieval):
        metadata = describe('Any2AnyRetrieval', inputs, category, 'mrr_at_100')

        def load_data(self, **kwargs):
            ids = [f'{i}' for i in range(len(column))]
            split = dict(
                queries=Dataset.from_dict(dict(id=ids, audio=data['heard'])),
                corpus=Dataset.from_dict({'id': ids, other: column}),
                relevant_docs={i: {i: 1} for i in ids},
                top_ranked=None,
            )
            self.dataset, self.data_loaded = dict(default=dict(test=split)), True

    found = score(encoder, Tiny())
    model = encoder.model
    embed = model.embed_text if other == 'text' else model.embed_image
    heard = model.embed_audio(data['sounds'], 16_000)
    ours = score_retrieval(rank_relevant(heard, embed(column)))
    scores = found.scores['test'][0]
    assert found.get_score() == pytest.approx(ours['mrr'], abs=1e-4)
    assert scores['recall_at_1'] == pytest.approx(ours['r1'], abs=1e-4)
    assert scores['recall_at_5'] == pytest.approx(ours['r5'], abs=1e-4)


def test_mteb_sounds_of_any_rate_and_broken_ones(encoder, data):
    x = data['sounds'][0]
    doubled = dict(array=np.repeat(x, 2), sampling_rate=2 * SAMPLE_RATE)
    stereo = dict(array=np.stack([x, x]), sampling_rate=SAMPLE_RATE)
    broken = dict(array=np.zeros(0, np.float32), sampling_rate=SAMPLE_RATE)
    one = dict(array=x, sampling_rate=SAMPLE_RATE)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        before = encoder.set_aside
        rows = encoder.encode([dict(audio=[one, doubled, stereo, broken])])
    assert encoder.set_aside == before + 1 and not rows[3].any()
    assert rows[0] @ rows[2] == pytest.approx(1, abs=1e-5)
    assert rows[0] @ rows[1] > 0.9
    pairs = encoder.similarity_pairwise(rows[:2], rows[1:3])
    every = encoder.similarity(rows[:2], rows[1:3])
    assert torch.allclose(pairs, every.diagonal())
    with pytest.raises(BadInput, match='video'):
        encoder.encode([dict(video=[0])])


def test_tasks_by_inputs():
    from wavbrivl.suites.mteb import list_mteb_tasks

    tasks = list_mteb_tasks()
    assert tasks.inputs.str.contains('audio').all()
    assert not tasks.inputs.str.contains('video').any()
    alone = list_mteb_tasks(['audio'])
    assert set(alone.inputs) == {'audio'} and set(alone.name) < set(tasks.name)


@pytest.mark.parametrize('name', ['noslash', 'a/b/c', '/b', 'a/'])
def test_a_name_that_mteb_does_not_take(name):
    from wavbrivl.suites.mteb import describe_for_mteb

    with pytest.raises(BadInput, match='MTEB wants owner/name'):
        describe_for_mteb(None, name)
