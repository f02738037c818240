"""DTW of a batch against a loop of librosa, and the monotone path against plain Python, same scores, one run.

    make bench                                    # 256 pairs of 32 x 256
    python benchmarks/alignment.py --pairs 1024 --results /tmp/benchmarks.json
"""
import argparse, time
from pathlib import Path
from statistics import median

import librosa
import numpy as np
import torch

from wavbrivl.alignment import dtw, monotone_path
from wavbrivl.core import log, read_json, write_json

RESULTS = Path(__file__).parents[1]/'results'/'benchmarks.json'


def plain_path(S, skip=0.):
    "What one would write first: the best monotone path of one pair, entry by entry."
    Q, T = S.shape
    V, came = np.zeros((Q + 1, T)), np.full((Q, T), -1)
    for q in range(Q):
        best, at = -np.inf, -1
        for t in range(T):
            if S[q, t] + V[q, t] > best: best, at = S[q, t] + V[q, t], t
            V[q+1, t] = max(best, V[q, t] + skip)
            if best >= V[q, t] + skip: came[q, t] = at
    path, t = [-1]*Q, T - 1
    for q in reversed(range(Q)):
        path[q] = came[q, t]
        if path[q] >= 0: t = path[q]
    return path


def clock(run, times):
    "Median seconds of several runs, after one to warm up."
    run()
    each = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        each.append(time.perf_counter() - began)
    return median(each)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--pairs', type=int, default=256)
    p.add_argument('--rows', type=int, default=32)
    p.add_argument('--columns', type=int, default=256)
    p.add_argument('--times', type=int, default=9)
    p.add_argument('--plain', type=int, default=4, help='pairs that plain Python is given')
    p.add_argument('--results', type=Path, default=RESULTS)
    o = p.parse_args()
    cost = torch.rand(o.pairs, o.rows, o.columns, generator=torch.Generator().manual_seed(0))
    arrays = list(cost.numpy())
    size = dict(pairs=o.pairs, rows=o.rows, columns=o.columns)

    mask, total, _ = dtw(cost)
    for c, m, n in zip(arrays, mask.numpy(), total.tolist()):
        D, wp = librosa.sequence.dtw(C=c)
        assert D[-1, -1] == n and np.array_equal(np.argwhere(m), wp[::-1]), 'not the path of librosa'
    ours, loop = clock(lambda: dtw(cost), o.times), clock(lambda: [librosa.sequence.dtw(C=c) for c in arrays], o.times)
    log(f'DTW, {o.pairs} pairs of {o.rows} x {o.columns}, {torch.get_num_threads()} threads: {1e3*ours:.1f} ms; '
        f'librosa in a loop: {1e3*loop:.1f} ms, {loop/ours:.1f} times as long; the paths are the same')
    out = {f'bench/dtw/{k}': v for k, v in dict(size, seconds=ours, loop_seconds=loop, ratio=loop/ours, threads=torch.get_num_threads()).items()}

    scores = cost - .5
    few = min(o.plain, o.pairs)
    path, _ = monotone_path(scores, 0.)
    assert [plain_path(s.double().numpy()) for s in scores[:few]] == path[:few].tolist(), 'not the path of the plain loop'
    ours = clock(lambda: monotone_path(scores, 0.), o.times)
    plain = clock(lambda: [plain_path(s.numpy()) for s in scores[:few]], 3)*o.pairs/few
    log(f'monotone path, the same pairs: {1e3*ours:.1f} ms; plain Python, from {few} pairs: {plain:.1f} s, {plain/ours:.0f} times as long')
    out |= {f'bench/monotone_path/{k}': v for k, v in dict(size, seconds=ours, loop_seconds=plain, ratio=plain/ours).items()}
    known = read_json(o.results) if o.results.exists() else {}
    write_json(known | out, o.results)


if __name__ == '__main__': main()
