"""How fast a guard in this process is: docs/performance.md says what each row means.

    PYTHONPATH=tests python benchmarks/local.py                   # CPU, full shapes: most of an hour
    PYTHONPATH=tests python benchmarks/local.py --small --runs 4  # at half the width: minutes
    PYTHONPATH=tests python benchmarks/local.py --cuda            # geometries of 7B and 3B, on a GPU

Weights are random and written on the fly; a policy of about 2,000 tokens; a new picture of 448 pixels for
every measurement. What is compared takes turns in one process, ``--runs`` times. A ratio is that of the
fastest runs, beside it that of the medians. On a CPU, ratios are of CPU time, which others on the machine
disturb least, and of wall time where threads work side by side; on a GPU they are of wall time.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import statistics
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from overhead import fork, recorded
from shapes import SHAPES, Flops, flops, parameters, photo, policy_of

from policyguard import Guard
from policyguard.backends import TransformersBackend
from policyguard.backends.transformers.placement import choose_threads
from policyguard.dialects import Prompt, SafeguardDialect
from policyguard.policy import Policy, ResolvedPolicy

POLICY_TOKENS, SIDE, DECODED, BEAMS = 2000, 448, 200, 2
"""The last two are those of LlavaGuard's card, as are the settings of sampling below."""
STOCK = 64
"""Pictures that one measurement may take, at most."""
CARD = {"num_beams": BEAMS, "do_sample": True, "temperature": 0.2, "top_p": 0.95, "top_k": 50}


# Measuring

Arm = Callable[[int], object]


@dataclass
class Times:
    """Seconds of every run of one thing, on the wall and of all threads of this process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def in_turns(
    arms: Mapping[str, Arm],
    runs: int,
    *,
    device: str = "cpu",
    before: Callable[[], object] = lambda: None,
    alternate: bool = True,
) -> dict[str, Times]:
    """Each of ``arms``, called with the number of the run, in turns; every other run backwards.

    The first run, number 0, is to warm up and does not count. ``before`` is called before each, uncounted.
    """
    times = {name: Times() for name in arms}
    for run in range(runs + 1):
        for name in reversed(arms) if alternate and run % 2 else list(arms):
            before()
            settle(device)
            wall, cpu = perf_counter(), process_time()
            arms[name](run)
            settle(device)
            if run:
                times[name].wall.append(perf_counter() - wall)
                times[name].cpu.append(process_time() - cpu)
    return times


def settle(device: str) -> None:
    """Wait until what was asked of the device is done."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


@dataclass(frozen=True)
class Ratio:
    """One time over another: of their fastest runs, and of their medians."""

    fastest: float
    median: float

    @classmethod
    def of(cls, one: list[float], other: list[float]) -> Ratio:
        return cls(min(one) / min(other), statistics.median(one) / statistics.median(other))

    def over(self, factor: float) -> Ratio:
        return Ratio(self.fastest / factor, self.median / factor)

    def rest(self) -> Ratio:
        """What is missing to 1."""
        return Ratio(1 - self.fastest, 1 - self.median)

    def __str__(self) -> str:
        return f"{self.fastest:.3g} ({self.median:.3g})"


@dataclass(frozen=True)
class Goal:
    """``at least`` or ``at most`` a number; ``met`` is asked about the fastest runs."""

    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        return f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"


def peak_memory(device: str, action: Callable[[], object]) -> float:
    """GiB at most in use during ``action``: of the GPU, or of this process (Linux)."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
        action()
        settle(device)
        return float(torch.cuda.max_memory_allocated()) / 2**30
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")  # from here on, VmHWM is a new high-water mark
    action()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


# What is measured


class Brief(SafeguardDialect):
    """The default dialect, explaining in at most so many tokens: random weights never come to an end."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        return tuple(replace(prompt, max_new_tokens=self.tokens) for prompt in super().render(policy))


class Bench:
    """A model of one shape behind a guard, and plain transformers on the same weights beside it."""

    def __init__(
        self,
        shape: str,
        folder: Path,
        *,
        device: str,
        threads: int,
        tokens: int,
        runs: int,
        decoded: int = DECODED,
    ) -> None:
        import torch

        self.shape, self.device, self.runs, self.decoded = shape, device, runs, decoded
        dtype = "float32" if device == "cpu" else "bfloat16"
        path = SHAPES[shape].build(folder / shape, device=device, dtype=dtype)
        self.path = str(path)
        self.threads = threads
        self.backend = self.build()
        runner = self.backend._load()
        self.loaded = runner.loaded
        self.model, self.processor = runner.loaded.model, runner.loaded.processor
        self.chosen = choose_threads(self.loaded.device, parameters(self.model), load=os.getloadavg()[0])
        self.torch_threads = torch.get_num_threads()
        if device == "cpu":
            torch.set_num_threads(threads)  # for what does not go through the guard
        plan_of = partial(_plan_of, self.backend, runner)
        self.policies = [
            policy_of(tokens, lambda each: plan_of(each).prefix.ids.shape[1], name)
            for name in ("first", "second", "third")
        ]
        self.guard = Guard(self.policies[0], backend=self.backend)
        self.pictures: deque[bytes] = deque()
        self.made = 0
        self.stock()
        self.check()  # the first also asks whether the model sees, and fills the prefix
        self.plan = plan_of(self.policies[0])

    def build(self, **settings: Any) -> TransformersBackend:
        settings = {"threads": self.threads} | settings
        return TransformersBackend(self.path, device=self.device, dialect=Brief(self.decoded), **settings)

    def beside(self, stack: ExitStack, **settings: Any) -> Guard:
        """A guard with other settings and weights of its own, until ``stack`` ends."""
        guard = Guard(self.policies[0], backend=stack.enter_context(self.build(**settings)))
        guard.check(*self.fresh())
        return guard

    def stock(self) -> None:
        """Have pictures ready. None is shown twice: what a guard knows of one, it may use again."""
        while len(self.pictures) < (STOCK if self.device == "cpu" else 8 * STOCK):
            self.pictures.append(photo(SIDE, SIDE, self.made))
            self.made += 1

    def fresh(self, count: int = 1) -> list[bytes]:
        return [self.pictures.popleft() for _ in range(count)]

    def times(
        self, arms: Mapping[str, Arm], *, runs: int | None = None, alternate: bool = True
    ) -> dict[str, Times]:
        return in_turns(arms, runs or self.runs, device=self.device, before=self.stock, alternate=alternate)

    def ratio(self, one: Times, other: Times) -> Ratio:
        """Of CPU time on a CPU, of wall time on a GPU."""
        return Ratio.of(one.cpu, other.cpu) if self.device == "cpu" else self.wall(one, other)

    @staticmethod
    def wall(one: Times, other: Times) -> Ratio:
        return Ratio.of(one.wall, other.wall)

    def clock(self, times: Times) -> list[float]:
        return times.cpu if self.device == "cpu" else times.wall

    # The guard

    def check(self, _run: int = 0, **options: Any) -> object:
        return self.guard.check(*self.fresh(), **options)

    def check_many(self, count: int, guard: Guard | None = None, **options: Any) -> object:
        verdicts = list((guard or self.guard).check_many(self.fresh(count), **options))
        assert all(verdict.evidence.label_mass is not None for verdict in verdicts), verdicts[0].evidence
        return verdicts

    # Plain transformers, from the same bytes

    def inputs(self, text: str, count: int = 1) -> Any:
        import torch
        from PIL import Image

        opened = [Image.open(io.BytesIO(data)) for data in self.fresh(count)]  # noqa: TID251 - not our way
        pictures = [[image.convert("RGB")] for image in opened]
        inputs = self.processor(
            text=[text] * count, images=pictures, return_tensors="pt", add_special_tokens=False
        )
        floats = {name for name, value in inputs.items() if torch.is_floating_point(value)}
        return {
            name: value.to(self.device, self.loaded.dtype if name in floats else value.dtype)
            for name, value in inputs.items()
        }

    def card(self, run: int, tokens: int | None = None) -> object:
        """The picture first and the policy behind it, decoded to the end as on LlavaGuard's card."""
        import torch

        tokens = (tokens or self.decoded) if run else 1  # nothing is gained by warming up for longer

        text = self.guard.policies[0].text
        parts = [{"type": "image"}, {"type": "text", "text": text}]
        chat = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
        )
        inputs = self.inputs(chat)
        with stock_attention(self.model), torch.inference_mode():
            made = self.model.generate(**inputs, **CARD, max_new_tokens=tokens, min_new_tokens=tokens)
        assert made.shape[1] == inputs["input_ids"].shape[1] + tokens
        return self.processor.batch_decode(made[:, inputs["input_ids"].shape[1] :])

    def prefill(self, count: int = 1) -> object:
        """One forward pass over the whole prompt, the logits of its end read: the first token."""
        import torch

        with stock_attention(self.model), torch.inference_mode():
            inputs = self.inputs(self.plan.text, count)
            return self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].argmax(-1).tolist()

    def passes(self, action: Callable[[], object]) -> list[Callable[[], Any]]:
        """The passes that ``action`` makes through the model, to be made again on the same tensors."""
        with recorded(self.model) as forwards:
            action()
        return list(forwards)

    # Sizes

    @cached_property
    def suffix(self) -> int:
        """Tokens behind the policy: the picture's and the question's."""
        return self.prompt - self.prefix

    @cached_property
    def prompt(self) -> int:
        return int(self.inputs(self.plan.text)["input_ids"].shape[1])

    @cached_property
    def prefix(self) -> int:
        return 0 if self.plan.prefix is None else int(self.plan.prefix.ids.shape[1])

    @cached_property
    def flops(self) -> Flops:
        """Of one check with the policy's prefix kept."""
        return self.flops_of(self.suffix, self.prefix)

    def flops_of(self, new: int, before: int) -> Flops:
        patches = int(self.inputs(self.plan.text)["image_grid_thw"][0].prod())
        return flops(self.model, new=new, before=before, patches=patches, read=self.plan.keep)

    def close(self) -> None:
        """Free the model, for the next shape."""
        import torch

        torch.set_num_threads(self.torch_threads)
        self.backend.close()
        del self.model, self.loaded, self.plan
        gc.collect()

    def describe(self) -> str:
        model = self.model
        vision = parameters(model.model.visual)
        return (
            f"{self.shape}: {SHAPES[self.shape].what}; {parameters(model) / 1e6:.0f} M parameters, of them "
            f"{vision / 1e6:.0f} M in the tower; {self.backend.model.dtype} on {self.device}; "
            f"prefix of {self.prefix} tokens, {self.suffix} behind it; "
            f"{self.flops.total / 1e12:.3g} TFLOP a check"
        )


def _plan_of(backend: TransformersBackend, runner: Any, policy: Policy) -> Any:
    return backend._plans_of(runner, policy.resolve())[0]


@contextmanager
def stock_attention(model: Any) -> Iterator[None]:
    """The attention that transformers takes by itself."""
    used = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(used)


def replay(forwards: list[Callable[[], Any]]) -> Any:
    import torch

    result = None
    with torch.inference_mode():
        for forward in forwards:
            result = forward()
    return result


# The rows


@dataclass(frozen=True)
class Row:
    """``value`` is what the goal is about; ``beside`` says the times and whatever else explains it."""

    name: str
    shape: str
    value: Ratio
    beside: str
    goal: Goal | None = None

    def markdown(self) -> str:
        met = (
            ""
            if self.goal is None
            else f"{self.goal}: {'yes' if self.goal.met(self.value.fastest) else 'no'}"
        )
        return f"| {self.name} | {self.shape} | {self.value} | {met} | {self.beside} |"


HEAD = "| row | shape | fastest (median) | goal | beside it |\n|---|---|---|---|---|"


def seconds(bench: Bench, **times: Times) -> str:
    """The fastest of each on the clock of the ratios, and on the wall."""
    parts = [
        f"{name.replace('_', ' ')} {min(bench.clock(each)):.3g} s"
        + ("" if bench.device != "cpu" else f" ({min(each.wall):.3g})")
        for name, each in times.items()
    ]
    return ", ".join(parts)


def card(bench: Bench) -> Iterator[Row]:
    """Against the card's way, and for half as many tokens by the time of the first and of each other."""
    found = bench.times({"check": bench.check, "card": bench.card})
    begun = bench.times({"check": bench.check, "first": partial(bench.card, tokens=1)}, runs=2)
    ratio = bench.ratio(found["card"], found["check"])
    first = bench.ratio(begun["first"], begun["check"])
    half = (ratio.fastest + first.fastest) / 2
    beside = seconds(bench, check=found["check"], card=found["card"])
    beside += f"; with 1 token {first.fastest:.3g}, with {bench.decoded // 2} about {half:.3g}"
    yield Row("the card's way / a check", bench.shape, ratio, beside, Goal(least=40))


def prefill(bench: Bench) -> Iterator[Row]:
    """Against the first token after the whole prompt; on a GPU with as many pictures as a batch holds."""
    count = 1 if bench.device == "cpu" else 16
    found = bench.times(
        {
            "check": bench.check if count == 1 else lambda _run: bench.check_many(count),
            "prefill": lambda _run: bench.prefill(count),
        }
    )
    ratio = bench.ratio(found["prefill"], found["check"])
    beside = seconds(bench, check=found["check"], prefill=found["prefill"])
    whole, kept = bench.flops_of(bench.prompt, 0).total, bench.flops.total
    beside += f"; {count} at a time, by FLOPs {whole / kept:.3g}"
    least = {"language": 3.8, "small-language": 3.8, "7b": 5.0}.get(bench.shape)
    goal = None if least is None else Goal(least=least)
    yield Row("a full prefill / a check", bench.shape, ratio, beside, goal)


def share(bench: Bench) -> Iterator[Row]:
    """Of ``check_many`` in the time of its bare passes, and of the products in the rate of the machine."""
    import torch

    count = 2 * bench.backend.preferred_batch
    forwards = bench.passes(lambda: bench.check_many(count))
    width = bench.model.config.get_text_config()
    rows = bench.suffix * count // len(forwards)
    options = {"device": bench.device, "dtype": bench.loaded.dtype}
    layer = torch.nn.Linear(width.hidden_size, width.intermediate_size, bias=False, **options)
    rows_in = torch.randn(rows, width.hidden_size, **options)
    one = 2.0 * rows * width.hidden_size * width.intermediate_size
    repeats = max(1, round(bench.flops.total * count / one / 4))

    def product(_run: int) -> None:
        with torch.inference_mode():
            for _ in range(repeats):
                layer(rows_in)

    found = bench.times(
        {
            "many": lambda _run: bench.check_many(count),
            "passes": lambda _run: replay(forwards),
            "product": product,
        }
    )
    ours = bench.wall(found["passes"], found["many"]).rest()
    beside = seconds(bench, check_many=found["many"], passes=found["passes"])
    beside += f"; {count} pictures, {len(forwards)} calls of the model; of CPU time "
    beside += f"{bench.ratio(found['passes'], found['many']).rest()}; by stage {stages(bench, count)}"
    yield Row("the SDK's share of check_many", bench.shape, ours, beside, Goal(most=0.03))
    done, possible = bench.flops.total * count, one * repeats
    rate = bench.ratio(found["product"], found["many"]).over(possible / done)
    fastest = possible / min(bench.clock(found["product"])) / 1e12
    ours_rate = done / min(bench.clock(found["many"])) / 1e12
    beside = f"product of {rows} x {width.hidden_size} x {width.intermediate_size}: {fastest:.3g} TFLOP/s; "
    beside += f"check_many {ours_rate:.3g}"
    goal = Goal(least=0.35 if bench.device == "cpu" else 0.5)
    yield Row("share of a product's rate", bench.shape, rate, beside, goal)


def stages(bench: Bench, count: int) -> str:
    """The seconds of one more ``check_many`` by stage, as the guard counts them, summed over threads."""
    bench.stock()
    before = bench.guard.stats().seconds
    bench.check_many(count)
    after = bench.guard.stats().seconds
    spent = {stage: took - before.get(stage, 0.0) for stage, took in after.items()}
    return ", ".join(f"{stage} {took:.3g} s" for stage, took in spent.items())


def policies(bench: Bench) -> Iterator[Row]:
    """Three policies on one picture against one."""
    three = Guard(bench.policies, backend=bench.backend)
    found = bench.times({"one": bench.check, "three": lambda _run: three.check(*bench.fresh())})
    ratio = bench.ratio(found["three"], found["one"])
    tower = (bench.flops.vision + bench.flops.vision_attention) / bench.flops.total
    beside = seconds(bench, one=found["one"], three=found["three"])
    beside += f"; {tower:.0%} of the FLOPs in the tower, by which {3 - 2 * tower:.3g}"
    goal = Goal(most=1.5) if tower >= 0.75 else None  # with less, no program could reach it
    yield Row("three policies / one", bench.shape, ratio, beside, goal)


def explain(bench: Bench) -> Iterator[Row]:
    """An explained check against the pass over its picture and the bare decoding of as many tokens."""
    import torch

    forwards = bench.passes(bench.check)
    last = replay(forwards)
    state, token = last.past_key_values, last.logits[:, -1:].argmax(-1)
    decoded: list[int] = []

    def explained(_run: int) -> None:
        with counted(bench.model) as steps:
            bench.check(explain=True)
        decoded.append(len(steps))

    def words(_run: int) -> None:
        cache, made = fork(state), token
        with torch.inference_mode():
            for step in range(decoded[-1]):
                place = torch.full((3, 1, 1), bench.prompt + step, device=bench.device)
                output = bench.model(
                    input_ids=made, position_ids=place, past_key_values=cache, use_cache=True
                )
                made = output.logits[:, -1:].argmax(-1)

    arms = {"explained": explained, "words": words, "pass": lambda _run: replay(forwards)}
    found = bench.times(arms, alternate=False)  # in this order: as many words as were decoded just now
    whole = [steps == max(decoded[1:]) for steps in decoded[1:]]  # an answer that ended early is shorter
    found = {
        name: Times(list(compress(times.wall, whole)), list(compress(times.cpu, whole)))
        for name, times in found.items()
    }
    bare = Times(
        [one + other for one, other in zip(found["words"].wall, found["pass"].wall, strict=True)],
        [one + other for one, other in zip(found["words"].cpu, found["pass"].cpu, strict=True)],
    )
    beside = seconds(bench, explained=found["explained"], pass_=found["pass"], words=found["words"])
    beside += f"; {max(decoded[1:])} tokens decoded in {sum(whole)} runs"
    alone = bench.ratio(found["explained"], found["words"])
    yield Row("explained / its pass and words", bench.shape, bench.ratio(found["explained"], bare), beside)
    yield Row("explained / its words alone", bench.shape, alone, "the same runs", Goal(most=1.15))


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """Collects a 1 for every pass of the language model over a single token."""
    steps: list[int] = []

    def note(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        given = kwargs.get("inputs_embeds")
        given = kwargs.get("input_ids", args[0] if args else None) if given is None else given
        if given.shape[1] == 1:
            steps.append(1)

    hook = model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield steps
    finally:
        hook.remove()


def batches(bench: Bench, sizes: tuple[int, ...] = (1, 4, 16)) -> Iterator[Row]:
    """Pictures a second in ``check_many``, by the most pictures in a pass."""
    count = max(sizes) if bench.device == "cpu" else 8 * max(sizes)
    with ExitStack() as stack:
        found = bench.times(
            {str(size): partial(_many, bench, count, bench.beside(stack, max_batch=size)) for size in sizes}
        )
    for size in sizes:
        times = found[str(size)]
        rates = [count / each for each in bench.clock(times)]
        per = "second" if bench.device != "cpu" else "second of CPU"
        beside = f"{bench.ratio(found[str(sizes[0])], times)} times those in batches of {sizes[0]}"
        beside += ", the default" if bench.device == "cpu" and size == bench.backend.preferred_batch else ""
        goal = Goal(least=100) if bench.shape == "7b" and size == max(sizes) else None
        rate = Ratio(max(rates), statistics.median(rates))
        yield Row(f"pictures a {per}, batches of {size}", bench.shape, rate, beside, goal)


def _many(bench: Bench, count: int, guard: Guard, _run: int) -> object:
    return bench.check_many(count, guard)


def threads(bench: Bench, numbers: tuple[int, ...] = (1, 2)) -> Iterator[Row]:
    """By wall time alone: that threads share work is all that matters here."""
    with ExitStack() as stack:
        found = bench.times(
            {str(number): partial(_many, bench, 4, bench.beside(stack, threads=number)) for number in numbers}
        )
    for name, times in found.items():
        ratio = bench.wall(times, found[str(numbers[0])])
        mark = ", chosen" if name == str(bench.chosen.count) else ""
        beside = f"4 pictures in {min(times.wall):.3g} s, CPU {min(times.cpu):.3g} s"
        beside += f"; {bench.chosen.reason}" if mark else ""
        yield Row(f"wall time with threads: {name}{mark} / {numbers[0]}", bench.shape, ratio, beside)


def pipeline(bench: Bench) -> Iterator[Row]:
    """Several batches under way, the next made ready while the model works on one; by wall time."""
    count = 4 * bench.backend.preferred_batch
    numbers = {"off": 1, "on": max(2, bench.backend.preferred_workers)}
    found = bench.times(
        {
            name: lambda _run, workers=workers: bench.check_many(count, workers=workers)
            for name, workers in numbers.items()
        }
    )
    ratio = bench.wall(found["on"], found["off"])
    beside = ", ".join(f"{name} {min(times.wall):.3g} s" for name, times in found.items())
    beside += f" for {count} pictures; the default is {bench.backend.preferred_workers} under way"
    yield Row("wall time with the pipeline on / off", bench.shape, ratio, beside)


def memory(bench: Bench) -> Iterator[Row]:
    """The peak of a check, of ``check_many`` and of the card's way, with the weights."""
    weights = sum(each.nbytes for each in bench.model.parameters()) / 2**30
    for name, action in (
        ("a check", bench.check),
        ("check_many", lambda: bench.check_many(2 * bench.backend.preferred_batch)),
        ("the card's way", lambda: bench.card(1, tokens=8)),
    ):
        bench.stock()
        peak = peak_memory(bench.device, action)
        yield Row(f"peak memory of {name}, GiB", bench.shape, Ratio(peak, peak), f"weights {weights:.3g} GiB")


def idle(bench: Bench, count: int = 256, width: int = 4000, height: int = 3000) -> Iterator[Row]:
    """The share of the time between the first pass and the last in which none ran, with large pictures.

    By CUDA events around each pass, so what the GPU waits inside of one counts as work; the share of a
    product's rate shows that.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = list(pool.map(partial(photo, width, height), range(count)))
    bench.check()
    with spans(bench.model, bench.device) as ran:
        started = perf_counter()
        verdicts = list(bench.guard.check_many(files))
        taken = perf_counter() - started
    assert all(verdict.evidence.label_mass is not None for verdict in verdicts), verdicts[0].reason
    share = idle_share(ran())
    beside = f"{count} JPEGs of {width} x {height}, {count / taken:.3g} pictures/s"
    yield Row("share of time without a pass", bench.shape, Ratio(share, share), beside, Goal(most=0.05))


@contextmanager
def spans(model: Any, device: str) -> Iterator[Callable[[], list[tuple[float, float]]]]:
    """Collects when passes through ``model`` began and ended, in seconds of the device's own clock."""
    import torch

    marks: list[tuple[Any, Any]] = []
    open_: list[Any] = []

    def now() -> Any:
        if device == "cpu":
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def begin(*_: object) -> None:
        open_.append(now())

    def end(*_: object) -> None:
        marks.append((open_.pop(), now()))

    def result() -> list[tuple[float, float]]:
        settle(device)
        if device == "cpu":
            return marks
        first = marks[0][0]
        return [tuple(first.elapsed_time(mark) / 1e3 for mark in pair) for pair in marks]

    hooks = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    try:
        yield result
    finally:
        for hook in hooks:
            hook.remove()


def idle_share(ran: list[tuple[float, float]]) -> float:
    """Of the time from the first beginning to the last end, what lies in none of ``ran``."""
    first, last = ran[0][0], max(end for _, end in ran)
    busy, until = 0.0, first
    for begin, end in sorted(ran):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return 1 - busy / (last - first)


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "card": card,
    "prefill": prefill,
    "share": share,
    "policies": policies,
    "explain": explain,
    "batches": batches,
    "pipeline": pipeline,
    "threads": threads,
    "memory": memory,
    "idle": idle,
}
MOST = ("card", "prefill", "share", "explain", "batches", "pipeline", "threads", "memory")
SMALL = tuple(name for name in MOST if name != "share")
LARGE = ("card", "prefill", "share", "policies", "explain", "batches", "pipeline", "memory", "idle")
TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {"language": MOST, "vision": ("prefill", "policies"), "tower": ("policies",)},
    "small": {
        "small-language": SMALL,
        "small-vision": ("prefill", "policies"),
        "small-tower": ("policies",),
        "language": ("share",),  # a check of a small shape takes too little for it to matter
    },
    "cuda": {"7b": LARGE, "3b": LARGE},
}
"""What is run by default: shape -> rows."""


def main(arguments: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all")
    parser.add_argument("--small", action="store_true", help="shapes of half the width")
    parser.add_argument("--cuda", action="store_true", help="geometries of 7B and 3B, on a GPU")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="this shape alone")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU, in all rows but `threads`")
    parser.add_argument("--tokens", type=int, default=POLICY_TOKENS, help="of the policy")
    parser.add_argument(
        "--decoded", type=int, default=DECODED, help="tokens on the card's way, and explained"
    )
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.rows) - set(ROWS)):
        parser.error(f"no row {unknown[0]}; there are {', '.join(ROWS)}")
    device = "cuda" if given.cuda else "cpu"
    table = TABLES["cuda" if given.cuda else "small" if given.small else "cpu"]
    if given.shape:
        table = {given.shape: LARGE if given.cuda else MOST}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        print(about(device, given.threads))
        for shape, names in table.items():
            bench = Bench(
                shape,
                Path(folder),
                device=device,
                threads=given.threads,
                tokens=given.tokens,
                runs=given.runs,
                decoded=given.decoded,
            )
            print(f"\n{bench.describe()}\n\n{HEAD}", flush=True)
            for name in given.rows or names:
                for row in ROWS[name](bench):
                    rows.append(row)
                    print(row.markdown(), flush=True)
            bench.close()
    return rows


def about(device: str, threads: int) -> str:
    import platform

    import torch
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, {versions}"
    has = {name for name, there in torch.cpu.get_capabilities().items() if there is True}
    bf16 = sorted(has & {"amx_bf16", "avx512_bf16"}) or ["no bfloat16"]
    return (
        f"{platform.processor() or platform.machine()} with {', '.join(bf16)}, {threads} threads, {versions}"
    )


if __name__ == "__main__":
    main()
