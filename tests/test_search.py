"An index on disk and the nearest of it: exact, the same for every block, whole or not at all, and from a shell."

import json, os, sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from tiny import SMALL
from wavbrivl.api.pictures import WavBriVL
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.image_text.inputs import train_tokenizer
from wavbrivl.app.cli import main
from wavbrivl.core.files import BadInput
from wavbrivl.core.params import BrivlParams
from wavbrivl.search.index_blocks import embed_items, search_blocks
from wavbrivl.search.index import Index, sum_queries, build_index, index_files
from wavbrivl.search.search_sheet import check_sheet, search_sheet
from wavbrivl.audio.tower import AudioTower

RATE, DIM = 16_000, 24

pytestmark = pytest.mark.usefixtures('one_thread')


def unit(n, dim=DIM, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def table(path, rows, names=None, fixed=False, group_size=None, **more):
    "A parquet file as `wavbrivl embed` writes it."
    column = pa.array(
        list(rows), pa.list_(pa.float32(), rows.shape[1] if fixed else -1)
    )
    pq.write_table(
        pa.table(
            dict(
                file=names or [f'clip-{i}.wav' for i in range(len(rows))],
                embedding=column,
                **more,
            )
        ),
        path,
        row_group_size=group_size,
    )
    return path


def reference(q, rows, k):
    "The definition: float64, the grid of float32, lowest row first among equals."
    s = (q.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-s, 1, kind='stable')[:, :k]
    return np.take_along_axis(s, order, 1), order


def new_model(seed=0, text=True):
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(['a dog barks', 'rain falls on a roof'], 100)
    brivl = BriVL(
        BrivlParams(
            image_size=32,
            text=dict(
                vocab=tokenizer.get_vocab_size(), hidden=32, layers=1, heads=2, ffn=32
            ),
        ),
        text=text,
    )
    return WavBriVL(
        AudioTower(SMALL, brivl.dim, 0.5),
        brivl,
        tokenizer if text else None,
        dict(picture=32),
    )


@pytest.fixture(scope='module')
def model():
    return new_model()


@pytest.fixture(scope='module')
def lab(tmp_path_factory, model):
    "A model's folder, some sounds and pictures, two of them broken, and an index of them."
    d = tmp_path_factory.mktemp('lab')
    model.save_pretrained(d / 'model')
    new_model(1).save_pretrained(d / 'other')
    (d / 'things').mkdir()
    g = np.random.default_rng(0)
    for i, hz in enumerate((200, 700, 2500)):
        sf.write(
            d / f'things/tone-{hz}.wav',
            0.3 * np.sin(2 * np.pi * hz * np.arange(RATE) / RATE)
            + 0.01 * i * g.standard_normal(RATE),
            RATE,
        )
    for i in range(3):
        Image.fromarray(
            np.kron(g.integers(0, 256, (4, 6, 3)), np.ones((12, 12, 1))).astype(
                np.uint8
            )
        ).save(d / f'things/picture-{i}.png')
    (d / 'things/broken.wav').write_bytes(b'RIFF')
    (d / 'things/broken.png').write_bytes(b'')
    return d


@pytest.fixture(scope='module')
def index(lab, model):
    f = lambda p: sorted(map(str, (lab / 'things').glob(p)))
    return index_files(
        dict(sound=f('*.wav'), picture=f('*.png'), text=['a dog barks']),
        lab / 'index',
        model,
    )


@pytest.fixture
def run(lab, capsys):
    "The command line: exit status, standard output, standard error."

    def call(command, *words, model=lab / 'model'):
        status = main(
            [command, *map(str, words), '--model', str(model), '--device', 'cpu']
        )
        return status, *capsys.readouterr()

    return call


# ---------------------------------------------------------------- what is found


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_planted_neighbours(tmp_path, dtype):
    rows, wanted = (
        unit(3000),
        np.random.default_rng(1).permutation(3000)[:40].reshape(8, 5),
    )
    q = unit(8, seed=2)
    for i, places in enumerate(wanted):
        for n, j in enumerate(places):
            rows[j] = q[i] + (0.02 + 0.03 * n) * unit(1, seed=1000 + 100 * i + n)[0]
    index = build_index(
        table(tmp_path / 't.parquet', rows, group_size=700),
        tmp_path / 'index',
        dtype=dtype,
    )
    scores, found = index.search(3 * q, 5)
    assert (
        (found == wanted).all()
        and scores.dtype == np.float32
        and (np.diff(scores, axis=1) <= 0).all()
    )
    assert (
        index.rows.dtype == dtype
        and np.allclose(np.linalg.norm(index.rows.astype(float), axis=1), 1, atol=1e-3)
        and len(index) == 3000
    )
    assert [h['name'] for h in index.hits(scores, found)[2]] == [
        f'clip-{j}.wav' for j in wanted[2]
    ]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    q=st.integers(1, 6),
    k=st.integers(1, 60),
    copies=st.integers(1, 8),
    jitter=st.sampled_from([0, 1e-8, 3e-7]),
    block=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_no_block_changes_what_is_found(n, q, k, copies, jitter, block, seed):
    g, k = np.random.default_rng(seed), min(k, n)
    rows = unit(max(1, n // copies), 19, seed)[g.integers(0, max(1, n // copies), n)]
    rows = (rows + jitter * g.standard_normal(rows.shape)).astype(np.float32)
    asked = torch.nn.functional.normalize(
        torch.from_numpy(unit(q, 19, seed + 1) + rows[:1]), dim=1
    )
    i, j, s = search_blocks(asked, rows, k, block)
    scores, order = reference(asked.numpy(), rows, k)
    assert (
        (i == np.repeat(np.arange(q), k)).all()
        and np.array_equal(j.reshape(q, k), order)
        and np.array_equal(s.reshape(q, k), scores)
    )


def test_company_changes_nothing_and_many_queries_pass(tmp_path):
    index = build_index(table(tmp_path / 't.parquet', unit(900)), tmp_path / 'index')
    q = unit(600, seed=3)
    scores, rows = index.search(q, 7, block=128)
    for i in (0, 255, 256, 599):
        assert all(
            np.array_equal(a, b[i : i + 1])
            for a, b in zip(index.search(q[i : i + 1], 7), (scores, rows))
        )
    assert np.array_equal(
        rows,
        reference(
            torch.nn.functional.normalize(torch.from_numpy(q), dim=1).numpy(),
            np.asarray(index.rows),
            7,
        )[1],
    )


def test_a_collapsed_index_answers_in_order(tmp_path):
    index = build_index(
        table(tmp_path / 't.parquet', np.repeat(unit(1), 500, 0)), tmp_path / 'index'
    )
    scores, rows = index.search(unit(3, seed=1), 500, block=33)
    assert (rows == np.arange(500)).all() and (scores == scores[:, :1]).all()


def test_no_more_than_a_block_is_read(tmp_path):
    index = build_index(table(tmp_path / 't.parquet', unit(1000)), tmp_path / 'index')
    assert isinstance(index.rows, np.memmap)
    sizes, mapped = [], index.rows

    class Watched(np.ndarray):
        def __getitem__(self, at):
            part = np.asarray(self)[at]
            sizes.append(len(part))
            return part

    index.rows = mapped.view(Watched)
    index.search(unit(2), 10, block=64)
    assert max(sizes) == 64 and sum(sizes) == 1000


def test_building_reads_a_table_in_small_parts(tmp_path):
    import tracemalloc

    rows = unit(150_000, 64)
    column = pa.ListArray.from_arrays(
        np.arange(0, rows.size + 1, 64, dtype=np.int32), rows.ravel()
    )
    pq.write_table(
        pa.table(dict(file=[f'{i}.wav' for i in range(len(rows))], embedding=column)),
        tmp_path / 't.parquet',
        row_group_size=len(rows),
    )
    del column
    pool = pa.system_memory_pool()
    before, kept = pool.max_memory(), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        index = build_index(tmp_path / 't.parquet', tmp_path / 'index')
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(kept)
    assert peak + pool.max_memory() - before < 0.6 * rows.nbytes and np.allclose(
        index.rows[::5000], rows[::5000], atol=1e-6
    )


# ---------------------------------------------------------------- what goes in


def test_tables_of_every_shape(tmp_path):
    rows = unit(50)
    a = table(
        tmp_path / 'a.parquet',
        rows[:20],
        fixed=True,
        group_size=7,
        group=pa.array([1] * 20),
        seconds=pa.array([1.5] * 20),
    )
    b = table(
        tmp_path / 'b.parquet',
        rows[20:30].astype(np.float64) * 9,
        kind=pa.array(['picture', 'text'] * 5),
    )
    pd.DataFrame(
        dict(file=[f'p{i}.png' for i in range(20)], embedding=list(rows[30:]))
    ).to_parquet(tmp_path / 'c.parquet')
    index = build_index(
        [a, b, tmp_path / 'c.parquet'],
        tmp_path / 'index',
        kind=lambda f: 'picture' if f.endswith('.png') else 'sound',
    )
    assert np.allclose(index.rows, rows, atol=1e-6) and index.facts['kinds'] == [
        'picture',
        'sound',
        'text',
    ]
    found = index.hits(np.ones((1, 4)), np.array([[0, 20, 21, 30]]))[0]
    assert found == [
        dict(name='clip-0.wav', kind='sound', group='1', seconds=1.5, cosine=1.0),
        dict(name='clip-0.wav', kind='picture', cosine=1.0),
        dict(name='clip-1.wav', kind='text', cosine=1.0),
        dict(name='p0.png', kind='picture', cosine=1.0),
    ]


@pytest.mark.parametrize('fixed', [False, True])
def test_rows_that_are_no_place_are_left_out_and_named(tmp_path, fixed):
    rows = list(unit(9))
    rows[2] = np.full(DIM, np.nan, np.float32)
    rows[4] = np.zeros(DIM, np.float32)
    rows[5] = rows[5].copy()
    rows[5][3] = np.inf
    rows[7] = None
    pq.write_table(
        pa.table(
            dict(
                file=[f'{i}.wav' for i in range(9)],
                embedding=pa.array(rows, pa.list_(pa.float32(), DIM if fixed else -1)),
            )
        ),
        tmp_path / 't.parquet',
    )
    index = build_index(tmp_path / 't.parquet', tmp_path / 'index')
    assert [r['file'] for r in index.rejected] == [
        '2.wav',
        '4.wav',
        '5.wav',
        '7.wav',
    ] and all('not finite' in r['reason'] for r in index.rejected)
    assert index.names['name'].to_pylist() == [
        '0.wav',
        '1.wav',
        '3.wav',
        '6.wav',
        '8.wav',
    ] and np.allclose(index.rows[2], rows[3], atol=1e-6)


def test_tables_that_cannot_be_used_are_named(tmp_path):
    pq.write_table(pa.table(dict(file=['a'], z=[1.0])), tmp_path / 'columns.parquet')
    pq.write_table(
        pa.table(dict(file=['a', 'b'], embedding=[[1.0, 2.0], [1.0]])),
        tmp_path / 'ragged.parquet',
    )
    pq.write_table(
        pa.table(dict(file=['a'], embedding=pa.array([[1.0, 2.0]]), kind=['smell'])),
        tmp_path / 'kind.parquet',
    )
    pq.write_table(
        pa.table(
            dict(
                file=pa.array([], pa.string()),
                embedding=pa.array([], pa.list_(pa.float32())),
            )
        ),
        tmp_path / 'empty.parquet',
    )
    (tmp_path / 'text.parquet').write_text('no parquet')
    (tmp_path / 'file').write_text('')
    whole = table(tmp_path / 'whole.parquet', unit(300)).read_bytes()
    (tmp_path / 'hurt.parquet').write_bytes(whole[:200] + bytes(8000) + whole[8200:])
    for name, said in (
        ('columns', 'it has file, z'),
        ('ragged', '1 and 2 numbers'),
        ('text', 'not a parquet'),
        ('hurt', 'damaged|not finite'),
        ('nowhere', 'does not exist'),
        ('kind', "'smell'"),
        ('empty', 'nothing to put'),
    ):
        with pytest.raises(BadInput, match=said):
            build_index(tmp_path / f'{name}.parquet', tmp_path / 'index')
    with pytest.raises(BadInput, match='5 dimensions, the rows before it 24'):
        build_index(
            [tmp_path / 'whole.parquet', table(tmp_path / 'b.parquet', unit(3, 5))],
            tmp_path / 'index',
        )
    with pytest.raises(BadInput, match='is a file'):
        build_index(tmp_path / 'whole.parquet', tmp_path / 'file')
    with pytest.raises(BadInput, match='float64'):
        build_index(tmp_path / 'whole.parquet', tmp_path / 'index', dtype='float64')
    assert not (tmp_path / 'index').exists() and not list(tmp_path.glob('.*'))


# ---------------------------------------------------------------- whole or not at all


def test_a_build_cut_off_leaves_what_was_there(tmp_path, monkeypatch):
    old, new = (
        table(tmp_path / 'old.parquet', unit(40)),
        table(tmp_path / 'new.parquet', unit(9000, seed=5)),
    )
    build_index(old, tmp_path / 'index')
    from wavbrivl.search import index

    blocks = index.table_blocks

    def cut(*a):
        for n, b in enumerate(blocks(*a)):
            if n == 2:
                raise KeyboardInterrupt
            yield b

    with monkeypatch.context() as m:
        m.setattr(index, 'table_blocks', cut)
        for out in ('index', 'fresh'):
            with pytest.raises(KeyboardInterrupt):
                build_index(new, tmp_path / out)
    assert (
        len(Index.open(tmp_path / 'index')) == 40
        and not (tmp_path / 'fresh').exists()
        and not list(tmp_path.glob('.*'))
    )
    assert len(build_index(new, tmp_path / 'index')) == 9000


@pytest.mark.parametrize('moved', [0, 1, 2])
def test_a_move_cut_off_is_no_index(tmp_path, monkeypatch, moved):
    old, new = (
        table(tmp_path / 'old.parquet', unit(40)),
        table(tmp_path / 'new.parquet', unit(40, seed=5)),
    )
    build_index(old, tmp_path / 'index')
    move, done = os.replace, []

    def cut(a, b):
        if str(b).startswith(str(tmp_path / 'index/')):
            if len(done) == moved:
                raise KeyboardInterrupt
            done.append(b)
        move(a, b)

    with monkeypatch.context() as m:
        m.setattr(os, 'replace', cut)
        with pytest.raises(KeyboardInterrupt):
            build_index(new, tmp_path / 'index')
    with pytest.raises(BadInput, match='cut off'):
        Index.open(tmp_path / 'index')
    assert len(build_index(new, tmp_path / 'index')) == 40


def test_a_damaged_folder_is_named(tmp_path):
    source = table(tmp_path / 't.parquet', unit(40))

    def damaged(change):
        build_index(source, tmp_path / 'index')
        change(tmp_path / 'index')
        with pytest.raises(BadInput) as e:
            Index.open(tmp_path / 'index')
        return str(e.value)

    write = lambda name, b: lambda d: (d / name).write_bytes(b)
    facts = lambda **k: (
        lambda d: (d / 'index.json').write_text(
            json.dumps(json.loads((d / 'index.json').read_text()) | k)
        )
    )
    half = lambda name: lambda d: (d / name).write_bytes((d / name).read_bytes()[:-200])
    for change, said in (
        (lambda d: (d / 'index.json').unlink(), 'no index'),
        (write('index.json', b'{'), 'not JSON'),
        (write('index.json', b'[]'), 'does not describe'),
        (facts(format=99), 'newer version'),
        (facts(count=41), 'do not belong together'),
        (facts(dtype='float16'), 'do not belong together'),
        (half('rows.npy'), 'rows.npy'),
        (write('rows.npy', b''), 'rows.npy'),
        (lambda d: (d / 'rows.npy').unlink(), 'rows.npy'),
        (half('names.parquet'), 'names.parquet'),
        (lambda d: (d / 'names.parquet').unlink(), 'names.parquet'),
        (lambda d: np.save(d / 'rows.npy', np.array([{}])), 'rows.npy'),
    ):
        assert said in damaged(change)
    with pytest.raises(BadInput, match='no index'):
        Index.open(tmp_path / 'nowhere')
    index = build_index(source, tmp_path / 'index')
    index.rows[30, 2] = np.nan
    with pytest.raises(BadInput, match='rows 16 to 31'):
        index.search(unit(2), 3, block=16)


def test_what_cannot_be_searched_says_so(tmp_path):
    index = build_index(table(tmp_path / 't.parquet', unit(40)), tmp_path / 'index')
    for call, said in (
        (lambda: index.search(unit(1), 41), 'the 40 rows'),
        (lambda: index.search(unit(1), 0), 'k is 0'),
        (lambda: index.search(unit(1, 5)), '5 dimensions'),
        (lambda: index.search(unit(1)[0]), 'matrix'),
        (lambda: index.search(unit(0)), 'at least one'),
        (lambda: index.search(np.full((1, DIM), np.nan)), 'not finite'),
        (lambda: index.search(unit(1), 3, block=0), 'block is 0'),
    ):
        with pytest.raises(BadInput, match=said):
            call()


# ---------------------------------------------------------------- models


def test_files_of_all_kinds(index, lab, model):
    assert sorted(r['file'].rsplit('/')[-1] for r in index.rejected) == [
        'broken.png',
        'broken.wav',
    ] and all('not finite' not in r['reason'] for r in index.rejected)
    assert index.facts['kinds'] == ['picture', 'sound', 'text'] and len(index) == 7
    t = index.names.to_pydict()
    scores, rows = index.search(embed_items(model, t['name'], t['kind']), 1)
    assert (rows[:, 0] == np.arange(7)).all() and np.allclose(scores, 1, atol=1e-5)


def test_one_kind_only(index, tmp_path):
    q = unit(3, 256)
    all_scores, every = index.search(q, 7)
    for kind, n in (('sound', 3), ('picture', 3), ('text', 1)):
        here = set(index.of_kind(kind).tolist())
        scores, rows = index.search(q, n, block=2, only=kind)
        assert (
            rows.tolist() == [[r for r in e if r in here] for e in every.tolist()]
            and np.isin(scores, all_scores).all()
        )
    with pytest.raises(BadInput, match='3 rows there are of kind sound'):
        index.search(q, 4, only='sound')
    with pytest.raises(BadInput, match='no items of kind picture; it holds sound'):
        build_index(table(tmp_path / 't.parquet', unit(4)), tmp_path / 'index').search(
            unit(1), 1, only='picture'
        )


def test_items_keep_their_places(lab, model):
    items = [
        lab / 'things/picture-0.png',
        'rain',
        lab / 'nowhere.wav',
        lab / 'things/tone-200.wav',
        lab / 'things/broken.png',
    ]
    rows = embed_items(model, items, ['picture', 'text', 'sound', 'sound', 'picture'])
    assert np.isnan(rows).any(1).tolist() == [
        False,
        False,
        True,
        False,
        True,
    ] and sorted(r['index'] for r in model.rejected) == [2, 4]
    assert np.allclose(rows[1], model.embed_text('rain'), atol=1e-6) and np.allclose(
        rows[3], model.embed_audio(items[3]), atol=1e-6
    )


def test_fingerprint_is_the_models_and_no_one_elses(lab, model):
    mine = model.fingerprint
    assert (
        mine
        == WavBriVL.from_pretrained(lab / 'model', 'cpu').fingerprint
        != new_model(1).fingerprint
    )
    model.embed_text(['rain', 'a much longer sentence'])
    assert model.fingerprint == mine
    changed = new_model()
    next(changed.brivl.parameters()).data.view(-1)[0] += 1e-3
    windows = new_model()
    windows.audio.window = 0.6
    pictures = new_model()
    pictures.info['picture'] = 16
    assert (
        len(
            {
                m.fingerprint
                for m in (model, changed, windows, pictures, new_model(text=False))
            }
        )
        == 5
    )


def test_another_models_index_is_refused(index, lab, model, tmp_path):
    index.check_model(model)
    with pytest.raises(BadInput, match='another model'):
        index.check_model(new_model(1))
    names = sorted(map(str, (lab / 'things').glob('tone*')))
    mine = table(tmp_path / 't.parquet', model.embed_audio(names), names)
    build_index(mine, tmp_path / 'index', model).check_model(model)
    with pytest.raises(BadInput, match='tone-200.wav.*elsewhere'):
        build_index(mine, tmp_path / 'index', new_model(1))
    with pytest.raises(BadInput, match='joint space 256'):
        build_index(table(tmp_path / 'u.parquet', unit(5)), tmp_path / 'index', model)
    unknown = build_index(mine, tmp_path / 'unknown')
    unknown.check_model(new_model(1))
    with pytest.raises(BadInput, match='another model'):
        build_index(table(tmp_path / 'u.parquet', unit(5)), tmp_path / 'v').check_model(
            model
        )


def test_sums():
    a, b = unit(3), unit(1, seed=9)
    both = sum_queries([a, 5 * b])
    assert np.allclose(np.linalg.norm(both, axis=1), 1, atol=1e-6) and np.allclose(
        (both * a).sum(1), both @ b[0], atol=1e-6
    )
    assert (
        np.allclose(sum_queries([a, b], [2, 0]), a, atol=1e-6)
        and (sum_queries([a, b], [1, -1]) @ b[0] < a @ b[0]).all()
        and np.allclose(sum_queries([a]), a, atol=1e-6)
    )
    with pytest.raises(BadInput, match='cancel'):
        sum_queries([a, a], [1, -1])
    with pytest.raises(BadInput, match='3 weights for 2'):
        sum_queries([a, b], [1, 1, 1])


# ---------------------------------------------------------------- faiss


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_exact_faiss_finds_the_same(tmp_path, dtype):
    pytest.importorskip('faiss')
    build_index(
        table(tmp_path / 't.parquet', unit(2000)), tmp_path / 'index', dtype=dtype
    )
    q = unit(300, seed=1)
    ours, theirs = (
        Index.open(tmp_path / 'index', b).search(q, 10) for b in ('torch', 'faiss')
    )
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs))


def test_approximate_faiss_finds_most(tmp_path):
    pytest.importorskip('faiss')
    build_index(table(tmp_path / 't.parquet', unit(2000)), tmp_path / 'index')
    q = unit(50, seed=1)
    ours, theirs = (
        Index.open(tmp_path / 'index', b).search(q, 10)
        for b in ('torch', 'faiss:HNSW16')
    )
    assert (
        0.5 < np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ours[1], theirs[1])])
        and (theirs[0] <= ours[0] + 1e-7).all()
    )
    for backend, said in (
        ('faiss:nonsense', 'nonsense'),
        ('faiss:IVF8,Flat', 'training'),
        ('annoy', 'annoy'),
    ):
        with pytest.raises(BadInput, match=said):
            Index.open(tmp_path / 'index', backend)


def test_what_an_approximate_index_does_not_find_is_blank(tmp_path):
    index = build_index(table(tmp_path / 't.parquet', unit(20)), tmp_path / 'index')

    class Sparse:
        def search(self, q, k):
            return None, np.array([[4, -1, 2], [-1, -1, -1]])

    index.faiss = Sparse()
    with pytest.raises(BadInput, match='all kinds'):
        index.search(unit(2), 3, only='sound')
    scores, rows = index.search(unit(2, seed=1), 3)
    assert (
        sorted(rows[0]) == [-1, 2, 4]
        and rows[0, 2] == -1
        and (rows[1] == -1).all()
        and np.isneginf(scores[1]).all()
    )
    assert [len(h) for h in index.hits(scores, rows)] == [2, 0]


def test_without_faiss_a_sentence(tmp_path, monkeypatch):
    build_index(table(tmp_path / 't.parquet', unit(20)), tmp_path / 'index')
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(BadInput, match=r"pip install 'wavbrivl\[search\]'"):
        Index.open(tmp_path / 'index', 'faiss')


# ---------------------------------------------------------------- sheets and the shell


def test_sheet(index, lab, model):
    names, kinds = (
        [
            str(lab / 'things/tone-200.wav'),
            str(lab / 'things/picture-1.png'),
            'a dog barks',
        ],
        ['sound', 'picture', 'text'],
    )
    hits = index.hits(*index.search(embed_items(model, names, kinds), 7))
    fig = search_sheet(list(zip(names, kinds)), hits, 'rain')
    drawn = [[ax for ax in fig.axes[i : i + 8] if ax.axison] for i in (0, 8, 16)]
    assert (
        [len(r) for r in drawn] == [8, 8, 8]
        and drawn[0][0].get_title().startswith('query + rain\ntone-200')
        and drawn[1][1].get_title().startswith('1.000\npicture-1')
    )
    assert (
        sum(len(ax.images) for r in drawn for ax in r) == 2 + 3 * 6
        and drawn[2][0].texts[0].get_text() == 'a dog barks'
    )
    gone = search_sheet(
        [('x.wav', 'sound')],
        [[dict(name='nowhere.png', kind='picture', cosine=0.5)] * 13],
    )
    assert (
        len(gone.axes) == 22
        and sum(ax.axison for ax in gone.axes) == 14
        and gone.axes[1].texts[0].get_text().replace('\n', ' ') == 'cannot be read'
    )
    for q, h, said in (
        ([], [], 'something found'),
        ([('a', 'text')], [[]], 'something found'),
        ([('a', 'text')] * 20, [[{}] * 10] * 20, '220 thumbnails'),
    ):
        with pytest.raises(BadInput, match=said):
            search_sheet(q, h)
    with pytest.raises(BadInput, match='.png'):
        check_sheet('x.jpg', 1, 1)


def test_round_trip_from_a_shell(run, lab, tmp_path):
    status, out, err = run('index', lab / 'things', '-o', tmp_path / 'index')
    assert (
        status == 1
        and '6 rows of 256' in out
        and err.count('set aside') == 2
        and 'broken.wav' in err
    )
    sound, picture, sheet = (
        lab / 'things/tone-700.wav',
        lab / 'things/picture-2.png',
        tmp_path / 'sheet.png',
    )
    status, out, err = run(
        'search',
        tmp_path / 'index',
        sound,
        lab / 'nowhere.wav',
        picture,
        '--top',
        3,
        '--json',
        '--sheet',
        sheet,
    )
    rows = json.loads(out)
    assert (
        status == 1
        and 'nowhere.wav' in err
        and [r['file'] for r in rows] == [str(sound), str(picture)]
    )
    assert (
        all(
            len(r['hits']) == 3
            and r['hits'][0]['name'] == r['file']
            and r['hits'][0]['cosine'] > 0.999
            for r in rows
        )
        and rows[1]['hits'][0]['kind'] == 'picture'
    )
    drawn = np.asarray(Image.open(sheet).convert('RGB'))
    assert (
        drawn.shape[0] > 150
        and drawn.shape[1] > 300
        and len(np.unique(drawn.reshape(-1, 3), axis=0)) > 60
        and sheet.stat().st_size > 5000
    )
    status, out, _ = run('search', tmp_path / 'index', 'rain falls', '--text')
    assert (
        status == 0
        and out.splitlines()[0] == 'rain falls'
        and len(out.splitlines()) == 7
    )
    status, out, _ = run(
        'search', tmp_path / 'index', sound, '--only', 'picture', '--json'
    )
    assert (
        status == 0
        and [h['kind'] for h in json.loads(out)[0]['hits']] == ['picture'] * 3
    )
    status, plain, _ = run('search', tmp_path / 'index', sound, '--json')
    status, added, _ = run(
        'search',
        tmp_path / 'index',
        sound,
        '--plus',
        'rain',
        '--plus',
        'a dog barks',
        '--json',
    )
    assert (
        status == 0
        and json.loads(added)[0]['hits'][0]['cosine']
        < json.loads(plain)[0]['hits'][0]['cosine']
    )


def test_a_table_from_a_shell(run, lab, tmp_path):
    assert (
        run(
            'embed',
            lab / 'things/tone-200.wav',
            lab / 'things/tone-700.wav',
            '-o',
            tmp_path / 't.parquet',
        )[0]
        == 0
    )
    status, out, _ = run(
        'index', tmp_path / 't.parquet', '-o', tmp_path / 'index', '--half', '--json'
    )
    assert (
        status == 0
        and Index.open(tmp_path / 'index').facts['dtype'] == 'float16'
        and json.loads(out)
        == [dict(index=str(tmp_path / 'index'), rows=2, dim=256, kinds=['sound'])]
    )
    status, out, _ = run(
        'search', tmp_path / 'index', lab / 'things/picture-0.png', '--json'
    )
    assert status == 0 and len(json.loads(out)[0]['hits']) == 2
    status, _, err = run(
        'index', tmp_path / 't.parquet', '-o', tmp_path / 'else', model=lab / 'other'
    )
    assert status == 2 and 'elsewhere' in err and not (tmp_path / 'else').exists()


def test_shell_refuses_in_sentences(run, lab, index, tmp_path):
    sound, where = lab / 'things/tone-200.wav', lab / 'index'
    for words, said in (
        (('search', where, sound, '--top', 8), 'k is 8'),
        (('search', where, sound, '--sheet', tmp_path / 'x.gif'), '.png'),
        (('search', where, *[sound] * 30, '--sheet', tmp_path / 'x.png'), 'thumbnails'),
        (('search', tmp_path, sound), 'no index'),
        (
            ('index', lab / 'things', tmp_path / 't.parquet', '-o', tmp_path / 'i'),
            'not of both',
        ),
        (('index', tmp_path, '-o', tmp_path / 'i'), 'No file to read'),
        (('search', where, sound, '--backend', 'annoy'), 'annoy'),
    ):
        status, out, err = run(*words)
        assert status == 2 and said in err and not out and len(err.splitlines()) == 1
    status, out, err = run('search', where, sound, model=lab / 'other')
    assert status == 2 and 'another model' in err and not out
    status, out, err = run(
        'search', where, lab / 'nowhere.wav', '--sheet', tmp_path / 'x.png'
    )
    assert status == 2 and 'nowhere.wav' in err and not list(tmp_path.iterdir())
