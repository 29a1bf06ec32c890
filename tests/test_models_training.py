"""The text, the training loop and its checkpoints, and generation."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from attncourse.lessons.real_systems.encoder_decoder import EncoderDecoder
from attncourse.models import text
from attncourse.models.decoder import DecoderLM, next_token_loss
from attncourse.models.generate import choose, generate
from attncourse.models.training import mean_loss, one_thread, train

ROOT = Path(__file__).parents[1]

# The text.


def test_tokens_are_the_text_again():
    everything = text.read_text(held_out=False) + text.read_text(held_out=True)
    tokens = text.encode(everything)
    assert text.decode(tokens) == everything
    assert int(tokens.min()) > 0 and int(tokens.max()) < len(text.CHARACTERS)
    assert text.decode(torch.tensor([0, 35, 0, 36])) == "AB"


def test_nothing_held_out_stands_in_the_training_text():
    training, held_out = (text.read_text(held_out=x).splitlines() for x in (False, True))
    assert not set(training) & set(held_out)
    assert len(training) + len(held_out) == len(set(training) | set(held_out))
    share = sum(map(len, held_out)) / sum(map(len, training + held_out))
    assert 0.04 < share < 0.4
    assert len("\n".join(training)) > 100_000


def test_paragraphs_are_lines_of_known_characters():
    got = text._paragraphs("Title\n*****\n\nOne “two”\n   three… é\n\n\n   \n\nx = 3 ** 4\n")
    assert got == ["Title", 'One "two" three... ?', "x = 3 ** 4"]


def test_windows_are_pieces_of_the_text_from_everywhere():
    tokens, rng = torch.arange(10), torch.Generator().manual_seed(0)
    windows = text.draw_windows(tokens, count=400, length=4, rng=rng)
    assert torch.equal(windows, windows[:, :1] + torch.arange(4))
    assert set(windows[:, 0].tolist()) == set(range(7))
    assert torch.equal(text.draw_windows(tokens, count=3, length=10, rng=rng), tokens.expand(3, 10))
    repeated = (text.draw_windows(tokens, count=9, length=2, rng=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(*repeated)


# The loop.


class Noisy(nn.Module):
    """A regression whose training draws from both generators."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, x):
        return self.layers(x)


def noisy_loss(model, rng):
    x = torch.randn(16, 5, generator=rng)
    return (model(x) - x.sum(dim=1, keepdim=True)).square().mean()


def parameters(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_loop_is_adam_with_a_cosine_and_a_clip():
    """The same by hand: moments, bias corrections, rate and clip from the paper's formulas, in plain tensors."""
    model, by_hand = Noisy().double().eval(), Noisy().double().eval()
    steps, rate, clip = 7, 0.05, 0.5
    batches = torch.randn(steps, 16, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def loss_of(network, x):
        return (network.eval()(x) - x.sum(dim=1, keepdim=True)).square().mean()

    queue = iter(batches)
    got = train(model, lambda m, _: loss_of(m, next(queue)), steps=steps, learning_rate=rate, clip=clip)
    weights = list(by_hand.parameters())
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    clipped = 0
    for step, x in enumerate(batches):
        loss = loss_of(by_hand, x)
        assert got[step] == pytest.approx(loss.item())
        gradients = torch.autograd.grad(loss, weights)
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        clipped += int(norm > clip)
        gradients = [g * min(1.0, clip / (norm.item() + 1e-6)) for g in gradients]
        now = rate * (1 + torch.cos(torch.tensor(torch.pi * step / steps, dtype=torch.float64)).item()) / 2
        for w, g, m, v in zip(weights, gradients, first, second, strict=True):
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            corrected = (v / (1 - 0.999 ** (step + 1))).sqrt()
            w.data -= now * (m / (1 - 0.9 ** (step + 1))) / (corrected + 1e-8)
    assert clipped > 0
    torch.testing.assert_close(parameters(model), parameters(by_hand))


def test_training_repeats_by_its_seed_and_leaves_the_callers_generator_alone():
    def run(seed):
        model = Noisy()
        torch.manual_seed(5)
        before = torch.get_rng_state()
        losses = train(model, noisy_loss, steps=5, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        assert not model.training
        return losses

    assert run(0) == run(0) != run(1)


@pytest.mark.parametrize("stopped_after", [1, 4, 5, 10])
def test_a_resumed_run_is_an_uninterrupted_one_to_the_bit(tmp_path, stopped_after):
    whole = Noisy()
    losses = train(whole, noisy_loss, steps=11, seed=3)

    def interrupt(step, loss):
        if step + 1 == stopped_after:
            raise KeyboardInterrupt

    file, broken = tmp_path / "run.pt", Noisy()
    with pytest.raises(KeyboardInterrupt):
        train(broken, noisy_loss, steps=11, seed=3, checkpoint=file, every=2, on_step=interrupt)
    assert not broken.training
    resumed, redone = Noisy(), []
    got = train(
        resumed, noisy_loss, steps=11, seed=3, checkpoint=file, every=2, on_step=lambda step, _: redone.append(step)
    )
    # The interruption came before the checkpoint of its own step.
    assert redone[0] == (stopped_after - 1) // 2 * 2
    assert got == losses and torch.equal(parameters(resumed), parameters(whole))
    again = Noisy()
    assert train(again, noisy_loss, steps=11, seed=3, checkpoint=file, every=2, on_step=interrupt) == losses
    assert torch.equal(parameters(again), parameters(whole))


def test_a_killed_process_loses_one_interval_at_most(tmp_path):
    """SIGKILL, which nothing can catch, at whatever moment it comes."""
    file, log = tmp_path / "run.pt", tmp_path / "steps"
    script = f"""
        import time
        from tests.test_models_training import Noisy, noisy_loss
        from attncourse.models.training import train

        def slowly(step, loss):
            with open({str(log)!r}, "a") as steps:
                print(step, file=steps)
            time.sleep(0.01)

        train(Noisy(), noisy_loss, steps=2000, checkpoint={str(file)!r}, every=5, on_step=slowly)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, env=environment) as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_text(encoding="utf-8").count("\n") >= 23) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    taken = log.read_text(encoding="utf-8").count("\n")
    assert 23 <= taken < 2000
    saved = torch.load(file, weights_only=True)
    assert taken - 5 <= len(saved["losses"]) <= taken
    expected = []
    with pytest.raises(KeyboardInterrupt):
        train(Noisy(), noisy_loss, steps=2000, on_step=_stop_after(len(saved["losses"]), expected))
    assert saved["losses"] == expected


def _stop_after(count, losses):
    def on_step(step, loss):
        losses.append(loss)
        if step + 1 == count:
            raise KeyboardInterrupt

    return on_step


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    """A write that dies half way leaves the checkpoint before it in place, and the next run continues from that."""
    file, write = tmp_path / "run.pt", torch.save

    def dies_in_the_second(saved, to):
        write(saved, to)
        if len(saved["losses"]) == 4:
            to.truncate(100)
            raise OSError("no space left")

    monkeypatch.setattr(torch, "save", dies_in_the_second)
    with pytest.raises(OSError, match="no space"):
        train(Noisy(), noisy_loss, steps=6, checkpoint=file, every=2)
    monkeypatch.undo()
    assert len(torch.load(file, weights_only=True)["losses"]) == 2
    assert train(Noisy(), noisy_loss, steps=6, checkpoint=file, every=2) == train(Noisy(), noisy_loss, steps=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.pt"]


def test_a_bar_shows_on_standard_output_where_asked(capfd):
    train(Noisy(), noisy_loss, steps=3, progress=True)
    out, err = capfd.readouterr()
    assert "3/3" in out and "loss=" in out and not err
    train(Noisy(), noisy_loss, steps=3)
    assert capfd.readouterr() == ("", "")


def test_the_mean_loss_neither_trains_nor_drops():
    model = Noisy().train()
    before = parameters(model)
    got = mean_loss(model, noisy_loss, draws=4, seed=2)
    assert model.training and torch.equal(parameters(model), before)
    model.eval()
    rng = torch.Generator().manual_seed(2)
    assert got == pytest.approx(sum(noisy_loss(model, rng).item() for _ in range(4)) / 4)


def test_one_thread_ends():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


# Generation.


def build_decoder(**options):
    torch.manual_seed(0)
    model = DecoderLM(11, d_model=12, n_heads=3, n_layers=2, **{"context": 9, **options}).double().eval()
    with torch.no_grad():
        model.embed.weight.normal_()  # so that tokens differ enough to change what is likeliest
    return model


def draw_prompts(*lengths):
    rng = torch.Generator().manual_seed(4)
    return [torch.randint(1, 11, (n,), generator=rng) for n in lengths]


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_greedy_writing_is_the_argmax_of_each_whole_prefix(positions):
    """Unequal prompts, and more tokens than the context holds: the oldest are forgotten."""
    model, prompts = build_decoder(positions=positions), draw_prompts(1, 4, 9, 12)
    got = generate(model, prompts, steps=7)
    assert len({tuple(row) for row in got.tolist()}) > 1
    for prompt, written in zip(prompts, got, strict=True):
        text = prompt
        for token in written:
            with torch.no_grad():
                assert token == model(text[None, -9:])[0, -1].argmax()
            text = torch.cat([text, token[None]])


@pytest.mark.parametrize("context", [None, 4, 1])
def test_writing_reads_exactly_the_last_tokens_of_each_row(context):
    """What follows is the sum of all that was read, modulo 11: one token more or less, or padding, would show."""

    def next_logits(tokens):
        return nn.functional.one_hot((tokens * 3 + 1).cumsum(dim=1) % 11, 11).double()

    prompts = draw_prompts(1, 3, 4, 7)
    got = generate(next_logits, prompts, steps=9, context=context)
    for prompt, written in zip(prompts, got.tolist(), strict=True):
        text = prompt.tolist()
        for token in written:
            assert token == sum(3 * x + 1 for x in (text[-context:] if context else text)) % 11
            text.append(token)


def test_an_encoder_decoder_writes_the_argmax_of_each_whole_prefix():
    torch.manual_seed(0)
    model = EncoderDecoder(8, 11, d_model=12, n_heads=3, n_layers=2, context=12).double().eval()
    source, lengths = torch.tensor([[3, 1, 7, 5], [2, 6, 0, 0]]), torch.tensor([4, 2])
    tokens, weights = model.decode_greedy(source, lengths, begin=1, steps=6)
    assert weights.shape == (2, 6, 4) and not weights[1, :, 2:].any()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 6, dtype=torch.float64))
    for row in range(2):
        written = torch.tensor([1])
        for token in tokens[row]:
            with torch.no_grad():
                logits = model(source[row : row + 1, : lengths[row]], lengths[row : row + 1], written[None])
            assert token == logits[0, -1].argmax()
            written = torch.cat([written, token[None]])


def test_a_row_that_has_ended_is_padded():
    model, prompts = build_decoder(), draw_prompts(2, 5, 3)
    free = generate(model, prompts, steps=8)
    end = int(free[1, 2])
    got = generate(model, prompts, steps=8, end=end)
    for row, unstopped in zip(got.tolist(), free.tolist(), strict=True):
        stop = unstopped.index(end) + 1 if end in unstopped else 8
        assert row == unstopped[:stop] + [0] * (8 - stop)


def test_drawn_tokens_follow_the_softmax_at_their_temperature():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20_000, 4)
    for temperature, top_k in ((1.0, None), (0.5, None), (2.0, 2)):
        rng = torch.Generator().manual_seed(0)
        drawn = choose(logits, temperature=temperature, top_k=top_k, rng=rng)
        shares = torch.bincount(drawn, minlength=4) / len(logits)
        wanted = torch.exp(logits[0] / temperature)
        wanted[top_k:] = 0.0 if top_k else wanted[top_k:]
        # five standard errors of a share
        assert (shares - wanted / wanted.sum()).abs().max() < 5 * 0.5 / len(logits) ** 0.5
        assert shares[wanted == 0].sum() == 0
    assert torch.equal(choose(logits[:2]), torch.tensor([0, 0]))


def test_drawing_repeats_by_its_generator():
    model, prompts = build_decoder(), draw_prompts(2, 3)
    got = [
        generate(model, prompts, steps=9, temperature=1.5, rng=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(got[0], got[1]) and not torch.equal(got[0], got[2])


# Errors.


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: text.encode("naïve"), r"printable ASCII.*got \['ï'\]"),
        (
            lambda: text.draw_windows(torch.arange(3), count=2, length=4, rng=torch.Generator()),
            r"length lie in 1\.\.3, got 2, 4",
        ),
        (lambda: train(Noisy(), noisy_loss, steps=0), "steps and every must be at least 1, got 0, 100"),
        (lambda: train(Noisy(), noisy_loss, steps=1, clip=0.0), "clip must be positive, got 0.0"),
        (lambda: mean_loss(Noisy(), noisy_loss, draws=0), "draws must be at least 1, got 0"),
        (lambda: choose(torch.zeros(1, 3), temperature=-1), "temperature must be at least 0 and finite, got -1"),
        (lambda: choose(torch.zeros(1, 3), temperature=1), "give a torch.Generator as rng"),
        (lambda: choose(torch.zeros(1, 3), top_k=4), r"top_k must lie in 1\.\.3.*got 4"),
        (lambda: generate(build_decoder(), [], steps=1), "at least one prompt, got 0"),
        (
            lambda: generate(build_decoder(), draw_prompts(0, 2), steps=1),
            r"a prompt needs a token, got lengths \[0, 2\]",
        ),
        (
            lambda: train(Noisy(), noisy_loss, steps=1, checkpoint="no/such/folder/run.pt"),
            "a folder that exists, got no/such/folder/run.pt",
        ),
        (lambda: generate(build_decoder(), draw_prompts(2), steps=1, context=0), "context must be at least 1, got 0"),
        (lambda: build_decoder()(torch.ones(1, 10).long()), "there are 9 positions, got 10 tokens"),
        (lambda: next_token_loss(build_decoder(), torch.ones(1, 1).long()), "a token before it, got length 1"),
    ],
)
def test_bad_calls_are_named(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


@pytest.mark.bad_input
def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / "run.pt"
    train(Noisy(), noisy_loss, steps=2, checkpoint=file)
    with pytest.raises(ValueError, match="belongs to another run.*'steps': 2.*'steps': 3"):
        train(Noisy(), noisy_loss, steps=3, checkpoint=file)
    with pytest.raises(ValueError, match="belongs to another run.*'parameters': 57.*'parameters': 6"):
        train(nn.Linear(5, 1), noisy_loss, steps=2, checkpoint=file)
