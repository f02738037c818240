"Tiny random models in the layouts in which CLIP and its kin are released: a folder, or a hub cache."

import json
import shutil

import tokenizers as tk
import torch
import transformers as hf

TEXTS = [
    'a dog barks',
    'rain falls on a tin roof',
    'a siren passes by',
    'the cat sleeps in the sun',
    'waves break on the shore',
]
COMMIT = 'c0ffee' * 6 + 'abcd'
SIDE = 32  # of the square that the towers see, px
TOWER = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
)
VISION = TOWER | dict(image_size=SIDE, patch_size=8)
SQUARE = dict(height=SIDE, width=SIDE)
SHORTEST = dict(size=dict(shortest_edge=SIDE), crop_size=SQUARE)


def clip_tokenizer():
    "CLIP's byte-level BPE, trained on a few words."
    alphabet = tk.pre_tokenizers.ByteLevel.alphabet()
    empty = hf.CLIPTokenizer(model_max_length=16)
    special = ['<|startoftext|>', '<|endoftext|>']
    trainer = tk.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=alphabet,
        end_of_word_suffix='</w>',
        show_progress=False,
    )
    backend = empty.backend_tokenizer
    backend.train_from_iterator(TEXTS, trainer)
    model = json.loads(backend.to_str())['model']
    merges = [tuple(m) for m in model['merges']]
    return hf.CLIPTokenizer(vocab=model['vocab'], merges=merges, model_max_length=16)


def bert_tokenizer():
    "A WordPiece vocabulary of letters."
    letters = 'abcdefghijklmnopqrstuvwxyz狗叫雨声'
    pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *letters]
    pieces += [f'##{x}' for x in letters]
    vocab = {p: i for i, p in enumerate(pieces)}
    return hf.BertTokenizer(vocab=vocab, model_max_length=20)


def unigram_tokenizer(length=16, **special):
    "A SentencePiece-like unigram vocabulary, as T5's and Gemma's."
    t = tk.Tokenizer(tk.models.Unigram())
    t.pre_tokenizer = tk.pre_tokenizers.Metaspace()
    t.normalizer = tk.normalizers.Lowercase()
    trainer = tk.trainers.UnigramTrainer(
        vocab_size=90,
        special_tokens=['<pad>', '</s>', '<unk>'],
        unk_token='<unk>',
        show_progress=False,
    )
    t.train_from_iterator(TEXTS * 4, trainer)
    t.post_processor = tk.processors.TemplateProcessing(
        single='$A </s>', special_tokens=[('</s>', t.token_to_id('</s>'))]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=t,
        model_max_length=length,
        pad_token='<pad>',
        eos_token='</s>',
        unk_token='<unk>',
        **special,
    )


def save_clip(folder):
    torch.manual_seed(0)
    words = clip_tokenizer()
    ends = dict(bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id)
    sizes = dict(vocab_size=len(words), max_position_embeddings=16)
    config = hf.CLIPConfig(
        text_config=TOWER | sizes | ends, vision_config=VISION, projection_dim=24
    )
    pictures = hf.CLIPImageProcessor(**SHORTEST)
    save_all(folder, hf.CLIPModel(config), hf.CLIPProcessor(pictures, words))


def save_siglip(folder):
    torch.manual_seed(0)
    words = unigram_tokenizer(model_input_names=['input_ids'])
    sizes = dict(vocab_size=len(words), max_position_embeddings=16)
    config = hf.SiglipConfig(text_config=TOWER | sizes, vision_config=VISION)
    pictures = hf.SiglipImageProcessor(size=SQUARE)
    model = hf.SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-3.0)
    save_all(folder, model, hf.SiglipProcessor(pictures, words))


def save_chinese_clip(folder):
    torch.manual_seed(0)
    words = bert_tokenizer()
    sizes = dict(vocab_size=len(words), max_position_embeddings=20)
    config = hf.ChineseCLIPConfig(
        text_config=TOWER | sizes, vision_config=VISION, projection_dim=24
    )
    pictures = hf.ChineseCLIPImageProcessor(**SHORTEST)
    model = hf.ChineseCLIPModel(config)
    save_all(folder, model, hf.ChineseCLIPProcessor(pictures, words))


def save_altclip(folder):
    torch.manual_seed(0)
    words = unigram_tokenizer(14)
    special = dict(pad_token_id=0, bos_token_id=2, eos_token_id=1)
    sizes = dict(vocab_size=len(words), max_position_embeddings=20, project_dim=24)
    config = hf.AltCLIPConfig(
        text_config=TOWER | sizes | special, vision_config=VISION, projection_dim=24
    )
    pictures = hf.CLIPImageProcessor(**SHORTEST)
    save_all(folder, hf.AltCLIPModel(config), hf.AltCLIPProcessor(pictures, words))


def save_siglip2(folder):
    torch.manual_seed(0)
    words = unigram_tokenizer(64, model_input_names=['input_ids'])
    sizes = dict(vocab_size=len(words), max_position_embeddings=64)
    vision = TOWER | dict(num_patches=16, patch_size=8)
    config = hf.Siglip2Config(text_config=TOWER | sizes, vision_config=vision)
    pictures = hf.Siglip2ImageProcessor(max_num_patches=16, patch_size=8)
    model = hf.Siglip2Model(config)
    save_all(folder, model, hf.Siglip2Processor(pictures, words))


def save_all(folder, model, processor):
    "All the files of a released model."
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_open_clip(folder, fit='shortest', **changes):
    "The files that OpenCLIP puts on the hub. `changes`: of the model's configuration."
    import open_clip

    config = dict(
        embed_dim=24,
        vision_cfg=dict(image_size=SIDE, layers=2, width=32, head_width=16)
        | dict(patch_size=8),
        text_cfg=dict(context_length=16, vocab_size=49408, width=32, heads=2, layers=2),
    )
    config |= changes
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if config.get('custom_text') else open_clip.CLIP
    fields = {k: v for k, v in config.items() if k != 'custom_text'}
    model = kind(**fields)
    folder.mkdir(parents=True, exist_ok=True)
    whole = dict(model_cfg=config, preprocess_cfg=PREPROCESS | dict(resize_mode=fit))
    (folder / 'open_clip_config.json').write_text(json.dumps(whole))
    from safetensors.torch import save_file

    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / 'open_clip_model.safetensors')


PREPROCESS = dict(
    mean=[0.48145466, 0.4578275, 0.40821073],
    std=[0.26862954, 0.26130258, 0.27577711],
    interpolation='bicubic',
)
SAVERS = dict(
    clip=save_clip,
    siglip=save_siglip,
    chinese_clip=save_chinese_clip,
    altclip=save_altclip,
    siglip2=save_siglip2,
)


def put_into_cache(folder, cache, name, revision='main'):
    "Lay a folder into a hub cache as the hub lays it; the commit it gets is `COMMIT`."
    home = cache / f'models--{name.replace("/", "--")}'
    snapshot = home / 'snapshots' / COMMIT
    snapshot.mkdir(parents=True)
    (home / 'blobs').mkdir()
    for i, p in enumerate(sorted(p for p in folder.rglob('*') if p.is_file())):
        blob, place = home / 'blobs' / f'{i:040x}', snapshot / p.relative_to(folder)
        shutil.copy(p, blob)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(blob)
    (home / 'refs').mkdir()
    (home / 'refs' / revision).write_text(COMMIT)
    return snapshot


def save_hubert(folder):
    "A tiny HuBERT and its feature extractor, as they are released."
    torch.manual_seed(1)
    sizes = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    )
    convolutions = dict(conv_dim=[8] * 7, num_conv_pos_embeddings=16)
    config = hf.HubertConfig(num_conv_pos_embedding_groups=4, **sizes, **convolutions)
    hf.HubertModel(config).save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)


def fill_cache(root, patched, models):
    "Save models, name -> how, into the hub cache `root`/hub, and let the hub's library look there."
    patched.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(root / 'hub'))
    for name, save in models.items():
        save(root / 'made')
        put_into_cache(root / 'made', root / 'hub', name)
        shutil.rmtree(root / 'made')
