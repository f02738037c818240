"The second paper's tower, its gloss decoder and its choice of pairs, on a toy corpus whose wrong pairs are known."

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from wavbrivl.audio.frames import FrozenEncoder, StoredFrames, ToyWorld, encode_corpus
from wavbrivl.gloss.language_tower import (
    GlossTask,
    embed_stored,
    gloss_rows,
    glosses_of,
    vocabulary_of,
    word_rows,
)
from wavbrivl.gloss.gloss import told_texts
from wavbrivl.gloss.bridge import Bridge, DSNet, pair_z_scores
from wavbrivl.gloss.alignment import one_hot_path
from wavbrivl.gloss.pairs import captions_and_glosses
from wavbrivl.gloss.training import BridgeTask, end_at_last_pair
from wavbrivl.gloss.tasks import (
    first_glosses,
    score_glosses,
    score_selection,
    locate_tokens,
)
from wavbrivl.decoders.text import BOS, EOS, PAD
from wavbrivl.core.files import BadInput
from tiny import BRIDGE, HEARD
from wavbrivl.core.params import OptimParams, SelectParams
from wavbrivl.core.picture_params import Params
from wavbrivl.training.loop import Trainer
from wavbrivl.audio.tower import AudioTower, embed_clips

pytestmark = pytest.mark.usefixtures('one_thread')
SMALL = BRIDGE.model_copy(
    update=dict(
        window=1.0,
        swap_fraction=0.5,
        styles=['content'],
        select=SelectParams(start=0.0, every=1),
        optim=OptimParams(epochs=2, batch=8),
    )
)


class World(ToyWorld):
    "The toy corpus, and tasks on it."

    def __init__(self, n=48, captions=True, rate=0.25):
        super().__init__(n, captions=captions)
        language = SMALL.model_copy(update=dict(mismatch=rate))
        self.params = Params(language=language)

    def task(self, seed=0, **changes):
        p = self.params.model_copy(
            update=dict(language=self.params.language.model_copy(update=changes))
        )
        torch.manual_seed(seed)
        bridge = Bridge(
            HEARD,
            p.language,
            vocabulary_of(self.table, 'content') or ['nothing'],
            self.targets.dim,
        )
        entries = torch.randn(
            len(bridge.vocab),
            self.targets.dim,
            generator=torch.Generator().manual_seed(1),
        )
        return BridgeTask(
            p, self.corpus, self.targets, self.stored_frames, bridge, seed, entries
        )

    def fit(self, folder, epochs=2, task=None, **changes):
        task = task or self.task(**changes)
        optim = OptimParams(epochs=epochs, batch=8, lr=3e-3)
        trainer = Trainer(task, optim, 0, folder)
        history = trainer.run()
        last = torch.load(trainer.state_path, weights_only=True)['lesson']
        task.load_selection(last)
        return task, history


@pytest.fixture(scope='module')
def world():
    return World()


@pytest.fixture(scope='module')
def bridge():
    torch.manual_seed(0)
    return Bridge(HEARD, SMALL, ['bark', 'barks', 'dog', 'rain'], 12).eval()


# ---------------------------------------------------------------- the tower


@pytest.mark.parametrize('samples', [1, 1600, 16000, 50000])
def test_a_sound_is_the_same_alone_and_in_company(bridge, samples):
    rng = np.random.default_rng(samples)
    clip, other = (
        rng.standard_normal(n).astype('float32') * 0.1 for n in (samples, 30000)
    )
    alone, company = embed_clips(bridge, [clip]), embed_clips(bridge, [other, clip])
    for a, b in zip(alone, company):
        torch.testing.assert_close(a[0], b[1], atol=1e-5, rtol=1e-4)


def test_stored_frames_give_what_waveforms_give(bridge):
    clips = [
        np.random.default_rng(i).standard_normal(n).astype('float32') * 0.1
        for i, n in enumerate((9000, 16000, 40000))
    ]
    stored_frames = StoredFrames(encode_corpus(bridge.tower.front, clips, 1.0))
    for a, b in zip(
        embed_stored(bridge, stored_frames, [0, 1, 2]), embed_clips(bridge, clips)
    ):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=1e-2)


def test_the_audio_encoder_stays_frozen(bridge):
    encoder = copy.deepcopy(bridge).train().tower.front
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_it_has_the_attributes_of_every_audio_tower(bridge):
    other = AudioTower(HEARD, 12)
    for name in ('params', 'dim', 'window', 'frame_hop', 'first_frame'):
        assert hasattr(bridge, name) and hasattr(bridge.tower, name)
        assert type(getattr(bridge, name)) is type(getattr(other, name))


def test_a_corpus_without_sound_is_refused():
    with pytest.raises(BadInput, match='no clip with a sound'):
        encode_corpus(FrozenEncoder(HEARD, 4), [], 1.0)


def test_words_are_padded_out_of_sight(bridge):
    t = bridge.tower
    ids = word_rows(bridge.vocab, ['dog barks', 'rain'])
    o, h = t.encode(t.word_inputs(ids), ids != PAD)
    alone = t.encode(t.word_inputs(ids[1:, :1]), ids[1:, :1] != PAD)[1]
    torch.testing.assert_close(h[1:], alone, atol=1e-5, rtol=1e-5)


def test_gloss_is_scored_up_to_its_end_and_one_table_of_words_is_shared(bridge):
    t, ids = bridge.tower, word_rows(bridge.vocab, ['dog barks', 'rain'])
    gloss = gloss_rows(bridge.vocab, ['DOG BARK', ''], 8)
    assert (
        gloss[0].tolist()
        == [BOS, bridge.vocab.index['dog'], bridge.vocab.index['bark'], EOS]
        and gloss[1].tolist() == [PAD] * 4
    )
    o, h = t.encode(t.word_inputs(ids), ids != PAD)
    loss = bridge.gloss_loss(o, h, ids != PAD, gloss)
    wide = bridge.gloss_loss(
        o, h, ids != PAD, torch.nn.functional.pad(gloss, (0, 3), value=PAD)
    )
    assert loss[1] == 0 and loss[0] > 0 and torch.allclose(loss, wide)
    assert (
        bridge.decoder.word.weight is t.word.weight
        and bridge.decoder.output.weight is t.word.weight
    )


def test_everything_has_a_gloss(bridge):
    glosses = bridge.gloss_texts(['A dog barks.', '', '...', 'zebra'])
    assert len(glosses) == 4
    assert all(isinstance(g, str) and g == g.upper() for g in glosses)
    assert (
        len(bridge.gloss_sounds([np.zeros(100, 'float32'), np.zeros(40000, 'float32')]))
        == 2
    )


def test_no_words_at_all_is_refused():
    with pytest.raises(BadInput, match='no words'):
        Bridge(HEARD, SMALL, [], 12)
    table = pd.DataFrame(dict(split=['train'], captions=[['of the']], gloss=[['']]))
    with pytest.raises(BadInput, match='content word'):
        GlossTask(Bridge(HEARD, SMALL, ['of', 'the'], 12), table, 'content')


# ---------------------------------------------------------------- which pairs belong together


def test_belonging_scores_are_what_loops_give():
    net = DSNet(5, 7, 4)
    R, o, rows, columns = (
        torch.randn(3, 4, 5),
        torch.randn(3, 6, 7),
        torch.tensor([4, 2, 1]),
        torch.tensor([6, 3, 1]),
    )
    found = net.belonging_scores(R, o, rows, columns)
    for i in range(3):
        for j in range(3):
            s = net.query(R[i, : rows[i]]) @ net.key(o[j, : columns[j]]).T / 2
            assert found[i, j].item() == pytest.approx(
                (s.logsumexp(1) - columns[j].log()).mean().item(), abs=1e-5
            )


def test_a_z_score_is_relative():
    c = torch.tensor([[3.0, 1, 2], [9, 8, 7], [0, 0, 6]])
    assert torch.allclose(
        pair_z_scores(c), torch.tensor([1.2247, 0.0, 1.4142]), atol=1e-3
    )
    assert torch.allclose(
        pair_z_scores(c),
        pair_z_scores(2 * c + torch.tensor([[5.0], [-3], [1]])),
        atol=1e-4,
    )


def test_a_pair_is_scored_among_clips_of_the_whole_corpus(world):
    task, company = world.task(), []
    score, task.stored_frames = task.score_windows, copy.copy(task.stored_frames)
    task.stored_frames.at_once = 10
    task.score_windows = lambda w, pair: (company.append(pair), score(w, pair))[1]
    task.score_pairs()
    windows, owner = task.stored_frames.all_windows(task.rows)
    assert sorted(np.concatenate(company)) == sorted(owner)
    sizes = [len(pair) for pair in company]
    assert len(sizes) > 2 and max(sizes) - min(sizes) <= 1
    half = len(task.rows) // 2
    assert all(0.1 < (pair < half).mean() < 0.9 for pair in company)
    assert task.score_ds_net.isfinite().all()


def test_pairs_carry_the_pictures_and_words_of_their_partner(world):
    d = world.task().pairs
    i = int(np.flatnonzero(world.wrong)[0])
    partner = world.table.mismatch_clip[i]
    assert d.clips[i] == partner and d.clips[1] == 'c1'
    assert torch.equal(d.frames[i, 0], world.targets.frames[int(partner[1:]), 0])
    words = [k for k in d.captions[d.captions_of[i][0]].tolist() if k != PAD]
    assert (
        words
        == word_rows(world.task().bridge.vocab, world.table.captions[int(partner[1:])])[
            0
        ].tolist()
    )


@pytest.mark.parametrize(
    'by, epochs', [('ds_net', 16), ('result_filter', 8), ('both', 12)]
)
def test_wrong_pairs_are_found(by, epochs, tmp_path):
    task, history = World(n=112).fit(
        tmp_path, epochs, select=SMALL.select.model_copy(update=dict(by=by, start=0.7))
    )
    found = score_selection(task)['selection']
    assert (
        found['auc'] > 0.85
        and found['precision'] > 0.5
        and history.kept_wrong.iloc[-1] < 0.2 < history.kept_wrong.iloc[0]
    )


def test_random_drop_keeps_the_same_share_and_knows_nothing(world, tmp_path):
    task, history = world.fit(
        tmp_path, 2, select=SMALL.select.model_copy(update=dict(by='random'))
    )
    assert (
        abs(history.kept.iloc[-1] - 0.75) < 0.05
        and abs(score_selection(task)['selection']['auc'] - 0.5) < 0.25
    )
    again, _ = world.fit(
        tmp_path / 'again', 2, select=SMALL.select.model_copy(update=dict(by='random'))
    )
    assert torch.equal(task.kept, again.kept)


def test_nothing_is_claimed_where_nothing_is_wrong_or_nothing_is_chosen(world):
    assert (
        score_selection(
            world.task(select=SMALL.select.model_copy(update=dict(by='none')))
        )
        == {}
    )
    assert score_selection(World(rate=0.0).task()) == {}


def test_training_goes_on_with_the_best_where_all_pairs_are_rejected(world, capsys):
    task = world.task()
    task.kept[:] = False
    task.trust.copy_(torch.linspace(0, 1, task.items))
    index = np.arange(8)
    assert (
        task.trusted(index).tolist() == [7, 6] and 'rejected' in capsys.readouterr().out
    )
    assert len(task.batch(index, np.random.default_rng(0))['real']) == 2


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    'changes',
    [
        dict(gloss='none'),
        dict(gloss='aslg'),
        dict(gloss='corpus'),
        dict(words=False, gloss='none'),
        dict(loss='l2'),
        dict(literal=True),
        dict(sp='mask'),
        dict(self_paced=True),
        dict(gumbel=1.0),
        dict(ds_net=False),
        dict(result_filter=False),
        dict(crop_seconds=0.1),
        dict(swap_fraction=0.0),
        dict(max_tokens=2),
        dict(select=SelectParams(soft=True, start=0.0, every=1)),
    ],
    ids=str,
)
def test_every_switch_trains(world, changes, tmp_path):
    task, history = world.fit(tmp_path, 2, **changes)
    assert history.loss.notna().all() and history.score.notna().all()
    gone = [n for n, p in task.bridge.named_parameters() if not torch.isfinite(p).all()]
    assert gone == []


def test_without_captions_sounds_still_learn(tmp_path):
    bare = World(captions=False)
    task, history = bare.fit(tmp_path, 2)
    assert history.loss.notna().all() and not task.pairs.entry_count.any()
    assert task.score_ds_net.unique().numel() == 1, (
        'a pair without a gloss has no score of its own'
    )


def test_a_caption_without_content_words_is_no_gloss(tmp_path):
    odd = World()
    odd.table.captions = odd.table.captions.map(
        lambda c: ['It is of the.'] if c == ['Rain falls.'] else c
    )
    task, history = odd.fit(tmp_path, 2)
    assert (task.pairs.entry_count == 0).any() and history.loss.notna().all()


def test_one_frame_and_more_tokens_than_frames(tmp_path):
    odd = World()
    short = torch.where(torch.arange(48) % 2 == 0, 1, 2)
    odd.stored = odd.stored | dict(
        frames=odd.stored['frames'][: int(short.sum())], lengths=short
    )
    odd.stored_frames = StoredFrames(odd.stored)
    odd.table.captions = [['A big dog and a small cat and a bell and heavy rain.']] * 48
    task, history = odd.fit(tmp_path, 2)
    assert int(task.pairs.entry_count.max()) > 2 and history.loss.notna().all()


def test_a_killed_training_ends_the_same(world, tmp_path):
    task, whole = world.fit(tmp_path / 'whole', 3)
    half = Trainer(
        world.task(), OptimParams(epochs=3, batch=8, lr=3e-3), 0, tmp_path / 'killed'
    )
    ending = half.end_epoch

    def stop(losses):
        ending(losses)
        half.epoch += 1
        half.step = 0
        half.save()
        raise KeyboardInterrupt

    half.end_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        half.run()
    resumed, history = world.fit(tmp_path / 'killed', 3)
    same = ['loss', 'score', 'kept', 'kept_wrong']
    assert np.allclose(history[same], whole[same], atol=1e-6)
    for a, b in zip(resumed.bridge.parameters(), task.bridge.parameters()):
        torch.testing.assert_close(a, b)


def test_scores_of_gloss_and_time(world, tmp_path):
    task, _ = world.fit(tmp_path, 2)
    bridge = task.bridge.eval()
    found = score_glosses(bridge, world.stored_frames, world.table, 'content')
    assert set(found) == {'text_to_gloss', 'audio_to_gloss'} and all(
        0 <= f['token_f1'] <= 1 and f['pool'] == 8 for f in found.values()
    )
    placed = locate_tokens(bridge, world.stored_frames, 0, ['DOG', 'BARK'])
    assert all(
        len(placed[k]) == 2 for k in ('ds_net', 'langue2gloss', 'even')
    ) and np.all(np.diff(placed['ds_net']) >= 0)


def test_a_sound_ends_at_its_last_pair(world):
    real = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]).bool()
    A = one_hot_path(torch.tensor([[0, 2], [-1, -1]]), 6)
    assert end_at_last_pair(A, real).sum(1).tolist() == [3, 4]
    task = world.task(ends='last_pair')
    task.train()
    batch = task.batch(np.arange(8), np.random.default_rng(0))
    weight = batch.pop('weight')
    assert all(v.isfinite().all() for v in task.losses(**batch).values())
    assert len(weight) == 8


def test_a_summary_stands_in_for_gloss(world):
    table = world.table.assign(summary='A dog barks.', description='')
    table['description'] = ['There is a dog.' if i % 2 else '' for i in table.index]
    texts, lines = told_texts(table, 'summary'), glosses_of(table, 'summary')
    assert [len(t) for t in texts] == [len(g) for g in lines]
    assert texts[1] == ['There is a dog.', *table.captions[1]]
    assert texts[0] == list(table.captions[0]) and set(lines[1]) == {'A DOG BARKS'}
    assert told_texts(table, 'content') == [list(c) for c in table.captions]
    assert glosses_of(world.table, 'summary')[0] == ['']
    captions, glosses, owner = captions_and_glosses(table, [1], 'summary')
    assert captions == list(table.captions[1]) and glosses == ['A DOG BARKS']
    first = first_glosses(table, 'summary')
    assert first.caption[1] == 'There is a dog.'
    bridge = Bridge(HEARD, SMALL, vocabulary_of(table, 'summary'), 12)
    assert {'a', 'there'} <= set(bridge.vocab.words)
    assert GlossTask(bridge, table, 'summary').items == 48
    with pytest.raises(BadInput, match='No training clip has a summary'):
        GlossTask(bridge, world.table, 'summary')
