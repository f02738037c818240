"""WavLM, base size, random weights: transformers' model, eager, in fp32, against ours in fp32 and bf16.

make bench                                   # 4 clips of 5 s, then 12 clips of 1 to 6 s
python benchmarks/wavlm.py --device cuda --times 20
"""

import torch
from transformers import WavLMConfig, WavLMModel

from side_by_side import begin, flops, gap, in_turn, options, precisely, record, similar
from wavbrivl.core.params import AudioParams
from wavbrivl.media.sound import SAMPLE_RATE
from wavbrivl.audio.wavlm import WavLM, wavlm_config

BASE = AudioParams(
    conv_dim=[512] * 7,
    hidden=768,
    layers=12,
    heads=12,
    ffn=3072,
    pos_kernel=128,
    pos_groups=16,
    buckets=320,
    max_distance=800,
)


def same_weights(quick: bool, device: str):
    "transformers' model with random weights, and ours with the same."
    params = AudioParams() if quick else BASE
    theirs = (
        WavLMModel(wavlm_config(params) if quick else WavLMConfig()).eval().to(device)
    )
    ours = WavLM(params).eval()
    ours.model.load_state_dict(
        {k: v for k, v in theirs.state_dict().items() if k != 'masked_spec_embed'}
    )
    return theirs, ours.to(device)


def label(o) -> str:
    return 'WavLM, tiny' if o.quick else 'WavLM base'


def padded(clips):
    "Clips of any length -> waves [N, n] filled up with zeros, lengths [N]."
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(
        [len(c) for c in clips]
    )


def pooled_theirs(model, clips):
    "As documented: clips padded to the longest, an attention mask, the mean over unmasked frames: [N, H]."
    waves, lengths = padded(clips)
    mask = (
        torch.arange(waves.shape[1], device=waves.device)
        < lengths.to(waves.device)[:, None]
    ).long()
    x = model(waves, attention_mask=mask).last_hidden_state
    real = model._get_feature_vector_attention_mask(x.shape[1], mask)[..., None]
    return (x * real).sum(1) / real.sum(1)


def alike(clips, least: float = 0.9, batch: int = 8):
    "Batches of clips whose shortest is at least so much of the longest: lists of positions."
    group = []
    for i in sorted(range(len(clips)), key=lambda i: -len(clips[i])):
        if (
            len(group) == batch
            or group
            and len(clips[i]) < least * len(clips[group[0]])
        ):
            yield group
            group = []
        group.append(i)
    yield group


def pooled_ours(model, clips):
    "Clips of like length run together: [N, H]."
    out = [None] * len(clips)
    for at in alike(clips):
        layers, padding = model(*padded([clips[k] for k in at]))
        real = (~padding)[..., None]
        for k, x in zip(at, (layers[-1].float() * real).sum(1) / real.sum(1)):
            out[k] = x
    return torch.stack(out)


def equal_lengths(o, theirs, ours, fast, n: int, seconds: float):
    "A batch of clips of one length: every frame compared."
    waves = 0.1 * torch.randn(n, round(seconds * SAMPLE_RATE), device=o.device)
    want = theirs(waves).last_hidden_state
    work = flops(lambda: ours(waves))

    def run(precision):
        with precisely(precision, o.device):
            return fast[precision](waves)[0][-1]

    taken = in_turn(
        {'theirs': lambda: theirs(waves)} | {p: lambda p=p: run(p) for p in fast},
        o.times,
        o.device,
    )
    for p in fast:
        got = run(p)
        near = dict(error=gap(got, want)) if p == 'fp32' else {}
        record(
            o,
            f'wavlm_{p}',
            f'{label(o)}, {n} x {seconds:g} s, {p}',
            taken[p],
            'transformers, eager fp32',
            taken['theirs'],
            work,
            p,
            **near,
            cosine=similar(got, want),
            cosine_pooled=similar(got.float().mean(1), want.mean(1)),
            sound_seconds=n * seconds,
        )


def mixed_lengths(o, theirs, ours, fast, n: int, shortest: float, longest: float):
    "Clips of many lengths: the mean of each clip's frames, compared with the clip run alone."
    lengths = torch.linspace(shortest, longest, n)[torch.randperm(n)] * SAMPLE_RATE
    clips = [0.1 * torch.randn(round(k), device=o.device) for k in lengths.tolist()]
    alone = torch.cat([theirs(c[None]).last_hidden_state.mean(1) for c in clips])
    work = flops(lambda: [ours(c[None]) for c in clips])

    def run(precision):
        with precisely(precision, o.device):
            return pooled_ours(fast[precision], clips)

    taken = in_turn(
        {'theirs': lambda: pooled_theirs(theirs, clips)}
        | {p: lambda p=p: run(p) for p in fast},
        min(3, o.times),
        o.device,
    )
    for p in fast:
        record(
            o,
            f'wavlm_mixed_{p}',
            f'{label(o)}, {n} clips of {shortest:g} to {longest:g} s, {p}',
            taken[p],
            'transformers, padded to the longest',
            taken['theirs'],
            work,
            p,
            cosine=similar(run(p), alone),
            against_cosine=similar(pooled_theirs(theirs, clips), alone),
            sound_seconds=float(sum(map(len, clips)) / SAMPLE_RATE),
        )


@torch.no_grad()
def main(argv=None):
    o = begin(options(__doc__), argv)
    theirs, ours = same_weights(o.quick, o.device)
    fast = {p: ours.for_inference(precision=p) for p in ('fp32', 'bf16')}
    equal_lengths(o, theirs, ours, fast, *((2, 0.5) if o.quick else (4, 5.0)))
    mixed_lengths(
        o, theirs, ours, fast, *((4, 0.3, 0.6) if o.quick else (12, 1.0, 6.0))
    )


if __name__ == '__main__':
    main()
