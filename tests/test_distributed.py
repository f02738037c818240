"Two processes learn what one learns with the same batches: losses, batch norms, trainings, targets, stages."

import os, shlex, socket, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import nn

from wavbrivl.core.files import BadInput
from wavbrivl.core.params import OptimParams
from wavbrivl.core.picture_params import Params
from wavbrivl.core.config import merge_config
from wavbrivl.pipeline.lab import Lab
from wavbrivl.pipeline.launch import PROGRAM
from wavbrivl.pipeline.training import (
    prepare_corpus,
    pretrain_brivl,
    store_targets,
    train_run,
)
from wavbrivl.training.processes import SharedBatchNorm, make_engine, share_of_rows
from wavbrivl.training.loop import Trainer, Task
from wavbrivl.training.losses import (
    LOSSES,
    gather_rows,
    make_loss,
    mean_over_processes,
    rank_and_world,
)

ROOT = Path(__file__).parents[1]
OPTIM = OptimParams(epochs=3, batch=9, lr=0.01)  # nine rows: shares of four and five


class Pairs(Task):
    "Noisy rows against stored targets, a momentum tower with batch norm and queues; stops at a given step if told to."

    items, shareable = 40, True

    def __init__(self, stop=None):
        super().__init__()
        torch.manual_seed(0)
        tower = nn.Sequential(
            nn.Linear(6, 8, bias=False),
            nn.BatchNorm1d(8, affine=False),
            nn.ReLU(),
            nn.Linear(8, 8),
        )
        self.loss, self.stop, self.calls = (
            make_loss('moco', tower, 8, queue=20, momentum=0.9),
            stop,
            0,
        )
        g = torch.Generator().manual_seed(1)
        self.x, self.y = (
            torch.randn(40, 6, generator=g),
            F.normalize(torch.randn(40, 8, generator=g), dim=-1),
        )

    def batch(self, index, rng):
        noise = torch.from_numpy(rng.standard_normal((len(index), 6))).float()
        return dict(
            x=self.x[index] + 0.1 * noise,
            y=self.y[index],
            ids=torch.from_numpy(index) // 2,
        )

    def forward(self, x, y, ids):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return self.loss(x, y, ids)

    def score(self):
        return dict(
            score=float(rank_and_world()[0] == 0) * self.progress
        )  # the other process scores otherwise


class Alone(Pairs):
    "A task that processes cannot share: all of the batch in each, dropout included."

    shareable = False

    def forward(self, x, y, ids):
        return F.mse_loss(self.loss.tower(F.dropout(x, 0.3)), y)


def trained(task, folder, optim=OPTIM, **kw):
    "Weights after a training; of a stopped one, None."
    try:
        history = Trainer(
            task,
            optim,
            1,
            folder,
            make_engine(Params(device='cpu', precision='fp32')),
            **kw,
        ).run()
    except KeyboardInterrupt:
        return None
    return task.state_dict() | dict(history=torch.tensor(history.loss))


def stepped(name, rows):
    "Two steps of a loss over a tower with batch norm, on a share of twelve rows: what the second leaves."
    torch.manual_seed(0)
    loss = make_loss(
        name,
        nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8)),
        8,
        queue=20,
        momentum=0.9,
    )
    model = (
        nn.parallel.DistributedDataParallel(loss, broadcast_buffers=False)
        if rank_and_world()[1] > 1
        else loss
    )
    for step in range(2):
        g = torch.Generator().manual_seed(step)
        x, y, w = (
            torch.randn(12, 6, generator=g),
            F.normalize(torch.randn(12, 8, generator=g), dim=-1),
            torch.rand(12, generator=g),
        )
        ids = torch.arange(12) % 7 + 5 * step
        loss.zero_grad()
        with SharedBatchNorm():
            value = model(x[rows], y[rows], ids[rows], w[rows])
        value.backward()
    return (
        {k: v.clone() for k, v in loss.state_dict().items()}
        | {
            f'grad {k}': p.grad
            for k, p in loss.named_parameters()
            if p.grad is not None
        }
        | dict(value=value.detach())
    )


def worker(rank, folder):
    torch.set_num_threads(1)
    os.environ |= dict(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE='2',
        MASTER_ADDR='localhost',
        MASTER_PORT='0',
    )  # accelerate asks for them; they have met already
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    folder = Path(folder)
    rows = torch.arange(rank, rank + 3.0)[: 2 + rank, None].requires_grad_()
    (gather_rows(rows).square().sum() * (rank + 1)).backward()
    out = dict(
        rows=gather_rows(rows).detach(),
        grad=rows.grad,
        mean=mean_over_processes(torch.tensor(2.0 + rank), 1 + rank),
    )
    out |= {
        name: stepped(name, slice(0, 5) if rank == 0 else slice(5, 12))
        for name in LOSSES
    }
    out['trained'] = trained(Pairs(), folder / f'straight-{rank}')
    out['alone'] = trained(Alone(), folder / 'alone')
    assert trained(Pairs(stop=6), folder / 'two-then-one', save_minutes=0) is None
    torch.distributed.barrier()
    out['resumed'] = trained(Pairs(), folder / 'one-then-two')
    with pytest.raises(BadInput, match='raise optim.batch'):
        Trainer(Pairs(), OptimParams(batch=2), 1, folder / 'few', Processes(3))
    torch.save(out, folder / f'{rank}.pt')
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # threads of gloo may abort an interpreter that winds down


class Processes:
    "An engine of so many processes, to be asked for their number only."

    def __init__(self, n):
        self.num_processes, self.process_index = n, 0


@pytest.fixture(scope='module')
def folder(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp('two')
    assert trained(Pairs(stop=7), folder / 'one-then-two', save_minutes=0) is None
    mp.spawn(worker, (str(folder),), nprocs=2)
    return folder


@pytest.fixture(scope='module')
def found(folder):
    return [torch.load(folder / f'{r}.pt', weights_only=True) for r in range(2)]


def close(a, b, atol=1e-5):
    assert a.keys() == b.keys()
    for k in a:
        assert torch.allclose(a[k].float(), b[k].float(), atol=atol), (
            k,
            (a[k].float() - b[k].float()).abs().max(),
        )


def test_rows_of_uneven_shares_and_their_gradients(found):
    for r, f in enumerate(found):
        assert (
            f['rows'][:, 0].tolist() == [0, 1, 1, 2, 3] and f['mean'] == (2 + 2 * 3) / 3
        )
        assert torch.equal(
            f['grad'][:, 0],
            3 * 2 * f['rows'][:, 0][slice(0, 2) if r == 0 else slice(2, 5)],
        ), 'of the sum of what all processes derive'
    assert [share_of_rows(9, r, 2) for r in range(2)] == [
        slice(0, 4),
        slice(4, 9),
    ] and share_of_rows(7, 0, 1) == slice(0, 7)


@pytest.mark.parametrize('name', LOSSES)
def test_a_loss_is_that_of_the_whole_batch(found, name):
    "Value, gradients, running statistics, momentum tower and queues, on both ranks."
    alone = stepped(name, slice(None))
    for f in found:
        close(alone, f[name])
    assert all(torch.equal(found[0][name][k], found[1][name][k]) for k in alone)


def test_a_training_ends_with_the_weights_of_one_process(found, tmp_path):
    alone = trained(Pairs(), tmp_path)
    for f in found:
        close(alone, f['trained'])


def test_without_gathering_it_would_not(tmp_path):
    "The comparison above can fail: a batch of half the size is another training."
    alone, half = (
        trained(Pairs(), tmp_path / 'a'),
        trained(Pairs(), tmp_path / 'b', OPTIM.model_copy(update=dict(batch=4))),
    )
    with pytest.raises(AssertionError):
        close(alone, half)


def test_a_task_that_cannot_be_shared_is_trained_whole(found, tmp_path):
    close(trained(Alone(), tmp_path), found[0]['alone'], 1e-6)
    assert all(
        torch.equal(found[0]['alone'][k], found[1]['alone'][k])
        for k in found[0]['alone']
    )


def test_resuming_with_another_number_of_processes(folder, found, tmp_path):
    alone = trained(Pairs(), tmp_path)
    for f in found:
        close(
            {k: v for k, v in alone.items() if k != 'history'},
            {k: v for k, v in f['resumed'].items() if k != 'history'},
        )
    saved = torch.load(folder / 'two-then-one/state.pt', weights_only=True)
    assert (saved['epoch'], saved['step']) == (1, 1), 'stopped in the second epoch'
    again = trained(Pairs(), folder / 'two-then-one')
    close(
        {k: v for k, v in alone.items() if k != 'history'},
        {k: v for k, v in again.items() if k != 'history'},
    )


def test_only_the_first_process_writes(folder):
    assert (folder / 'straight-0/state.pt').exists() and not (
        folder / 'straight-1'
    ).exists()


# ---------------------------------------------------------------- stages, by their launcher

TINY = dict(
    precision='fp32',
    device='cpu',
    corpus=dict(foley=dict(train=24, valid=6, test=6)),
    brivl=dict(optim=dict(epochs=1, batch=16)),
    targets=dict(views=2, batch=16),
    audio=dict(dropout=0.0),
    train=dict(
        init='scratch',
        seeds=[0],
        queue_start=0.5,
        queue=20,
        optim=dict(epochs=2, batch=9),
    ),
)


def lab(root, processes):
    config = merge_config(
        yaml.safe_load((ROOT / 'presets/smoke.yaml').read_text()),
        TINY | dict(processes=processes),
    )
    config['runs'], config['pictures'] = dict(wavbrivl={}), {}
    (root / 'params.yaml').write_text(yaml.safe_dump(config))
    return Lab('wavbrivl', root)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A lab of one process after the stages corpus to train."
    root = tmp_path_factory.mktemp('lab')
    one = lab(root, 1)
    prepare_corpus(one)
    (root / 'data').symlink_to(root / 'build/corpus')
    pretrain_brivl(one)
    store_targets(one)
    train_run(one)
    return root


@pytest.fixture
def elsewhere(root, tmp_path):
    "The same lab before `targets` and `train`, its stages in two processes."
    (tmp_path / 'build').mkdir()
    (tmp_path / 'build/brivl').symlink_to(root / 'build/brivl')
    (tmp_path / 'data').symlink_to(root / 'data')
    return lab(tmp_path, 2)


TWO_MACHINES = """#!/bin/sh
# srun would do this: the same command on two machines, which meet at the first one's address
{torchrun} --node-rank 1 "$@" &
{torchrun} --node-rank 0 "$@"
status=$?
wait
exit $status
"""


def test_stages_in_two_processes_and_on_two_machines(
    root, elsewhere, monkeypatch, capfd
):
    store_targets(elsewhere)
    a, b = (
        load_file(r / 'build/targets/targets.safetensors')
        for r in (root, elsewhere.root)
    )
    assert (
        all(torch.equal(a[k], b[k]) for k in a)
        and len(a['frames']) == 48 + 24
        and len(list((elsewhere.build / 'targets').iterdir())) == 1
    )
    with socket.socket() as s:
        s.bind(('localhost', 0))
        port = s.getsockname()[1]
    torchrun = shlex.join(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--nnodes',
            '2',
            '--nproc-per-node',
            '1',
            '--master-addr',
            'localhost',
            '--master-port',
            str(port),
        ]
    )
    script = elsewhere.root / 'two_machines.sh'
    script.write_text(TWO_MACHINES.format(torchrun=torchrun))
    monkeypatch.setenv('WAVBRIVL_LAUNCH', f'sh {script}')
    history = train_run(elsewhere)
    said = capfd.readouterr().out
    assert said.count('train: 2 processes, cpu') == 1 and said.count('epoch 2') == 1, (
        'one process speaks'
    )
    alone = pd.read_csv(root / 'results/history/wavbrivl.csv')
    np.testing.assert_allclose(
        history[['loss', 'score']], alone[['loss', 'score']], rtol=1e-4
    )
    a, b = (
        load_file(r / 'models/wavbrivl/seed-0/model.safetensors')
        for r in (root, elsewhere.root)
    )
    assert a.keys() == b.keys() and not list(elsewhere.checkpoints.rglob('state.pt'))


def test_a_stage_that_fails_says_so(root, elsewhere, monkeypatch, capfd):
    (elsewhere.build / 'brivl').unlink()
    monkeypatch.setenv(
        'WAVBRIVL_LAUNCH', f'env RANK=0 {sys.executable}'
    )  # a launcher of one process
    with pytest.raises(BadInput, match=f'{PROGRAM} targets'):
        store_targets(elsewhere)
    assert 'dvc repro brivl' in capfd.readouterr().out
