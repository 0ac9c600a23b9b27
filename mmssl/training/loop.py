"""The training loop, on plain torch."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mmssl.errors import UserError
from mmssl.predictors.base import Batch, Predictor, outcome_of, sums_of
from mmssl.training.config import RunConfig
from mmssl.training.distributed import Wishes, barrier, gather_texts, is_main, seed_step, total, total_by_name
from mmssl.training.finding import Finding
from mmssl.training.health import Watch
from mmssl.training.journal import Journal, read_journal
from mmssl.training.optimizer import learning_rate_at, make_optimizer
from mmssl.training.parallel import local_part, spread
from mmssl.training.progress import Display
from mmssl.training.run import RunFolder
from mmssl.training.shards import load_checkpoint, save_checkpoint, whole_weights


@runtime_checkable
class Batches(Protocol):
    """What the loop needs of a loader: order is arithmetic, so any batch can be named and started from."""

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Endless training batches on the device, from the given one on."""
        ...

    def names(self, step: int) -> list[str]:
        """Names of the samples of a batch, for error messages."""
        ...


Sums = dict[str, Tensor]


def add_sums(total: Sums, more: Sums) -> Sums:
    """Add sums of outcomes by name; stays on the device."""
    return total | {name: total[name] + value if name in total else value for name, value in more.items()}


@torch.no_grad()
def validate(predictor: Predictor, batches: Iterable[Batch], autocast: Callable[[], Any]) -> dict[str, float]:
    """Mean loss and skills over all ``batches`` of all ranks, exact whatever the batch size, as ``val_...``."""
    training = predictor.training
    predictor.eval()
    sums: Sums = {}
    for batch in batches:
        with autocast():
            sums = add_sums(sums, sums_of(predictor(batch)))
    predictor.train(training)
    everywhere = total_by_name(sums)
    if not everywhere:
        raise UserError("there is no validation sample: give more data, or a val split")
    return {f"val_{name}": value.item() for name, value in outcome_of(everywhere).items() if name != "count"}


class Trainer:
    """Trains a predictor on a loader's batches and writes a run folder.

    The gradient of an optimizer step is that of the sum of losses over all hidden positions of all micro-batches of all
    ranks, divided by their number: accumulation and ranks give the same step as one large batch. Nothing in a step
    waits for the device; numbers are fetched at log steps. Ranks validate a share each, and rank 0 alone writes.
    """

    def __init__(
        self,
        predictor: Predictor,
        config: RunConfig,
        run: RunFolder,
        train: Batches,
        validation: Callable[[], Iterable[Batch]],
        on_validate: Callable[[int], object] | None = None,
        step_samples: float | None = None,
    ) -> None:
        """``validation()`` gives this rank's frozen validation batches anew; ``on_validate(step)`` draws pictures, say.

        ``step_samples`` are those of a step on average, where ``config.batch_size`` is only their bound.
        """
        self.predictor, self.config, self.run = predictor, config, run
        self.data, self.validation, self.on_validate = train, validation, on_validate
        self.device = predictor.device
        assert config.learning_rate is not None, "recipes resolve the learning rate before training"
        self.peak = config.learning_rate
        self.step_samples = config.batch_size if step_samples is None else step_samples
        self.parallel = spread(predictor, config)
        self.model = self.parallel.model
        self.optimizer = make_optimizer(predictor, config.weight_decay, config.betas)
        bf16 = config.precision == "bf16" or (config.precision == "auto" and self.device.type == "cuda")
        self.autocast = (lambda: torch.autocast(self.device.type, torch.bfloat16)) if bf16 else nullcontext
        self.step = 0
        self.window: Sums = {}
        self.first_bad = torch.full((), -1, device=self.device)
        self.interrupted = False
        self.wishes = Wishes(2)
        self.hopeless: Finding | None = None
        self.trained_seconds = 0.0
        self.journal: Journal | None = None

    def fit(self, resume_from: Any = None) -> bool:
        """Train to the last step; True when done, False when interrupted (a checkpoint is saved either way).

        Raises UserError at a non-finite loss, naming the step, the samples and the last good checkpoint; and, saved,
        where ``stop_when_unhealthy`` ends the run.
        """
        if resume_from is not None:
            self._restore(resume_from)
        self.predictor.seed = self.config.seed
        self.predictor.train()
        self.journal = Journal(self.run.journal_file, self.step) if is_main() else None
        self.watch = Watch(read_journal(self.run.journal_file) if is_main() else ())
        saved_at = time.monotonic()
        stream = self.data.batches(self.step * self.config.accumulation)
        display = Display(self.config.steps, self.step)
        try:
            with _catch_signals(self), display:
                clock, (stops, _) = _Clock(self.step), self.wishes.ask(self.interrupted, False)
                while self.step < self.config.steps and not stops:
                    self._optimizer_step(stream, clock)
                    display.advance(self.step)
                    last = self.step == self.config.steps
                    validates = last or self.step % self.config.validate_every == 0
                    if validates or self.step % self.config.log_every == 0:
                        self._log(display, clock, validates)
                    late = is_main() and time.monotonic() - saved_at > 60 * self.config.checkpoint_minutes
                    stops, due = self.wishes.ask(self.interrupted, late)
                    if last or due or stops or self.step % self.config.checkpoint_every == 0:
                        with clock.stopped():
                            self.save()
                        self.wishes.settle()
                        saved_at = time.monotonic()
                self.parallel.finish()
        finally:
            if self.journal is not None:
                self.journal.close()
            self.run.release()
        if self.hopeless and self.step < self.config.steps:
            raise UserError(f"saved and stopped after step {self.step}, as --stop-when-unhealthy asks. {self.hopeless}")
        return self.step == self.config.steps

    def _optimizer_step(self, stream: Iterator[Batch], clock: "_Clock") -> None:
        config = self.config
        seed_step(config.seed, self.step)
        count = loss = torch.zeros((), device=self.device)
        for micro in range(config.accumulation):
            with clock.waiting():
                batch = next(stream)
            with self.parallel.micro_batch(last=micro == config.accumulation - 1):
                with self.autocast():
                    outcome = self.model(batch)
                (outcome["loss"] * outcome["count"]).backward()
            sums = sums_of(outcome)
            count, loss = count + sums["count"], loss + sums["loss"]
            self.window = add_sums(self.window, sums)
        everywhere, loss = total(torch.stack([count, loss])).unbind()
        norm = self._scale_gradients(everywhere)
        rate = learning_rate_at(self.step, self.peak, config.warmup, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        bad = ~torch.isfinite(norm + loss)
        self.first_bad = torch.where((self.first_bad < 0) & bad, self.step, self.first_bad)
        self.window = add_sums(self.window, {"gradient_norm": norm * count})
        if self.device.type == "cpu":
            self._stop_if_not_finite()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def _scale_gradients(self, count: Tensor) -> Tensor:
        """Sum of gradients -> mean over hidden positions, clipped; returns the norm before clipping."""
        gradients = [local_part(p.grad) for p in self.predictor.parameters() if p.grad is not None]
        norm = self.parallel.norm(gradients) / count
        factor = 1 / count
        if self.config.clip:
            factor = factor * (self.config.clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        return norm

    def _stop_if_not_finite(self) -> None:
        step = int(self.first_bad)
        if step < 0:
            return
        start = step * self.config.accumulation
        names = [name for micro in range(start, start + self.config.accumulation) for name in self.data.names(micro)]
        names = "\n".join(gather_texts("\n".join(names))).split("\n")
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        good = self.run.checkpoints.latest()
        if self.journal is not None:
            self.journal.write({"step": step + 1, "loss": None})
        barrier()  # or a process that fails would end the first one before it has written
        raise UserError(
            f"the loss or gradient of step {step + 1} is not finite; samples of that batch: {shown}; "
            f"last good checkpoint: {good or 'none yet'}. Try half the --learning-rate, or look at these files"
        )

    def _log(self, display: Display, clock: "_Clock", validates: bool) -> None:
        self._stop_if_not_finite()
        window = total_by_name(self.window)
        means = {name: value.item() for name, value in outcome_of(window).items() if name != "count"}
        steps, seconds, waited = clock.read(self.step)  # after fetching, so that a GPU has really done the work
        self.trained_seconds += seconds
        entry: dict[str, Any] = {
            "step": self.step,
            **means,
            "learning_rate": learning_rate_at(self.step - 1, self.peak, self.config.warmup, self.config.steps),
            "samples_per_second": steps * self.step_samples / seconds,
            "data_wait": waited / seconds,
            "seconds": round(self.trained_seconds, 3),
        }
        self.window = {}
        if validates:
            began = time.perf_counter()
            with self.parallel.whole():
                entry |= validate(self.predictor, self.validation(), self.autocast)
                if self.on_validate and is_main():
                    self.on_validate(self.step)
            entry["validation_seconds"] = round(time.perf_counter() - began, 3)
        if self.journal is None:
            clock.restart(self.step)
            return
        findings = self.watch.look(entry)
        if findings:
            entry["findings"] = [finding.name for finding in findings]
        self.journal.write(entry)
        display.show(entry, (self.config.steps - self.step) * seconds / steps)
        for finding in findings:
            display.say(f"warning    {finding}")
            if finding.hopeless and self.config.stop_when_unhealthy:
                self.hopeless, self.interrupted = finding, True
        clock.restart(self.step)

    def save(self) -> None:
        """Write a checkpoint and the model as it is now. Never of weights that a non-finite loss has touched."""
        self._stop_if_not_finite()
        window = {name: value.item() for name, value in total_by_name(self.window).items()}
        extra = {"window": window, "trained_seconds": self.trained_seconds}
        save_checkpoint(self.run.checkpoints, self.step, self.predictor, self.optimizer, extra)
        self._save_model()

    def _save_model(self) -> None:
        weights = whole_weights(self.predictor)
        if is_main():
            self.predictor.save(self.run.model, weights)
        barrier()

    def _restore(self, path: Any) -> None:
        state = load_checkpoint(self.run.checkpoints, path, self.predictor, self.optimizer)
        self.step = state["step"]
        self.trained_seconds = state["trained_seconds"]
        # sums over all ranks, which count once
        window = state["window"] if is_main() else dict.fromkeys(state["window"], 0.0)
        self.window = {name: torch.tensor(value, device=self.device) for name, value in window.items()}
        self._save_model()  # a kill may have come between this checkpoint and its model


class _Clock:
    """Wall time of the current journal window and the part of it spent waiting for data."""

    def __init__(self, step: int) -> None:
        self.restart(step)

    def restart(self, step: int) -> None:
        """Begin a window at ``step``."""
        self.first_step, self.began = step, time.perf_counter()
        self.waited = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Around work that is not training, such as saving: it is left out of the window."""
        start = time.perf_counter()
        yield
        self.began += time.perf_counter() - start

    def read(self, step: int) -> tuple[int, float, float]:
        """Steps, seconds and seconds of waiting since the window began."""
        return step - self.first_step, time.perf_counter() - self.began, self.waited


@contextmanager
def _catch_signals(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) lets the step end and saves; a second one stops at once."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if trainer.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        trainer.interrupted = True

    try:
        old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: leave signals to whoever is
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
