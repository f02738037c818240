"What the losses chapter cannot tell well: processes, resuming, devices of one's own, odd batches."

import importlib, os
import json
import re
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from wavbrivl.core.files import BadInput
from wavbrivl.training.losses import (
    LOSSES,
    Queue,
    TwoWayMoCo,
    ema_update,
    gather_rows,
    info_nce,
    make_loss,
    moco_logits,
)


def pairs(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=g), F.normalize(
        torch.randn(n, 8, generator=g), dim=-1
    )


def reference_moco(query, key, queue, temperature):
    "The loss as the paper writes it, one query at a time."
    out = []
    for q, k in zip(query, key):
        others = [
            torch.dot(q, queue[:, i]) / temperature for i in range(queue.shape[1])
        ]
        match = torch.dot(q, k) / temperature
        out.append(-match + torch.logsumexp(torch.stack([match, *others]), 0))
    return torch.stack(out).mean()


def test_moco_is_the_formula():
    g = torch.Generator().manual_seed(0)
    q, k, u = (
        F.normalize(torch.randn(s, generator=g), dim=d)
        for s, d in (((5, 8), 1), ((5, 8), 1), ((8, 12), 0))
    )
    ours = F.cross_entropy(moco_logits(q, k, u, 0.07), torch.zeros(5, dtype=torch.long))
    assert torch.allclose(ours, reference_moco(q, k, u, 0.07), atol=1e-5)


@pytest.mark.parametrize('sizes', [[4] * 7, [3, 5, 1, 7, 2], [11, 4], [25], [1] * 12])
def test_queue_keeps_the_newest(sizes):
    queue, seen = Queue(3, 10), []
    for n in sizes:
        ids = torch.arange(len(seen), len(seen) + n)
        queue.enqueue(ids[:, None].float().expand(n, 3), ids)
        seen += ids.tolist()
    kept = [i for i in queue.ids.tolist() if i >= 0]
    assert sorted(kept) == seen[-10:] and int(queue.filled.sum()) == min(10, len(seen))
    assert torch.equal(queue.keys[1, queue.filled].long(), queue.ids[queue.filled])
    assert int(queue.pointer) == len(seen) % 10 or max(sizes) > 10
    queue.enqueue(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert sorted(i for i in queue.ids.tolist() if i >= 0) == seen[-10:], (
        'an empty batch changes nothing'
    )


def test_queue_is_the_reference_when_the_batch_divides():
    "slice assignment at the pointer, then (pointer + n) % K"
    queue, plain, pointer = Queue(3, 12, torch.Generator().manual_seed(1)), None, 0
    plain = queue.keys.clone()
    for step in range(5):
        keys = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        queue.enqueue(keys)
        plain[:, pointer : pointer + 4] = keys.T
        pointer = (pointer + 4) % 12
        assert (
            torch.equal(queue.keys, plain)
            and int(queue.pointer) == pointer
            and queue.filled.all()
        )


def test_momentum_moves_parameters_only():
    online, slow = (nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(2))
    before = [p.clone() for p in slow.parameters()]
    online(torch.randn(8, 3))
    ema_update(online, slow, 0.75)
    for b, p, o in zip(before, slow.parameters(), online.parameters()):
        assert torch.allclose(p, 0.75 * b + 0.25 * o)
    assert slow[1].running_mean.abs().sum() == 0
    with pytest.raises(BadInput, match='copy the tower again'):
        ema_update(nn.Linear(3, 3, bias=False), nn.Linear(3, 3), 0.9)


def test_order_query_momentum_keys_loss_enqueue():
    tower = nn.Linear(6, 8)
    two = TwoWayMoCo(
        tower, nn.Linear(8, 8), 8, queue=20, momentum=0.0
    )  # momentum 0: the copy is the tower, once updated
    with torch.no_grad():
        for p in tower.parameters():
            p.add_(1.0)
    x, y = pairs(4)
    _, d = two(x, y, torch.arange(4))
    assert torch.allclose(d['key_a'], d['query_a'], atol=1e-6), (
        'keys come after the momentum update'
    )
    assert (d['logits_ab'][:, 1:] == -torch.inf).all(), (
        'and the step does not meet its own keys'
    )


@pytest.mark.parametrize('name', LOSSES)
def test_resuming_changes_nothing(name):
    def run(steps, loss, opt, start=0):
        for s in range(start, steps):
            x, y = pairs(5, s)
            value = loss(x, y, torch.arange(5) + s, torch.full((5,), 0.5))
            opt.zero_grad()
            value.backward()
            opt.step()
        return value

    def fresh():
        torch.manual_seed(3)
        loss = make_loss(name, nn.Linear(6, 8), 8, queue=12, momentum=0.9)
        return loss, torch.optim.AdamW(
            [p for p in loss.parameters() if p.requires_grad], 1e-2
        )

    whole, opt = fresh()
    want = run(6, whole, opt)
    first, opt = fresh()
    run(3, first, opt)
    second, opt2 = fresh()
    second.load_state_dict(first.state_dict())
    opt2.load_state_dict(opt.state_dict())
    assert torch.equal(run(6, second, opt2, 3), want)


@pytest.mark.parametrize('name', LOSSES)
def test_weights(name):
    torch.manual_seed(0)
    x, y = pairs(6)
    value = lambda w: make_loss(name, tower, 8, queue=10)(x, y, torch.arange(6), w)
    tower = nn.Linear(6, 8)
    assert torch.allclose(value(None), value(torch.ones(6))) and torch.allclose(
        value(torch.ones(6)), value(torch.full((6,), 0.1))
    )
    assert value(torch.zeros(6)) == 0, (
        'no pair trusted: nothing to learn, and no division by zero'
    )


def test_towers_with_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(6, 8)

        def forward(self, x, lengths):
            return self.f(x) * (lengths[:, None] > 0)

    x, y = pairs(4)
    for inputs in (
        (x, torch.ones(4)),
        [x, torch.ones(4)],
        dict(x=x, lengths=torch.ones(4)),
    ):
        assert make_loss('moco', Two(), 8, queue=8)(
            inputs, y, torch.arange(4)
        ).isfinite()


def test_info_nce_learnable_temperature_and_single_pair():
    x, y = pairs(4)
    t = torch.tensor(0.07, requires_grad=True)
    info_nce(x @ torch.randn(6, 8), y, t).backward()
    assert t.grad is not None and info_nce(y[:1], y[:1]) == 0


def test_gradients_accumulate_over_steps():
    "Two steps before one backward: the queue has moved on, the first step's gradient must not notice."
    torch.manual_seed(0)
    two = TwoWayMoCo(nn.Linear(6, 8), nn.Linear(8, 8), 8, queue=10)
    x, y = pairs(4)
    total = sum(two(x, y, torch.arange(4) + 4 * s)[0] for s in range(3))
    total.backward()
    assert two.tower_a.weight.grad.isfinite().all()


def _worker(rank, folder):
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2
    )
    torch.manual_seed(0)
    loss = make_loss('moco', nn.Linear(6, 8), 8, queue=10)
    x, y = pairs(8)
    loss(
        x[rank * 4 : rank * 4 + 4],
        y[rank * 4 : rank * 4 + 4],
        torch.arange(8)[rank * 4 : rank * 4 + 4],
    )
    torch.save(loss.state_dict(), f'{folder}/{rank}.pt')
    assert len(gather_rows(x[:3])) == 6
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo may abort an interpreter that winds down


def test_two_processes_share_one_queue(tmp_path):
    mp.spawn(_worker, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    alone = make_loss('moco', nn.Linear(6, 8), 8, queue=10)
    x, y = pairs(8)
    alone(x, y, torch.arange(8))
    for rank in range(2):
        state = torch.load(tmp_path / f'{rank}.pt', weights_only=True)
        for k, v in alone.state_dict().items():
            assert torch.allclose(v.float(), state[k].float(), atol=1e-6), k


def test_the_table_of_equations_names_what_is_there():
    book = Path(__file__).parents[1] / 'nbs/09_training/01_losses.ipynb'
    cells = json.loads(book.read_text(encoding='utf-8'))['cells']
    head = ''.join(cells[0]['source'])
    rows = re.findall(r'^\|.*\| `([\w.]+)` \| (`.+`) \|$', head, re.M)
    assert len(rows) > 15
    for module, names in rows:
        found = importlib.import_module(f'wavbrivl.{module}')
        missing = [n for n in re.findall(r'`(\w+)`', names) if not hasattr(found, n)]
        assert not missing, (module, missing)


def test_the_config_knows_the_losses_there_are():
    "`train.loss` takes every loss of the chapter, and `labels` for a plain classifier."
    from typing import get_args

    from wavbrivl.core.params import TrainParams

    choices = get_args(TrainParams.model_fields['loss'].annotation)
    assert set(choices) == {*LOSSES, 'labels'}
