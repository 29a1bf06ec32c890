"""What sharing key/value heads lost in the course's own models: a number of quality beside `choose`'s bytes and seconds."""

from .job import Job

SOURCE = "character models of 8 heads, chapter grouped_query"

# Query heads that share a key/value head -> nats per character above heads of their own: the mean of ten paired seeds and its
# 95 % interval, of the study `grouped_query_sharing`.
LOST = {2: (0.011, 0.001, 0.021), 4: (0.018, 0.005, 0.031), 8: (0.039, 0.028, 0.049)}


def sharing_lost(design: str, job: Job) -> tuple[str, ...]:
    """Return what the number of heads that share cost there, in words; nothing where each has its own.

    More heads than were measured get the number of the most, as a bound from below.
    """
    kv_heads = {"grouped_query": job.n_kv_heads, "multi_query": 1}.get(design, job.shape.n_heads)
    share = job.shape.n_heads // kv_heads
    if share == 1:
        return ()
    measured = max((size for size in LOST if size <= share), default=min(LOST))
    mean, low, high = LOST[measured]
    return (
        f"{share} query heads share a key/value head: {measured} sharing lost {mean:+.3f} nats per character "
        f"(95 % interval {low:+.3f} to {high:+.3f}; {SOURCE})",
    )
