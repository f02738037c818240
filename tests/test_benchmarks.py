"""The benchmarks run, agree with what they are compared with, and end up in a table and a figure.

How fast they are is not tested.
"""

import argparse, importlib, os, subprocess, sys
from pathlib import Path

import pytest
import torch

from wavbrivl.core.files import BadInput, read_json

FACTS = {
    'what',
    'against',
    'precision',
    'seconds',
    'against_seconds',
    'ratio',
    'ratio_low',
    'ratio_high',
    'rounds',
    'device',
    'threads',
    'torch',
}
FLOOR = {'gflop', 'floor_seconds', 'share_of_floor'}


@pytest.fixture
def script(monkeypatch):
    "A script of the folder, by name."
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / 'benchmarks')
    return importlib.import_module


@pytest.fixture
def run(script, tmp_path, one_thread):
    "Run one, tiny: {name: its facts}."

    def quick(name):
        script(name).main(
            [
                '--quick',
                '--threads',
                '1',
                '--times',
                '2',
                '--results',
                str(tmp_path / 'b.json'),
            ]
        )
        found = {}
        for k, v in read_json(tmp_path / 'b.json').items():
            _, what, fact = k.split('/')
            found.setdefault(what, {})[fact] = v
        for facts in found.values():
            assert (
                FACTS <= facts.keys() and facts['rounds'] == 2 and facts['threads'] == 1
            )
            assert (
                0 < facts['ratio_low'] <= facts['ratio_high']
                and abs(facts['ratio'] - facts['against_seconds'] / facts['seconds'])
                < 1e-9
            )
        return found

    return quick


def test_wavlm(run):
    found = run('wavlm')
    assert found.keys() == {
        'wavlm_fp32',
        'wavlm_bf16',
        'wavlm_mixed_fp32',
        'wavlm_mixed_bf16',
    } and all(FLOOR <= f.keys() for f in found.values())
    assert (
        found['wavlm_fp32']['error'] < 1e-4 and found['wavlm_fp32']['cosine'] > 0.99999
    )
    assert (
        found['wavlm_bf16']['cosine'] > 0.99
        and found['wavlm_bf16']['cosine_pooled'] > 0.999
    )
    for p in ('fp32', 'bf16'):
        assert (
            found[f'wavlm_mixed_{p}']['cosine']
            >= found[f'wavlm_mixed_{p}']['against_cosine']
        ), 'less padding, nearer to the clip alone'


def test_image_tower(run):
    found = run('image_tower')
    assert found.keys() == {'image_tower', 'image_tower_bf16'} and all(
        FLOOR <= f.keys() and f['ms_a_picture'] > 0 for f in found.values()
    )
    assert (
        found['image_tower']['error'] < 1e-4
        and found['image_tower_bf16']['cosine']
        > 0.999
        > found['image_tower']['cosine_other_pictures']
    )


def test_stored_targets(run):
    facts = run('stored_targets')['stored_targets']
    assert FLOOR <= facts.keys() and facts['error'] < 1e-6 and facts['loss_gap'] < 1e-3


def test_retrieval_and_alignment(run):
    run('retrieval')
    found = run('alignment')
    assert (
        found['retrieval_600']['error'] == 0
        and found['dtw']['error'] < 1e-5
        and not found['dtw']['other_paths']
        and not found['monotone_path']['other_paths']
    )


def test_threads(script, one_thread):
    "A step in a process of its own; how a user's threads wait is the user's choice."
    threads = script('threads')
    o = argparse.Namespace(threads=1, quick=True)
    assert all(0 < threads.measure(o, way) for way in threads.WAYS.values())
    ask = "import wavbrivl, os; print(os.environ.get('OMP_WAIT_POLICY'))"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(threads.OMP)}
    run = lambda **own: subprocess.check_output(
        [sys.executable, '-c', ask], env=clean | own, text=True
    )
    assert run().strip() == 'PASSIVE'
    assert run(OMP_WAIT_POLICY='ACTIVE').strip() == 'ACTIVE'
    assert run(GOMP_SPINCOUNT='9').strip() == 'None'


def test_stages(run):
    assert run('stages')['stages']['ratio'] > 0


def test_bulk(run):
    found = run('bulk')
    assert (
        found['bulk_fp32']['cosine'] > 0.99999 and found['bulk_bf16']['cosine'] > 0.99
    )


def test_a_matrix_product_has_so_many_flops(script):
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x, flops = torch.zeros(3, 5, 8), script('side_by_side').flops
    with torch.no_grad():
        assert flops(lambda: x @ torch.zeros(8, 7)) == 2 * 3 * 5 * 8 * 7 and flops(
            lambda: layer(x)
        ) == 2 * 3 * 5 * (4 * 8 * 8 + 2 * 8 * 16 + 2 * 5 * 8)


def test_table(script, tmp_path):
    s, table = script('side_by_side'), script('table')
    o = s.begin(
        s.options(''),
        ['--quick', '--threads', '1', '--results', str(tmp_path / 'b.json')],
    )
    s.record(
        o,
        'twice',
        'Something',
        [1.0, 1.1, 0.9],
        'something slow',
        [2.2, 2.0, 2.0],
        error=1e-6,
    )
    s.record(o, 'alone', 'Only ours', [0.5], cosine=0.9999)
    s.record(
        o,
        'twice',
        'Something',
        [1.0, 1.1, 0.9],
        'something slow',
        [2.2, 2.0, 2.0],
        cosine=0.5,
    )
    table.main(['--results', str(tmp_path / 'b.json')])
    text = (tmp_path / 'b.md').read_text()
    assert (
        '| Something | something slow | 1 s | 2 s | 2.00 (1.82 to 2.22) | cosine 0.50000 |'
        in text
        and '| Only ours |  | 500 ms |  |  | cosine 0.99990 |' in text
    )
    assert (tmp_path / 'b.png').read_bytes()[:4] == b'\x89PNG'
    (tmp_path / 'b.json').write_text('{}')
    with pytest.raises(BadInput, match='make bench'):
        table.main(['--results', str(tmp_path / 'b.json')])
