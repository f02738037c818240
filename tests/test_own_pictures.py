"The image-text model's own pictures: scenes of no corpus, captions of what is seen, rendered once."

import re

import pytest
import torch

from wavbrivl.core.config import find_root, load_params
from wavbrivl.core.params import BrivlParams, FoleyParams
from wavbrivl.core.picture_params import Params
from wavbrivl.data.corpus import Corpus
from wavbrivl.data.prepare import write_corpus
from wavbrivl.foley.captions import HEARD, SEEN, make_captions, to_sentence
from wavbrivl.foley.scene import CLASS_TABLE, CLASSES, make_scene, read_table
from wavbrivl.image_text.inputs import augment, load_tokenizer
from wavbrivl.pipeline.lab import small_lab
from wavbrivl.pipeline.training import prepare_corpus, pretrain_brivl
from wavbrivl.training import image_text
from wavbrivl.training.image_text import (
    draw_views,
    learning_corpus,
    new_brivl,
    picture_corpus_params,
)

pytestmark = pytest.mark.usefixtures('one_thread')
FEW = FoleyParams(train=24, valid=24, test=2, min_seconds=0.5, max_seconds=0.6)
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
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp('corpus')
    own = dict(reader='foley', foley=FEW, image_size=16, frames=1)
    params = Params(device='cpu', corpus=own, brivl=dict(scenes=30))
    write_corpus(params.corpus, folder / 'corpus', folder, workers=1)
    return params, Corpus(folder / 'corpus')


def test_none_of_its_pictures_is_in_the_corpus(corpus, tmp_path):
    params, heard = corpus
    seen = learning_corpus(params, heard, tmp_path)
    assert len(seen.split('train')) == 30 and len(seen.split('valid')) == 24
    assert seen.table.audio.isna().all() and not len(seen.split('test'))
    bytes_of = lambda c: {c.picture(f).tobytes() for row in c.table.frames for f in row}
    assert len(bytes_of(seen)) == 54 and not bytes_of(seen) & bytes_of(heard)


def test_rendered_once_and_anew_for_another_number(corpus, tmp_path, monkeypatch):
    params, heard = corpus
    first = learning_corpus(params, heard, tmp_path).fingerprint
    more = params.model_copy(update=dict(brivl=BrivlParams(scenes=31)))
    calls = []
    write = image_text.write_corpus
    monkeypatch.setattr(
        image_text, 'write_corpus', lambda *a: calls.append(a) or write(*a)
    )
    assert learning_corpus(params, heard, tmp_path).fingerprint == first and not calls
    assert (
        learning_corpus(more, heard, tmp_path).fingerprint != first and len(calls) == 1
    )


def test_other_corpora_keep_their_own_pictures(corpus, tmp_path, capsys):
    params, heard = corpus
    other = params.corpus.model_copy(update=dict(reader='folder'))
    params = params.model_copy(update=dict(corpus=other))
    assert learning_corpus(params, heard, tmp_path) is heard
    assert 'brivl.scenes' in ''.join(capsys.readouterr())
    assert not (tmp_path / 'pictures').exists()


def test_scenes_are_stored_with_the_model():
    assert BrivlParams(**BrivlParams(scenes=5).model_dump()).scenes == 5
    assert picture_corpus_params(Params(brivl=dict(scenes=7))).foley.train == 7


def test_the_stage_learns_from_them_and_leaves_none(tmp_path):
    lab = small_lab(tmp_path, brivl=dict(scenes=48, optim=dict(epochs=1)))
    prepare_corpus(lab, workers=1)
    history = pretrain_brivl(lab)
    tokenizer = load_tokenizer(lab.build / 'brivl/tokenizer.json')
    assert len(history) == 1 and history.score.notna().all()
    assert tokenizer.token_to_id('dog') and not tokenizer.token_to_id('loudly')
    assert not (lab.checkpoints / 'brivl').exists()
    assert lab.brivl[0].config.scenes == 48


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


def test_the_board_teaches_from_pictures_of_its_own():
    p = load_params(None, find_root())
    assert p.brivl.scenes and p.brivl.head_init == 'orthogonal'
    assert p.brivl.cnn != p.evaluator.cnn
