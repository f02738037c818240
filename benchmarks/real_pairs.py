"""List ESC-50's sounds with pictures of what makes them, for presets/real.yaml.

    python benchmarks/real_pairs.py recordings/real build/esc10_pairs.csv

The folder holds esc/ in ESC-50's layout, images/ with index.csv and sound_image_map.csv, and
coco/images.csv. A class takes the pictures of its best grade in the map: exact before near
before weak. Folds 1 to 3 train, fold 4 tests; test clips draw from pictures that no training
clip has, where a class has two or more.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

from wavbrivl.data.tables import write_class_pairs

GRADES = 'exact', 'near', 'weak'


def read_rows(path: Path) -> list:
    "The rows of a CSV as dictionaries."
    with open(path, newline='', encoding='utf-8') as f:
        return list(csv.DictReader(f))


def best_classes(matches: list) -> dict:  # class of sounds -> classes of pictures
    "The picture classes of the best grade that a class of sounds has."
    graded = defaultdict(lambda: defaultdict(list))
    for row in matches:
        if row['sound_set'] == 'esc50':
            graded[row['category']][row['strength']].append(row['image_class'])
    best = {}
    for name, grades in graded.items():
        best[name] = next(grades[g] for g in GRADES if g in grades)
    return best


def find_pictures(root: Path, smallest: int) -> dict:  # class of sounds -> paths
    "Pictures by class of sounds; where some are `smallest` px or larger, these alone."
    by_class = defaultdict(list)
    for row in read_rows(root / 'images/index.csv'):
        side = min(int(row['width']), int(row['height']))
        by_class[row['image_class']].append((side >= smallest, f'images/{row["path"]}'))
    found = {}
    matches = read_rows(root / 'images/sound_image_map.csv')
    for name, classes in best_classes(matches).items():
        rows = [pair for c in classes for pair in by_class[c]]
        large = [path for is_large, path in rows if is_large]
        found[name] = large or [path for _, path in rows]
    return found | dict(sneezing=people(root))


def people(root: Path) -> list:
    "COCO's pictures with a person: who sneezes; no picture here shows it."
    rows = read_rows(root / 'coco/images.csv')
    named = [r['file'] for r in rows if 'person' in r['labels'].split('|')]
    places = {p.name: p for p in (root / 'coco').rglob('*.jpg')}
    return [places[n].relative_to(root).as_posix() for n in named if n in places]


def list_sounds(root: Path, classes: str) -> list:
    "ESC-50's clips: folds 1 to 3 train, fold 4 tests."
    sounds = []
    for row in read_rows(root / 'esc/meta/esc50.csv'):
        if classes == 'all' or row['esc10'] == 'True':
            split = 'test' if row['fold'] == '4' else 'train'
            audio = f'esc/audio/{row["filename"]}'
            label = row['category'].replace('_', ' ')
            sounds.append(dict(audio=audio, label=label, split=split))
    return sounds


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('root', type=Path)
    p.add_argument('out', type=Path)
    p.add_argument('--classes', choices=['esc10', 'all'], default='esc10')
    p.add_argument('--per-clip', type=int, default=4)
    p.add_argument('--smallest', type=int, default=100)
    a = p.parse_args()
    found = find_pictures(a.root, a.smallest)
    pictures = {name.replace('_', ' '): paths for name, paths in found.items()}
    a.out.parent.mkdir(parents=True, exist_ok=True)
    sounds = list_sounds(a.root, a.classes)
    print(
        write_class_pairs(a.out, sounds, pictures, a.per_clip),
        'rows,',
        len(sounds),
        'sounds',
    )


if __name__ == '__main__':
    main()
