"The smallest audio tower that tests share."

from wavbrivl.core.params import AudioParams

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
