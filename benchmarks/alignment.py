"""DTW of a batch against a loop of librosa, and the monotone path against plain Python, same scores.

make bench                                    # 256 pairs of 32 x 256
python benchmarks/alignment.py --pairs 1024 --results /tmp/benchmarks.json
"""

import librosa
import numpy as np
import torch

from side_by_side import begin, in_turn, options, record
from wavbrivl.gloss.alignment import dtw, monotone_path


def plain_path(S, skip=0.0):
    "What one would write first: the best monotone path of one pair, entry by entry."
    Q, T = S.shape
    V, came = np.zeros((Q + 1, T)), np.full((Q, T), -1)
    for q in range(Q):
        best, at = -np.inf, -1
        for t in range(T):
            if S[q, t] + V[q, t] > best:
                best, at = S[q, t] + V[q, t], t
            V[q + 1, t] = max(best, V[q, t] + skip)
            if best >= V[q, t] + skip:
                came[q, t] = at
    path, t = [-1] * Q, T - 1
    for q in reversed(range(Q)):
        path[q] = came[q, t]
        if path[q] >= 0:
            t = path[q]
    return path


def main(argv=None):
    p = options(__doc__, times=9)
    p.add_argument('--pairs', type=int, default=256)
    p.add_argument('--rows', type=int, default=32)
    p.add_argument('--columns', type=int, default=256)
    p.add_argument(
        '--plain',
        type=int,
        default=4,
        help='pairs that plain Python is given; its time is scaled up',
    )
    o = begin(p, argv)
    if o.quick:
        o.pairs, o.columns = 8, 64
    cost = torch.rand(o.pairs, o.rows, o.columns, device=o.device)
    arrays, what = (
        list(cost.cpu().numpy()),
        f'{o.pairs} pairs of {o.rows} x {o.columns}',
    )

    mask, total, _ = dtw(cost)
    theirs = [librosa.sequence.dtw(C=c) for c in arrays]
    astray = sum(
        not np.array_equal(np.argwhere(m), wp[::-1])
        for m, (_, wp) in zip(mask.cpu().numpy(), theirs)
    )
    error = max(abs(D[-1, -1] - n) for (D, _), n in zip(theirs, total.tolist()))
    taken = in_turn(
        dict(
            ours=lambda: dtw(cost),
            theirs=lambda: [librosa.sequence.dtw(C=c) for c in arrays],
        ),
        o.times,
        o.device,
    )
    record(
        o,
        'dtw',
        f'DTW, {what}',
        taken['ours'],
        'a loop of librosa',
        taken['theirs'],
        error=float(error),
        other_paths=astray,
    )

    scores = cost - 0.5
    few = min(o.plain, o.pairs)
    rows = [s.double().cpu().numpy() for s in scores[:few]]
    astray = sum(
        plain_path(s) != path
        for s, path in zip(rows, monotone_path(scores, 0.0)[0][:few].tolist())
    )
    taken = in_turn(
        dict(
            ours=lambda: monotone_path(scores, 0.0),
            theirs=lambda: [plain_path(s) for s in rows],
        ),
        o.times,
        o.device,
    )
    record(
        o,
        'monotone_path',
        f'Monotone path, {what}',
        taken['ours'],
        'plain Python',
        [t * o.pairs / few for t in taken['theirs']],
        other_paths=astray,
    )


if __name__ == '__main__':
    main()
