"The smallest towers that tests share."

from wavbrivl.core.params import AudioParams, LanguageParams

SMALL = AudioParams(
    conv_dim=[8] * 7,
    hidden=32,
    layers=1,
    heads=2,
    ffn=32,
    embed=32,
    pos_kernel=8,
    pos_groups=2,
    block_heads=2,
    buckets=16,
)
HEARD = AudioParams(  # by the tower below
    conv_dim=[8] * 7,
    hidden=16,
    layers=2,
    heads=2,
    ffn=32,
    pos_kernel=16,
    pos_groups=2,
    embed=24,
)
BRIDGE = LanguageParams(
    hidden=16, layers=2, decoder_layers=1, heads=2, ffn=32, align_dim=8
)
