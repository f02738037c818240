"""Released files become folders, in every layout, and what is refused.

Results are compared with those of the public implementations, where their files lie beside the checkout.
"""

import gzip
import io
import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from wavbrivl.api.painter import Painter
from wavbrivl.image_text.brivl import BriVL, to_released_name
from wavbrivl.image_text.inputs import load_tokenizer, prepare_pixels, tokenize
from wavbrivl.app.cli import main
from wavbrivl.core.files import BadFile, BadInput, read_json, write_json
from wavbrivl.core.params import AudioParams, BrivlParams
from wavbrivl.core.picture_params import VqganParams
from wavbrivl.pipeline.gloss import open_wavlm
from wavbrivl.api.released import (
    DROPPED,
    account_for_tensors,
    import_released,
    rename_brivl_key,
    tensor_shapes,
)
from wavbrivl.decoders.vqgan import VQGAN
from wavbrivl.audio.wavlm import WavLM, wavlm_config

REFERENCE = Path(__file__).parents[2] / 'shared' / 'reference'
needs_reference = pytest.mark.skipif(
    not REFERENCE.exists(), reason='no reference files beside the checkout'
)
TEXT = dict(vocab=30, hidden=16, layers=1, heads=2, ffn=16)
PICTURES = BrivlParams(image_size=32, text=TEXT)
SOUNDS = AudioParams(
    conv_dim=[8] * 7,
    hidden=16,
    layers=2,
    heads=2,
    ffn=24,
    pos_kernel=8,
    pos_groups=2,
    buckets=16,
    max_distance=40,
)
LARGE = SOUNDS.model_copy(update=dict(conv_norm='layer', normalize=True))
CODEC = VqganParams(
    size=32, ch=32, ch_mult=[1, 2], attention=[16], channels=32, embed=8, codes=16
)

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


def arrays(path):
    return {k: torch.from_numpy(v) for k, v in np.load(path).items()}


def close(ours, theirs, atol, what=''):
    gap = (ours.detach().double() - theirs.double()).abs().max().item()
    assert ours.shape == theirs.shape and gap <= atol, f'{what}: {gap:.2e} > {atol}'


def same(ours, theirs):
    assert ours.keys() == theirs.keys() and all(
        torch.equal(v, theirs[k]) for k, v in ours.items()
    )


def whole(report, matched, **dropped):
    assert (
        report['matched'],
        report['missing'],
        report['left_over'],
        report['dropped'],
    ) == (matched, [], [], dropped), report


def heard(folder) -> WavLM:
    "The WavLM of an imported folder, opened as the lab opens audio encoders."
    weights, sizes = open_wavlm(folder, AudioParams())
    wavlm = WavLM(sizes)
    wavlm.load_state_dict(weights)
    return wavlm.eval()


# ---- against the public implementations


@needs_reference
@pytest.mark.parametrize('name', ['brivl_baai', 'brivl_nmi', 'brivl_moco'])
def test_brivl_sees_and_reads_as_the_original(name, tmp_path):
    "In brivl_moco the momentum copies differ from the towers: it is the towers that are kept."
    at, given, want = (
        REFERENCE / name,
        arrays(REFERENCE / name / 'inputs.npz'),
        arrays(REFERENCE / name / 'outputs.npz'),
    )
    report = import_released(
        'brivl', at / 'checkpoint.pth', tmp_path
    )  # config.json lies beside it
    model, case = (
        BriVL.load(tmp_path),
        {'brivl_baai': 'grid_', 'brivl_nmi': '', 'brivl_moco': 'full_'}[name],
    )
    names = torch.load(at / 'checkpoint.pth', weights_only=True)['learnable']
    copies, positions = (
        sum('_mom.' in k for k in names),
        sum(k == 'textencoder.backbone.bert.embeddings.position_ids' for k in names),
    )
    whole(
        report,
        len(names) - copies - positions,
        **{'momentum copies': copies, 'numbers of positions': positions},
    )
    pixels = (
        given['image_norm']
        if name != 'brivl_nmi'
        else prepare_pixels(
            [Image.open(f) for f in sorted(at.glob('*.png'))], model.config.image_size
        )
    )
    boxes = (
        () if name != 'brivl_moco' else (given['full_boxes'], given['full_image_len'])
    )
    with torch.no_grad():
        seen, read = (
            model.encode_image(pixels, *boxes),
            model.encode_text(given['text_ids'], given['text_len']),
        )
    close(
        seen,
        want[
            f'{case}image_query' if name == 'brivl_moco' else f'{case}image_embedding'
        ],
        2e-6,
        'pictures',
    )
    close(
        read,
        want[f'{case}text_query' if name == 'brivl_moco' else 'text_embedding'],
        2e-6,
        'sentences',
    )


@needs_reference
def test_every_key_of_the_official_file():
    with gzip.open(
        REFERENCE / 'brivl_fullsize' / 'official_layout_manifest.json.gz'
    ) as f:
        manifest = json.load(f)
    with torch.device('meta'):
        model = BriVL('brivl-nmi')
    report = account_for_tensors(
        {k: tuple(s) for k, s, _ in manifest['entries']},
        model.state_dict(),
        rename_brivl_key,
        DROPPED['brivl'],
    )
    assert report == dict(
        matched=1159,
        missing=[],
        left_over=[],
        dropped={'momentum copies': 1160, 'numbers of positions': 1},
    )


def hears_as_the_original(folder, at):
    wavlm, x, want = (
        heard(folder),
        arrays(at / 'inputs.npz'),
        arrays(at / 'outputs.npz'),
    )

    def check(case, wave, lengths=None):
        with torch.no_grad():
            layers, padding = wavlm(wave, lengths)
        real = (
            torch.ones(layers[0].shape[:2], dtype=torch.bool)
            if padding is None
            else ~padding
        )
        if padding is not None:
            assert torch.equal(padding, want['padded_frame_padding_mask'])
        last = (
            wavlm.model.encoder.layer_norm(layers[-1]) if wavlm.stable else layers[-1]
        )
        close(last[real], want[f'{case}_last'][real], 5e-5, case)
        close(
            layers[1][real],
            want[f'{case}_layers'][:, 1][real],
            5e-5,
            f'{case}, layer 1',
        )

    check('nomask', x['wave_raw'])  # levelled, or not, as the folder says
    wavlm.params = wavlm.params.model_copy(update=dict(normalize=False))
    check('padded', x['wave_padded_network_input'], (~x['padding_mask']).sum(1))
    check('single', x['wave_single_network_input'])


def as_transformers(folder, at, mask, prefix='', old=False, binary=False):
    "The WavLM in `folder` as `transformers` may have written it."
    weights = {
        k.removeprefix('model.'): v
        for k, v in load_file(folder / 'model.safetensors').items()
    } | dict(masked_spec_embed=mask)
    if old:
        weights = {
            re.sub(
                r'parametrizations\.weight\.original(.)',
                lambda m: 'weight_' + 'gv'[int(m[1])],
                k,
            ): v
            for k, v in weights.items()
        }
    weights = {prefix + k: v for k, v in weights.items()} | (
        {'lm_head.weight': torch.zeros(3, 4)} if prefix else {}
    )
    at.mkdir()
    sizes = AudioParams(**read_json(folder / 'config.json'))
    wavlm_config(sizes).save_pretrained(at)
    write_json(
        dict(do_normalize=sizes.normalize, sampling_rate=16_000),
        at / 'preprocessor_config.json',
    )
    torch.save(weights, at / 'pytorch_model.bin') if binary else save_file(
        weights, at / 'model.safetensors'
    )
    return at


@needs_reference
@pytest.mark.parametrize('size', ['wavlm_base', 'wavlm_large'])
def test_wavlm_hears_as_the_original_in_every_layout(size, tmp_path):
    at = REFERENCE / size
    released = torch.load(at / 'checkpoint.pt', weights_only=True)['model']
    report = import_released('wavlm', at / 'checkpoint.pt', tmp_path / 'first')
    whole(report, len(released) - 1, **{"its own training's": 1})
    hears_as_the_original(tmp_path / 'first', at)
    for name, layout in dict(
        plain={},
        task=dict(prefix='wavlm.', binary=True),
        old=dict(old=True),
        old_task=dict(prefix='wavlm.', old=True, binary=True),
    ).items():
        other = import_released(
            'wavlm',
            as_transformers(
                tmp_path / 'first', tmp_path / name, released['mask_emb'], **layout
            ),
            tmp_path / f'{name}-out',
        )
        whole(
            other,
            report['matched'],
            **{'mask of its own training': 1},
            **({'heads of a task': 1} if 'prefix' in layout else {}),
        )
        same(
            load_file(tmp_path / 'first/model.safetensors'),
            load_file(tmp_path / f'{name}-out/model.safetensors'),
        )
        assert read_json(tmp_path / 'first/config.json') == read_json(
            tmp_path / f'{name}-out/config.json'
        )
    hears_as_the_original(tmp_path / 'old_task-out', at)


@needs_reference
@torch.no_grad()
def test_vqgan_draws_as_the_original(tmp_path):
    at, given, want = (
        REFERENCE / 'vqgan',
        arrays(REFERENCE / 'vqgan/inputs.npz'),
        arrays(REFERENCE / 'vqgan/outputs.npz'),
    )
    report = import_released(
        'vqgan', at / 'last.ckpt', tmp_path
    )  # model.yaml lies beside it
    keys = json.loads((at / 'config.json').read_text())['state_dict_keys']
    losses = sum(k.startswith('loss.') for k in keys)
    whole(report, len(keys) - losses, **{"the training losses'": losses})
    model = VQGAN.load(tmp_path)
    assert (model.config.size, VqganParams().size) == (32, 64), (
        "its own side, not the board's"
    )
    drawn, numbers = (
        model(given['image'])[0],
        model.quantise(model.encode(given['image']))[1],
    )
    assert torch.equal(numbers, want['indices'])
    close(drawn, want['decoded'], 1e-4, 'decoded')


# ---- layouts made here


def released_brivl(at, model, **more):
    "`model` in the released layout, its momentum copies other weights than its own."
    found = {
        to_released_name(k, m): v + 1 if m and v.is_floating_point() else v
        for m in (False, True)
        for k, v in model.state_dict().items()
    }
    if model.text is not None:
        found['textencoder.backbone.bert.embeddings.position_ids'] = torch.arange(24)[
            None
        ]
    torch.save({'learnable': found | more}, at)
    return at


@pytest.mark.parametrize('text', [True, False])
def test_brivl_with_and_without_words(tmp_path, text):
    model = BriVL(PICTURES, text=text)
    n = len(model.state_dict())
    report = import_released(
        'brivl', released_brivl(tmp_path / 'b.pth', model), tmp_path / 'out', PICTURES
    )
    whole(
        report,
        n,
        **{'momentum copies': n},
        **({'numbers of positions': 1} if text else {}),
    )
    again = BriVL.load(tmp_path / 'out')
    assert (again.text is not None) == text and {
        f.name for f in (tmp_path / 'out').iterdir()
    } == {'config.json', 'model.safetensors'}
    same(model.state_dict(), again.state_dict())
    assert (
        report['parameters'] == sum(v.numel() for v in model.state_dict().values())
        and report['sizes']['image_size'] == 32
    )


def test_brivl_in_the_releases_words_and_with_its_tokenizer(tmp_path):
    "The configuration lies beside the file, as the releases write it; the tokenizer in a BERT's folder."
    write_json(
        dict(
            MODEL=dict(
                CNN='test_efficientnet',
                IMG_SIZE=40,
                IMG_TRANSFORMER_LAYER=1,
                IMG_TRANSFORMER_HEAD=4,
                BOX_GRID=2,
                GRID_SIZE=2,
                MAX_TEXT_LEN=12,
                TEXT_TRANSFORMER_LAYER=1,
                TEXT_TRANSFORMER_HEAD=2,
                QUEUE_SIZE=8,
                MOMENTUM=0.99,
                TEMPERATURE=0.07,
            ),
            bert=dict(
                vocab_size=7,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=20,
            ),
        ),
        tmp_path / 'config.json',
    )
    model = BriVL(str(tmp_path / 'config.json')).eval()
    (tmp_path / 'bert').mkdir()
    (tmp_path / 'bert/vocab.txt').write_text(
        '\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '狗', '叫'])
    )
    (tmp_path / 'bert/config.json').write_text(json.dumps(dict(model_type='bert')))
    import_released(
        'brivl',
        released_brivl(tmp_path / 'b.pth', model),
        tmp_path / 'out',
        tokenizer=tmp_path / 'bert',
    )
    ids, lengths = tokenize(
        load_tokenizer(tmp_path / 'out/tokenizer.json'), ['狗叫'], 12
    )
    assert ids[0, :4].tolist() == [2, 5, 6, 3] and torch.equal(
        BriVL.load(tmp_path / 'out').encode_text(ids, lengths),
        model.encode_text(ids, lengths),
    )
    with pytest.raises(BadInput, match='no tokenizer there'):
        import_released(
            'brivl',
            tmp_path / 'b.pth',
            tmp_path / 'other',
            tokenizer=tmp_path / 'nowhere',
        )
    assert not (tmp_path / 'other').exists()


ORIGINAL = {
    'feature_projection.layer_norm.': 'layer_norm.',
    'feature_projection.projection.': 'post_extract_proj.',
    'encoder.pos_conv_embed.conv.parametrizations.weight.original0': 'encoder.pos_conv.0.weight_g',
    'encoder.pos_conv_embed.conv.parametrizations.weight.original1': 'encoder.pos_conv.0.weight_v',
    'encoder.pos_conv_embed.conv.bias': 'encoder.pos_conv.0.bias',
    '.attention.': '.self_attn.',
    '.rel_attn_embed.': '.relative_attention_bias.',
    '.gru_rel_pos_linear.': '.grep_linear.',
    '.gru_rel_pos_const': '.grep_a',
    '.feed_forward.intermediate_dense.': '.fc1.',
    '.feed_forward.output_dense.': '.fc2.',
}


def original_name(key, large):
    "A name of `transformers` as microsoft/unilm has it."
    if m := re.match(
        r'feature_extractor\.conv_layers\.(\d)\.(conv|layer_norm)\.(\w+)', key
    ):
        return f'feature_extractor.conv_layers.{m[1]}.{"0" if m[2] == "conv" else "2.1" if large else "2"}.{m[3]}'
    key = re.sub(r'(encoder\.layers\.\d+\.)layer_norm', r'\1self_attn_layer_norm', key)
    for ours, theirs in ORIGINAL.items():
        key = key.replace(ours, theirs)
    return key


def original_cfg(p):
    return dict(
        extractor_mode='layer_norm' if p.conv_norm == 'layer' else 'default',
        encoder_layers=p.layers,
        encoder_embed_dim=p.hidden,
        encoder_ffn_embed_dim=p.ffn,
        encoder_attention_heads=p.heads,
        conv_feature_layers='[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2',
        conv_pos=p.pos_kernel,
        conv_pos_groups=p.pos_groups,
        num_buckets=p.buckets,
        max_distance=p.max_distance,
        normalize=p.normalize,
    )


def released_wavlm(at, p, cfg=dict, **more):
    wavlm = WavLM(p).eval()
    torch.save(
        dict(
            cfg=cfg(**original_cfg(p)),
            model={
                original_name(k, p.conv_norm == 'layer'): v
                for k, v in wavlm.model.state_dict().items()
            }
            | dict(mask_emb=torch.zeros(p.hidden))
            | more,
        ),
        at,
    )
    return wavlm


@pytest.mark.parametrize('p', [SOUNDS, LARGE], ids=['base', 'large'])
def test_wavlm_of_the_original(tmp_path, p):
    wavlm = released_wavlm(tmp_path / 'w.pt', p)
    whole(
        import_released('wavlm', tmp_path / 'w.pt', tmp_path / 'out'),
        len(wavlm.state_dict()),
        **{"its own training's": 1},
    )
    again = heard(tmp_path / 'out')
    assert (
        again.params.normalize == p.normalize and again.params.conv_norm == p.conv_norm
    )
    same(wavlm.state_dict(), again.state_dict())


@pytest.mark.parametrize('p', [SOUNDS, LARGE], ids=['base', 'large'])
@pytest.mark.parametrize('task', [False, True])
def test_wavlm_as_transformers_saves_it(tmp_path, p, task):
    from transformers import WavLMForCTC, WavLMModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    theirs = (WavLMForCTC if task else WavLMModel)(wavlm_config(p)).eval()
    theirs.save_pretrained(tmp_path / 'hub')
    report, wave = (
        import_released('wavlm', tmp_path / 'hub', tmp_path / 'out'),
        torch.randn(2, 4000),
    )
    assert report['dropped'] == (
        {'mask of its own training': 1, 'heads of a task': 2}
        if task
        else {'mask of its own training': 1}
    )
    wavlm = heard(tmp_path / 'out')
    assert wavlm.params.normalize == p.normalize, (
        'without preprocessor_config.json: as the releases'
    )
    wavlm.params = p.model_copy(update=dict(normalize=False))
    with torch.no_grad():
        ours, want = (
            wavlm(wave)[0][1],
            (theirs.wavlm if task else theirs)(
                wave, output_hidden_states=True
            ).hidden_states[1],
        )
    close(ours, want, 1e-5)
    write_json(
        dict(do_normalize=not p.normalize), tmp_path / 'hub/preprocessor_config.json'
    )
    assert (
        import_released('wavlm', tmp_path / 'hub', tmp_path / 'out')['sizes'][
            'normalize'
        ]
        != p.normalize
    )


def hub_folder(at, **fields):
    at.mkdir()
    write_json(wavlm_config(SOUNDS).to_dict() | fields, at / 'config.json')
    save_file(
        {k: v.contiguous() for k, v in WavLM(SOUNDS).model.state_dict().items()},
        at / 'model.safetensors',
    )
    return at


@pytest.mark.parametrize(
    'fields, words',
    [
        (dict(model_type='hubert'), 'describes no WavLM'),
        (dict(conv_bias=True), 'conv_bias is True; only False'),
        (dict(do_stable_layer_norm=True), 'do_stable_layer_norm is True; only False'),
        (dict(hidden_act='relu'), 'hidden_act is relu; only gelu'),
        (dict(add_adapter=True), 'add_adapter'),
        (dict(conv_stride=[5, 2, 2, 2, 2, 2, 1]), 'conv_stride'),
        (dict(num_buckets=0), 'audio.buckets is 0'),
        (dict(num_hidden_layers=3), r'missing: encoder.layers.2'),
        (dict(num_hidden_layers=1), r'left over: encoder.layers.1'),
        (
            dict(intermediate_size=25),
            r'of another shape: encoder.layers.0.feed_forward',
        ),
    ],
)
def test_a_transformers_folder_that_is_refused(tmp_path, fields, words):
    with pytest.raises(BadInput, match=words):
        import_released(
            'wavlm', hub_folder(tmp_path / 'hub', **fields), tmp_path / 'out'
        )
    assert not (tmp_path / 'out').exists()


def taming(p):
    "A codec's configuration as its release writes it."
    return dict(
        model=dict(
            target=f'taming.models.vqgan.{"GumbelVQ" if p.gumbel else "VQModel"}',
            params=dict(
                embed_dim=p.embed,
                n_embed=p.codes,
                ddconfig=dict(
                    double_z=False,
                    z_channels=p.channels,
                    resolution=p.size,
                    in_channels=3,
                    out_ch=3,
                    ch=p.ch,
                    ch_mult=p.ch_mult,
                    num_res_blocks=p.res_blocks,
                    attn_resolutions=p.attention,
                    dropout=0.0,
                ),
            ),
        )
    )


@pytest.mark.parametrize(
    'p',
    [
        CODEC,
        CODEC.model_copy(update=dict(gumbel=True)),
        CODEC.model_copy(update=dict(size=256, ch_mult=[1, 1, 2, 2, 4])),
    ],
    ids=['nearest', 'gumbel', '256 px'],
)
@torch.no_grad()
def test_vqgan_opens_with_its_own_side(tmp_path, p):
    model = VQGAN(p).eval()
    torch.save(
        dict(
            state_dict=model.state_dict()
            | {'loss.discriminator.main.0.weight': torch.zeros(2)},
            epoch=7,
        ),
        tmp_path / 'last.ckpt',
    )
    (tmp_path / 'my.yaml').write_text(yaml.safe_dump(taming(p)))
    whole(
        import_released(
            'vqgan',
            tmp_path / 'last.ckpt',
            tmp_path / 'painter/vqgan',
            tmp_path / 'my.yaml',
        ),
        len(model.state_dict()),
        **{"the training losses'": 1},
    )
    codec = Painter.load(tmp_path / 'painter', 'cpu').vqgan
    assert (codec.config.size, codec.side, codec.config.gumbel) == (
        p.size,
        p.size // 2 ** (len(p.ch_mult) - 1),
        p.gumbel,
    )
    numbers = torch.randint(0, p.codes, (1, codec.side, codec.side))
    drawn = codec.decode(codec.lookup(numbers))
    assert drawn.shape == (1, 3, p.size, p.size) and torch.equal(
        drawn, model.decode(model.lookup(numbers))
    )


# ---- what is refused


class Opens:
    "What a hostile file holds: opening it as a pickle writes `mark`."

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return io.open, (self.mark, 'w')


def remedy(sentence, path, new):
    exec(
        re.search(r'`(found = .*\))`', sentence)[1],
        dict(torch=torch, PATH=path, NEW=new),
    )


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('kind', ['brivl', 'wavlm', 'vqgan', 'transformers'])
def test_a_pickle_that_would_run_code_is_refused_unopened_and_can_be_converted(
    tmp_path, kind, zipped
):
    mark, path = tmp_path / 'ran', tmp_path / 'weights.pt'
    (tmp_path / 'model.yaml').write_text(yaml.safe_dump(taming(CODEC)))
    if kind == 'transformers':
        (hub_folder(tmp_path / 'hub') / 'model.safetensors').unlink()
        path, plain = (
            tmp_path / 'hub/pytorch_model.bin',
            dict(WavLM(SOUNDS).model.state_dict()),
        )
    elif kind == 'brivl':
        plain = torch.load(released_brivl(path, BriVL(PICTURES)), weights_only=True)
    elif kind == 'vqgan':
        plain = dict(state_dict=VQGAN(CODEC).state_dict())
    else:
        released_wavlm(path, SOUNDS)
        plain = torch.load(path, weights_only=True)
    torch.save(
        plain | dict(args=Opens(mark)), path, _use_new_zipfile_serialization=zipped
    )
    source, how = (
        path.parent if kind == 'transformers' else path,
        dict(config=PICTURES) if kind == 'brivl' else {},
    )
    with pytest.raises(BadFile, match='would run code.*torch.save') as e:
        import_released(
            kind if kind != 'transformers' else 'wavlm', source, tmp_path / 'out', **how
        )
    assert (
        not mark.exists()
        and not (tmp_path / 'out').exists()
        and ('io.open' in str(e.value)) == zipped
    )
    if kind == 'transformers':
        return
    remedy(str(e.value), path, tmp_path / 'plain.pt')
    assert mark.exists(), 'it was live'
    assert (
        import_released(kind, tmp_path / 'plain.pt', tmp_path / 'out', **how)['missing']
        == []
    )


def test_a_cfg_that_is_an_object(tmp_path):
    released_wavlm(tmp_path / 'w.pt', SOUNDS, Namespace)
    with pytest.raises(BadFile, match='argparse.Namespace') as e:
        import_released('wavlm', tmp_path / 'w.pt', tmp_path / 'out')
    remedy(str(e.value), tmp_path / 'w.pt', tmp_path / 'plain.pt')
    assert (
        import_released('wavlm', tmp_path / 'plain.pt', tmp_path / 'out')['sizes'][
            'hidden'
        ]
        == 16
    )


def test_what_does_not_fit_is_listed_and_leaves_nothing(tmp_path):
    def refused(words, *args, **how):
        with pytest.raises(BadInput, match=words):
            import_released(*args, tmp_path / 'out', **how)
        assert {f.name for f in tmp_path.iterdir()} <= {
            'b.pth',
            'c.pth',
            'w.pt',
            'last.ckpt',
            'model.yaml',
        }

    model = BriVL(PICTURES)
    released_brivl(tmp_path / 'b.pth', model)
    refused(
        r'of another shape: text.backbone.*\[30, 16\] instead of \[31, 16\]',
        'brivl',
        tmp_path / 'b.pth',
        config=PICTURES.model_copy(
            update=dict(text=PICTURES.text.model_copy(update=dict(vocab=31)))
        ),
    )
    refused(
        r'12 missing: image.learnable.imgAtt.layers.1',
        'brivl',
        tmp_path / 'b.pth',
        config=PICTURES.model_copy(update=dict(image_layers=2)),
    )
    refused(r'brivl-baai, brivl-nmi', 'brivl', tmp_path / 'b.pth')
    refused(r'neither a preset', 'brivl', tmp_path / 'b.pth', config='brivl-ours')
    released_brivl(tmp_path / 'c.pth', model, **{'audioencoder.weight': torch.zeros(1)})
    refused(
        r'c.pth: does not fit the configuration; 1 left over: audioencoder.weight',
        'brivl',
        tmp_path / 'c.pth',
        config=PICTURES,
    )
    released_wavlm(tmp_path / 'w.pt', SOUNDS, extra=torch.zeros(1))
    refused(r'left over.*extra', 'wavlm', tmp_path / 'w.pt')
    released_wavlm(
        tmp_path / 'w.pt',
        SOUNDS,
        mask_emb=torch.zeros(3),
        **{'encoder.layer_norm.bias': torch.zeros(3)},
    )
    refused('1 of another shape: encoder.layer_norm.bias', 'wavlm', tmp_path / 'w.pt')
    torch.save(
        dict(
            state_dict=VQGAN(CODEC).state_dict()
            | {'quantize.embedding.weight': torch.zeros(16, 9)}
        ),
        tmp_path / 'last.ckpt',
    )
    refused('no model.yaml lies beside it', 'vqgan', tmp_path / 'last.ckpt')
    (tmp_path / 'model.yaml').write_text(yaml.safe_dump(taming(CODEC)))
    refused(
        r'1 of another shape: quantize.embedding.weight \[16, 9\] instead of \[16, 8\]',
        'vqgan',
        tmp_path / 'last.ckpt',
    )
    for kind, path, how, words in (
        ('clip', 'b.pth', {}, 'there are brivl, wavlm, vqgan'),
        ('vqgan', 'last.ckpt', dict(tokenizer='x'), 'has no tokenizer'),
        ('wavlm', 'w.pt', dict(config='x'), 'knows its own sizes'),
    ):
        refused(words, kind, tmp_path / path, **how)


def test_what_is_no_weight_file(tmp_path):
    torch.save({'learnable': {'a': torch.zeros(99)}}, tmp_path / 'whole.pth')
    for name, content, words in (
        ('cut.pth', (tmp_path / 'whole.pth').read_bytes()[:300], 'not a weight file'),
        ('page.pth', b'<html>404</html>', 'not a weight file'),
        ('empty.pth', b'', 'not a weight file'),
        ('page.safetensors', b'<html>404</html>', 'not a weight file'),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadFile, match=f'{name}: {words}'):
            tensor_shapes(tmp_path / name, 'brivl')
    torch.save([torch.zeros(1)], tmp_path / 'list.pth')
    with pytest.raises(BadFile, match='no weights by name'):
        tensor_shapes(tmp_path / 'list.pth', 'vqgan')
    with pytest.raises(BadFile, match='a folder; name the weight file'):
        import_released('vqgan', tmp_path, tmp_path / 'out')
    with pytest.raises(BadFile, match='does not exist'):
        import_released('wavlm', tmp_path / 'nowhere.pt', tmp_path / 'out')
    (tmp_path / 'hub').mkdir()
    with pytest.raises(
        BadInput, match='neither model.safetensors nor pytorch_model.bin'
    ):
        import_released('wavlm', tmp_path / 'hub', tmp_path / 'out')


def test_import_over_an_older_one(tmp_path):
    "What is refused leaves the older folder whole; what is accepted replaces it."
    write_json(taming(CODEC), tmp_path / 'model.yaml')
    torch.save(dict(state_dict=VQGAN(CODEC).state_dict()), tmp_path / 'a.ckpt')
    import_released('vqgan', tmp_path / 'a.ckpt', tmp_path / 'out')
    before = load_file(tmp_path / 'out/model.safetensors')
    torch.save(dict(state_dict={}, x=torch.zeros(1)), tmp_path / 'b.ckpt')
    with pytest.raises(BadInput):
        import_released('vqgan', tmp_path / 'b.ckpt', tmp_path / 'out')
    same(before, VQGAN.load(tmp_path / 'out').state_dict())
    torch.save(
        dict(state_dict={k: v + 1 for k, v in before.items()}), tmp_path / 'c.ckpt'
    )
    import_released('vqgan', tmp_path / 'c.ckpt', tmp_path / 'out')
    same(
        {k: v + 1 for k, v in before.items()}, VQGAN.load(tmp_path / 'out').state_dict()
    )
    with pytest.raises(BadInput, match='is a file; name a folder'):
        import_released('vqgan', tmp_path / 'c.ckpt', tmp_path / 'a.ckpt')


def test_the_command_line(tmp_path, capsys):
    released_wavlm(tmp_path / 'w.pt', SOUNDS)
    assert (
        main(['import', 'wavlm', str(tmp_path / 'w.pt'), '-o', str(tmp_path / 'out')])
        == 0
    )
    assert (
        "0 missing, 0 left over; dropped: 1 its own training's"
        in capsys.readouterr().out
    )
    assert (
        main(
            [
                'import',
                'wavlm',
                str(tmp_path / 'w.pt'),
                '-o',
                str(tmp_path / 'out'),
                '--json',
            ]
        )
        == 0
    )
    (report,) = json.loads(capsys.readouterr().out)
    assert (
        report['kind'] == 'wavlm'
        and report['folder'] == str(tmp_path / 'out')
        and report['sizes']['layers'] == 2
    )
    released_brivl(tmp_path / 'b.pth', BriVL(PICTURES))
    assert (
        main(
            [
                'import',
                'brivl',
                str(tmp_path / 'b.pth'),
                '-o',
                str(tmp_path / 'b'),
                '--preset',
                'brivl-baii',
            ]
        )
        == 2
        and 'neither a preset' in capsys.readouterr().err
    )
    (tmp_path / 'p.yaml').write_text(yaml.safe_dump(PICTURES.model_dump()))
    assert (
        main(
            [
                'import',
                'brivl',
                str(tmp_path / 'b.pth'),
                '-o',
                str(tmp_path / 'b'),
                '--config',
                str(tmp_path / 'p.yaml'),
            ]
        )
        == 0
    )
