"Captioning: COCO's scores on published and computed cases, the tokenizer, beam search, and what cannot be scored."

import csv, importlib.util, json, shutil, subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from wavbrivl.decoders.text import EOS, Vocabulary, tokenize_ptb
from wavbrivl.decoders.captioner import beam_search, pool_frames
from wavbrivl.metrics.caption_scores import _METEOR, coco_scores
from wavbrivl.decoders.captioner import pad_frames
from wavbrivl.tasks.captioner import generate_captions, train_captioner
from wavbrivl.tasks.captioning import train_and_score_captioner, baseline_caption
from wavbrivl.core.files import BadInput

DATA = Path(__file__).parents[2] / 'shared' / 'data'
needs_data = pytest.mark.skipif(
    not DATA.exists(), reason='no caption cases beside the checkout'
)
needs_scorers = pytest.mark.skipif(
    importlib.util.find_spec('pycocoevalcap') is None,
    reason='pycocoevalcap is not installed',
)
needs_java = pytest.mark.skipif(not shutil.which('java'), reason='no Java here')
KEYS = dict(
    Bleu_1='bleu1',
    Bleu_2='bleu2',
    Bleu_3='bleu3',
    Bleu_4='bleu4',
    ROUGE_L='rouge_l',
    CIDEr='cider',
)


@needs_data
@needs_scorers
@pytest.mark.parametrize('name', ['expected_aac_example_1', 'expected_fakecap_part'])
def test_scores_of_whole_files(name):
    case = json.loads((DATA / f'coco_caption/{name}.json').read_text())
    found = coco_scores(
        [case['candidates'][i][0] for i in case['ids']],
        [case['references'][i] for i in case['ids']],
        seconds=0,
    )
    for theirs, ours in KEYS.items():
        assert abs(found[ours] - case['expected'][theirs]) < 1e-9, theirs
    assert (
        found['n'] == len(case['ids'])
        and 'meteor' not in found
        and 'spider' in found['missing']
    )


@needs_data
@needs_scorers
def test_published_example():
    case = json.loads(
        (DATA / 'coco_caption/published_aac_metrics_example.json').read_text()
    )
    found = coco_scores(case['candidates'], case['references'], seconds=0)
    assert abs(found['bleu1'] - case['bleu_1']) < case['atol']


@needs_scorers
def test_scores_worked_out_by_hand():
    "'a dog' against 'a dog barks': both words right, brevity exp(1 - 3/2); the longest common run is 2 of 3."
    one = coco_scores(['a dog', 'rain'], [['a dog barks'], ['rain']], seconds=0)
    assert abs(one['bleu1'] - np.exp(1 - 4 / 3)) < 1e-6
    p, r, b = 1, 2 / 3, 1.2
    assert abs(one['rouge_l'] - ((1 + b * b) * p * r / (r + b * b * p) + 1) / 2) < 1e-9
    same = coco_scores(
        ['a dog barks', 'rain falls hard'],
        [['A dog barks.'], ['Rain falls hard!']],
        seconds=0,
    )
    assert (
        same['bleu1'] == pytest.approx(1) and same['rouge_l'] == 1 and same['cider'] > 5
    ), 'case and punctuation do not count'


@needs_scorers
@needs_java
def test_meteor_answers_and_ends():
    "One program answers all; the next one, within a thousandth of a second, does not."
    _METEOR.end()
    near = (
        ['a dog barks', 'rain falls'],
        [['a dog barks loudly'], ['the rain is falling']],
    )
    found = coco_scores(*near)
    assert 0.3 < found['meteor'] < 1
    process = _METEOR.process
    same = coco_scores(['a dog barks', 'rain falls'], [['a dog barks'], ['rain falls']])
    assert same['meteor'] > found['meteor']
    assert coco_scores(*near) == found, 'whatever was asked before'
    assert _METEOR.process is process and process.poll() is None
    _METEOR.end()
    assert process.poll() is not None
    slow = coco_scores(['a dog', 'rain'], [['a dog'], ['rain']], seconds=0.001)
    assert 'meteor' not in slow and 'METEOR' in slow['missing']['meteor']
    assert '0.001 s' in slow['missing']['meteor'] and _METEOR.process is None


@needs_scorers
def test_meteor_that_breaks_off_is_said_and_started_again(monkeypatch):
    "Programs of one line stand in for Java: one that ends at once, one that answers."
    from wavbrivl.metrics import caption_scores

    made = []

    def start(folder):
        answers = 'while read line; do echo 0.5; done' if made else 'exit 1'
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        made.append(subprocess.Popen(['sh', '-c', answers], **pipes))
        return made[-1]

    monkeypatch.setattr(caption_scores, '_start_meteor', start)
    meteor = caption_scores._Meteor()
    with pytest.raises((OSError, ValueError)):
        meteor.ask(['a'], [['a']], None, 60)
    assert meteor.process is None and made[0].poll() is not None
    monkeypatch.setattr(caption_scores, '_ask_meteor', lambda process, *_: process.pid)
    assert meteor.ask(['a'], [['a']], None, 60) == made[1].pid
    assert meteor.ask(['b'], [['b']], None, 60) == made[1].pid and len(made) == 2
    assert meteor.rest.daemon and meteor.rest.interval == meteor.idle
    meteor.rest.function()
    assert made[1].poll() is not None and meteor.process is None
    meteor.rest.cancel()


@needs_data
@needs_scorers
@needs_java
def test_tokens_are_those_of_the_treebank_tokenizer():
    "COCO's own tokenizer, a Java program, against ours, on real captions."
    texts = [
        r['caption']
        for r in csv.DictReader(open(DATA / 'coco/captions.csv', encoding='utf-8'))
    ]
    texts += [
        r['caption']
        for r in csv.DictReader(
            open(DATA / 'captions/audiocaps/train.csv', encoding='utf-8')
        )
    ][::8]
    for r in list(
        csv.DictReader(
            open(
                DATA / 'captions/clotho/clotho_captions_development.csv',
                encoding='utf-8',
            )
        )
    )[::3]:
        texts += [r[f'caption_{k}'] for k in range(1, 6)]
    texts = [' '.join(t.split()) for t in texts if t.strip()]
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    theirs = PTBTokenizer().tokenize(
        {i: [dict(caption=t)] for i, t in enumerate(texts)}
    )
    odd = [
        (t, theirs[i][0], ' '.join(tokenize_ptb(t)))
        for i, t in enumerate(texts)
        if theirs[i][0] != ' '.join(tokenize_ptb(t))
    ]
    assert len(odd) <= len(texts) // 2000, odd[:10]


def test_tokens():
    assert tokenize_ptb("The dog's bark isn't LOUD, at 10:30!") == [
        'the',
        'dog',
        "'s",
        'bark',
        'is',
        "n't",
        'loud',
        'at',
        '10:30',
    ]
    assert tokenize_ptb(' ... ') == []


@pytest.fixture(scope='module')
def world():
    "Clips of one of four patterns, and what to say about each."
    rng, words = (
        np.random.default_rng(0),
        ['a dog barks', 'rain falls on the roof', 'a bell rings twice', 'wind'],
    )
    patterns, kinds = 2 * rng.standard_normal((4, 8)), rng.integers(4, size=120)
    frames = [
        (patterns[k] + 0.5 * rng.standard_normal((rng.integers(20, 60), 8))).astype(
            np.float16
        )
        for k in kinds
    ]
    return frames, [[words[k]] for k in kinds], kinds


@pytest.fixture(scope='module')
def taught(world):
    frames, captions, _ = world
    return train_captioner(
        frames,
        captions,
        range(80),
        range(80, 100),
        0,
        epochs=30,
        dim=32,
        ffn=64,
        lr=5e-3,
        batch=32,
    )


def test_it_says_what_it_learned(world, taught):
    frames, captions, _ = world
    said = generate_captions(taught, frames[100:])
    assert np.mean([s == c[0] for s, c in zip(said, captions[100:])]) > 0.9
    assert (
        generate_captions(taught, frames[100:], batch=3) == said
        and generate_captions(taught, frames[100:][::-1])[::-1] == said
    ), 'company and order do not count'


def test_same_seed_same_captioner(world, taught):
    frames, captions, _ = world
    again = train_captioner(
        frames,
        captions,
        range(80),
        range(80, 100),
        0,
        epochs=30,
        dim=32,
        ffn=64,
        lr=5e-3,
        batch=32,
    )
    assert again.history == taught.history and generate_captions(
        again, frames[100:]
    ) == generate_captions(taught, frames[100:])


def test_beam_finds_no_less_likely_sentence_than_greedy(world):
    "By the search's own measure, on a captioner that has learnt little."
    frames, captions, _ = world
    green = train_captioner(
        frames,
        captions,
        range(80),
        range(80, 100),
        1,
        epochs=1,
        dim=32,
        ffn=64,
        batch=64,
    )
    batch = pad_frames(pool_frames(frames[100:], green.pool))
    plain, greedy = beam_search(green, *batch, 1, 0.7)
    found, wide = beam_search(green, *batch, 4, 0.7)
    assert wide.mean() >= greedy.mean() - 1e-4
    assert generate_captions(green, frames[100:], beam=1) == [
        green.vocab.decode(s) for s in plain
    ]
    best = torch.where((greedy > wide)[:, None], plain, found)
    assert generate_captions(green, frames[100:], beam=4) == [
        green.vocab.decode(s) for s in best
    ]


@needs_scorers
def test_from_frames_to_scores(world):
    frames, captions, _ = world
    scores, said = train_and_score_captioner(
        frames,
        captions,
        range(80),
        range(80, 100),
        range(100, 120),
        0,
        beam=2,
        seconds=0,
        epochs=30,
        dim=32,
        ffn=64,
        lr=5e-3,
        batch=32,
    )
    assert (
        len(said) == 20
        and scores['n'] == 20
        and scores['bleu1'] > 0.9 > scores['chance']['bleu1']
    )
    assert (
        all(
            isinstance(scores[k], float) for k in ('bleu1', 'bleu4', 'rouge_l', 'cider')
        )
        and 'meteor' in scores['missing']
    )


def test_vocabulary():
    v = Vocabulary(['a dog barks', 'a cat'], min_count=1)
    assert v.decode(v.encode('a dog')) == 'a dog' and v.encode('a dog')[-1] == EOS
    assert Vocabulary(['a dog', 'a cat'], min_count=2).words == ['a']
    with pytest.raises(BadInput, match='least'):
        Vocabulary(['a dog'], min_count=3)
    with pytest.raises(BadInput, match='no words'):
        v.encode(' ... ')


def test_typical_caption_is_the_most_shared():
    assert (
        baseline_caption([['a dog barks'], ['a dog barks'], ['rain'], ['wind howls']])
        == 'a dog barks'
    )
    assert baseline_caption([['only this']]) == 'only this'


@pytest.mark.parametrize(
    'said, true, why',
    [
        (['a'], [['a'], ['b']], 'each clip needs one'),
        ([], [], 'no candidate'),
        ([3], [['a']], 'is text'),
        (['a', 'b'], [['a'], []], 'no reference'),
        ('ab', [['a'], ['b']], 'each clip'),
    ],
)
def test_what_cannot_be_scored_is_said(said, true, why):
    with pytest.raises(BadInput, match=why):
        coco_scores(said, true, seconds=0)


@needs_scorers
def test_empty_candidate_and_single_clip():
    found = coco_scores(
        ['', 'rain falls'], [['a dog barks'], ['rain falls']], seconds=0
    )
    assert found['empty'] == 1 and 0 < found['bleu1'] < 1
    assert (
        'one clip' in coco_scores(['rain'], [['rain']], seconds=0)['missing']['cider']
    )


def test_clips_that_cannot_teach(world):
    frames, captions, _ = world
    holes = [c if i % 3 else [''] for i, c in enumerate(captions)]
    assert train_captioner(
        frames, holes, range(30), range(30, 40), 0, epochs=1, dim=16, ffn=16, heads=2
    )
    with pytest.raises(BadInput):
        train_captioner(
            frames, [[]] * len(frames), range(30), range(30, 40), 0, epochs=1
        )
