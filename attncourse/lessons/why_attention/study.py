"""The chapter's recorded study: is it the long path or the one vector that loses long sources?

`python -m attncourse.lessons.why_attention.study` trains every design with three seeds and writes what came out.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from attncourse.models.dates import BEGIN, TARGET_VOCABULARY, Example, draw_examples, make_batch
from attncourse.models.seq2seq import Seq2Seq
from attncourse.models.seq2seq_training import exact_matches, train_seq2seq
from attncourse.models.study import write_study
from attncourse.models.training import one_thread

from .networks import make_network

NAME = "why_attention_one_vector"
SEEDS = (0, 1, 2)
SHORT, LONG, LONGEST = 800, 3000, 9000  # training steps
RUNS = (
    ("attention", SHORT),
    ("one vector", SHORT),
    ("one vector", LONG),
    ("mean vector", LONG),
    ("one vector, twice as wide", LONG),
    ("one vector", LONGEST),
    ("one vector, twice as wide", LONGEST),
)
RECIPE = {"batch_size": 16, "learning_rate": 5e-3}
EDGES = (1, 6, 9, 12, 15, 21)  # of the buckets of source lengths: 1 to 5 words, 6 to 8, and so on
SPAN = 50  # steps that a recorded loss is the mean of
EXAMPLE = Example(("march", "the", "fifth", "nineteen", "ninety", "eight"), "1998-03-05")  # for the first picture


def draw_data() -> tuple[list[Example], list[Example]]:
    """Return the examples to train on, and 600 held-out ones none of whose answers is among them."""
    test = draw_examples(600, most_items=2, seed=1)
    held_out = frozenset(example.target for example in [*test, EXAMPLE])
    return draw_examples(20_000, most_items=2, seed=2, without=held_out), test


def bucket_of(examples: list[Example]) -> Tensor:
    """Return the bucket of `EDGES` that each source's length falls into, from 0."""
    lengths = torch.tensor([len(example.source) for example in examples])
    return torch.bucketize(lengths, torch.tensor(EDGES), right=True) - 1


def shares_right(network: Seq2Seq, test: list[Example]) -> list[float]:
    """Return the share of exact matches in each bucket of source lengths."""
    right, buckets = torch.tensor(exact_matches(network, test)).double(), bucket_of(test)
    return [right[buckets == bucket].mean().item() for bucket in range(len(EDGES) - 1)]


@torch.no_grad()
def held_out_loss(network: Seq2Seq, test: list[Example]) -> float:
    """Return the mean loss per character of the right answers, in nats."""
    batch = make_batch(test)
    logits = network(batch.source, batch.lengths, batch.target[:, :-1])
    return cross_entropy(logits.flatten(0, 1), batch.target[:, 1:].flatten(), ignore_index=0).item()


def weights_of(network: Seq2Seq, example: Example) -> Float[Tensor, "t s"]:
    """Return the attention weights while the network writes its own answer: a row per character, a column per word."""
    batch, steps = make_batch([example]), len(example.target)
    _, weights = network.decode_greedy(batch.source, batch.lengths, begin=TARGET_VOCABULARY.index(BEGIN), steps=steps)
    return weights[0]


@one_thread()
def run(design: str, steps: int, seed: int) -> dict:
    """Train one network, and return its losses and its exact matches by length, as JSON holds them."""
    start = time.process_time()
    train, test = draw_data()
    network = make_network(design, seed=seed)
    losses = train_seq2seq(network, train, steps=steps, seed=seed, **RECIPE)
    means = torch.tensor(losses).view(-1, SPAN).mean(dim=1)
    found = {
        "design": design,
        "steps": steps,
        "seed": seed,
        "parameters": sum(p.numel() for p in network.parameters()),
        "losses": [round(loss, 4) for loss in means.tolist()],
        "held_out_loss": round(held_out_loss(network, test), 4),
        "right": [round(share, 4) for share in shares_right(network, test)],
    }
    if design == "attention":
        found["weights"] = [[round(w, 4) for w in row] for row in weights_of(network, EXAMPLE).tolist()]
    return found | {"seconds": round(time.process_time() - start, 1)}


def main(arguments: list[str] | None = None) -> None:
    """Run the study and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--workers", type=int, default=1, help="trainings at once, each on one core (default: %(default)s)"
    )
    workers = parser.parse_args(arguments).workers
    runs = [(design, steps, seed) for design, steps in RUNS for seed in SEEDS]
    with ProcessPoolExecutor(workers) as pool:
        waiting = [pool.submit(run, *one) for one in runs]
        for done in tqdm(as_completed(waiting), total=len(runs), unit="training"):
            tqdm.write("{design}, {steps} steps, seed {seed}: right {right}".format(**done.result()))
    found, (_, test) = [done.result() for done in waiting], draw_data()
    results = {"counts": torch.bincount(bucket_of(test)).tolist(), "runs": found}
    seconds = sum(one["seconds"] for one in found)  # of one core, however many workers there were
    print(write_study(NAME, results, seconds=seconds, command="python -m attncourse.lessons.why_attention.study"))


if __name__ == "__main__":
    main()
