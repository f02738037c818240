"Tiny random decoders in the layouts in which Stable unCLIP, Kandinsky 2.2 and IP-Adapter are released."

import diffusers as df
import tiny_teachers as tiny
import torch
import transformers as hf
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from safetensors.torch import save_file

WIDTH = 32  # of cross-attention, and of the text encoders
SIDE = 8  # of the latents
HALVES = dict(
    down_block_types=('DownEncoderBlock2D',) * 2,
    up_block_types=('UpDecoderBlock2D',) * 2,
    block_out_channels=(8, 8),
    norm_num_groups=4,
)
CROSS = dict(
    sample_size=SIDE,
    in_channels=4,
    out_channels=4,
    layers_per_block=1,
    block_out_channels=(8, 16),
    norm_num_groups=4,
    cross_attention_dim=WIDTH,
    down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
    up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
)


def vision_encoder(clip):
    "The image encoder of a saved CLIP, as decoders carry it."
    model = hf.CLIPModel.from_pretrained(clip)
    config = model.config.vision_config
    config.projection_dim = model.config.projection_dim
    encoder = hf.CLIPVisionModelWithProjection(config).eval()
    weights = model.state_dict()
    encoder.load_state_dict({k: weights[k] for k in encoder.state_dict()})
    return encoder


def text_parts(kind=hf.CLIPTextModel):
    "A tokenizer and a text encoder, no kin of the teacher's."
    words = tiny.clip_tokenizer()
    ends = dict(bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id)
    sizes = dict(vocab_size=len(words), max_position_embeddings=16)
    config = hf.CLIPTextConfig(**tiny.TOWER, **sizes, **ends, projection_dim=WIDTH)
    return dict(tokenizer=words, text_encoder=kind(config))


def save_unclip(folder, clip, dim=24):
    "Stable unCLIP, with the image encoder of a saved CLIP."
    torch.manual_seed(2)
    normalizer = StableUnCLIPImageNormalizer(dim)
    with torch.no_grad():
        normalizer.mean.normal_(0, 0.1)
        normalizer.std.uniform_(0.5, 1.5)
    classes = dict(class_embed_type='projection')
    classes['projection_class_embeddings_input_dim'] = 2 * dim
    df.StableUnCLIPImg2ImgPipeline(
        feature_extractor=hf.CLIPImageProcessor(**tiny.SHORTEST),
        image_encoder=vision_encoder(clip),
        image_normalizer=normalizer,
        image_noising_scheduler=df.DDPMScheduler(beta_schedule='squaredcos_cap_v2'),
        unet=df.UNet2DConditionModel(**CROSS, **classes, attention_head_dim=(2, 4)),
        scheduler=df.DDIMScheduler(clip_sample=False, prediction_type='v_prediction'),
        vae=df.AutoencoderKL(**HALVES, latent_channels=4),
        **text_parts(),
    ).save_pretrained(folder)


def save_kandinsky(folder, dim=24):
    "The decoder of Kandinsky 2.2, which has no image encoder."
    torch.manual_seed(3)
    blocks = dict(
        down_block_types=('ResnetDownsampleBlock2D', 'SimpleCrossAttnDownBlock2D'),
        up_block_types=('SimpleCrossAttnUpBlock2D', 'ResnetUpsampleBlock2D'),
        mid_block_type='UNetMidBlock2DSimpleCrossAttn',
        resnet_time_scale_shift='scale_shift',
        attention_head_dim=4,
        class_embed_type=None,
        addition_embed_type='image',
        addition_embed_type_num_heads=2,
        encoder_hid_dim=dim,
        encoder_hid_dim_type='image_proj',
        out_channels=8,
    )
    betas = dict(beta_schedule='linear', beta_start=0.00085, beta_end=0.012)
    scheduler = df.DDPMScheduler(variance_type='learned_range', **betas)
    movq = HALVES | dict(block_out_channels=(32, 32), norm_type='spatial')
    movq |= dict(num_vq_embeddings=12, vq_embed_dim=4)
    df.KandinskyV22Pipeline(
        unet=df.UNet2DConditionModel(**CROSS | blocks),
        scheduler=scheduler,
        movq=df.VQModel(**movq, latent_channels=4),
    ).save_pretrained(folder)


def save_prior(folder, clip):
    "What of Kandinsky's prior concerns pictures: its image encoder."
    vision_encoder(clip).save_pretrained(folder / 'image_encoder')


def save_stable_diffusion(folder):
    "Stable Diffusion without a safety checker."
    torch.manual_seed(4)
    df.StableDiffusionPipeline(
        vae=df.AutoencoderKL(**HALVES, latent_channels=4),
        unet=df.UNet2DConditionModel(**CROSS, attention_head_dim=(2, 4)),
        scheduler=df.DDIMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **text_parts(),
    ).save_pretrained(folder)


def save_sdxl(folder):
    "Stable Diffusion XL."
    torch.manual_seed(5)
    one, two = text_parts(), text_parts(hf.CLIPTextModelWithProjection)
    more = dict(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type='text_time',
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        attention_head_dim=(2, 4),
    )
    df.StableDiffusionXLPipeline(
        vae=df.AutoencoderKL(**HALVES, latent_channels=4),
        unet=df.UNet2DConditionModel(**CROSS | more),
        scheduler=df.DDIMScheduler(clip_sample=False),
        tokenizer_2=two['tokenizer'],
        text_encoder_2=two['text_encoder'],
        force_zeros_for_empty_prompt=True,
        **one,
    ).save_pretrained(folder)


def save_ip_adapter(folder, base, clip, file='models/ip-adapter_sd15.safetensors'):
    "An IP-Adapter for a saved Stable Diffusion, its image encoder beside it."
    torch.manual_seed(6)
    unet = df.UNet2DConditionModel.from_pretrained(base / 'unet')
    encoder, width = vision_encoder(clip), unet.config.cross_attention_dim
    dim, path = encoder.config.projection_dim, folder / file
    weights = {
        'image_proj.proj.weight': torch.randn(4 * width, dim) / dim**0.5,
        'image_proj.proj.bias': torch.zeros(4 * width),
        'image_proj.norm.weight': torch.ones(width),
        'image_proj.norm.bias': torch.zeros(width),
    }
    number = 1
    for name, layer in unet.named_modules():
        if name.endswith('attn2'):
            for part in 'kv':
                shape = layer.to_k.weight.shape
                key = f'ip_adapter.{number}.to_{part}_ip.weight'
                weights[key] = torch.randn(shape) / width**0.5
            number += 2
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    encoder.half().save_pretrained(path.parent / 'image_encoder')
