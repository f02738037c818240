"Released decoders draw what diffusers draws, for the embeddings of their own teacher, and open nothing else."

import json
import shutil

import diffusers as df
import numpy as np
import pytest
import tiny_decoders as tiny
import tiny_teachers
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from wavbrivl.core.files import BadFile, BadInput, FileNote
from wavbrivl.core.picture_params import GeneratorParams
from wavbrivl.core.runtime import derive_seed
from wavbrivl.decoders.condition import (
    EmbeddingFacts,
    ReleasedDecoder,
    embed_nothing,
    load_decoder,
    open_decoder,
    read_embedding_facts,
    save_decoder,
)
from wavbrivl.decoders.decoder_teacher import (
    ENCODER_OF,
    TEACHER_OF_WIDTH,
    check_decoder_teacher,
)
from wavbrivl.decoders.released_decoder import open_pipeline
from wavbrivl.image_text.brivl import BriVL
from wavbrivl.core.params import BrivlParams
from wavbrivl.teachers.clip import open_openclip, open_transformers

pytestmark = pytest.mark.usefixtures('one_thread')
NORM = 9.5
FACTS = EmbeddingFacts(NORM, torch.linspace(-0.1, 0.1, 24))
NAMES = ['dog', 'rain', 'bell']
XL = 'sdxl_models/ip-adapter_sdxl.safetensors'
SD = 'models/ip-adapter_sd15.safetensors'
KANDINSKY = 'kandinsky-community/kandinsky-2-2-decoder'


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "Every kind of decoder, and the CLIP that they draw for."
    home = tmp_path_factory.mktemp('decoders')
    tiny_teachers.save_clip(home / 'clip')
    tiny.save_unclip(home / 'unclip', home / 'clip')
    tiny.save_kandinsky(home / 'kandinsky')
    tiny.save_prior(home / 'prior', home / 'clip')
    tiny.save_stable_diffusion(home / 'sd')
    tiny.save_sdxl(home / 'sdxl')
    tiny.save_ip_adapter(home / 'adapter', home / 'sd', home / 'clip', SD)
    tiny.save_ip_adapter(home / 'adapter', home / 'sdxl', home / 'clip', XL)
    return home


@pytest.fixture(scope='module')
def teacher(home):
    return open_transformers(home / 'clip')


@pytest.fixture(scope='module')
def wanted():
    return normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "An empty hub cache, and what puts a folder into it."
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    return lambda folder, name: tiny_teachers.put_into_cache(
        folder, tmp_path / 'hub', name
    )


def line(home, kind, **more):
    "The settings that name a saved decoder."
    given = dict(kind='pipeline', checkpoint=str(home / kind), steps=2)
    if kind == 'kandinsky':
        given['encoder'] = str(home / 'prior')
    if kind in ('sd', 'sdxl'):
        given['adapter'] = str(home / 'adapter' / (SD if kind == 'sd' else XL))
    return GeneratorParams(**given | more)


def generators():
    return [torch.Generator().manual_seed(derive_seed('noise', n)) for n in NAMES]


def by_diffusers(home, kind, e, prompt='', scale=None, weight=1.0):
    "What a user of diffusers writes."
    how = dict(generator=generators(), num_inference_steps=2)
    if scale is not None:
        how['guidance_scale'] = scale
    words = [prompt] * len(e)
    if kind == 'unclip':
        pipe = df.StableUnCLIPImg2ImgPipeline.from_pretrained(home / kind)
        return pipe(prompt=words, image_embeds=e, **how).images
    if kind == 'kandinsky':
        pipe = df.KandinskyV22Pipeline.from_pretrained(home / kind)
        encoder = hf.CLIPVisionModelWithProjection.from_pretrained(
            home / 'prior/image_encoder'
        )
        with torch.no_grad():
            nothing = encoder(torch.zeros(1, 3, 32, 32)).image_embeds
        embeds = dict(image_embeds=e, negative_image_embeds=nothing.repeat(len(e), 1))
        return pipe(**embeds, height=16, width=16, **how).images
    pipe = df.DiffusionPipeline.from_pretrained(home / kind)
    folder, file = (SD if kind == 'sd' else XL).split('/')
    place = dict(subfolder=folder, weight_name=file, image_encoder_folder=None)
    pipe.load_ip_adapter(str(home / 'adapter'), local_files_only=True, **place)
    pipe.set_ip_adapter_scale(weight)
    pictures = []
    for row, noise in zip(e[:, None, None], how.pop('generator')):
        rows = row if scale is not None and scale <= 1 else torch.cat((0 * row, row))
        given = dict(ip_adapter_image_embeds=[rows], generator=noise)
        pictures += pipe(prompt=prompt, **given, **how).images
    return pictures


def same(made, pictures):
    "Are they equal, but for a rounding of 1 of 255 in few places?"
    rows = [torch.from_numpy(np.array(p)).movedim(-1, 0) for p in pictures]
    off = (made.int() - torch.stack(rows).int()).abs()
    return off.max() <= 1 and off.float().mean() < 1e-3


@pytest.mark.parametrize('kind', ['unclip', 'kandinsky', 'sd', 'sdxl'])
def test_a_decoder_draws_what_diffusers_draws(kind, home, teacher, wanted):
    decoder = open_decoder(line(home, kind), teacher, FACTS)
    made = decoder.draw(wanted, NAMES)
    assert same(made, by_diffusers(home, kind, NORM * wanted))
    assert made.shape == (3, 3, 16, 16) and made.float().std(0).mean() > 1
    alone = decoder.draw(wanted[1:2], NAMES[1:2])
    assert (alone[0].int() - made[1].int()).abs().max() <= 1, 'whatever is beside it'
    rows = normalize(wanted + 0.5 * FACTS.gap, dim=1) * NORM
    changed = line(home, kind, shift=0.5, guidance_scale=1.0, adapter_scale=0.5)
    decoder = ReleasedDecoder(decoder.opened, changed, FACTS, decoder.nothing)
    if kind in ('sd', 'sdxl'):
        decoder.opened.pipe.set_ip_adapter_scale(0.5)
    own = by_diffusers(home, kind, rows, '', 1.0, 0.5)
    assert same(decoder.draw(wanted, NAMES), own)
    made = decoder.draw(wanted, NAMES, heard=False, guidance=3.0)
    assert same(made, by_diffusers(home, kind, NORM * wanted, '', 3.0, 0.5))


def test_words_and_noise_beside_the_embedding(home, teacher, wanted):
    plain = open_decoder(line(home, 'unclip'), teacher, FACTS).draw(wanted, NAMES)
    said = open_decoder(line(home, 'unclip', prompt='a dog'), teacher, FACTS)
    made = said.draw(wanted, NAMES)
    assert not torch.equal(made, plain)
    assert same(made, by_diffusers(home, 'unclip', NORM * wanted, 'a dog'))
    noisy = open_decoder(line(home, 'unclip', noise_level=500), teacher, FACTS)
    assert not torch.equal(noisy.draw(wanted, NAMES), plain)
    large = open_decoder(line(home, 'unclip', size=32), teacher, FACTS)
    assert large.draw(wanted[:1], NAMES[:1]).shape[-2:] == (32, 32)
    assert not len(large.draw(wanted[:0], []))
    with pytest.raises(BadInput, match=r'draws for \[N, 24\]'):
        large.draw(wanted[:, :5], NAMES)


def test_from_the_hubs_cache(home, teacher, wanted, hub, tmp_path):
    commit = tiny_teachers.COMMIT
    hub(home / 'kandinsky', KANDINSKY)
    hub(home / 'prior', ENCODER_OF[KANDINSKY])
    hub(home / 'sd', 'owner/sd')
    hub(home / 'adapter', 'h94/IP-Adapter')
    named = GeneratorParams(kind='pipeline', checkpoint=KANDINSKY, steps=2)
    made = open_decoder(named, teacher, FACTS).draw(wanted, NAMES)
    assert same(made, by_diffusers(home, 'kandinsky', NORM * wanted))
    save_decoder(named, tmp_path / 'kept')
    assert load_decoder(tmp_path / 'kept').revision == commit
    adapter = f'h94/IP-Adapter/{SD}'
    named = GeneratorParams(kind='pipeline', checkpoint='owner/sd', adapter=adapter)
    named = named.model_copy(update=dict(steps=2))
    made = open_decoder(named, teacher, FACTS).draw(wanted, NAMES)
    assert same(made, by_diffusers(home, 'sd', NORM * wanted))
    save_decoder(named, tmp_path / 'kept')
    kept = load_decoder(tmp_path / 'kept')
    assert (kept.revision, kept.adapter_revision) == (commit, commit)
    for key, name in (
        ('checkpoint', 'a/b'),
        ('adapter', f'a/b/{SD}'),
        ('encoder', 'a/b'),
    ):
        lost = named.model_copy(update={key: name})
        with pytest.raises(BadInput, match='once with `hf download a/b`'):
            open_decoder(lost, teacher, FACTS)


def test_half_precision_files(home, teacher, wanted, tmp_path):
    pipe = df.KandinskyV22Pipeline.from_pretrained(home / 'kandinsky')
    pipe.to(torch.float16).save_pretrained(tmp_path / 'half', variant='fp16')
    half = line(home, 'kandinsky', checkpoint=str(tmp_path / 'half'))
    made = open_decoder(half, teacher, FACTS).draw(wanted, NAMES).float()
    whole = open_decoder(line(home, 'kandinsky'), teacher, FACTS).draw(wanted, NAMES)
    assert (made - whole.float()).abs().mean() < 3
    fast = open_decoder(line(home, 'unclip'), teacher, FACTS, precision='bf16')
    assert fast.opened.pipe.unet.dtype == torch.bfloat16
    assert fast.draw(wanted, NAMES).float().std() > 1


# ---- which teacher


def test_a_decoder_of_another_teacher(home, teacher, tmp_path):
    other = hf.CLIPModel.from_pretrained(home / 'clip')
    torch.nn.init.normal_(other.visual_projection.weight)
    shutil.copytree(home / 'clip', tmp_path / 'other')
    other.save_pretrained(tmp_path / 'other')
    other = open_transformers(tmp_path / 'other')
    brivl = BriVL(BrivlParams(text=dict(vocab=80)))
    for kind in ('unclip', 'kandinsky', 'sd', 'sdxl'):
        named = line(home, kind)
        opened = open_pipeline(named)
        check_decoder_teacher(opened, named, teacher)
        for wrong in (other, brivl):
            with pytest.raises(BadInput, match='draws for embeddings of') as caught:
                check_decoder_teacher(opened, named, wrong)
            assert '\n' not in str(caught.value)


def test_the_right_teacher_is_named(home, teacher):
    opened = open_pipeline(line(home, 'kandinsky'))
    alone = line(home, 'kandinsky', encoder=None)
    for dim, right in TEACHER_OF_WIDTH.items():
        opened.dim = dim
        with pytest.raises(BadInput, match=f'set teacher.checkpoint to {right}'):
            check_decoder_teacher(opened, alone, teacher)
    opened.dim = 24
    with pytest.raises(BadInput, match='generator.encoder, of Kandinsky'):
        check_decoder_teacher(opened, alone, teacher)


def test_names_where_no_encoder_is_here(home, monkeypatch, teacher):
    opened = open_pipeline(line(home, 'kandinsky'))
    known = {24: str(home / 'clip')}
    monkeypatch.setattr('wavbrivl.decoders.decoder_teacher.TEACHER_OF_WIDTH', known)
    check_decoder_teacher(opened, line(home, 'kandinsky', encoder=None), teacher)


def test_a_teacher_in_open_clips_layout(tmp_path, monkeypatch):
    "The same tower by another library, under other names."
    pytest.importorskip('open_clip')
    tiny_teachers.save_open_clip(tmp_path / 'teacher')
    teacher = open_openclip(tmp_path / 'teacher')
    weights = teacher.model.visual.state_dict()
    config = hf.CLIPVisionConfig(**tiny_teachers.VISION | dict(intermediate_size=128))
    config.projection_dim, config.hidden_act = 24, 'gelu'
    encoder = hf.CLIPVisionModelWithProjection(config)
    encoder.load_state_dict(renamed(weights, encoder.state_dict()))
    tiny_teachers.save_clip(tmp_path / 'clip')
    monkeypatch.setattr(tiny, 'vision_encoder', lambda clip: encoder.eval())
    tiny.save_unclip(tmp_path / 'unclip', tmp_path / 'clip')
    named = line(tmp_path, 'unclip')
    check_decoder_teacher(open_pipeline(named), named, teacher)
    encoder.config.hidden_act = 'relu'
    encoder.save_pretrained(tmp_path / 'unclip/image_encoder')
    with pytest.raises(BadInput, match='draws for embeddings of'):
        check_decoder_teacher(open_pipeline(named), named, teacher)


def renamed(open_clip, like):
    "OpenCLIP's tensors by the names of transformers."
    out = {}
    for name in like:
        n = name.removeprefix('vision_model.').replace('embeddings.', '')
        n = n.replace('class_embedding', 'class_embedding')
        n = n.replace('patch_embedding', 'conv1').replace('pre_layrnorm', 'ln_pre')
        n = n.replace('position_embedding.weight', 'positional_embedding')
        n = n.replace('post_layernorm', 'ln_post')
        n = n.replace('encoder.layers', 'transformer.resblocks')
        n = n.replace('layer_norm', 'ln_').replace('self_attn', 'attn')
        n = n.replace('mlp.fc1', 'mlp.c_fc').replace('mlp.fc2', 'mlp.c_proj')
        if 'visual_projection' in n:
            out[name] = open_clip['proj'].T
            continue
        for i, part in enumerate(('q_proj', 'k_proj', 'v_proj')):
            if f'.{part}.' in n:
                whole = open_clip[n.replace(f'{part}.', 'in_proj_')]
                out[name] = whole.chunk(3)[i]
        out.setdefault(name, open_clip.get(n))
    return out


def test_nothing_is_the_image_encoders_own(home, teacher):
    encoder = hf.CLIPVisionModelWithProjection.from_pretrained(
        home / 'prior/image_encoder'
    )
    with torch.no_grad():
        own = encoder(torch.zeros(1, 3, 32, 32)).image_embeds[0]
    assert torch.allclose(embed_nothing(teacher), own, atol=1e-5)


# ---- what is refused


def put_pickle(at):
    at = at / 'unet'
    (at / 'diffusion_pytorch_model.safetensors').rename(
        at / 'diffusion_pytorch_model.bin'
    )


def put_code(at):
    (at / 'pipeline.py').write_text('raise SystemExit')


def put_code_in_a_part(at):
    (at / 'unet/my_unet.py').write_text('raise SystemExit')


def ask_for_code(at):
    path = at / 'unet/config.json'
    path.write_text(
        json.dumps(json.loads(path.read_text()) | dict(auto_map={'a': 'b'}))
    )


def change_index(at, **fields):
    path = at / 'model_index.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def lose_tensor(at, part='unet/diffusion_pytorch_model'):
    path = at / f'{part}.safetensors'
    weights = load_file(path)
    weights.pop(sorted(weights)[3])
    save_file(weights, path, dict(format='pt'))


def cut_short(at):
    path = at / 'unet/diffusion_pytorch_model.safetensors'
    path.write_bytes(path.read_bytes()[:-1000])


SPOILT = {
    'pickle': (put_pickle, 'these weights are a pickle'),
    'code': (put_code, 'brings code'),
    'code in a part': (put_code_in_a_part, 'brings code'),
    'code by name': (ask_for_code, 'auto_map'),
    'library': (
        lambda at: change_index(at, unet=['subprocess', 'Popen']),
        'of another library; it is not run',
    ),
    'class': (
        lambda at: change_index(at, text_encoder=['transformers', 'Popen']),
        'which transformers does not have',
    ),
    'no decoder': (
        lambda at: change_index(at, _class_name='FluxPipeline'),
        'draws for no image embedding here',
    ),
    'odd class': (lambda at: change_index(at, _class_name=['x']), 'draws for no image'),
    'list': (lambda at: (at / 'model_index.json').write_text('[]'), 'draws for no'),
    'no index': (lambda at: (at / 'model_index.json').unlink(), 'does not exist'),
    'part': (lambda at: shutil.rmtree(at / 'vae'), 'folder does not exist'),
    'tensor': (lose_tensor, 'lacks weights'),
    'tensor of words': (
        lambda at: lose_tensor(at, 'text_encoder/model'),
        'lacks weights',
    ),
    'cut': (cut_short, 'no whole safetensors file'),
    'encoder': (
        lambda at: change_index(at, image_encoder=['transformers', 'CLIPVisionModel']),
        'has no projection',
    ),
}


@pytest.mark.parametrize('fault', SPOILT)
def test_refused_with_a_sentence(fault, home, teacher, tmp_path):
    spoil, words = SPOILT[fault]
    shutil.copytree(home / 'unclip', tmp_path / 'unclip')
    spoil(tmp_path / 'unclip')
    with pytest.raises(BadFile, match=words) as caught:
        open_decoder(line(tmp_path, 'unclip'), teacher, FACTS)
    assert '\n' not in str(caught.value)


def test_adapters_that_are_refused(home, teacher, tmp_path):
    for settings, words in (
        (dict(adapter=None), 'name the IP-Adapter'),
        (dict(adapter='ip-adapter.safetensors'), 'owner/name/path on the hub'),
        (dict(adapter=str(tmp_path / 'x.safetensors')), 'owner/name/path on the hub'),
        (dict(adapter=str(home / 'adapter' / XL)), 'is no adapter for'),
        (dict(checkpoint=str(home / 'unclip')), 'leave out the adapter'),
        (dict(checkpoint=None), 'checkpoint is not set'),
    ):
        with pytest.raises(BadInput, match=words):
            open_decoder(line(home, 'sd', **settings), teacher, FACTS)
    bad = tmp_path / 'ip-adapter_sd15.bin'
    bad.write_bytes(b'pickle')
    with pytest.raises(BadFile, match='take the .safetensors'):
        open_decoder(line(home, 'sd', adapter=str(bad)), teacher, FACTS)
    plus = tmp_path / 'ip-adapter-plus.safetensors'
    save_file({'image_proj.latents': torch.zeros(1)}, plus)
    with pytest.raises(BadFile, match='more of a picture than its embedding'):
        open_decoder(line(home, 'sd', adapter=str(plus)), teacher, FACTS)


@pytest.mark.parametrize(
    'settings',
    [dict(size=15), dict(steps=5000), dict(noise_level=1000)],
)
def test_settings_that_cannot_be_drawn(settings, home, teacher, wanted):
    decoder = open_decoder(line(home, 'unclip', **settings), teacher, FACTS)
    with pytest.raises(BadInput, match='unclip: ') as caught:
        decoder.draw(wanted, NAMES)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text', ['[]', '{"steps": 0}', '{"stepps": 3}', '{'])
def test_a_painters_line_that_is_spoilt(text, tmp_path):
    (tmp_path / 'generator.json').write_text(text)
    with pytest.raises(BadInput, match='generator.json') as caught:
        load_decoder(tmp_path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'info',
    [
        dict(norm='long'),
        dict(norm=-1.0),
        dict(norm=float('nan')),
        dict(gap=[1.0]),
        dict(gap=['a'] * 24),
        dict(gap={'a': 1}),
        [3],
    ],
)
def test_facts_of_another_space(info):
    with pytest.raises(BadInput, match='no length and 24 numbers'):
        read_embedding_facts(dict(embeddings=info), 24)


def test_a_model_that_knows_no_length(home, teacher, wanted):
    decoder = open_decoder(line(home, 'unclip'), teacher, EmbeddingFacts())
    with pytest.raises(BadInput, match='set generator.norm'):
        decoder.draw(wanted, NAMES)
    decoder.params = line(home, 'unclip', norm=NORM)
    known = open_decoder(line(home, 'unclip'), teacher, FACTS)
    assert torch.equal(decoder.draw(wanted, NAMES), known.draw(wanted, NAMES))
    decoder.params = line(home, 'unclip', norm=NORM, shift=1.0)
    with pytest.raises(BadInput, match='generator.shift to 0'):
        decoder.draw(wanted, NAMES)
    assert len(decoder.draw(wanted, NAMES, heard=False)) == 3


def test_black_pictures_are_said(home, teacher, wanted):
    decoder = open_decoder(line(home, 'sd'), teacher, FACTS)
    pipe = decoder.opened.pipe
    black = lambda image, *_: (0 * image, [True] * len(image))
    pipe.run_safety_checker = black
    with pytest.warns(FileNote, match='made 1 of 1 pictures black'):
        assert not decoder.draw(wanted, NAMES).any()


def test_numbers_that_leave_the_range_are_said(home, teacher, wanted):
    settings = dict(guidance_scale=1e39)
    decoder = open_decoder(line(home, 'unclip', **settings), teacher, FACTS)
    with pytest.raises(BadInput, match='not finite; bring generator.guidance_scale'):
        decoder.draw(wanted, NAMES)


@pytest.mark.parametrize('kind', ['unclip', 'kandinsky'])
def test_pictures_that_no_memory_holds(kind, home, teacher, wanted):
    decoder = open_decoder(line(home, kind, size=8 * 10**6), teacher, FACTS)
    with pytest.raises(BadInput, match='memory is too small.*generator.size'):
        decoder.draw(wanted, NAMES)


@pytest.mark.parametrize('part', ['unet', 'image_encoder', 'vae', 'text_encoder'])
def test_weights_that_are_not_finite(part, home, teacher, tmp_path):
    shutil.copytree(home / 'unclip', tmp_path / 'unclip')
    (path,) = (tmp_path / 'unclip' / part).glob('*.safetensors')
    weights = load_file(path)
    weights[sorted(weights)[0]].view(-1)[0] = torch.nan
    save_file(weights, path, metadata=dict(format='pt'))
    with pytest.raises(BadFile, match=f'{part}.*NaN or infinite'):
        open_decoder(line(tmp_path, 'unclip'), teacher, FACTS)


def test_an_encoder_that_sees_nothing_is_not_the_teachers(home, teacher):
    opened = open_pipeline(line(home, 'unclip'))
    torch.nn.init.constant_(opened.pipe.image_encoder.visual_projection.weight, np.nan)
    with pytest.raises(BadInput, match='draws for embeddings of'):
        check_decoder_teacher(opened, line(home, 'unclip'), teacher)


def test_the_encoders_commit_is_kept(home, teacher, wanted, hub, tmp_path):
    commit = hub(home / 'prior', 'own/prior').name
    given = line(home, 'kandinsky', encoder='own/prior', encoder_revision=commit)
    assert len(open_decoder(given, teacher, FACTS).draw(wanted, NAMES)) == 3
    save_decoder(line(home, 'kandinsky', encoder='own/prior'), tmp_path)
    assert load_decoder(tmp_path).encoder_revision == commit
    lost = line(home, 'kandinsky', encoder='own/prior', encoder_revision='a' * 40)
    with pytest.raises(BadInput, match='own/prior, revision aaaa'):
        open_decoder(lost, teacher, FACTS)


def test_no_bars_beside_the_answers(home, teacher, capfd):
    open_decoder(line(home, 'unclip'), teacher, FACTS)
    open_decoder(line(home, 'kandinsky'), teacher, FACTS)
    assert capfd.readouterr().err == ''


def test_a_line_that_is_spoilt_is_explained_by_its_full_name(tmp_path):
    (tmp_path / 'generator.json').write_text('{"steps": "many"}')
    with pytest.raises(
        BadInput, match='generator.steps is .many.; it must be at least'
    ):
        load_decoder(tmp_path)
    (tmp_path / 'generator.json').write_text('{"step": 3}')
    with pytest.raises(BadInput, match='did you mean generator.steps'):
        load_decoder(tmp_path)


@pytest.mark.parametrize(
    'lost, named',
    [
        ('vocab.json tokenizer.json', '(merges.txt|vocab.json)'),
        ('tokenizer_config.json', 'tokenizer_config.json'),
    ],
)
def test_a_tokenizer_without_its_files(lost, named, home, tmp_path):
    shutil.copytree(home / 'unclip', tmp_path / 'unclip')
    place = tmp_path / 'unclip/tokenizer'
    for name in lost.split():
        (place / name).unlink(missing_ok=True)
    with pytest.raises(BadFile, match=f'tokenizer/{named}.*fetch'):
        open_pipeline(line(tmp_path, 'unclip'))


@pytest.mark.parametrize('part', ['unet/diffusion_pytorch_', 'text_encoder/'])
def test_a_file_cut_short_is_named(part, home, tmp_path):
    shutil.copytree(home / 'unclip', tmp_path / 'unclip')
    path = tmp_path / f'unclip/{part}model.safetensors'
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(BadFile, match=f'{part}model.safetensors.*fetch'):
        open_pipeline(line(tmp_path, 'unclip'))
    path.rename(path.with_suffix('.bin'))
    with pytest.raises(BadFile, match='a pickle.*fetch a revision') as e:
        open_pipeline(line(tmp_path, 'unclip'))
    assert 'wavbrivl import' not in str(e.value), 'it makes no part of a decoder'
