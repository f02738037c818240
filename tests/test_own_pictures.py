"Scenes of which only pictures are known, in no corpus, from which all models of pictures learn."

import re

import numpy as np
import pandas as pd
import pytest
import torch

from wavbrivl.core.config import find_root, load_params
from wavbrivl.core.files import BadInput, read_json
from wavbrivl.core.params import BrivlParams, CorpusParams, FoleyParams
from wavbrivl.core.picture_params import Params
from wavbrivl.data.corpus import Corpus
from wavbrivl.data.manifest import picture_record
from wavbrivl.data.prepare import scene_params, write_corpus, write_scenes
from wavbrivl.foley.captions import (
    HEARD,
    SEEN,
    describe_scene,
    make_captions,
    to_sentence,
)
from wavbrivl.foley.scene import CLASS_TABLE, CLASSES, make_scene, read_table
from wavbrivl.generation import judge
from wavbrivl.generation.judge import (
    are_named,
    class_logits,
    other_judge_params,
    usable_attributes,
)
from wavbrivl.generation.measures import attribute_frame
from wavbrivl.generation.mosaic import Mosaic
from wavbrivl.image_text.config import BrivlConfig, read_config
from wavbrivl.image_text.inputs import augment, load_tokenizer
from wavbrivl.pipeline.evaluation import metrics_table
from wavbrivl.pipeline.lab import small_lab
from wavbrivl.pipeline.pictures import train_codec, train_evaluators, train_painter
from wavbrivl.pipeline.training import (
    prepare_corpus,
    prepare_datasets,
    pretrain_brivl,
    store_targets,
)
from wavbrivl.training import diffusion, vqgan
from wavbrivl.training.image_text import draw_views, load_pictures, new_brivl
from wavbrivl.training.targets import embed_pictures

pytestmark = pytest.mark.usefixtures('one_thread')
FEW = FoleyParams(
    train=24, valid=24, test=2, pictures=30, min_seconds=0.5, max_seconds=0.6
)
SOUND = 'sound hear loud loudly noisily quietly softly faintly quickly rapidly slowly roaring shrill whistling dull'
SILENT = {
    'light',
    'distant',
    'close',
}  # adjectives of verbs' lists that a picture shows


def words(texts) -> set:
    return set(re.findall('[a-z]+', ' '.join(texts).lower()))


def captions(style, n=480) -> list:
    scenes = [make_scene(FoleyParams(), 0, 'pictures', i) for i in range(n)]
    return [[to_sentence(ws) for ws in make_captions(s, style)] for s in scenes]


def test_captions_of_what_is_seen_have_no_word_of_sound():
    verbs = set()
    for kind in CLASS_TABLE.values():
        forms = [form.split('|')[0] for verb in kind.verbs for form in verb.split()[:3]]
        verbs |= set(forms)
    found = words(sum(captions(SEEN), []))
    nouns = words(f'{k.noun} {k.nouns}' for k in CLASS_TABLE.values())
    assert not found & ((verbs | set(SOUND.split())) - nouns - SILENT)
    assert {'barks', 'loudly', 'hear'} <= words(sum(captions(HEARD), []))


def test_each_caption_names_its_class_first():
    for i, made in enumerate(captions(SEEN, 96)):
        kind = CLASS_TABLE[CLASSES[i % len(CLASSES)]]
        names = [
            n.replace('|', ' ').split()[0].lower() for n in (kind.noun, kind.nouns) if n
        ]
        for text in made:
            assert any(name in text.lower() for name in names), text


def test_a_style_says_all_that_captions_need():
    table = read_table('captions')['seen']
    assert set(table) == {'templates', 'at_once', 'later', 'adjectives'}
    adjectives = {
        a for k in CLASS_TABLE.values() for a in (*k.soft, *k.loud, *k.low, *k.high)
    }
    assert set(SEEN.adjectives) <= adjectives


@pytest.fixture(scope='module')
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp('corpora')
    params = CorpusParams(foley=FEW, image_size=16, frames=1)
    write_corpus(params, folder / 'corpus', folder, workers=1)
    write_scenes(params, folder / 'scenes', folder)
    return Corpus(folder / 'corpus'), Corpus(folder / 'scenes')


def test_none_of_the_scenes_is_in_the_corpus(corpora):
    heard, seen = corpora
    assert len(seen.split('train')) == 30 and len(seen.split('valid')) == 24
    assert seen.table.audio.isna().all() and not len(seen.split('test'))
    bytes_of = lambda c: {c.picture(f).tobytes() for row in c.table.frames for f in row}
    assert len(bytes_of(seen)) == 54 and not bytes_of(seen) & bytes_of(heard)


def test_a_scene_has_the_attributes_of_a_clip_with_sound():
    p = CorpusParams(foley=FEW)
    silent = picture_record(p, 'train', 5)
    scene = make_scene(FEW, 0, 'pictures', 5)
    assert silent.attributes == describe_scene(scene)['attributes']


def test_attributes_are_distributed_as_in_the_corpus(corpora):
    heard, seen = (attribute_frame(c.table) for c in corpora)
    assert list(usable_attributes(corpora[1].table)) == ['intensity', 'pitch', 'rate']
    assert set(heard) == set(seen)
    for name in ('intensity', 'level'):
        low, high = heard[name].min(), heard[name].max()
        within = seen[name].between(low - 3, high + 3)
        assert within.mean() > 0.9


def test_other_corpora_have_no_scenes(tmp_path, corpora):
    other = CorpusParams(reader='folder', foley=FEW)
    for params in (other, CorpusParams(foley=FoleyParams())):
        assert scene_params(params) is None
        assert write_scenes(params, tmp_path / 'none', tmp_path) == {}
        assert not list((tmp_path / 'none').iterdir())
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/thesis.txt').write_text('x')
    with pytest.raises(BadInput, match='not a prepared corpus'):
        write_scenes(other, tmp_path / 'mine', tmp_path)
    assert (tmp_path / 'mine/thesis.txt').exists()


def test_the_earlier_setting_names_todays(tmp_path):
    (tmp_path / 'params.yaml').write_text('brivl: {scenes: 5}')
    with pytest.raises(BadInput, match='corpus.foley.pictures instead of brivl.scenes'):
        load_params(None, tmp_path)


def test_models_saved_with_the_earlier_setting_open():
    saved = BrivlConfig().model_dump() | dict(scenes=16800)
    assert read_config(saved) == BrivlConfig()


SCENES = dict(foley=dict(train=24, valid=12, test=24, pictures=48))


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lab')
    made = small_lab(
        folder, 'wavbrivl', corpus=SCENES, brivl=dict(optim=dict(epochs=1))
    )
    prepare_corpus(made, workers=1)
    pretrain_brivl(made)
    store_targets(made)
    prepare_datasets(made)
    return made


def test_the_image_text_model_learns_from_the_scenes(lab):
    history = pd.read_csv(lab.build / 'brivl/history.csv')
    tokenizer = load_tokenizer(lab.build / 'brivl/tokenizer.json')
    assert len(history) == 1 and history.score.notna().all()
    assert tokenizer.token_to_id('dog') and not tokenizer.token_to_id('loudly')
    assert not (lab.checkpoints / 'brivl').exists()


def test_a_lab_without_scenes_takes_its_corpus(lab, tmp_path):
    assert lab.scenes is lab.scenes and lab.scenes is not lab.corpus
    plain = small_lab(tmp_path)
    prepare_corpus(plain, workers=1)
    assert plain.scenes is plain.corpus
    assert not list((plain.build / 'scenes').iterdir())
    (tmp_path / 'early').mkdir()
    other = small_lab(tmp_path / 'early', corpus=SCENES)
    with pytest.raises(BadInput, match="stage 'corpus'"):
        other.scenes


def sizes(monkeypatch, module, name) -> list:
    "Note how many items each task of a kind learns from."
    found, made = [], getattr(module, name)

    def note(*args, **named):
        task = made(*args, **named)
        found.append((task.items, task))
        return task

    monkeypatch.setattr(module, name, note)
    return found


def test_both_evaluators_learn_from_the_scenes(lab, monkeypatch):
    found = sizes(monkeypatch, judge, 'EvaluatorTask')
    history = train_evaluators(lab)
    assert [n for n, _ in found] == [48, 48]
    assert [len(task.valid_set) for _, task in found] == [24, 24]
    assert not np.isnan(found[0][1].train_set.values).all(0).any()
    first, second = lab.evaluator(), lab.evaluator(which='second')
    assert second.config['cnn'] == 'test_byobnet' != first.config['cnn']
    assert set(history.cnn) == {first.config['cnn'], 'test_byobnet'}
    table = metrics_table(read_json(lab.results / 'metrics/judge/real-foley.json'))
    rows = table.set_index('metric')
    assert rows.chance['second_r1'] == rows.chance['r1'] == rows.chance['captions_r1']
    reader = lab.evaluator(which='captions')
    assert {'SONGBIRD', 'WAVE', 'SMALL'} <= set(reader.classes)
    assert set(history.learns) == {'classes', 'captions'}
    assert rows.chance['r1'] == pytest.approx(1 / len(first.classes), abs=1e-4)


def test_classes_named_by_words():
    logits = torch.tensor([[0.0, 1.0, 3.0, -1.0]])
    words = ['BABY', 'CRY', 'DOG', 'OWL']
    found = class_logits(logits, words, ['baby_cry', 'Dogs', 'the owls'])
    assert found.tolist() == [[0.5, 3.0, -1.0]]
    assert are_named(['baby_cry', 'dogs'], words)
    assert not are_named(['horse', 'dog'], words), 'a name without a known word'
    assert not are_named(['dog', 'dogs'], words), 'two names of the same words'
    assert not are_named(['dog', 'dog horse'], words), (
        'told apart by an unknown word alone'
    )


def test_captions_without_words_of_the_classes_train_nothing(
    lab, tmp_path, monkeypatch
):
    monkeypatch.setattr(judge, 'are_named', lambda *a: False)
    for which in ('second', 'captions'):
        (tmp_path / 'out' / which).mkdir(parents=True)
    given = lab.params, lab.corpus, tmp_path / 'out', tmp_path / 'state', None
    histories = judge.train_all(*given)
    assert [set(h.learns) for h in histories] == [{'classes'}] * 2
    assert not (tmp_path / 'out/captions').exists()
    assert (tmp_path / 'out/second/config.json').exists()


def test_a_second_evaluator_can_be_left_out():
    off = Params(evaluator=dict(second=dict(cnn=None)))
    assert other_judge_params(off, 'second') is None
    second = other_judge_params(Params(), 'second').evaluator
    assert (second.cnn, second.seed) == ('test_byobnet', 1)
    assert second.optim == Params().evaluator.optim


def test_codec_and_diffusion_learn_from_both(lab, monkeypatch):
    codec = sizes(monkeypatch, vqgan, 'VqganTask')
    drawing = sizes(monkeypatch, diffusion, 'DiffusionTask')
    assert train_codec(lab).loss.notna().all()
    assert train_painter(lab).loss.notna().all()
    own = sum(map(len, lab.corpus.split('train').frames))
    assert codec[0][0] == drawing[0][0] == own + 48
    task = drawing[0][1]
    assert task.level[:own].isfinite().all() and task.level[own:].isnan().all()
    assert torch.allclose(task.wanted.norm(dim=2), torch.ones(1), atol=1e-3)
    plain = load_pictures(lab.scenes, [f[0] for f in lab.scenes.split('train').frames])
    seen = embed_pictures(lab.brivl[0], plain)
    assert torch.allclose(task.wanted[own:, 0], seen, atol=1e-5)
    assert len(Mosaic.load(lab.root / 'models/painter/mosaic').codes) == own


def test_full_strength_are_the_views_of_old():
    x = torch.randint(0, 255, (4, 3, 24, 24), dtype=torch.uint8)
    draw = lambda: torch.Generator().manual_seed(1)
    old = augment(x, draw(), area=0.6, flip=True)
    assert torch.equal(draw_views(x, draw()), old)
    assert torch.equal(draw_views(x, draw(), 1.0), old)
    calm = draw_views(x, draw(), 0.0)
    mirrored = torch.stack([x, x.flip(-1)]) / 255
    nearest = (mirrored - calm).abs().flatten(2).amax(2).amin(0)
    assert nearest.max() < 1e-5


def test_orthogonal_ends_change_nothing_else():
    small = dict(text=dict(hidden=32, layers=1, heads=2, ffn=32), image_size=32)
    plain = new_brivl(BrivlParams(**small, head_init='torch'), 50).state_dict()
    even = new_brivl(BrivlParams(**small, head_init='orthogonal'), 50).state_dict()
    changed = {
        k.rpartition('.')[0] for k in plain if not torch.equal(plain[k], even[k])
    }
    ends = {
        f'{t}.learnable.{n}FC.{fc}'
        for t, n in (('image', 'img'), ('text', 'text'))
        for fc in ('fc1', 'fc2')
    }
    assert changed == ends | {'image.learnable.max_pool.0'}


def test_the_board_teaches_from_scenes():
    p = load_params(None, find_root())
    assert p.corpus.foley.pictures and p.brivl.head_init == 'orthogonal'
    assert p.brivl.cnn != p.evaluator.cnn
