"""Retrieval over the whole pool: blocks of similarities against a plain loop over queries, same embeddings, one run.

    make bench                                    # 15,000 x 15,000 x 512
    python benchmarks/retrieval.py --pool 100000 --no-loop
"""
import argparse, resource, time
from pathlib import Path

import torch
import torch.nn.functional as F

from wavbrivl.core import log, read_json, write_json
from wavbrivl.retrieval import both_ways

RESULTS = Path(__file__).parents[1]/'results'/'benchmarks.json'


def plain_loop(a, b):
    "What one would write first: one query after the other, in both directions."
    mrr = []
    for q, g in ((a, b), (b, a)):
        total = 0.
        for i in range(len(q)):
            s = g @ q[i]
            total += 1/(1 + (s > s[i]).sum().item())
        mrr.append(total/len(q))
    return mrr


def matmul_rate(n=2048, times=5):
    "Measured single-precision rate, FLOP/s."
    x = torch.randn(n, n)
    x @ x
    began = time.perf_counter()
    for _ in range(times): x @ x
    return 2*n**3*times/(time.perf_counter() - began)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--pool', type=int, default=15_000)
    p.add_argument('--dim', type=int, default=512)
    p.add_argument('--no-loop', action='store_true')
    o = p.parse_args()
    g = torch.Generator().manual_seed(0)
    a = F.normalize(torch.randn(o.pool, o.dim, generator=g), dim=1)
    b = F.normalize(a + 1.5*torch.randn(o.pool, o.dim, generator=g)/o.dim**.5*3, dim=1)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    found = both_ways(a, b)
    ours = time.perf_counter() - began
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)/2**20
    floor = 2*o.pool**2*o.dim/matmul_rate()
    out = dict(seconds=ours, pool=o.pool, dim=o.dim, extra_gib=peak, process_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20, floor_seconds=floor, share_of_floor=floor/ours)
    log(f'{o.pool} x {o.pool} x {o.dim}, both ways: {ours:.2f} s, {peak:.2f} GiB beyond the embeddings; the products alone need {floor:.2f} s')
    if not o.no_loop:
        began = time.perf_counter()
        mrr = plain_loop(a, b)
        loop = time.perf_counter() - began
        ours_mrr = [found[k]['mrr'] for k in ('audio_to_image', 'image_to_audio')]
        assert max(abs(x - y) for x, y in zip(mrr, ours_mrr)) < 1e-4, (mrr, ours_mrr)
        out |= dict(loop_seconds=loop, ratio=loop/ours)
        log(f'plain loop: {loop:.2f} s, {loop/ours:.1f} times as long; MRR {ours_mrr[0]:.4f} and {ours_mrr[1]:.4f}, the same')
    known = read_json(RESULTS) if RESULTS.exists() else {}
    write_json(known | {f'bench/retrieval_{o.pool}/{k}': v for k, v in out.items()}, RESULTS)


if __name__ == '__main__': main()
