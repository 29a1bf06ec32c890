"""The recorded study of the chapter: every small system over several seeds.

Run as `python -m attncourse.lessons.real_systems.study`; it takes some minutes of one core.
"""

from collections.abc import Callable

from tqdm import tqdm

from attncourse.models.study import record_over_seeds

from .recipes import (
    SIDES,
    WAYS,
    measure_closed_book,
    measure_filler,
    measure_melodies,
    measure_open_book,
    measure_passages,
    measure_pictures,
    measure_translator,
    measure_writer,
    train_closed_book,
    train_filler,
    train_on_melodies,
    train_on_pictures,
    train_open_book,
    train_translator,
    train_writer,
)

NAME = "real_systems_seeds"
COMMAND = "python -m attncourse.lessons.real_systems.study"
LONGER = 750  # steps on pictures, three times as many as in the chapter


def systems() -> dict[str, Callable[[int], dict[str, float]]]:
    """Return what trains and measures each system, from a seed."""
    found = {
        "hidden characters": lambda seed: {side: measure_filler(train_filler(side, seed=seed), side) for side in SIDES},
        "next character": lambda seed: {"decoder": measure_writer(train_writer(seed=seed))},
        "dates": lambda seed: measure_translator(train_translator(seed=seed)),
        "hidden words": lambda seed: {"closed book": measure_closed_book(train_closed_book(seed=seed))},
        "open book": lambda seed: _open_book(seed),
    }
    for way in WAYS:
        found[f"pictures, {way}"] = lambda seed, way=way: measure_pictures(train_on_pictures(way, seed=seed))
        found[f"pictures, {way}, longer"] = lambda seed, way=way: measure_pictures(
            train_on_pictures(way, seed=seed, steps=LONGER)
        )
        found[f"melodies, {way}"] = lambda seed, way=way: measure_melodies(train_on_melodies(way, seed=seed))
    return found


def _open_book(seed: int) -> dict[str, float]:
    """Return what a reader of passages finds, and with how many passages at once."""
    model = train_open_book(seed=seed)
    more = {f"passages read: {p}": value for p, value in measure_passages(model).items()}
    return measure_open_book(model) | more


def study(seeds: int) -> dict[str, dict[str, list[float]]]:
    """Return each measure of each system, a number per seed."""
    results: dict[str, dict[str, list[float]]] = {}
    work = [(name, measure, seed) for name, measure in systems().items() for seed in range(seeds)]
    for name, measure, seed in tqdm(work, desc="systems"):
        for what, value in measure(seed).items():
            results.setdefault(name, {}).setdefault(what, []).append(round(value, 4))
    return results


if __name__ == "__main__":
    record_over_seeds(NAME, study, command=COMMAND, about=__doc__, seeds=3)
