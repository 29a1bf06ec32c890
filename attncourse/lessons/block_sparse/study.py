"""The recorded study of the chapter: both tasks over several seeds, as `python -m attncourse.lessons.block_sparse.study`."""

from tqdm import tqdm

from attncourse.models.study import record_over_seeds
from attncourse.models.training import one_thread

from .lookup import accuracy_of_layers, by_group
from .streams import RIVALS, held_out_loss

NAME = "block_sparse_training"
COMMAND = "python -m attncourse.lessons.block_sparse.study"
LAYERS = {"one layer": 1, "two layers": 2}
SHORT, LONG = 100, 400  # training steps of the first task


def lookup_columns(accuracies: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return one name per layers and group of places: "one layer, seen" and so on."""
    return {f"{layers}, {group}": x for layers, groups in accuracies.items() for group, x in groups.items()}


@one_thread()
def measure(seeds: int) -> dict:
    """Return the held-out loss of each pattern after few and many steps, and the accuracy of each depth, per seed."""
    streams = {
        str(steps): {
            rival: [round(held_out_loss(rival, seed=seed, steps=steps), 3) for seed in range(seeds)]
            for rival in tqdm(RIVALS, desc=f"{steps} steps")
        }
        for steps in (SHORT, LONG)
    }
    lookup: dict[str, list[float]] = {}
    for seed in tqdm(range(seeds), desc="lookup"):
        groups = {name: by_group(accuracy_of_layers(n, seed=seed)) for name, n in LAYERS.items()}
        for column, accuracy in lookup_columns(groups).items():
            lookup.setdefault(column, []).append(round(accuracy, 3))
    return {"streams": streams, "lookup": lookup}


if __name__ == "__main__":
    record_over_seeds(NAME, measure, command=COMMAND, about=__doc__, seeds=5)
