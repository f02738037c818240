"""BriVL against what the public reference implementations computed, and against torchvision.

The former is skipped where the reference files are not beside the checkout."""

import gzip, json, zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from wavbrivl.image_text.layers import attend_valid, grid_boxes, masked_mean, valid_mask
from wavbrivl.image_text.image_tower import ImageTower
from wavbrivl.image_text.brivl import BriVL, freeze_early_layers, to_released_name
from wavbrivl.image_text.inputs import (
    augment,
    adjust_brightness,
    adjust_contrast,
    to_greyscale,
    adjust_hue,
    load_tokenizer,
    normalise_imagenet,
    adjust_saturation,
    prepare_pixels,
    to_unit_range,
    tokenize,
)
from wavbrivl.core.files import BadInput
from wavbrivl.training.losses import TwoWayMoCo

REFERENCE = Path(__file__).parents[2] / 'shared' / 'reference'
needs_reference = pytest.mark.skipif(
    not REFERENCE.exists(), reason='no reference files beside the checkout'
)


@pytest.fixture(autouse=True)
def two_threads():
    n = torch.get_num_threads()
    torch.set_num_threads(min(2, n))
    yield
    torch.set_num_threads(n)


def fixture(name):
    "config, inputs, outputs; arrays as tensors"
    at = REFERENCE / name
    arrays = lambda f: {k: torch.from_numpy(v) for k, v in np.load(at / f).items()}
    return (
        at,
        json.loads((at / 'config.json').read_text()),
        arrays('inputs.npz'),
        arrays('outputs.npz'),
    )


def close(ours, theirs, atol, what=''):
    gap = (ours.detach().double() - theirs.double()).abs().max().item()
    assert ours.shape == theirs.shape and gap <= atol, f'{what}: {gap:.2e} > {atol}'


def image_steps(tower, pixels, boxes=None, lengths=None):
    "Every intermediate of the image tower."
    fmap = tower.feature_map(pixels)
    patches = tower.patches(fmap, boxes, pixels.shape[-2:])
    valid = valid_mask(lengths, patches.shape[1])
    out = attend_valid(tower.learnable['imgAtt'], patches, valid)
    mean = masked_mean(out, valid)
    return dict(
        feature_map=fmap,
        patches=patches,
        valid=valid,
        att=out,
        mean=mean,
        raw=tower.learnable['imgFC'](mean),
    )


def check_image(model, pixels, want, prefix, boxes=None, lengths=None):
    s = image_steps(model.image, pixels, boxes, lengths)
    valid = (
        s['valid']
        if s['valid'] is not None
        else torch.ones(s['patches'].shape[:2], dtype=torch.bool)
    )
    assert torch.equal(valid, want[f'{prefix}image_mask'].bool())
    close(s['patches'], want[f'{prefix}img_patch_features'], 5e-5, 'patches')
    close(s['att'][valid], want[f'{prefix}img_att_out'][valid], 5e-5, 'attention')
    close(s['mean'], want[f'{prefix}img_mean_pooled'], 5e-5, 'mean')
    close(s['raw'], want[f'{prefix}img_embedding_raw'], 5e-5, 'raw')
    out = model.encode_image(pixels, boxes, lengths)
    close(out, want[f'{prefix}image_embedding'], 2e-6, 'embedding')
    return out


def check_text(model, given, want):
    ids, lengths = given['text_ids'], given['text_len']
    t, valid = model.text, valid_mask(lengths, ids.shape[1])
    assert torch.equal(valid, want['text_mask'].bool())
    close(t.tokens(ids), want['txt_bert_out'], 5e-5, 'BERT')
    att = attend_valid(t.learnable['textAtt'], t.tokens(ids), valid)
    close(att[valid], want['txt_att_out'][valid], 5e-5, 'attention')
    close(masked_mean(att, valid), want['txt_mean_pooled'], 5e-5, 'mean')
    close(t(ids, lengths), want['txt_embedding_raw'], 5e-5, 'raw')
    out = model.encode_text(ids, lengths)
    close(out, want['text_embedding'], 2e-6, 'embedding')
    return out


@needs_reference
@pytest.mark.parametrize('grad', [False, True])
def test_baai(grad):
    at, config, given, want = fixture('brivl_baai')
    with torch.set_grad_enabled(grad):
        model = BriVL.from_checkpoint(at / 'checkpoint.pth', config)
        close(
            model.image.feature_map(given['image_norm']),
            want['img_feature_map'],
            1e-4,
            'map',
        )
        close(
            normalise_imagenet(given['image_01']),
            given['image_norm'],
            2e-6,
            'normalise',
        )
        words = check_text(model, given, want)
        for case in ('grid', 'boxes'):
            pictures = check_image(
                model,
                given['image_norm'],
                want,
                f'{case}_',
                given[f'{case}_boxes'],
                given[f'{case}_len'],
            )
            close(pictures @ words.T, want[f'{case}_similarity'], 2e-6, 'similarity')
        check_image(
            model, given['image_norm'], want, 'grid_'
        )  # the default boxes are the grid
        close(grid_boxes(6, 114, 114), given['grid_boxes'][0], 1e-5)


@needs_reference
def test_single_box_and_single_picture():
    "The last picture of the fixture has the whole picture as its only valid box: given alone it is the same."
    at, config, given, want = fixture('brivl_baai')
    model = BriVL.from_checkpoint(at / 'checkpoint.pth', config, text=False)
    with torch.no_grad():
        one = model.encode_image(given['image_norm'][3:], given['boxes_boxes'][3:, :1])
    close(one[0], want['boxes_image_embedding'][3], 2e-6)


@needs_reference
def test_nmi_from_the_pngs():
    at, config, given, want = fixture('brivl_nmi')
    model = BriVL.from_checkpoint(at / 'checkpoint.pth', at / 'config.json')
    pixels = prepare_pixels(
        [Image.open(at / f) for f in config['pngs']], config['model']['IMG_SIZE']
    )
    close(pixels, given['image_norm'], 2e-6, 'preprocessing')
    with torch.no_grad():
        close(model.image.feature_map(pixels), want['img_feature_map'], 1e-4, 'map')
        words, pictures = (
            check_text(model, given, want),
            check_image(model, pixels, want, ''),
        )
        close(pictures @ words.T, want['similarity'], 2e-6, 'similarity')
        by_hand = model.encode_image(pixels, given['boxes_float64'], given['image_len'])
        close(by_hand, want['image_embedding'], 2e-6)
        trap = want['image_embedding_WRONG_if_antialias_true']
        assert (pictures - trap).abs().max() > 1e-3, 'resizing must not antialias'
        smooth = [
            F.interpolate(
                to_unit_range([i], i.height)
                .new_tensor(np.asarray(i.convert('RGB')))
                .permute(2, 0, 1)[None]
                / 255,
                (150, 150),
                mode='bilinear',
                antialias=True,
            )
            for i in (Image.open(at / f) for f in config['pngs'])
        ]
        close(
            model.encode_image(normalise_imagenet(torch.cat(smooth))),
            trap,
            2e-4,
            'what antialiasing would give',
        )


@needs_reference
def test_moco_towers():
    "Query and momentum towers of the training fixture; the second loads through `momentum=True`."
    at, config, given, want = fixture('brivl_moco')
    online = BriVL.from_checkpoint(at / 'checkpoint.pth', config)
    older = BriVL.from_checkpoint(at / 'checkpoint.pth', config, momentum=True)
    with torch.no_grad():
        for case in ('full', 'ragged'):
            close(
                online.encode_image(
                    given['image_norm'],
                    given[f'{case}_boxes'],
                    given[f'{case}_image_len'],
                ),
                want[f'{case}_image_query'],
                2e-6,
            )
        close(
            online.encode_text(given['text_ids'], given['text_len']),
            want['full_text_query'],
            2e-6,
        )
    assert not torch.equal(
        online.image.backbone.conv_stem.weight, older.image.backbone.conv_stem.weight
    )
    named = {
        f'{t}.{k}'
        for t, ks in config['trainable_backbone_parameters'].items()
        for k in ks
    }
    freeze_early_layers(online)
    ours = {
        to_released_name(k)
        for k, p in online.named_parameters()
        if p.requires_grad and 'backbone' in k
    }
    assert ours == named


def trainer(case):
    "The fixture's training step: ours, before it is taken."
    at, config, given, want = fixture('brivl_moco')
    load = lambda momentum: BriVL.from_checkpoint(
        at / 'checkpoint.pth', config, momentum=momentum
    )
    online, older, m = freeze_early_layers(load(False)), load(True), config['model']
    step = TwoWayMoCo(
        online.image,
        online.text,
        online.dim,
        m['QUEUE_SIZE'],
        m['MOMENTUM'],
        m['TEMPERATURE'],
    )
    step.momentum_a.load_state_dict(older.image.state_dict())
    step.momentum_b.load_state_dict(older.text.state_dict())
    for queue, before in ((step.queue_a, 'img'), (step.queue_b, 'text')):
        queue.restore(given[f'{before}_queue_before'], given['queue_ptr_before'])
    step.eval()
    x = (
        (given['image_norm'], given[f'{case}_boxes'], given[f'{case}_image_len']),
        (given['text_ids'], given['text_len']),
    )
    return step, x, given, want


@needs_reference
def test_moco_full():
    step, x, given, want = trainer('full')
    loss, details = step(*x)
    loss.backward()
    close(loss, want['full_loss'][0], 5e-5, 'loss')
    for ours, theirs, atol in (
        ('loss_ab', 'i2t_loss', 5e-5),
        ('loss_ba', 't2i_loss', 5e-5),
        ('logits_ab', 'i2t_logits', 5e-5),
        ('logits_ba', 't2i_logits', 5e-5),
        ('query_a', 'image_query', 2e-6),
        ('query_b', 'text_query', 2e-6),
        ('key_a', 'image_key', 2e-6),
        ('key_b', 'text_key', 2e-6),
    ):
        close(
            details[ours].reshape(want[f'full_{theirs}'].shape),
            want[f'full_{theirs}'],
            atol,
            theirs,
        )
    close(step.queue_a.keys, want['full_img_queue_after'], 2e-6, 'image queue')
    close(step.queue_b.keys, want['full_text_queue_after'], 2e-6, 'text queue')
    assert [int(step.queue_a.pointer), int(step.queue_b.pointer)] == want[
        'full_queue_ptr_after'
    ].tolist()
    online = {
        **{f'imgencoder.{k}': p for k, p in step.tower_a.named_parameters()},
        **{f'textencoder.{k}': p for k, p in step.tower_b.named_parameters()},
    }
    older = {
        **{f'imgencoder_mom.{k}': p for k, p in step.momentum_a.named_parameters()},
        **{f'textencoder_mom.{k}': p for k, p in step.momentum_b.named_parameters()},
    }
    checked = dict.fromkeys(('gradnorm', 'grad', 'momsum', 'mom'), 0)
    for name, value in want.items():
        kind, _, key = name.partition('.')
        if kind not in checked:
            continue
        checked[kind] += 1
        if kind == 'gradnorm':
            norm = online[key].grad.norm()
            if value > 1e-4:
                assert abs(norm - value) <= 1e-4 * value, (
                    f'{name}: {norm} against {value}'
                )
            else:
                assert norm < 1e-3
        elif kind == 'grad':
            assert (online[key].grad - value).norm() <= 5e-5 * value.norm(), name
        elif kind == 'momsum':
            assert abs(older[key].double().sum() - value) <= 1e-6 * older[
                key
            ].double().abs().sum().clamp(min=1), name
        else:
            close(older[key], value, 1e-6, name)
    assert (
        min(checked.values()) > 1
        and checked['gradnorm'] > 60
        and checked['momsum'] == len(older)
    ), checked
    unused = [k for k, p in online.items() if p.requires_grad and p.grad is None]
    assert not unused, unused


@needs_reference
def test_moco_ragged():
    """With padded boxes: what the reference gives unshuffled, and its own shuffled keys.

    It shuffles pictures and boxes, not the masks."""
    step, x, given, want = trainer('ragged')
    loss, details = step(*x)
    close(loss, want['ragged_loss_if_not_shuffled'][0], 5e-5, 'loss')
    close(
        details['key_a'], want['ragged_image_key_if_not_shuffled'], 2e-6, 'image keys'
    )
    for ours, theirs, atol in (
        ('logits_ab', 'i2t_logits', 5e-5),
        ('query_a', 'image_query', 2e-6),
        ('key_b', 'text_key', 2e-6),
    ):
        close(details[ours], want[f'ragged_{theirs}'], atol, theirs)
    close(step.queue_b.keys, want['ragged_text_queue_after'], 2e-6)
    at = given['ragged_shuffle_image']
    (pixels, boxes, lengths), _ = x
    with torch.no_grad():
        shuffled = F.normalize(step.momentum_a(pixels[at], boxes[at], lengths), dim=-1)
    close(
        shuffled[at.argsort()], want['ragged_image_key'], 2e-6, 'image keys, shuffled'
    )


def recipe(state, at, prefix, seed):
    "The weights of the full-size fixtures: small tensors from a file, the others from their names."
    small = np.load(at)
    for key, v in state.items():
        if v.ndim < 2:
            state[key] = torch.from_numpy(small[prefix + key])
            continue
        draw = np.random.RandomState(
            (zlib.crc32(key.encode()) ^ seed) & 0xFFFFFFFF
        ).standard_normal(tuple(v.shape))
        state[key] = torch.from_numpy(
            (draw * (1 / np.sqrt(np.prod(v.shape[1:])))).astype(np.float32)
        )
    return state


@needs_reference
def test_full_size():
    "EfficientNet-B5 at 456 px, 37 boxes, 2048-d: some seconds."
    at = REFERENCE / 'brivl_fullsize'
    config, want = (
        json.loads((at / 'config.json').read_text()),
        {k: torch.from_numpy(v) for k, v in np.load(at / 'outputs.npz').items()},
    )
    with torch.device('meta'):
        tower = ImageTower(config)
    assert tower.dim == config['model']['IMG_FEATURE_DIM']
    tower.load_state_dict(
        recipe(
            tower.state_dict(),
            at / 'weights_1d.npz',
            'learnable.imgencoder.',
            config['seed'],
        ),
        assign=True,
    )
    tower.eval()
    pixels = prepare_pixels([Image.open(at / 'image.png')], config['model']['IMG_SIZE'])
    close(pixels[:, :, :64, :64], want['image_norm_corner'], 2e-6, 'preprocessing')
    with torch.no_grad():
        s = image_steps(tower, pixels)
    close(s['feature_map'][:, ::8], want['img_feature_map_every8th'], 1e-3, 'map')
    close(s['patches'], want['img_patch_features'], 2e-4, 'patches')
    close(s['mean'], want['img_mean_pooled'], 2e-4, 'mean')
    close(s['raw'], want['img_embedding_raw'], 2e-4, 'raw')
    close(F.normalize(s['raw'], dim=-1), want['image_embedding'], 2e-6, 'embedding')
    with torch.no_grad():
        close(
            F.normalize(tower.for_inference()(pixels), dim=-1),
            want['image_embedding'],
            2e-6,
            'embedding, norms folded',
        )


@needs_reference
def test_official_layout():
    "Our preset has every tensor of the official file, with its shape, and nothing else."
    with gzip.open(
        REFERENCE / 'brivl_fullsize' / 'official_layout_manifest.json.gz'
    ) as f:
        manifest = json.load(f)
    theirs = {k: tuple(s) for k, s, _ in manifest['entries']}
    with torch.device('meta'):
        model = BriVL('brivl-nmi')
    ours = {
        to_released_name(k, m): tuple(v.shape)
        for m in (False, True)
        for k, v in model.state_dict().items()
    }
    constant = {k for k in theirs if k.endswith('embeddings.position_ids')}
    assert len(theirs) == 2320 and len(constant) == 2
    assert ours == {k: s for k, s in theirs.items() if k not in constant}


@needs_reference
def test_differences_are_named(tmp_path):
    at, config, *_ = fixture('brivl_nmi')
    found = torch.load(at / 'checkpoint.pth', weights_only=True)['learnable']
    found['imgencoder.learnable.extra.weight'] = torch.zeros(1)
    del found['textencoder.learnable.textFC.fc2.bias']
    torch.save({'learnable': found}, tmp_path / 'odd.pth')
    with pytest.raises(
        BadInput,
        match='1 missing: text.learnable.textFC.fc2.bias; 1 left over: image.learnable.extra.weight',
    ):
        BriVL.from_checkpoint(tmp_path / 'odd.pth', config)


def test_jitter_is_torchvisions():
    "Each operation, with a factor per picture, against torchvision one picture at a time."
    import torchvision.transforms.functional as V

    g = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 20, 20, generator=g)
    x[0] = 0.5
    x[1, 1] = x[1, 0]
    x[2] = 0
    x[3] = 1  # grey, two equal channels, black, white
    factor = 0.6 + 0.8 * torch.rand(8, generator=g)
    for ours, theirs, f in (
        (adjust_brightness, V.adjust_brightness, factor),
        (adjust_contrast, V.adjust_contrast, factor),
        (adjust_saturation, V.adjust_saturation, factor),
        (adjust_hue, V.adjust_hue, (factor - 1) / 4),
    ):
        want = torch.stack([theirs(p, v.item()) for p, v in zip(x, f)])
        close(ours(x, f), want, 2e-5, ours.__name__)
    close(to_greyscale(x), V.rgb_to_grayscale(x), 1e-6)


def test_augment_shares():
    "Four in five jittered, one in five grey; the same generator gives the same pictures, whatever the bytes came as."
    x = (
        255 * torch.rand(400, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    ).byte()
    draw = lambda v, **k: augment(v, torch.Generator().manual_seed(2), **k)
    out = draw(x)
    assert torch.equal(out, draw(x)) and torch.equal(out, draw(x.float() / 255))
    still = ((out - x / 255).abs().amax((1, 2, 3)) < 1e-4).float().mean()
    grey = ((out[:, 0] - out[:, 1]).abs().amax((1, 2)) < 1e-6).float().mean()
    assert 0.1 < still < 0.22 and 0.14 < grey < 0.26, (still, grey)


def test_a_berts_tokenizer(tmp_path):
    "The released tower's tokenizer loads from its folder, with nothing fetched."
    (tmp_path / 'vocab.txt').write_text(
        '\n'.join(
            ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '狗', '叫', 'a', 'dog']
        )
    )
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='bert')))
    ids, lengths = tokenize(load_tokenizer(tmp_path), ['狗叫', 'A dog', '狗' * 20], 6)
    assert ids.tolist() == [
        [2, 5, 6, 3, 0, 0],
        [2, 7, 8, 3, 0, 0],
        [2, 5, 5, 5, 5, 3],
    ] and lengths.tolist() == [4, 4, 6]
    with pytest.raises(BadInput, match='no tokenizer'):
        load_tokenizer(tmp_path / 'nowhere')


def test_pictures_of_every_kind():
    from itertools import product

    for mode, size in product(
        ('RGB', 'RGBA', 'L', 'LA', 'P', 'CMYK', '1'), ((1, 1), (50, 20))
    ):
        out = prepare_pixels([Image.new(mode, size)], 32)
        assert out.shape == (1, 3, 32, 32) and out.isfinite().all(), (mode, size)
    assert prepare_pixels([], 32).shape == (0, 3, 32, 32)
    with pytest.raises(BadInput):
        prepare_pixels([np.zeros((4, 4, 7), np.uint8)], 32)
