"WavLM against what the original implementation computed (skipped where its files are not beside the checkout)."

from pathlib import Path

import numpy as np
import pytest
import torch

from wavbrivl.core.files import BadInput
from wavbrivl.core.params import AudioParams
from wavbrivl.audio.wavlm import WavLM, normalise_waveform
from wavbrivl.image_text.layers import FastDropout, replace_dropout
from wavbrivl.audio.checkpoint import load_wavlm

REFERENCE = Path(__file__).parents[2] / 'shared' / 'reference'
needs_reference = pytest.mark.skipif(
    not REFERENCE.exists(), reason='no reference files beside the checkout'
)


def gap(a, b):
    return (a.detach() - torch.as_tensor(b)).abs().max().item()


@needs_reference
@pytest.mark.parametrize('size', ['wavlm_base', 'wavlm_large'])
def test_released_weights_hear_as_the_original(size):
    at = REFERENCE / size
    wavlm, cfg = load_wavlm(at / 'checkpoint.pt')
    x, want = np.load(at / 'inputs.npz'), np.load(at / 'outputs.npz')
    wavlm.eval().params = wavlm.params.model_copy(
        update=dict(normalize=False)
    )  # these inputs are normalised already
    t = want['nomask_layers'].shape[2]
    cases = dict(
        nomask=(x['wave_network_input'], None),
        padded=(x['wave_padded_network_input'], (~x['padding_mask']).sum(1)),
        single=(x['wave_single_network_input'], None),
    )
    for case, (wave, lengths) in cases.items():
        layers, padding = wavlm(torch.from_numpy(wave), lengths)
        real = (
            torch.ones(layers[0].shape[:2], dtype=bool) if padding is None else ~padding
        )
        if padding is not None:
            assert torch.equal(
                padding, torch.from_numpy(want['padded_frame_padding_mask'])
            )
        for i, layer in enumerate(layers[:-1] if wavlm.stable else layers):
            assert gap(layer[real], want[f'{case}_layers'][:, i][real]) < 5e-5, (
                case,
                i,
            )
        last = (
            wavlm.model.encoder.layer_norm(layers[-1]) if wavlm.stable else layers[-1]
        )
        assert gap(last[real], want[f'{case}_last'][real]) < 5e-5, case
    assert t == 24


def test_waveforms_are_levelled_over_what_is_real():
    wave = (
        torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
        * torch.tensor([[0.01], [1.0], [7.0]])
        + 0.3
    )
    lengths = torch.tensor([400, 250, 100])
    padded = torch.where(torch.arange(400) < lengths[:, None], wave, 0.0)
    out = normalise_waveform(padded, lengths)
    for row, x, n in zip(out, wave, lengths):
        assert (
            gap(row[:n], torch.nn.functional.layer_norm(x[:n], (int(n),))) < 1e-5
            and not row[n:].any()
        )


def test_large_hears_loudness_no_more():
    wavlm = WavLM(
        AudioParams(
            conv_dim=[8] * 7,
            hidden=16,
            layers=1,
            heads=2,
            ffn=16,
            pos_groups=2,
            normalize=True,
        )
    ).eval()
    x = torch.randn(1, 4000)
    assert gap(wavlm(x)[0][-1], wavlm(10 * x)[0][-1].detach()) < 1e-3


def test_file_that_is_no_release(tmp_path):
    torch.save(dict(model={}), tmp_path / 'x.pt')
    (tmp_path / 'y.pt').write_text('not weights')
    for f, why in (
        ('x.pt', "'cfg' and 'model'"),
        ('y.pt', 'no weights'),
        ('z.pt', 'does not exist'),
    ):
        with pytest.raises(BadInput, match=why):
            load_wavlm(tmp_path / f)


@pytest.mark.parametrize('p', [0.1, 0.5, 0.999999])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_dropout_leaves_out_its_share_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    ones, layer = torch.ones(401, 999, dtype=dtype, requires_grad=True), FastDropout(p)
    x = layer(ones)
    x.float().sum().backward()
    assert (
        x.dtype == dtype
        and abs((x == 0).float().mean().item() - p) < 3e-3
        and set(x.unique().tolist())
        <= {0.0, torch.tensor(1 / (1 - p)).to(dtype).item()}
    )
    assert torch.equal(ones.grad, x.detach()), 'the same mask on the way back'
    neighbours = (x[:, 1:] == 0) & (x[:, :-1] == 0)
    assert abs(neighbours.float().mean().item() - p * p) < 5e-3, (
        'one bit tells nothing of the next'
    )
    torch.manual_seed(0)
    assert torch.equal(layer(ones), x) and torch.equal(layer.eval()(ones), ones)


def test_dropout_at_its_ends():
    x = torch.randn(3, 5)
    assert (
        torch.equal(FastDropout(0.0)(x), x)
        and not FastDropout(1.0)(x).any()
        and FastDropout(0.5)(x[:0]).shape == (0, 5)
    )
    net = replace_dropout(
        torch.nn.Sequential(
            torch.nn.Linear(2, 2),
            torch.nn.Dropout(0.3),
            torch.nn.Sequential(torch.nn.Dropout(0.0)),
        )
    )
    assert [
        (type(m), m.p) for m in net.modules() if isinstance(m, torch.nn.Dropout)
    ] == [(FastDropout, 0.3), (FastDropout, 0.0)]
