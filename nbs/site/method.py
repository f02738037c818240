"""Draws nbs/method.svg, the diagram of the method: `python nbs/site/method.py`.

The picture follows the reader's light or dark theme where the page that shows it has one.
"""

from pathlib import Path

STYLE = """
  .paper { fill: #ffffff } .box { fill: #ffffff } .frozen { fill: #e4ebf2 }
  .taught { fill: #fde8d0 } .space { fill: #f5f7fa }
  .edge { stroke: #7b8794 } .head { fill: #7b8794 } .ink { fill: #1f2933 } .grey { fill: #52606d }
  .still { fill: #486581 } .moved { fill: #d9822b } .move { stroke: #d9822b }
  text { font-size: 15px } .bold { font-weight: 600 } .small { font-size: 12.5px } .middle { text-anchor: middle }
  path { fill: none; stroke-width: 1.8 } path.head { stroke: none } path.move { stroke-width: 2.4 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #131416 } .box { fill: #1b1d21 } .frozen { fill: #24364a }
    .taught { fill: #553410 } .space { fill: #1f242b }
    .edge { stroke: #8b98a7 } .head { fill: #8b98a7 } .ink { fill: #eef2f6 }
    .grey { fill: #b3bec9 } .still { fill: #8fb3d9 }
  }
"""
TITLE = 'The method of WavBriVL'
WORDS = (
    'A frozen image tower and a frozen text tower share one space. An audio tower is taught to put a sound where the '
    'picture of the same moment lies. From the space sounds are named, found, detected, captioned and drawn. Gloss, '
    'content words, is the bridge between sound and words.'
)
TOWERS = (  # what it takes, its name, what it is, how it is drawn, its height
    ('picture', 'Image tower', 'BriVL, frozen', 'frozen', 55),
    ('sound', 'Audio tower', 'WavLM + attention, taught', 'taught', 165),
    ('sentence', 'Text tower', 'BriVL, frozen', 'frozen', 275),
)
USES = (
    ('name', 'zero-shot, probe'),
    ('find', 'pictures, sounds, sentences'),
    ('detect and caption', 'frozen frames'),
    ('draw', 'VQGAN guidance, diffusion'),
)


def say(x, y, words, look) -> str:
    return f'<text x="{x}" y="{y}" class="{look}">{words}</text>'


def arrow(x0, y0, x1, y1, look='edge', more='') -> str:
    return (
        f'<path d="M{x0} {y0} L{x1} {y1}" class="{look}" marker-end="url(#a)"{more}/>'
    )


def box(x, y, width, height, look='box') -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="9" class="{look} edge"/>'


def named_box(x, y, width, height, look, name, note) -> list:
    middle = x + width / 2
    said = [
        say(middle, y + 27, name, 'ink bold middle'),
        say(middle, y + 47, note, 'grey small middle'),
    ]
    return [box(x, y, width, height, look), *said]


def draw_tower(taken, name, note, look, y) -> list:
    landing = 165 + (y - 165) // 3
    parts = [
        box(14, y - 22, 96, 44),
        say(62, y + 5, taken, 'ink bold middle'),
        arrow(110, y, 156, y),
    ]
    return [
        *parts,
        *named_box(160, y - 31, 190, 62, look, name, note),
        arrow(350, y, 484, landing),
    ]


def draw_space() -> list:
    parts = [
        '<ellipse cx="520" cy="165" rx="100" ry="128" class="space edge"/>',
        say(520, 64, 'one space', 'ink bold middle'),
    ]
    for y, look in ((128, 'still'), (165, 'moved'), (202, 'still')):
        parts.append(f'<circle cx="494" cy="{y}" r="7" class="{look}"/>')
    parts.append(arrow(494, 157, 494, 137, 'move'))
    lines = ('a sound goes', 'ink'), ('where its', 'grey'), ('picture lies', 'grey')
    return parts + [
        say(508, 151 + 17 * i, words, f'{look} small')
        for i, (words, look) in enumerate(lines)
    ]


def draw_uses() -> list:
    parts = [arrow(620, 165, 662, 165)]
    for i, (name, note) in enumerate(USES):
        y = 12 + 56 * i
        line = f'<tspan class="bold">{name}</tspan> <tspan class="grey small">{note}</tspan>'
        parts += [box(666, y, 280, 46), say(682, y + 28, line, 'ink')]
    parts += named_box(
        666, 252, 280, 62, 'taught', 'Gloss', 'content words: TWO DOG BARK YARD'
    )
    return parts + [arrow(608, 225, 662, 268, more=' stroke-dasharray="5 4"')]


def draw_method() -> str:
    head = '<marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 330" font-family="Helvetica, Arial, sans-serif" '
        'role="img" aria-labelledby="t d">',
        f'<title id="t">{TITLE}</title>',
        f'<desc id="d">{WORDS}</desc>',
        f'<style>{STYLE}</style>',
        f'<defs>{head}<path d="M0 0 10 5 0 10z" class="head"/></marker></defs>',
        '<rect width="960" height="330" class="paper"/>',
    ]
    parts += draw_space()
    for tower in TOWERS:
        parts += draw_tower(*tower)
    return '\n'.join([*parts, *draw_uses(), '</svg>', ''])


if __name__ == '__main__':
    place = Path(__file__).parents[1] / 'method.svg'
    place.write_text(draw_method(), encoding='utf-8')
